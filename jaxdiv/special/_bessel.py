"""log I and log K, plain and scaled, with their derivatives."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.special import _debye, _gamma, _low_i, _low_k, _plesner2024, _values
from jaxdiv.special._arguments import real
from jaxdiv.special._ratio import edges, i_ratio, i_ratio_complement, k_ratio
from jaxdiv.special._regions import by_region
from jaxdiv.special._rule import derivative, elementwise
from jaxdiv.typing import Array, ArrayLike

METHODS = ("debye", "plesner2024")


def _i_value(v: Array, x: Array, *, region: str, scaled: bool, method: str) -> Array:
    if method == "debye":
        value = _values.log_i(v, x, region=region, scaled=scaled)
    else:
        value = _plesner2024.log_i(jnp.abs(v), x)
    # I_{-n} = I_n; between the negative integers I may be negative.
    order = jnp.where(v == jnp.round(v), jnp.abs(v), v)
    zero = jnp.where(v == 0, 0.0, -jnp.inf)
    far = -jnp.inf if scaled else jnp.inf
    return edges(order, x, value, far_v=-jnp.inf, zero=zero, far_x=far)


@partial(jax.jit, static_argnames=("region", "scaled", "method"))
def _log_i(
    v: Array, x: Array, *, region: str, scaled: bool = False, method: str = "debye"
) -> Array:
    options = {"region": region, "scaled": scaled, "method": method}
    return elementwise(_i_value, (_i_in_v, _i_in_x), v, x, **options)


def _i_in_v(v: Array, x: Array, region: str, **_: object) -> Array:
    return _i_order(v, x, region=region, order=1)


def _i_order(v: Array, x: Array, *, region: str, order: int) -> Array:
    """The v-derivative of log I of an order from 1 on."""
    partials = (_i_next_order, _i_order_in_x)
    return elementwise(_i_order_value, partials, v, x, region=region, order=order)


def _i_next_order(v: Array, x: Array, region: str, order: int) -> Array:
    return _i_order(v, x, region=region, order=order + 1)


def _i_order_in_x(v: Array, x: Array, region: str, order: int) -> Array:
    slope = i_ratio(v, x, region=region, order=(order, 0))
    return slope + 1 / x if order == 1 else slope


def _i_order_value(v: Array, x: Array, region: str, order: int) -> Array:
    above = derivative(_debye.log_i_in_v, (order - 1, 0))
    below = derivative(_low_i_in_v, (order - 1, 0))
    slope = by_region(above, below, v, x, region=region)
    zero = -jnp.inf if order == 1 else slope
    return edges(v, x, slope, far_v=-jnp.inf, zero=zero, far_x=0.0)


def _low_i_in_v(v: Array, x: Array) -> Array:
    series = _low_i.log_series_in_v(v, x * x / 4)
    return jnp.log(x / 2) - _gamma.digamma(v) + series


def _i_in_x(v: Array, x: Array, region: str, *, scaled: bool, method: str) -> Array:
    del method
    v = jnp.where(v < 0, -v, v)
    if scaled:
        return _quotient(v, x) - i_ratio_complement(v, x, region=region)
    return _quotient(v, x) + i_ratio(v, x, region=region)


def _quotient(v: Array, x: Array) -> Array:
    """V / x, 0 at v = x = 0."""
    at_zero = jnp.where(v == 0, 0.0, jnp.inf)
    return jnp.where(x == 0, at_zero, v / jnp.where(x == 0, 1, x))


def _k_value(v: Array, x: Array, *, region: str, scaled: bool, method: str) -> Array:
    if method == "debye":
        value = _values.log_k(v, x, region=region, scaled=scaled)
    else:
        value = _plesner2024.log_k(jnp.abs(v), x)
    far = -jnp.inf
    return edges(jnp.abs(v), x, value, far_v=jnp.inf, zero=jnp.inf, far_x=far)


@partial(jax.jit, static_argnames=("region", "scaled", "method"))
def _log_k(
    v: Array, x: Array, *, region: str, scaled: bool = False, method: str = "debye"
) -> Array:
    options = {"region": region, "scaled": scaled, "method": method}
    return elementwise(_k_value, (_k_in_v, _k_in_x), v, x, **options)


def _k_in_v(v: Array, x: Array, region: str, **_: object) -> Array:
    # `where`, not `abs`: the second derivative at v = 0 is to be that of one side.
    sign, v = jnp.where(v < 0, -1, 1), jnp.where(v < 0, -v, v)
    return sign * k_order(v, x, region=region, order=1)


def k_order(v: Array, x: Array, *, region: str, order: int) -> Array:
    """The v-derivative of log K of an order from 1 on, v >= 0."""
    partials = (_k_next_order, _k_order_in_x)
    return elementwise(_k_order_value, partials, v, x, region=region, order=order)


def _k_next_order(v: Array, x: Array, region: str, order: int) -> Array:
    return k_order(v, x, region=region, order=order + 1)


def _k_order_in_x(v: Array, x: Array, region: str, order: int) -> Array:
    slope = -k_ratio(v, x, region=region, order=(order, 0))
    return slope + 1 / x if order == 1 else slope


def _k_order_value(v: Array, x: Array, region: str, order: int) -> Array:
    above = derivative(_debye.log_k_in_v, (order - 1, 0))
    below = partial(_low_k.log_in_v, order=order)
    slope = by_region(above, below, v, x, region=region)
    zero = jnp.where(v == 0, 0.0, jnp.inf) if order == 1 else slope
    return edges(v, x, slope, far_v=jnp.inf, zero=zero, far_x=0.0)


def _k_in_x(v: Array, x: Array, region: str, *, scaled: bool, method: str) -> Array:
    del method
    v = jnp.where(v < 0, -v, v)
    slope = _quotient(v, x) - k_ratio(v, x, region=region) + (1 if scaled else 0)
    return jnp.where(x == 0, -jnp.inf, slope)


def log_bessel_i(v: ArrayLike, x: ArrayLike, *, method: str = "debye") -> Array:
    r"""Logarithm of the modified Bessel function of the first kind.

    .. math::
        \log I_v(x) = w - v \log\frac{v+w}{x} - \tfrac12 \log(2\pi w)
            + \sum_k \frac{d_k(v^2/w^2)}{w^k}, \qquad w = \sqrt{v^2 + x^2}

    The Debye expansion in log form serves every w from 25 on (10 in float32), v = 0
    included; below, a power series with positive terms. The error is at most 4 units
    of eps max(1, abs(log I), w): rounding the inputs alone moves the result by w eps.

    Args:
      v: order, v >= 0 or a negative integer, any shape. A plain Python number that is
        at least 25 (10 in float32) makes the faster program of large orders.
      x: argument, x >= 0; broadcasts with `v`. w must not overflow when squared.
      method: "debye", or "plesner2024" for the choice of expansions of the paper, which
        is slower and less accurate and here for comparison.

    Returns:
      Array of the broadcast shape in the floating dtype of the inputs. At x = 0 it is 0
      for v = 0, else -inf; NaN for negative x, for other negative v and for NaN.

    Raises:
      TypeError: an input is complex or boolean.
      ValueError: the shapes do not broadcast, or `method` is unknown.

    Differentiable in `v` (where v >= 0) and `x`, in every mode and order; the method
    changes the value only.

    Example:
      >>> from jaxdiv import special
      >>> print(f"{special.log_bessel_i(1023.0, 500.0):.2f}")
      -363.48

    References:
      Plesner, Sorensen and Hauberg, 2024, arXiv:2409.08729; DLMF 10.41.
    """
    _check.one_of("method", method, METHODS)
    (v, x), dtype, region = real(order="v", v=v, x=x)
    return _log_i(v, x, region=region, method=method).astype(dtype)


def log_bessel_k(v: ArrayLike, x: ArrayLike, *, method: str = "debye") -> Array:
    r"""Logarithm of the modified Bessel function of the second kind.

    .. math::
        \log K_v(x) = -w + v \log\frac{v+w}{x} + \tfrac12 \log\frac{\pi}{2w}
            + \sum_k (-1)^k \frac{d_k(v^2/w^2)}{w^k}, \qquad w = \sqrt{v^2 + x^2}

    for w from 25 on (10 in float32), and below a recurrence from the orders next to 0.

    Args:
      v: real order, any shape; K is even in it. A plain Python number that is at least
        25 (10 in float32) makes the faster program of large orders.
      x: argument, x >= 0; broadcasts with `v`. w must not overflow when squared.
      method: "debye", or "plesner2024" for the choice of expansions of the paper, which
        is slower and less accurate and here for comparison.

    Returns:
      Array of the broadcast shape in the floating dtype of the inputs; inf at x = 0,
      NaN for negative x and for NaN.

    Raises:
      TypeError: an input is complex or boolean.
      ValueError: the shapes do not broadcast, or `method` is unknown.

    Differentiable in `v` and `x`, in every mode and order; the method changes the value
    only.

    Example:
      >>> from jaxdiv import special
      >>> print(f"{special.log_bessel_k(1023.0, 500.0):.2f}")
      355.75

    References:
      Plesner, Sorensen and Hauberg, 2024, arXiv:2409.08729; Temme, 1975.
    """
    _check.one_of("method", method, METHODS)
    (v, x), dtype, region = real(order="v", v=v, x=x)
    return _log_k(v, x, region=region, method=method).astype(dtype)


def log_bessel_ie(v: ArrayLike, x: ArrayLike) -> Array:
    r"""Logarithm of the exponentially scaled function of the first kind.

    .. math:: \log\left(e^{-x} I_v(x)\right)

    Args:
      v: order, as for `log_bessel_i`.
      x: argument, x >= 0; broadcasts with `v`.

    Returns:
      Array of the broadcast shape, formed without the difference of large numbers.

    Raises:
      TypeError: an input is complex or boolean.
      ValueError: the shapes do not broadcast.

    Differentiable as `log_bessel_i`.

    Example:
      >>> from jaxdiv import special
      >>> print(f"{special.log_bessel_ie(0.0, 1e6):.4f}")
      -7.8267

    References:
      Plesner, Sorensen and Hauberg, 2024, arXiv:2409.08729.
    """
    (v, x), dtype, region = real(order="v", v=v, x=x)
    return _log_i(v, x, region=region, scaled=True).astype(dtype)


def log_bessel_ke(v: ArrayLike, x: ArrayLike) -> Array:
    r"""Logarithm of the exponentially scaled function of the second kind.

    .. math:: \log\left(e^{x} K_v(x)\right)

    Args:
      v: order, as for `log_bessel_k`.
      x: argument, x >= 0; broadcasts with `v`.

    Returns:
      Array of the broadcast shape, formed without the difference of large numbers.

    Raises:
      TypeError: an input is complex or boolean.
      ValueError: the shapes do not broadcast.

    Differentiable as `log_bessel_k`.

    Example:
      >>> from jaxdiv import special
      >>> print(f"{special.log_bessel_ke(0.0, 1e6):.4f}")
      -6.6820

    References:
      Plesner, Sorensen and Hauberg, 2024, arXiv:2409.08729.
    """
    (v, x), dtype, region = real(order="v", v=v, x=x)
    return _log_k(v, x, region=region, scaled=True).astype(dtype)
