r"""Projections on the simplex, on norm balls and spheres, on boxes and half-spaces.

The active set is found on a value without derivative; the projection is then written
in closed form on it, so that its derivative is exact in every mode and order.
"""

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.typing import Array, ArrayLike


def _floats(**arrays: ArrayLike) -> tuple[Array, ...]:
    """As `_check.floating`, where a Python integer counts as a float."""
    return _check.floating(
        **{name: float(x) if type(x) is int else x for name, x in arrays.items()}
    )


def _last(y: Array, axis: int) -> Array:
    if not -y.ndim <= axis < y.ndim:
        raise ValueError(f"axis is {axis}; expected one of the axes of y, {y.shape}.")
    return jnp.moveaxis(y, axis, -1)


def _fits(y: Array, name: str, value: Array) -> tuple[int, ...]:
    """The common batch of points over the last axis and of one number a point."""
    try:
        return jnp.broadcast_shapes(y.shape[:-1], value.shape)
    except ValueError as error:
        raise ValueError(
            f"{name} has shape {value.shape}; expected one that broadcasts to the "
            f"batch {y.shape[:-1]}."
        ) from error


def _nan_unless(good: Array, p: Array) -> Array:
    # A product, since a `where` would leave a derivative of 0 at a value of NaN.
    return p * jnp.where(good, 1, jnp.nan).astype(p.dtype)


@jax.jit
def _on_simplex(y: Array, scale: Array) -> Array:
    """Projection over the last axis; `scale` has an axis of length 1 there."""
    top = jnp.max(jax.lax.stop_gradient(y), -1, keepdims=True, initial=-jnp.inf)
    y = y - top  # what a large common part would cost in digits
    still, size = jax.lax.stop_gradient((y, scale))
    down = -jnp.sort(-still, -1)
    rank = jnp.arange(1, y.shape[-1] + 1, dtype=y.dtype)
    inside = down * rank > jnp.cumsum(down, -1) - size
    count = jnp.maximum(jnp.sum(inside, -1, keepdims=True), 1)
    support = still >= jnp.take_along_axis(down, count - 1, -1)
    count = jnp.sum(support, -1, keepdims=True).astype(y.dtype)
    tau = (jnp.sum(jnp.where(support, y, 0), -1, keepdims=True) - scale) / count
    p = jnp.where(support & (y > tau), y - tau, 0)
    given = ~jnp.isnan(still).any(-1, keepdims=True)
    return _nan_unless((size > 0) & given & jnp.isfinite(top), p)


def _sized(y: ArrayLike, axis: int, **size: ArrayLike) -> tuple[Array, Array]:
    """The points with their axis last, and a positive size that broadcasts to them."""
    ((name, _),) = size.items()
    _check.positive(**size)
    y, value = _floats(y=y, **size)
    y = _last(y, axis)
    batch = _fits(y, name, value)
    return jnp.broadcast_to(y, (*batch, y.shape[-1])), value[..., None]


def _not_empty(y: Array) -> None:
    if y.shape[-1] == 0:
        raise ValueError(f"y has an empty axis, shape {y.shape}; expected an entry.")


def simplex(y: ArrayLike, scale: ArrayLike = 1.0, *, axis: int = -1) -> Array:
    r"""Euclidean projection on the simplex.

    .. math:: \arg\min_p \|p - y\|^2 \quad\text{s.t.}\quad p \ge 0,\ \sum_i p_i = s

    Args:
      y: points, shape ``[..., n]``.
      scale: sum of the result, positive; broadcasts against the batch.
      axis: axis of the points.

    Returns:
      Array shaped as `y` (and the batch of `scale`); 0 where y is -inf. NaN where a
      traced `scale` is not positive or the largest entry of y not finite.

    Raises:
      TypeError: `y` is not of a floating dtype.
      ValueError: a concrete `scale` is not positive, the axis is empty, or shapes do
        not fit.

    Differentiable in `y` and `scale`, in every mode and order, where the support does
    not change; the generalised Jacobian of the larger support where it does.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> p = projection.simplex(jnp.array([0.9, 0.2, 1.1, -0.4]))
      >>> print([f"{x:.3f}" for x in p])
      ['0.400', '0.000', '0.600', '0.000']

    References:
      Duchi et al., 2008, ICML; Martins and Astudillo, 2016, arXiv:1602.02068.
    """
    y, scale = _sized(y, axis, scale=scale)
    _not_empty(y)
    return jnp.moveaxis(_on_simplex(y, scale), -1, axis)


