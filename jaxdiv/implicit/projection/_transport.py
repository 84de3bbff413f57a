r"""Euclidean projection on the transport polytope.

.. math:: P_{ij} = \max(M_{ij} + \alpha_i + \beta_j, 0)

with duals that give the marginals. They maximise a concave, piecewise quadratic
function, which a damped Newton method ends in finitely many steps; on the support that
it finds, the projection is linear in everything.
"""

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.implicit.projection._simplex import _nan_unless
from jaxdiv.typing import Array, ArrayLike

_STEPS, _PATIENCE = 300, 20


def transport(y: ArrayLike, a: ArrayLike, b: ArrayLike) -> Array:
    r"""Euclidean projection on the couplings of two weights.

    .. math:: U(a, b) = \{P \ge 0 : P 1 = a,\ P^\top 1 = b\}

    Args:
      y: matrices, shape ``[..., n, m]``.
      a: row sums, shape ``[..., n]``, non-negative.
      b: column sums, shape ``[..., m]``, of the same total.

    Returns:
      Array shaped as `y`; NaN where traced weights are negative or of unequal totals,
      or where rounding left no solution.

    Raises:
      TypeError: an argument is not of a floating dtype.
      ValueError: concrete weights are negative or of unequal totals, or shapes do not
        fit.

    Differentiable in all three, in every mode and order, where the support does not
    change. A move of the weights that leaves their totals unequal is projected first.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> half = jnp.array([0.5, 0.5])
      >>> P = projection.transport(jnp.array([[1.0, 0.0], [0.0, 0.0]]), half, half)
      >>> print(P.round(3))
      [[0.5 0. ]
       [0.  0.5]]

    References:
      Blondel, Seguy and Rolet, 2018, arXiv:1710.06276, section 3.
    """
    _check.in_range(0, closed=True, a=a, b=b)
    y, a, b = _check.floating(y=y, a=a, b=b)
    if y.ndim < 2 or a.shape[-1:] != y.shape[-2:-1] or b.shape[-1:] != y.shape[-1:]:
        raise ValueError(
            f"y has shape {y.shape}, a {a.shape} and b {b.shape}; expected "
            "(..., n, m), (..., n) and (..., m)."
        )
    if 0 in y.shape[-2:]:
        raise ValueError(f"y has shape {y.shape}; expected rows and columns.")
    _check.broadcastable(
        **{"y without its last axes": y[..., 0, 0], "a": a[..., 0], "b": b[..., 0]}
    )
    total = a.sum(-1)
    room = 10 * sum(y.shape[-2:]) * jnp.finfo(y.dtype).eps * total
    unequal = ~(jnp.abs(total - b.sum(-1)) <= room)
    wrong = _check.concrete(unequal)
    if wrong is not None and wrong.any():
        raise ValueError(
            f"a sums to {total} and b to {b.sum(-1)}; expected equal totals."
        )
    batch = jnp.broadcast_shapes(y.shape[:-2], a.shape[:-1], b.shape[:-1])
    y = jnp.broadcast_to(y, (*batch, *y.shape[-2:]))
    a = jnp.broadcast_to(a, (*batch, a.shape[-1]))
    b = jnp.broadcast_to(b, (*batch, b.shape[-1]))
    return _nan_unless(~unequal[..., None, None], _project_all(y, a, b))


def birkhoff(y: ArrayLike) -> Array:
    r"""Euclidean projection on the doubly stochastic matrices.

    .. math:: \{P \ge 0 : P 1 = 1,\ P^\top 1 = 1\}

    Args:
      y: square matrices, shape ``[..., n, n]``.

    Returns:
      Array shaped as `y`.

    Raises:
      TypeError: `y` is not of a floating dtype.
      ValueError: the matrices are not square.

    Differentiable in `y`, in every mode and order, where the support does not change.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> print(projection.birkhoff(jnp.array([[3.0, 0.0], [0.0, 1.0]])).round(3))
      [[1. 0.]
       [0. 1.]]

    References:
      Blondel, Seguy and Rolet, 2018, arXiv:1710.06276.
    """
    (y,) = _check.floating(y=y)
    if y.ndim < 2 or y.shape[-1] != y.shape[-2]:
        raise ValueError(f"y has shape {y.shape}; expected square matrices.")
    ones = jnp.ones(y.shape[-1:], y.dtype)
    return transport(y, ones, ones)


@jax.jit
def _project_all(M: Array, a: Array, b: Array) -> Array:
    project = _project
    for _ in M.shape[:-2]:
        project = jax.vmap(project)
    return project(M, a, b)


