r"""Exact divergences between categorical laws, from log-probabilities or logits.

Every sum is over the non-negative terms of `_terms`, so equal laws give exactly 0,
near laws an accurate small number, and no pair of laws a negative one.
"""

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.divergence import _terms
from jaxdiv.divergence._generators import FDivergence, as_record
from jaxdiv.divergence._terms import Terms
from jaxdiv.typing import Array, ArrayLike


def as_laws(
    log_p: ArrayLike, log_q: ArrayLike, axis: int, where: ArrayLike | None
) -> tuple[Array, Array]:
    """Both laws in one dtype; a category left out is impossible in both."""
    p, q = _check.floating(log_p=log_p, log_q=log_q)
    _check_categories(axis, log_p=p, log_q=q)
    if where is not None:
        p, q = jnp.where(where, p, -jnp.inf), jnp.where(where, q, -jnp.inf)
    return p, q


def _check_categories(axis: int, **laws: Array) -> None:
    _check.broadcastable(**laws)
    sizes = {}
    for name, x in laws.items():
        if not x.ndim:
            raise ValueError(f"{name} is a scalar; expected a category axis.")
        sizes[name] = x.shape[axis]
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise ValueError(f"Numbers of categories on axis {axis} differ: {counts}.")


def sum_terms(
    log_p: Array,
    log_q: Array,
    terms: Terms,
    limits: tuple[ArrayLike, ArrayLike],
    axis: int,
    log_ratio: Array | None = None,
) -> Array:
    """Sums `terms` over the categories; `limits` are those of f at 0 and of f(t)/t."""
    if log_ratio is None:
        log_ratio, _ = _terms.log_ratio_inside(log_p, log_q)
    inside = terms(log_p, log_q, log_ratio)
    return jnp.sum(_terms.at_zeros(log_p, log_q, inside, *limits), axis)


def parts(div: FDivergence) -> tuple[Terms, tuple[Array, Array]]:
    """The terms of a record and the limits of its normalised generator."""
    slope = div.f_prime(jnp.zeros(()))

    def terms(log_p: Array, log_q: Array, ell: Array) -> Array:
        linear = slope.astype(ell.dtype) * (jnp.exp(log_p) - jnp.exp(log_q))
        return jnp.exp(log_q) * div.f(ell) - linear

    return div.terms or terms, (div.f_at_zero + slope, div.f_prime_at_inf - slope)


def f_divergence(
    log_p: ArrayLike,
    log_q: ArrayLike,
    div: str | FDivergence,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""f-divergence between categorical laws, in nats.

    .. math:: D_f(p\|q) = \sum_{q_i > 0} q_i f(p_i/q_i) + f'(\infty)\, p(q = 0)

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      div: a name that `get` knows without a parameter, or a record.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis, at least float32, non-negative; `inf` where the
      divergence is, NaN where an input is NaN.

    Raises:
      TypeError: an input is not of a floating dtype, or `div` is no divergence.
      ValueError: the shapes do not broadcast, the numbers of categories differ, or the
        name is unknown.

    Differentiable in both arguments, in every mode and order, where the value is
    finite. The derivative in `log_p` is :math:`p_i (f'(p_i/q_i) - f'(1))`, 0 at an
    impossible category.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> record = divergence.get("alpha", a=0.3)
      >>> print(f"{divergence.f_divergence(log_p, log_q, record):.4f}")
      0.3973

    References:
      Csiszar, 1967; Ali and Silvey, 1966.
    """
    p, q = as_laws(log_p, log_q, axis, where)
    terms, limits = parts(as_record(div))
    return sum_terms(p, q, terms, limits, axis)


def from_logits(
    logits_p: ArrayLike,
    logits_q: ArrayLike,
    div: str | FDivergence,
    *,
    temperature: ArrayLike = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""f-divergence between softmax laws, in nats.

    .. math:: D_f\big(\mathrm{softmax}(z_p/T) \,\|\, \mathrm{softmax}(z_q/T)\big)

    log p/q is taken from the difference of the logits, which between near laws keeps
    the digits that the two log-probabilities have lost to rounding.

    Args:
      logits_p: unnormalised log-probabilities, categories on `axis`; `-inf` marks an
        impossible category.
      logits_q: as `logits_p`; the other axes broadcast.
      div: a name that `get` knows without a parameter, or a record.
      temperature: T > 0, of both laws; a scalar or broadcasting with the logits.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis, at least float32, non-negative; NaN for a row
      that is `-inf` throughout or holds NaN.

    Raises:
      TypeError: an input is not of a floating dtype, or `div` is no divergence.
      ValueError: the shapes do not broadcast, the numbers of categories differ, the
        name is unknown, or the temperature is not positive.

    Differentiable in the logits and the temperature, in every mode and order, where the
    value is finite; the derivative at an impossible category is 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> student, teacher = jnp.array([1.0, 2.0, -jnp.inf]), jnp.array([0.0, 1.0, 3.0])
      >>> print(f"{divergence.from_logits(teacher, student, 'js'):.4f}")
      0.4642

    References:
      Csiszar, 1967.
    """
    _check.positive(temperature=temperature)
    x, y = as_laws(logits_p, logits_q, axis, where)
    x, y = x / jnp.asarray(temperature, x.dtype), y / jnp.asarray(temperature, x.dtype)
    norm_p = jax.nn.logsumexp(x, axis, keepdims=True)
    norm_q = jax.nn.logsumexp(y, axis, keepdims=True)
    gap, zero = _terms.log_ratio_inside(x, y)
    log_ratio = jnp.where(zero, 0, gap - (norm_p - norm_q))
    terms, limits = parts(as_record(div))
    return sum_terms(x - norm_p, y - norm_q, terms, limits, axis, log_ratio)
