"""Argument checks: what is concrete is checked at once, what is traced is not.

Every message names the argument, what it got and what was expected.
"""

import math
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdiv.typing import Array, ArrayLike


def concrete(x: Any) -> np.ndarray | None:
    """The value of `x` as a NumPy array, or None where `x` is traced."""
    return None if isinstance(x, Tracer) else np.asarray(x)


def floating(**arrays: ArrayLike) -> tuple[Array, ...]:
    """The arrays in their common floating dtype, at least float32.

    Raises:
      TypeError: an array is not of a real floating dtype.
    """
    for name, x in arrays.items():
        dtype = jnp.result_type(x)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{name} has dtype {dtype}; expected a real floating dtype "
                "(float32, float64, bfloat16 or float16)."
            )
    dtype = jnp.result_type(*arrays.values())
    if jnp.finfo(dtype).bits < 32:
        dtype = jnp.float32
    return tuple(jnp.asarray(x, dtype) for x in arrays.values())


def broadcastable(**arrays: Array) -> tuple[int, ...]:
    """The common shape of the arrays.

    Raises:
      ValueError: the shapes do not broadcast.
    """
    try:
        return jnp.broadcast_shapes(*(x.shape for x in arrays.values()))
    except ValueError as error:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
        raise ValueError(f"Shapes do not broadcast: {shapes}.") from error


def same_shape(**arrays: Array) -> None:
    """Raises ValueError unless all arrays have one shape."""
    if len({x.shape for x in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
        raise ValueError(f"Expected equal shapes, got {shapes}.")


def rank(expected: int, **arrays: Array) -> None:
    """Raises ValueError unless every array has `expected` axes."""
    for name, x in arrays.items():
        if x.ndim != expected:
            raise ValueError(f"{name} has shape {x.shape}; expected {expected} axes.")


def in_range(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    closed: bool = False,
    **values: ArrayLike,
) -> None:
    """Raises ValueError where a concrete value is outside (low, high) or NaN.

    With `closed` the end points are allowed.
    """
    for name, value in values.items():
        number = concrete(value)
        if number is None:
            continue
        if closed:
            inside = (number >= low) & (number <= high)
        else:
            inside = (number > low) & (number < high)
        if not inside.all():
            left, right = ("[", "]") if closed else ("(", ")")
            raise ValueError(
                f"{name} is {value}; expected a value in {left}{low}, {high}{right}."
            )


def positive(**values: ArrayLike) -> None:
    """Raises ValueError where a concrete value is not a positive finite number."""
    in_range(0.0, math.inf, closed=False, **values)


def one_of(name: str, value: Any, options: Iterable[Any]) -> None:
    """Raises ValueError unless `value` is among the options, which it lists."""
    options = sorted(options)
    if value not in options:
        raise ValueError(
            f"{name} is {value!r}; expected one of {', '.join(map(repr, options))}."
        )
