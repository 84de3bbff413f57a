"""What a convex function does along a segment, without cancellation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.typing import Array, PyTree

Line = Callable[[Array], Array]  # g(s), with any leading axes in its value


class _Quadrature:
    """Two Gauss-Legendre rules on (0, 1); their difference estimates the error."""

    def __init__(self, fine: int, coarse: int) -> None:
        (x, w), (y, v) = (np.polynomial.legendre.leggauss(n) for n in (fine, coarse))
        self.nodes = (1 + np.concatenate([x, y])) / 2
        self._fine, self._coarse = w / 2, v / 2

    def __call__(self, values: Array, kernel: Array) -> tuple[Array, Array]:
        """The integral of kernel(v) values(v), and an estimate of its error."""
        n = len(self._fine)
        weights = jnp.asarray(np.concatenate([self._fine, self._coarse]), values.dtype)
        weights = weights * kernel
        fine = jnp.tensordot(weights[:n], values[:n], 1)
        coarse = jnp.tensordot(weights[n:], values[n:], 1)
        return fine, jax.lax.stop_gradient(jnp.abs(fine - coarse))


QUADRATURE = _Quadrature(12, 8)


def curvature(g: Line, s: Array) -> Array:
    """G'' at each of the points s of the leading axis."""
    one = jnp.ones(s.shape[1:], s.dtype)

    def slope(s: Array) -> Array:
        return jax.jvp(g, (s,), (one,))[1]

    return jax.vmap(lambda s: jax.jvp(slope, (s,), (one,))[1])(s)


def value_and_slope(g: Line, dtype: np.dtype) -> tuple[Array, Array]:
    """g(0) and g'(0)."""
    return jax.jvp(g, (jnp.zeros((), dtype),), (jnp.ones((), dtype),))


def sharper(difference: Array, scale: Array, integral: Array, error: Array) -> Array:
    """A difference of terms of size `scale`, or the integral where that knows more.

    The integral is taken where its own error is below the rounding of the difference;
    that both agree up to three digits above that guards against a function with a kink,
    whose curvature says nothing.
    """
    unit = jnp.finfo(difference.dtype).eps * scale
    agree = jnp.abs(integral - difference) <= 1e3 * unit
    return jnp.where(
        agree & ((error <= 8 * unit) | (difference < 0)), integral, difference
    )


def line(F: Callable[[PyTree], Array], x: PyTree, y: PyTree) -> Line:
    """F along the segment from x to y."""
    # A convex combination, not x + s (y - x): near the border of the domain the sum
    # would lose the digits of the end point.
    return lambda s: F(jax.tree.map(lambda x, y: (1 - s) * x + s * y, x, y))


def gap_along(g: Line, dtype: np.dtype) -> Array:
    """g(1) - g(0) - g'(0), the Bregman divergence along a segment."""
    v = jnp.asarray(QUADRATURE.nodes, dtype)
    g0, slope = value_and_slope(g, dtype)
    g1 = g(jnp.ones((), dtype))
    integral, error = QUADRATURE(curvature(g, v), 1 - v)
    scale = jnp.abs(g0) + jnp.abs(g1) + jnp.abs(slope)
    return sharper(g1 - g0 - slope, scale, integral, error)


def chord(g: Line, at_zero: Array, at_e: Array, e: Array) -> Array:
    """(g(e) - g(0)) / e, smooth through e = 0, from g and its values at 0 and e."""
    v = jnp.asarray(QUADRATURE.nodes, e.dtype)
    zero = e == 0
    divisor = jnp.where(zero, 1, e)
    direct = (at_e - at_zero) / divisor
    scale = (jnp.abs(at_zero) + jnp.abs(at_e)) / jnp.abs(divisor)
    scale = jnp.where(zero, jnp.inf, scale)
    _, slope = value_and_slope(g, e.dtype)
    rest, error = QUADRATURE(curvature(g, e * v), 1 - v)
    return sharper(direct, scale, slope + e * rest, jnp.abs(e) * error)


def renyi_gap(g: Line, e: Array, defined: Array) -> Array:
    """g(1) - g(0) - (g(e) - g(0)) / e, not negative; used where g(e) is `defined`."""
    zero, one = jnp.zeros_like(e), jnp.ones_like(e)
    g0, g1, at_e = jax.vmap(g)(jnp.stack([zero, one, e]))
    at_e = jnp.where(defined, at_e, g0)
    slope = chord(g, g0, at_e, e)

    # The same as an integral of g'' against a kernel that is nowhere negative, with
    # panels from 0 to e and on to 1. Either branch continues through e = 0.
    v = jnp.asarray(QUADRATURE.nodes, e.dtype)
    below = e < 0
    start = jnp.where(below, 0, e)
    first, error = QUADRATURE(
        curvature(g, e * v), jnp.where(below, -e * (1 - v), (1 - e) * e * v)
    )
    second, more = QUADRATURE(
        curvature(g, start + (1 - start) * v), (1 - start) ** 2 * (1 - v)
    )
    scale = jnp.abs(g0) + jnp.abs(g1) + jnp.abs(slope)
    return sharper(g1 - g0 - slope, scale, first + second, error + more)
