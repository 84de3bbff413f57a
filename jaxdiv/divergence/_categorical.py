r"""Exact divergences between categorical laws given by log-probabilities.

Every sum is over non-negative terms: the generator is taken in its normalised form
(f'(1) = 0), written as a second-order remainder. So equal laws give exactly 0, near
laws give an accurate small number and never a negative one.
"""

import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv._numerics import exp_remainder
from jaxdiv.divergence._generators import LOG2, log_mean_exp
from jaxdiv.typing import Array, ArrayLike


def _both(
    log_p: ArrayLike, log_q: ArrayLike, axis: int, where: ArrayLike | None
) -> tuple[Array, Array]:
    """Both laws in one shape and dtype; a category left out is impossible in both."""
    p, q = _check.floating(log_p=log_p, log_q=log_q)
    _check.broadcastable(log_p=p, log_q=q)
    if not p.ndim or not q.ndim:
        raise ValueError("log_p or log_q is a scalar; expected a category axis.")
    if p.shape[axis] != q.shape[axis]:
        raise ValueError(
            f"log_p has {p.shape[axis]} categories on axis {axis}, log_q has "
            f"{q.shape[axis]}; expected equal numbers."
        )
    if where is not None:
        p, q = jnp.where(where, p, -jnp.inf), jnp.where(where, q, -jnp.inf)
    return p, q


def _kl_terms(log_p: Array, log_q: Array, log_ratio: Array) -> Array:
    """Terms p log(p/q) - p + q >= 0 from finite logs; `log_ratio` is log p/q."""
    # From the side of the larger law, where no exponential overflows.
    above = log_ratio > 0
    up, down = jnp.where(above, log_ratio, 0), jnp.where(above, 0, log_ratio)
    near = down > -1
    close, far = jnp.where(near, down, 0), jnp.where(near, -1, down)
    below = jnp.where(
        near,
        jnp.exp(close) * exp_remainder(-close),
        jnp.exp(far) * far - jnp.expm1(far),
    )
    return jnp.where(above, jnp.exp(log_p) * exp_remainder(-up), jnp.exp(log_q) * below)


def _at_zeros(
    log_p: Array, log_q: Array, terms: Array, p_is_zero: Array, q_is_zero: Array
) -> Array:
    """Puts the limits where a law is zero; an atom that neither has gives 0."""
    p_zero, q_zero = log_p == -jnp.inf, log_q == -jnp.inf
    terms = jnp.where(p_zero, p_is_zero, jnp.where(q_zero, q_is_zero, terms))
    return jnp.where(p_zero & q_zero, 0, terms)


def _interior(log_p: Array, log_q: Array) -> tuple[Array, Array]:
    """The logs with 0 in place of both where one is -inf: keeps gradients finite."""
    zero = (log_p == -jnp.inf) | (log_q == -jnp.inf)
    return jnp.where(zero, 0, log_p), jnp.where(zero, 0, log_q)


def kl(
    log_p: ArrayLike,
    log_q: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Kullback-Leibler divergence between categorical laws, in nats.

    .. math:: D(p\|q) = \sum_i p_i \log\frac{p_i}{q_i} - p_i + q_i

    The last two terms cancel for normalised laws; with them every term is non-negative.

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis, at least float32; `inf` where p has mass outside
      the support of q, NaN where an input is NaN.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, or the numbers of categories differ.

    Differentiable in both arguments, in every mode and order, where the value is
    finite. The derivative in `log_p` is :math:`p_i \log(p_i/q_i)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.kl(log_p, log_q):.4f}")
      0.5108

    References:
      Kullback and Leibler, 1951.
    """
    p, q = _both(log_p, log_q, axis, where)
    safe_p, safe_q = _interior(p, q)
    terms = _kl_terms(safe_p, safe_q, safe_p - safe_q)
    terms = _at_zeros(p, q, terms, jnp.exp(q), jnp.full_like(p, jnp.inf))
    return jnp.sum(terms, axis)


def reverse_kl(
    log_p: ArrayLike,
    log_q: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Reverse Kullback-Leibler divergence, `kl` with its arguments exchanged.

    .. math:: D(q\|p) = \sum_i q_i \log\frac{q_i}{p_i}

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast. The expectation is under q.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis, in nats; `inf` where q has mass outside the
      support of p.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, or the numbers of categories differ.

    Differentiable as `kl`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.reverse_kl(log_p, log_q):.4f}")
      0.3681

    References:
      Kullback and Leibler, 1951.
    """
    p, q = _both(log_p, log_q, axis, where)
    return kl(q, p, axis=axis)


def js(
    log_p: ArrayLike,
    log_q: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Jensen-Shannon divergence between categorical laws, in nats, at most log 2.

    .. math:: \tfrac12 D(p\|m) + \tfrac12 D(q\|m), \qquad m = \tfrac12(p + q)

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis, finite for every pair of laws.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, or the numbers of categories differ.

    Differentiable in both arguments, in every mode and order; the derivative at an
    impossible category is 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([1.0, 0.0])), jnp.log(jnp.array([0.0, 1.0]))
      >>> print(f"{divergence.js(log_p, log_q):.4f}")
      0.6931

    References:
      Lin, 1991, eq. (4.1) with equal weights.
    """
    p, q = _both(log_p, log_q, axis, where)
    safe_p, safe_q = _interior(p, q)
    log_ratio = safe_p - safe_q
    p_over_m, q_over_m = -log_mean_exp(-log_ratio), -log_mean_exp(log_ratio)
    # From the larger law, which is within a factor 2 of m: no digits are lost.
    log_m = jnp.where(log_ratio > 0, safe_p - p_over_m, safe_q - q_over_m)
    terms = _kl_terms(safe_p, log_m, p_over_m) + _kl_terms(safe_q, log_m, q_over_m)
    terms = _at_zeros(p, q, terms / 2, jnp.exp(q) * LOG2 / 2, jnp.exp(p) * LOG2 / 2)
    return jnp.sum(terms, axis)
