r"""Sums under the signs of differences, which carry every 1-D distance.

:math:`|x_i - x_j| = (x_i - x_j) s_{ij}` with :math:`s_{ij} = \mathrm{sign}(x_i - x_j)`.
The signs depend on the ranks alone and are constants in derivatives, so sums over
distances are polynomials in the points, and autodiff of them is right: in every mode
and order, with sign(0) = 0 where points are tied.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.typing import Array

_LOG_BLOCK = 4  # blocks of 2^4 indices


class Ranks(NamedTuple):
    """The order of the pairs (x_i, y_i), which are sorted by x, then y.

    Attributes:
      order: indices that sort the pairs.
      x: dense ranks of the sorted pairs' x; tied points share one.
      y: dense ranks of their y.
      both: dense ranks of the pairs.
      by_y: indices that sort the sorted pairs by y, then x.
    """

    order: Array
    x: Array
    y: Array
    both: Array
    by_y: Array


def dense_ranks(sorted_x: Array, *more: Array) -> Array:
    """0 for the first of sorted points, one more where any coordinate changes."""
    changed = [x[1:] != x[:-1] for x in (sorted_x, *more)]
    steps = jnp.any(jnp.stack(changed), 0).astype(jnp.int32)
    return jnp.concatenate(
        [jnp.zeros(1, jnp.int32), jnp.cumsum(steps, dtype=jnp.int32)]
    )


def rank_pairs(x: Array, y: Array) -> Ranks:
    """Ranks of `(n,)` and `(n,)`: two sorts, all that the fast forms need."""
    index = jnp.arange(len(x), dtype=jnp.int32)
    x, y = jax.lax.stop_gradient((x, y))
    x, y, order = jax.lax.sort((x, y, index), num_keys=2)
    sorted_y, by_y = jax.lax.sort((y, index), num_keys=1, is_stable=True)
    rank_y = (
        jnp.zeros_like(index).at[by_y].set(dense_ranks(sorted_y), unique_indices=True)
    )
    return Ranks(order, dense_ranks(x), rank_y, dense_ranks(x, y), by_y)


def sign_sum(rank: Array, v: Array) -> Array:
    """sum_j sign(rank_i - rank_j) v_j for every i, along the first axis of `v`."""
    tied = jax.ops.segment_sum(v, rank, len(v))
    below = jnp.cumsum(tied, 0) - tied
    return (2 * below + tied - jnp.sum(v, 0))[rank]


def concordance_sum(ranks: Ranks, v: Array) -> Array:
    """sum_j sign(x_i - x_j) sign(y_i - y_j) v_j for every i, in sorted order.

    With sign(a) = [a > 0] + [a >= 0] - 1 the sum is four times the dominated one, up to
    prefix sums along either order and sums over ties.
    """

    def tied(rank: Array) -> Array:
        return jax.ops.segment_sum(v, rank, len(v))[rank]

    before_in_x = jnp.cumsum(v, 0) - v
    along_y = v[ranks.by_y]
    before_in_y = (
        jnp.zeros_like(v)
        .at[ranks.by_y]
        .set(jnp.cumsum(along_y, 0) - along_y, unique_indices=True)
    )
    return (
        4 * _dominated_sum(ranks.by_y, v)
        - 2 * (before_in_x + before_in_y)
        + jnp.sum(v, 0)
        - tied(ranks.x)
        - tied(ranks.y)
        + tied(ranks.both)
    )


def _dominated_sum(permutation: Array, v: Array) -> Array:
    """Sum of v_j over j < i that come before i in the permutation, for every i.

    Each level halves blocks of consecutive indices: an index in the upper half adds the
    lower half's indices that come before it, then both halves become blocks, their
    order kept. log2(n) levels of cumulative sums and no further sort; the last levels,
    within small blocks, are cheaper summed pair by pair.
    """
    n = len(v)
    place = jnp.arange(n, dtype=jnp.int32)
    position = jnp.zeros_like(place).at[permutation].set(place, unique_indices=True)

    def level(
        carry: tuple[Array, Array], log_half: Array
    ) -> tuple[tuple[Array, Array], None]:
        index, total = carry  # blocks of 2^(log_half + 1) indices, in permuted order
        upper = (index >> log_half) & 1
        block = (place >> (log_half + 1)) << (log_half + 1)
        lower_before = jnp.cumsum(1 - upper, dtype=jnp.int32) - (1 - upper) - block // 2
        lower_v = jnp.where(upper[:, None] == 1, 0, v[index])
        prefix = jnp.cumsum(lower_v, 0) - lower_v
        gain = jnp.where(upper[:, None] == 1, prefix - prefix[block], 0)
        total = total.at[index].add(gain, unique_indices=True)
        upper_before = place - block - lower_before
        target = block + jnp.where(
            upper == 1, (1 << log_half) + upper_before, lower_before
        )
        index = jnp.zeros_like(index).at[target].set(index, unique_indices=True)
        return (index, total), None

    stop = max(_LOG_BLOCK, (n - 1).bit_length())
    levels = jnp.arange(_LOG_BLOCK, stop, dtype=jnp.int32)[::-1]
    (_, total), _ = jax.lax.scan(level, (permutation, jnp.zeros_like(v)), levels)
    return total + _dominated_in_blocks(position, v)


def _dominated_in_blocks(position: Array, v: Array) -> Array:
    """The same sum over the j of i's own block of indices, from their positions."""
    n, columns = v.shape
    size = 1 << _LOG_BLOCK
    padding = -n % size
    position = jnp.pad(position, (0, padding)).reshape(-1, size)
    rows = jnp.pad(v, ((0, padding), (0, 0))).reshape(-1, size, columns)
    earlier = jnp.tril(jnp.ones((size, size), bool), -1)
    before = (position[:, None, :] < position[:, :, None]) & earlier
    sums = [
        jnp.sum(jnp.where(before, rows[:, None, :, k], 0), -1) for k in range(columns)
    ]
    return jnp.stack(sums, -1).reshape(-1, columns)[:n]
