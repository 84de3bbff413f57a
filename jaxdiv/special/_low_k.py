r"""K_v near the origin, w = sqrt(v^2 + x^2) below the border of the Debye series.

With n the integer nearest to v and mu = v - n, the recurrence

.. math:: k_{j+1} = (\mu + j) k_j + q k_{j-1}, \qquad k_j = (x/2)^j K_{\mu+j}(x)

has positive terms only and stays in range for tiny x. It starts from two tables: for
x > 2 of K_mu and its derivative, scaled; for x <= 2 of what is entire in

.. math::
    \frac{\sin \pi\mu}{\pi\mu} K_\mu(x)
    = \frac{\sinh(\mu\ell)}{\mu} A_2(\mu^2, q) + \cosh(\mu\ell) A_1(\mu^2, q),
    \qquad \ell = \log(2/x).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.special import _tables
from jaxdiv.special._jet import Jet, compose, select, variable
from jaxdiv.special._polynomial import Rows, double, double_rolled, slope_in_x, taylor
from jaxdiv.special._regions import settings
from jaxdiv.special._rule import elementwise
from jaxdiv.typing import Array

# sin(pi mu) / (pi mu) in powers of mu^2
_SINC = tuple((-(math.pi**2)) ** k / math.factorial(2 * k + 1) for k in range(13))


class Start(NamedTuple):
    """k_0 and k_1 as jets in v, without the factors that the logarithm adds.

    Attributes:
      k0: k_0.
      k1: k_1.
      n: the nearest integer to v.
      mu: v - n, a jet.
      near: whether x is small.
      rolled: whether loops stay loops: slower, and a far smaller program.
    """

    k0: Jet
    k1: Jet
    n: Array
    mu: Jet
    near: Array
    rolled: bool


def _start(
    v: Array, x: Array, ell: Array, order: int = 0, *, rolled: bool = False
) -> Start:
    n = jnp.round(v)
    mu = variable(v - n, (order, 0))
    near = x <= _tables.K_NEAR_END
    pairs = zip(
        _near(mu, x, ell, rolled=rolled), _far(mu, x, rolled=rolled), strict=True
    )
    k0, k1 = (select(near, a, b) for a, b in pairs)
    return Start(k0, k1, n, mu, near, rolled)


def _near(mu: Jet, x: Array, ell: Array, *, rolled: bool) -> tuple[Jet, Jet]:
    q = x * x / 4
    rows1, rows2 = _tables.K_NEAR[str(x.dtype)]
    tables = (rows1, rows2, slope_in_x(rows1), slope_in_x(rows2))
    a1, a2, b1, b2 = (_table(rows, q, mu, rolled=rolled) for rows in tables)
    exp = jnp.exp(mu[0, 0] * ell)
    cosh, sinh = 0.5 * (exp + 1 / exp), 0.5 * (exp - 1 / exp)
    even, odd = _powers(cosh, sinh, ell, mu), _powers(sinh, cosh, ell, mu)
    k0 = _sinh_ratio(mu, ell, odd) * a2 + even * a1
    # k_1 from the Wronskian, 1/x = I_mu K_{mu+1} + I_{mu+1} K_mu: both are positive,
    # the second is the smaller; the series of k_1 itself cancels.
    rise, fall = _powers(exp, exp, ell, mu), _powers(1 / exp, -1 / exp, ell, mu)
    rest = 0.5 * _sinc(mu) - q * (fall * (b2 - mu * b1)) * k0
    return k0, rest * rise * (a2 - mu * a1).reciprocal()


def _powers(even: Array, odd: Array, ell: Array, mu: Jet) -> Jet:
    """The jet of a function of mu ell whose derivatives are `even`, `odd` in turn."""
    terms, factor = {(0, 0): even}, 1.0
    for i in range(1, mu.order[0] + 1):
        factor = factor * ell / i
        terms[i, 0] = factor * (odd if i % 2 else even)
    return Jet(terms, mu.order)


def _sinh_ratio(mu: Jet, ell: Array, sinh: Jet) -> Jet:
    """sinh(mu ell) / mu."""
    small = jnp.abs(mu[0, 0] * ell) < 1
    s2 = mu * mu * (ell * ell)
    last = 9 if ell.dtype == jnp.float64 else 5
    near = Jet({(0, 0): 1 / math.factorial(2 * last + 1)}, mu.order)
    for k in range(last - 1, -1, -1):
        near = near * s2 + 1 / math.factorial(2 * k + 1)
    return select(small, near * ell, sinh * mu.reciprocal())


def _far(mu: Jet, x: Array, *, rolled: bool) -> tuple[Jet, Jet]:
    high, low = 1 / _tables.K_NEAR_END, 1 / _tables.K_FAR_END[str(x.dtype)]
    s = (2 / x - (high + low)) * (1 / (high - low))
    f, g = (
        _table(rows, s, mu, rolled=rolled, scale=8, shift=-1)
        for rows in _tables.K_FAR[str(x.dtype)]
    )
    return f, 0.5 * (x * g + mu * f)


def _table(
    rows: Rows, s: Array, mu: Jet, *, rolled: bool, scale: int = 1, shift: int = 0
) -> Jet:
    """The polynomial in s and scale mu^2 + shift."""
    square = scale * (mu * mu)
    m = jnp.asarray(square[0, 0] + shift)
    inner = Jet({i: c for i, c in square.terms.items() if i != (0, 0)}, mu.order)
    evaluate = double_rolled if rolled else double
    series = [evaluate(taylor(rows, i), s, m) for i in range(mu.order[0] + 1)]
    return compose(series, inner)


def _recur(
    step: Callable[[Any, tuple[Jet, ...]], tuple[Jet, ...]],
    jets: tuple[Jet, ...],
    x: Array,
    *,
    rolled: bool,
) -> tuple[Jet, ...]:
    """The jets after step(j, jets) for j = 1, 2, ... up to the border."""
    steps, order = math.ceil(settings(x).border), jets[0].order
    if not rolled:
        for j in range(1, steps + 1):
            jets = step(j, jets)
        return jets

    def body(j: Array, state: list[list[Array]]) -> list[list[Array]]:
        jets = tuple(
            Jet({(i, 0): c for i, c in enumerate(jet)}, order) for jet in state
        )
        return [_dense(jet, x) for jet in step(j.astype(x.dtype), jets)]

    state = [_dense(jet, x) for jet in jets]
    state = jax.lax.fori_loop(1, steps + 1, body, state)
    return tuple(Jet({(i, 0): c for i, c in enumerate(jet)}, order) for jet in state)


def _dense(jet: Jet, like: Array) -> list[Array]:
    zero = jnp.zeros_like(like)
    return [zero + jet[i, 0] for i in range(jet.order[0] + 1)]


def _climb(start: Start, x: Array) -> tuple[Jet, Jet]:
    """(k_n, k_{n+1})."""
    q = x * x / 4

    def step(j: Any, pair: tuple[Jet, ...]) -> tuple[Jet, ...]:
        a, b = pair
        take = start.n >= j
        return select(take, b, a), select(take, (start.mu + j) * b + q * a, b)

    a, b = _recur(step, (start.k0, start.k1), x, rolled=start.rolled)
    return a, b


def _sinc(mu: Jet) -> Jet:
    m = mu * mu
    total = Jet({(0, 0): _SINC[-1]}, mu.order)
    for c in reversed(_SINC[:-1]):
        total = total * m + c
    return total


class LogParts(NamedTuple):
    """log K_v(x) = log(inside) + n log(2/x) + shift, for orders near the origin.

    Attributes:
      inside: a positive number in range.
      n: the integer nearest to v.
      shift: 0 or -x.
    """

    inside: Array
    n: Array
    shift: Array


def log_parts(v: Array, x: Array, ell: Array) -> LogParts:
    """The parts of log K_v(x), with ell = log(2/x), for a value only."""
    start = _start(v, x, ell)
    k, _ = _climb(start, x)
    near = start.near
    scale = jnp.where(near, _sinc(start.mu)[0, 0], jnp.sqrt(x * (2 / math.pi)))
    return LogParts(k[0, 0] / scale, start.n, jnp.where(near, 0, -x))


def log_in_v(v: Array, x: Array, order: int = 1) -> Array:
    """The value of the v-derivative of log K_v(x), of an order from 1 on."""
    start = _start(v, x, jnp.log(2 / x), order, rolled=order > 1)
    k, _ = _climb(start, x)
    scale = _sinc(start.mu).log_slope()[order, 0]
    slope = k.log_slope()[order, 0] - jnp.where(start.near, scale, 0)
    return slope * math.factorial(order)


def ratio(v: Array, x: Array, order: int = 0, *, rolled: bool = False) -> Array:
    """K_{v+1}(x) / K_v(x), or its v-derivative of that order, for v >= -1/2."""
    partials = (_next_ratio, ratio_in_x)
    return elementwise(_ratio, partials, v, x, order=order, rolled=rolled)


def _next_ratio(v: Array, x: Array, *, order: int, rolled: bool) -> Array:
    return ratio(v, x, order + 1, rolled=rolled)


def ratio_in_x(v: Array, x: Array, order: int = 0, *, rolled: bool = False) -> Array:
    """The x-derivative of the ratio, or the v-derivative of that order thereof."""
    # d/dx of the ratio R is R^2 - (2v + 1) R / x - 1.
    R = [ratio(v, x, i, rolled=rolled) for i in range(order + 1)]
    square = sum(math.comb(order, i) * R[i] * R[order - i] for i in range(order + 1))
    linear = (2 * v + 1) * R[order] + (2 * order * R[order - 1] if order else 0)
    return square - linear / x - (0 if order else 1)


def _ratio(v: Array, x: Array, *, order: int, rolled: bool) -> Array:
    start = _start(v, x, jnp.log(2 / x), order, rolled=rolled)
    if order == 0:
        low, high = _climb(start, x)
        return (2 / x) * high[0, 0] / low[0, 0]
    # The quotients of the k_j themselves, whose derivatives do not cancel.
    q = x * x / 4

    def step(j: Any, jets: tuple[Jet, ...]) -> tuple[Jet, ...]:
        (t,) = jets
        return (select(start.n >= j, start.mu + j + q * t.reciprocal(), t),)

    (t,) = _recur(step, (start.k1 * start.k0.reciprocal(),), x, rolled=rolled)
    return (2 / x) * t[order, 0] * math.factorial(order)
