from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.divergence import _bregman, _exponential_family
from tests.cases import Bad, Case

bregman, fenchel_young = _bregman.bregman, _bregman.fenchel_young
kl, renyi = _exponential_family.expfam_kl, _exponential_family.expfam_renyi

X = np.array([[0.7, 1.4, 0.3], [2.0, 0.4, 1.1]])
Y = np.array([1.1, 0.9, 0.5])
SCORES = np.array([[0.9, 0.4, 0.1, -2.5], [0.2, -0.1, 0.7, -2.0]])
TARGET = np.array([0.3, -0.2, 0.5, 0.1])
NEGATIVE = np.array([-2.0, -0.7])
PAIR = (np.array([[0.5, -1.5], [2.0, -1.0]]), np.array([1.5, -0.8]))
GAUSSIANS = (
    np.array([[0.3, -0.8], [0.0, 0.5]]),
    np.array([[1.1, 0.0], [0.2, 0.9]]),
    np.array([0.1, 0.2]),
    np.array([[0.8, 0.0], [-0.3, 1.2]]),
)


def gaussian(divergence, *options):
    def between(mean1, root1, mean2, root2):
        def theta(mean, root):
            P = root @ root.T + jnp.eye(2, dtype=root.dtype) / 4
            return mean, -P / 2

        return divergence(
            "gaussian", theta(mean1, root1), theta(mean2, root2), *options
        )

    return between


def cubes(x):
    return jnp.sum(x**3)


def matrices(x, y):
    identity = jnp.eye(2, dtype=x.dtype)
    return bregman("log_det", x @ x.T + identity, y @ y.T + identity)


def loss(regularizer):
    return lambda theta, y: fenchel_young(
        theta, jax.nn.softmax(y), regularizer=regularizer
    )


def bad_pair(function, *options):
    theta = jnp.float32(-1)
    two = jnp.full((2,), -1.0)
    return (
        Bad(
            lambda: function("gama", theta, theta, *options),
            ValueError,
            ("'gama'", "gamma"),
        ),
        Bad(
            lambda: function("exponential", jnp.int32(-1), theta, *options),
            TypeError,
            ("t1", "int32"),
        ),
        Bad(
            lambda: function("exponential", theta, -theta, *options),
            ValueError,
            ("t2", "exponential"),
        ),
        Bad(
            lambda: function("exponential", two, jnp.full((3,), -1.0), *options),
            ValueError,
            ("(2,)", "(3,)"),
        ),
        Bad(
            lambda: function("dirichlet", -two, jnp.ones((1,)), *options),
            ValueError,
            ("(2,)", "(1,)"),
        ),
        Bad(
            lambda: function("gamma", (theta, theta), -two, *options),
            ValueError,
            ("t1", "t2", "structure"),
        ),
        Bad(lambda: function("gamma", theta, theta, *options), ValueError, ("two",)),
    )


def expfam(name):
    return f"jaxdiv.divergence.expfam_{name}"


def constant(name, call, bad=()):
    return Case(
        f"jaxdiv.divergence.{name}",
        call,
        (),
        order=0,
        transforms=False,
        dtypes=False,
        bad=bad,
    )


