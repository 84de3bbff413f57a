import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdiv import discrepancy as d

X = np.array([0.0, 1, 2, 4, 7, 7, 9, 12])
S = np.array([0.0, 0, 1, 1, 0, 1, 1, 0])
A = np.array([3.0, 1, 4, 1, 5, 9, 2, 6])


def brute_centred(x, estimator, exponent=1.0):
    x = x.reshape(len(x), -1)
    n = len(x)
    dist = np.linalg.norm(x[:, None] - x[None], axis=-1) ** exponent
    if estimator == "v":
        return dist.mean(0) + dist.mean(1)[:, None] - dist - dist.mean()
    rows = dist.sum(1)
    out = (rows[:, None] + rows) / (n - 2) - dist - rows.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(out, 0)
    return out


def brute_dcov(x, y, estimator, exponent=1.0):
    n = len(x)
    total = np.sum(
        brute_centred(x, estimator, exponent) * brute_centred(y, estimator, exponent)
    )
    return total / (n * n if estimator == "v" else n * (n - 3))


close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("method", ["naive", "fast", "blocked"])
def test_published_covariances(method, x64):
    dcov = lambda x, y, e: d.distance_covariance_sqr(x, y, estimator=e, method=method)
    dcor = lambda x, y, e: d.distance_correlation_sqr(x, y, estimator=e, method=method)
    close(dcov(X, A, "v"), 2.056640625)
    close(dcov(X, A, "u"), 0.6666666666666667)
    close(dcor(X, A, "v"), 0.36901137506080767)
    close(dcor(X, A, "u"), 0.13525869293285456)
    close(dcov(X, S, "v"), 0.15625)
    close(dcov(X, S, "u"), -0.2571428571428571)


def test_published_joint_values(x64):
    ccdcov = d.concatenated_distance_covariance_sqr
    close(ccdcov(X, [S, A], estimator="v"), 2.112906953351928)
    close(ccdcov(X, [S, A]), 0.631635154569409)
    joint = d.joint_distance_covariance_sqr
    close(joint([X, S, A]), 3.216796875)
    close(joint([X, S, A], estimator="u"), 0.453968253968255)
    close(joint([X, S, A], estimator="us"), -0.1332577657390941)
    close(joint([X, S, A], estimator="u", c=0.5), 0.34920634920634946)
    close(joint([X, S, A], estimator="u", c=2.0), 0.6634920634920682)
    pairs = sum(brute_dcov(a, b, "u") for a, b in ((X, S), (X, A), (S, A)))
    close(pairs, 0.2095238095238098)
    triple = joint([X, S, A], estimator="u") - pairs
    close(triple, 0.2444444444444443)
    close(joint([X, A], estimator="u"), brute_dcov(X, A, "u"))


