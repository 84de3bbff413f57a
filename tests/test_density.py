import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from jaxdiv import diffusion
from jaxdiv.distributions import GaussianMixture

LAWS = {
    "vp": (diffusion.vp(), {}),
    "edm": (diffusion.edm(), {}),
    "flow": (diffusion.flow(), {"rho": 1.0}),
    "ve": (diffusion.ve(), {"rho": 1.0}),
}


def at(law, t):
    return law.alpha(jnp.float64(t)), law.sigma(jnp.float64(t))


def score_of(mixture, law):
    return lambda x, t: mixture.score(x, law.alpha(t), law.sigma(t))


def three_modes(d):
    rng = np.random.default_rng(0)
    weights, roots = np.array([0.2, 0.3, 0.5]), 0.3 * rng.normal(size=(3, d, d))
    covs = roots @ roots.mT + 0.1 * np.eye(d)
    return GaussianMixture(weights, rng.normal(0, 1.2, (3, d)), covs)


def error_of(mixture, law, x, **options):
    """Error of the log-likelihood where law and prior are known exactly."""
    prior = lambda x: mixture.log_prob(x, *at(law, law.t_max))
    found = diffusion.log_likelihood(
        law, score_of(mixture, law), x, prior_log_prob=prior, **options
    )
    return found - mixture.log_prob(x, *at(law, law.t_min))


@pytest.mark.parametrize("name", LAWS)
def test_gaussian_data(x64, key, name):
    law, options = LAWS[name]
    options = options | {"n_steps": 100}
    variance = lambda t: (0.5 * law.alpha(t)) ** 2 + law.sigma(t) ** 2
    score = lambda x, t: -x / variance(t)
    x = 0.5 * jax.random.normal(key, (6, 3, 2))
    start = np.sqrt(variance(jnp.float64(law.t_min)))
    exact = scipy.stats.norm(scale=start).logpdf(x).sum((1, 2))
    end = np.sqrt(variance(jnp.float64(law.t_max)))
    prior = lambda x: jax.scipy.stats.norm.logpdf(x, scale=end).sum((1, 2))
    found = diffusion.log_likelihood(law, score, x, prior_log_prob=prior, **options)
    np.testing.assert_allclose(found, exact, atol=3e-5)
    # The default end is N(0, sigma^2), which differs by what is left of the data.
    end_x = x / start * end
    shift = scipy.stats.norm(scale=law.sigma(law.t_max)).logpdf(end_x)
    shift = (shift - scipy.stats.norm(scale=end).logpdf(end_x)).sum((1, 2))
    plain = diffusion.log_likelihood(law, score, x, **options)
    np.testing.assert_allclose(plain, exact + shift, atol=3e-5)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("d", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_mixtures(x64, key, d, name):
    (law, options), mixture = LAWS[name], three_modes(d)
    x = mixture.sample(key, (300,), *at(law, law.t_min))
    error = jax.jit(lambda x: error_of(mixture, law, x, **options))(x)
    assert error.std() < {"vp": 7e-5, "edm": 1.5e-4, "flow": 1.5e-6, "ve": 2.5e-4}[name]
    assert jnp.abs(error).max() < 3e-3


@pytest.mark.slow
def test_error_falls_with_the_fourth_power(x64, key):
    mixture, law = three_modes(2), diffusion.vp()
    x = mixture.sample(key, (100,), *at(law, law.t_min))
    errors = [
        float(jnp.abs(error_of(mixture, law, x, n_steps=n, rho=2.0)).mean())
        for n in (20, 40)
    ]
    assert 3.5 < np.log2(errors[0] / errors[1]) < 5.5, errors


@pytest.mark.slow
def test_mixture_in_float32(key):
    mixture, law = three_modes(2), diffusion.vp()
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), mixture)
    x = single.sample(key, (100,))
    found = diffusion.log_likelihood(law, score_of(single, law), x)
    assert found.dtype == jnp.float32
    # That the data reach t = 1 not wholly gone, alpha = 0.0066, is most of this.
    np.testing.assert_allclose(found, single.log_prob(x), atol=0.05)


def test_a_score_that_is_no_gradient_has_a_density_that_sums_to_one(x64):
    """Whatever the score, the flow carries one density into another."""
    law = diffusion.edm(0.05, 10.0)
    score = lambda x, t: (0.5 * jnp.sin(2 * x) - x) / (1 + t**2)
    x = np.linspace(-12, 12, 1201)[:, None]
    density = np.exp(diffusion.log_likelihood(law, score, x, n_steps=100))
    np.testing.assert_allclose(scipy.integrate.simpson(density, x[:, 0]), 1, atol=1e-5)


def test_it_is_the_density_of_the_samples(key):
    """Entropy of the samples, before they are denoised, against that of the data."""
    law, score = diffusion.edm(0.1, 10.0), lambda x, t: -x / (1 + t**2)
    n = 4000
    x = diffusion.sample(law, score, key, (n, 2), steps=100)
    x = x * (1 + 0.1**2)  # undoes the denoising
    found = diffusion.log_likelihood(law, score, x)
    deviation = np.sqrt(100 / 101 * 1.01)  # started from N(0, 100) and not N(0, 101)
    entropy = 2 * scipy.stats.norm(scale=deviation).entropy()
    assert abs(-found.mean() - entropy) < 4 / np.sqrt(n) + 1e-3


