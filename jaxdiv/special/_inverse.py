"""The concentration that belongs to a mean resultant length."""

import jax
import jax.numpy as jnp

from jaxdiv.special._arguments import real
from jaxdiv.special._ratio import i_ratio, i_ratio_complement
from jaxdiv.special._rule import elementwise
from jaxdiv.typing import Array, ArrayLike

_STEPS = 6


def _value(v: Array, r: Array, c: Array) -> Array:
    # From r = 1/2 on its complement is the data. Both agree up to rounding.
    near_one = r >= 0.5
    c = jnp.where(near_one, c, 1 - r)
    r = jnp.where(near_one, 1 - c, r)
    inside = (r > 0) & (c > 0)
    start = r * (2 * (v + 1) - r * r) / (c * (1 + r))

    def newton(_: Array, x: Array) -> Array:
        low = r - i_ratio(v, x, region="all")
        high = i_ratio_complement(v, x, region="all") - c
        slope = i_ratio(v, x, region="all", order=(0, 1))
        step = jnp.where(near_one, high, low) / slope
        return jnp.clip(x + step, x / 2, 2 * x)

    x = jax.lax.fori_loop(0, _STEPS, newton, jnp.where(inside, start, 1))
    x = jnp.where(inside, x, jnp.where(r > 0, jnp.inf, 0))
    return jnp.where((v >= 0) & (r >= 0) & (c >= 0), x, jnp.nan)


@jax.jit
def _inverse(v: Array, r: Array, c: Array) -> Array:
    return elementwise(_value, (_in_v, _in_r, _in_c), v, r, c, implicit=True)


def _in_v(x: Array, v: Array, r: Array, c: Array) -> Array:
    del r, c
    in_x = i_ratio(v, x, region="all", order=(0, 1))
    return -i_ratio(v, x, region="all", order=(1, 0)) / in_x


def _in_r(x: Array, v: Array, r: Array, c: Array) -> Array:
    del c
    return jnp.where(r < 0.5, 1 / i_ratio(v, x, region="all", order=(0, 1)), 0)


def _in_c(x: Array, v: Array, r: Array, c: Array) -> Array:
    del c
    return jnp.where(r < 0.5, 0, -1 / i_ratio(v, x, region="all", order=(0, 1)))


def bessel_i_ratio_inverse(
    v: ArrayLike, r: ArrayLike, *, complement: ArrayLike | None = None
) -> Array:
    r"""The argument at which the ratio of `bessel_i_ratio` has a given value.

    .. math:: I_{v+1}(x) / I_v(x) = r

    Newton's method from the approximation of Banerjee et al. For r from 1/2 on the
    equation solved is that of 1 - r, which keeps its digits where r is near 1.

    Args:
      v: order, v >= 0, any shape.
      r: ratio in [0, 1]; broadcasts with `v`.
      complement: 1 - r, for values of r so near to 1 that they would round; where r is
        at least 1/2 it is used, and differentiated, in the place of r.

    Returns:
      Array of the broadcast shape: 0 at r = 0, inf at r = 1; NaN for v < 0 and for r
      outside [0, 1].

    Raises:
      TypeError: an input is complex or boolean.
      ValueError: the shapes do not broadcast.

    Differentiable in all arguments, in every mode and order, by the implicit function
    theorem.

    Example:
      >>> from jaxdiv import special
      >>> r = special.bessel_i_ratio(0.5, 10.0)
      >>> print(f"{special.bessel_i_ratio_inverse(0.5, r):.3f}")
      10.000

    References:
      Banerjee et al., 2005, JMLR 6; Sra, 2012, Computational Statistics 27.
    """
    if complement is None:
        (v, r), dtype, _ = real(v=v, r=r)
        c = 1 - r
    else:
        (v, r, c), dtype, _ = real(v=v, r=r, complement=complement)
    return _inverse(v, r, c).astype(dtype)
