r"""Divergences that are functions of the power sum of p^a q^(1-a).

All come from two numbers that are well conditioned for every order: the logarithm of
the sum, and (sum - 1)/(a - 1), which is of second order between near laws and
continuous through a = 1. With traced orders, everything stays differentiable in a.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import _check
from jaxdiv._numerics import log1p_ratio
from jaxdiv.divergence import _terms
from jaxdiv.divergence._categorical import as_laws, sum_terms
from jaxdiv.typing import Array, ArrayLike

_BISECTIONS = 24  # two Newton steps after them square the error twice


def _order(a: ArrayLike, dtype: jnp.dtype) -> Array:
    """A traced order in the dtype of the laws, NaN where it is negative."""
    a = jnp.asarray(a, dtype)
    return jnp.where(a >= 0, a, jnp.nan)


def _tsallis(p: Array, q: Array, a: Array, axis: int) -> Array:
    """The alpha divergence times a, with its limit at a = 0."""
    power = _terms.alpha(a)
    below = a < 1
    high = jnp.where(below, a / jnp.where(below, 1 - a, 1), jnp.inf)
    return sum_terms(p, q, lambda *laws: a * power(*laws), (1, high), axis)


def _log_power_sum(
    p: Array, q: Array, a: Array, axis: int
) -> tuple[Array, Array, Array]:
    """(is the sum S far from 1, log S, (S - 1)/(a - 1) where it is not)."""
    ell, zero = _terms.log_ratio_inside(p, q)
    infinite = (q == -jnp.inf) & (p > -jnp.inf) & (a > 1)
    outside = jnp.where(infinite, jnp.inf, -jnp.inf)
    log_power = jnp.where(zero, outside, jnp.where(zero, 0, q) + a * ell)
    log_sum = jax.nn.logsumexp(log_power, axis, keepdims=True)
    far = jnp.abs(log_sum) > 0.4
    excess = _tsallis(jnp.where(far, 0, p), jnp.where(far, 0, q), a, axis)
    # At a = 1 the excess is infinite where p leaves the support of q.
    far = far.squeeze(axis) | jnp.isinf(excess)
    return far, log_sum.squeeze(axis), jnp.where(far, 0, excess)


def _chernoff(p: Array, q: Array, a: Array, axis: int) -> Array:
    """-log of the power sum; `a` is a scalar or has one entry a row."""
    far, log_sum, excess = _log_power_sum(p, q, a, axis)
    order = a.squeeze(axis) if a.ndim else a
    return -jnp.where(far, log_sum, jnp.log1p((order - 1) * excess))


def _best_order(p: Array, q: Array, axis: int) -> Array:
    """Minimiser over [0, 1] of the convex a -> log sum p^a q^(1-a), one a row."""
    ell, zero = _terms.log_ratio_inside(p, q)
    disjoint = zero.all(axis, keepdims=True)

    def slope(a: Array, ell: Array, log_q: Array) -> tuple[Array, Array]:
        log_power = jnp.where(zero & ~disjoint, -jnp.inf, log_q + a * ell)
        share = jax.nn.softmax(log_power, axis)
        mean = jnp.sum(share * ell, axis, keepdims=True)
        return mean, jnp.sum(share * (ell - mean) ** 2, axis, keepdims=True)

    inside_q = jnp.where(zero, 0, q)
    fixed = jax.lax.stop_gradient((ell, inside_q))

    def halve(_: Array, a_and_step: tuple[Array, Array]) -> tuple[Array, Array]:
        a, step = a_and_step
        return a - step * jnp.sign(slope(a, *fixed)[0]), step / 2

    middle = jnp.full(disjoint.shape, 0.5, p.dtype)
    a, _ = jax.lax.fori_loop(0, _BISECTIONS, halve, (middle, middle / 2))
    # Where the supports differ the minimum may be at an end, which halving only nears.
    ends = jnp.zeros_like(a), jnp.ones_like(a)
    a = jnp.where(slope(ends[0], *fixed)[0] > 0, 0, a)
    a = jnp.where(slope(ends[1], *fixed)[0] < 0, 1, a)
    for _ in range(2):
        mean, variance = slope(a, ell, inside_q)
        flat = variance == 0
        step = jnp.where(flat, 0, mean) / jnp.where(flat, 1, variance)
        a = jnp.clip(a - step, 0, 1)
    return a


def alpha(
    log_p: ArrayLike,
    log_q: ArrayLike,
    a: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Alpha divergence (Cressie-Read family), in nats.

    .. math:: \frac{1}{a(a-1)} \Big(\sum_i p_i^a q_i^{1-a} - 1\Big)

    Continuous in a, in value and derivative: a = 1 is `kl`, a = 0 `reverse_kl`,
    a = 1/2 four times `squared_hellinger`, a = 2 half `pearson_chi2`, a = -1 half
    `neyman_chi2`.

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      a: order, a number or a scalar array.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis; `inf` for a >= 1 where p has mass outside the
      support of q, and for a <= 0 where q has outside that of p.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, the numbers of categories differ, or a
        is not finite.

    Differentiable in `log_p`, `log_q` and `a`, in every mode and order, where the value
    is finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.alpha(log_p, log_q, 0.5):.4f}")
      0.4223

    References:
      Cressie and Read, 1984; Amari, 1985, whose alpha is 2a - 1.
    """
    _check.in_range(a=a)
    p, q = as_laws(log_p, log_q, axis, where)
    a = jnp.asarray(a, p.dtype)
    low, high = a > 0, a < 1
    limits = (
        jnp.where(low, 1 / jnp.where(low, a, 1), jnp.inf),
        jnp.where(high, 1 / jnp.where(high, 1 - a, 1), jnp.inf),
    )
    return sum_terms(p, q, _terms.alpha(a), limits, axis)