def _signs(y: Array) -> Array:
    return jnp.where(jax.lax.stop_gradient(y) < 0, -1, 1).astype(y.dtype)


def l1_ball(y: ArrayLike, radius: ArrayLike = 1.0, *, axis: int = -1) -> Array:
    r"""Euclidean projection on the ball of the l1 norm.

    .. math:: \arg\min_p \|p - y\|^2 \quad\text{s.t.}\quad \sum_i |p_i| \le r

    Args:
      y: points, shape ``[..., n]``.
      radius: positive; broadcasts against the batch.
      axis: axis of the points.

    Returns:
      Array shaped as `y`; NaN where a traced `radius` is not positive.

    Raises:
      TypeError: `y` is not of a floating dtype.
      ValueError: a concrete `radius` is not positive, or shapes do not fit.

    Differentiable in `y` and `radius`, in every mode and order, off the boundary.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> print(projection.l1_ball(jnp.array([2.0, -1.0, 0.0])))
      [1. 0. 0.]

    References:
      Duchi et al., 2008, ICML.
    """
    y, radius = _sized(y, axis, radius=radius)
    if y.shape[-1] == 0:
        return jnp.moveaxis(y, -1, axis)
    norm = jnp.sum(jnp.abs(jax.lax.stop_gradient(y)), -1, keepdims=True)
    outside = ~(norm <= jax.lax.stop_gradient(radius))
    sign = _signs(y)
    p = jnp.where(outside, sign * _on_simplex(sign * y, radius) + 0.0, y)
    return jnp.moveaxis(p, -1, axis)


def l1_sphere(y: ArrayLike, radius: ArrayLike = 1.0, *, axis: int = -1) -> Array:
    r"""A Euclidean projection on the sphere of the l1 norm.

    .. math:: \arg\min_p \|p - y\|^2 \quad\text{s.t.}\quad \sum_i |p_i| = r

    Args:
      y: points, shape ``[..., n]``. An entry of 0 counts as positive, since either sign
        is as near.
      radius: positive; broadcasts against the batch.
      axis: axis of the points.

    Returns:
      Array shaped as `y`; NaN where a traced `radius` is not positive.

    Raises:
      TypeError: `y` is not of a floating dtype.
      ValueError: a concrete `radius` is not positive, or shapes do not fit.

    Differentiable in `y` and `radius`, in every mode and order, where no sign and no
    support changes.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> print(projection.l1_sphere(jnp.array([0.25, -0.25])))
      [ 0.5 -0.5]

    References:
      Duchi et al., 2008, ICML.
    """
    y, radius = _sized(y, axis, radius=radius)
    _not_empty(y)
    sign = _signs(y)
    return jnp.moveaxis(sign * _on_simplex(sign * y, radius), -1, axis)


def _norm(y: Array) -> Array:
    """The Euclidean norm over the last axis, of slope 0 at 0."""
    still = jnp.abs(jax.lax.stop_gradient(y))
    largest = jnp.max(still, -1, keepdims=True, initial=0)
    largest = jnp.where(largest == 0, 1, largest)
    square = jnp.sum((y / largest) ** 2, -1, keepdims=True)
    zero = square == 0
    return largest * jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


def l2_ball(y: ArrayLike, radius: ArrayLike = 1.0, *, axis: int = -1) -> Array:
    r"""Euclidean projection on the ball.

    .. math:: p = y \, \min(1, r / \|y\|)

    Args:
      y: points, shape ``[..., n]``.
      radius: positive; broadcasts against the batch.
      axis: axis of the points.

    Returns:
      Array shaped as `y`; NaN where a traced `radius` is not positive.

    Raises:
      TypeError: `y` is not of a floating dtype.
      ValueError: a concrete `radius` is not positive, or shapes do not fit.

    Differentiable in `y` and `radius`, in every mode and order, off the boundary.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> print([f"{x:.1f}" for x in projection.l2_ball(jnp.array([3.0, 4.0]))])
      ['0.6', '0.8']

    References:
      Parikh and Boyd, 2014, Proximal Algorithms, section 6.5.
    """
    y, radius = _sized(y, axis, radius=radius)
    norm = _norm(y)
    outside = jax.lax.stop_gradient(~(norm <= radius))
    p = jnp.where(outside, y * (radius / jnp.where(outside, norm, 1)), y)
    return jnp.moveaxis(_nan_unless(radius > 0, p), -1, axis)


