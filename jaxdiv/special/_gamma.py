"""log Gamma(1 + v) and its derivative for v >= 0, exact at v = 0, without branches."""

import math
from fractions import Fraction
from functools import lru_cache

import jax.numpy as jnp

from jaxdiv.special._polynomial import horner
from jaxdiv.special._regions import settings
from jaxdiv.typing import Array

# log Gamma(z) = (z - 1/2) log z - z + log(2 pi)/2 + s(z), s(z) = sum_k c_k / z^(2k-1)
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680)
_STIRLING += (1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400)


def stirling(z: Array) -> Array:
    """The tail s(z) of Stirling's series."""
    inverse = 1 / z
    return inverse * horner(_terms(z), inverse * inverse)


def stirling_slope(z: Array) -> Array:
    """Its derivative s'(z)."""
    inverse = 1 / z
    row = [-(2 * k + 1) * c for k, c in enumerate(_terms(z))]
    return inverse * inverse * horner(row, inverse * inverse)


def _terms(z: Array) -> tuple[float, ...]:
    return _STIRLING[: settings(z).stirling]


@lru_cache
def _rising(factors: int) -> tuple[float, ...]:
    """The powers of v from the first on in the product of 1 + v/j, j <= factors."""
    row = [Fraction(1)]
    for j in range(1, factors + 1):
        pairs = zip([*row, Fraction(0)], [Fraction(0), *row], strict=True)
        row = [c + d / j for c, d in pairs]
    return tuple(map(float, row[1:]))


def log_gamma_parts(v: Array) -> tuple[Array, Array]:
    """(S, T) with log Gamma(1 + v) = S - log1p(T), both small where v is."""
    factors = settings(v).gamma
    a = factors + 1.0
    at_a = sum(c / a ** (2 * k + 1) for k, c in enumerate(_terms(v)))
    smooth = (v + (a - 0.5)) * jnp.log1p(v * (1 / a)) + v * (math.log(a) - 1)
    return smooth + (stirling(v + a) - at_a), v * horner(_rising(factors), v)


def log_gamma(v: Array) -> Array:
    """Log Gamma(1 + v)."""
    smooth, T = log_gamma_parts(v)
    return smooth - jnp.log1p(T)


def digamma(v: Array) -> Array:
    """psi(1 + v), the derivative of `log_gamma`, differentiable itself."""
    factors = settings(v).gamma
    z = v + (factors + 1.0)
    shifted = sum(1 / (v + j) for j in range(1, factors + 1))
    return jnp.log(z) - 0.5 / z + stirling_slope(z) - shifted