CASES = [
    Case(expfam("kl"), lambda x, y: kl("gamma", x, y), PAIR, bad=bad_pair(kl)),
    Case(expfam("kl"), lambda x, y: kl("geometric", x, y), (NEGATIVE, np.array(-1.0))),
    Case(expfam("kl"), lambda x, y: kl("categorical", x, y), (X, Y)),
    Case(expfam("kl"), lambda x, y: kl("laplace", x, y), (np.abs(PAIR[0]), Y[:2])),
    Case(expfam("kl"), gaussian(kl), GAUSSIANS),
    Case(
        expfam("renyi"),
        lambda x, y, a: renyi("exponential", x, y, a),
        (NEGATIVE, np.array(-1.0), np.array(0.4)),
        bad=(
            *bad_pair(renyi, 0.5),
            Bad(lambda: renyi("poisson", 0.5, 0.1, -0.1), ValueError, ("a", "-0.1")),
            Bad(
                lambda: renyi("poisson", 0.5, 0.1, float("inf")),
                ValueError,
                ("a", "inf"),
            ),
            Bad(lambda: renyi("poisson", 0.5, 0.1, jnp.ones((2,))), ValueError, ("a",)),
        ),
    ),
    Case(
        expfam("renyi"),
        lambda x, y, a: renyi("dirichlet", x, y, a),
        (X[0, :2], Y[:2], np.array(1.0)),
        order=1,
    ),
    Case(
        expfam("renyi"),
        lambda x, y, a: renyi("laplace", x, y, a),
        (np.abs(PAIR[0]), Y[:2], np.array(1.0)),
        order=1,
    ),
    Case(
        expfam("renyi"),
        lambda *args: gaussian(renyi, args[-1])(*args[:-1]),
        (*GAUSSIANS, np.array(0.6)),
        order=1,
    ),
    Case(
        expfam("chernoff"),
        lambda x, y, a: _exponential_family.expfam_chernoff("poisson", x, y, a),
        (NEGATIVE, np.array(-1.0), np.array(1.3)),
        slow=True,
    ),
    Case(
        expfam("bhattacharyya"),
        lambda x, y: _exponential_family.expfam_bhattacharyya("bernoulli", x, y),
        (NEGATIVE, np.array(-1.0)),
        order=1,
        slow=True,
    ),
    Case(
        expfam("squared_hellinger"),
        lambda x, y: _exponential_family.expfam_squared_hellinger("bernoulli", x, y),
        (NEGATIVE, np.array(-1.0)),
        order=1,
        slow=True,
    ),
    Case(
        "jaxdiv.divergence.ExponentialFamily",
        _exponential_family.family("inverse_gamma").log_partition,
        (np.array([-1.5, -0.7]),),
    ),
    constant(
        "family",
        lambda: _exponential_family.family("gamma"),
        (
            Bad(
                lambda: _exponential_family.family("normal"),
                ValueError,
                ("'normal'", "gaussian"),
            ),
        ),
    ),
    constant("families", _exponential_family.families),
    constant(
        "register_family",
        lambda: None,
        (
            Bad(
                lambda: _exponential_family.register_family(
                    _exponential_family.family("gamma")
                ),
                ValueError,
                ("'gamma'", "taken"),
            ),
            Bad(
                lambda: _exponential_family.register_family(("gamma",)),
                ValueError,
                ("tuple", "ExponentialFamily"),
            ),
        ),
    ),
    *(
        Case("jaxdiv.divergence.bregman", jax.jit(partial(bregman, F)), (X, Y))
        for F in ("squared_euclidean", "kl", "itakura_saito", cubes)
    ),
    Case(
        "jaxdiv.divergence.bregman",
        matrices,
        (GAUSSIANS[1], GAUSSIANS[3]),
        bad=(
            Bad(lambda: bregman("kl", X, Y[:2]), ValueError, ("(2, 3)", "(2,)")),
            Bad(lambda: bregman("entropy", X, Y), ValueError, ("'entropy'", "kl")),
            Bad(lambda: bregman(2.0, X, Y), TypeError, ("generator", "2.0")),
            Bad(lambda: bregman("kl", -X, Y), ValueError, ("x", "-0.")),
            Bad(lambda: bregman("itakura_saito", X, 0 * Y), ValueError, ("y", "0.0")),
            Bad(lambda: bregman("kl", X, jnp.arange(3)), TypeError, ("y", "int32")),
            Bad(lambda: bregman("log_det", X, X), ValueError, ("square", "(2, 3)")),
            Bad(
                lambda: bregman("log_det", np.eye(2), -np.eye(2)),
                ValueError,
                ("y", "positive definite"),
            ),
        ),
    ),
    Case(
        "jaxdiv.divergence.fenchel_young",
        loss("shannon"),
        (SCORES, TARGET),
        bad=(
            Bad(
                lambda: fenchel_young(X, Y, regularizer="gini"),
                ValueError,
                ("'gini'", "sparsemax"),
            ),
            Bad(
                lambda: fenchel_young(X, Y, regularizer=2.5),
                ValueError,
                ("2.5", "[1, 2]"),
            ),
            Bad(lambda: fenchel_young(X, -Y), ValueError, ("y", "-1.1")),
            Bad(lambda: fenchel_young(X, Y[:2]), ValueError, ("(2, 3)", "(2,)")),
            Bad(lambda: fenchel_young(jnp.arange(3), Y), TypeError, ("theta", "int")),
        ),
    ),
    *(
        Case(
            "jaxdiv.divergence.fenchel_young",
            loss(regularizer),
            (SCORES, TARGET),
            in_scan=True,
        )
        for regularizer in ("sparsemax", "entmax15", 1.2)
    ),
]
