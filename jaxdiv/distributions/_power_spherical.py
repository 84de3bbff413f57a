r"""The Power Spherical law, a relative of von Mises-Fisher that is easy to draw from.

With b = (d - 1)/2 its density against the uniform law is
:math:`(1 + \langle\mu, x\rangle)^\kappa e^{-M(\kappa)}`, where
:math:`M(\kappa) = \kappa\log 2 + \log B(b + \kappa, b) - \log B(b, b)`.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from jaxdiv import _check
from jaxdiv.distributions._vmf_sample import Shape, at_angle
from jaxdiv.distributions._von_mises_fisher import (
    base_offset,
    check_dim,
    log_area,
    log_partition,
    on_sphere,
    proper,
)
from jaxdiv.special._gamma import stirling
from jaxdiv.typing import Array, ArrayLike, Key

_LARGE = 8  # from here on Stirling's series has all digits


def power_spherical_log_prob(
    x: ArrayLike,
    mean_direction: ArrayLike,
    concentration: ArrayLike,
    *,
    base: str = "surface",
) -> Array:
    r"""Log-density of the Power Spherical law.

    .. math:: \log p(x) = \kappa\log(1 + \langle\mu, x\rangle) - N(\kappa)

    Args:
      x: unit vectors, shape `[..., d]`.
      mean_direction: unit vectors mu, shape `[..., d]`.
      concentration: kappa, shape `[...]`, at least 0.
      base: measure that the density is against, `"surface"` or `"uniform"`.

    Returns:
      Array `[...]` in nats, -inf opposite to mu; NaN for a negative concentration.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, or the base is unknown.

    Differentiable in all three, in every mode and order, but opposite to mu.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> x, mu = jnp.array([0.6, 0.8, 0.0]), jnp.array([0.0, 1.0, 0.0])
      >>> print(f"{distributions.power_spherical_log_prob(x, mu, 10.0):.4f}")
      -1.1867

    References:
      De Cao and Aziz, 2020, arXiv:2006.04437, eq. (7).
    """
    x, mu, kappa = _check.floating(
        x=x, mean_direction=mean_direction, concentration=concentration
    )
    dim = on_sphere(x=x, mean_direction=mu)
    _check.broadcastable(x=x[..., 0], mean_direction=mu[..., 0], concentration=kappa)
    kappa = proper(kappa)
    cosine = jnp.maximum(jnp.sum(x * mu, -1), -1)
    flat = kappa == 0
    slope = jnp.log1p(jnp.where(flat, 0, cosine))
    return kappa * slope - _log_mean(kappa, dim) - base_offset(base, dim)


def power_spherical_sample(
    key: Key,
    mean_direction: ArrayLike,
    concentration: ArrayLike,
    shape: Shape = (),
) -> Array:
    """Draws from the Power Spherical law, without rejection.

    Args:
      key: a key.
      mean_direction: unit vectors mu, shape `[..., d]`.
      concentration: kappa, shape `[...]`, at least 0; 0 is the uniform law.
      shape: shape of the sample of each law.

    Returns:
      Unit vectors, shape `[*shape, ..., d]`; NaN for a negative concentration.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit.

    Differentiable in both, once: the derivative in the concentration is the implicit
    one of JAX's gamma draws, unbiased.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> mu = jnp.array([0.0, 1.0, 0.0])
      >>> x = distributions.power_spherical_sample(jax.random.key(0), mu, 10.0, (1000,))
      >>> print(x.shape, f"{jnp.mean(x @ mu):.2f}")
      (1000, 3) 0.83

    References:
      De Cao and Aziz, 2020, arXiv:2006.04437, algorithm 1.
    """
    mu, kappa = _check.floating(
        mean_direction=mean_direction, concentration=concentration
    )
    dim = on_sphere(mean_direction=mu)
    batch = _check.broadcastable(mean_direction=mu[..., 0], concentration=kappa)
    kappa = jnp.broadcast_to(proper(kappa), (*shape, *batch))
    key_angle, key_around = jax.random.split(key)
    b = jnp.full_like(kappa, (dim - 1) / 2)
    near, far = jax.random.loggamma(key_angle, jnp.stack([b + kappa, b]))
    log_odds = far - near
    theta = 2 * jnp.arctan(jnp.exp(log_odds / 2))
    around = jax.random.normal(key_around, (*kappa.shape, dim), mu.dtype)
    return at_angle(theta, mu, around)


def power_spherical_entropy(concentration: ArrayLike, dim: int) -> Array:
    r"""Differential entropy of the Power Spherical law, against the surface measure.

    .. math:: H = N(\kappa) - \kappa\,(\log 2 + \psi(b + \kappa) - \psi(2b + \kappa))

    Args:
      concentration: kappa, any shape, at least 0.
      dim: dimension d, at least 2; b is (d - 1)/2.

    Returns:
      Array of the shape of kappa, in nats; NaN for a negative concentration.

    Raises:
      TypeError: the concentration is not of a floating dtype.
      ValueError: `dim` is less than 2.

    Differentiable in the concentration, in every mode and order.

    Example:
      >>> from jaxdiv import distributions
      >>> print(f"{distributions.power_spherical_entropy(7.3, 6):.4f}")
      2.1789

    References:
      De Cao and Aziz, 2020, arXiv:2006.04437, eq. (17).
    """
    return log_area(dim) - power_spherical_kl_uniform(concentration, dim)


def power_spherical_kl_uniform(concentration: ArrayLike, dim: int) -> Array:
    """Kullback-Leibler divergence from the uniform law on the sphere.

    Args:
      concentration: kappa, any shape, at least 0.
      dim: dimension d, at least 2.

    Returns:
      Array of the shape of kappa, in nats, the log of the area of the sphere less the
      entropy; NaN for a negative concentration.

    Raises:
      TypeError: the concentration is not of a floating dtype.
      ValueError: `dim` is less than 2.

    Differentiable in the concentration, in every mode and order.

    Example:
      >>> from jaxdiv import distributions
      >>> print(f"{distributions.power_spherical_kl_uniform(7.3, 6):.4f}")
      1.2553

    References:
      De Cao and Aziz, 2020, arXiv:2006.04437, section 3.3.
    """
    check_dim(dim)
    (kappa,) = _check.floating(concentration=concentration)
    kappa = proper(kappa)
    value, slope = jax.jvp(
        lambda k: _log_mean(k, dim), (kappa,), (jnp.ones_like(kappa),)
    )
    return kappa * slope - value


def power_spherical_kl_vmf(
    mu_p: ArrayLike, kappa_p: ArrayLike, mu_q: ArrayLike, kappa_q: ArrayLike
) -> Array:
    r"""Kullback-Leibler divergence from a Power Spherical to a von Mises-Fisher law.

    .. math:: \mathrm{KL} = -H(p) + \log S_d + h(\kappa_q)
              - \kappa_q\,\langle\mu_p, \mu_q\rangle\,\frac{\kappa_p}{d - 1 + \kappa_p}

    Args:
      mu_p: mean direction of p, the Power Spherical law; unit, `[..., d]`.
      kappa_p: concentration of p, `[...]`, at least 0.
      mu_q: mean direction of q, the von Mises-Fisher law, `[..., d]`.
      kappa_q: concentration of q, `[...]`.

    Returns:
      Array `[...]` in nats; NaN for a negative concentration.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit.

    Differentiable in all four, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> mu = jnp.array([1.0, 0.0, 0.0])
      >>> print(f"{distributions.power_spherical_kl_vmf(mu, 10.0, mu, 5.0):.4f}")
      0.0195

    References:
      De Cao and Aziz, 2020, arXiv:2006.04437, section 3.3.
    """
    mu_p, kappa_p, mu_q, kappa_q = _check.floating(
        mu_p=mu_p, kappa_p=kappa_p, mu_q=mu_q, kappa_q=kappa_q
    )
    dim = on_sphere(mu_p=mu_p, mu_q=mu_q)
    _check.broadcastable(
        mu_p=mu_p[..., 0], kappa_p=kappa_p, mu_q=mu_q[..., 0], kappa_q=kappa_q
    )
    mean = kappa_p / (dim - 1 + kappa_p)
    cosine = jnp.sum(mu_p * mu_q, -1)
    cross = log_partition(proper(kappa_q), dim) - kappa_q * cosine * mean
    return power_spherical_kl_uniform(kappa_p, dim) + cross


def _log_mean(kappa: Array, dim: int) -> Array:
    """M, the log of the mean of (1 + t)^kappa under the uniform law."""
    b = (dim - 1) / 2
    if b < _LARGE:
        value = kappa * math.log(2) + gammaln(b + kappa) - gammaln(2 * b + kappa)
        return value + (math.lgamma(2 * b) - math.lgamma(b))
    value = kappa * jnp.log1p(kappa / (2 * b + kappa))
    value += (b - 0.5) * jnp.log1p(kappa / b)
    value -= (2 * b - 0.5) * jnp.log1p(kappa / (2 * b))
    one, two = jnp.asarray(b, kappa.dtype), jnp.asarray(2 * b, kappa.dtype)
    rest = stirling(one + kappa) - stirling(one)
    return value + rest - (stirling(two + kappa) - stirling(two))
