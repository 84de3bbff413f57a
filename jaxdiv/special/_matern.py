"""The Matern kernel with a learned smoothness: the worked use of d/dv of K_v."""

import math

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.special import _debye, _gamma, _low_k
from jaxdiv.special._arguments import real
from jaxdiv.special._hypergeometric import excess
from jaxdiv.special._polynomial import alternating, debye, debye_sum, turn
from jaxdiv.special._ratio import k_ratio
from jaxdiv.special._regions import by_region, debye_rows, settings
from jaxdiv.special._rule import derivative, elementwise
from jaxdiv.typing import Array, ArrayLike


def _log_kernel(nu: Array, z: Array) -> Array:
    """Log of 2^(1-nu) z^nu K_nu(z) / Gamma(nu), 0 at z = 0."""
    return elementwise(_value, (_in_nu, _in_z), nu, z)


def _value(nu: Array, z: Array) -> Array:
    return jnp.where(z == 0, 0, by_region(_above, _below, nu, z))


def _above(nu: Array, z: Array) -> Array:
    # The mirror, w -> -w, of what log 0F1 is.
    w2 = nu * nu + z * z
    w = jnp.sqrt(w2)
    large, y = nu >= settings(z).large, excess(nu, z * z)
    small_nu = jnp.where(large, 1, nu)
    slow = jnp.where(
        large,
        -2 * nu * y - _gamma.stirling(nu),
        math.log(2) + jnp.log(small_nu) - _gamma.log_gamma(small_nu) - w,
    )
    log = jnp.log1p(jnp.where(large, y, (nu + w) / 2 - 1))
    half_log = jnp.log1p(jnp.where(large, 2 * y, 2 / math.pi * w - 1))
    rows = alternating(debye_rows(z, settings(z).debye))
    return slow + nu * log - 0.5 * half_log + debye_sum(rows, nu * nu / w2, 1 / w)


def _below(nu: Array, z: Array) -> Array:
    ell = jnp.log(2 / z)
    inside, n, shift = _low_k.log_parts(nu, z, ell)
    log = jnp.log(2 * nu * inside) - _gamma.log_gamma(nu)
    return log - (nu - n) * ell + shift


def _in_nu(nu: Array, z: Array) -> Array:
    return _order(nu, z, 1)


def _order(nu: Array, z: Array, order: int) -> Array:
    """The derivative in nu, of an order from 1 on."""
    return elementwise(_order_value, (_next_order, _order_in_z), nu, z, order=order)


def _next_order(nu: Array, z: Array, order: int) -> Array:
    return _order(nu, z, order + 1)


def _order_in_z(nu: Array, z: Array, order: int) -> Array:
    return derivative(_in_z, (order, 0))(nu, z)


def _order_value(nu: Array, z: Array, order: int) -> Array:
    rest = derivative(_without_k, (order - 1, 0))

    def below(nu: Array, z: Array) -> Array:
        return rest(nu, z) + _low_k.log_in_v(nu, z, order)

    above = derivative(_above_in_nu, (order - 1, 0))
    return jnp.where(z == 0, 0, by_region(above, below, nu, z))


def _without_k(nu: Array, z: Array) -> Array:
    return 1 / nu - _gamma.digamma(nu) + jnp.log(z / 2)


def _above_in_nu(nu: Array, z: Array) -> Array:
    y, w2 = z * z, nu * nu + z * z
    rows = alternating(debye_rows(z, settings(z).debye_slope))
    large = (
        y / (2 * nu * w2)
        + nu / w2 * debye(turn(rows), nu, y)
        - _gamma.stirling_slope(nu)
        + jnp.log1p(excess(nu, y))
    )
    small = (
        _debye.correction_k_in_v(nu, y)
        + 1 / nu
        - _gamma.digamma(nu)
        + jnp.log((nu + jnp.sqrt(w2)) / 2)
    )
    return jnp.where(nu >= settings(z).large, large, small)


def _in_z(nu: Array, z: Array) -> Array:
    # -K_{nu-1} / K_nu, as z times a function that has a limit at z = 0 for nu > 1: the
    # second derivative there is then right.
    floor = float(jnp.finfo(z.dtype).tiny) ** 0.4  # 1/z^2 is to be in range
    at = jnp.maximum(z, floor)
    rough = nu < 0.5
    ratio = k_ratio(jnp.where(rough, -nu, nu - 1), at, region="all")
    return -z * jnp.where(rough, ratio / at, 1 / (ratio * at))


@jax.jit
def _matern(distance: Array, length_scale: Array, nu: Array) -> Array:
    z = jnp.sqrt(2 * nu) * distance / length_scale
    far = z == jnp.inf
    value = jnp.exp(_log_kernel(nu, jnp.where(far, 1, z)))
    valid = (distance >= 0) & (length_scale > 0) & (nu > 0)
    return jnp.where(valid, jnp.where(far, 0, value), jnp.nan)


def matern_kernel(
    distance: ArrayLike, length_scale: ArrayLike, smoothness: ArrayLike
) -> Array:
    r"""The Matern covariance of unit variance, differentiable in its smoothness.

    .. math::
        k(d) = \frac{2^{1-\nu}}{\Gamma(\nu)} z^\nu K_\nu(z),
        \qquad z = \sqrt{2\nu}\, d / \ell

    nu = 1/2 is the exponential kernel; for large nu it tends to exp(-d^2 / (2 l^2)),
    and is computed without cancellation there.

    Args:
      distance: d >= 0, any shape.
      length_scale: l > 0; broadcasts.
      smoothness: nu > 0; broadcasts.

    Returns:
      Array of the broadcast shape with values in [0, 1], 1 at d = 0; NaN where a traced
      input is out of its range.

    Raises:
      TypeError: an input is complex or boolean.
      ValueError: a concrete input is out of its range, or the shapes do not broadcast.

    Differentiable in all arguments, in every mode and order; at d = 0 the first
    derivative in d is 0 for nu > 1/2, the second is right for nu > 1 and for nu <= 1,
    where it is infinite, a large number.

    Example:
      >>> from jaxdiv import special
      >>> print(f"{special.matern_kernel(1.0, 2.0, 0.5):.4f}")  # exp(-1/2)
      0.6065

    References:
      Rasmussen and Williams, 2006, eq. (4.14).
    """
    arrays, dtype, _ = real(
        distance=distance, length_scale=length_scale, smoothness=smoothness
    )
    _check.in_range(0.0, math.inf, closed=True, distance=distance)
    _check.positive(length_scale=length_scale, smoothness=smoothness)
    return _matern(*arrays).astype(dtype)
