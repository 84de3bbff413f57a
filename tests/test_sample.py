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


def laws_score(law):
    return lambda x, t: mixture_score(x, t, law.alpha(t), law.sigma(t))


def numpy_score(x, alpha, sigma):
    variance = (alpha * STDS) ** 2 + sigma**2
    pull = (alpha * MEANS - x[..., None]) / variance
    parts = WEIGHTS * np.exp(-(pull**2) * variance / 2) / np.sqrt(variance)
    return (parts * pull).sum(-1) / parts.sum(-1)


def times_of(law, steps, rho=7.0):
    low, high = law.t_min ** (1 / rho), law.t_max ** (1 / rho)
    return np.linspace(high, low, steps) ** rho


def start_of(law, key, shape):
    noise = jax.random.normal(jax.random.split(key)[0], shape, jnp.float64)
    return np.asarray(law.sigma(law.t_max) * noise)


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
        (diffusion.vp(t_min=1e-3), laws_score(diffusion.vp())),
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
@pytest.mark.parametrize(
    "law", [diffusion.edm(), diffusion.vp(t_min=1e-3)], ids=["edm", "vp"]
)
def test_heun_reproduces_the_moments_of_a_mixture(key, law, options):
    n = 20_000
    x = diffusion.sample(law, laws_score(law), key, (n, 1), steps=60, **options)
    check_moments(x)


def check_moments(x):
    """Bias of the steps, and 4 standard errors of mean, deviation and weight."""
    n = len(x)
    assert abs(x.mean() - MEAN) < 0.01 + 4 * STD / np.sqrt(n)
    assert abs(x.std() - STD) < 0.015 + 4 * STD / np.sqrt(n)
    left = 0.3 * 0.99795 + 0.7 * 0.03640  # mass of the mixture below -0.256
    assert abs((x < -0.256).mean() - left) < 0.01 + 4 * np.sqrt(left * (1 - left) / n)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "law", "options"),
    [
        ("euler", diffusion.flow(), {"steps": 250, "rho": 1.0}),
        ("heun", diffusion.ve(), {"steps": 100, "rho": 1.0}),
        ("ddim", diffusion.vp(), {"steps": 250}),
        ("dpmpp_2m", diffusion.edm(), {"steps": 60}),
        ("euler_maruyama", diffusion.vp(), {"steps": 500, "rho": 2.0}),
    ],
)
def test_every_sampler_reproduces_the_mixture(key, sampler, law, options):
    score, shape = laws_score(law), (20_000, 1)
    check_moments(diffusion.sample(law, score, key, shape, sampler, **options))


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [
        ("euler", 5),
        ("heun", 9),
        ("heun_edm", 9),
        ("ddim", 5),
        ("dpmpp_2m", 5),
        ("euler_maruyama", 5),
        ("one_step", 1),
    ],
)
def test_calls_of_the_score(key, sampler, calls):
    seen = []

    def score(x, t):
        jax.debug.callback(lambda t: seen.append(float(t)), t, ordered=True)
        return gaussian_score(x, t)

    options = {} if sampler == "one_step" else {"steps": 5}
    law = diffusion.edm()
    x = diffusion.sample(law, score, key, (2, 1), sampler, **options)
    jax.block_until_ready(x)
    jax.effects_barrier()
    assert len(seen) == calls
    np.testing.assert_allclose(seen[0], law.t_max, rtol=1e-6)
    if calls > 1:
        np.testing.assert_allclose(seen[-1], law.t_min, rtol=1e-5)


