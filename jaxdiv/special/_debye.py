r"""The Debye expansion in log form: large v or large x, and everything between.

.. math::
    \log I_v = w - v \log\frac{v+w}{x} - \tfrac12 \log(2\pi w)
        + \sum_k \frac{d_k(P)}{w^k}, \qquad w^2 = v^2 + x^2,\; P = v^2/w^2

K_v is the same at -w. All functions here may be differentiated in every mode and order:
the polynomials know their derivatives.
"""

import jax.numpy as jnp

from jaxdiv.special._polynomial import Rows, alternating, bend, debye, stretch, turn
from jaxdiv.special._regions import debye_rows, settings
from jaxdiv.special._rule import elementwise
from jaxdiv.typing import Array


def modulus(v: Array, y: Array) -> Array:
    """W = sqrt(v^2 + y)."""
    return jnp.sqrt(v * v + y)


def log_tilt(v: Array, x: Array) -> Array:
    """log((v + w) / x), the hyperbolic arcsine of v/x."""
    return elementwise(_log_tilt, (_log_tilt_in_v, _log_tilt_in_x), v, x)


def _log_tilt(v: Array, x: Array) -> Array:
    return jnp.log((v + modulus(v, x * x)) / x)


def _log_tilt_in_v(v: Array, x: Array) -> Array:
    return 1 / modulus(v, x * x)


def _log_tilt_in_x(v: Array, x: Array) -> Array:
    return -v / (x * modulus(v, x * x))


def _slope_rows(x: Array) -> Rows:
    return debye_rows(x, settings(x).debye_slope)


def _correction_in_v(rows: Rows, v: Array, y: Array) -> Array:
    return v / (v * v + y) * (debye(turn(rows), v, y) - 0.5)


def correction_i_in_v(v: Array, y: Array) -> Array:
    """The v-derivative of -(1/2) log w and the series of log I_v."""
    return _correction_in_v(_slope_rows(y), v, y)


def correction_k_in_v(v: Array, y: Array) -> Array:
    """The v-derivative of -(1/2) log w and the series of log K_v."""
    return _correction_in_v(alternating(_slope_rows(y)), v, y)


def log_i_in_v(v: Array, x: Array) -> Array:
    """The v-derivative of log I_v."""
    return correction_i_in_v(v, x * x) - log_tilt(v, x)


def log_k_in_v(v: Array, x: Array) -> Array:
    """The v-derivative of log K_v."""
    return correction_k_in_v(v, x * x) + log_tilt(v, x)


def reduced_ratio(v: Array, y: Array, *, rows: Rows | None = None) -> Array:
    """I_{v+1} / (x I_v), of y = x^2."""
    s = debye(stretch(rows or _slope_rows(y)), v, y)
    return 1 / (v + modulus(v, y)) - (0.5 + s) / (v * v + y)


def ratio_slope(v: Array, y: Array, *, rows: Rows | None = None) -> Array:
    """The x-derivative of I_{v+1} / I_v, of y = x^2."""
    w = modulus(v, y)
    return v / (w * (w + v)) + _bent(rows or debye_rows(y), v, y)


def ratio(v: Array, x: Array) -> Array:
    """I_{v+1} / I_v."""
    return x * reduced_ratio(v, x * x)


def ratio_in_x(v: Array, x: Array) -> Array:
    """The x-derivative of I_{v+1} / I_v."""
    return ratio_slope(v, x * x)


def _bent(rows: Rows, v: Array, y: Array) -> Array:
    w2 = v * v + y
    return (0.5 * (y - v * v) / w2 + debye(bend(rows), v, y)) / w2


def k_ratio(v: Array, x: Array) -> Array:
    """K_{v+1} / K_v."""
    s = debye(stretch(alternating(_slope_rows(x))), v, x * x)
    return (v + modulus(v, x * x)) / x + x * ((0.5 + s) / (v * v + x * x))


def k_ratio_in_x(v: Array, x: Array) -> Array:
    """The x-derivative of K_{v+1} / K_v."""
    w = modulus(v, x * x)
    return -v * ((w + v) / w) / x / x - _bent(alternating(debye_rows(x)), v, x * x)
