"""Draws on the sphere, and the law of their angle to the mean direction."""

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.distributions._sphere_angle import draw_angle, share_beyond
from jaxdiv.distributions._von_mises_fisher import check_dim, on_sphere, proper
from jaxdiv.typing import Array, ArrayLike, Key

Shape = tuple[int, ...]


def spherical_uniform_sample(
    key: Key, dim: int, shape: Shape = (), *, dtype: jnp.dtype | None = None
) -> Array:
    """Draws from the uniform law on the unit sphere.

    Args:
      key: a key.
      dim: dimension d of the space around the sphere, at least 2.
      shape: shape of the sample.
      dtype: floating dtype; None is JAX's default.

    Returns:
      Unit vectors, shape `[*shape, d]`.

    Raises:
      ValueError: `dim` is less than 2.

    Example:
      >>> import jax
      >>> from jaxdiv import distributions
      >>> x = distributions.spherical_uniform_sample(jax.random.key(0), 3, (1000,))
      >>> print(x.shape, bool(abs(x.mean(0)).max() < 0.1))
      (1000, 3) True

    References:
      Muller, 1959, "A note on a method for generating points uniformly on
      n-dimensional spheres".
    """
    check_dim(dim)
    x = jax.random.normal(key, (*shape, dim), dtype)
    return _unit(x)


def vmf_sample(
    key: Key,
    mean_direction: ArrayLike,
    concentration: ArrayLike,
    shape: Shape = (),
) -> Array:
    r"""Draws from the von Mises-Fisher law.

    .. math:: x = \cos\theta\,\mu + \sin\theta\,v

    with the angle by Wood's rejection, at any dimension and concentration, and v
    uniform among the unit vectors orthogonal to mu.

    Args:
      key: a key.
      mean_direction: unit vectors mu, shape `[..., d]`.
      concentration: kappa, shape `[...]`, at least 0; 0 is the uniform law, and at inf
        every draw is mu.
      shape: shape of the sample of each law.

    Returns:
      Unit vectors, shape `[*shape, ..., d]`; NaN for a negative concentration.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit.

    Differentiable in both. The derivative in the concentration is that of a draw which
    keeps its rank, so that gradients of expectations are unbiased; differentiating the
    accepted proposal would not be.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> mu = jnp.array([0.0, 1.0, 0.0])
      >>> x = distributions.vmf_sample(jax.random.key(0), mu, 10.0, (1000,))
      >>> print(x.shape, f"{jnp.mean(x @ mu):.1f}")
      (1000, 3) 0.9

    References:
      Wood, 1994, "Simulation of the von Mises Fisher distribution"; Figurnov et al.,
      2018, arXiv:1805.08498 (the derivative).
    """
    mu, kappa = _check.floating(
        mean_direction=mean_direction, concentration=concentration
    )
    dim = on_sphere(mean_direction=mu)
    batch = _check.broadcastable(mean_direction=mu[..., 0], concentration=kappa)
    kappa = jnp.broadcast_to(proper(kappa), (*shape, *batch))
    key_angle, key_around = jax.random.split(key)
    theta = draw_angle(key_angle, kappa, dim)
    around = jax.random.normal(key_around, (*kappa.shape, dim), mu.dtype)
    return at_angle(theta, mu, around)


def at_angle(theta: Array, mu: Array, around: Array) -> Array:
    """The unit vector at an angle to mu, towards the part of `around` beside it."""
    for _ in range(2):  # once leaves what rounding left of a vector close to mu
        around = _unit(around - jnp.sum(around * mu, -1, keepdims=True) * mu)
    theta = theta[..., None]
    return _unit(jnp.cos(theta) * mu + jnp.sin(theta) * around)


def _unit(x: Array) -> Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def vmf_marginal_cdf(t: ArrayLike, kappa: ArrayLike, dim: int) -> Array:
    r"""Distribution function of the cosine between a draw and the mean direction.

    .. math:: F(t) \propto \int_{-1}^t e^{\kappa s} (1 - s^2)^{(d-3)/2}\, ds

    by a quadrature of 64 nodes over the part of the shorter tail that matters.

    Args:
      t: cosines, any shape; 0 below -1, and 1 above 1.
      kappa: concentration, broadcasts with t, at least 0.
      dim: dimension d, at least 2.

    Returns:
      Array in [0, 1]; NaN for a negative kappa.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, or `dim` is less than 2.

    Differentiable in t and kappa, in every mode and order, inside of (-1, 1).

    Example:
      >>> from jaxdiv import distributions
      >>> print(f"{distributions.vmf_marginal_cdf(0.9, 10.0, 3):.4f}")
      0.3679

    References:
      Mardia and Jupp, 2000, "Directional Statistics", eq. (9.3.12).
    """
    check_dim(dim)
    t, kappa = _check.floating(t=t, kappa=kappa)
    t, kappa = jnp.broadcast_arrays(t, proper(kappa))
    inside = (t > -1) & (t < 1)
    safe = jnp.where(inside, t, 0)
    theta = 2 * jnp.arctan2(jnp.sqrt(1 - safe), jnp.sqrt(1 + safe))
    share = share_beyond(theta, kappa, dim)
    outside = jnp.where(jnp.isnan(t) | jnp.isnan(kappa), jnp.nan, t >= 1)
    return jnp.where(inside, share, outside)
