import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdiv import diffusion, divergence

# h(r) as the f-distill paper scales it, at r = 0.01, 0.5, 1, 2, 10.
RATIOS = np.array([0.01, 0.5, 1.0, 2.0, 10.0])
PAPER_WEIGHTS = {
    "rkl": [1, 1, 1, 1, 1],
    "js": [0.00990099, 0.333333, 0.5, 0.666667, 0.909091],
    "sq_hellinger": [0.05, 0.353553, 0.5, 0.707107, 1.581139],
    "jeffreys": [1.01, 1.5, 2, 3, 11],
    "lecam": [0.000776472, 0.592593, 1, 1.185185, 0.601052],
}
# The paper's generators of these are twice those of jaxdiv.divergence.
PAPER_SCALE = {"js": 2.0, "sq_hellinger": 2.0, "lecam": 2.0}

# Teacher 0.3 N(-1.5, 0.25) + 0.7 N(1, 0.49), student 0.2 + 1.05 z, both at noise 0.6:
# derivative of D_f(teacher || student) in the student's mean and in its scale.
GRADIENTS = {
    "rkl": (-0.070022, -0.267179),
    "fkl": (-0.034188, -0.309516),
    "js": (-0.027309, -0.139224),
    "srkl": (-0.042713, -0.127955),
    "sq_hellinger": (-0.026708, -0.141653),
    "jeffreys": (-0.104210, -0.576695),
    "pearson": (0.041305, -0.809078),
}

# Gaussian closest to 0.6 N(-1.5, 0.36) + 0.4 N(1.5, 0.36): mean and scale.
FITS = {
    "srkl": (-1.476596, 0.627207),
    "rkl": (-0.239393, 1.413859),
    "jeffreys": (-0.249677, 1.454653),
    "sq_hellinger": (-0.279005, 1.530604),
    "js": (-0.292080, 1.562362),
    "fkl": (-0.3, 1.587451),
}


class Mixture:
    """A two-component mixture on the line, noised to the level sigma."""

    def __init__(self, weights, means, variances, sigma=0.0):
        self.weights, self.means = np.array(weights), np.array(means)
        self.variances = np.array(variances) + sigma**2

    def log_prob(self, x):
        z = (x[..., None] - self.means) ** 2 / self.variances
        terms = np.log(self.weights) - (z + jnp.log(2 * np.pi * self.variances)) / 2
        return jax.nn.logsumexp(terms, -1)

    def score(self, x):
        return jax.grad(lambda x: self.log_prob(x).sum())(x)


def gaussian_log_prob(x, mean, variance):
    return -((x - mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance)) / 2


def divergence_by_quadrature(name, teacher, mean, variance):
    x = jnp.linspace(-14, 14, 20_001)
    log_q = gaussian_log_prob(x, mean, variance)
    record = divergence.get(name) if isinstance(name, str) else name
    f = record.f(teacher.log_prob(x) - log_q)
    return PAPER_SCALE.get(name, 1.0) * jnp.trapezoid(jnp.exp(log_q) * f, x)