@pytest.mark.parametrize("law", [diffusion.edm(), diffusion.vp(t_min=1e-3)])
@pytest.mark.parametrize(
    ("sampler", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpmpp_2m", 2)]
)
def test_order_on_gaussian_data(x64, key, law, sampler, order):
    """Along the flow of Gaussian data x / std(t) does not change."""
    std = lambda t: jnp.sqrt((0.5 * law.alpha(t)) ** 2 + law.sigma(t) ** 2)
    score = lambda x, t: -x / std(t) ** 2
    x = start_of(law, key, (50, 1)) / std(law.t_max) * std(law.t_min)
    exact = 0.5**2 * law.alpha(law.t_min) / std(law.t_min) ** 2 * x  # denoised
    errors = []
    for n in (64, 128):
        x = diffusion.sample(
            law, score, key, (50, 1), sampler, steps=n + 1, dtype=jnp.float64
        )
        errors.append(float(jnp.abs(x - exact).mean()))
    assert errors[1] < 0.01
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.1, errors


def euler_in_numpy(law, x, grid):
    for t, after in zip(grid[:-1], grid[1:], strict=True):
        score = numpy_score(x, law.alpha(t), law.sigma(t))
        x = x + (after - t) * (law.dlog_alpha(t) * x - law.g2(t) / 2 * score)
    return x


def ddim_in_numpy(law, x, grid):
    """Eq. (12) of the paper without noise."""
    for t, after in zip(grid[:-1], grid[1:], strict=True):
        alpha, sigma = law.alpha(t), law.sigma(t)
        eps = -sigma * numpy_score(x, alpha, sigma)
        clean = (x - sigma * eps) / alpha
        x = law.alpha(after) * clean + law.sigma(after) * eps
    return x


def dpmpp_2m_in_numpy(law, x, grid):
    """Algorithm 2 of DPM-Solver++ as the paper writes it."""
    alpha, sigma = np.asarray(law.alpha(grid)), np.asarray(law.sigma(grid))
    lam = np.log(alpha) - np.log(sigma)

    def model(x, i):
        return (x + sigma[i] ** 2 * numpy_score(x, alpha[i], sigma[i])) / alpha[i]

    h = lam[1] - lam[0]
    buffer = [model(x, 0)]
    x = sigma[1] / sigma[0] * x - alpha[1] * (np.exp(-h) - 1) * buffer[0]
    for i in range(2, len(grid)):
        buffer.append(model(x, i - 1))
        h_last, h = h, lam[i] - lam[i - 1]
        r = h_last / h
        d = (1 + 1 / (2 * r)) * buffer[-1] - 1 / (2 * r) * buffer[-2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * (np.exp(-h) - 1) * d
    return x


@pytest.mark.parametrize("law", [diffusion.edm(), diffusion.vp()], ids=["edm", "vp"])
@pytest.mark.parametrize(
    ("sampler", "in_numpy"),
    [
        ("euler", euler_in_numpy),
        ("ddim", ddim_in_numpy),
        ("dpmpp_2m", dpmpp_2m_in_numpy),
    ],
)
def test_samplers_are_their_papers(x64, key, law, sampler, in_numpy):
    grid = times_of(law, 9, rho=3.0)
    x = in_numpy(law, start_of(law, key, (6, 1)), grid)
    alpha, sigma = law.alpha(grid[-1]), law.sigma(grid[-1])
    expected = (x + sigma**2 * numpy_score(x, alpha, sigma)) / alpha
    options = {"steps": 9, "rho": 3.0, "dtype": jnp.float64}
    got = diffusion.sample(law, laws_score(law), key, (6, 1), sampler, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-10)


def test_ddim_is_exact_for_a_point_mass(x64, key):
    """Every point that it visits is on the straight path alpha m + sigma eps."""
    law, seen = diffusion.vp(), []

    def score(x, t):
        jax.debug.callback(lambda *at: seen.append(at), x, t, ordered=True)
        return (1.5 * law.alpha(t) - x) / law.sigma(t) ** 2

    x = diffusion.sample(
        law, score, key, (3, 1), "ddim", steps=4, dtype=jnp.float64
    ).block_until_ready()
    jax.effects_barrier()
    # The start is N(0, sigma^2), and not about alpha m: the noise is what leads there.
    eps = start_of(law, key, (3, 1)) - 1.5 * law.alpha(law.t_max)
    eps = eps / law.sigma(law.t_max)
    for visited, t in seen:
        expected = 1.5 * law.alpha(t) + law.sigma(t) * eps
        np.testing.assert_allclose(visited, expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(x, 1.5, rtol=1e-9)


def euler_maruyamas_variance(law, steps, data=0.5):
    """What the scheme does to the variance of Gaussian data, without sampling."""
    grid = times_of(law, steps)
    spread = lambda t: np.asarray((data * law.alpha(t)) ** 2 + law.sigma(t) ** 2)
    variance = np.asarray(law.sigma(law.t_max)) ** 2
    for t, after in zip(grid[:-1], grid[1:], strict=True):
        dt, g2 = t - after, np.asarray(law.g2(t))
        factor = 1 - dt * (np.asarray(law.dlog_alpha(t)) + g2 / spread(t))
        variance = factor**2 * variance + g2 * dt
    t = grid[-1]
    return (data**2 * np.asarray(law.alpha(t)) / spread(t)) ** 2 * variance


@pytest.mark.parametrize(
    "law", [diffusion.edm(), diffusion.vp(t_min=1e-3)], ids=["edm", "vp"]
)
def test_euler_maruyama_and_its_weak_order(x64, key, law):
    std = lambda t: jnp.sqrt((0.5 * law.alpha(t)) ** 2 + law.sigma(t) ** 2)
    score, n = lambda x, t: -x / std(t) ** 2, 40_000
    for steps in (20, 40):
        x = diffusion.sample(law, score, key, (n, 1), "euler_maruyama", steps=steps)
        expected = euler_maruyamas_variance(law, steps)
        assert abs(x.mean()) < 4 * x.std() / np.sqrt(n)
        assert abs(x.var() / expected - 1) < 4 * np.sqrt(2 / n)
    bias = [euler_maruyamas_variance(law, steps + 1) - 0.25 for steps in (256, 512)]
    assert abs(np.log2(bias[0] / bias[1]) - 1) < 0.1


def test_the_settings_for_imagenet_64(key):
    churn = {"s_churn": 40.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003}
    law, n = diffusion.edm(), 4000
    x = diffusion.sample(law, gaussian_score, key, (n, 1), steps=256, **churn)
    # The noise is a little too large on purpose: up to 2 % in the deviation here.
    assert 0.5 * (1 - 4 / np.sqrt(2 * n)) < x.std() < 0.5 * (1.02 + 4 / np.sqrt(2 * n))


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
