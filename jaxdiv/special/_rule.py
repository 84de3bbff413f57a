"""Elementwise functions whose derivatives are other such functions.

A primitive of its own, for three reasons. Partial evaluation inside `scan`, `fori_loop`
and `map` cannot look through it and lose the rule, as it does with `jax.custom_jvp` on
jax 0.10. Under `vmap` the program runs on the larger array as it is, where a condition
within would become a selection. And to differentiate costs no trace of the program.
"""

import math
from collections.abc import Callable, Hashable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxdiv.typing import Array

Function = Callable[..., Array]

_elementwise_p = Primitive("elementwise")


def elementwise(
    value: Function,
    partials: tuple[Function, ...],
    *arguments: Array,
    implicit: bool = False,
    **options: Hashable,
) -> Array:
    """`value(*arguments, **options)`, with its partial derivatives as given.

    The partials are called in the same way, only where an argument moves, and are
    themselves differentiable: that is the next order. All are functions of a module,
    the arguments arrays of one dtype whose shapes broadcast to that of the result.
    With `implicit` the partials get the result in front of the arguments.
    """
    arrays = map(jnp.asarray, arguments)
    return _elementwise_p.bind(
        *arrays,
        value=value,
        partials=partials,
        implicit=implicit,
        options=tuple(options.items()),
    )


@cache
def _program(value: Function, options: tuple) -> Function:
    return jax.jit(partial(_in_long_rows, partial(value, **dict(options))))


def _in_long_rows(value: Function, *arrays: Array) -> Array:
    """`value` of the arrays, flattened where their rows are of two elements.

    LLVM unrolls such a row, and over a long program of two lanes takes all memory
    (jaxlib 0.10, float64).
    """
    shape = jnp.broadcast_shapes(*(x.shape for x in arrays))
    if [n for n in shape if n > 1][-1:] != [2]:
        return value(*arrays)
    size = math.prod(shape)
    flat = [jnp.broadcast_to(x, shape).ravel() for x in arrays]
    if size == 2:
        flat = [jnp.concatenate([x, x]) for x in flat]
    out = jax.lax.optimization_barrier(value(*jax.lax.optimization_barrier(flat)))
    return out[:size].reshape(shape)


@_elementwise_p.def_impl
def _run(*arrays: Array, value: Function, options: tuple, **_: Any) -> Array:
    return _program(value, options)(*arrays)


@_elementwise_p.def_abstract_eval
def _shape(*arrays: Any, **params: Any) -> ShapedArray:
    del params
    return ShapedArray(
        jnp.broadcast_shapes(*(x.shape for x in arrays)), arrays[0].dtype
    )


mlir.register_lowering(_elementwise_p, mlir.lower_fun(_run, multiple_results=False))


def _jvp(
    arrays: tuple[Array, ...], tangents: tuple[Any, ...], **params: Any
) -> tuple[Array, Array]:
    out = _elementwise_p.bind(*arrays, **params)
    moved = jnp.zeros_like(out)
    at = (out, *arrays) if params["implicit"] else arrays
    for slope, tangent in zip(params["partials"], tangents, strict=True):
        if not isinstance(tangent, ad.Zero):
            moved = moved + slope(*at, **dict(params["options"])) * tangent
    return out, moved


ad.primitive_jvps[_elementwise_p] = _jvp


def _batch(
    arrays: tuple[Array, ...], axes: tuple[int | None, ...], **params: Any
) -> tuple[Array, int]:
    pairs = list(zip(arrays, axes, strict=True))
    rank = max(x.ndim - (axis is not None) for x, axis in pairs)

    def leading(x: Array, axis: int | None) -> Array:
        if axis is None:
            return x
        x = jnp.moveaxis(x, axis, 0)
        return x.reshape(x.shape[0], *[1] * (rank + 1 - x.ndim), *x.shape[1:])

    arrays = tuple(leading(x, axis) for x, axis in pairs)
    return _elementwise_p.bind(*arrays, **params), 0


batching.primitive_batchers[_elementwise_p] = _batch


def derivative(f: Function, order: tuple[int, int]) -> Function:
    """The partial derivative of f(x, y, ...) of that order, by forward mode."""
    for axis, times in enumerate(order):
        for _ in range(times):
            f = partial(_slope, f, axis)
    return f


def _slope(f: Function, axis: int, *at: Array) -> Array:
    one = jnp.ones_like(at[axis])
    return jax.jvp(lambda z: f(*at[:axis], z, *at[axis + 1 :]), (at[axis],), (one,))[1]
