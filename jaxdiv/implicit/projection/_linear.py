"""Projections on what linear equations and inequalities bound."""

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.implicit.projection._simplex import _clip, _last, _ordered
from jaxdiv.typing import Array, ArrayLike


def _with_normal(
    y: ArrayLike, a: ArrayLike, b: ArrayLike, axis: int
) -> tuple[Array, Array, Array]:
    """Y with its axis last, a normal over it, and (a'y - b) / |a|^2."""
    y, a, b = _check.floating(y=y, a=a, b=b)
    y = _last(y, axis)
    if a.ndim == 0 or a.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"a has shape {a.shape}; expected a last axis of {y.shape[-1]}, as y has."
        )
    square = jnp.sum(a * a, -1, keepdims=True)
    zero = _check.concrete(square == 0)
    if zero is not None and zero.any():
        raise ValueError("a is zero; expected the normal of a plane.")
    return y, a, (jnp.sum(a * y, -1, keepdims=True) - b[..., None]) / square


def hyperplane(y: ArrayLike, a: ArrayLike, b: ArrayLike, *, axis: int = -1) -> Array:
    r"""Euclidean projection on a hyperplane.

    .. math:: \{p : a^\top p = b\}, \qquad p = y - a\,(a^\top y - b) / \|a\|^2

    Args:
      y: points, shape ``[..., n]``.
      a: normals, shape ``[..., n]``, whatever `axis` is.
      b: offsets, shape ``[...]``.
      axis: axis of the points.

    Returns:
      Array shaped as `y`; NaN where a traced `a` is zero.

    Raises:
      TypeError: an argument is not of a floating dtype.
      ValueError: a concrete `a` is zero, or shapes do not fit.

    Differentiable in all three, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> print(projection.hyperplane(jnp.zeros(2), jnp.array([1.0, 1.0]), 1.0))
      [0.5 0.5]

    References:
      Parikh and Boyd, 2014, Proximal Algorithms, section 6.2.2.
    """
    y, a, excess = _with_normal(y, a, b, axis)
    return jnp.moveaxis(y - a * excess, -1, axis)


def halfspace(y: ArrayLike, a: ArrayLike, b: ArrayLike, *, axis: int = -1) -> Array:
    r"""Euclidean projection on a half-space.

    .. math:: \{p : a^\top p \le b\}, \qquad
       p = y - a\,\max(a^\top y - b, 0) / \|a\|^2

    Args:
      y: points, shape ``[..., n]``.
      a: normals, shape ``[..., n]``, whatever `axis` is.
      b: offsets, shape ``[...]``.
      axis: axis of the points.

    Returns:
      Array shaped as `y`; NaN where a traced `a` is zero.

    Raises:
      TypeError: an argument is not of a floating dtype.
      ValueError: a concrete `a` is zero, or shapes do not fit.

    Differentiable in all three, in every mode and order, off the boundary.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> print(projection.halfspace(jnp.ones(2), jnp.array([1.0, 1.0]), 1.0))
      [0.5 0.5]

    References:
      Parikh and Boyd, 2014, Proximal Algorithms, section 6.2.3.
    """
    y, a, excess = _with_normal(y, a, b, axis)
    return jnp.moveaxis(y - a * jnp.where(excess < 0, 0, excess), -1, axis)


def affine(y: ArrayLike, A: ArrayLike, b: ArrayLike, *, axis: int = -1) -> Array:
    r"""Euclidean projection on the solutions of linear equations.

    .. math:: \{p : A p = b\}, \qquad p = y - A^{+} (A y - b)

    Args:
      y: points, shape ``[..., n]``.
      A: matrix ``[m, n]`` of any rank.
      b: right side ``[m]``.
      axis: axis of the points.

    Returns:
      Array shaped as `y`. Where the equations contradict each other, the nearest of
      their least-squares solutions.

    Raises:
      TypeError: an argument is not of a floating dtype.
      ValueError: shapes do not fit.

    Differentiable in all three, in every mode and order, while the rank of A stays.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> p = projection.affine(jnp.zeros(2), jnp.array([[1.0, 1.0]]), jnp.ones(1))
      >>> print([f"{x:.3f}" for x in p])
      ['0.500', '0.500']

    References:
      Parikh and Boyd, 2014, Proximal Algorithms, section 6.2.1.
    """
    y, A, b = _check.floating(y=y, A=A, b=b)
    y = _last(y, axis)
    _check.rank(2, A=A)
    if A.shape != (b.shape[-1] if b.ndim else 0, y.shape[-1]):
        raise ValueError(
            f"A has shape {A.shape} and b {b.shape}; expected (m, {y.shape[-1]}) and "
            "(m,)."
        )
    # `pinv` is differentiable at constant rank by its own rule.
    p = y - (y @ A.T - b) @ jnp.linalg.pinv(A).T
    return jnp.moveaxis(p, -1, axis)


