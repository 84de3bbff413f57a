"""The paper's own choice of expansions, for comparison: values only, v >= 0, x > 0.

Plesner, Sorensen and Hauberg, 2024, arXiv:2409.08729: the first region that holds
names the large-x series or the uniform series in v, and its terms; where none does, 41
terms of the power series around its largest for I, Rothwell's integral for K. The
quadrature of that integral is ours, 600 nodes of Simpson's rule.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from jaxdiv.special import _tables
from jaxdiv.special._polynomial import horner
from jaxdiv.typing import Array

_NODES = 600
_TERMS = 41
_POWER = 8


def _regions(v: Array, x: Array) -> list[Array]:
    ln_v, ln_x = jnp.log(v), jnp.log(x)
    return [
        ((x > 1400) & (v < 3.05)) | ((0.6229 * ln_x - 3.2318 > ln_v) & (v > 3.1)),
        ((x > 30) & (v < 15.3919)) | ((0.5113 * ln_x + 0.7939 > ln_v) & (x > 59.6925)),
        ((x > 274.2377) & (v > 0.3)) | (v > 163.6993),
        ((x > 84.4153) & (v > 0.46)) | (v > 56.9971),
        ((x > 35.9074) & (v > 0.6)) | (v > 20.1534),
        ((x > 19.6931) & (v > 0.7)) | (v > 12.6964),
    ]


def _large_x(v: Array, x: Array, terms: int, sign: int) -> Array:
    term = total = jnp.ones_like(v * x)
    for j in range(1, terms + 1):
        term = term * (-sign * (4 * v * v - (2 * j - 1) ** 2) / (8 * j * x))
        total = total + term
    factor = 2 * math.pi * x if sign > 0 else 2 / math.pi * x
    return sign * x - 0.5 * jnp.log(factor) + jnp.log(jnp.abs(total))


def _large_v(v: Array, x: Array, terms: int, sign: int) -> Array:
    z = x / v
    root = jnp.sqrt(1 + z * z)
    t = 1 / root
    eta = root + jnp.log(z / (1 + root))
    total = jnp.ones_like(v * x)
    for k, row in enumerate(_tables.DEBYE_U[:terms], 1):
        total = total + horner(row, t * t) * (sign * t / v) ** k
    factor = 2 * math.pi * v if sign > 0 else 2 / math.pi * v
    return (
        sign * v * eta
        - 0.5 * jnp.log(factor)
        - 0.25 * jnp.log1p(z * z)
        + jnp.log(jnp.abs(total))
    )


def _power_series(v: Array, x: Array) -> Array:
    peak = jnp.floor((jnp.sqrt(v * v + x * x) - v) / 2)
    first = jnp.maximum(peak - _TERMS // 2, 0)

    def log_term(i: Array) -> Array:
        k = first + i
        power = (2 * k + v) * jnp.log(x / 2)
        return power - gammaln(k + 1) - gammaln(k + v + 1)

    top = log_term(jnp.asarray(0, v.dtype))
    top = jax.lax.fori_loop(1, _TERMS, lambda i, t: jnp.maximum(t, log_term(i)), top)
    total = jax.lax.fori_loop(
        0, _TERMS, lambda i, s: s + jnp.exp(log_term(i) - top), jnp.zeros_like(top)
    )
    return top + jnp.log(total)


def _rothwell(v: Array, x: Array) -> Array:
    beta = 2 * _POWER / (2 * v + 1)

    def log_integrand(i: Array) -> Array:
        u = jnp.maximum(i / _NODES, 1e-30).astype(v.dtype)
        b = u**beta
        g = jnp.log(beta) - b + (v - 0.5) * jnp.log(2 * x + b)
        g = g + (_POWER - 1) * jnp.log(u)
        h = -1 / u - (2 * v + 1) * jnp.log(u) + (v - 0.5) * jnp.log1p(2 * x * u)
        return jnp.logaddexp(g, h)

    def add(i: Array, log_sum: Array) -> Array:
        weight = jnp.where(
            (i == 0) | (i == _NODES), 1.0, jnp.where(i % 2 == 1, 4.0, 2.0)
        )
        weight = jnp.log(weight / (3 * _NODES)).astype(v.dtype)
        return jnp.logaddexp(log_sum, weight + log_integrand(i))

    log_sum = jnp.full_like(v * x, -jnp.inf)
    log_sum = jax.lax.fori_loop(1, _NODES + 1, add, log_sum)
    return 0.5 * math.log(math.pi) - gammaln(v + 0.5) - v * jnp.log(2 * x) - x + log_sum


def _first(v: Array, x: Array, fallback: Array, sign: int) -> Array:
    series = [_large_x(v, x, terms, sign) for terms in (3, 20)]
    series += [_large_v(v, x, terms, sign) for terms in (4, 6, 9, 13)]
    return jnp.select(_regions(v, x), series, fallback)


def log_i(v: Array, x: Array) -> Array:
    """Log I_v(x)."""
    return _first(v, x, _power_series(v, x), 1)


def log_k(v: Array, x: Array) -> Array:
    """Log K_v(x)."""
    return _first(v, x, _rothwell(v, x), -1)
