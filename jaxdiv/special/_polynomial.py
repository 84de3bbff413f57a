"""Polynomials with static coefficients, and their derivatives as such polynomials."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.special._rule import elementwise
from jaxdiv.typing import Array

Row = tuple[float, ...]
Rows = tuple[Row, ...]


def horner(row: Sequence[Any], x: Array) -> Array | float:
    """The polynomial with the coefficients in `row`, lowest power first."""
    total = row[-1]
    for c in reversed(row[:-1]):
        total = total * x + c
    return total


def double(rows: Rows, x: Array, y: Array) -> Array:
    """The sum of rows[i][j] x^i y^j."""
    total = horner(rows[-1], y)
    for row in reversed(rows[:-1]):
        total = total * x + horner(row, y)
    return jnp.asarray(total)


def double_rolled(rows: Rows, x: Array, y: Array) -> Array:
    """As `double`, as a loop: slower, but a small program."""
    width = max(map(len, rows))
    table = jnp.asarray([[*row, *[0.0] * (width - len(row))] for row in rows], x.dtype)

    def body(i: Array, total: Array) -> Array:
        row = table[len(rows) - 1 - i]
        return total * x + horner([row[j] for j in range(width)], y)

    zero = jnp.zeros(jnp.broadcast_shapes(x.shape, y.shape), x.dtype)
    return jax.lax.fori_loop(0, len(rows), body, zero)


@lru_cache
def taylor(rows: Rows, order: int) -> Rows:
    """Rows of the Taylor coefficient of that order in y, the power within a row."""
    for i in range(1, order + 1):
        rows = tuple(tuple(j * c / i for j, c in enumerate(row))[1:] for row in rows)
    return tuple(row or (0.0,) for row in rows)


@lru_cache
def slope_in_x(rows: Rows) -> Rows:
    """Rows of the derivative in x, the power of which counts the rows."""
    return tuple(tuple(i * c for c in row) for i, row in enumerate(rows))[1:]


# --- The Debye series: the sum over k = 1, 2, ... of rows[k-1](P) / w^k with
# --- w = sqrt(v^2 + y), P = v^2 / w^2.


@lru_cache
def alternating(rows: Rows) -> Rows:
    """The rows of the series at -w."""
    return tuple(tuple(-((-1) ** k) * c for c in row) for k, row in enumerate(rows))


@lru_cache
def stretch(rows: Rows) -> Rows:
    """Rows e_k = k d_k + 2 P d_k': the derivative in y is -(1/2) w^-2 of their sum."""
    return tuple(
        tuple((k + 2 * j) * c for j, c in enumerate(row))
        for k, row in enumerate(rows, 1)
    )


@lru_cache
def turn(rows: Rows) -> Rows:
    """Rows 2 d_k' - e_k: the derivative in v is v w^-2 of their sum."""
    return tuple(
        tuple(
            2 * (j + 1) * d - c for j, (d, c) in enumerate(zip(ahead, e, strict=True))
        )
        for ahead, e in (
            ((*row[1:], 0.0), e) for row, e in zip(rows, stretch(rows), strict=True)
        )
    )


@lru_cache
def bend(rows: Rows) -> Rows:
    """Rows F_k = (1 - 2P) e_k + (1 - P)(k e_k + 2P e_k'), of one degree more."""

    def times(a: float, b: float, row: Row) -> Row:
        pairs = zip((*row, 0.0), (0.0, *row), strict=True)
        return tuple(a * c + b * d for c, d in pairs)

    e = stretch(rows)
    return tuple(
        tuple(p + q for p, q in zip(times(1, -2, a), times(1, -1, b), strict=True))
        for a, b in zip(e, stretch(e), strict=True)
    )


def debye_sum(rows: Rows, P: Array, u: Array) -> Array:
    """The sum of rows[k-1](P) u^k, without a derivative rule."""
    total = horner(rows[-1], P)
    for row in reversed(rows[:-1]):
        total = total * u + horner(row, P)
    return total * u


def debye(rows: Rows, v: Array, y: Array) -> Array:
    """The series, with every derivative in v and y in closed form."""
    return elementwise(_debye, (_debye_in_v, _debye_in_y), v, y, rows=rows)


def _debye(v: Array, y: Array, rows: Rows) -> Array:
    s = 1 / (v * v + y)
    return debye_sum(rows, v * v * s, jnp.sqrt(s))


def _debye_in_v(v: Array, y: Array, rows: Rows) -> Array:
    return v / (v * v + y) * debye(turn(rows), v, y)


def _debye_in_y(v: Array, y: Array, rows: Rows) -> Array:
    return -0.5 / (v * v + y) * debye(stretch(rows), v, y)
