import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxdiv import diffusion

LAW = diffusion.vp(t_min=1e-3)
# Two models of two modes each, one above the other.
UPPER = np.array([[-1.5, 1.5], [1.5, 1.5]])
LOWER = UPPER * [1.0, -1.0]
MODES = np.concatenate([UPPER, LOWER])
STD = 0.4


def log_prob(x, t, means, std=STD, weights=None):
    """Log-density of a noised mixture of isotropic Gaussians, and nothing of ours."""
    means = jnp.asarray(means)
    weights = jnp.full(len(means), 1 / len(means)) if weights is None else weights
    alpha, sigma = LAW.alpha(t), LAW.sigma(t)
    variance = (alpha * std) ** 2 + sigma**2
    squares = jnp.sum((x[..., None, :] - alpha * means) ** 2, -1)
    terms = jnp.log(weights) - squares / (2 * variance)
    constant = means.shape[1] / 2 * jnp.log(2 * math.pi * variance)
    return jax.nn.logsumexp(terms, -1) - constant


def score_of(means, std=STD, weights=None):
    return lambda x, t: jax.grad(lambda x: log_prob(x, t, means, std, weights).sum())(x)


def draw(score_fns, n, steps, *, seed=0, dim=2, dtype=jnp.float64, **options):
    return jax.jit(
        lambda key: diffusion.sample_superposition(
            score_fns, LAW, key, (n, dim), steps, dtype=dtype, **options
        )
    )(jax.random.key(seed))


def truth(x, *models):
    """Log-densities of the models at t_min, shape (B, M)."""
    return np.stack([log_prob(x, LAW.t_min, *model) for model in models], -1)


and_step, and_weights = (
    jax.jit(f) for f in (diffusion.and_step, diffusion.and_weights)
)


# The steps.


def test_reference_values_of_two_models(x64):
    scores = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    arguments = scores, jnp.array([[0.3, -0.2]]), 0.01, 2.0, 0.0, 0.0
    weights = and_weights(*arguments)
    np.testing.assert_allclose(weights, [[-1.267767, 2.267767]], atol=1e-6)
    dx = and_step(*arguments)
    np.testing.assert_allclose(dx, [[0.0170711, 0.0170711]], atol=1e-7)
    for score in scores:
        gain = diffusion.ito_log_density_increment(dx, 0.01, score, 0.0, 0.0, 2.0)
        np.testing.assert_allclose(gain, 0.0070711, atol=1e-7)
    one = (scores[:, 0], arguments[1][0], *arguments[2:])  # one sample, no batch
    np.testing.assert_array_equal(and_weights(*one), weights[0])
    np.testing.assert_array_equal(and_step(*one), dx[0])


def test_reference_values_of_or():
    weights = diffusion.or_weights(jnp.array([0.0, 2.0]), 1.0, jnp.array([0.5, 0.0]))
    np.testing.assert_allclose(weights, [0.182426, 1 - 0.182426], rtol=3e-6)


def test_or_weights_at_every_temperature(x64):
    logq = jnp.array([[0.0, 2.0, -1e3], [5.0, 5.0, 1.0]])
    bias = jnp.array([0.3, 0.0, 1.0])
    for temperature in (0.0, 0.5, 3.0, 1e6):
        expected = scipy.special.softmax(temperature * logq + bias, -1)
        weights = diffusion.or_weights(logq, temperature, bias)
        np.testing.assert_allclose(weights, expected, rtol=1e-9, atol=1e-300)
    shared = scipy.special.softmax([0.3, 0.0])
    limit = [[0, 1, 0], [*shared, 0]]  # of equal densities the bias decides
    np.testing.assert_allclose(diffusion.or_weights(logq, jnp.inf, bias), limit)
    traced = jax.jit(diffusion.or_weights)(logq, jnp.array(jnp.inf), bias)
    np.testing.assert_allclose(traced, limit)
    slope = jax.grad(lambda q: diffusion.or_weights(q, jnp.inf)[0, 1])(logq)
    np.testing.assert_array_equal(slope, 0)
    assert np.isnan(diffusion.or_weights(jnp.array([jnp.nan, 1.0]))).all()


