import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxdiv.distributions import GaussianMixture
from tests import helpers

TWO = GaussianMixture(
    np.array([0.3, 0.7]), np.array([[-1.5], [1.0]]), np.array([0.25, 0.49])
)
# sigma, log-density, score and denoised at x = 0.3
REFERENCE = [
    (0.01, -1.4174187711, 1.4151812511, 0.3001415181),
    (0.6, -1.4362683797, 0.6526854361, 0.5349667570),
    (5.0, -2.5623794513, -0.0011402509, 0.2714937279),
]
FORMS = ["isotropic", "diagonal", "full"]


def mixture_of(form, d, k=3, seed=0):
    rng = np.random.default_rng(seed)
    weights, means = rng.dirichlet(np.ones(k)), rng.normal(0, 2, (k, d))
    roots = rng.normal(size=(k, d, d))
    covs = {
        "isotropic": rng.uniform(0.2, 1.5, k),
        "diagonal": rng.uniform(0.2, 1.5, (k, d)),
        "full": roots @ roots.mT + 0.3 * np.eye(d),
    }[form]
    return GaussianMixture(weights, means, covs)


def matrices(mixture):
    """The covariances as full matrices."""
    k, d = mixture.means.shape
    covs = np.asarray(mixture.covs)
    if covs.ndim == 3:
        return covs
    return np.stack([np.diag(np.broadcast_to(c, d)) for c in covs])


def scipy_log_prob(mixture, x, alpha, sigma):
    noised = alpha**2 * matrices(mixture) + sigma**2 * np.eye(x.shape[-1])
    parts = [
        np.log(w) + scipy.stats.multivariate_normal(alpha * m, c).logpdf(x)
        for w, m, c in zip(mixture.weights, mixture.means, noised, strict=True)
    ]
    return scipy.special.logsumexp(parts, axis=0)


