import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import metrics, transport
from tests.cases import Bad, Case
from tests.cases_transport import tight

RNG = np.random.default_rng(8)
MEANS, ROOTS = RNG.standard_normal((2, 3)), RNG.standard_normal((2, 3, 3))
X, Y, Z = (RNG.standard_normal((n, 2)) for n in (5, 4, 3))
ON_SPHERE = X[:2] / np.linalg.norm(X[:2], axis=1, keepdims=True)
PLAN = RNG.uniform(size=(3, 4))
LOGITS = RNG.standard_normal(3), RNG.standard_normal(4)
MATRIX = RNG.standard_normal((2, 2))
ALPHAS, EPS = np.array([0.4, 1.0]), np.array([1.0, 0.6])
KEY = jax.random.key(0)
RESULT = transport.sinkhorn(jnp.asarray(X), jnp.asarray(Y), eps=0.7)
POTENTIALS = RNG.standard_normal(5), RNG.standard_normal(4)
PHI, GRAD_PHI, SAMPLER = transport.convex_potential_pair(KEY, 2, 6)


def of_roots(function):
    def call(m1, root1, m2, root2):
        return function(m1, root1 @ root1.T, m2, root2 @ root2.T)

    return call


def bad_gaussians(function):
    m, S = jnp.zeros(2), jnp.eye(2)
    negative = jnp.diag(jnp.array([1.0, -1e-5]))
    return (
        Bad(lambda: function(m, negative, m, S), ValueError, ("S1", "semidefinite")),
        Bad(lambda: function(m, S, m, -S), ValueError, ("S2", "semidefinite")),
        Bad(lambda: function(m, jnp.eye(3), m, S), ValueError, ("(3, 3)", "[..., d]")),
        Bad(lambda: function(m, S, jnp.zeros(3), S), ValueError, ("(3,)",)),
        Bad(lambda: function(0.0, 1.0, 0.0, 1.0), ValueError, ("()", "[..., d, d]")),
        Bad(lambda: function(m.astype(int), S, m, S), TypeError, ("m1", "int32")),
    )


def softmax(z):
    return jnp.exp(z) / jnp.exp(z).sum()


def twisted(x, matrix):
    return jnp.sin(x @ matrix.T) * x[..., ::-1]


def progressive(x, y, z, alphas, eps):
    return transport.progot_map(x, y, (alphas, eps), **tight(x))(z)


def progot_with(schedule=2, **options):
    return lambda: transport.progot_map(X, Y, schedule, **options)


def report(x, y, angle):
    return metrics.map_report(
        lambda x: jnp.sin(angle * x), x, y, eps=0.7, t_star=lambda x: x**3
    )


def report_of_samples(x, y, angle):
    return metrics.map_report(lambda x: x * angle, x, y, points=5)


def rounded(p, q, r):
    half = jnp.array([0.5, 0.5])
    args = [half if z is None else jnp.array(z) for z in (q, r)]
    return lambda: transport.round_plan(jnp.array(p), *args)


