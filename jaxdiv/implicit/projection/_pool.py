"""Pooling of adjacent violators: the blocks of isotonic problems."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiv.typing import Array


def _mean(x: Array, weight: Array, y: Array, other: Array) -> tuple[Array, Array]:
    """The mean of two blocks of these means and weights, and its weight."""
    total = weight + other
    return x + (y - x) * (other / total), total


def _log_mean(x: Array, weight: Array, y: Array, other: Array) -> tuple[Array, Array]:
    """As `_mean`, where all four are logarithms."""
    total = jnp.logaddexp(weight, other)
    return jnp.logaddexp(x + weight, y + other) - total, total


@jax.jit
def blocks(y: Array, log_weight: Array | None = None) -> Array:
    """The block of every entry over the last axis, numbered from 0.

    Blocks that fall are joined until none does. A block has the mean of its entries;
    with `log_weight` it has the logarithm of the weighted mean of their exponentials.
    """
    if log_weight is None:
        pool, weight = _mean, jnp.ones_like(y)
    else:
        pool, weight = _log_mean, jnp.broadcast_to(log_weight, y.shape)
    n = y.shape[-1]
    if y.size == 0:
        return jnp.zeros(y.shape, int)
    rows = y.size // n
    y_rows, weight = y.reshape(rows, n), weight.reshape(rows, n)
    if rows == 1:  # XLA on a CPU copies the stack at every step if it has one row
        y_rows, weight = jnp.tile(y_rows, (2, 1)), jnp.tile(weight, (2, 1))
    block = jax.vmap(lambda y, w: _blocks(y, w, pool))(y_rows, weight)
    return block[:rows].reshape(y.shape)


def _blocks(y: Array, weight: Array, pool: Callable) -> Array:
    n = len(y)

    def step(_: int, state: tuple) -> tuple:
        values, weights, starts, top, i = state
        under, following = jnp.maximum(top - 1, 0), jnp.minimum(i, n - 1)
        join = (top > 0) & (values[under] >= values[top])
        push = ~join & (i < n)
        joined, total = pool(values[under], weights[under], values[top], weights[top])

        def chosen(joined: Array, pushed: Array, kept: Array) -> Array:
            return jnp.where(join, joined, jnp.where(push, pushed, kept))

        slot = chosen(under, top + 1, top)
        return (
            values.at[slot].set(chosen(joined, y[following], values[top])),
            weights.at[slot].set(chosen(total, weight[following], weights[top])),
            starts.at[slot].set(chosen(starts[under], following, starts[top])),
            slot,
            i + push,
        )

    # A stack of blocks. Every entry is pushed once and joined at most once; with a
    # fixed number of steps `vmap` leaves each of them O(1).
    zero = jnp.zeros((), jnp.int32)
    state = (y, weight, jnp.zeros(n, jnp.int32), zero, zero + 1)
    _, _, starts, top, _ = jax.lax.fori_loop(0, 2 * n - 2, step, state)
    used = jnp.where(jnp.arange(n) <= top, starts, n)
    return jnp.cumsum(jnp.zeros(n, jnp.int32).at[used].set(1, mode="drop")) - 1


def block_sum(x: Array, block: Array) -> Array:
    """The sum of x over the block of every entry, over the last axis."""
    n = x.shape[-1]
    if x.size == 0:
        return x
    sums = jax.vmap(lambda x, b: jax.ops.segment_sum(x, b, n)[b])
    return sums(x.reshape(-1, n), block.reshape(-1, n)).reshape(x.shape)


def block_log_sum(x: Array, block: Array) -> Array:
    """The logarithm of the sum of exponentials over the block of every entry."""
    n = x.shape[-1]
    if x.size == 0:
        return x
    largest = jax.vmap(lambda x, b: jax.ops.segment_max(x, b, n)[b])
    top = largest(jax.lax.stop_gradient(x).reshape(-1, n), block.reshape(-1, n))
    top = top.reshape(x.shape)
    return top + jnp.log(block_sum(jnp.exp(x - top), block))
