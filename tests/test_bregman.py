import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdiv.divergence import _bregman
from jaxdiv.implicit._entmax import entmax_of

bregman, fenchel_young = _bregman.bregman, _bregman.fenchel_young

GENERATORS = {
    "squared_euclidean": lambda x: sum(v * v for v in x),
    "kl": lambda x: sum(v * mp.log(v) - v for v in x),
    "itakura_saito": lambda x: -sum(mp.log(v) for v in x),
}
SLOPES = {
    "squared_euclidean": lambda v: 2 * v,
    "kl": mp.log,
    "itakura_saito": lambda v: -1 / v,
}


def mp_bregman(name, x, y):
    """The definition in 50 digits."""
    F, slope = GENERATORS[name], SLOPES[name]
    with mp.workdps(50):
        x, y = ([mp.mpf(float(v)) for v in row] for row in (x, y))
        tangent = sum(slope(b) * (a - b) for a, b in zip(x, y, strict=True))
        return float(F(x) - F(y) - tangent)


def entropy(x):
    return jnp.sum(x * jnp.log(x) - x)


@pytest.mark.parametrize("name", [*GENERATORS, entropy])
def test_near_and_far_points_keep_their_digits(x64, name):
    y = np.array([0.7, 1.4, 3e-3])
    moves = np.array([0.0, 1e-9, -1e-6, 1e-3, 0.2, -0.9, 5.0, 1e6])
    x = y * (1 + moves[:, None] * np.array([1.0, 0.4, 0.0]))
    found = bregman(name, x, y)
    expected = [mp_bregman("kl" if callable(name) else name, row, y) for row in x]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found[0] == 0


def test_extreme_ratios_do_not_overflow():
    x, y = jnp.array([1e30, 1e-30]), jnp.array([1e-30, 1e30])
    expected = 1e30 * (60 * np.log(10) - 1) + 1e30
    np.testing.assert_allclose(bregman("kl", x, y), expected, rtol=1e-6)


