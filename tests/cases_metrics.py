import jax.numpy as jnp
import numpy as np

from jaxdiv import metrics
from tests.cases import Bad, Case

RNG = np.random.default_rng(0)
REAL, FAKE = RNG.standard_normal((12, 3)), RNG.standard_normal((10, 3))
ROOTS = RNG.standard_normal((2, 3, 3))


def between_roots(mean1, root1, mean2, root2):
    return metrics.frechet_distance(mean1, root1 @ root1.T, mean2, root2 @ root2.T)


def bad_sets(metric):
    x = jnp.zeros((4, 2))
    return (
        Bad(lambda: metric(x, x, k=4), ValueError, ("k is 4", "4 points")),
        Bad(lambda: metric(x, x, k=0), ValueError, ("k is 0",)),
        Bad(lambda: metric(x, x[:, :1]), ValueError, ("2 features", "1")),
        Bad(lambda: metric(x[:1], x, k=1), ValueError, ("real", "at least 2")),
        Bad(lambda: metric(x, x[:1], k=1), ValueError, ("fake", "at least 2")),
        Bad(lambda: metric(x[0], x, k=1), ValueError, ("real", "(2,)")),
        Bad(lambda: metric(x.astype(int), x), TypeError, ("real", "int32")),
    )


def piecewise_constant(name):
    metric = getattr(metrics, name)
    return Case(
        f"jaxdiv.metrics.{name}",
        lambda real, fake: metric(real, fake, k=3),
        (REAL, FAKE),
        order=1,
        bad=bad_sets(metric),
    )


CASES = [
    Case(
        "jaxdiv.metrics.frechet_distance",
        between_roots,
        (REAL[0], ROOTS[0], REAL[1], ROOTS[1]),
        in_scan=True,
        bad=(
            Bad(
                lambda: metrics.frechet_distance(
                    jnp.zeros(2), jnp.eye(3), jnp.zeros(2), jnp.eye(2)
                ),
                ValueError,
                ("cov1", "(3, 3)", "(2, 2)"),
            ),
            Bad(
                lambda: metrics.frechet_distance(
                    jnp.zeros(2), jnp.eye(2), jnp.zeros(3), jnp.eye(2)
                ),
                ValueError,
                ("mean2", "(3,)"),
            ),
        ),
    ),
    piecewise_constant("precision_recall"),
    piecewise_constant("density_coverage"),
]
