import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import diffusion
from jaxdiv.distributions import GaussianMixture

LAWS = {
    "vp": diffusion.vp(),
    "ve": diffusion.ve(),
    "edm": diffusion.edm(),
    "flow": diffusion.flow(),
}
# sigma: c_skip, c_out, c_in, c_noise, weight, at sigma_data = 0.5
PRECONDITIONING = {
    0.002: (0.99998400026, 0.00199998400, 1.99998400, -1.55365202, 250004.0),
    0.5: (0.5, 0.353553391, 1.414213562, -0.173286795, 8.0),
    80.0: (3.906097418e-5, 0.499990235, 0.0124997559, 1.09550666, 4.00015625),
}


def test_edm_is_its_own_noise_level():
    law = diffusion.edm()
    t = jnp.array([0.002, 1.0, 80.0])
    np.testing.assert_array_equal(law.alpha(t), jnp.ones(3))
    np.testing.assert_array_equal(law.sigma(t), t)
    np.testing.assert_array_equal(law.dlog_alpha(t), jnp.zeros(3))
    # g^2 = d sigma^2/dt - 2 (log alpha)' sigma^2
    growth = jax.vmap(jax.grad(lambda t: law.sigma(t) ** 2))(t)
    np.testing.assert_array_equal(law.g2(t), growth)
    assert (law.t_min, law.t_max) == (0.002, 80.0)
    assert law == diffusion.edm()  # equal, so that a jitted function compiles once


def test_vp_has_its_reference_values(x64):
    law = diffusion.vp()
    for t, alpha, sigma, g2 in [
        (0.1, 0.946721799, 0.322052536, 2.09),
        (0.5, 0.281182881, 0.959654202, 10.05),
        (1.0, 0.006571586, 0.999978407, 20.0),
    ]:
        np.testing.assert_allclose(
            [law.alpha(t), law.sigma(t), law.g2(t)], [alpha, sigma, g2], atol=6e-10
        )
        edm_style = np.sqrt(np.exp(0.5 * 19.9 * t**2 + 0.1 * t) - 1)
        np.testing.assert_allclose(law.sigma(t) / law.alpha(t), edm_style, rtol=1e-12)
    # Near t = 0, where 1 - alpha^2 would cancel, sigma^2 is beta_min t.
    single = diffusion.vp().sigma(jnp.float32(1e-7))
    np.testing.assert_allclose(single, 1e-4, rtol=1e-5)


def test_ve_and_flow_are_what_their_papers_say(x64):
    t = np.array([0.1, 0.5, 0.9])
    ve, flow = diffusion.ve(0.02, 100.0), diffusion.flow()
    np.testing.assert_allclose(ve.sigma(t), 0.02 * 5000**t, rtol=1e-12)
    np.testing.assert_allclose(ve.alpha(t), np.ones(3))
    np.testing.assert_allclose(flow.alpha(t), 1 - t)
    np.testing.assert_allclose(flow.sigma(t), t)
    np.testing.assert_allclose(flow.g2(t), 2 * t / (1 - t))


@pytest.mark.parametrize("name", LAWS)
def test_drift_and_diffusion_make_the_law(x64, name):
    """Differentiated by central differences: the four functions belong together."""
    law = LAWS[name]
    t = law.t_min + (law.t_max - law.t_min) * np.array([0.1, 0.5, 0.9])
    step = 1e-5 * t
    slope = lambda f: (f(t + step) - f(t - step)) / (2 * step)
    drift = slope(lambda t: np.log(law.alpha(t)))
    np.testing.assert_allclose(law.dlog_alpha(t), drift, rtol=1e-8, atol=1e-12)
    growth = slope(lambda t: law.sigma(t) ** 2)
    expected = growth - 2 * drift * law.sigma(t) ** 2
    np.testing.assert_allclose(law.g2(t), expected, rtol=1e-7)
    # g^2 = 2 sigma^2 d log(sigma / alpha)/dt
    snr = slope(lambda t: np.log(law.sigma(t) / law.alpha(t)))
    np.testing.assert_allclose(law.g2(t), 2 * law.sigma(t) ** 2 * snr, rtol=1e-7)
    assert law.t_min < law.t_max


@pytest.mark.parametrize("name", LAWS)
def test_every_conversion_of_what_is_known_exactly(x64, name):
    law = LAWS[name]
    mixture = GaussianMixture(
        np.array([0.3, 0.7]), np.array([[-1.5], [1.0]]), np.array([0.25, 0.49])
    )
    t = law.t_min + (law.t_max - law.t_min) * np.array([0.2, 0.4, 0.7])
    alpha, sigma = law.alpha(t), law.sigma(t)
    x = alpha[:, None] * np.array([[0.3], [-1.0], [2.0]]) + sigma[:, None]
    clean = mixture.denoise(x, alpha, sigma)
    known = {
        "denoised": clean,
        "eps": (x - alpha[:, None] * clean) / sigma[:, None],
        "score": mixture.score(x, alpha, sigma),
    }
    # The velocity E[alpha' x0 + sigma' eps | x], by central differences.
    step = 1e-5 * t
    slope = lambda f: ((f(t + step) - f(t - step)) / (2 * step))[:, None]
    known["velocity"] = slope(law.alpha) * clean + slope(law.sigma) * known["eps"]
    for from_, pred in known.items():
        for to, expected in known.items():
            got = diffusion.convert(pred, from_, to, x, t, law)
            np.testing.assert_allclose(
                got, expected, rtol=2e-6, err_msg=f"{from_} {to}"
            )
    if name == "flow":
        straight = (x - clean) / t[:, None]
        np.testing.assert_allclose(known["velocity"], straight, rtol=1e-8)