def test_zeros_of_the_generalised_kl():
    x, y = jnp.array([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]), jnp.array([0.0, 2.0])
    found = bregman("kl", x, y)
    np.testing.assert_allclose(found, [1 - np.log(2), 2, np.inf], rtol=1e-6)
    slope = jax.grad(lambda x, y: bregman("kl", x, y), (0, 1))
    in_x, in_y = slope(jnp.array([0.0, 1.0]), jnp.array([2.0, 2.0]))
    np.testing.assert_allclose(in_x, [-np.inf, -np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(in_y, [1, 0.5])
    assert np.isfinite(slope(jnp.array([1.0, 1.0]), jnp.array([0.0, 2.0]))[1][1])


def test_log_det_against_eigenvalues(x64):
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(2, 4, 4))
    y, other = roots @ np.swapaxes(roots, -1, -2) + np.eye(4) / 3
    for distance in (1e-7, 1e-3, 0.019, 0.3, 1.0):
        x = y + distance * (other - y)
        values = scipy.linalg.eigvals(x - y, y).real
        expected = np.sum(values - np.log1p(values))
        if distance < 1e-2:  # the series, in terms that do not cancel
            terms = ((-1) ** k * values**k / k for k in range(2, 9))
            expected = np.sum(sum(terms))
        np.testing.assert_allclose(bregman("log_det", x, y), expected, rtol=1e-7)
    assert bregman("log_det", y, y) == 0
    scaled = bregman("log_det", np.eye(3) * 2.0, np.eye(3)[None] * 3.0)
    np.testing.assert_allclose(scaled, [3 * (2 / 3 - np.log(2 / 3) - 1)], rtol=1e-13)


def test_a_generator_with_a_kink():
    def F(x):
        return jnp.sum(jnp.maximum(x, 0))

    x, y = jnp.array([[-1.0, 2.0], [1.0, 2.0]]), jnp.array([1.0, -3.0])
    np.testing.assert_allclose(bregman(F, x, y), [1 + 2, 2])


def test_traced_points_out_of_the_domain_give_nan():
    x, y = jnp.array([[-1.0, 1.0], [1.0, 1.0]]), jnp.array([-1.0, 1.0])
    for name in ("kl", "itakura_saito"):
        call = jax.jit(lambda x, y, name=name: bregman(name, x, y))
        assert np.isnan(call(x, y)).all()
    log_det = jax.jit(lambda x: bregman("log_det", x, jnp.eye(2)))
    assert np.isnan(log_det(-jnp.eye(2)))


def sorted_sparsemax(z):
    """The projection on the simplex, from the sorted scores."""
    u = np.sort(z)[::-1]
    excess = (np.cumsum(u) - 1) / np.arange(1, len(z) + 1)
    return np.maximum(z - excess[np.sum(u > excess) - 1], 0)


def tsallis(p, alpha):
    if alpha == 1:
        return -np.sum(scipy.special.entr(p))
    return (np.sum(p**alpha) - 1) / (alpha * (alpha - 1))


def by_optimiser(theta, alpha):
    """The prediction as the maximiser of <theta, p> - Omega(p) on the simplex."""
    n = len(theta)
    found = scipy.optimize.minimize(
        lambda p: tsallis(np.maximum(p, 0), alpha) - theta @ p,
        np.full(n, 1 / n),
        method="SLSQP",
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda p: np.sum(p) - 1},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return found.x, -found.fun


ALPHAS = (1.0, 1.2, 1.5, 2.0)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_loss_against_an_optimiser(x64, alpha):
    rng = np.random.default_rng(1)
    theta = rng.normal(size=(3, 5)) * 1.5
    y = np.concatenate([rng.dirichlet(np.ones(5), 2), np.eye(5)[:1]])
    loss = jax.jit(lambda t, y: fenchel_young(t, y, regularizer=alpha))
    found = loss(theta, y)
    slope = jax.grad(lambda t: jnp.sum(loss(t, y)))(theta)
    for i in range(3):
        p, conjugate = by_optimiser(theta[i], alpha)
        np.testing.assert_allclose(entmax_of(theta, alpha)[i], p, atol=2e-5)
        expected = conjugate + tsallis(y[i], alpha) - theta[i] @ y[i]
        np.testing.assert_allclose(found[i], expected, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(slope[i], p - y[i], atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_gradient_is_prediction_less_target(x64, alpha):
    theta, y = jnp.array([0.9, 0.4, 0.1, -3.0]), jnp.array([0.1, 0.2, 0.0, 0.7])
    loss = jax.jit(lambda t: fenchel_young(t, y, regularizer=alpha))
    p = entmax_of(theta, alpha)
    np.testing.assert_allclose(jax.grad(loss)(theta), p - y, rtol=0, atol=1e-15)
    hessian = jax.hessian(loss)(theta)
    s = jnp.where(p > 0, p ** (2 - alpha), 0)
    expected = jnp.diag(s) - jnp.outer(s, s) / jnp.sum(s)
    np.testing.assert_allclose(hessian, expected, atol=1e-14)
    # The loss at its own prediction.
    assert abs(fenchel_young(theta, p, regularizer=alpha)) <= 1e-30


@pytest.mark.parametrize("n", [2, 100, 32_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_of_every_length(x64, n, dtype):
    eps = np.finfo(dtype).eps
    theta = np.random.default_rng(n).normal(size=n).astype(dtype)
    wide = theta.astype(np.float64)
    np.testing.assert_allclose(
        jax.jit(entmax_of, static_argnums=1)(theta, 2.0),
        sorted_sparsemax(wide),
        atol=4 * eps,
    )
    for alpha in (1.3, 1.5):
        p = jax.jit(entmax_of, static_argnums=1)(theta, alpha)
        assert p.dtype == dtype
        p = np.asarray(p, np.float64)
        assert abs(p.sum() - 1) <= 4 * eps
        inside = p > 0
        threshold = wide[inside] - p[inside] ** (alpha - 1) / (alpha - 1)
        assert np.ptp(threshold) <= 20 * eps
        assert (wide[~inside] <= threshold.max() + 20 * eps).all()


def test_equal_scores_give_equal_mass():
    for alpha in ALPHAS:
        p = entmax_of(jnp.zeros((32_000,)), alpha)
        np.testing.assert_allclose(p, 1 / 32_000, rtol=1e-6)


def test_names_and_orders_agree():
    theta, y = jnp.array([0.4, -0.2, 0.1]), jnp.array([0.2, 0.5, 0.3])
    for name, alpha in (("shannon", 1), ("entmax15", 1.5), ("sparsemax", 2)):
        named = fenchel_young(theta, y, regularizer=name)
        assert named == fenchel_young(theta, y, regularizer=alpha)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", ALPHAS)
def test_impossible_categories(alpha):
    theta = jnp.array([0.3, -jnp.inf, 0.1, -jnp.inf])
    y = jnp.array([[0.5, 0.0, 0.5, 0.0], [0.5, 0.5, 0.0, 0.0]])
    short = fenchel_young(theta[::2], y[0, ::2], regularizer=alpha)
    loss = jax.jit(lambda t, y: fenchel_young(t, y, regularizer=alpha))
    found = loss(theta, y)
    np.testing.assert_allclose(found[0], short, rtol=1e-5)
    assert found[1] == np.inf
    gradient = jax.grad(lambda t: loss(t, y)[0])(theta)
    assert (gradient[1::2] == 0).all()
    np.testing.assert_allclose(gradient, entmax_of(theta, alpha) - y[0], atol=1e-6)
    hessian = jax.hessian(lambda t: loss(t, y)[0])(theta)
    assert np.isfinite(hessian).all()
    assert np.isnan(loss(jnp.full((4,), -jnp.inf), y)).all()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_traced_bad_targets_give_nan(alpha):
    loss = jax.jit(lambda y: fenchel_young(0 * y, y, regularizer=alpha))
    assert np.isnan(loss(jnp.array([1.5, -0.5])))
    assert np.isnan(loss(jnp.array([0.5, jnp.nan])))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=4, max_size=4),
    st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4),
    st.sampled_from(ALPHAS),
)
def test_losses_are_not_negative(theta, logits, alpha):
    y = jax.nn.softmax(jnp.array(logits, jnp.float32))
    loss = fenchel_young(jnp.array(theta, jnp.float32), y, regularizer=alpha)
    assert 0 <= loss < np.inf


def test_low_precision_is_computed_in_float32():
    x = jnp.array([0.5, 0.5], jnp.bfloat16)
    assert bregman("kl", x, x).dtype == jnp.float32
    assert fenchel_young(x, x).dtype == jnp.float32