def _project(M: Array, a: Array, b: Array) -> Array:
    # A term of one index changes the duals only, and would cost digits.
    M = M - M.mean(1, keepdims=True)
    M = M - M.mean(0)
    still = jax.lax.stop_gradient((M, a, b))
    duals = _duals(*still)
    support = still[0] + duals[: len(a), None] + duals[len(a) :] > 0
    # On the support the duals solve a linear system whose matrix is a constant; its
    # kernel is a shift of every connected part, which changes no entry of the coupling.
    K = _laplacian(support, M.dtype)
    inverse = jnp.linalg.pinv(K, hermitian=True)
    held = jnp.where(support, M, 0)
    missing = jnp.concatenate([a - held.sum(1), b - held.sum(0)])
    duals = inverse @ missing
    duals = duals + inverse @ (missing - K @ duals)  # the digits that pinv loses
    alpha, beta = jnp.split(duals, [len(a)])
    moved = M + alpha[:, None] + beta
    P = jnp.where(support & (moved > 0), moved, 0)
    solved = _solves(*jax.lax.stop_gradient((P, moved, support, duals)), *still)
    return _nan_unless(solved, P)


def _solves(
    P: Array, moved: Array, support: Array, duals: Array, M: Array, a: Array, b: Array
) -> Array:
    """Whether P has its marginals and the support its sign, within rounding."""
    error = jnp.maximum(jnp.abs(P.sum(1) - a).max(), jnp.abs(P.sum(0) - b).max())
    error = jnp.maximum(error, jnp.max(jnp.where(support, -moved, 0)))
    mass = jnp.maximum(a.max(), b.max())
    scale = jnp.abs(M).max() + jnp.abs(duals).max() + mass
    rounding = 50 * jnp.finfo(M.dtype).eps * scale
    return error <= jnp.minimum(rounding, 1e-2 * mass)


def _laplacian(support: Array, dtype: jnp.dtype) -> Array:
    S = support.astype(dtype)
    return jnp.block([[jnp.diag(S.sum(1)), S], [S.T, jnp.diag(S.sum(0))]])


def _duals(M: Array, a: Array, b: Array) -> Array:
    """The duals by Newton's method with a line search, ascending the dual.

    Far from the polytope the support is near that of a vertex and Newton's method
    slow. The duals of t M are found first for a small t, which then grows; those of the
    next t are about in proportion.
    """
    n, m = M.shape
    eps, mass = jnp.finfo(M.dtype).eps, jnp.maximum(a.max(), b.max())
    largest = jnp.abs(M).max()
    enough = 2 * eps * (largest + mass)

    def parts(t: Array, duals: Array) -> tuple[Array, Array, Array]:
        P = jnp.maximum(t * M + duals[:n, None] + duals[n:], 0)
        value = duals[:n] @ a + duals[n:] @ b - jnp.sum(P * P) / 2
        slope = jnp.concatenate([a - P.sum(1), b - P.sum(0)])
        return value, slope, P > 0

    def unfinished(state: tuple) -> Array:
        t, _, least, stalled, k = state
        left = (least > enough) & (stalled < _PATIENCE)
        return (k < _STEPS) & ((t < 1) | left)

    def step(state: tuple) -> tuple:
        t, duals, least, stalled, k = state
        value, slope, support = parts(t, duals)
        K = _laplacian(support, M.dtype)
        # The shift is damped away with the slope, so that the last steps are Newton's.
        damping = 1e-3 * jnp.minimum(jnp.abs(slope).max() / mass, 1)
        K = K + (damping + 10 * eps * len(K)) * jnp.eye(len(K), dtype=M.dtype)
        move = jnp.linalg.solve(K, slope)
        gain = move @ slope

        def too_long(length: Array) -> Array:
            there, slope, _ = parts(t, duals + length * move)
            # The dual is concave: what still rises has not gone too far, even where
            # rounding hides that it grew.
            grown = (there - value >= 1e-4 * length * gain) | (slope @ move >= 0)
            return ~grown & (length > 1e-10)

        one = jnp.ones((), M.dtype)
        duals = duals + jax.lax.while_loop(too_long, lambda x: x / 2, one) * move
        size = jnp.abs(parts(t, duals)[1]).max()
        ready = (t < 1) & (size <= 1e-2 * mass)
        grown = jnp.where(ready, jnp.minimum(4 * t, 1), t)
        better = ready | (size < least / 2)
        return (
            grown,
            duals * (grown / t),
            jnp.where(ready, jnp.inf, jnp.minimum(size, least)),
            jnp.where(better, 0, stalled + 1),
            k + 1,
        )

    start = jnp.concatenate([a / m, b / n - a.sum() / (n * m)])
    t = jnp.minimum(mass / jnp.where(largest > mass, largest, mass), 1)
    state = t, start, jnp.full((), jnp.inf, M.dtype), 0, 0
    return jax.lax.while_loop(unfinished, step, state)[1]
