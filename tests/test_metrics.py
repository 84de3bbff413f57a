import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
from scipy.spatial.distance import cdist

from jaxdiv import datasets, discrepancy, distributions, metrics


def test_frechet_published_value(x64):
    value = metrics.frechet_distance(
        jnp.zeros(2),
        jnp.array([[2.0, 0.5], [0.5, 1.0]]),
        jnp.array([1.0, 2.0]),
        jnp.array([[1.0, -0.3], [-0.3, 0.5]]),
    )
    np.testing.assert_allclose(value, 5.5533014128, rtol=1e-10)


@pytest.mark.parametrize("rank", [3, 8])
def test_frechet_against_sqrtm(rank, x64):
    rng = np.random.default_rng(rank)
    a, b = rng.standard_normal((2, 8, rank))
    c1, c2 = a @ a.T, b @ b.T
    mean1, mean2 = rng.standard_normal((2, 8))
    # sqrtm of the product is what the field's reference code takes; it needs a nudge
    # off singular matrices
    nudge = 1e-9 * np.eye(8)
    root = scipy.linalg.sqrtm((c1 + nudge) @ (c2 + nudge)).real
    expected = np.sum((mean1 - mean2) ** 2) + np.trace(c1 + c2 - 2 * root)
    value = metrics.frechet_distance(*map(jnp.asarray, (mean1, c1, mean2, c2)))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_frechet_is_zero_between_equals_and_nan_on_nan():
    cov = jnp.diag(jnp.array([1.0, 0.5, 0.0]))
    assert abs(metrics.frechet_distance(jnp.ones(3), cov, jnp.ones(3), cov)) < 1e-6
    bad = cov.at[0, 0].set(jnp.nan)
    assert jnp.isnan(metrics.frechet_distance(jnp.ones(3), bad, jnp.ones(3), cov))


def test_frechet_gradient_at_equal_eigenvalues(x64):
    def between(c1, c2):
        return metrics.frechet_distance(jnp.zeros(3), c1, jnp.zeros(3), c2)

    # for commuting matrices it is the sum of (sqrt a_i - sqrt b_i)^2
    gradients = jax.grad(between, (0, 1))(4 * jnp.eye(3), 9 * jnp.eye(3))
    np.testing.assert_allclose(gradients[0], (1 - 3 / 2) * np.eye(3), atol=1e-14)
    np.testing.assert_allclose(gradients[1], (1 - 2 / 3) * np.eye(3), atol=1e-14)
    along = lambda t: between(4 * jnp.eye(3), (9 + t) * jnp.eye(3))
    np.testing.assert_allclose(jax.hessian(along)(0.0), 3 * 2 / (2 * 27), rtol=1e-12)
    singular = jnp.diag(jnp.array([1.0, 0.0, 0.0]))
    assert jnp.isfinite(jax.grad(between)(singular, jnp.eye(3))).all()


def by_brute_force(real, fake, k):
    def radius(x):
        return np.sort(cdist(x, x), 1)[:, k]

    between = cdist(real, fake)
    in_real = between < radius(real)[:, None]
    in_fake = between < radius(fake)[None, :]
    return (
        in_real.any(0).mean(),
        in_fake.any(1).mean(),
        in_real.sum(0).mean() / k,
        in_real.any(1).mean(),
    )


def all_four(real, fake, k, **options):
    precision, recall = metrics.precision_recall(real, fake, k=k, **options)
    return precision, recall, *metrics.density_coverage(real, fake, k=k, **options)


def test_neighbour_metrics_published_values():
    i = jnp.arange(8.0)
    real = jnp.stack([i, i / 2], 1)
    fake = jnp.array([[0.2, 0], [1.1, 0.6], [2.6, 1.4], [20, 3], [4.4, 2]])
    np.testing.assert_allclose(all_four(real, fake, 2), [0.8, 1, 0.9, 0.75], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [7, 1000])
def test_neighbour_metrics_by_brute_force(block_size, x64):
    rng = np.random.default_rng(0)
    real = rng.standard_normal((60, 4)) + 30  # far from the origin
    fake = rng.standard_normal((45, 4)) * 1.2 + 30.3
    found = all_four(jnp.asarray(real), jnp.asarray(fake), 4, block_size=block_size)
    np.testing.assert_allclose(found, by_brute_force(real, fake, 4), rtol=1e-12)


def test_memory_is_a_block_of_rows():
    real = jax.ShapeDtypeStruct((4096, 8), jnp.float32)
    compiled = (
        jax.jit(lambda x, y: all_four(x, y, 5, block_size=64))
        .lower(real, real)
        .compile()
    )
    # the whole matrix would be 64 MiB, and each metric uses several
    assert compiled.memory_analysis().temp_size_in_bytes < 16 * 2**20


def test_kid_by_brute_force(x64):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((23, 6)) + 3, rng.standard_normal((17, 6)) * 1.3 + 3
    gram = lambda a, b: (a @ b.T / 6 + 1) ** 3
    xx, yy = gram(x, x), gram(y, y)
    for part in (xx, yy):
        np.fill_diagonal(part, 0)
    expected = xx.sum() / (23 * 22) + yy.sum() / (17 * 16) - 2 * gram(x, y).mean()
    x, y = jnp.asarray(x), jnp.asarray(y)
    np.testing.assert_allclose(metrics.kid(x, y, block_size=5), expected, rtol=1e-12)
    # the same kernel in the general form that holds the whole matrix
    kernel = lambda a, b: (a @ b / 6 + 1) ** 3
    held = discrepancy.mmd(x, y, kernel=kernel, estimator="u")
    np.testing.assert_allclose(held, expected, rtol=1e-12)


