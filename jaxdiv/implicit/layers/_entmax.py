"""Sparse prediction maps and their loss."""

import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.implicit._entmax import entmax_of, fenchel_young_of
from jaxdiv.implicit.projection import simplex
from jaxdiv.typing import Array, ArrayLike


def entmax(y: ArrayLike, alpha: float = 1.5, *, axis: int = -1) -> Array:
    r"""The entmax map, between softmax (alpha = 1) and sparsemax (alpha = 2).

    .. math:: p = [(\alpha - 1) y - \tau]_+^{1/(\alpha - 1)}, \qquad \sum_i p_i = 1

    Args:
      y: scores, shape ``[..., n]``; -inf marks what is impossible.
      alpha: order, a number in [1, 2].
      axis: axis of the categories.

    Returns:
      Array shaped as `y`, non-negative, of sum 1.

    Raises:
      TypeError: `y` is not of a floating dtype, or `alpha` is traced.
      ValueError: `alpha` is outside [1, 2], or the axis is empty.

    Differentiable in `y`, in every mode and order, where the support does not change.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import layers
      >>> print([f"{x:.4f}" for x in layers.entmax(jnp.array([0.9, 0.2, 1.1, -0.4]))])
      ['0.3937', '0.0770', '0.5292', '0.0000']

    References:
      Peters, Niculae and Martins, 2019, arXiv:1905.05702, eq. (10).
    """
    (y,) = _check.floating(y=y)
    alpha = _order(alpha)
    if y.size == 0 and y.shape[axis] == 0:
        raise ValueError(f"y has an empty axis, shape {y.shape}; expected an entry.")
    p = entmax_of(jnp.moveaxis(y, axis, -1), alpha)
    return jnp.moveaxis(p, -1, axis)


def _order(alpha: float) -> float:
    if _check.concrete(alpha) is None:
        raise TypeError("alpha is traced; expected a number.")
    _check.in_range(1, 2, closed=True, alpha=alpha)
    return float(alpha)


def sparsemax(y: ArrayLike, *, axis: int = -1) -> Array:
    r"""The sparsemax map: the Euclidean projection on the simplex.

    .. math:: \arg\min_{p \ge 0,\ \sum_i p_i = 1} \|p - y\|^2

    Args:
      y: scores, shape ``[..., n]``; -inf marks what is impossible.
      axis: axis of the categories.

    Returns:
      Array shaped as `y`, non-negative, of sum 1; NaN where every score is -inf.

    Raises:
      TypeError: `y` is not of a floating dtype.
      ValueError: the axis is empty.

    Differentiable in `y`, in every mode and order, where the support does not change.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import layers
      >>> print([f"{x:.1f}" for x in layers.sparsemax(jnp.array([0.9, 0.2, 1.1]))])
      ['0.4', '0.0', '0.6']

    References:
      Martins and Astudillo, 2016, arXiv:1602.02068.
    """
    return simplex(y, axis=axis)


def fenchel_young_loss(
    y: ArrayLike, q: ArrayLike, alpha: float = 1.5, *, axis: int = -1
) -> Array:
    r"""The loss whose prediction is entmax; cross-entropy at alpha = 1.

    .. math:: L(y, q) = \Omega^*(y) + \Omega(q) - \langle y, q\rangle \ge 0, \qquad
       \nabla_y L = \mathrm{entmax}_\alpha(y) - q

    with the negative Tsallis entropy
    :math:`\Omega(q) = (\sum_i q_i^\alpha - 1) / (\alpha(\alpha - 1))`.

    Args:
      y: scores, shape ``[..., n]``.
      q: targets on the simplex, as `y`.
      alpha: order, a number in [1, 2].
      axis: axis of the categories.

    Returns:
      Array ``[...]`` of one loss a row, in nats; 0 exactly where entmax(y) = q, and NaN
      where a traced `q` is negative.

    Raises:
      TypeError: an input is not of a floating dtype, or `alpha` is traced.
      ValueError: `alpha` is outside [1, 2], a concrete `q` is negative, or the shapes
        do not fit.

    Differentiable in `y` and `q`, in every mode and order, where the support does not
    change.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import layers
      >>> y, q = jnp.array([0.9, 0.2, 1.1, -0.4]), jnp.array([1.0, 0.0, 0.0, 0.0])
      >>> print([f"{x:.4f}" for x in jax.grad(layers.fenchel_young_loss)(y, q)])
      ['-0.6063', '0.0770', '0.5292', '0.0000']

    References:
      Blondel, Martins and Niculae, 2020, JMLR 21, definition 2.
    """
    alpha, target = _order(alpha), _check.concrete(q)
    if target is not None and (target < 0).any():
        raise ValueError(f"q has the entry {target.min()}; expected none below 0.")
    y, q = _check.floating(y=y, q=q)
    y, q = (jnp.moveaxis(x, axis, -1) for x in (y, q))
    if y.shape[-1:] != q.shape[-1:]:
        raise ValueError(
            f"y has {y.shape[-1]} categories and q {q.shape[-1]}; expected as many."
        )
    _check.broadcastable(y=y, q=q)
    return fenchel_young_of(*jnp.broadcast_arrays(y, q), alpha)
