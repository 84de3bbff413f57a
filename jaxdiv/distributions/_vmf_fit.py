"""Maximum likelihood for the von Mises-Fisher law."""

import jax.numpy as jnp

from jaxdiv import _check, special
from jaxdiv.distributions._von_mises_fisher import check_dim
from jaxdiv.typing import Array, ArrayLike

_UNIT_TOLERANCE = 1e-2  # of the length of concrete data


def vmf_concentration_from_resultant(
    r: ArrayLike, dim: int, *, complement: ArrayLike | None = None
) -> Array:
    r"""The concentration whose mean resultant length is r.

    .. math:: A_d(\kappa) = r

    Args:
      r: mean resultant length, any shape, in [0, 1].
      dim: dimension d, at least 2.
      complement: 1 - r where it is known better than r tells; near r = 1 the solution
        has the digits of 1 - r.

    Returns:
      Array of the shape of r: 0 at 0, inf at 1, NaN outside of [0, 1].

    Raises:
      TypeError: r is not of a floating dtype.
      ValueError: `dim` is less than 2.

    Differentiable in r and complement, in every mode and order.

    Example:
      >>> from jaxdiv import distributions
      >>> print(f"{distributions.vmf_concentration_from_resultant(0.9, 3):.4f}")
      10.0000

    References:
      Sra, 2012, "A short note on parameter approximation for von Mises-Fisher
      distributions"; Banerjee et al., 2005 (the start).
    """
    check_dim(dim)
    return special.bessel_i_ratio_inverse(dim / 2 - 1, r, complement=complement)


def vmf_fit(x: ArrayLike, weights: ArrayLike | None = None) -> tuple[Array, Array]:
    r"""Maximum-likelihood fit of the von Mises-Fisher law.

    .. math:: \hat\mu = \bar x/|\bar x|, \qquad A_d(\hat\kappa) = |\bar x|

    The estimate of the concentration is biased upwards where n is not much larger than
    d: n uniform points have a mean of length about n^(-1/2).

    Args:
      x: unit vectors, shape `[..., n, d]`.
      weights: of the points, shape `[..., n]`, non-negative; their scale has no effect.
        None is uniform.

    Returns:
      `(mean_direction, concentration)`, shapes `[..., d]` and `[...]`. Where the mean
      is 0 the concentration is 0 and the direction the first axis; NaN where the
      weights sum to 0.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, there is no point, or concrete points are not
        of length 1.

    Differentiable in the points and the weights, in every mode and order, by the
    equation that the concentration solves.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> mu = jnp.array([0.0, 1.0, 0.0])
      >>> x = distributions.vmf_sample(jax.random.key(0), mu, 10.0, (10_000,))
      >>> direction, kappa = distributions.vmf_fit(x)
      >>> print(f"{direction @ mu:.3f} {kappa:.0f}")
      1.000 10

    References:
      Banerjee et al., 2005, "Clustering on the unit hypersphere using von Mises-Fisher
      distributions".
    """
    (x,) = _check.floating(x=x)
    check_points(x)
    if weights is None:
        weights = jnp.ones(x.shape[-2], x.dtype)
    x, weights = _check.floating(x=x, weights=weights)
    if weights.shape[-1:] != x.shape[-2:-1]:
        raise ValueError(
            f"weights has shape {weights.shape} and x {x.shape}; expected [..., n] and "
            "[..., n, d]."
        )
    return weighted_fit(x, weights)


def check_points(x: Array) -> None:
    if x.ndim < 2 or x.shape[-1] < 2 or not x.shape[-2]:
        raise ValueError(
            f"x has shape {x.shape}; expected [..., n, d] with at least one point and "
            "two dimensions."
        )
    length = jnp.linalg.norm(x, axis=-1)
    values = _check.concrete(length)
    if values is not None and not (abs(values - 1) <= _UNIT_TOLERANCE).all():
        raise ValueError(
            f"x has vectors of lengths {values.min():.3g} to {values.max():.3g}; "
            "expected unit vectors."
        )


def weighted_fit(x: Array, weights: Array) -> tuple[Array, Array]:
    share = weights / jnp.sum(weights, -1, keepdims=True)
    mean = _weighted_sum(share, x)
    # Again, of what is left: a long sum in float32 is off by many times its rounding.
    mean += _weighted_sum(share, x - mean[..., None, :])
    squared = jnp.sum(mean**2, -1)
    live = ~(squared == 0)
    r = jnp.where(live, jnp.sqrt(jnp.where(live, squared, 1)), 0)
    axis = jnp.zeros_like(mean).at[..., 0].set(1)
    direction = mean / jnp.where(live, r, 1)[..., None]
    direction = jnp.where(live[..., None], direction, axis)
    # 1 - r^2 is the spread about the mean: its digits, where r has lost them.
    spread = jnp.sum((x - mean[..., None, :]) ** 2, -1)
    complement = jnp.sum(share * spread, -1) / (1 + r)
    kappa = vmf_concentration_from_resultant(r, x.shape[-1], complement=complement)
    return direction, kappa


def _weighted_sum(weights: Array, x: Array) -> Array:
    return jnp.einsum("...n,...nd->...d", weights, x, precision="highest")
