r"""Functions of x alone, at an order that is a number: what von Mises-Fisher laws need.

.. math:: h(x) = \log {}_0F_1(; v + 1; x^2/4), \qquad h' = I_{v+1}(x) / I_v(x)

Their derivatives are those in x, through the ratio, whose own derivatives do not cancel
at large x as those in x^2/4 would.
"""

import math

import jax
import jax.numpy as jnp

from jaxdiv.special import _gamma, _hypergeometric
from jaxdiv.special._hypergeometric import excess
from jaxdiv.special._polynomial import debye_sum
from jaxdiv.special._ratio import bessel_i_ratio, bessel_i_ratio_complement
from jaxdiv.special._regions import debye_rows, settings, where_any
from jaxdiv.special._rule import elementwise
from jaxdiv.typing import Array


def log_0f1(x: Array, v: float) -> Array:
    """h(x)."""
    return elementwise(_value, (ratio,), x, v=v)


def log_0f1_deficit(x: Array, v: float) -> Array:
    """The deficit x - h(x), with all its digits where both are large."""
    return elementwise(_deficit, (ratio_complement,), x, v=v)


def ratio(x: Array, v: float) -> Array:
    """h'(x)."""
    return bessel_i_ratio(v, x)


def ratio_complement(x: Array, v: float) -> Array:
    """1 - h'(x)."""
    return bessel_i_ratio_complement(v, x)


def ratio_slope(x: Array, v: float) -> Array:
    """h''(x)."""
    return jax.jvp(lambda x: ratio(x, v), (x,), (jnp.ones_like(x),))[1]


def _value(x: Array, *, v: float) -> Array:
    b = jnp.full_like(x, v + 1)
    return jnp.where(x >= 0, _hypergeometric.value_of(b, x * x / 4), jnp.nan)


def _deficit(x: Array, *, v: float) -> Array:
    order, z = jnp.full_like(x, v), x * x / 4
    early = _hypergeometric.is_early(order, z)
    small = where_any(early, _hypergeometric.series, order, z)
    value = jnp.where(early, x - small, _late_deficit(x, v))
    value = jnp.where(x == jnp.inf, jnp.inf, value)
    return jnp.where(x >= 0, value, jnp.nan)


def _late_deficit(x: Array, v: float) -> Array:
    # The terms of `_hypergeometric`'s late form, with x - w in place of -w.
    w2 = v * v + x * x
    w = jnp.sqrt(w2)
    rows = debye_rows(x, settings(x).debye)
    series = debye_sum(rows, v * v / w2, 1 / w)
    order = jnp.full_like(x, v)
    if v >= settings(x).large:
        y = excess(order, x * x)
        slow = x * ((v + v * v / (w + x)) / (v + w)) - _gamma.stirling(order)
        return slow + v * jnp.log1p(y) + 0.5 * jnp.log1p(2 * y) - series
    slow = -v * v / (w + x) - _gamma.log_gamma(order)
    return slow + v * jnp.log((v + w) / 2) + 0.5 * jnp.log(2 * math.pi * w) - series
