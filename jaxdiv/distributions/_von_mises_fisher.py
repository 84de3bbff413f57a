r"""The von Mises-Fisher law on the unit sphere: its density and its moments.

All of it stands on :math:`h(\kappa) = \log {}_0F_1(; d/2; \kappa^2/4)`, the
log-normaliser against the uniform law, with the derivatives
:math:`A = h'` (mean resultant length) and :math:`A'`.
"""

import math

import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.special._fixed_order import (
    log_0f1,
    log_0f1_deficit,
    ratio,
    ratio_complement,
    ratio_slope,
)
from jaxdiv.typing import Array, ArrayLike

BASES = ("surface", "uniform")


def log_area(dim: int) -> float:
    """Log of the surface of the unit sphere in `dim` dimensions."""
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def check_dim(dim: int) -> None:
    if not isinstance(dim, int) or dim < 2:
        raise ValueError(f"dim is {dim!r}; expected an integer, at least 2.")


def base_offset(base: str, dim: int) -> float:
    """What a log-density against the base measure is less than against the uniform."""
    _check.one_of("base", base, BASES)
    return log_area(dim) if base == "surface" else 0.0


def on_sphere(**vectors: Array) -> int:
    """The dimension that the vectors share."""
    dims = {name: x.shape[-1] if x.ndim else 0 for name, x in vectors.items()}
    if len(set(dims.values())) > 1 or min(dims.values()) < 2:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in vectors.items())
        raise ValueError(
            f"Got shapes {shapes}; expected one length, at least 2, of the last axis."
        )
    return next(iter(dims.values()))


def proper(kappa: Array) -> Array:
    """NaN for a concentration that is none."""
    return jnp.where(kappa >= 0, kappa, jnp.nan)


def log_partition(kappa: Array, dim: int) -> Array:
    """h; its derivatives are A and A', and those of A."""
    return log_0f1(kappa, dim / 2 - 1)


def deficit(kappa: Array, dim: int) -> Array:
    """The difference kappa - h, with all its digits where both are large."""
    return log_0f1_deficit(kappa, dim / 2 - 1)


def resultant(kappa: Array, dim: int) -> Array:
    """A."""
    return ratio(kappa, dim / 2 - 1)


def one_less_resultant(kappa: Array, dim: int) -> Array:
    """1 - A."""
    return ratio_complement(kappa, dim / 2 - 1)


def resultant_slope(kappa: Array, dim: int) -> Array:
    """A', the variance of the cosine to the mean direction."""
    return ratio_slope(kappa, dim / 2 - 1)


def tangent_variance(kappa: Array, dim: int) -> Array:
    """A / kappa, the variance of a coordinate orthogonal to the mean direction."""
    return 1 / (dim + kappa * ratio(kappa, dim / 2))


def vmf_log_normalizer(kappa: ArrayLike, dim: int, *, base: str = "surface") -> Array:
    r"""Log of the factor that makes exp(kappa <mu, x>) a density on the sphere.

    .. math:: \log C_d(\kappa) = \nu\log\kappa - \tfrac d2\log 2\pi - \log I_\nu(\kappa)
              = -h(\kappa) - \log S_d, \qquad \nu = d/2 - 1

    Args:
      kappa: concentration, any shape, at least 0.
      dim: dimension d of the space around the sphere, at least 2.
      base: `"surface"`, the area of the sphere, or `"uniform"`, the uniform law, for
        which the normaliser is -h: small where the other is huge, and with all its
        digits in float32 too.

    Returns:
      Array of the shape of kappa, in nats; NaN for a negative kappa.

    Raises:
      TypeError: kappa is not of a floating dtype.
      ValueError: `dim` is less than 2, or the base is unknown.

    Differentiable in kappa, in every mode and order.

    Example:
      >>> from jaxdiv import distributions
      >>> print(f"{distributions.vmf_log_normalizer(10.0, 3):.4f}")
      -9.5353

    References:
      Mardia and Jupp, 2000, "Directional Statistics", eq. (9.3.4).
    """
    check_dim(dim)
    offset = base_offset(base, dim)
    (kappa,) = _check.floating(kappa=kappa)
    return -log_partition(proper(kappa), dim) - offset