def box_section(
    y: ArrayLike,
    lo: ArrayLike,
    hi: ArrayLike,
    w: ArrayLike,
    c: ArrayLike,
    *,
    axis: int = -1,
) -> Array:
    r"""Euclidean projection on a box cut by a hyperplane.

    .. math:: \{p : l \le p \le u,\ w^\top p = c\}, \qquad
       p_i = \max(l_i, \min(u_i, y_i + \tau w_i))

    Args:
      y: points, shape ``[..., n]``.
      lo: lower ends, broadcast against the points; finite.
      hi: upper ends, likewise.
      w: weights, shape ``[..., n]``.
      c: right sides, shape ``[...]``.
      axis: axis of the points; `lo`, `hi` and `w` have theirs last.

    Returns:
      Array shaped as `y`; NaN where traced arguments leave nothing to project on.

    Raises:
      TypeError: an argument is not of a floating dtype.
      ValueError: concrete arguments leave nothing to project on, or shapes do not fit.

    Differentiable in all arguments, in every mode and order, where no entry reaches or
    leaves an end.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> y = jnp.array([0.9, 0.2, 1.1])
      >>> p = projection.box_section(y, 0.0, 0.5, jnp.ones(3), 1.0)
      >>> print([f"{x:.3f}" for x in p])
      ['0.500', '0.000', '0.500']

    References:
      Kiwiel, 2008, Math. Programming 112.
    """
    y, lo, hi, w, c = _check.floating(y=y, lo=lo, hi=hi, w=w, c=c)
    y, c = _last(y, axis), c[..., None]
    _check.broadcastable(y=y, lo=lo, hi=hi, w=w, c=c)
    _ordered(lo, hi)
    y, lo, hi, w = jnp.broadcast_arrays(y, lo, hi, w)
    least = jnp.sum(jnp.minimum(w * lo, w * hi), -1, keepdims=True)
    most = jnp.sum(jnp.maximum(w * lo, w * hi), -1, keepdims=True)
    slack = (
        10
        * jnp.finfo(y.dtype).eps
        * jnp.sum(jnp.abs(w) * jnp.maximum(jnp.abs(lo), jnp.abs(hi)), -1, keepdims=True)
    )
    outside = ~((c >= least - slack) & (c <= most + slack))
    wrong = _check.concrete(outside)
    if wrong is not None and wrong.any():
        raise ValueError(
            f"c is {c[..., 0]}; expected a value that w'p takes on the box, between "
            f"{least[..., 0]} and {most[..., 0]}."
        )
    p = _cut(y, lo, hi, w, c)
    return jnp.moveaxis(jnp.where(outside | (lo > hi), jnp.nan, p), -1, axis)


def _cut(y: Array, lo: Array, hi: Array, w: Array, c: Array) -> Array:
    """The projection from the entries that are free at the root tau."""
    tau = _root(*jax.lax.stop_gradient((y, lo, hi, w, c)))
    moved = jax.lax.stop_gradient(y + tau * w)
    below, above = moved <= lo, moved >= hi
    fixed = jnp.where(below, lo, hi)
    free = ~(below | above)
    held = jnp.sum(jnp.where(free, 0, w * fixed), -1, keepdims=True)
    square = jnp.sum(jnp.where(free, w * w, 0), -1, keepdims=True)
    pull = jnp.sum(jnp.where(free, w * y, 0), -1, keepdims=True)
    exact = (c - held - pull) / jnp.where(square > 0, square, 1)
    return jnp.where(free, _clip(y + exact * w, lo, hi), fixed)


def _root(y: Array, lo: Array, hi: Array, w: Array, c: Array) -> Array:
    """Tau with w' clip(y + tau w) = c, by bisection between the last breakpoints."""
    safe = jnp.where(w == 0, 1, w)
    ends = jnp.stack([(lo - y) / safe, (hi - y) / safe])
    ends = jnp.where(w == 0, 0, ends)
    low = jnp.min(ends, (0, -1))[..., None]
    high = jnp.max(ends, (0, -1))[..., None]

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = low + (high - low) / 2
        value = jnp.sum(w * jnp.clip(y + middle * w, lo, hi), -1, keepdims=True)
        over = value > c
        return jnp.where(over, low, middle), jnp.where(over, middle, high)

    steps = jnp.finfo(y.dtype).nmant + 8
    low, high = jax.lax.fori_loop(0, steps, halve, (low, high))
    return low + (high - low) / 2
