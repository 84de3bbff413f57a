"""Isotonic optimisation and soft ranks."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.implicit.projection._pool import block_log_sum, block_sum, blocks
from jaxdiv.typing import Array, ArrayLike

_REGULARIZERS = ("kl", "l2")


def isotonic(
    y: ArrayLike,
    w: ArrayLike = 0.0,
    *,
    axis: int = -1,
    regularizer: str = "l2",
    falling: bool = False,
) -> Array:
    r"""Isotonic optimisation: the best vector that does not fall (or does not rise).

    .. math::

        \text{l2:}\ \arg\min_v \tfrac12 \|v - (y - w)\|^2, \qquad
        \text{kl:}\ \arg\min_v \sum_i e^{y_i - v_i} + e^{w_i} v_i, \qquad
        v_1 \le \dots \le v_n

    It is constant on blocks B, of value :math:`\operatorname{mean}(y_B - w_B)`, or with
    "kl" :math:`\operatorname{logsumexp}(y_B) - \operatorname{logsumexp}(w_B)`. Both are
    found in O(n).

    Args:
      y: points, shape ``[..., n]``.
      w: what is subtracted, broadcast against `y`; with "kl" logarithms of weights.
      axis: axis of the points.
      regularizer: "l2" or "kl".
      falling: whether the result may only fall instead.

    Returns:
      Array of the broadcast shape; NaN where a row is not finite.

    Raises:
      TypeError: an argument is not of a floating dtype.
      ValueError: the regularizer is unknown, or the shapes do not broadcast.

    Differentiable in `y` and `w`, in every mode and order, where no two blocks meet.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import layers
      >>> y = jnp.array([1.0, 3.0, 2.0])
      >>> print(layers.isotonic(y), layers.isotonic(y, falling=True))
      [1.  2.5 2.5] [2. 2. 2.]
      >>> print([f"{x:.2f}" for x in layers.isotonic(y, regularizer="kl")])
      ['1.00', '2.62', '2.62']

    References:
      Blondel, Teboul, Berthet and Djolonga, 2020, arXiv:2002.08871, proposition 3 and
      section 5; Best and Chakravarti, 1990, Math. Programming 47.
    """
    _check.one_of("regularizer", regularizer, _REGULARIZERS)
    y, w = _check.floating(y=y, w=w)
    shape = _check.broadcastable(y=y, w=w)
    y, w = (jnp.moveaxis(jnp.broadcast_to(x, shape), axis, -1) for x in (y, w))
    if falling:
        y, w = y[..., ::-1], w[..., ::-1]
    if regularizer == "l2":
        _, v = _means(y - w)
    else:
        block = blocks(*jax.lax.stop_gradient((y - w, w)))
        v = block_log_sum(y, block) - block_log_sum(w, block)
    v = _finite(y - w, v)
    return jnp.moveaxis(v[..., ::-1] if falling else v, -1, axis)


def _means(y: Array) -> tuple[Array, Array]:
    block = blocks(jax.lax.stop_gradient(y))
    return block, block_sum(y, block) / block_sum(jnp.ones_like(y), block)


def _finite(y: Array, p: Array) -> Array:
    """The result, NaN over the rows in which y is not finite."""
    finite = jnp.isfinite(jax.lax.stop_gradient(y)).all(-1, keepdims=True)
    return p * jnp.where(finite, 1, jnp.nan).astype(p.dtype)


def soft_rank(
    y: ArrayLike,
    strength: ArrayLike = 1.0,
    *,
    axis: int = -1,
    regularizer: str = "l2",
) -> Array:
    r"""Differentiable ranks: a projection on the permutahedron.

    .. math::

        \text{l2:}\ \arg\min_{r \in \mathcal P(1, \dots, n)} \|r - y / \varepsilon\|^2,
        \qquad
        \text{kl:}\ \arg\min_{r \in \mathcal P(1, \dots, n)}
        \mathrm{KL}(r \,\|\, e^{y / \varepsilon})

    The smallest entry has rank 1. As the strength falls below a bound that the gaps of
    y set, the ranks are exact; as it grows they draw together.

    Args:
      y: values, shape ``[..., n]``, finite.
      strength: the regularisation :math:`\varepsilon`, positive; broadcasts against the
        batch.
      axis: axis of the values.
      regularizer: "l2" or "kl".

    Returns:
      Array shaped as `y`, of sum n (n + 1) / 2; NaN where a traced `strength` is not
      positive or y not finite.

    Raises:
      TypeError: an argument is not of a floating dtype.
      ValueError: a concrete `strength` is not positive, the regularizer is unknown, or
        the shapes do not fit.

    Differentiable in `y` and `strength`, in every mode and order, where no two blocks
    of the inner isotonic problem meet. In O(n log n).

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import layers
      >>> y = jnp.array([2.9, 0.1, 1.2])
      >>> print(layers.soft_rank(y, 0.1), layers.soft_rank(y, 2.0).round(2))
      [3. 1. 2.] [2.75 1.35 1.9 ]

    References:
      Blondel, Teboul, Berthet and Djolonga, 2020, arXiv:2002.08871, section 4 and
      proposition 3.
    """
    _check.positive(strength=strength)
    _check.one_of("regularizer", regularizer, _REGULARIZERS)
    strength = float(strength) if type(strength) is int else strength
    y, strength = _check.floating(y=y, strength=strength)
    y, strength = jnp.moveaxis(y, axis, -1), strength[..., None]
    shape = _check.broadcastable(y=y, strength=strength)
    z = jnp.broadcast_to(jnp.where(strength > 0, y, jnp.nan) / strength, shape)
    order = jnp.argsort(jax.lax.stop_gradient(z), -1)
    sorted_z = jnp.take_along_axis(z, order, -1)
    # Differences from a constant: what is common to a row matters to neither.
    s = sorted_z - jax.lax.stop_gradient(sorted_z[..., -1:])
    ranks = _sorted_ranks(s, regularizer)
    back = jnp.argsort(order, -1)
    ranks = jnp.take_along_axis(_finite(z, ranks), back, -1)
    return jnp.moveaxis(ranks, -1, axis)


@partial(jax.jit, static_argnums=1)
def _sorted_ranks(s: Array, regularizer: str) -> Array:
    """The projection of rows that rise.

    It subtracts from s the value of its block. Within a block only what s differs from
    its own mean survives, so that no large number is left over.
    """
    rank = jnp.broadcast_to(jnp.arange(1, s.shape[-1] + 1, dtype=s.dtype), s.shape)
    if regularizer == "kl":
        log_rank = jnp.log(rank)
        block = blocks(jax.lax.stop_gradient(s - log_rank), log_rank)
        return jnp.exp(s - block_log_sum(s, block)) * block_sum(rank, block)
    block = blocks(jax.lax.stop_gradient(s - rank))
    count = block_sum(jnp.ones_like(s), block)
    centred = jnp.where(count == 1, 0, s - block_sum(s, block) / count)
    return centred + block_sum(rank, block) / count