def test_gerrymandering(x64):
    a, b = np.repeat([0.0, 0, 1, 1], 10), np.tile([0.0, 1], 20)
    xor = np.abs(a - b)
    assert abs(d.distance_covariance_sqr(xor, a)) < 1e-15
    assert abs(d.distance_covariance_sqr(xor, b)) < 1e-15
    ccdcov, joint = (
        d.concatenated_distance_covariance_sqr,
        d.joint_distance_covariance_sqr,
    )
    close(ccdcov(xor, [a, b], estimator="v"), 0.07322330470336247)
    close(joint([xor, a, b]), 0.125)
    close(d.distance_covariance_sqr(xor, a, estimator="u"), -0.006930006930006949)
    close(ccdcov(xor, [a, b]), 0.06733006758515597)
    close(joint([xor, a, b], estimator="u"), 0.11070241839472605)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "levels"), [(4, 3), (7, 2), (64, 1000), (333, 5), (2000, 12)]
)
def test_fast_equals_naive_with_ties(n, levels, x64):
    rng = np.random.default_rng(n)
    x = rng.integers(0, levels, n) / 3
    y = np.where(rng.random(n) < 0.5, x, rng.integers(0, levels, n)) ** 2
    for estimator in ("v", "u"):
        value = [
            d.distance_covariance_sqr(x, y, estimator=estimator, method=method)
            for method in ("fast", "naive", "blocked")
        ]
        np.testing.assert_allclose(value[0], value[1], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(value[2], value[1], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(
            value[1], brute_dcov(x, y, estimator), rtol=1e-10, atol=1e-12
        )


@pytest.mark.slow
def test_gradients_agree_between_methods(x64):
    rng = np.random.default_rng(0)
    for x in (rng.normal(size=12), rng.integers(0, 3, 12) / 2.0):
        y = rng.normal(size=12)
        for estimator in ("v", "u"):
            grads = [
                jax.grad(
                    lambda x, y, m=m, e=estimator: d.distance_correlation_sqr(
                        x, y, method=m, estimator=e
                    ),
                    (0, 1),
                )(x, y)
                for m in ("naive", "fast", "blocked")
            ]
            for other in grads[1:]:
                np.testing.assert_allclose(other[0], grads[0][0], atol=1e-12)
                np.testing.assert_allclose(other[1], grads[0][1], atol=1e-12)
            assert np.isfinite(grads[0][0]).all()


@pytest.mark.slow
def test_constant_samples():
    for method in ("naive", "fast", "blocked"):
        loss = lambda x, m=method: d.distance_correlation_sqr(x, A, method=m)
        value, grad = jax.value_and_grad(loss)(np.full(8, 0.1, np.float32))
        assert value == 0
        assert (grad == 0).all()


@pytest.mark.parametrize("exponent", [0.5, jnp.float32(0.5)])
def test_an_exponent_is_any_concrete_number(exponent):
    expected = d.distance_covariance_sqr(X.astype(np.float32), A, exponent=0.5)
    assert d.distance_covariance_sqr(X, A, exponent=exponent) == expected


@pytest.mark.slow
def test_nan_propagates():
    x = jnp.float32(X).at[1].set(jnp.nan)
    for method in ("naive", "fast", "blocked"):
        assert jnp.isnan(d.distance_correlation_sqr(A, x, method=method))
    for method in ("pairwise", "sort", "blocked"):
        assert jnp.isnan(d.energy_distance(x, A, method=method))
    assert jnp.isnan(d.mmd(x, A))
    test = d.permutation_test(jax.random.key(0), d.distance_covariance_sqr, [x, A], 3)
    assert jnp.isnan(test.p_value)
    points = jnp.stack([x, x], 1)
    missing = jnp.isnan(d.pairwise_distance(points, points[2:]))
    assert missing[1].all()
    assert missing.sum() == 6  # and no other


@pytest.mark.slow
def test_gradients_far_from_the_origin():
    x, y = jax.random.normal(jax.random.key(2), (2, 50, 3)) + 1e4
    grad = jax.grad(d.energy_distance)(x, y)
    with jax.enable_x64(True):
        exact = jax.grad(d.energy_distance)(x.astype(float), y.astype(float))
    np.testing.assert_allclose(grad, exact, atol=1e-5 * np.abs(exact).max())


@pytest.mark.slow
def test_vectors_and_exponents(x64):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(30, 2))
    for exponent in (0.5, 1.0, 1.7, 2.0):
        for estimator in ("v", "u"):
            for method in ("naive", "blocked"):
                value = d.distance_covariance_sqr(
                    x, y, estimator=estimator, exponent=exponent, method=method
                )
                close(value, brute_dcov(x, y, estimator, exponent))


def test_the_unbiased_estimator_is_unbiased():
    x, y = jax.random.normal(jax.random.key(0), (2, 4000, 8))
    values = jax.vmap(lambda x, y: d.distance_covariance_sqr(x, y, estimator="u"))(x, y)
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert values.min() < 0


@pytest.mark.slow
def test_float32_keeps_its_digits():
    rng = np.random.default_rng(2)
    x = (1e3 + rng.normal(size=5000)).astype(np.float32)
    y = (np.sin(3 * x) + rng.normal(size=5000)).astype(np.float32)
    with jax.enable_x64(True):
        exact = d.distance_covariance_sqr(x.astype(float), y.astype(float))
    for method in ("naive", "fast", "blocked"):
        value = d.distance_covariance_sqr(x, y, method=method)
        np.testing.assert_allclose(value, exact, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pairwise", "sort", "blocked"])
def test_energy_distance_against_scipy(method, x64):
    rng = np.random.default_rng(3)
    for x, y in (
        (rng.normal(size=40), rng.normal(0.5, 2, size=70)),
        (rng.integers(0, 4, 30) / 1.0, rng.integers(1, 5, 20) / 1.0),
    ):
        value = d.energy_distance(x, y, method=method)
        np.testing.assert_allclose(
            value, scipy.stats.energy_distance(x, y) ** 2, rtol=1e-10
        )
        assert abs(d.energy_distance(x, x, method=method)) < 1e-15


@pytest.mark.slow
def test_energy_distance_methods_and_gradients(x64):
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(33, 3))
    grads = [
        jax.value_and_grad(lambda x, m=m: d.energy_distance(x, y, method=m))(x)
        for m in ("pairwise", "blocked")
    ]
    dist = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1).mean()
    close(grads[0][0], 2 * dist(x, y) - dist(x, x) - dist(y, y))
    close(grads[1][0], grads[0][0])
    np.testing.assert_allclose(grads[1][1], grads[0][1], atol=1e-14)
    one = [
        jax.grad(lambda x, m=m: d.energy_distance(x, y[:, 0], method=m))(x[:, 0])
        for m in ("pairwise", "sort")
    ]
    np.testing.assert_allclose(*one, atol=1e-14)


def test_binary_shortcut(x64):
    # dCov^2 with a binary attribute is between-group energy: 2 (n0 n1 / n^2)^2 E
    groups = X[S == 0], X[S == 1]
    share = (4 * 4 / 64) ** 2
    close(2 * share * d.energy_distance(*groups), d.distance_covariance_sqr(X, S))


