"""How well samples match a mixture that is known."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.distributions import GaussianMixture
from jaxdiv.divergence import js, kl
from jaxdiv.typing import Array, ArrayLike

_MARGIN = 5.0  # standard deviations between the outermost means and the grid's edge


class ModeCoverage(NamedTuple):
    """Result of `mode_coverage`.

    Attributes:
      modes: number of modes covered, an integer.
      high_quality: share of the samples that belong to a mode.
      weight_tv: total variation between the shares of the modes, among the samples
        that belong to one, and the true weights; 1 where none does.
    """

    modes: Array
    high_quality: Array
    weight_tv: Array


class SmoothedDivergences(NamedTuple):
    """Result of `smoothed_divergences_2d`, in nats.

    Attributes:
      kl: KL(mixture || samples), large where samples are missing.
      reverse_kl: KL(samples || mixture), large where samples are out of place.
      js: Jensen-Shannon divergence, at most log 2.
    """

    kl: Array
    reverse_kl: Array
    js: Array


def mode_coverage(
    samples: ArrayLike,
    means: ArrayLike,
    stds: ArrayLike,
    weights: ArrayLike,
    *,
    frac: float = 0.2,
    nsigma: float = 4.0,
) -> ModeCoverage:
    r"""Which modes of a mixture samples cover, and in what shares.

    A sample belongs to the mode with the nearest mean, if that is within `nsigma` of
    its standard deviations. A mode is covered when it holds a sample, and at least
    `frac` of the number that its weight calls for.

    Args:
      samples: shape `[n, d]`.
      means: centres of the modes, shape `[k, d]`.
      stds: their standard deviations along an axis, shape `[k]`, or one for all.
      weights: their true weights, shape `[k]`, summing to 1.
      frac: share of the expected number that covers a mode, in [0, 1].
      nsigma: radius of a mode, in its standard deviations.

    Returns:
      `ModeCoverage` of three scalars. A sample that is NaN belongs to no mode.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, there is no sample, or an option is out of
        range.

    Piecewise constant in all but `weights`: the derivatives are zero.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import metrics
      >>> x = jnp.array([[0.1], [-0.2], [5.0], [9.0]])
      >>> found = metrics.mode_coverage(
      ...     x, jnp.array([[0.0], [9.0]]), 0.5, jnp.array([0.5, 0.5])
      ... )
      >>> print(found.modes, found.high_quality, f"{found.weight_tv:.4f}")
      2 0.75 0.1667

    References:
      Metz et al., 2017, arXiv:1611.02163, and Srivastava et al., 2017,
      arXiv:1705.07761, for counting modes and high-quality samples.
    """
    x, means, stds, weights = _check.floating(
        samples=samples, means=means, stds=stds, weights=weights
    )
    _check.rank(2, samples=x, means=means)
    k, d = means.shape
    if x.shape[1:] != (d,) or stds.shape not in {(), (k,)} or weights.shape != (k,):
        raise ValueError(
            f"Got shapes samples {x.shape}, means {means.shape}, stds {stds.shape}, "
            f"weights {weights.shape}; expected (n, d), (k, d), (k,) or (), (k,)."
        )
    if not x.size or not k:
        raise ValueError(f"{len(x)} samples and {k} modes; expected at least 1 each.")
    _check.in_range(0.0, 1.0, closed=True, frac=frac)
    _check.positive(nsigma=nsigma)
    squared = jnp.sum((x[:, None] - means) ** 2, -1)  # (n, k)
    nearest = jnp.argmin(squared, 1)
    radius = nsigma * jnp.broadcast_to(stds, (k,))
    inside = jnp.min(squared, 1) <= radius[nearest] ** 2
    counts = jnp.zeros_like(weights).at[nearest].add(inside.astype(weights.dtype))
    total = jnp.sum(counts)
    covered = (counts > 0) & (counts >= frac * weights * len(x))
    off = jnp.sum(jnp.abs(counts / jnp.maximum(total, 1) - weights)) / 2
    return ModeCoverage(
        jnp.sum(covered), total / len(x), jnp.where(total > 0, off, 1.0)
    )


def smoothed_divergences_2d(
    samples: ArrayLike,
    mixture: GaussianMixture,
    sigma_e: ArrayLike,
    *,
    grid: int = 200,
) -> SmoothedDivergences:
    r"""Divergences between samples in the plane and a mixture, both blurred.

    .. math:: \hat q = \frac1n \sum_i N(x_i, \sigma_e^2 I), \qquad
              p = \sum_k w_k N(m_k, C_k + \sigma_e^2 I)

    Samples are counted in the cells of a square grid and blurred with the Gaussian, in
    logarithms, so that a mode without samples costs what it should and not infinity;
    p is exact. The grid spans the means and 5 standard deviations of the widest
    blurred component beyond them; what lies outside counts in the nearest cell. The
    estimate is biased upwards by the noise of the n samples, which `sigma_e` damps.

    Args:
      samples: shape `[n, 2]`.
      mixture: the law that they should follow, in the plane.
      sigma_e: standard deviation of the blur, a scalar.
      grid: cells along an axis. Two arrays of `grid**3` numbers are held.

    Returns:
      `SmoothedDivergences` of three scalars; NaN where a sample is not finite, where
      the mixture is not a law, or where `sigma_e` is smaller than a cell, so that more
      of them are needed.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the samples or the mixture are not in the plane, there is no sample,
        `sigma_e` is not a positive scalar, or `grid` is less than 2.

    Not meant to be differentiated: samples are counted.

    Example:
      >>> import jax
      >>> from jaxdiv import datasets, metrics
      >>> ring = datasets.gaussian_mixture_2d("ring8")
      >>> x = ring.sample(jax.random.key(0), (5000,))
      >>> good = metrics.smoothed_divergences_2d(x, ring, 0.25)
      >>> half = metrics.smoothed_divergences_2d(abs(x), ring, 0.25)
      >>> print(f"{good.js:.3f} {half.js:.3f}")
      0.001 0.323

    References:
      Xu, Nie and Vahdat, 2025, arXiv:2502.15681, for the comparison in two dimensions.
    """
    x, sigma_e, *fields = _check.floating(
        samples=samples, sigma_e=sigma_e, **mixture._asdict()
    )
    mixture = GaussianMixture(*fields)
    _check.rank(0, sigma_e=sigma_e)
    _check.positive(sigma_e=sigma_e)
    _check.in_range(2, closed=True, grid=grid)
    for name, points in (("samples", x), ("mixture.means", mixture.means)):
        if points.ndim != 2 or points.shape[1] != 2 or not len(points):
            raise ValueError(
                f"{name} has shape {points.shape}; expected (n, 2), n at least 1."
            )
    return _smoothed(x, mixture, sigma_e, grid)


@functools.partial(jax.jit, static_argnums=3)  # eager would compile each operation
def _smoothed(
    x: Array, mixture: GaussianMixture, sigma_e: Array, grid: int
) -> SmoothedDivergences:
    centres, spacing = _cells(mixture, sigma_e, grid)
    points = jnp.stack(jnp.meshgrid(*centres.T, indexing="ij"), -1)
    log_p = mixture.log_prob(points, sigma=sigma_e).ravel()
    log_q = _log_blurred(_counts(x, centres, spacing), spacing, sigma_e).ravel()
    log_p, log_q = jax.nn.log_softmax(log_p), jax.nn.log_softmax(log_q)
    valid = jnp.isfinite(x).all() & (jnp.max(spacing) <= sigma_e)
    values = kl(log_p, log_q), kl(log_q, log_p), js(log_p, log_q)
    return SmoothedDivergences(*(jnp.where(valid, v, jnp.nan) for v in values))


def _cells(mixture: GaussianMixture, sigma_e: Array, grid: int) -> tuple[Array, Array]:
    """Centres of the cells along both axes, `(grid, 2)`, and their sizes `(2,)`."""
    covs = mixture.covs
    variances = jnp.diagonal(covs, 0, -2, -1) if covs.ndim == 3 else covs
    margin = _MARGIN * jnp.sqrt(jnp.max(variances) + sigma_e**2)
    low, high = mixture.means.min(0) - margin, mixture.means.max(0) + margin
    return jnp.linspace(low, high, grid), (high - low) / (grid - 1)


def _counts(x: Array, centres: Array, spacing: Array) -> Array:
    """Number of samples in each cell, `(grid, grid)`."""
    grid = len(centres)
    index = jnp.round((x - centres[0]) / spacing)
    i, j = jnp.clip(index, 0, grid - 1).astype(jnp.int32).T
    return jnp.zeros((grid, grid), x.dtype).at[i, j].add(1)


def _log_blurred(counts: Array, spacing: Array, sigma_e: Array) -> Array:
    """Logarithm of the blurred counts, up to a constant: one axis after the other."""
    offsets = jnp.arange(len(counts), dtype=counts.dtype)
    steps = (offsets[:, None] - offsets) ** 2
    # The cells have blurred already, with the variance of a uniform law.
    widths = spacing**2 / jnp.maximum(sigma_e**2 - spacing**2 / 12, spacing**2 / 2)
    out = jnp.where(counts > 0, jnp.log(jnp.maximum(counts, 1)), -jnp.inf)
    for width in widths:  # the axes change places, twice
        kernel = -width * steps / 2
        out = jax.nn.logsumexp(out.T[:, None, :] + kernel, -1)
    return out
