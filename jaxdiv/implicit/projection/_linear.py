"""Projections on what linear equations and inequalities bound."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import _check
from jaxdiv.implicit.projection._simplex import (
    _clip,
    _fits,
    _floats,
    _last,
    _nan_unless,
    _ordered,
)
from jaxdiv.typing import Array, ArrayLike


def _with_normal(
    y: ArrayLike, a: ArrayLike, b: ArrayLike, axis: int
) -> tuple[Array, Array, Array]:
    """Points over the last axis, a normal, and how far along it they are too far."""
    zero = _check.concrete(a)
    if zero is not None and (zero == 0).all(-1).any():
        raise ValueError("a is zero; expected the normal of a plane.")
    y, a, b = _floats(y=y, a=a, b=b)
    y = _last(y, axis)
    if a.ndim == 0 or a.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"a has shape {a.shape}; expected a last axis of {y.shape[-1]}, as y has."
        )
    _fits(a, "b", b)
    _fits(y, "a without its last axis", a[..., 0])
    _fits(y, "b", b)
    # An entry of size one keeps the squares in range; a zero normal becomes NaN.
    largest = jnp.max(jnp.abs(jax.lax.stop_gradient(a)), -1, keepdims=True)
    a, b = a / largest, b[..., None] / largest
    square = jnp.sum(a * a, -1, keepdims=True)
    return y, a, (jnp.sum(a * y, -1, keepdims=True) - b) / square


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
      A: matrices ``[..., m, n]`` of any rank.
      b: right sides ``[..., m]``.
      axis: axis of the points; `A` and `b` have theirs last.

    Returns:
      Array shaped as `y`; NaN where traced equations contradict each other.

    Raises:
      TypeError: an argument is not of a floating dtype.
      ValueError: concrete equations contradict each other, or shapes do not fit.

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
    y, A, b = _floats(y=y, A=A, b=b)
    y = _last(y, axis)
    if A.ndim < 2 or b.ndim < 1 or A.shape[-2:] != (b.shape[-1], y.shape[-1]):
        raise ValueError(
            f"A has shape {A.shape} and b {b.shape}; expected (..., m, {y.shape[-1]}) "
            "and (..., m)."
        )
    _check.broadcastable(
        **{"y": y[..., 0], "A without its last axes": A[..., 0, 0], "b": b[..., 0]}
    )
    # `pinv` is differentiable at constant rank by its own rule.
    inverse = jnp.linalg.pinv(A)
    excess = _times(A, y) - b
    p = y - _times(inverse, excess)
    solved = _solves(*jax.lax.stop_gradient((A, inverse, y, b, excess, p)))
    contradiction = _check.concrete(~solved)
    if contradiction is not None and contradiction.any():
        raise ValueError(
            "A p = b has no solution, A being rank deficient; expected equations that "
            "do not contradict each other."
        )
    return jnp.moveaxis(_nan_unless(solved[..., None], p), -1, axis)


def _times(A: Array, x: Array) -> Array:
    return jnp.matmul(A, x[..., None], precision="highest")[..., 0]


def _solves(
    A: Array, inverse: Array, y: Array, b: Array, excess: Array, p: Array
) -> Array:
    """Whether A p = b within what rounding may have done, or a NaN was given."""
    norm = jnp.linalg.norm
    size = norm(A, axis=(-2, -1))
    terms = size * norm(y, axis=-1) + norm(b, axis=-1)
    terms += size * norm(inverse, axis=(-2, -1)) * norm(excess, axis=-1)
    tolerance = 10 * max(A.shape[-2:]) * jnp.finfo(y.dtype).eps * terms
    return ~(norm(_times(A, p) - b, axis=-1) > tolerance)


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
      lo: lower ends, broadcast against the points; may be -inf.
      hi: upper ends, likewise; may be inf.
      w: weights of any sign, broadcast against the points.
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
    _ordered(lo, hi)
    y, lo, hi, w, c = _floats(y=y, lo=lo, hi=hi, w=w, c=c)
    y, c = _last(y, axis), c[..., None]
    shape = _check.broadcastable(y=y, lo=lo, hi=hi, w=w, c=c)
    if shape[-1] != y.shape[-1]:
        raise ValueError(
            f"y has {y.shape[-1]} entries along its axis; expected {shape[-1]}, as lo, "
            "hi or w have."
        )
    y, lo, hi, w = (jnp.broadcast_to(x, shape) for x in (y, lo, hi, w))
    c = jnp.broadcast_to(c, (*shape[:-1], 1))
    least, most, slack = _reach(*jax.lax.stop_gradient((lo, hi, w)))
    feasible = (c >= least - slack) & (c <= most + slack)
    wrong = _check.concrete(~feasible)
    if wrong is not None and wrong.any():
        i = np.unravel_index(wrong.argmax(), wrong.shape)
        raise ValueError(
            f"c is {c[i]}; expected a value that w'p takes on the box, between "
            f"{least[i]} and {most[i]}."
        )
    known = ~jnp.isnan(jax.lax.stop_gradient(y)).any(-1, keepdims=True)
    ordered = (lo <= hi).all(-1, keepdims=True)
    p = _nan_unless(feasible & ordered & known, _cut(y, lo, hi, w, c))
    return jnp.moveaxis(p, -1, axis)


def _reach(lo: Array, hi: Array, w: Array) -> tuple[Array, Array, Array]:
    """The least and largest w'p on the box, and what rounding may do to them."""
    ends = jnp.where(w == 0, 0, w * jnp.stack([lo, hi]))
    least = jnp.sum(jnp.min(ends, 0), -1, keepdims=True)
    most = jnp.sum(jnp.max(ends, 0), -1, keepdims=True)
    finite = jnp.where(jnp.isfinite(ends), jnp.abs(ends), 0)
    slack = jnp.sum(jnp.max(finite, 0), -1, keepdims=True)
    return least, most, 10 * jnp.finfo(w.dtype).eps * slack


