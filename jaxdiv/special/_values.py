"""The values of log I, log K and the ratios: one fused program each, no derivatives.

Where an element is below the border of the Debye series the other form is computed for
all, in a program of its own, and skipped where no element needs it.
"""

import math
from functools import partial

import jax.numpy as jnp

from jaxdiv.special import _gamma, _low_i, _low_k
from jaxdiv.special._polynomial import alternating, debye_sum, stretch
from jaxdiv.special._regions import debye_rows, is_high, settings, where_any
from jaxdiv.typing import Array


def log_i(v: Array, x: Array, *, region: str, scaled: bool) -> Array:
    """Log I_|v|(x), minus x where `scaled`, for x > 0."""
    v = jnp.abs(v)
    w2 = v * v + x * x
    w = jnp.sqrt(w2)
    smooth = v * v / (w + x) if scaled else w
    smooth = smooth + _series(v, w2, w)
    tilt, inside, half = (v + w) / x, 2 * math.pi * w - 1, -0.5
    if region != "high":
        # The arguments of the logarithms are chosen, not the logarithms.
        high = is_high(v, x * x)
        below = where_any(~high, _log_i_below, v, x)
        smooth = jnp.where(high, smooth, below[0] - x if scaled else below[0])
        tilt = jnp.where(high, tilt, 2 / x)
        inside = jnp.where(high, inside, below[1])
        half = jnp.where(high, -0.5, 1.0)
    return smooth - v * jnp.log(tilt) + half * jnp.log1p(inside)


def _log_i_below(v: Array, x: Array) -> tuple[Array, Array]:
    smooth, T = _gamma.log_gamma_parts(v)
    S = _low_i.series(v, x * x / 4)
    return -smooth + jnp.zeros_like(S), T + S + T * S


def _series(v: Array, w2: Array, w: Array, *, sign: int = 1) -> Array:
    rows = debye_rows(w, settings(w).debye)
    return debye_sum(rows if sign > 0 else alternating(rows), v * v / w2, 1 / w)


def log_k(v: Array, x: Array, *, region: str, scaled: bool) -> Array:
    """Log K_|v|(x), plus x where `scaled`, for x > 0."""
    v = jnp.abs(v)
    w2 = v * v + x * x
    w = jnp.sqrt(w2)
    smooth = _series(v, w2, w, sign=-1) - (v * v / (w + x) if scaled else w)
    smooth = smooth + v * jnp.log((v + w) / x)
    inside, half = (2 / math.pi) * w, -0.5
    if region != "high":
        high = is_high(v, x * x)
        below = where_any(~high, partial(_log_k_below, scaled=scaled), v, x)
        smooth = jnp.where(high, smooth, below[1])
        inside = jnp.where(high, inside, below[0])
        half = jnp.where(high, -0.5, 1.0)
    return smooth + half * jnp.log(inside)


def _log_k_below(v: Array, x: Array, *, scaled: bool) -> tuple[Array, Array]:
    ell = jnp.log(2 / x)
    inside, n, shift = _low_k.log_parts(v, x, ell)
    return inside, n * ell + (shift + x if scaled else shift)


def _ratio_series(v: Array, w2: Array, w: Array, *, sign: int = 1) -> Array:
    rows = debye_rows(w, settings(w).debye_slope)
    rows = stretch(rows if sign > 0 else alternating(rows))
    return (0.5 + debye_sum(rows, v * v / w2, 1 / w)) / w2


def ratio(v: Array, x: Array, *, region: str) -> Array:
    """I_{v+1}(x) / I_v(x)."""
    w2 = v * v + x * x
    w = jnp.sqrt(w2)
    reduced = 1 / (v + w) - _ratio_series(v, w2, w)
    if region != "high":
        high = is_high(v, x * x)
        below = where_any(~high, _reduced_ratio_below, v, x)
        reduced = jnp.where(high, reduced, below)
    return x * reduced


def complement(v: Array, x: Array, *, region: str) -> Array:
    """1 - I_{v+1}(x) / I_v(x)."""
    w2 = v * v + x * x
    w = jnp.sqrt(w2)
    above = (v + v * v / (w + x)) / (w + v) + x * _ratio_series(v, w2, w)
    if region == "high":
        return above
    high = is_high(v, x * x)
    below = where_any(~high, _reduced_ratio_below, v, x)
    return jnp.where(high, above, 1 - x * below)


def _reduced_ratio_below(v: Array, x: Array) -> Array:
    return _low_i.ratios(v, x * x / 4, slope=False, order=(0, 0))


def k_ratio(v: Array, x: Array, *, region: str) -> Array:
    """K_{v+1}(x) / K_v(x)."""
    w2 = v * v + x * x
    w = jnp.sqrt(w2)
    above = (v + w) / x + x * _ratio_series(v, w2, w, sign=-1)
    if region == "high":
        return above
    high = is_high(v, x * x)
    below = where_any(~high, _k_ratio_below, v, x)
    return jnp.where(high, above, below)


def _k_ratio_below(v: Array, x: Array) -> Array:
    return _low_k.ratio(v, x)