@pytest.mark.parametrize(("sigma", "log_p", "score", "denoised"), REFERENCE)
def test_reference_values(x64, sigma, log_p, score, denoised):
    x = np.array([0.3])
    got = TWO.log_prob(x, 1.0, sigma), TWO.score(x, 1.0, sigma)[0]
    np.testing.assert_allclose(got, (log_p, score), atol=6e-11)
    np.testing.assert_allclose(TWO.denoise(x, 1.0, sigma)[0], denoised, atol=6e-11)


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("form", FORMS)
def test_log_prob_is_scipys_and_the_rest_its_derivatives(x64, form, d):
    mixture = mixture_of(form, d)
    x = np.random.default_rng(1).normal(0, 2, (7, d))

    @jax.jit
    def all_of_it(x, *level):
        log_prob = lambda x: mixture.log_prob(x, *level)
        hessian = jax.vmap(jax.hessian(log_prob))(x)
        return (
            log_prob(x),
            (mixture.score(x, *level), jax.vmap(jax.grad(log_prob))(x)),
            (mixture.div_score(x, *level), jnp.trace(hessian, 0, 1, 2)),
            mixture.denoise(x, *level),
        )

    for alpha, sigma in [(1.0, 0.0), (0.7, 0.4)]:
        log_p, scores, divergences, denoised = all_of_it(x, alpha, sigma)
        expected = scipy_log_prob(mixture, x, alpha, sigma)
        np.testing.assert_allclose(log_p, expected, rtol=1e-11)
        np.testing.assert_allclose(*scores, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(*divergences, rtol=1e-9, atol=1e-11)
        tweedie = (x + sigma**2 * scores[1]) / alpha
        np.testing.assert_allclose(denoised, tweedie, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_level_for_each_point_and_levels_at_their_ends(x64, form):
    mixture = mixture_of(form, 3)  # as many components as dimensions: axes can mix up
    x = np.random.default_rng(2).normal(size=(2, 4, 3))
    alpha, sigma = np.array([1.0, 0.9, 0.5, 0.0]), np.array([0.0, 0.3, 2.0, 1.0])

    @jax.jit
    def all_of_it(*args):
        names = ("score", "denoise", "div_score", "log_prob")
        return [getattr(mixture, name)(*args) for name in names]

    together = all_of_it(x, alpha, sigma)
    for i in range(4):
        alone = all_of_it(x[:, i], alpha[i], sigma[i])
        for many, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(many[:, i], one, rtol=1e-10, atol=1e-12)
    denoised = together[1]
    np.testing.assert_allclose(denoised[:, 0], x[:, 0], rtol=1e-12)  # no noise
    mean = mixture.weights @ mixture.means  # nothing but noise
    np.testing.assert_allclose(denoised[:, 3], np.stack([mean, mean]), rtol=1e-12)
    assert mixture.score(x[0, 0], alpha, sigma).shape == (4, 3)


@pytest.mark.slow
def test_derivatives_where_eigenvalues_meet():
    """The covariances are the identity, from which each argument moves away."""

    def call(shift, mean, x, sigma):
        covs = jnp.eye(2) + jnp.stack([shift + shift.T, shift @ shift.T])
        weights, means = jnp.array([0.4, 0.6]), jnp.stack([mean, -2 * mean])
        mixture = GaussianMixture(weights, means, covs)
        alpha = jnp.cos(sigma)
        return (
            mixture.log_prob(x, alpha, sigma),
            mixture.denoise(x, alpha, sigma),
            mixture.div_score(x, alpha, sigma),
        )

    args = np.zeros((2, 2)), np.array([0.3, 0.5]), np.array([0.2, -1.0]), np.array(0.4)
    helpers.check_derivatives(call, args, rtol=1e-6)


@pytest.mark.parametrize(
    ("form", "dtype"),
    [("isotropic", jnp.float32), ("full", jnp.float32), ("full", jnp.float64)],
)
def test_far_tails(x64, dtype, form):
    """A thousand deviations away one component is all that is left."""
    covs = np.ones(2) if form == "isotropic" else np.stack([np.eye(2), np.eye(2)])
    mixture = GaussianMixture(
        *(np.asarray(a, dtype) for a in ([0.5, 0.5], [[1.0, 0.0], [-1.0, 0.0]], covs))
    )
    x = jnp.array([1e3, 0.0], dtype)
    log_p, expected = mixture.log_prob(x), -(999.0**2) / 2 - np.log(4 * np.pi)
    np.testing.assert_allclose(log_p, expected, rtol=1e-6)
    np.testing.assert_allclose(mixture.score(x), [-999.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(mixture.div_score(x), -2.0, rtol=1e-6)
    slopes = jax.jit(jax.grad(lambda m: m.log_prob(x) + m.div_score(x)))(mixture)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    too_far = mixture.log_prob(jnp.full(2, 1e30, dtype))
    np.testing.assert_allclose(too_far, -(dtype(1e30) ** 2))  # -inf in float32


def test_a_component_of_weight_zero_is_not_there(x64):
    mixture = TWO._replace(weights=np.array([0.0, 1.0]))
    x = np.array([[0.3], [-1.5], [-60.0]])
    alone = scipy.stats.norm(1.0, 0.7).logpdf(x[:, 0])
    np.testing.assert_allclose(mixture.log_prob(x), alone, rtol=1e-12)
    np.testing.assert_allclose(mixture.score(x), (1 - x) / 0.49, rtol=1e-12)
    slope = jax.grad(lambda w: mixture._replace(weights=w).log_prob(x[0]))(
        jnp.asarray(mixture.weights)
    )
    density = scipy.stats.norm([-1.5, 1.0], [0.5, 0.7]).pdf(0.3)
    np.testing.assert_allclose(slope, density / density[1], rtol=1e-12)
    assert abs(mixture.sample(jax.random.key(0), (200,)).mean() - 1.0) < 0.2


@pytest.mark.parametrize("form", FORMS)
def test_samples_have_the_moments_of_the_law(key, form):
    mixture, n, alpha, sigma = mixture_of(form, 2), 20_000, 0.8, 0.5
    x = np.asarray(mixture.sample(key, (n,), alpha, sigma), np.float64)
    weights, means, _ = mixture
    mean = alpha * weights @ means
    centred = alpha * means - mean
    cov = np.einsum("k,kij->ij", weights, alpha**2 * matrices(mixture))
    cov += sigma**2 * np.eye(2) + np.einsum("k,ki,kj->ij", weights, centred, centred)
    deviation = np.sqrt(np.diag(cov))
    assert (abs(x.mean(0) - mean) < 4 * deviation / np.sqrt(n)).all()
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    assert (abs(products.mean(0) - cov) < 4 * products.std(0) / np.sqrt(n)).all()


def test_samples_pass_a_kolmogorov_smirnov_test(key):
    levels = jnp.array([0.0, 0.6])
    x = np.asarray(TWO.sample(key, (5000, 2), 1.0, levels))
    assert x.shape == (5000, 2, 1)
    for i, sigma in enumerate([0.0, 0.6]):
        parts = scipy.stats.norm([-1.5, 1.0], np.sqrt(TWO.covs + sigma**2))
        cdf = lambda x, parts=parts: parts.cdf(x[:, None]) @ TWO.weights
        assert scipy.stats.kstest(x[:, i, 0], cdf).pvalue > 0.01


def test_one_key_gives_one_clean_sample_at_all_levels(key):
    clean = TWO.sample(key, (5,))
    np.testing.assert_allclose(TWO.sample(key, (5,), 0.5, 1e-6), clean / 2, atol=1e-5)
    assert TWO.sample(key).shape == (1,)


def test_it_is_a_pytree_of_three_arrays(key):
    """One jit, one vmap over mixtures."""
    many = jax.tree.map(lambda a: jnp.stack([a, a]), mixture_of("full", 2))
    x = jax.random.normal(key, (2, 5, 2))
    score = jax.jit(jax.vmap(lambda m, x: m.score(x, 0.9, 0.1)))(many, x)
    alone = mixture_of("full", 2).score(x[1], 0.9, 0.1)
    np.testing.assert_allclose(score[1], alone, rtol=1e-4, atol=1e-5)
    assert score.dtype == jnp.float32


@pytest.mark.parametrize(
    "change",
    [
        {"weights": np.array([0.3, 0.6])},
        {"weights": np.array([1.3, -0.3])},
        {"covs": np.array([0.25, 0.0])},
        {"covs": np.array([[[0.25]], [[-0.1]]])},
    ],
    ids=["sum", "negative weight", "zero variance", "indefinite"],
)
def test_what_is_traced_and_no_law_gives_nan(key, change):
    bad = TWO._replace(**change)
    x, sigma = np.full((1,), 0.3, np.float32), 1.0  # the noise does not hide it
    methods = (
        lambda m: m.log_prob(x, 1.0, sigma),
        lambda m: m.score(x, 1.0, sigma),
        lambda m: m.denoise(x, 1.0, sigma),
        lambda m: m.div_score(x, 1.0, sigma),
    )
    out = jax.jit(lambda m: [method(m) for method in methods])(bad)
    assert all(np.isnan(leaf).all() for leaf in out)
    for method in methods:
        with pytest.raises(ValueError, match=next(iter(change))):
            method(bad)


def test_a_skew_matrix_is_no_covariance():
    skew = np.array([[[1.0, 0.5], [0.0, 1.0]]])
    bad = GaussianMixture(np.ones(1), np.zeros((1, 2)), skew)
    with pytest.raises(ValueError, match="covs"):
        bad.log_prob(np.zeros(2))
    assert np.isnan(jax.jit(lambda m: m.log_prob(np.zeros(2)))(bad))
    sigma = jnp.array([-1.0, 1.0])
    good = bad._replace(covs=np.eye(2)[None])
    out = jax.jit(lambda sigma: good.log_prob(np.zeros(2), 1.0, sigma))(sigma)
    np.testing.assert_array_equal(np.isnan(out), [True, False])
