"""What a convex function does along a segment, without cancellation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.typing import Array

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