@pytest.mark.slow
def test_blocked_forms_grow_linearly():
    def temporary(loss, n):
        compiled = jax.jit(jax.value_and_grad(loss)).lower(jnp.zeros((n, 2))).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    for loss in (
        lambda x: d.distance_covariance_sqr(x, x**2, method="blocked"),
        lambda x: d.energy_distance(x, x**2, method="blocked"),
    ):
        assert temporary(loss, 8000) < 2.5 * temporary(loss, 4000)


@pytest.mark.slow
def test_mmd(x64):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(15, 2)), rng.normal(1, 1, size=(20, 2))
    k = lambda a, b, h: np.exp(-np.sum((a[:, None] - b[None]) ** 2, -1) / (2 * h**2))
    off = lambda m: (m.sum() - np.trace(m)) / (len(m) * (len(m) - 1))
    h = 0.7
    v = k(x, x, h).mean() + k(y, y, h).mean() - 2 * k(x, y, h).mean()
    u = off(k(x, x, h)) + off(k(y, y, h)) - 2 * k(x, y, h).mean()
    close(d.mmd(x, y, bandwidth=h, estimator="v"), v)
    close(d.mmd(x, y, bandwidth=h), u)
    z = np.concatenate([x, y])
    median = np.median(scipy.spatial.distance.pdist(z))
    close(d.mmd(x, y), d.mmd(x, y, bandwidth=median))
    # a linear kernel sees the means only; minus the distance is the energy distance
    mean = x.mean(0) - y.mean(0)
    close(d.mmd(x, y, kernel=jnp.dot, estimator="v"), mean @ mean)


def test_mmd_is_unbiased():
    x, y = jax.random.normal(jax.random.key(1), (2, 4000, 5, 1))
    values = jax.vmap(lambda x, y: d.mmd(x, y, bandwidth=1.0))(x, y)
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))


@pytest.mark.slow
def test_pairwise_distance(x64):
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(4, 3))
    close(d.pairwise_distance(x, y), scipy.spatial.distance.cdist(x, y))
    twice = jnp.concatenate([x, x])
    hessian = jax.hessian(lambda z: d.pairwise_distance(z, exponent=1.5).sum())(twice)
    assert jnp.isfinite(hessian).all()
    # far from the origin, points keep the digits of their differences
    np.testing.assert_allclose(
        d.pairwise_distance(jnp.float32([[1e4, 0.0]]), jnp.float32([[1e4, 1e-3]])),
        [[1e-3]],
        rtol=1e-6,
    )


def test_centring(x64):
    dist = d.pairwise_distance(X)
    close(d.v_center(dist), brute_centred(X, "v"))
    close(d.u_center(dist), brute_centred(X, "u"))


@pytest.mark.slow
def test_permutation_test(key):
    x = jax.random.normal(key, (40,))
    dependent = d.permutation_test(
        key, d.distance_covariance_sqr, [x, jnp.abs(x)], num=99
    )
    assert dependent.p_value == pytest.approx(0.01)
    assert dependent.null.shape == (99,)
    reached = (dependent.null >= dependent.statistic).sum()
    assert dependent.p_value == pytest.approx((1 + reached) / 100)
    noise = jax.random.normal(jax.random.key(7), (300, 12))
    one = lambda key, y: (
        d.permutation_test(
            key, d.distance_covariance_sqr, [y[:6], y[6:]], num=19
        ).p_value
    )
    p_values = jax.vmap(one)(jax.random.split(key, 300), noise)
    assert 0.02 < (p_values <= 0.1).mean() < 0.18  # a level of 0.1


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.floats(-3, 3), st.floats(0.1, 10))
def test_invariances(seed, shift, scale):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 12)).astype(np.float32)
    value = float(d.distance_covariance_sqr(x, y, method="fast"))
    assert value >= -1e-6
    moved = d.distance_covariance_sqr(shift - scale * x, y, method="fast")
    np.testing.assert_allclose(moved, scale * value, rtol=1e-3, atol=1e-5 * scale)
    order = rng.permutation(12)
    np.testing.assert_allclose(
        d.distance_covariance_sqr(y[order], x[order], method="fast"),
        value,
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 9, 16])
def test_second_derivatives_with_a_product_among_the_samples(n, x64):
    # The two uses of x * y may be fused differently: the diagonal is then not zero.
    rng = np.random.default_rng(n)
    args = (*rng.standard_normal((2, n)), 0.7)
    v, w = ((*rng.standard_normal((2, n)), rng.standard_normal()) for _ in range(2))

    def value(x, y, c):
        return d.joint_distance_covariance_sqr([x, y, x * y], c=c, estimator="u")

    def slope(*args):
        return sum(map(jnp.vdot, jax.grad(value, (0, 1, 2))(*args), v))

    def curvature(*args):
        return jax.jvp(slope, args, w)[1]

    high, low = (
        slope(*(z + step * along for z, along in zip(args, w, strict=True)))
        for step in (1e-5, -1e-5)
    )
    expected = (high - low) / 2e-5
    np.testing.assert_allclose(jax.jit(curvature)(*args), expected, rtol=1e-6)