def vmf_log_prob(
    x: ArrayLike,
    mean_direction: ArrayLike,
    concentration: ArrayLike,
    *,
    base: str = "surface",
) -> Array:
    r"""Log-density of the von Mises-Fisher law.

    .. math:: \log p(x) = \kappa\,\langle\mu, x\rangle + \log C_d(\kappa)

    Args:
      x: unit vectors, shape `[..., d]`.
      mean_direction: unit vectors mu, shape `[..., d]`. Lengths are not checked.
      concentration: kappa, shape `[...]`, at least 0; 0 is the uniform law.
      base: measure that the density is against, see `vmf_log_normalizer`.

    Returns:
      Array `[...]` in nats; NaN for a negative concentration. At an infinite one it is
      -inf off the mean direction.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, or the base is unknown.

    Differentiable in all three, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> x, mu = jnp.array([0.6, 0.8, 0.0]), jnp.array([0.0, 1.0, 0.0])
      >>> print(f"{distributions.vmf_log_prob(x, mu, 10.0):.4f}")
      -1.5353

    References:
      Mardia and Jupp, 2000, "Directional Statistics", eq. (9.3.4).
    """
    x, mu, kappa = _check.floating(
        x=x, mean_direction=mean_direction, concentration=concentration
    )
    dim = on_sphere(x=x, mean_direction=mu)
    _check.broadcastable(x=x[..., 0], mean_direction=mu[..., 0], concentration=kappa)
    kappa = proper(kappa)
    # Against the mode both terms are small where h and kappa are large.
    behind = jnp.sum(x * mu, -1) - 1
    infinite = jnp.isposinf(kappa)
    finite = jnp.where(infinite, 1, kappa)
    value = finite * behind + deficit(finite, dim)
    value = jnp.where(infinite, jnp.where(behind < 0, -jnp.inf, jnp.inf), value)
    return value - base_offset(base, dim)


def vmf_mean_resultant_length(kappa: ArrayLike, dim: int) -> Array:
    r"""Length of the mean of the von Mises-Fisher law.

    .. math:: A_d(\kappa) = \frac{I_{d/2}(\kappa)}{I_{d/2-1}(\kappa)},
              \qquad \mathbb E\,x = A_d(\kappa)\,\mu

    Args:
      kappa: concentration, any shape, at least 0.
      dim: dimension d, at least 2.

    Returns:
      Array of the shape of kappa, in [0, 1]; NaN for a negative kappa.

    Raises:
      TypeError: kappa is not of a floating dtype.
      ValueError: `dim` is less than 2.

    Differentiable in kappa, in every mode and order.

    Example:
      >>> from jaxdiv import distributions
      >>> print(f"{distributions.vmf_mean_resultant_length(10.0, 3):.4f}")
      0.9000

    References:
      Mardia and Jupp, 2000, "Directional Statistics", eq. (9.3.9).
    """
    check_dim(dim)
    (kappa,) = _check.floating(kappa=kappa)
    return resultant(proper(kappa), dim)


def vmf_entropy(kappa: ArrayLike, dim: int) -> Array:
    r"""Differential entropy of the von Mises-Fisher law, against the surface measure.

    .. math:: H = \log S_d - \mathrm{KL}(\cdot\,\|\,\text{uniform})
              = \log S_d + h(\kappa) - \kappa A(\kappa)

    Args:
      kappa: concentration, any shape, at least 0.
      dim: dimension d, at least 2.

    Returns:
      Array of the shape of kappa, in nats; log S_d, the log of the area of the sphere,
      at 0, -inf at inf, NaN for a negative kappa.

    Raises:
      TypeError: kappa is not of a floating dtype.
      ValueError: `dim` is less than 2.

    Differentiable in kappa, in every mode and order.

    Example:
      >>> from jaxdiv import distributions
      >>> print(f"{distributions.vmf_entropy(10.0, 3):.4f}")
      0.5353

    References:
      Mardia and Jupp, 2000, "Directional Statistics", section 9.3.2.
    """
    return log_area(dim) - vmf_kl_uniform(kappa, dim)