def test_kid_keeps_digits_in_float32():
    x, y = np.random.default_rng(2).standard_normal((2, 400, 64)) * 0.3 + 2
    with jax.enable_x64(True):
        expected = float(metrics.kid(jnp.asarray(x), jnp.asarray(y)))
    value = metrics.kid(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    assert value.dtype == jnp.float32
    assert abs(value - expected) < 1e-5  # of kernels that are about 125


def test_kid_and_its_gradient_hold_a_block_of_rows():
    x = jax.ShapeDtypeStruct((4096, 8), jnp.float32)
    both = jax.jit(jax.value_and_grad(lambda x, y: metrics.kid(x, y, block_size=64)))
    used = both.lower(x, x).compile().memory_analysis().temp_size_in_bytes
    assert used < 16 * 2**20  # each whole matrix would be 64 MiB


def test_mode_coverage_by_hand():
    means = jnp.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [9.0, 9.0]])
    stds, weights = jnp.array([0.5, 0.1, 0.5, 1.0]), jnp.array([0.4, 0.3, 0.2, 0.1])
    samples = jnp.array(
        # mode 0, thrice; nearest to mode 1 but outside its small radius; mode 2, once
        [[0.0, 1.9], [-0.3, 0.0], [1.0, -1.0], [3.4, 0.0], [0.1, 4.1], [3.95, 0.05]]
    )
    found = metrics.mode_coverage(samples, means, stds, weights)
    assert found.modes == 3
    np.testing.assert_allclose(found.high_quality, 5 / 6, rtol=1e-6)
    off = np.abs(np.array([3, 1, 1, 0]) / 5 - weights).sum() / 2
    np.testing.assert_allclose(found.weight_tv, off, rtol=1e-6)
    # mode 1 holds 1 of the 1.8 samples that are its due, mode 2 1 of 1.2
    assert metrics.mode_coverage(samples, means, stds, weights, frac=0.6).modes == 2
    lost = metrics.mode_coverage(samples + 50, means, stds, weights, frac=0.0)
    assert lost == (0, 0.0, 1.0)
    nan = metrics.mode_coverage(samples * jnp.nan, means, stds, weights)
    assert nan == (0, 0.0, 1.0)


def by_gaussian_filter(samples, means, weights, variances, sigma_e):
    """The same divergences with a fine grid of its own and SciPy's filter."""
    edges = np.linspace(-8, 8, 1601)
    step, centres = edges[1] - edges[0], (edges[1:] + edges[:-1]) / 2
    counts, _, _ = np.histogram2d(*samples.T, bins=(edges, edges))
    q = scipy.ndimage.gaussian_filter(counts, sigma_e / step, truncate=12)
    x = np.stack(np.meshgrid(centres, centres, indexing="ij"), -1)
    wide = variances + sigma_e**2
    squared = [((x - mean) ** 2).sum(-1) for mean in means]
    p = sum(
        w * np.exp(-s / (2 * v)) / v
        for w, s, v in zip(weights, squared, wide, strict=True)
    )
    p, q = p / p.sum() + 1e-300, q / q.sum() + 1e-300
    middle = (p + q) / 2
    kl = lambda a, b: np.sum(a * np.log(a / b))
    return kl(p, q), kl(q, p), (kl(p, middle) + kl(q, middle)) / 2


@pytest.mark.slow
def test_smoothed_divergences_against_scipy(x64):
    rng = np.random.default_rng(5)
    means, weights = np.array([[-1.0, 0.0], [1.5, 1.0]]), np.array([0.7, 0.3])
    variances = np.array([0.2, 0.4])
    samples = rng.standard_normal((3000, 2)) * [0.7, 0.9] + [0.3, 0.2]
    mixture = distributions.GaussianMixture(
        *map(jnp.asarray, (weights, means, variances))
    )
    found = metrics.smoothed_divergences_2d(jnp.asarray(samples), mixture, 0.4)
    expected = by_gaussian_filter(samples, means, weights, variances, 0.4)
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    full = mixture._replace(covs=jnp.asarray(variances)[:, None, None] * jnp.eye(2))
    same = metrics.smoothed_divergences_2d(jnp.asarray(samples), full, 0.4)
    np.testing.assert_allclose(same, found, rtol=1e-9)


@pytest.mark.slow
def test_smoothed_divergences_of_its_own_samples_and_of_a_lost_mode():
    ring = datasets.gaussian_mixture_2d("ring8")
    blurred = lambda x: metrics.smoothed_divergences_2d(x, ring, 0.25)
    good = blurred(ring.sample(jax.random.key(0), (20_000,)))
    assert 0 < good.js < 1e-3
    assert abs(good.kl - good.reverse_kl) < 1e-3
    one = ring.means[0] + 0.3 * jax.random.normal(jax.random.key(1), (20_000, 2))
    lost = blurred(one)
    np.testing.assert_allclose(lost.reverse_kl, np.log(8), atol=0.01)
    eighth = (np.log(2 / 9) / 8 + np.log(2) * 7 / 8 + np.log(16 / 9)) / 2
    np.testing.assert_allclose(lost.js, eighth, atol=0.01)
    assert 30 < lost.kl < jnp.inf  # eight blurs away: costly, and no infinity
    bad = blurred(one.at[3, 1].set(jnp.nan))
    assert all(jnp.isnan(value) for value in bad)
    coarse = metrics.smoothed_divergences_2d(one, ring, 0.25, grid=20)
    assert all(jnp.isnan(value) for value in coarse)
