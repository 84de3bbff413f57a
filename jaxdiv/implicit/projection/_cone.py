"""Projections on cones: monotone vectors, the second-order cone, PSD matrices."""

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.implicit._primitive import implicit_identity
from jaxdiv.implicit._psd_sqrt import solve_lyapunov
from jaxdiv.implicit.projection._pool import block_sum, blocks
from jaxdiv.implicit.projection._simplex import _last, _nan_unless, _norm
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
    still = jax.lax.stop_gradient(y)
    block = blocks(still)
    p = block_sum(y, block) / block_sum(jnp.ones_like(y), block)
    finite = jnp.isfinite(still).all(-1, keepdims=True)
    return jnp.moveaxis(_nan_unless(finite, p), -1, axis)


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
    norm = _norm(x)
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
    return _psd_all(y)


@jax.jit
def _psd_all(y: Array) -> Array:
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