def random_step(models, dim, seed=0, batch=3):
    """Arguments of an AND step in float64."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape))
    return {
        "scores": normal(models, batch, dim),
        "eps": normal(batch, dim),
        "dt": jnp.array([0.01, 0.002, 0.3]),
        "g2": jnp.array([2.0, 19.0, 0.3]),
        "drift": normal(batch, dim),
        "div_drift": normal(batch),
        "offsets": normal(batch, models) / 10,
    }


def linear_system(scores, eps, dt, g2, drift, div_drift, offsets):
    """Weights and common increment of one sample, by the bordered system."""
    del drift
    m, s = len(scores), np.asarray(scores)
    matrix = np.zeros((m + 1, m + 1))
    matrix[:m, :m] = dt * g2 * s @ s.T
    matrix[:m, m], matrix[m, :m] = -1, 1
    rhs = offsets - np.sqrt(g2 * dt) * (s @ eps)
    rhs -= dt * (div_drift - g2 / 2 * (s**2).sum(1))
    return np.linalg.solve(matrix, np.append(rhs, 1.0))


@pytest.mark.parametrize("models", [2, 3, 4])
def test_and_solves_the_linear_system(x64, models):
    a = random_step(models, 5)
    weights, dx = and_weights(**a), and_step(**a)
    for i in range(3):
        one = {name: v[:, i] if name == "scores" else v[i] for name, v in a.items()}
        solution = linear_system(**one)
        np.testing.assert_allclose(weights[i], solution[:-1], rtol=1e-9, atol=1e-9)
        s, f = one["scores"], one["drift"]
        scale = one["g2"] * one["dt"]
        step = -one["dt"] * f + scale * weights[i] @ s + np.sqrt(scale) * one["eps"]
        np.testing.assert_allclose(dx[i], step, rtol=1e-9, atol=1e-9)
        # Every log-density gains the common increment and its offset.
        gains = (s @ dx[i]) + one["dt"] * (
            one["div_drift"] + s @ f - one["g2"] / 2 * (s**2).sum(1)
        )
        np.testing.assert_allclose(
            gains - one["offsets"], solution[-1], rtol=1e-9, atol=1e-9
        )


def test_images_are_flattened(x64):
    a = random_step(3, 6)
    image = {
        k: v.reshape(*v.shape[:-1], 2, 3) for k, v in a.items() if v.shape[-1] == 6
    }
    np.testing.assert_array_equal(and_step(**(a | image)).reshape(3, 6), and_step(**a))
    np.testing.assert_array_equal(and_weights(**(a | image)), and_weights(**a))


@pytest.mark.parametrize("models", [1, 2, 3])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_identical_models_are_one(x64, models, dtype):
    a = random_step(1, 4) | {"offsets": None}
    a["scores"] = jnp.repeat(a["scores"], models, 0)
    a = {k: v if v is None else v.astype(dtype) for k, v in a.items()}

    @jax.jit
    def both(scores):
        here = a | {"scores": scores}
        return and_weights(**here), and_step(**here)

    weights, dx = both(a["scores"])
    np.testing.assert_array_equal(weights, jnp.full((3, models), dtype(1) / models))
    scale = (a["g2"] * a["dt"])[:, None]
    plain = scale * a["scores"][0] - a["dt"][:, None] * a["drift"]
    plain += jnp.sqrt(scale) * a["eps"]
    rtol = 1e-5 if dtype == jnp.float32 else 1e-12
    np.testing.assert_allclose(dx, plain, rtol=rtol, atol=rtol)
    slope = jax.jacrev(lambda s: both(s)[1])(a["scores"])
    assert np.isfinite(slope).all()


def test_scores_that_differ_by_rounding_are_one():
    scores = jnp.stack([jnp.ones((1, 3)), jnp.full((1, 3), 1 + 2.0**-22)])
    weights = and_weights(scores, jnp.ones((1, 3)), 0.1, 1.0, 0.0, 0.0)
    np.testing.assert_array_equal(weights, 0.5)


@pytest.mark.parametrize(("models", "dim"), [(3, 1), (4, 2)])
def test_too_many_models_take_the_least_squares(x64, models, dim):
    a = random_step(models, dim)
    weights = and_weights(**a)
    scale = a["g2"] * a["dt"]
    for i in range(3):
        s = np.asarray(a["scores"][:, i])
        centred = s - s.mean(0)
        squares = a["offsets"][i] + scale[i] / 2 * (centred**2).sum(1)
        rhs = squares - squares.mean() - np.sqrt(scale[i]) * centred @ a["eps"][i]
        best = np.linalg.pinv(centred @ centred.T, rcond=1e-10) @ rhs / scale[i]
        np.testing.assert_allclose(weights[i], 1 / models + best, rtol=1e-9)
    assert np.isfinite(
        jax.jacfwd(lambda s: and_step(**(a | {"scores": s})))(a["scores"])
    ).all()


def test_nan_stays_where_it_is(x64):
    for models in (2, 3):
        a = random_step(models, 4)
        a["scores"] = a["scores"].at[1, 0, 2].set(jnp.nan)
        for values in (and_weights(**a), and_step(**a)):
            assert np.isnan(values[0]).all()
            assert np.isfinite(values[1:]).all()


def test_low_precision_is_raised_to_float32():
    a = {k: v.astype(jnp.bfloat16) for k, v in random_step(3, 4).items()}
    assert and_step(**a).dtype == jnp.float32
    assert and_weights(**a).dtype == jnp.float32


def test_increments_by_hand(x64):
    rng = np.random.default_rng(3)
    dx, s, f = rng.standard_normal((3, 4, 2, 3))
    dt, div_f, g2, div_s = np.abs(rng.standard_normal((4, 4)))
    over = lambda x: x.reshape(4, -1).sum(1)
    common = div_f + over(f * s)
    np.testing.assert_allclose(
        diffusion.ito_log_density_increment(dx, dt, s, f, div_f, g2),
        over(dx * s) + (common - g2 / 2 * over(s * s)) * dt,
    )
    np.testing.assert_allclose(
        diffusion.ode_log_density_increment(dx, s, div_s, f, div_f, g2),
        over(dx * s) + common - g2 / 2 * (div_s + over(s * s)),
    )


@pytest.mark.slow
def test_ode_rate_is_the_total_derivative(x64):
    # d/dtau log q_{t - tau}(x + u tau), by central differences of the density itself.
    t, x = 0.3, jnp.array([[0.4, -0.7], [1.2, 0.9]])
    u = jnp.array([[1.0, -2.0], [0.3, 0.5]])
    at = lambda tau: log_prob(x + tau * u, t - tau, UPPER)
    expected = (at(1e-5) - at(-1e-5)) / 2e-5
    score = score_of(UPPER)
    hessian = jax.vmap(jax.hessian(lambda x: log_prob(x, t, UPPER)))(x)
    a, g2 = LAW.dlog_alpha(t), LAW.g2(t)
    rate = diffusion.ode_log_density_increment(
        u, score(x, t), jnp.trace(hessian, axis1=1, axis2=2), a * x, 2 * a, g2
    )
    np.testing.assert_allclose(rate, expected, rtol=1e-8)


# The sampler, on mixtures whose scores are known.


def test_or_samples_the_mixture(x64):
    r = draw([score_of(UPPER), score_of(LOWER)], 1000, 400)
    distances = np.linalg.norm(np.asarray(r.x)[:, None] - MODES, axis=-1)
    assert (distances.min(1) < 3 * STD).mean() > 0.97  # .989 of a 2-D Gaussian
    shares = np.bincount(distances.argmin(1), minlength=4) / 1000
    assert (np.abs(shares - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 1000)).all(), shares
    # The log-densities are absolute: of the law itself, not up to a constant.
    error = np.asarray(r.logq) - truth(r.x, (UPPER,), (LOWER,))
    nearer = error[np.arange(1000), np.asarray(r.logq).argmax(1)]
    assert abs(nearer.mean()) < 0.35  # O(1 / steps)
    assert nearer.std() < 1.2  # O(steps^-1/2)


@pytest.mark.slow
def test_or_with_weights(x64):
    bias = np.log([0.8, 0.2])
    r = draw([score_of(UPPER), score_of(LOWER)], 1000, 400, bias=bias)
    share = (np.asarray(r.x)[:, 1] > 0).mean()
    assert abs(share - 0.8) < 4 * np.sqrt(0.8 * 0.2 / 1000)


@pytest.mark.parametrize("stochastic", [True, False])
def test_and_is_equally_dense(x64, stochastic):
    models = ([[0.0, 0.0]], 0.3), ([[1.0, 0.0]], 1.0)  # of unequal curvature
    r = draw(
        [score_of(*model) for model in models],
        300,
        300,
        mode="and",
        stochastic=stochastic,
    )
    difference = np.diff(truth(r.x, *models))[:, 0]
    assert np.abs(np.diff(r.logq)).max() < 1e-10
    assert abs(np.median(difference)) < 0.03
    assert difference.std() < (0.2 if stochastic else 0.02)
    error = np.asarray(r.logq) - truth(r.x, *models)
    assert np.abs(error.mean(0)).max() < (0.2 if stochastic else 0.01)


def test_and_without_curvature_is_not(x64):
    # The noise that is projected off is missing from the Ito estimate: between these
    # two models it leaves a difference that smaller steps do not remove.
    models = ([[0.0, 0.0]], 0.3), ([[1.0, 0.0]], 1.0)
    r = draw(
        [score_of(*model) for model in models], 300, 300, mode="and", curvature=False
    )
    assert np.abs(np.diff(r.logq)).max() < 1e-10
    assert -np.diff(truth(r.x, *models)).mean() > 1.0


@pytest.mark.slow
@pytest.mark.parametrize("stochastic", [True, False])
def test_and_of_three_models_in_three_dimensions(x64, stochastic):
    models = [(np.eye(3)[j : j + 1], std) for j, std in enumerate((0.4, 0.6, 0.9))]
    r = draw(
        [score_of(*model) for model in models],
        200,
        300,
        dim=3,
        mode="and",
        stochastic=stochastic,
    )
    # Where three scores come to lie on one line the velocity is infinite: a path in
    # a hundred passes close to such a place and is thrown far out.
    spread = lambda logq: np.ptp(logq, axis=1)
    assert np.quantile(spread(r.logq), 0.9) < 1e-9
    apart = spread(truth(r.x, *models))
    assert np.quantile(apart, 0.9) < (0.5 if stochastic else 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("stochastic", [True, False])
def test_lift_is_the_final_difference(x64, stochastic):
    scores = [score_of(UPPER), score_of(LOWER)]
    options = {"mode": "and", "stochastic": stochastic, "bias": np.array([2.0, -1.0])}
    r = draw(scores, 200, 300, **options)
    np.testing.assert_allclose(r.logq[:, 0] - r.logq[:, 1], 3.0, atol=1e-9)
    difference = -np.diff(truth(r.x, (UPPER,), (LOWER,)))[:, 0]
    assert abs(np.median(difference) - 3.0) < 0.1
    again = draw(scores, 200, 300, gain=0.5, **options)
    np.testing.assert_allclose(again.x, r.x, atol=1e-6)  # nothing to correct


@pytest.mark.slow
def test_gain_takes_back_what_is_behind(x64):
    # While the models agree nothing can lift one of them: half of the lift is missing
    # at the end, unless the gain takes it back.
    upper, lower = score_of(UPPER), score_of(LOWER)
    late = lambda x, t: jnp.where(t > 0.5, upper(x, t), lower(x, t))
    gaps = [
        np.diff(draw([upper, late], 9, 40, mode="and", bias=bias, gain=gain).logq)
        for gain, bias in ((0.0, np.array([0.0, 2.0])), (1.0, np.array([0.0, 2.0])))
    ]
    np.testing.assert_allclose(gaps[0], 1.0, atol=0.06)
    np.testing.assert_allclose(gaps[1], 2.0, rtol=1e-9)


@pytest.mark.slow
def test_one_model_is_plain_sampling(x64):
    score = score_of(MODES)
    options = {"n": 5, "steps": 20, "return_trajectory": True}
    plain = draw([score], mode="avg", **options)
    start = jax.random.normal(jax.random.split(jax.random.key(0), 3)[0], (5, 2))
    np.testing.assert_allclose(plain.aux.x[0], LAW.sigma(1.0) * start)
    for mode in ("or", "and"):
        r = draw([score], mode=mode, **options)
        np.testing.assert_array_equal(r.aux.weights, 1.0)
        np.testing.assert_allclose(r.x, plain.x, rtol=1e-9)
    smooth = draw([score], stochastic=False, mode="and", **options)
    np.testing.assert_array_equal(smooth.aux.weights, 1.0)


def test_path_and_grid(x64):
    means = jnp.array([[[0.5]], [[-0.5]]])
    batched = lambda x, t: LAW.alpha(t) * means - x
    r = draw(batched, 4, 8, dim=1, return_trajectory=True)
    u = np.linspace(1, 0, 9)
    np.testing.assert_allclose(r.aux.t, 1e-3 + (1 - 1e-3) * u**2, rtol=1e-12)
    assert r.aux.x.shape == (9, 4, 1)
    assert r.aux.logq.shape == (9, 4, 2)
    assert r.aux.weights.shape == (8, 4, 2)
    np.testing.assert_array_equal(r.aux.x[-1], r.x)
    np.testing.assert_array_equal(r.aux.logq[-1], r.logq)
    start = scipy.stats.norm.logpdf(r.aux.x[0, :, 0], scale=LAW.sigma(1.0))
    np.testing.assert_allclose(r.aux.logq[0], np.stack([start, start], 1))
    # The weights are those of the log-densities before the step, and the increments
    # are those of the path.
    np.testing.assert_allclose(
        r.aux.weights, scipy.special.softmax(r.aux.logq[:-1], -1)
    )
    t, dt, x = r.aux.t[:-1], -np.diff(r.aux.t), np.asarray(r.aux.x)[..., 0]
    f, g2 = LAW.dlog_alpha(t)[:, None], LAW.g2(t)[:, None]
    for j, mean in enumerate((0.5, -0.5)):
        s = LAW.alpha(t)[:, None] * mean - x[:-1]
        rate = f + f * x[:-1] * s - g2 / 2 * s**2
        gains = np.diff(x, axis=0) * s + rate * dt[:, None]
        np.testing.assert_allclose(np.diff(r.aux.logq[..., j], axis=0), gains)
    even = draw(batched, 4, 8, dim=1, rho=1.0, return_trajectory=True)
    np.testing.assert_allclose(np.diff(even.aux.t), -(1 - 1e-3) / 8)


@pytest.mark.slow
def test_a_sequence_is_a_batch_and_a_function_is_a_mode(x64):
    pair = [score_of(UPPER), score_of(LOWER)]
    stacked = lambda x, t: jnp.stack([score(x, t) for score in pair])
    r = draw(pair, 3, 10)
    np.testing.assert_array_equal(draw(stacked, 3, 10).x, r.x)
    laws = [LAW, diffusion.vp(t_min=1e-3)]  # equal laws that are two objects
    again = diffusion.sample_superposition(
        pair, laws, jax.random.key(0), (3, 2), 10, dtype=jnp.float64
    )
    np.testing.assert_allclose(again.x, r.x)

    def mode(logq, scores, t):
        assert (logq.shape, scores.shape, t.shape) == ((3, 2), (2, 3, 2), ())
        return diffusion.or_weights(logq)

    np.testing.assert_array_equal(draw(pair, 3, 10, mode=mode).x, r.x)
    hard = draw(pair, 3, 10, temperature=jnp.inf, return_trajectory=True)
    assert set(np.unique(hard.aux.weights[1:])) == {0.0, 1.0}


@pytest.mark.slow
def test_nan_of_one_sample_stays_with_it():
    def broken(x, t):
        return -x + jnp.where(jnp.arange(3)[:, None] == 1, jnp.nan, 0)

    for options in ({}, {"mode": "and"}, {"mode": "and", "stochastic": False}):
        r = draw([broken, score_of(UPPER)], 3, 4, dtype=jnp.float32, **options)
        assert np.isnan(r.x[1]).all()
        assert np.isnan(r.logq[1]).all()
        assert np.isfinite(r.x[::2]).all()


@pytest.mark.slow
def test_identical_models_have_finite_gradients(x64):
    @jax.jit
    def loss(mean):
        pair = [lambda x, t: LAW.alpha(t) * mean - x] * 2
        r = diffusion.sample_superposition(
            pair, LAW, jax.random.key(0), (4, 2), 5, mode="and", dtype=jnp.float64
        )
        return jnp.sum(r.x * jnp.arange(2.0)), r

    (_, r), slope = jax.value_and_grad(loss, has_aux=True)(jnp.array([0.3, 0.2]))
    np.testing.assert_array_equal(r.logq[:, 0], r.logq[:, 1])
    assert np.isfinite(slope).all()
    assert slope[1] > 0


def test_float32_sums_without_loss():
    # N(0, 1), which vp keeps: with s = -x an increment is -<dx, x> - d beta dt exactly,
    # and the sum of 4000 of them is as good as in float64.
    score = lambda x, t: -x
    options = {"dtype": jnp.float32, "rho": 1.0, "return_trajectory": True}
    r = draw([score, score], 3, 4000, **options)
    x = np.asarray(r.aux.x, np.float64)
    step = (1 - 1e-3) / 4000
    beta = 0.1 + 19.9 * (1e-3 + step * np.arange(4000, 0, -1))
    sums = -(np.diff(x, axis=0) * x[:-1]).sum((0, 2)) - (beta * step).sum()
    expected = np.asarray(r.aux.logq[0, :, 0], np.float64) + sums
    np.testing.assert_allclose(r.logq[:, 0], expected, atol=1e-4)


# The estimators, on the three modes of the paper table.


THREE = np.array([[-1.2, 0.0], [0.8, 1.0], [0.6, -1.4]])


def estimate(paths, steps, stochastic=True, **options):
    """Errors of what the log-density of one model gains on the way."""
    options |= {"rho": 1.0 if stochastic else 2.0, "return_trajectory": True}
    path = draw([score_of(THREE, 0.35)], paths, steps, stochastic=stochastic, **options)
    first, last = path.aux.x[0], path.x  # at t_max the law is not quite noise
    true = truth(last, (THREE, 0.35))[:, 0] - log_prob(first, LAW.t_max, THREE, 0.35)
    return np.asarray(path.logq - path.aux.logq[0])[:, 0] - np.asarray(true)


@pytest.mark.slow
def test_error_orders_of_the_ito_estimator(x64):
    steps = (100, 400, 1600)
    errors = [estimate(4000, n) for n in steps]
    slope = lambda values: np.polyfit(np.log(steps), np.log(values), 1)[0]
    assert abs(slope([e.mean() for e in errors]) + 1) < 0.2
    assert abs(slope([e.std() for e in errors]) + 0.5) < 0.1


@pytest.mark.slow
def test_the_flow_is_exact_and_hutchinson_is_without_bias(x64):
    assert estimate(300, 200, stochastic=False).std() < 2e-4
    errors = estimate(1000, 50, stochastic=False, divergence="hutchinson")
    # A control without probes: what Heun's 50 steps alone leave.
    exact = estimate(1000, 50, stochastic=False)
    assert 0.2 < errors.std() < 1.2
    assert abs((errors - exact).mean()) < 4 * errors.std() / np.sqrt(1000)
    many = estimate(1000, 50, stochastic=False, divergence="hutchinson", n_probes=16)
    assert 3 < errors.std() / many.std() < 5  # 4 = 16^(1/2)
