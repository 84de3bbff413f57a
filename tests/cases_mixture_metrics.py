import jax.numpy as jnp
import numpy as np

from jaxdiv import datasets, distributions, metrics
from tests.cases import Bad, Case

RNG = np.random.default_rng(4)
REAL, FAKE = RNG.standard_normal((7, 3)), RNG.standard_normal((5, 3))
POINTS = RNG.standard_normal((30, 2)) * 2
MEANS, STDS = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, -3.0]]), np.array([0.3, 0.4, 0.2])
WEIGHTS = np.array([0.46, 0.33, 0.21])
X, ONES = jnp.zeros((4, 2)), jnp.ones(3)


def blurred(samples, weights, means, covs, sigma_e):
    mixture = distributions.GaussianMixture(weights, means, covs)
    return metrics.smoothed_divergences_2d(samples, mixture, sigma_e, grid=50)


def bad_kid(real, fake, error, words, **options):
    return Bad(lambda: metrics.kid(real, fake, **options), error, words)


def bad_modes(words, samples=X, means=X[:3], stds=ONES, weights=ONES / 3, **options):
    return Bad(
        lambda: metrics.mode_coverage(samples, means, stds, weights, **options),
        ValueError,
        words,
    )


def bad_blur(words, samples=X, means=X[:3], sigma_e=0.3, **options):
    mixture = distributions.GaussianMixture(ONES / 3, means, ONES)
    return Bad(
        lambda: metrics.smoothed_divergences_2d(samples, mixture, sigma_e, **options),
        ValueError,
        words,
    )


CASES = [
    Case(
        "jaxdiv.metrics.kid",
        lambda real, fake: metrics.kid(real, fake, block_size=2),
        (REAL, FAKE),
        bad=(
            bad_kid(X, X[:, :1], ValueError, ("(4, 2)", "(4, 1)")),
            bad_kid(X[:1], X, ValueError, ("(1, 2)", "at least 2")),
            bad_kid(X[0], X, ValueError, ("real", "(2,)")),
            bad_kid(X, X, ValueError, ("block_size", "0"), block_size=0),
            bad_kid(X, X.astype(int), TypeError, ("fake", "int32")),
        ),
    ),
    Case(
        "jaxdiv.metrics.mode_coverage",
        metrics.mode_coverage,
        (POINTS, MEANS, STDS, WEIGHTS),
        order=1,
        bad=(
            bad_modes(("samples (4, 1)", "means (3, 2)"), samples=X[:, :1]),
            bad_modes(("stds (2,)",), stds=ONES[:2]),
            bad_modes(("weights (2,)",), weights=ONES[:2]),
            bad_modes(("0 samples", "3 modes"), samples=X[:0]),
            bad_modes(("frac", "1.5"), frac=1.5),
            bad_modes(("nsigma", "0.0"), nsigma=0.0),
        ),
    ),
    Case(
        "jaxdiv.metrics.smoothed_divergences_2d",
        blurred,
        (POINTS, WEIGHTS, MEANS, STDS**2, np.array(0.6)),
        order=0,
        bad=(
            bad_blur(("samples", "(4, 1)"), samples=X[:, :1]),
            bad_blur(("samples", "(0, 2)"), samples=X[:0]),
            bad_blur(("mixture.means", "(3, 1)"), means=X[:3, :1]),
            bad_blur(("sigma_e", "-0.1"), sigma_e=-0.1),
            bad_blur(("sigma_e", "(3,)"), sigma_e=ONES),
            bad_blur(("grid", "1"), grid=1),
        ),
    ),
    Case(
        "jaxdiv.datasets.gaussian_mixture_2d",
        lambda: datasets.gaussian_mixture_2d("ring8"),
        (),
        order=0,
        transforms=False,
        dtypes=False,
        bad=(
            Bad(
                lambda: datasets.gaussian_mixture_2d("spiral"),
                ValueError,
                ("'spiral'", "'grid25'", "'imb8'"),
            ),
        ),
    ),
]
