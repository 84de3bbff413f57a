"""Where which formula holds, with how many terms, in each precision."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.special import _tables
from jaxdiv.typing import Array

Function = Callable[[Array, Array], Array]


class Settings(NamedTuple):
    """Where the Debye series begins, and the terms of all series.

    Attributes:
      border: w = sqrt(v^2 + x^2) from which on the Debye series is used.
      debye: its terms in values; derivatives take all that the tables have.
      debye_slope: its terms in ratios.
      debye_start: its terms in the start of the recurrence of the ratio.
      hypergeometric: terms of 0F1.
      steps: steps of the recurrence of the ratio.
      gamma: factors taken out of Gamma(1 + v).
      stirling: terms of the Stirling series.
      early: log 0F1 is taken from its series for q < early (v + 1).
      large: order from which on Stirling's series carries what cancels in log 0F1.
    """

    border: float
    debye: int
    debye_slope: int
    debye_start: int
    hypergeometric: int
    steps: int
    gamma: int
    stirling: int
    early: float
    large: float


_SETTINGS = {
    "float64": Settings(25.0, 16, 18, 8, 48, 16, 7, 8, 8.0, 8.0),
    "float32": Settings(10.0, 7, 8, 4, 24, 7, 3, 4, 3.0, 4.0),
}


def settings(x: Array) -> Settings:
    """The settings of the array's precision."""
    return _SETTINGS[str(x.dtype)]


def debye_rows(x: Array, terms: int | None = None) -> tuple:
    """The Debye coefficients; by default as many as derivatives need."""
    if terms is None:
        terms = 24 if x.dtype == jnp.float64 else 12
    return _tables.DEBYE[:terms]


def is_high(v: Array, y: Array) -> Array:
    """Whether the Debye series holds at w^2 = v^2 + y."""
    return v * v + y >= settings(y).border ** 2


def where_any(mask: Array, compute: Callable, *arguments: Array) -> Any:
    """`compute`, or zeros where it is needed for no element: values only."""
    shapes = jax.eval_shape(compute, *arguments)
    return jax.lax.cond(
        jnp.any(mask),
        compute,
        lambda *_: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes),
        *arguments,
    )


def by_region(
    above: Function,
    below: Function,
    v: Array,
    x: Array,
    *,
    region: str = "all",
    square: Callable[[Array], Array] = jnp.square,
) -> Array:
    """`above` from the border on and else `below`, of (v, x): values only.

    Both are programs of their own. Derivatives have long polynomials, and where several
    are fused into one kernel LLVM may take all memory to compile it (jaxlib 0.10).
    """
    if region == "high":
        return where_any(x >= 0, above, v, x)
    high = is_high(v, square(x))
    value = where_any(high, above, v, x)
    return jnp.where(high, value, where_any(~high, below, v, x))
