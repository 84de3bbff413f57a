r"""I_v near the origin, w = sqrt(v^2 + x^2) below the border of the Debye series.

.. math:: I_v(x) = \frac{(x/2)^v}{\Gamma(1+v)} {}_0F_1(; v+1; q), \qquad q = x^2/4

All terms are positive. Derivatives come from the same recurrences, run on `Jet`.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp

from jaxdiv.special import _debye
from jaxdiv.special._jet import Index, Jet, of_function, variable
from jaxdiv.special._regions import debye_rows, settings
from jaxdiv.special._rule import elementwise
from jaxdiv.typing import Array


def series(v: Array, q: Array) -> Array:
    """0F1(; v + 1; q) - 1, for a value only."""
    # Horner's scheme on numerator and denominator, for one division in all. The factor
    # 1/(v + 1) in both keeps them in range for any v.
    e = 1 / (v + 1)
    y = q * e
    n = d = jnp.ones_like(v * q)
    for k in range(settings(q).hypergeometric, 1, -1):
        d = (1 + (k - 1) * e) * d
        n = d + y * (1 / k) * n
    return y * n / d


def log_series_in_v(v: Array, q: Array, order: int = 1) -> Array:
    """The v-derivative of log 0F1(; v + 1; q), of an order from 1 on."""
    partials = (_next_log_series, _log_series_in_q)
    return elementwise(_log_series_in_v, partials, v, q, order=order)


def _next_log_series(v: Array, q: Array, order: int) -> Array:
    return log_series_in_v(v, q, order + 1)


def _log_series_in_q(v: Array, q: Array, order: int) -> Array:
    return 2 * reduced_ratio(v, q, (order, 0))


def _log_series_in_v(v: Array, q: Array, order: int) -> Array:
    # Here 1/(v + k) itself: the coefficients of one order are then of one sign.
    at = variable(v, (order, 0))
    total = Jet({(0, 0): 1.0}, at.order)
    for k in range(settings(q).hypergeometric, 0, -1):
        total = 1 + (at + k).reciprocal() * total * (q * (1 / k))
    return jnp.asarray(total.log_slope()[order, 0]) * math.factorial(order)


def reduced_ratio(v: Array, q: Array, order: Index = (0, 0)) -> Array:
    """I_{v+1}(x) / (x I_v(x)), or its derivative of that order in (v, q)."""
    return elementwise(ratios, _RATIOS, v, q, slope=False, order=order)


def ratio_slope(v: Array, q: Array, order: Index = (0, 0)) -> Array:
    """The x-derivative of I_{v+1}/I_v, or its derivative of that order in (v, q)."""
    return elementwise(ratios, _RATIOS, v, q, slope=True, order=order)


def _ratios_in_v(v: Array, q: Array, *, slope: bool, order: Index) -> Array:
    order = (order[0] + 1, order[1])
    return elementwise(ratios, _RATIOS, v, q, slope=slope, order=order)


def _ratios_in_q(v: Array, q: Array, *, slope: bool, order: Index) -> Array:
    order = (order[0], order[1] + 1)
    return elementwise(ratios, _RATIOS, v, q, slope=slope, order=order)


_RATIOS = (_ratios_in_v, _ratios_in_q)


def ratios(v: Array, q: Array, *, slope: bool, order: Index) -> Array:
    """The value of `ratio_slope` or `reduced_ratio`."""
    n, rows = settings(q).steps, debye_rows(q, settings(q).debye_start)
    at, four_q = variable(v, order), 4 * variable(q, order, axis=1)
    # Every step down divides the error of this start by the square of the ratio.

    def jet(f: Callable) -> Jet:
        return of_function(lambda v, q: f(v, 4 * q, rows=rows), v + n, q, order)

    ratio = jet(_debye.reduced_ratio)
    bent = jet(_debye.ratio_slope) if slope else None
    for j in range(n, 0, -1):
        twice = 2 * (at + j)
        ratio = (twice + four_q * ratio).reciprocal()
        if bent is not None:
            bent = ratio * ratio * (twice - four_q * bent)
    out = (ratio if bent is None else bent)[order]
    return jnp.asarray(out) * (math.factorial(order[0]) * math.factorial(order[1]))