THREE = GaussianMixture(
    np.array([0.3, 0.3, 0.4]),
    np.array([[-2.0, 0.0], [2.0, 0.5], [0.0, -1.5]]),
    np.array([0.25, 0.36, 0.16]),
)


@pytest.mark.slow
def test_hutchinson_is_unbiased_and_more_probes_help(x64, key):
    law, n = diffusion.vp(), 1000
    x = THREE.sample(key, (n,), *at(law, law.t_min))

    def errors(n_probes):
        return error_of(
            THREE, law, x, method="hutchinson", key=key, n_probes=n_probes, n_steps=30
        )

    one, many = errors(1), errors(8)
    assert 0.3 < one.std() < 1.2
    for error in (one, many):
        assert abs(error.mean()) < 4 * error.std() / np.sqrt(n)
    assert 0.8 < one.std() / many.std() / np.sqrt(8) < 1.25


def test_hutchinson_is_exact_where_signs_do_not_matter(x64, key):
    """z' J z = tr J for a diagonal J, and for J and its transpose alike."""
    law, score = diffusion.edm(0.1, 5.0), lambda x, t: -x / (jnp.arange(1, 5) + t**2)
    x = jax.random.normal(key, (3, 4), jnp.float64)
    exact = diffusion.log_likelihood(law, score, x, n_steps=5)
    found = diffusion.log_likelihood(
        law, score, x, n_steps=5, method="hutchinson", key=key
    )
    np.testing.assert_allclose(found, exact, rtol=1e-12)


def test_the_signs_stay_along_a_trajectory(x64, key):
    """The estimate is that of one path with one vector, by quadrature outside."""
    law = diffusion.edm(0.5, 2.0)
    mix = jnp.array([[0.0, 0.7], [-0.2, 0.3]])
    score = lambda x, t: -x @ mix
    x = jnp.array([[0.4, -0.3]])
    z = np.asarray(jax.random.rademacher(key, (1, 1, 2), jnp.float64))[0, 0]
    exact = diffusion.log_likelihood(law, score, x)
    found = diffusion.log_likelihood(law, score, x, method="hutchinson", key=key)
    # v = t x @ mix, whose divergence is t tr(mix), estimated as t z' mix z.
    off = (z @ mix @ z - jnp.trace(mix)) * (2.0**2 - 0.5**2) / 2
    assert abs(off) > 0.5
    np.testing.assert_allclose(found - exact, off, rtol=1e-8)


@pytest.mark.slow
def test_more_directions_than_a_chunk(x64, key):
    """Exact in 40 dimensions, with a Jacobian that is not symmetric."""
    law, d = diffusion.edm(0.5, 2.0), 40
    mix = jax.random.normal(key, (d, d), jnp.float64) / d
    x = jax.random.normal(key, (2, 5, 8), jnp.float64)
    score = lambda x, t: -(x.reshape(2, d) @ mix).reshape(x.shape)
    flow = scipy.linalg.expm(np.asarray(mix) * (2.0**2 - 0.5**2) / 2)
    end = np.asarray(x).reshape(2, d) @ flow
    expected = scipy.stats.norm(scale=2.0).logpdf(end).sum(1)
    expected += np.linalg.slogdet(flow)[1]
    found = diffusion.log_likelihood(law, score, x)
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.slow
def test_shapes_and_transforms(key):
    law, score = diffusion.edm(0.1, 5.0), lambda x, t: -x / (1 + t**2)
    call = lambda x: diffusion.log_likelihood(law, score, x, n_steps=10)
    x = jax.random.normal(key, (5,))
    flat = call(x)
    assert flat.shape == (5,)
    np.testing.assert_allclose(call(x[:, None]), flat, rtol=1e-6)
    mapped = jax.jit(jax.vmap(call))(x[:, None, None])[:, 0]
    np.testing.assert_allclose(mapped, flat, rtol=1e-5)
    assert call(jnp.zeros((0, 3))).shape == (0,)
    assert np.isnan(call(jnp.array([jnp.nan, 0.0]))).tolist() == [True, False]


@pytest.mark.slow
def test_gradient_in_x_is_the_score(x64, key):
    mixture, law = three_modes(2), diffusion.vp()
    x = mixture.sample(key, (5,))
    prior = lambda x: mixture.log_prob(x, *at(law, law.t_max))

    @jax.jit
    @jax.grad
    def slope(x):
        return diffusion.log_likelihood(
            law, score_of(mixture, law), x, prior_log_prob=prior
        ).sum()

    expected = mixture.score(x, *at(law, law.t_min))
    np.testing.assert_allclose(slope(x), expected, rtol=1e-3, atol=1e-3)
