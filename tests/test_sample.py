import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import diffusion

WEIGHTS, MEANS, STDS = np.array([0.3, 0.7]), np.array([-1.5, 1.0]), np.array([0.5, 0.7])
MEAN = WEIGHTS @ MEANS
STD = np.sqrt(WEIGHTS @ (STDS**2 + MEANS**2) - MEAN**2)


def mixture_log_prob(x, alpha, sigma):
    """Log-density of the noised mixture, elementwise."""
    variance = (alpha * STDS) ** 2 + sigma**2
    terms = -((x[..., None] - alpha * MEANS) ** 2) / (2 * variance)
    terms += np.log(WEIGHTS) - jnp.log(2 * np.pi * variance) / 2
    return jax.nn.logsumexp(terms, -1)


def mixture_score(x, t, alpha=1.0, sigma=None):
    sigma = t if sigma is None else sigma
    return jax.grad(lambda x: mixture_log_prob(x, alpha, sigma).sum())(x)


def gaussian_score(x, t):
    return -x / (0.5**2 + t**2)


def edm_in_numpy(x, denoise, steps, rho=7.0, low=0.002, high=80.0):
    """Algorithm 1 of EDM as the paper writes it."""
    i = np.arange(steps)
    grid = high ** (1 / rho) + i / (steps - 1) * (low ** (1 / rho) - high ** (1 / rho))
    grid = np.append(grid**rho, 0.0)
    for here, there in zip(grid[:-1], grid[1:], strict=True):
        first = (x - denoise(x, here)) / here
        euler = x + (there - here) * first
        if there > 0:
            second = (euler - denoise(euler, there)) / there
            euler = x + (there - here) * (first + second) / 2
        x = euler
    return x


def vp(t_min=1e-5, beta=(0.1, 20.0)):
    """The variance-preserving law: any law that a caller makes will do."""
    log_alpha = lambda t: -0.5 * beta[0] * t - 0.25 * (beta[1] - beta[0]) * t**2
    rate = lambda t: beta[0] + (beta[1] - beta[0]) * t
    return diffusion.NoiseLaw(
        alpha=lambda t: jnp.exp(log_alpha(t)),
        sigma=lambda t: jnp.sqrt(-jnp.expm1(2 * log_alpha(t))),
        dlog_alpha=lambda t: -rate(t) / 2,
        g2=rate,
        t_min=t_min,
        t_max=1.0,
    )


def test_heun_visits_edms_noise_levels_35_times(key):
    seen = []

    def score(x, t):
        jax.debug.callback(lambda t: seen.append(float(t)), t, ordered=True)
        return gaussian_score(x, t)

    jax.block_until_ready(diffusion.sample(diffusion.edm(), score, key, (2, 1)))
    jax.effects_barrier()
    assert len(seen) == 35
    levels = np.array([seen[0], *seen[1::2]])  # a corrector looks one level ahead
    np.testing.assert_allclose(
        levels[[0, 1, 5, 9, 13, 17]],
        [80, 57.5859847, 12.9100824, 1.92333984, 0.139516469, 0.002],
        rtol=3e-6,
    )


