"""Projections on cones: monotone vectors, the second-order cone, PSD matrices."""

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.implicit._primitive import implicit_identity
from jaxdiv.implicit._psd_sqrt import solve_lyapunov
from jaxdiv.implicit.projection._simplex import _last, _norm
from jaxdiv.typing import Array, ArrayLike


def isotonic(y: ArrayLike, *, axis: int = -1) -> Array:
    r"""Euclidean projection on the vectors that do not fall.

    .. math:: \arg\min_p \|p - y\|^2 \quad\text{s.t.}\quad p_1 \le p_2 \le \dots \le p_n

    Blocks of violators are pooled to their mean, in O(n).

    Args:
      y: points, shape ``[..., n]``.
      axis: axis of the points.

    Returns:
      Array shaped as `y`; NaN where y is not finite.

    Raises:
      TypeError: `y` is not of a floating dtype.

    Differentiable in `y`, in every mode and order, where no two blocks meet; the
    Jacobian averages over blocks.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> print(projection.isotonic(jnp.array([1.0, 3.0, 2.0, 4.0])))
      [1.  2.5 2.5 4. ]

    References:
      Best and Chakravarti, 1990, Math. Programming 47.
    """
    (y,) = _check.floating(y=y)
    y = _last(y, axis)
    rows = y.reshape(-1, y.shape[-1])
    pooled = jax.vmap(_pool)(rows).reshape(y.shape)
    return jnp.moveaxis(pooled, -1, axis)


def _pool(y: Array) -> Array:
    """Means over the blocks of one row."""
    block = blocks(jax.lax.stop_gradient(y))
    sums = jax.ops.segment_sum(y, block, len(y))
    counts = jax.ops.segment_sum(jnp.ones_like(y), block, len(y))
    p = (sums / jnp.maximum(counts, 1))[block]
    return jnp.where(jnp.isfinite(jax.lax.stop_gradient(y)).all(), p, jnp.nan)


def blocks(y: Array) -> Array:
    """The block of every entry, by pooling adjacent violators with a stack."""
    n = len(y)
    if n == 0:
        return jnp.zeros(0, int)

    def violates(state: tuple) -> Array:
        means, _, _, top, _ = state
        return (top > 0) & (means[jnp.maximum(top - 1, 0)] >= means[top])

    def unfinished(state: tuple) -> Array:
        return (state[-1] < n) | violates(state)

    def step(state: tuple) -> tuple:
        means, counts, starts, top, i = state
        merge = violates(state)
        # Either the two upper blocks become one, or the next entry is put on top.
        slot = jnp.where(merge, top - 1, top + 1)
        count = jnp.where(merge, counts[slot] + counts[top], 1)
        share = counts[top] / count
        mean = means[slot] + (means[top] - means[slot]) * share
        i_or_last = jnp.minimum(i, n - 1)
        return (
            means.at[slot].set(jnp.where(merge, mean, y[i_or_last])),
            counts.at[slot].set(count),
            starts.at[slot].set(jnp.where(merge, starts[slot], i_or_last)),
            slot,
            jnp.where(merge, i, i + 1),
        )

    empty = jnp.zeros(n, y.dtype)
    state = (empty, empty, jnp.zeros(n, jnp.int32), jnp.int32(-1), jnp.int32(0))
    _, _, starts, top, _ = jax.lax.while_loop(unfinished, step, state)
    used = jnp.arange(n) <= top
    first = jnp.zeros(n, jnp.int32).at[jnp.where(used, starts, n)].set(1, mode="drop")
    return jnp.cumsum(first) - 1


def soc(y: ArrayLike, *, axis: int = -1) -> Array:
    r"""Euclidean projection on the second-order cone.

    .. math:: \{(x, t) : \|x\| \le t\}

    Args:
      y: points ``[..., n]``, of which the last entry is t.
      axis: axis of the points.

    Returns:
      Array shaped as `y`.

    Raises:
      TypeError: `y` is not of a floating dtype.
      ValueError: the axis is empty.

    Differentiable in `y`, in every mode and order, off the boundaries of the cone and
    of its polar.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> print([f"{x:.1f}" for x in projection.soc(jnp.array([3.0, 4.0, 0.0]))])
      ['1.5', '2.0', '2.5']

    References:
      Parikh and Boyd, 2014, Proximal Algorithms, section 6.3.2.
    """
    (y,) = _check.floating(y=y)
    y = _last(y, axis)
    if y.shape[-1] == 0:
        raise ValueError(f"y has shape {y.shape}; expected at least the entry t.")
    x, t = y[..., :-1], y[..., -1:]
    norm = _norm(x) if x.shape[-1] else jnp.zeros_like(t)
    outside = norm > jnp.abs(t)
    half = (norm + t) / 2
    direction = x / jnp.where(outside, norm, 1)
    between = jnp.concatenate([half * direction, half], -1)
    inside = jnp.where(norm <= t, y, jnp.where(jnp.isnan(norm + t), jnp.nan, 0))
    return jnp.moveaxis(jnp.where(outside, between, inside), -1, axis)


def psd(y: ArrayLike) -> Array:
    r"""Euclidean projection on the positive semidefinite matrices.

    .. math:: P = \tfrac12 (Y + |Y|), \qquad |Y| = (Y^2)^{1/2}

    Args:
      y: matrices ``[..., d, d]``, of which the symmetric part is taken.

    Returns:
      Array shaped as `y`, symmetric.

    Raises:
      TypeError: `y` is not of a floating dtype.
      ValueError: the matrices are not square.

    Differentiable in `y`, in every mode and order, where no eigenvalue is 0; equal
    eigenvalues do no harm, as the rule is that of the matrix equation for the absolute
    value.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> print(projection.psd(jnp.array([[1.0, 0.0], [0.0, -2.0]])) + 0.0)
      [[1. 0.]
       [0. 0.]]

    References:
      Higham, 1988, Linear Algebra Appl. 103.
    """
    (y,) = _check.floating(y=y)
    if y.ndim < 2 or y.shape[-1] != y.shape[-2]:
        raise ValueError(f"y has shape {y.shape}; expected square matrices.")
    project = _psd
    for _ in y.shape[:-2]:
        project = jax.vmap(project)
    return project(y)


def _psd(Y: Array) -> Array:
    Y = (Y + Y.T) / 2
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(Y))
    absolute = (vectors * jnp.abs(values)) @ vectors.T
    return (Y + implicit_identity(_absolute_rule, absolute, Y)) / 2


def _absolute_rule(R: Array, Y: Array, dY: Array) -> Array:
    # R R = Y Y, where R commutes with Y.
    return solve_lyapunov(R, Y @ dY + dY @ Y)