def vmf_kl_uniform(kappa: ArrayLike, dim: int) -> Array:
    r"""Kullback-Leibler divergence from the uniform law on the sphere.

    .. math:: \mathrm{KL} = \kappa A(\kappa) - h(\kappa)

    Args:
      kappa: concentration, any shape, at least 0.
      dim: dimension d, at least 2.

    Returns:
      Array of the shape of kappa, in nats, at least 0; inf at inf, NaN for a negative
      kappa.

    Raises:
      TypeError: kappa is not of a floating dtype.
      ValueError: `dim` is less than 2.

    Differentiable in kappa, in every mode and order.

    Example:
      >>> from jaxdiv import distributions
      >>> print(f"{distributions.vmf_kl_uniform(10.0, 3):.4f}")
      1.9957

    References:
      Davidson et al., 2018, arXiv:1804.00891, eq. (4).
    """
    check_dim(dim)
    (kappa,) = _check.floating(kappa=kappa)
    kappa = proper(kappa)
    infinite = jnp.isposinf(kappa)
    kappa = jnp.where(infinite, 1, kappa)
    small = kappa * resultant(kappa, dim) - log_partition(kappa, dim)
    large = deficit(kappa, dim) - kappa * one_less_resultant(kappa, dim)
    value = jnp.where(kappa < dim, small, large)
    return jnp.where(infinite, jnp.inf, value)


def vmf_covariance(mean_direction: ArrayLike, concentration: ArrayLike) -> Array:
    r"""Covariance matrix of the von Mises-Fisher law.

    .. math:: \frac{A}{\kappa}\,(I - \mu\mu^\top) + A'(\kappa)\,\mu\mu^\top

    It is also the Hessian of the log-normaliser in the natural parameter kappa mu.

    Args:
      mean_direction: unit vectors mu, shape `[..., d]`.
      concentration: kappa, shape `[...]`, at least 0.

    Returns:
      Array `[..., d, d]`, I/d at a concentration of 0; NaN for a negative one.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit.

    Differentiable in both, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> print(distributions.vmf_covariance(jnp.array([0.0, 1.0]), 2.0).round(3))
      [[0.349 0.   ]
       [0.    0.164]]

    References:
      Hillen et al., 2017, "Moments of von Mises and Fisher distributions".
    """
    mu, kappa = _check.floating(
        mean_direction=mean_direction, concentration=concentration
    )
    dim = on_sphere(mean_direction=mu)
    _check.broadcastable(mean_direction=mu[..., 0], concentration=kappa)
    kappa = proper(kappa)[..., None, None]
    along = mu[..., :, None] * mu[..., None, :]
    across = jnp.eye(dim, dtype=mu.dtype) - along
    return tangent_variance(kappa, dim) * across + resultant_slope(kappa, dim) * along


def vmf_fisher_information(kappa: ArrayLike, dim: int) -> tuple[Array, Array]:
    r"""Fisher information of one observation, in concentration and mean direction.

    It is block diagonal: :math:`A'(\kappa)` for the concentration, and
    :math:`\kappa A(\kappa)` for each of the d - 1 tangent directions of mu.

    Args:
      kappa: concentration, any shape, at least 0.
      dim: dimension d, at least 2.

    Returns:
      `(concentration, direction)`, two arrays of the shape of kappa; NaN for a negative
      kappa.

    Raises:
      TypeError: kappa is not of a floating dtype.
      ValueError: `dim` is less than 2.

    Differentiable in kappa, in every mode and order.

    Example:
      >>> from jaxdiv import distributions
      >>> of_kappa, of_mu = distributions.vmf_fisher_information(10.0, 3)
      >>> print(f"{of_kappa:.4f} {of_mu:.4f}")
      0.0100 9.0000

    References:
      Mardia and Jupp, 2000, "Directional Statistics", section 10.3.1.
    """
    check_dim(dim)
    (kappa,) = _check.floating(kappa=kappa)
    kappa = proper(kappa)
    return resultant_slope(kappa, dim), kappa * resultant(kappa, dim)
