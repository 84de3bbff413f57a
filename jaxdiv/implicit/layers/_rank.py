"""Isotonic regression and soft ranks."""

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.implicit import projection
from jaxdiv.implicit.projection._cone import blocks
from jaxdiv.typing import Array, ArrayLike


def isotonic(y: ArrayLike, *, axis: int = -1, falling: bool = False) -> Array:
    r"""Isotonic regression: the nearest vector that does not fall (or rise).

    .. math:: \arg\min_p \|p - y\|^2 \quad\text{s.t.}\quad p_1 \le \dots \le p_n

    Args:
      y: points, shape ``[..., n]``.
      axis: axis of the points.
      falling: whether the result may only fall instead.

    Returns:
      Array shaped as `y`.

    Raises:
      TypeError: `y` is not of a floating dtype.

    Differentiable in `y`, in every mode and order, where no two blocks meet.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import layers
      >>> print(layers.isotonic(jnp.array([1.0, 3.0, 2.0]), falling=True))
      [2. 2. 2.]

    References:
      Best and Chakravarti, 1990, Math. Programming 47.
    """
    if falling:
        return -projection.isotonic(-jnp.asarray(y), axis=axis)
    return projection.isotonic(y, axis=axis)


def soft_rank(y: ArrayLike, strength: ArrayLike = 1.0, *, axis: int = -1) -> Array:
    r"""Differentiable ranks: a projection on the permutahedron.

    .. math:: \arg\min_{r \in \mathcal P(1, \dots, n)} \|r - y / \varepsilon\|^2

    The smallest entry has rank 1. As the strength falls below a bound that the gaps of
    y set, the ranks are exact; as it grows they draw together.

    Args:
      y: values, shape ``[..., n]``, finite.
      strength: the regularisation :math:`\varepsilon`, positive; broadcasts against the
        batch.
      axis: axis of the values.

    Returns:
      Array shaped as `y`, of sum n (n + 1) / 2; NaN where a traced `strength` is not
      positive or y not finite.

    Raises:
      TypeError: `y` is not of a floating dtype.
      ValueError: a concrete `strength` is not positive.

    Differentiable in `y` and `strength`, in every mode and order, where no two blocks
    of the inner isotonic regression meet. In O(n log n).

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import layers
      >>> y = jnp.array([2.9, 0.1, 1.2])
      >>> print(layers.soft_rank(y, 0.1), layers.soft_rank(y, 2.0).round(2))
      [3. 1. 2.] [2.75 1.35 1.9 ]

    References:
      Blondel, Teboul, Berthet and Djolonga, 2020, arXiv:2002.08871, eq. (5).
    """
    (y,) = _check.floating(y=y)
    _check.positive(strength=strength)
    strength = jnp.asarray(strength, y.dtype)[..., None]
    y = jnp.moveaxis(y, axis, -1)
    z = jnp.where(strength > 0, y, jnp.nan) / strength
    ranks = jax.vmap(_permutahedron)(z.reshape(-1, z.shape[-1])).reshape(z.shape)
    return jnp.moveaxis(ranks, -1, axis)


def _permutahedron(z: Array) -> Array:
    """The projection of one row on the hull of all orders of 1, ..., n."""
    order = jnp.argsort(jax.lax.stop_gradient(z))
    s = z[order]
    w = jnp.arange(1, len(z) + 1, dtype=z.dtype)
    # Pooled where s - w falls: there s rises by less than a rank a place. In a block
    # only what s differs from its mean survives, so that no large number is subtracted.
    block = blocks(jax.lax.stop_gradient(s - w))

    count = jnp.bincount(block, length=len(z))[block]

    def mean(x: Array) -> Array:
        return jax.ops.segment_sum(x, block, len(z))[block] / count

    moved = jnp.where(count == 1, 0, s - mean(s)) + mean(w)
    moved = jnp.where(jnp.isfinite(jax.lax.stop_gradient(z)).all(), moved, jnp.nan)
    return jnp.zeros_like(z).at[order].set(moved, unique_indices=True)