def gradient_loss(params, z, eps, sigma, name, teacher, quadrature=1.0):
    """The pseudo-loss of the student mean + scale z, with exact scores and ratio."""
    mean, scale = params
    x0 = mean + scale * z
    x = x0 + sigma * eps
    variance = jax.lax.stop_gradient(scale**2 + sigma**2)
    fixed_mean = jax.lax.stop_gradient(mean)
    log_ratio = teacher.log_prob(x) - gaussian_log_prob(x, fixed_mean, variance)
    weight = diffusion.f_distill_weight(name, jnp.exp(log_ratio), normalise=False)
    # Scores stand for denoisers: the loss only sees their difference.
    return diffusion.f_distill_loss(
        x0[:, None],
        teacher.score(x)[:, None],
        -((x - fixed_mean) / variance)[:, None],
        PAPER_SCALE.get(name, 1.0) * weight * quadrature,
        dmd_normalise=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", GRADIENTS)
def test_monte_carlo_gradient_is_that_of_the_divergence(x64, key, name):
    sigma, groups, n = 0.6, 100, 2000
    teacher = Mixture([0.3, 0.7], [-1.5, 1.0], [0.25, 0.49], sigma)
    params = (jnp.float64(0.2), jnp.float64(1.05))
    exact = jax.grad(
        lambda p: divergence_by_quadrature(name, teacher, p[0], p[1] ** 2 + sigma**2)
    )(params)
    np.testing.assert_allclose(exact, GRADIENTS[name], atol=1.5e-6)

    z, eps = jax.random.normal(key, (2, groups, n), jnp.float64)
    grads = jax.jit(
        jax.vmap(jax.grad(gradient_loss), (None, 0, 0, None, None, None)),
        static_argnums=(4, 5),
    )(params, z, eps, sigma, name, teacher)
    for samples, expected in zip(grads, exact, strict=True):
        standard_error = samples.std() / np.sqrt(groups)
        assert abs(samples.mean() - expected) < 4 * standard_error
        assert standard_error < 0.02 * abs(exact[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", FITS)
def test_gaussian_student_descends_to_the_minimiser_of_each_divergence(x64, name):
    # No noise; the mean over the student is a quadrature in z, not a sample.
    teacher = Mixture([0.6, 0.4], [-1.5, 1.5], [0.36, 0.36])
    z = jnp.linspace(-8, 8, 401)
    mass = jnp.exp(-(z**2) / 2)
    quadrature = mass / mass.mean()
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 800))

    def step(carry, _):
        params, state = carry
        grads = jax.grad(gradient_loss)(params, z, 0.0, 0.0, name, teacher, quadrature)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    # The mode-seeking ones have a second minimum: each starts in the basin of its own.
    start = (jnp.float64(FITS[name][0] + 0.3), jnp.float64(FITS[name][1] + 0.2))
    run = jax.jit(lambda c: jax.lax.scan(step, c, None, length=800)[0][0])
    np.testing.assert_allclose(
        run((start, optimizer.init(start))), FITS[name], atol=2e-4
    )


def test_the_fits_are_ordered_from_mode_seeking_to_mass_covering():
    stds = [FITS[name][1] for name in FITS]
    order = ["srkl", "rkl", "jeffreys", "sq_hellinger", "js", "fkl"]
    assert list(FITS) == order
    assert stds == sorted(stds)


@pytest.mark.parametrize("name", PAPER_WEIGHTS)
def test_weight_reference_values(x64, name):
    weight = diffusion.f_distill_weight(name, jnp.asarray(RATIOS), normalise=False)
    scaled = PAPER_SCALE.get(name, 1.0) * weight
    np.testing.assert_allclose(scaled, PAPER_WEIGHTS[name], rtol=2e-6)


@pytest.mark.slow
@given(
    st.lists(st.floats(0.125, 20.0, width=32), min_size=1, max_size=9),
    st.sampled_from(["js", "kl", "le_cam", "pearson_chi2", "softened_rkl"]),
)
@settings(deadline=None, max_examples=25)
def test_normalised_weights_are_h_over_its_mean(ratios, name):
    ratio = jnp.array(ratios, jnp.float32)
    weight = diffusion.f_distill_weight(name, ratio)
    h = diffusion.f_distill_weight(name, ratio, normalise=False)
    assert weight.dtype == jnp.float32
    np.testing.assert_allclose(weight, h / h.mean(), rtol=2e-5)


def test_reverse_kl_weighs_all_samples_exactly_alike():
    ratio = jnp.array([0.1, 0.3, 7.0, 20.0, 1e30])
    np.testing.assert_array_equal(diffusion.f_distill_weight("rkl", ratio), jnp.ones(5))
    np.testing.assert_array_equal(
        diffusion.f_distill_weight("rkl", ratio, normalise=False), jnp.ones(5)
    )


def test_weight_takes_records_and_is_safe_at_the_ends():
    record = divergence.get("alpha", a=0.3)
    ratio = jnp.array([0.5, 2.0])
    np.testing.assert_allclose(
        diffusion.f_distill_weight(record, ratio, normalise=False),
        ratio**0.3,
        rtol=1e-6,
    )
    huge = jnp.array([1e-30, 1e30], jnp.float32)  # h of pearson overflows here
    np.testing.assert_allclose(diffusion.f_distill_weight("pearson", huge), [0, 2])
    weight = diffusion.f_distill_weight("js", jnp.array([jnp.nan, 1.0]))
    assert jnp.isnan(weight).all()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3, 1)])
def test_loss_gradient_is_exactly_weight_times_the_difference(key, shape):
    keys = jax.random.split(key, 4)
    x0, teacher, fake = (jax.random.normal(k, shape) for k in keys[:3])
    weight = jax.random.uniform(keys[3], (4,))
    loss = lambda *args: diffusion.f_distill_loss(*args, dmd_normalise=False)
    over = (slice(None), *(None,) * (len(shape) - 1))
    g = weight[over] * (fake - teacher)
    value, grads = jax.value_and_grad(loss, range(4))(x0, teacher, fake, weight)
    np.testing.assert_array_equal(grads[0], g / 4)
    assert all((grad == 0).all() for grad in grads[1:])
    np.testing.assert_allclose(value, (g**2).sum() / 8, rtol=1e-6)


