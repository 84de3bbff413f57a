"""Costs of all pairs, held as a matrix or computed anew block by block of columns.

All that the solver and its derivatives need of the costs is a sum (or a minimum, or a
log-sum) over columns, and one result a column. `fold` computes both, and is the only
place that knows how the costs are held. A block is recomputed in the backward pass, so
that no derivative holds more than one block either.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.transport._cost import Cost, cost_matrix
from jaxdiv.typing import Array, PyTree

_HELD_BYTES = 2**29  # a larger matrix of costs is not held unless asked for
_BLOCK_ENTRIES = 2**20  # of a block, where its size is left open


class Matrix(NamedTuple):
    """Costs that are held."""

    C: Array


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["x", "y"],
    meta_fields=["cost", "block"],
)
@dataclasses.dataclass(frozen=True)
class Points:
    """Costs that are computed from points, `block` columns at a time."""

    x: Array
    y: Array
    cost: Cost
    block: int


Costs = Matrix | Points


def of_points(
    x: Array, y: Array, cost: Cost, method: str, block_size: int | None
) -> Costs:
    """Costs of two clouds, held unless they are many or the method never does."""
    if block_size is not None:
        _check.in_range(1, closed=True, block_size=block_size)
    if method == "auto":
        method = xla_method(x, y)
    if method not in ("stream", "pallas"):
        return Matrix(cost_matrix(x, y, cost))
    n, m = x.shape[0], y.shape[0]
    return Points(x, y, cost, min(m, block_size or max(1, _BLOCK_ENTRIES // n)))


def xla_method(x: Array, y: Array) -> str:
    """The method for clouds of this size, of those without a kernel of their own."""
    held = x.shape[0] * y.shape[0] * x.dtype.itemsize <= _HELD_BYTES
    return "kernel" if held else "stream"


def size(costs: Costs) -> tuple[int, int]:
    """Numbers of rows and columns."""
    if isinstance(costs, Matrix):
        return costs.C.shape[0], costs.C.shape[1]
    return costs.x.shape[0], costs.y.shape[0]


def dtype(costs: Costs) -> Any:
    """Dtype of the costs."""
    return costs.C.dtype if isinstance(costs, Matrix) else costs.x.dtype


def fold(
    costs: Costs,
    body: Callable[..., tuple[PyTree, PyTree]],
    *columns: Array,
    combine: Callable[[PyTree, PyTree], PyTree] | None = None,
    start: PyTree = None,
) -> tuple[PyTree, PyTree]:
    """Folds blocks of columns, and collects what they give for each column.

    Args:
      costs: of all pairs.
      body: `body(C, *columns) -> (part, out)` on the costs `(n, k)` of a block and its
        slices of `columns`; `part` is folded, `out` has a leading axis of k.
      *columns: arrays with one entry a column. The last block is filled up with zeros:
        the weights of the columns, where they enter, must be among them.
      combine: how two parts become one; None adds them.
      start: neutral element of `combine`; not needed for a sum.

    Returns:
      The fold of all parts, and the outs of all columns.
    """
    if isinstance(costs, Matrix):
        return body(costs.C, *columns)
    m, k = costs.y.shape[0], costs.block
    blocks = -(-m // k)
    fill = blocks * k - m

    def cut(z: Array, mode: str) -> Array:
        z = jnp.pad(z, [(0, fill)] + [(0, 0)] * (z.ndim - 1), mode=mode)
        return z.reshape(blocks, k, *z.shape[1:])

    @jax.checkpoint
    def on_block(y: Array, *columns: Array) -> tuple[PyTree, PyTree]:
        return body(cost_matrix(costs.x, y, costs.cost), *columns)

    def step(total: PyTree, block: tuple[Array, ...]) -> tuple[PyTree, PyTree]:
        part, out = on_block(*block)
        return merge(total, part), out

    merge = combine or (lambda one, two: jax.tree.map(jnp.add, one, two))
    ys = (cut(costs.y, "edge"), *(cut(z, "constant") for z in columns))
    if start is None:
        first = jax.eval_shape(on_block, *(z[0] for z in ys))[0]
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), first)
    total, outs = jax.lax.scan(step, start, ys)
    return total, jax.tree.map(lambda z: z.reshape(-1, *z.shape[2:])[:m], outs)