CASES = [
    Case(
        "jaxdiv.transport.gaussian_map",
        of_roots(transport.gaussian_map),
        (MEANS[0], ROOTS[0], MEANS[1], ROOTS[1]),
        in_scan=True,
        rtol=1e-5,
        bad=bad_gaussians(transport.gaussian_map),
    ),
    Case(
        "jaxdiv.transport.bures_wasserstein_sq",
        of_roots(transport.bures_wasserstein_sq),
        (MEANS[0], ROOTS[0], MEANS[1], ROOTS[1]),
        in_scan=True,
        bad=bad_gaussians(transport.bures_wasserstein_sq),
    ),
    Case(
        "jaxdiv.transport.sphere_exp",
        transport.sphere_exp,
        (X[:3], np.array([[0.3, -0.2], [2.0, 1.0], [1e-9, 0.0]])),
        bad=(
            Bad(lambda: transport.sphere_exp(X, Z), ValueError, ("(5, 2)", "(3, 2)")),
            Bad(
                lambda: transport.sphere_exp(X, np.arange(2)),
                TypeError,
                ("v", "int"),
            ),
        ),
    ),
    Case(
        "jaxdiv.transport.sphere_geodesic_cost",
        transport.sphere_geodesic_cost,
        tuple(ON_SPHERE),
        bad=(
            Bad(
                lambda: transport.sphere_geodesic_cost(X, Z),
                ValueError,
                ("(5, 2)", "(3, 2)"),
            ),
            Bad(
                lambda: transport.sphere_geodesic_cost(X[0], np.arange(2)),
                TypeError,
                ("y", "int"),
            ),
        ),
    ),
    Case(
        "jaxdiv.transport.sphere_geodesic_cost",
        lambda x, y: transport.sphere_geodesic_cost(x, y, normalize=True),
        (X[:3], Y[:3]),
    ),
    Case(
        "jaxdiv.transport.structured_map",
        lambda x, m: transport.structured_map(lambda x: twisted(x, m), lambda z: z / 2)(
            x
        ),
        (X, MATRIX),
        bad=(
            Bad(
                lambda: transport.structured_map(3, jnp.sin),
                TypeError,
                ("field_fn", "3"),
            ),
            Bad(
                lambda: transport.structured_map(jnp.sin, None),
                TypeError,
                ("h_conjugate_grad", "None"),
            ),
        ),
    ),
    Case(
        "jaxdiv.transport.conservativity_penalty",
        lambda x, m: transport.conservativity_penalty(
            lambda x: twisted(x, m), x, KEY, 2
        ),
        (X, MATRIX),
        slow=True,
        dtypes=False,  # other probes
        bad=(
            Bad(
                lambda: transport.conservativity_penalty(jnp.sin, X, KEY, 0),
                ValueError,
                ("num_probes", "0"),
            ),
            Bad(
                lambda: transport.conservativity_penalty(jnp.sum, X, KEY),
                ValueError,
                ("field_fn", "(5, 2)", "()"),
            ),
            Bad(
                lambda: transport.conservativity_penalty(
                    jnp.sin, X.astype(np.int32), KEY
                ),
                TypeError,
                ("x", "int32"),
            ),
        ),
    ),
    Case(
        "jaxdiv.transport.round_plan",
        lambda P, z, w: transport.round_plan(P, softmax(z), softmax(w)),
        (PLAN, *LOGITS),
        slow=True,
        bad=(
            Bad(rounded([[1.0, -1.0]] * 2, None, None), ValueError, ("P", "negative")),
            Bad(rounded([[np.nan, 1.0]] * 2, None, None), ValueError, ("P", "finite")),
            Bad(rounded([[1.0, 1.0]] * 2, [-0.1, 1.1], None), ValueError, ("a has",)),
            Bad(
                rounded([[1.0, 1.0]] * 2, None, [0.5, 0.6]), ValueError, ("1.0", "1.1")
            ),
            Bad(rounded([[1.0, 1.0]], None, None), ValueError, ("(1, 2)", "(2,)")),
            Bad(rounded([1.0, 1.0], None, None), ValueError, ("(2,)", "[..., n, m]")),
        ),
    ),
    Case(
        "jaxdiv.transport.sample_plan",
        lambda f, g: transport.sample_plan(
            KEY, RESULT._replace(f=f, g=g), jnp.asarray(X), jnp.asarray(Y), 20
        ),
        POTENTIALS,
        order=0,
        dtypes=False,
        bad=(
            Bad(
                lambda: transport.sample_plan(KEY, RESULT, X, Y, 0),
                ValueError,
                ("num", "0"),
            ),
            Bad(
                lambda: transport.sample_plan(KEY, RESULT, None, None, 3),
                ValueError,
                ("x and y are missing",),
            ),
            Bad(
                lambda: transport.sample_plan(KEY, RESULT, X[:4], Y, 3),
                ValueError,
                ("4", "5 and 4"),
            ),
        ),
        slow=True,
    ),
    Case(
        "jaxdiv.transport.progot_map",
        progressive,
        (X, Y, Z, ALPHAS, EPS),
        order=1,  # the second order of its parts is checked with them
        rtol=1e-5,
        bad=(
            Bad(progot_with(0), ValueError, ("schedule", "0")),
            Bad(progot_with(relative_eps=0.0), ValueError, ("relative_eps",)),
            Bad(progot_with((ALPHAS, EPS[:1])), ValueError, ("(2,)", "(1,)")),
            Bad(progot_with((ALPHAS + 1, EPS)), ValueError, ("alphas", "1.4")),
            Bad(progot_with((ALPHAS, -EPS)), ValueError, ("eps", "-1.")),
            Bad(progot_with(a=np.ones(3)), ValueError, ("a has shape (3,)",)),
            Bad(progot_with(b=np.ones(4)), ValueError, ("a sums to 1.0", "4.0")),
            Bad(progot_with(a=-np.ones(5)), ValueError, ("a has", "negative")),
            Bad(progot_with(threshold=0.0), ValueError, ("threshold",)),
        ),
        slow=True,
    ),
    Case(
        "jaxdiv.transport.convex_potential_pair",
        lambda x: (PHI(x), GRAD_PHI(x)),
        (X,),
        bad=(
            Bad(
                lambda: transport.convex_potential_pair(KEY, 0, 6),
                ValueError,
                ("d", "0"),
            ),
            Bad(
                lambda: transport.convex_potential_pair(KEY, 2, 0),
                ValueError,
                ("k", "0"),
            ),
            Bad(lambda: GRAD_PHI(np.arange(2)), TypeError, ("x", "int")),
        ),
    ),
    Case(
        "jaxdiv.metrics.l2_uvp",
        metrics.l2_uvp,
        (X, X + 0.3 * X[::-1], np.float64(1.3)),
        bad=(
            Bad(lambda: metrics.l2_uvp(X, X, 0.0), ValueError, ("var", "0.0")),
            Bad(lambda: metrics.l2_uvp(X, Y, 1.0), ValueError, ("(5, 2)", "(4, 2)")),
            Bad(lambda: metrics.l2_uvp(X[0], X[0], 1.0), ValueError, ("t", "(2,)")),
            Bad(lambda: metrics.l2_uvp(X[:0], X[:0], 1.0), ValueError, ("t", "(0, 2)")),
        ),
    ),
    Case(
        "jaxdiv.metrics.cosine_similarity_maps",
        metrics.cosine_similarity_maps,
        (X + 1, 2 * X, X),
        bad=(
            Bad(
                lambda: metrics.cosine_similarity_maps(X, X, Y),
                ValueError,
                ("x (4, 2)", "t (5, 2)"),
            ),
            Bad(
                lambda: metrics.cosine_similarity_maps(X[0], X[0], X[0]),
                ValueError,
                ("t", "(2,)"),
            ),
        ),
    ),
    Case(
        "jaxdiv.metrics.map_report",
        report,
        (X, Y, np.float64(0.8)),
        rtol=1e-5,
        bad=(
            Bad(
                lambda: metrics.map_report(jnp.sin, X, X[:, :1]),
                ValueError,
                ("(5, 2)", "(5, 1)"),
            ),
            Bad(lambda: metrics.map_report(jnp.sin, X, X[:1]), ValueError, ("(1, 2)",)),
            Bad(
                lambda: metrics.map_report(jnp.sin, X, Y, points=1),
                ValueError,
                ("points", "1"),
            ),
            Bad(
                lambda: metrics.map_report(jnp.sin, X, X[[0, 0]], jnp.sin),
                ValueError,
                ("var", "0.0"),
            ),
            Bad(
                lambda: metrics.map_report(lambda x: x[:, 0], X, Y, jnp.sin),
                ValueError,
                ("map_fn(x) (5,)", "(5, 2)"),
            ),
        ),
        slow=True,
    ),
    Case(
        "jaxdiv.metrics.map_report",
        report_of_samples,
        (X, X[::-1] * 0.7, np.float64(-0.8)),
        order=1,
        rtol=1e-3,  # that of the threshold
        slow=True,
    ),
]