@jax.jit
def _cut(y: Array, lo: Array, hi: Array, w: Array, c: Array) -> Array:
    """The projection, in closed form from the entries that are free at the root tau."""
    free, fixed_high = _at_root(*jax.lax.stop_gradient((y, lo, hi, w, c)))
    fixed = jnp.where(fixed_high, hi, lo)
    held = jnp.sum(jnp.where(free, 0, w * fixed), -1, keepdims=True)
    square = jnp.sum(jnp.where(free, w * w, 0), -1, keepdims=True)
    pull = jnp.sum(jnp.where(free, w * y, 0), -1, keepdims=True)
    some = square > 0
    tau = jnp.where(some, c - held - pull, 0) / jnp.where(some, square, 1)
    return jnp.where(free, _clip(y + tau * w, lo, hi), fixed)


def _at_root(y: Array, lo: Array, hi: Array, w: Array, c: Array) -> tuple[Array, Array]:
    """Which entries are free, and which at `hi`, where w' clip(y + tau w) = c.

    The left side rises in tau, linearly between breakpoints: a binary search among
    these finds the piece of the root, whatever their scales.
    """
    moves, rises = w != 0, w > 0
    first, last = jnp.where(rises, lo, hi), jnp.where(rises, hi, lo)
    step = jnp.where(moves, w, 1)
    enter = jnp.where(moves, (first - y) / step, -jnp.inf)
    leave = jnp.where(moves, (last - y) / step, jnp.inf)
    points = jnp.sort(jnp.concatenate([enter, leave], -1), -1)
    size = points.shape[-1]

    def point(i: Array) -> Array:
        at = jnp.take_along_axis(points, jnp.clip(i, 0, size - 1), -1)
        return jnp.where(i < 0, -jnp.inf, at)

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) // 2
        tau = point(middle)
        x = jnp.where(enter >= tau, first, jnp.where(leave <= tau, last, y + tau * w))
        value = jnp.sum(jnp.where(moves, w * x, 0), -1, keepdims=True)
        open_ = high - low > 1
        below = value <= c
        return (
            jnp.where(open_ & below, middle, low),
            jnp.where(open_ & ~below, middle, high),
        )

    bracket = jnp.full_like(c, -1, int), jnp.full_like(c, size, int)
    low, _ = jax.lax.fori_loop(0, math.ceil(math.log2(size + 1)), halve, bracket)
    tau = point(low)
    passed = leave <= tau
    free = ~moves | ((enter <= tau) & ~passed)
    return free, passed == rises
