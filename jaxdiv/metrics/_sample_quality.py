"""How good generated samples are, measured in a feature space of the caller's."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.implicit._psd_sqrt import psd_sqrt
from jaxdiv.typing import Array, ArrayLike


class PrecisionRecall(NamedTuple):
    """Result of `precision_recall`.

    Attributes:
      precision: share of generated points inside some real ball.
      recall: share of real points inside some generated ball.
    """

    precision: Array
    recall: Array


class DensityCoverage(NamedTuple):
    """Result of `density_coverage`.

    Attributes:
      density: mean number of real balls around a generated point, divided by k.
      coverage: share of real balls that hold a generated point.
    """

    density: Array
    coverage: Array


def frechet_distance(
    mean1: ArrayLike, cov1: ArrayLike, mean2: ArrayLike, cov2: ArrayLike
) -> Array:
    r"""Frechet distance between two Gaussians, squared, as FID reports it.

    .. math:: |m_1 - m_2|^2 + \operatorname{tr} C_1 + \operatorname{tr} C_2
              - 2 \operatorname{tr} (C_1^{1/2} C_2 C_1^{1/2})^{1/2}

    Eigenvalues below zero count as zero, so singular covariances are safe. A rounding
    error e in a singular direction enters as sqrt(e): pass float64 (`jax.enable_x64`)
    where three digits do not do.

    Args:
      mean1: mean of the first law, shape `[d]`.
      cov1: its covariance, symmetric, shape `[d, d]`; use `ddof=1` on samples.
      mean2: mean of the second law.
      cov2: its covariance.

    Returns:
      Scalar; NaN where an input is NaN.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes are not `[d]`, `[d, d]`, `[d]`, `[d, d]`.

    Differentiable in all arguments, in every mode and order, equal eigenvalues
    included; in the null space of a singular covariance, where the derivative is
    infinite, it is taken as zero.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import metrics
      >>> mean, cov = jnp.zeros(2), jnp.eye(2)
      >>> print(f"{metrics.frechet_distance(mean, cov, mean + 1, 4 * cov):.4f}")
      4.0000

    References:
      Dowson and Landau, 1982; Heusel et al., 2017, arXiv:1706.08500, eq. (6).
    """
    m1, c1, m2, c2 = _check.floating(mean1=mean1, cov1=cov1, mean2=mean2, cov2=cov2)
    _check.rank(1, mean1=m1, mean2=m2)
    _check.same_shape(mean1=m1, mean2=m2)
    if not c1.shape == c2.shape == 2 * m1.shape:
        raise ValueError(
            f"cov1 has shape {c1.shape} and cov2 {c2.shape}; expected {2 * m1.shape}."
        )
    root = psd_sqrt(c1)
    overlap = jnp.trace(psd_sqrt(root @ c2 @ root))
    return jnp.sum((m1 - m2) ** 2) + jnp.trace(c1) + jnp.trace(c2) - 2 * overlap


def precision_recall(
    real: ArrayLike, fake: ArrayLike, *, k: int = 3, block_size: int = 256
) -> PrecisionRecall:
    """Improved precision and recall of generated samples.

    A real point carries the ball that reaches to its k-th nearest real neighbour.
    Precision is the share of generated points strictly inside some ball; recall is the
    same with the roles exchanged.

    Args:
      real: features of real samples, shape `[n, d]`.
      fake: features of generated samples, shape `[m, d]`.
      k: neighbour that sets the radius; itself not counted.
      block_size: rows of the distance matrix that are held at a time.

    Returns:
      `PrecisionRecall` of two scalars in [0, 1].

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the dimensions differ, a set has fewer than two points, or `k` is not
        in 1, ..., size - 1.

    Piecewise constant: the derivative is zero.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import metrics
      >>> real = jnp.array([[0.0], [1.0], [2.0]])
      >>> precision, recall = metrics.precision_recall(real, real + 5, k=1)
      >>> print(precision, recall)
      0.0 0.0

    References:
      Kynkaanniemi et al., 2019, arXiv:1904.06991, eqs. (1) to (3).
    """
    real, fake = _features(real, fake, k, fake_k=k)
    real_radius = _squared_radius(real, k, block_size)
    fake_radius = _squared_radius(fake, k, block_size)
    inside_real = _balls_around(fake, real, real_radius, block_size) > 0
    inside_fake = _balls_around(real, fake, fake_radius, block_size) > 0
    return PrecisionRecall(_share(inside_real, real), _share(inside_fake, real))


def density_coverage(
    real: ArrayLike, fake: ArrayLike, *, k: int = 5, block_size: int = 256
) -> DensityCoverage:
    """Density and coverage, which outliers do not inflate as they do precision.

    Args:
      real: features of real samples, shape `[n, d]`.
      fake: features of generated samples, shape `[m, d]`.
      k: neighbour that sets the radius of a real ball; itself not counted.
      block_size: rows of the distance matrix that are held at a time.

    Returns:
      `DensityCoverage`; density is about 1 for equal laws and may exceed 1, coverage
      is in [0, 1].

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the dimensions differ, a set has fewer than two points, or `k` is not
        in 1, ..., n - 1.

    Piecewise constant: the derivative is zero.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import metrics
      >>> real = jnp.array([[0.0], [1.0], [2.0]])
      >>> density, coverage = metrics.density_coverage(real, real, k=1)
      >>> print(f"{density:.2f} {coverage:.2f}")
      1.00 1.00

    References:
      Naeem et al., 2020, arXiv:2002.09797, eqs. (3) and (5).
    """
    real, fake = _features(real, fake, k, fake_k=1)
    radius = _squared_radius(real, k, block_size)
    balls = _balls_around(fake, real, radius, block_size)
    nearest = jax.lax.map(
        lambda x: _squared_distances(x, fake).min(), real, batch_size=block_size
    )
    return DensityCoverage(
        jnp.mean(balls.astype(real.dtype)) / k, _share(nearest < radius, real)
    )


def _features(
    real: ArrayLike, fake: ArrayLike, k: int, *, fake_k: int
) -> tuple[Array, Array]:
    real, fake = _check.floating(real=real, fake=fake)
    _check.rank(2, real=real, fake=fake)
    if real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"real has {real.shape[1]} features, fake has {fake.shape[1]}; "
            "expected equal numbers."
        )
    for name, x, neighbour in (("real", real, k), ("fake", fake, fake_k)):
        if len(x) < 2:
            raise ValueError(f"{name} has {len(x)} points; expected at least 2.")
        if not 1 <= neighbour < len(x):
            raise ValueError(
                f"k is {neighbour} with {len(x)} points in {name}; expected 1 <= k < "
                f"{len(x)}."
            )
    centre = jnp.mean(real, 0)  # distances by matmul cancel less around the mean
    return real - centre, fake - centre


def _squared_distances(x: Array, points: Array) -> Array:
    cross = jnp.matmul(points, x, precision="highest")
    return jnp.maximum(jnp.sum(points**2, -1) - 2 * cross + jnp.sum(x**2), 0)


def _squared_radius(points: Array, k: int, block_size: int) -> Array:
    """Squared distance of each point to its k-th neighbour."""

    def of_row(row: tuple[Array, Array]) -> Array:
        i, x = row
        others = _squared_distances(x, points).at[i].set(jnp.inf)
        return -jax.lax.top_k(-others, k)[0][-1]

    return jax.lax.map(of_row, (jnp.arange(len(points)), points), batch_size=block_size)


def _balls_around(
    points: Array, centres: Array, squared_radius: Array, block_size: int
) -> Array:
    """Number of balls that hold each point."""
    return jax.lax.map(
        lambda x: jnp.sum(_squared_distances(x, centres) < squared_radius),
        points,
        batch_size=block_size,
    )


def _share(inside: Array, like: Array) -> Array:
    return jnp.mean(inside.astype(like.dtype))