def test_convert_takes_one_time_or_one_each_and_images():
    x, law = jnp.ones((2, 4, 4, 1)), diffusion.vp()
    at_once = diffusion.convert(x / 2, "eps", "score", x, jnp.float32(0.3), law)
    one_each = diffusion.convert(x / 2, "eps", "score", x, jnp.full((2,), 0.3), law)
    np.testing.assert_allclose(at_once, one_each, rtol=1e-6)
    np.testing.assert_allclose(at_once, -x / 2 / law.sigma(0.3), rtol=1e-6)


@pytest.mark.parametrize("sigma", PRECONDITIONING)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_precondition_reference_values(x64, sigma, dtype):
    scales = diffusion.precondition(dtype(sigma), sigma_data=0.5)
    rtol = 3e-7 if dtype == jnp.float32 else 5e-9
    np.testing.assert_allclose(scales, PRECONDITIONING[sigma], rtol=rtol)


def test_precondition_normalises_input_and_target(x64):
    sigma, data = jnp.array([0.01, 0.7, 30.0]), 0.9
    s = diffusion.precondition(sigma, sigma_data=data)
    np.testing.assert_allclose(s.c_in**2 * (sigma**2 + data**2), 1)
    # Var of (x0 - c_skip x_t) / c_out, what the network has to learn.
    target = ((1 - s.c_skip) ** 2 * data**2 + (s.c_skip * sigma) ** 2) / s.c_out**2
    np.testing.assert_allclose(target, 1)
    np.testing.assert_allclose(s.weight * s.c_out**2, 1)


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan])
def test_precondition_is_nan_where_a_traced_sigma_is_not_positive(sigma):
    scales = jax.jit(diffusion.precondition)(jnp.array([sigma, 1.0]))
    assert np.isnan(np.asarray(scales)[:, 0]).all()
    assert np.isfinite(np.asarray(scales)[:, 1]).all()


@pytest.mark.parametrize("t", [0.05, 0.6, 5.0])
def test_dsm_loss_of_the_exact_denoiser_of_gaussian_data_is_one(key, t):
    # With data N(0, sd^2) the best denoiser is c_skip x and its weighted error is 1.
    sd, n = 0.5, 20_000
    x0 = sd * jax.random.normal(jax.random.key(1), (n, 1))

    def best(x, t):
        return diffusion.precondition(t, sd).c_skip[:, None] * x

    def worse(x, t):
        return best(x, t) + 0.2

    level = jnp.full((n,), t)
    loss = diffusion.dsm_loss(key, best, x0, level, sigma_data=sd)
    standard_error = loss.std() / np.sqrt(n)
    assert abs(loss.mean() - 1) < 4 * standard_error
    # Any other function adds the weighted squared distance to the best one.
    excess = diffusion.dsm_loss(key, worse, x0, level, sigma_data=sd) - loss
    expected = diffusion.precondition(t, sd).weight * 0.2**2
    assert abs(excess.mean() - expected) < 4 * excess.std() / np.sqrt(n)


def test_dsm_loss_is_per_sample_and_takes_one_time_for_all(key):
    x0 = jax.random.normal(key, (3, 4, 2))
    shrink = lambda x, t: x / 2
    at_once = diffusion.dsm_loss(key, shrink, x0, jnp.float32(0.7))
    one_each = diffusion.dsm_loss(key, shrink, x0, jnp.full((3,), 0.7))
    assert at_once.shape == (3,)
    np.testing.assert_allclose(at_once, one_each, rtol=1e-6)
    # The noised samples are x0 + t eps with eps drawn from the key.
    noised = x0 + 0.7 * jax.random.normal(key, x0.shape)
    weight = (0.7**2 + 0.5**2) / (0.7 * 0.5) ** 2
    expected = weight * jnp.mean((noised / 2 - x0) ** 2, (1, 2))
    np.testing.assert_allclose(at_once, expected, rtol=1e-5)


def test_dsm_loss_weighs_other_laws_by_their_noise_to_signal(key):
    # alpha x0 + sigma eps, rescaled by alpha, is EDM at the level sigma / alpha.
    halved = diffusion.edm()._replace(alpha=lambda t: jnp.full_like(t, 0.5))
    x0, t = jax.random.normal(key, (5, 2)), jnp.float32(0.4)
    loss = diffusion.dsm_loss(key, lambda x, t: x, x0, t, law=halved)
    same = diffusion.dsm_loss(key, lambda x, t: x / 2, x0, 2 * t)
    np.testing.assert_allclose(loss, same, rtol=1e-5)
