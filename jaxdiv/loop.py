"""A training loop that keeps the device busy: many steps a dispatch, host between.

The step is scanned inside one compiled program, so that Python runs once a chunk
and not once a step. Whatever a run needs from the host (a progress bar, a
checkpoint, Ctrl-C) happens between two chunks.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.typing import Array, PyTree

__all__ = ["Chunk", "chunks"]


class Chunk(NamedTuple):
    """What one dispatch of a loop has done.

    Attributes:
      done: number of steps taken since the loop's step 0.
      state: state after those steps; it is donated to the next chunk, so copy what
        must outlive it.
      metrics: pytree of the chunk's metrics, one leading axis of its finite steps.
      finite: False when a metric was not finite; `state` is then the last state
        whose metrics were, and the loop has ended.
    """

    done: int
    state: PyTree
    metrics: PyTree
    finite: bool


def chunks(
    step: Callable[[PyTree, Array, PyTree], tuple[PyTree, PyTree]],
    state: PyTree,
    *,
    steps: int,
    start: int = 0,
    size: int = 100,
    context: PyTree = None,
) -> Iterator[Chunk]:
    r"""Runs `state, metrics = step(state, i, context)` for i = start, ..., steps - 1.

    The values do not depend on `size`, but for rounding, as each length of a chunk is
    compiled anew: whatever is random in a step must come from a key folded with `i`. A
    step with a metric that is not finite is undone and ends the loop, so the state
    that a caller holds is always a finite one.

    Args:
      step: pure function of the state, the step number (int32 scalar) and the context.
      state: pytree of arrays; copied once, then donated from chunk to chunk.
      steps: number of the step at which the loop ends.
      start: number of the first step, for a run that goes on from a checkpoint.
      size: steps a dispatch.
      context: pytree of arrays handed to every step unchanged (data, frozen nets).

    Yields:
      A `Chunk` after every `size` steps, and after the last.

    Raises:
      ValueError: `size` is smaller than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import loop
      >>> halve = lambda x, i, context: (x / 2, {"x": x})
      >>> for chunk in loop.chunks(halve, jnp.array(8.0), steps=3, size=2):
      ...     print(chunk.done, chunk.state)
      2 2.0
      3 1.0
    """
    if size < 1:
        raise ValueError(f"size is {size}; expected at least 1.")

    def guarded(carry: tuple, i: Array, context: PyTree) -> tuple:
        state, finite = carry
        proposed, metrics = step(state, i, context)
        for leaf in jax.tree.leaves(metrics):
            finite &= jnp.isfinite(leaf).all()
        state = jax.tree.map(
            lambda new, old: jax.lax.select(
                jnp.broadcast_to(finite, jnp.shape(old)), new, old
            ),
            proposed,
            state,
        )
        return (state, finite), (metrics, finite)

    @jax.jit(static_argnames="length", donate_argnums=0)
    def run(state: PyTree, first: Array, context: PyTree, *, length: int) -> tuple:
        return jax.lax.scan(
            lambda carry, i: guarded(carry, i, context),
            (state, jnp.ones((), bool)),
            first + jnp.arange(length, dtype=jnp.int32),
        )

    state = jax.tree.map(jnp.array, state)  # a copy: the caller's arrays stay his
    done = start
    while done < steps:
        length = min(size, steps - done)
        (state, finite), (metrics, kept) = run(
            state, jnp.int32(done), context, length=length
        )
        taken = int(kept.sum())
        done += taken
        metrics = jax.tree.map(lambda leaf, n=taken: leaf[:n], metrics)
        yield Chunk(done, state, metrics, bool(finite))
        if not finite:
            return