@pytest.mark.slow
def test_loss_with_unit_weight_is_the_dmd_gradient_bitwise(key):
    x0, teacher, fake = jax.random.normal(key, (3, 8, 5))
    weight = diffusion.f_distill_weight("rkl", jnp.linspace(0.2, 9.0, 8))

    def dmd(x0):  # the loss as DMD writes it
        normaliser = jnp.abs(x0 - teacher).mean(1, keepdims=True) + 1e-6
        direction = (fake - teacher) / normaliser
        return (jax.lax.stop_gradient(direction) * x0).sum() / 8

    ours = jax.grad(lambda x0: diffusion.f_distill_loss(x0, teacher, fake, weight))(x0)
    np.testing.assert_allclose(ours, jax.grad(dmd)(x0), rtol=1e-6)
    bare = lambda x0, w: diffusion.f_distill_loss(
        x0, teacher, fake, w, dmd_normalise=False
    )
    np.testing.assert_array_equal(
        jax.grad(bare)(x0, weight), jax.grad(bare)(x0, jnp.ones(8))
    )


def test_loss_at_the_teacher_is_finite():
    x0 = jnp.ones((2, 3))  # the normaliser is zero here
    loss = lambda x0: diffusion.f_distill_loss(x0, x0, x0, jnp.ones(2))
    value, grad = jax.value_and_grad(loss)(x0)
    assert value == 0
    assert (grad == 0).all()


def test_ratio_is_real_over_fake_averaged_over_heads_and_clipped():
    logits = jnp.array([[1.0, 2.0], [-50.0, -50.0], [50.0, 50.0], [0.0, -0.5]])
    ratio = diffusion.ratio_from_logits(logits)
    np.testing.assert_allclose(ratio, [np.exp(1.5), 0.1, 20, np.exp(-0.25)], rtol=1e-6)
    wide = diffusion.ratio_from_logits(logits, clip=(1e-9, 1e9))
    np.testing.assert_allclose(wide[1:3], np.exp([-10.0, 10.0]), rtol=1e-5)
    assert jnp.isnan(diffusion.ratio_from_logits(jnp.array([jnp.nan]))).all()
    half = diffusion.ratio_from_logits(jnp.zeros(2, jnp.bfloat16))
    assert half.dtype == jnp.float32


def test_bins_keep_a_running_mean():
    ratio, t = jnp.array([2.0, 4.0, 9.0]), jnp.array([0.5, 0.7, 2.5])
    means = jnp.array([1.0, 7.0, 1.0])
    options = {"t_min": 0.0, "t_max": 3.0, "rate": 0.75}
    normalised, new = diffusion.bin_normalise(ratio, t, means, **options)
    np.testing.assert_allclose(new, [0.75 + 0.25 * 3, 7.0, 0.75 + 0.25 * 9])
    np.testing.assert_allclose(normalised, [2 / 1.5, 4 / 1.5, 9 / 3.0], rtol=2e-6)


def test_bins_of_times_outside_and_empty_bins():
    ratio, t = jnp.array([3.0, 5.0]), jnp.array([-4.0, 99.0])
    means = jnp.array([1.0, 2.0, 1.0])
    options = {"t_min": 0.0, "t_max": 1.0}
    _, new = diffusion.bin_normalise(ratio, t, means, rate=0.0, **options)
    np.testing.assert_allclose(new, [3.0, 2.0, 5.0])
    _, frozen = diffusion.bin_normalise(ratio, t, means, rate=1.0, **options)
    np.testing.assert_allclose(frozen, means)
    edge = jnp.array([0.0, 1.0])  # t_max belongs to the last bin
    _, new = diffusion.bin_normalise(ratio, edge, means, rate=0.0, **options)
    np.testing.assert_allclose(new, [3.0, 2.0, 5.0])
    empty, same = diffusion.bin_normalise(ratio[:0], t[:0], means, **options)
    assert empty.shape == (0,)
    np.testing.assert_array_equal(same, means)


@pytest.mark.slow
@given(st.lists(st.floats(0.125, 20.0, width=32), min_size=1, max_size=30))
@settings(deadline=None, max_examples=25)
def test_without_memory_every_bin_has_mean_one(ratios):
    ratio = jnp.array(ratios, jnp.float32)
    t = jnp.linspace(0.0, 1.0, len(ratios))
    normalised, _ = diffusion.bin_normalise(
        ratio, t, jnp.ones(4), t_min=0.0, t_max=1.0, rate=0.0
    )
    bins = np.clip(np.floor(np.asarray(t) * 4), 0, 3)
    for b in np.unique(bins):
        assert abs(normalised[bins == b].mean() - 1) < 1e-4


def test_discriminator_loss_is_least_at_the_log_ratio(x64):
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.3, 0.5])

    def expected_loss(logits):
        losses = diffusion.gan_losses(logits, logits)
        real = jax.nn.softplus(-logits)
        return p @ real + q @ (losses.discriminator - real)

    best = jnp.log(p / q)
    np.testing.assert_allclose(jax.grad(expected_loss)(best), 0, atol=1e-15)
    chance = diffusion.gan_losses(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    np.testing.assert_allclose(chance.discriminator, 2 * np.log(2))
    np.testing.assert_allclose(chance.generator, np.log(2))
