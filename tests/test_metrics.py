import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from scipy.spatial.distance import cdist

from jaxdiv import metrics


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
