"""Maps with a structure: on the sphere, and for costs h(x - y)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.typing import Array, ArrayLike, Key

PointsFn = Callable[[Array], Array]  # [..., d] -> [..., d]


def sphere_exp(x: ArrayLike, v: ArrayLike) -> Array:
    r"""Exponential map of the unit sphere: from x along v, for a length of abs(v).

    .. math:: \exp_x(v) = \cos|v|\, x + \frac{\sin|v|}{|v|}\, v

    of the part of v that is tangent at x, :math:`v - \langle v, x\rangle x`. A field
    of vectors thus gives a map of the sphere, as :math:`T(x) = \exp_x(V(x))`.

    Args:
      x: points of unit norm, shape `[..., d]`.
      v: vectors, shape `[..., d]`; leading axes broadcast.

    Returns:
      Points of unit norm, of the broadcast shape.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast.

    Differentiable in both arguments, in every mode and order, v = 0 included.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x, v = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, jnp.pi / 3, 0.0])
      >>> print(2 * transport.sphere_exp(x, v).round(2))
      [1.   1.74 0.  ]

    References:
      Uscidda and Cuturi, 2023, arXiv:2302.04953, section 4.
    """
    x, v = _check.floating(x=x, v=v)
    _check.broadcastable(x=x, v=v)
    v = v - jnp.sum(v * x, -1, keepdims=True) * x
    cos, sinc = _cos_and_sinc(jnp.sum(v**2, -1, keepdims=True))
    return cos * x + sinc * v


def sphere_geodesic_cost(
    x: ArrayLike, y: ArrayLike, *, normalize: bool = False
) -> Array:
    r"""Length of the shortest path between two points on the unit sphere.

    .. math:: c(x, y) = 2 \operatorname{atan2}(|x - y|, |x + y|)

    equals :math:`\arccos\langle x, y\rangle`, and keeps its digits where the arc
    cosine loses half of them: near 0 and pi. A function of two points, it is a ground
    cost for `sinkhorn` and all that stands on it.

    Args:
      x: point of unit norm, shape `[..., d]`.
      y: point of unit norm, shape `[..., d]`.
      normalize: divide both points by their norms first. Without it points off the
        sphere are at :math:`\arccos(2\langle x, y\rangle/(|x|^2 + |y|^2))`.

    Returns:
      Array of the broadcast leading shape, in [0, pi].

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast.

    Differentiable in both points, with a gradient tangent to the sphere at unit
    points; at x = y and x = -y, where the cost has a kink, derivatives are zero.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x, y = jnp.array([1.0, 0.0]), jnp.array([0.0, -1.0])
      >>> print(f"{transport.sphere_geodesic_cost(x, y):.4f}")
      1.5708

    References:
      Kahan, 2006, "How futile are mindless assessments of roundoff?", section 12.
    """
    x, y = _check.floating(x=x, y=y)
    _check.broadcastable(x=x, y=y)
    if normalize:
        x, y = _unit(x), _unit(y)
    apart, together = _norm(x - y), _norm(x + y)
    neither = (apart == 0) & (together == 0)  # both points 0: padding, of no length
    return 2 * jnp.arctan2(apart, jnp.where(neither, 1, together))


def structured_map(field_fn: PointsFn, h_conjugate_grad: PointsFn) -> PointsFn:
    r"""The form of optimal maps for a cost c(x, y) = h(x - y), h strictly convex.

    .. math:: T(x) = x - \nabla h^*(F(x))

    An optimal T has a gradient field for F: `conservativity_penalty` asks for it.

    Args:
      field_fn: the field F, from points `[..., d]` to vectors `[..., d]`.
      h_conjugate_grad: the gradient of the convex conjugate of h, likewise; `z / 2`
        for the squared Euclidean cost, :math:`\mathrm{sign}(z)|z/p|^{1/(p-1)}` for
        :math:`\sum_i|x_i - y_i|^p`.

    Returns:
      The map T, from points `[..., d]` to points `[..., d]`.

    Raises:
      TypeError: an argument is not callable.

    Differentiable as far as both functions are.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> T = transport.structured_map(lambda x: 4 * x, lambda z: z / 2)
      >>> print(T(jnp.array([[1.0, -2.0]])))
      [[-1.  2.]]

    References:
      Uscidda and Cuturi, 2023, arXiv:2302.04953; Gangbo and McCann, 1996.
    """
    for name, fn in (("field_fn", field_fn), ("h_conjugate_grad", h_conjugate_grad)):
        if not callable(fn):
            raise TypeError(f"{name} is {fn!r}; expected a function of points.")
    return lambda x: x - h_conjugate_grad(field_fn(x))


def conservativity_penalty(
    field_fn: PointsFn, x: ArrayLike, key: Key, num_probes: int = 1
) -> Array:
    r"""How far a field is from being a gradient, on a sample.

    .. math:: \mathbb E_x\, \mathbb E_{v\sim N(0, I)}
              \left|J_F(x) v - J_F(x)^\top v\right|^2
              = \mathbb E_x \left\|J_F(x) - J_F(x)^\top\right\|_F^2

    by random probes v: one product with the Jacobian and one with its transpose each,
    and one evaluation of the field for all of them.

    Args:
      field_fn: the field F, from points `[..., d]` to vectors `[..., d]`, point by
        point: a vector depends on its own point only.
      x: points, shape `[..., d]`.
      key: key of the probes.
      num_probes: probes a point.

    Returns:
      A scalar, the mean over all points; zero for the gradient of a function.

    Raises:
      TypeError: `x` is not of a floating dtype.
      ValueError: the field changes the shape, or `num_probes` is less than 1.

    Differentiable in `x` and in what `field_fn` closes over, as far as the field is.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x = jnp.ones((100, 2))
      >>> turn = lambda x: jnp.stack([-x[..., 1], x[..., 0]], -1)
      >>> for field in (jnp.sin, turn):
      ...     penalty = transport.conservativity_penalty(field, x, jax.random.key(0))
      ...     print(f"{penalty:.0f}")
      0
      8

    References:
      Uscidda and Cuturi, 2023, arXiv:2302.04953; Chao et al., 2022.
    """
    (x,) = _check.floating(x=x)
    _check.in_range(1, closed=True, num_probes=num_probes)
    field, push = jax.linearize(field_fn, x)
    if field.shape != x.shape:
        raise ValueError(
            f"field_fn maps shape {x.shape} to {field.shape}; expected equal shapes."
        )
    pull = jax.linear_transpose(push, x)
    probes = jax.random.normal(key, (num_probes, *x.shape), x.dtype)
    twist = jax.vmap(lambda v: push(v) - pull(v)[0])(probes)
    return jnp.mean(jnp.sum(twist**2, -1))


def _cos_and_sinc(q: Array) -> tuple[Array, Array]:
    """cos(s) and sin(s)/s as functions of q = s^2, in which both are smooth."""
    small = q < 1
    near, s = jnp.where(small, q, 0), jnp.sqrt(jnp.where(small, 1, q))
    cos, sinc = jnp.zeros_like(q), jnp.zeros_like(q)
    for k in range(5 if q.dtype == jnp.float32 else 9, -1, -1):
        cos = 1 / math.factorial(2 * k) - near * cos
        sinc = 1 / math.factorial(2 * k + 1) - near * sinc
    return jnp.where(small, cos, jnp.cos(s)), jnp.where(small, sinc, jnp.sin(s) / s)


def _norm(x: Array) -> Array:
    """The Euclidean norm, with derivative zero at zero."""
    squared = jnp.sum(x**2, -1)
    live = squared > 0
    return jnp.where(live, jnp.sqrt(jnp.where(live, squared, 1)), 0)


def _unit(x: Array) -> Array:
    norm = _norm(x)[..., None]
    return x / jnp.where(norm > 0, norm, 1)
