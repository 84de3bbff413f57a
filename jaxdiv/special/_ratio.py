"""Ratios of neighbouring Bessel functions with their derivatives, and the inverse."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxdiv.special import _debye, _low_i, _low_k, _values
from jaxdiv.special._arguments import real
from jaxdiv.special._jet import Index
from jaxdiv.special._regions import by_region
from jaxdiv.special._rule import derivative, elementwise
from jaxdiv.typing import Array, ArrayLike


def edges(
    v: Array,
    x: Array,
    value: Array,
    *,
    far_v: float,
    zero: ArrayLike,
    far_x: float,
    lowest: float = 0.0,
) -> Array:
    """`value` with its limits at v = inf, x = 0 and x = inf; NaN for no such input."""
    value = jnp.where(v == jnp.inf, far_v, value)
    value = jnp.where(x == 0, zero, value)
    value = jnp.where(x == jnp.inf, jnp.where(v == jnp.inf, jnp.nan, far_x), value)
    return jnp.where((v >= lowest) & (x >= 0), value, jnp.nan)


def _low_ratio(v: Array, x: Array) -> Array:
    return x * _low_i.reduced_ratio(v, x * x / 4)


def _low_ratio_in_x(v: Array, x: Array) -> Array:
    return _low_i.ratio_slope(v, x * x / 4)


def _i_value(v: Array, x: Array, *, region: str, order: Index) -> Array:
    a, b = order
    if order == (0, 0):
        value = _values.ratio(v, x, region=region)
        return edges(v, x, value, far_v=0.0, zero=0.0, far_x=1.0)
    if b == 0:
        above, below = _debye.ratio, _low_ratio
    else:
        above, below, order = _debye.ratio_in_x, _low_ratio_in_x, (a, b - 1)
    above, below = derivative(above, order), derivative(below, order)
    value = by_region(above, below, v, x, region=region)
    return edges(v, x, value, far_v=0.0, zero=value, far_x=0.0)


def i_ratio(v: Array, x: Array, *, region: str, order: Index = (0, 0)) -> Array:
    """I_{v+1} / I_v, or its derivative of that order in (v, x)."""
    partials = (_i_ratio_in_v, _i_ratio_in_x)
    return elementwise(_i_value, partials, v, x, region=region, order=order)


def _i_ratio_in_v(v: Array, x: Array, region: str, order: Index) -> Array:
    return i_ratio(v, x, region=region, order=(order[0] + 1, order[1]))


def _i_ratio_in_x(v: Array, x: Array, region: str, order: Index) -> Array:
    return i_ratio(v, x, region=region, order=(order[0], order[1] + 1))


def _complement_value(v: Array, x: Array, *, region: str) -> Array:
    value = _values.complement(v, x, region=region)
    return edges(v, x, value, far_v=1.0, zero=1.0, far_x=0.0)


def i_ratio_complement(v: Array, x: Array, *, region: str) -> Array:
    """One minus the ratio."""
    partials = (_complement_in_v, _complement_in_x)
    return elementwise(_complement_value, partials, v, x, region=region)


def _complement_in_v(v: Array, x: Array, region: str) -> Array:
    return -i_ratio(v, x, region=region, order=(1, 0))


def _complement_in_x(v: Array, x: Array, region: str) -> Array:
    return -i_ratio(v, x, region=region, order=(0, 1))


def _k_value(v: Array, x: Array, *, region: str, order: Index) -> Array:
    a, b = order
    if order == (0, 0):
        value = _values.k_ratio(v, x, region=region)
        return edges(v, x, value, far_v=jnp.inf, zero=jnp.inf, far_x=1.0, lowest=-0.5)
    rolled = order != (0, 1)
    if b == 0:
        above = derivative(_debye.k_ratio, order)
        below = partial(_low_k.ratio, order=a, rolled=rolled)
    else:
        order = (a, b - 1)
        above = derivative(_debye.k_ratio_in_x, order)
        below = derivative(partial(_low_k.ratio_in_x, rolled=rolled), order)
    value = by_region(above, below, v, x, region=region)
    sign = jnp.inf if b % 2 == 0 else -jnp.inf
    return edges(v, x, value, far_v=jnp.nan, zero=sign, far_x=0.0, lowest=-0.5)


def k_ratio(v: Array, x: Array, *, region: str, order: Index = (0, 0)) -> Array:
    """K_{v+1} / K_v, v >= -1/2, or its derivative of that order in (v, x)."""
    partials = (_k_ratio_in_v, _k_ratio_in_x)
    return elementwise(_k_value, partials, v, x, region=region, order=order)


def _k_ratio_in_v(v: Array, x: Array, region: str, order: Index) -> Array:
    return k_ratio(v, x, region=region, order=(order[0] + 1, order[1]))


def _k_ratio_in_x(v: Array, x: Array, region: str, order: Index) -> Array:
    return k_ratio(v, x, region=region, order=(order[0], order[1] + 1))


_i_ratio = jax.jit(i_ratio, static_argnames="region")
_i_complement = jax.jit(i_ratio_complement, static_argnames="region")
_k_ratio = jax.jit(k_ratio, static_argnames="region")


def bessel_i_ratio(v: ArrayLike, x: ArrayLike) -> Array:
    r"""Ratio of modified Bessel functions of the first kind.

    .. math:: r_v(x) = I_{v+1}(x) / I_v(x)

    The mean resultant length of the von Mises-Fisher law on the sphere of dimension
    2v + 1 at concentration x.

    Args:
      v: order, v >= 0, any shape; a plain number from 25 on (10 in float32) is faster.
      x: argument, x >= 0; broadcasts with `v`.

    Returns:
      Array of the broadcast shape with values in [0, 1]: 0 at x = 0, 1 at x = inf; NaN
      for a negative or NaN input.

    Raises:
      TypeError: an input is complex or boolean.
      ValueError: the shapes do not broadcast.

    Differentiable in `v` and `x`, in every mode and order.

    Example:
      >>> from jaxdiv import special
      >>> print(f"{special.bessel_i_ratio(2.25, 3.75):.5f}")
      0.47187

    References:
      Amos, 1974, Mathematics of Computation 28; Plesner et al., 2024, arXiv:2409.08729.
    """
    (v, x), dtype, region = real(order="v", v=v, x=x)
    return _i_ratio(v, x, region=region).astype(dtype)


def bessel_i_ratio_complement(v: ArrayLike, x: ArrayLike) -> Array:
    r"""One minus the ratio of `bessel_i_ratio`, without cancellation for large x.

    .. math:: 1 - I_{v+1}(x) / I_v(x)

    Args:
      v: order, v >= 0, any shape.
      x: argument, x >= 0; broadcasts with `v`.

    Returns:
      Array of the broadcast shape with values in [0, 1]: 1 at x = 0, about (v + 1/2)/x
      for large x; NaN for a negative or NaN input.

    Raises:
      TypeError: an input is complex or boolean.
      ValueError: the shapes do not broadcast.

    Differentiable in `v` and `x`, in every mode and order.

    Example:
      >>> from jaxdiv import special
      >>> print(f"{special.bessel_i_ratio_complement(0.0, 1e6):.6e}")
      5.000001e-07

    References:
      Amos, 1974, Mathematics of Computation 28.
    """
    (v, x), dtype, region = real(order="v", v=v, x=x)
    return _i_complement(v, x, region=region).astype(dtype)


def bessel_k_ratio(v: ArrayLike, x: ArrayLike) -> Array:
    r"""Ratio of modified Bessel functions of the second kind.

    .. math:: K_{v+1}(x) / K_v(x)

    Args:
      v: order, v >= 0, any shape.
      x: argument, x >= 0; broadcasts with `v`.

    Returns:
      Array of the broadcast shape, at least 1: inf at x = 0, 1 at x = inf; NaN for a
      negative or NaN input.

    Raises:
      TypeError: an input is complex or boolean.
      ValueError: the shapes do not broadcast.

    Differentiable in `v` and `x`, in every mode and order.

    Example:
      >>> from jaxdiv import special
      >>> print(f"{special.bessel_k_ratio(0.5, 2.0):.4f}")  # 1 + 1/x
      1.5000

    References:
      Plesner et al., 2024, arXiv:2409.08729.
    """
    (v, x), dtype, region = real(order="v", v=v, x=x)
    ratio = _k_ratio(v, x, region=region)
    return jnp.where(v >= 0, ratio, jnp.nan).astype(dtype)