def tsallis(
    log_p: ArrayLike,
    log_q: ArrayLike,
    a: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Tsallis relative entropy, a times `alpha`.

    .. math:: \frac{1}{a - 1} \Big(\sum_i p_i^a q_i^{1-a} - 1\Big)

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      a: order, a number or a scalar array, at least 0.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis; at a = 1 it is `kl`, at a = 0 the mass of q
      outside the support of p. NaN where a traced `a` is negative.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, the numbers of categories differ,
        or a is negative.

    Differentiable as `alpha`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.tsallis(log_p, log_q, 2.0):.4f}")
      1.7778

    References:
      Tsallis, 1998.
    """
    _check.in_range(0.0, math.inf, closed=True, a=a)
    p, q = as_laws(log_p, log_q, axis, where)
    return _tsallis(p, q, _order(a, p.dtype), axis)


def renyi(
    log_p: ArrayLike,
    log_q: ArrayLike,
    a: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Renyi divergence of order a between categorical laws, in nats.

    .. math:: R_a(p\|q) = \frac{1}{a - 1} \log \sum_i p_i^a q_i^{1-a}

    Continuous in a, in value and derivative: a = 1 is `kl`, a = 0 is -log q(p > 0), and
    a = inf (concrete only) the largest log(p/q).

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      a: order, a number or a scalar array, at least 0.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis; `inf` for a >= 1 where p has mass outside the
      support of q, and for disjoint supports. NaN where a traced `a` is negative.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, the numbers of categories differ,
        or a is negative.

    Differentiable in `log_p`, `log_q` and `a`, in every mode and order, where the value
    is finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.renyi(log_p, log_q, 2.0):.4f}")
      1.0217

    References:
      van Erven and Harremoes, 2014, arXiv:1206.2459, eq. (1).
    """
    _check.in_range(0.0, math.inf, closed=True, a=a)
    p, q = as_laws(log_p, log_q, axis, where)
    order = _check.concrete(a)
    if order is not None and np.isposinf(order):
        ell, zero = _terms.log_ratio_inside(p, q)
        outside = jnp.where(p == -jnp.inf, -jnp.inf, jnp.inf)
        return jnp.max(jnp.where(zero, outside, ell), axis)
    a = _order(a, p.dtype)
    far, log_sum, excess = _log_power_sum(p, q, a, axis)
    one = a == 1  # where the sum is 1 or the divergence infinite
    distant = jnp.where(one, jnp.inf, log_sum / jnp.where(one, 1, a - 1))
    return jnp.where(far, distant, excess * log1p_ratio((a - 1) * excess))


def chernoff(
    log_p: ArrayLike,
    log_q: ArrayLike,
    a: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Chernoff divergence of order a, (1 - a) times `renyi`, in nats.

    .. math:: C_a(p\|q) = -\log \sum_i p_i^a q_i^{1-a}

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      a: order, a number or a scalar array, at least 0.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis; non-negative for a in [0, 1], `inf` for disjoint
      supports.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, the numbers of categories differ,
        or a is negative.

    Differentiable as `renyi`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.chernoff(log_p, log_q, 0.5):.4f}")
      0.1116

    References:
      Chernoff, 1952.
    """
    _check.in_range(0.0, math.inf, closed=True, a=a)
    p, q = as_laws(log_p, log_q, axis, where)
    return _chernoff(p, q, _order(a, p.dtype), axis)


def bhattacharyya(
    log_p: ArrayLike,
    log_q: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Bhattacharyya distance, `chernoff` of order 1/2, in nats.

    .. math:: -\log \sum_i \sqrt{p_i q_i} = -\log(1 - H^2)

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis; `inf` for disjoint supports.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, or the numbers of categories differ.

    Differentiable in both arguments, in every mode and order, where the value is
    finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.bhattacharyya(log_p, log_q):.4f}")
      0.1116

    References:
      Bhattacharyya, 1943.
    """
    return chernoff(log_p, log_q, 0.5, axis=axis, where=where)


def chernoff_information(
    log_p: ArrayLike,
    log_q: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Chernoff information: the largest `chernoff` over a in [0, 1], in nats.

    .. math:: \max_{0 \le a \le 1} -\log \sum_i p_i^a q_i^{1-a}

    The best exponent with which the error of a Bayesian test between p and q decays.

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis; `inf` for disjoint supports.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, or the numbers of categories differ.

    Differentiable in both arguments, in every mode up to second order, where the value
    is finite: the maximiser is refined by two differentiated Newton steps.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.chernoff_information(log_p, log_q):.4f}")
      0.1124

    References:
      Chernoff, 1952; Nielsen, 2013, arXiv:1102.2684.
    """
    p, q = as_laws(log_p, log_q, axis, where)
    return _chernoff(p, q, _best_order(p, q, axis), axis)