def l2_sphere(y: ArrayLike, radius: ArrayLike = 1.0, *, axis: int = -1) -> Array:
    r"""Euclidean projection on the sphere.

    .. math:: p = r\, y / \|y\|

    Args:
      y: points, shape ``[..., n]``.
      radius: positive; broadcasts against the batch.
      axis: axis of the points.

    Returns:
      Array shaped as `y`; NaN at y = 0, to which every point is as near.

    Raises:
      TypeError: `y` is not of a floating dtype.
      ValueError: a concrete `radius` is not positive, or shapes do not fit.

    Differentiable in `y` and `radius`, in every mode and order, at y != 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> print([f"{x:.1f}" for x in projection.l2_sphere(jnp.array([0.3, 0.4]))])
      ['0.6', '0.8']

    References:
      Absil, Mahony and Sepulchre, 2008, section 3.6.1.
    """
    y, radius = _sized(y, axis, radius=radius)
    _not_empty(y)
    p = radius * (y / _norm(y))
    return jnp.moveaxis(_nan_unless(radius > 0, p), -1, axis)


def linf_ball(y: ArrayLike, radius: ArrayLike = 1.0, *, axis: int = -1) -> Array:
    r"""Euclidean projection on the ball of the maximum norm.

    .. math:: p_i = \max(-r, \min(r, y_i))

    Args:
      y: points, shape ``[..., n]``.
      radius: positive; broadcasts against the batch.
      axis: axis of the points.

    Returns:
      Array shaped as `y`; NaN where a traced `radius` is not positive.

    Raises:
      TypeError: `y` is not of a floating dtype.
      ValueError: a concrete `radius` is not positive, or shapes do not fit.

    Differentiable in `y` and `radius`, in every mode and order, off the boundary.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> print(projection.linf_ball(jnp.array([3.0, -0.5])))
      [ 1.  -0.5]

    References:
      Parikh and Boyd, 2014, Proximal Algorithms, section 6.2.4.
    """
    y, radius = _sized(y, axis, radius=radius)
    p = _nan_unless(radius > 0, _clip(y, -radius, radius))
    return jnp.moveaxis(p, -1, axis)


def _clip(y: Array, low: Array, high: Array) -> Array:
    """Clips, with slope one in exactly one of the three; NaN if NaN is given."""
    p = jnp.where(y < low, low, jnp.where(y > high, high, y))
    return _nan_unless(low <= high, p)


def nonnegative(y: ArrayLike) -> Array:
    r"""Euclidean projection on the non-negative numbers, entry by entry.

    .. math:: p_i = \max(y_i, 0)

    Args:
      y: points, any shape.

    Returns:
      Array shaped as `y`.

    Raises:
      TypeError: `y` is not of a floating dtype.

    Differentiable in `y`, in every mode and order; slope 1 at 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> print(projection.nonnegative(jnp.array([3.0, -0.5])))
      [3. 0.]

    References:
      Parikh and Boyd, 2014, Proximal Algorithms, section 6.3.2.
    """
    (y,) = _check.floating(y=y)
    return jnp.where(y < 0, 0, y).astype(y.dtype)


def box(y: ArrayLike, lo: ArrayLike, hi: ArrayLike) -> Array:
    r"""Euclidean projection on a box, entry by entry.

    .. math:: p_i = \max(l_i, \min(u_i, y_i))

    Args:
      y: points, any shape.
      lo: lower ends; broadcast against `y`. May be -inf.
      hi: upper ends; broadcast against `y`. May be inf.

    Returns:
      Array of the broadcast shape; NaN where a traced `lo` is above `hi`.

    Raises:
      TypeError: an argument is not of a floating dtype.
      ValueError: a concrete `lo` is above `hi`, or shapes do not broadcast.

    Differentiable in all three, in every mode and order, off the boundary.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import projection
      >>> print(projection.box(jnp.array([3.0, -0.5, 0.2]), 0.0, 1.0))
      [1.  0.  0.2]

    References:
      Parikh and Boyd, 2014, Proximal Algorithms, section 6.2.4.
    """
    _ordered(lo, hi)
    y, lo, hi = _floats(y=y, lo=lo, hi=hi)
    _check.broadcastable(y=y, lo=lo, hi=hi)
    return _clip(y, lo, hi)


def _ordered(lo: ArrayLike, hi: ArrayLike) -> None:
    low, high = _check.concrete(lo), _check.concrete(hi)
    if low is None or high is None:
        return
    try:
        wrong = ~(low <= high)
    except ValueError as error:  # NumPy's, on shapes
        raise ValueError(
            f"Shapes do not broadcast: lo {low.shape}, hi {high.shape}."
        ) from error
    if wrong.any():
        raise ValueError(f"lo is {lo} and hi {hi}; expected lo <= hi everywhere.")
