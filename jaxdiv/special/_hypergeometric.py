r"""The logarithm of 0F1, well-conditioned where log I is a difference of large numbers.

.. math:: {}_0F_1(; v+1; z) = \Gamma(v+1)\, (x/2)^{-v} I_v(x), \qquad x = 2\sqrt z
"""

import math

import jax
import jax.numpy as jnp

from jaxdiv.special import _debye, _gamma, _low_i
from jaxdiv.special._arguments import real
from jaxdiv.special._jet import Index
from jaxdiv.special._polynomial import debye, debye_sum, turn
from jaxdiv.special._regions import (
    by_region,
    debye_rows,
    is_high,
    settings,
    where_any,
)
from jaxdiv.special._rule import derivative, elementwise
from jaxdiv.typing import Array, ArrayLike


def excess(v: Array, y: Array) -> Array:
    """(w - v) / (2v) of w^2 = v^2 + y."""
    return y / (2 * v * (v + _debye.modulus(v, y)))


def is_early(v: Array, z: Array) -> Array:
    """Where the power series serves: near the origin, and before its terms grow."""
    return ~is_high(v, 4 * z) | (z < settings(z).early * (v + 1))


def value_of(b: Array, z: Array) -> Array:
    v = b - 1
    early = is_early(v, z)
    small = where_any(early, series, v, z)
    value = jnp.where(early, small, _late(v, z))
    value = jnp.where(b == jnp.inf, 0, value)
    value = jnp.where(z == jnp.inf, jnp.where(b == jnp.inf, jnp.nan, jnp.inf), value)
    return jnp.where((b > 0) & (z >= 0), value, jnp.nan)


def series(v: Array, z: Array) -> Array:
    return jnp.log1p(_low_i.series(v, z))


def _late(v: Array, z: Array) -> Array:
    w2 = v * v + 4 * z
    w = jnp.sqrt(w2)
    large, y = v >= settings(z).large, excess(v, 4 * z)
    slow = jnp.where(
        large,
        2 * v * y + _gamma.stirling(v),
        w + _gamma.log_gamma(jnp.where(large, 1, v)),
    )
    log = jnp.log1p(jnp.where(large, y, (v + w) / 2 - 1))
    half_log = jnp.log1p(jnp.where(large, 2 * y, 2 * math.pi * w - 1))
    rows = debye_rows(z, settings(z).debye)
    return slow - v * log - 0.5 * half_log + debye_sum(rows, v * v / w2, 1 / w)


@jax.jit
def log_0f1(b: Array, z: Array) -> Array:
    """Log 0F1(; b; z) with its derivatives."""
    return elementwise(value_of, (_in_b, _in_z), b, z)


def _in_b(b: Array, z: Array) -> Array:
    return _order(b, z, 1)


def _in_z(b: Array, z: Array) -> Array:
    return 2 * _half_slope(b, z, (0, 0))


def _order(b: Array, z: Array, order: int) -> Array:
    """The derivative in b, of an order from 1 on."""
    return elementwise(_order_value, (_next_order, _order_in_z), b, z, order=order)


def _next_order(b: Array, z: Array, order: int) -> Array:
    return _order(b, z, order + 1)


def _order_in_z(b: Array, z: Array, order: int) -> Array:
    return 2 * _half_slope(b, z, (order, 0))


def _order_value(b: Array, z: Array, order: int) -> Array:
    v = b - 1
    early = is_early(v, z)
    small = where_any(early, lambda v, z: _low_i.log_series_in_v(v, z, order), v, z)
    late = where_any(~early, derivative(_late_in_v, (order - 1, 0)), v, z)
    slope = jnp.where(early, small, late)
    slope = jnp.where(b == jnp.inf, 0, slope)
    return jnp.where((b > 0) & (z >= 0), slope, jnp.nan)


def _late_in_v(v: Array, z: Array) -> Array:
    rows = debye_rows(z, settings(z).debye_slope)
    w2 = v * v + 4 * z
    large = (
        2 * z / (v * w2)
        + v / w2 * debye(turn(rows), v, 4 * z)
        + _gamma.stirling_slope(v)
        - jnp.log1p(excess(v, 4 * z))
    )
    small = (
        _debye.correction_i_in_v(v, 4 * z)
        + _gamma.digamma(v)
        - jnp.log((v + jnp.sqrt(w2)) / 2)
    )
    return jnp.where(v >= settings(z).large, large, small)


def _half_slope(b: Array, z: Array, order: Index) -> Array:
    """Half of the z-derivative, or its derivative of that order in (b, z)."""
    partials = (_half_slope_in_b, _half_slope_in_z)
    return elementwise(_half_slope_value, partials, b, z, order=order)


def _half_slope_in_b(b: Array, z: Array, order: Index) -> Array:
    return _half_slope(b, z, (order[0] + 1, order[1]))


def _half_slope_in_z(b: Array, z: Array, order: Index) -> Array:
    return _half_slope(b, z, (order[0], order[1] + 1))


def _half_slope_value(b: Array, z: Array, order: Index) -> Array:
    above = derivative(lambda v, z: _debye.reduced_ratio(v, 4 * z), order)
    below = derivative(_low_i.reduced_ratio, order)
    slope = by_region(above, below, b - 1, z, square=lambda z: 4 * z)
    slope = jnp.where((b == jnp.inf) | (z == jnp.inf), 0, slope)
    return jnp.where((b > 0) & (z >= 0), slope, jnp.nan)


def log_hyp0f1(b: ArrayLike, z: ArrayLike) -> Array:
    r"""Logarithm of the confluent hypergeometric limit function.

    .. math::
        \log {}_0F_1(; b; z) = \log \sum_{k \ge 0} \frac{z^k}{k!\,(b)_k}
            = \log I_{b-1}(2\sqrt z) - (b - 1) \log \sqrt z + \log\Gamma(b)

    The normaliser of the von Mises-Fisher law, relative to the uniform one, at b = d/2
    and z = kappa^2/4. In high dimension it is small where log I is huge; here it has a
    relative error of a few eps.

    Args:
      b: parameter, b > 0, any shape.
      z: argument, z >= 0; broadcasts with `b`.

    Returns:
      Array of the broadcast shape, 0 at z = 0; NaN for b <= 0, z < 0 and for NaN.

    Raises:
      TypeError: an input is complex or boolean.
      ValueError: the shapes do not broadcast.

    Differentiable in `b` and `z`, in every mode and order, at z = 0 too.

    Example:
      >>> from jaxdiv import special
      >>> print(f"{special.log_hyp0f1(1.5, 1.0):.4f}")  # log(sinh(2) / 2)
      0.5952

    References:
      DLMF 10.39.9; Plesner et al., 2024, arXiv:2409.08729.
    """
    (b, z), dtype, _ = real(b=b, z=z)
    return log_0f1(b, z).astype(dtype)