@pytest.mark.parametrize("steps", [2, 18])
def test_heun_is_algorithm_1_of_the_paper(x64, key, steps):
    shape = (7, 3)
    denoise = lambda x, t: x * 0.5**2 / (0.5**2 + t**2)
    start = 80 * jax.random.normal(jax.random.split(key)[0], shape, jnp.float64)
    x = diffusion.sample(
        diffusion.edm(), gaussian_score, key, shape, steps=steps, dtype=jnp.float64
    )
    np.testing.assert_allclose(
        x, edm_in_numpy(np.asarray(start), denoise, steps), rtol=1e-9, atol=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "score"),
    [
        (diffusion.edm(), mixture_score),
        (
            vp(1e-3),
            lambda x, t: mixture_score(x, t, vp().alpha(t), vp().sigma(t)),
        ),
    ],
    ids=["edm", "vp"],
)
def test_heun_is_of_second_order(x64, key, law, score):
    def solve(steps):
        return diffusion.sample(
            law, score, key, (200, 1), steps=steps, dtype=jnp.float64
        )

    exact = solve(1024)
    errors = [float(jnp.abs(solve(n) - exact).mean()) for n in (32, 64, 128)]
    orders = -np.diff(np.log2(errors))
    assert (orders > 1.7).all(), (errors, orders)
    assert (orders < 2.6).all(), (errors, orders)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"s_churn": 30.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.0}],
    ids=["deterministic", "churn"],
)
@pytest.mark.parametrize("law", [diffusion.edm(), vp(1e-3)], ids=["edm", "vp"])
def test_heun_reproduces_the_moments_of_a_mixture(key, law, options):
    n = 20_000
    score = lambda x, t: mixture_score(x, t, law.alpha(t), law.sigma(t))
    x = diffusion.sample(law, score, key, (n, 1), steps=60, **options)
    # Bias of 60 steps, and 4 standard errors of mean, standard deviation and weight.
    assert abs(x.mean() - MEAN) < 0.01 + 4 * STD / np.sqrt(n)
    assert abs(x.std() - STD) < 0.015 + 4 * STD / np.sqrt(n)
    left = 0.3 * 0.99795 + 0.7 * 0.03640  # mass of the mixture below -0.256
    assert abs((x < -0.256).mean() - left) < 0.01 + 4 * np.sqrt(left * (1 - left) / n)


def test_churn_is_noise_between_s_min_and_s_max_only(key):
    def draw(**options):
        return diffusion.sample(
            diffusion.edm(), gaussian_score, key, (50, 2), **options
        )

    plain = draw()
    np.testing.assert_array_equal(draw(s_noise=2.0), plain)
    # Equal up to rounding: with a churn the levels are computed inside the loop.
    np.testing.assert_allclose(draw(s_churn=40, s_min=100), plain, rtol=1e-4)
    assert jnp.abs(draw(s_churn=40) - plain).max() > 0.1


@pytest.mark.parametrize("t", [0.01, 0.6, 5.0])
def test_one_step_is_the_posterior_mean(x64, key, t):
    law = diffusion.edm(0.001, t)
    x = diffusion.sample(law, mixture_score, key, (9, 1), "one_step", dtype=jnp.float64)
    noise = t * jax.random.normal(jax.random.split(key)[0], (9, 1), jnp.float64)
    variance = STDS**2 + t**2
    parts = WEIGHTS * np.exp(-((noise - MEANS) ** 2) / (2 * variance))
    parts /= np.sqrt(variance)
    posterior = (STDS**2 * noise + t**2 * MEANS) / variance
    expected = (parts * posterior).sum(1) / parts.sum(1)
    np.testing.assert_allclose(x[:, 0], expected, rtol=1e-9, atol=1e-12)


def test_the_mixture_of_these_tests_has_its_reference_values(x64):
    x = jnp.float64(0.3)
    for sigma, log_p, score, denoised in [
        (0.01, -1.4174187711, 1.4151812511, 0.3001415181),
        (0.6, -1.4362683797, 0.6526854361, 0.5349667570),
        (5.0, -2.5623794513, -0.0011402509, 0.2714937279),
    ]:
        s = mixture_score(x, sigma)
        values = [mixture_log_prob(x, 1.0, sigma), s, x + sigma**2 * s]
        np.testing.assert_allclose(values, [log_p, score, denoised], rtol=1e-7)


def test_float64_stays_and_the_key_decides(x64, key):
    draw = lambda key: diffusion.sample(
        diffusion.edm(), gaussian_score, key, (4, 2), dtype=jnp.float64
    )
    assert draw(key).dtype == jnp.float64
    np.testing.assert_array_equal(draw(key), draw(key))
    assert (draw(key) != draw(jax.random.key(1))).all()
