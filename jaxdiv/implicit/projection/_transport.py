r"""Euclidean projection on the transport polytope.

.. math:: P_{ij} = \max(M_{ij} + \alpha_i + \beta_j, 0)

with duals that give the marginals. They maximise a concave, piecewise quadratic
function, which a damped Newton method ends in finitely many steps; on the support that
it finds, the projection is linear in everything.
"""

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.typing import Array, ArrayLike

_STEPS = 200


def transport(y: ArrayLike, a: ArrayLike, b: ArrayLike) -> Array:
    r"""Euclidean projection on the couplings of two weights.

    .. math:: U(a, b) = \{P \ge 0 : P 1 = a,\ P^\top 1 = b\}

    Args:
      y: matrices, shape ``[..., n, m]``.
      a: row sums, shape ``[..., n]``, non-negative.
      b: column sums, shape ``[..., m]``, of the same total.

    Returns:
      Array shaped as `y`; NaN where traced weights are negative or of unequal totals,
      or the marginals are missed.

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
    y, a, b = _check.floating(y=y, a=a, b=b)
    if y.ndim < 2 or a.shape[-1:] != y.shape[-2:-1] or b.shape[-1:] != y.shape[-1:]:
        raise ValueError(
            f"y has shape {y.shape}, a {a.shape} and b {b.shape}; expected "
            "(..., n, m), (..., n) and (..., m)."
        )
    _check.in_range(0, closed=True, a=a, b=b)
    eps = jnp.finfo(y.dtype).eps
    total = a.sum(-1)
    unequal = ~(jnp.abs(total - b.sum(-1)) <= 100 * eps * (1 + jnp.abs(total)))
    wrong = _check.concrete(unequal)
    if wrong is not None and wrong.any():
        raise ValueError(
            f"a sums to {total} and b to {b.sum(-1)}; expected equal totals."
        )
    batch = jnp.broadcast_shapes(y.shape[:-2], a.shape[:-1], b.shape[:-1])
    y = jnp.broadcast_to(y, (*batch, *y.shape[-2:]))
    a = jnp.broadcast_to(a, (*batch, a.shape[-1]))
    b = jnp.broadcast_to(b, (*batch, b.shape[-1]))
    project = _project
    for _ in batch:
        project = jax.vmap(project)
    return project(y, a, b)


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


def _project(M: Array, a: Array, b: Array) -> Array:
    still = jax.lax.stop_gradient((M, a, b))
    duals = _duals(*still)
    support = still[0] + duals[: len(a), None] + duals[len(a) :] > 0
    # On the support the duals solve a linear system whose matrix is a constant; its
    # kernel is a shift of every connected part, which changes no entry of the coupling.
    K = _laplacian(support, M.dtype)
    held = jnp.where(support, M, 0)
    missing = jnp.concatenate([a - held.sum(1), b - held.sum(0)])
    alpha, beta = jnp.split(jnp.linalg.pinv(K, hermitian=True) @ missing, [len(a)])
    P = jnp.where(support, M + alpha[:, None] + beta, 0)
    P = jnp.where(P > 0, P, 0)
    error = jnp.abs(P.sum(1) - a).max() + jnp.abs(P.sum(0) - b).max()
    scale = jnp.abs(M).max() + a.max() + b.max()
    tolerance = jnp.sqrt(jnp.finfo(M.dtype).eps) * scale
    return jnp.where(error <= tolerance, P, jnp.nan)


def _laplacian(support: Array, dtype: jnp.dtype) -> Array:
    S = support.astype(dtype)
    return jnp.block([[jnp.diag(S.sum(1)), S], [S.T, jnp.diag(S.sum(0))]])


def _duals(M: Array, a: Array, b: Array) -> Array:
    """The duals by Newton's method with a line search, ascending the dual."""
    n, eps = len(a), jnp.finfo(M.dtype).eps
    scale = jnp.abs(M).max() + a.max() + b.max()

    def parts(duals: Array) -> tuple[Array, Array, Array]:
        P = jnp.maximum(M + duals[:n, None] + duals[n:], 0)
        value = duals[:n] @ a + duals[n:] @ b - jnp.sum(P * P) / 2
        slope = jnp.concatenate([a - P.sum(1), b - P.sum(0)])
        return value, slope, P > 0

    def unfinished(state: tuple) -> Array:
        _, size, k = state
        return (k < _STEPS) & (size > 10 * eps * scale)

    def step(state: tuple) -> tuple:
        duals, _, k = state
        value, slope, support = parts(duals)
        K = _laplacian(support, M.dtype)
        # The shift is damped away with the slope, so that the last steps are Newton's.
        damping = jnp.minimum(jnp.linalg.norm(slope) / scale, 1) * 1e-2
        K = K + (damping + 10 * eps * len(K)) * jnp.eye(len(K), dtype=M.dtype)
        move = jnp.linalg.solve(K, slope)
        gain = move @ slope

        def shorter(t: Array) -> Array:
            return t / 2

        def too_long(t: Array) -> Array:
            grown = parts(duals + t * move)[0] - value
            enough = grown >= 1e-4 * t * gain - 10 * eps * jnp.abs(value)
            return ~enough & (t > 1e-10)

        t = jax.lax.while_loop(too_long, shorter, jnp.ones((), M.dtype))
        duals = duals + t * move
        return duals, jnp.abs(parts(duals)[1]).max(), k + 1

    start = jnp.concatenate([(a - M.sum(1)) / M.shape[1], jnp.zeros_like(b)])
    state = start, jnp.full((), jnp.inf, M.dtype), 0
    return jax.lax.while_loop(unfinished, step, state)[0]
