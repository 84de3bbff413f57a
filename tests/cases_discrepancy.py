import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import discrepancy
from tests.cases import Bad, Case

X = np.array([0.3, -1.2, 2.0, 0.1, 0.9])
Y = np.array([1.0, 0.2, -0.4, 0.6, 1.7])
POINTS = (
    np.array([[0.3, 1.0], [-1.2, 0.4], [2.0, -0.3], [0.1, 0.2], [0.9, -1.1]]),
    np.array([[0.5, 0.1], [1.2, 0.7], [-0.6, 0.8], [0.0, 1.5], [0.3, -0.2]]),
)
ONE, LONG = jnp.ones((5,)), jnp.ones((6,))


def bad_pair(function):
    return (
        Bad(lambda: function(ONE, LONG), ValueError, ("x 5", "y 6")),
        Bad(lambda: function(ONE.astype(int), ONE), TypeError, ("x", "int")),
        Bad(lambda: function(ONE, ONE, exponent=2.5), ValueError, ("exponent", "2.5")),
        Bad(
            lambda: jax.jit(lambda a: function(ONE, ONE, exponent=a))(1.0),
            TypeError,
            ("exponent", "traced"),
        ),
        Bad(
            lambda: function(ONE, ONE, method="fast", exponent=0.5),
            ValueError,
            ("fast", "0.5"),
        ),
        Bad(lambda: function(ONE, ONE, estimator="w"), ValueError, ("'w'", "'u'")),
        Bad(lambda: function(ONE, ONE, method="quick"), ValueError, ("'quick'",)),
        Bad(
            lambda: function(ONE[:3], ONE[:3], estimator="u"),
            ValueError,
            ("3", "at least 4"),
        ),
        Bad(lambda: function(POINTS[0], ONE, method="fast"), ValueError, ("(5, 2)",)),
    )


def dcov(name, **options):
    return lambda x, y: getattr(discrepancy, name)(x, y, **options)


def joint(**options):
    return lambda x, y, c: discrepancy.joint_distance_covariance_sqr(
        [x, y, x * y], c=c, **options
    )


CENTERS = tuple(
    Case(
        f"jaxdiv.discrepancy.{name}",
        getattr(discrepancy, name),
        (np.abs(X[:, None] - X),),
        bad=(
            Bad(
                lambda name=name: getattr(discrepancy, name)(jnp.ones((3, 2))),
                ValueError,
                ("distances", "(3, 2)"),
            ),
        ),
    )
    for name in ("u_center", "v_center")
)

CASES = [
    Case(
        "jaxdiv.discrepancy.pairwise_distance",
        discrepancy.pairwise_distance,
        POINTS,
        bad=(
            Bad(
                lambda: discrepancy.pairwise_distance(ONE, exponent=0.0),
                ValueError,
                ("exponent", "0.0"),
            ),
            Bad(
                lambda: discrepancy.pairwise_distance(POINTS[0], ONE),
                ValueError,
                ("2", "1"),
            ),
        ),
    ),
    *CENTERS,
    *(
        Case(
            f"jaxdiv.discrepancy.{name}",
            dcov(name, estimator=estimator, method=method),
            (X, Y),
            bad=bad_pair(getattr(discrepancy, name)) if method == "naive" else (),
        )
        for name in ("distance_covariance_sqr", "distance_correlation_sqr")
        for estimator, method in (("v", "naive"), ("u", "fast"))
    ),
    Case(
        "jaxdiv.discrepancy.distance_covariance_sqr",
        dcov("distance_covariance_sqr", method="blocked", exponent=1.5),
        POINTS,
    ),
    *(
        Case(
            "jaxdiv.discrepancy.joint_distance_covariance_sqr",
            joint(estimator=estimator),
            (X, Y, np.array(0.7)),
        )
        for estimator in ("v", "us")
    ),
    Case(
        "jaxdiv.discrepancy.joint_distance_covariance_sqr",
        joint(estimator="u"),
        (X, Y, np.array(0.7)),
        bad=(
            Bad(
                lambda: discrepancy.joint_distance_covariance_sqr([ONE]),
                ValueError,
                ("1", "at least 2"),
            ),
            Bad(
                lambda: discrepancy.joint_distance_covariance_sqr([ONE, ONE], c=0.0),
                ValueError,
                ("c is 0.0",),
            ),
            Bad(
                lambda: discrepancy.joint_distance_covariance_sqr(
                    [ONE[:3], ONE[:3]], estimator="us"
                ),
                ValueError,
                ("xs[0] 3", "at least 4"),
            ),
            Bad(
                lambda: discrepancy.joint_distance_covariance_sqr([ONE, LONG]),
                ValueError,
                ("xs[0] 5", "xs[1] 6"),
            ),
        ),
    ),
    Case(
        "jaxdiv.discrepancy.concatenated_distance_covariance_sqr",
        lambda x, y: discrepancy.concatenated_distance_covariance_sqr(x, [y, x * y]),
        (X, Y),
        bad=(
            Bad(
                lambda: discrepancy.concatenated_distance_covariance_sqr(ONE, []),
                ValueError,
                ("attrs",),
            ),
        ),
    ),
    *(
        Case(
            "jaxdiv.discrepancy.energy_distance",
            lambda x, y, method=method: discrepancy.energy_distance(
                x, y, method=method
            ),
            (X, Y[:4]) if method == "sort" else POINTS,
            bad=(
                Bad(
                    lambda: discrepancy.energy_distance(
                        POINTS[0], POINTS[1], method="sort"
                    ),
                    ValueError,
                    ("sort", "(5, 2)"),
                ),
            ),
        )
        for method in ("sort", "pairwise", "blocked")
    ),
    Case(
        "jaxdiv.discrepancy.mmd",
        lambda x, y, h: discrepancy.mmd(x, y, bandwidth=h),
        (*POINTS, np.array(0.8)),
        bad=(
            Bad(
                lambda: discrepancy.mmd(ONE, ONE, bandwidth=0.0),
                ValueError,
                ("bandwidth", "0.0"),
            ),
            Bad(lambda: discrepancy.mmd(ONE[:1], ONE), ValueError, ("1", "2")),
            Bad(
                lambda: discrepancy.mmd(ONE, ONE, kernel="laplace"),
                ValueError,
                ("'laplace'", "'rbf'"),
            ),
        ),
    ),
    Case(
        "jaxdiv.discrepancy.permutation_test",
        lambda x, y: discrepancy.permutation_test(
            jax.random.key(0), discrepancy.distance_covariance_sqr, [x, y], num=5
        ),
        (X, Y),
        order=0,
        bad=(
            Bad(
                lambda: discrepancy.permutation_test(
                    jax.random.key(0), jnp.dot, [ONE, ONE], num=0
                ),
                ValueError,
                ("num", "0"),
            ),
            Bad(
                lambda: discrepancy.permutation_test(
                    jax.random.key(0), jnp.dot, [ONE, LONG]
                ),
                ValueError,
                ("(5,)", "(6,)", "one length"),
            ),
            Bad(
                lambda: discrepancy.permutation_test(jax.random.key(0), jnp.sum, []),
                ValueError,
                ("xs", "[]"),
            ),
        ),
    ),
]
