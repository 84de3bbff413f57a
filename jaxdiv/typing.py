"""Names for the types that public signatures speak of."""

from collections.abc import Callable
from typing import Any

import jax

Array = jax.Array
ArrayLike = jax.typing.ArrayLike
Key = jax.Array  # a typed key, as jax.random.key makes it
PyTree = Any
Params = PyTree

ScoreFn = Callable[[Array, Array], Array]  # (x, t) -> score of the noised law at x
DenoiseFn = Callable[[Array, Array], Array]  # (x, t) -> E[x_0 | x_t = x]
Apply = Callable[..., Any]  # (params, *inputs) -> outputs; the caller's network
CostFn = Callable[[Array, Array], Array]  # (d,), (d,) -> scalar

__all__ = [
    "Apply",
    "Array",
    "ArrayLike",
    "CostFn",
    "DenoiseFn",
    "Key",
    "Params",
    "PyTree",
    "ScoreFn",
]
