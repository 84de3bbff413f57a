r"""Divergences from samples: one value per sample, from its log-ratio.

A sample x of q adds :math:`f(p(x)/q(x))`. All that is computed here is a term
:math:`q f(p/q)` of `_terms` with the importance weight in place of q, so that a large
ratio under a small weight does not overflow.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.divergence._categorical import from_logits, parts
from jaxdiv.divergence._generators import FDivergence, as_record
from jaxdiv.divergence._terms import Terms, at_zeros
from jaxdiv.implicit._primitive import implicit_identity
from jaxdiv.typing import Array, ArrayLike

_KINDS = ("kf", "k1", "k2", "k3")
_SURROGATES = ("score", "pathwise")


def mc_estimate(
    log_ratio: ArrayLike,
    div: str | FDivergence,
    *,
    log_weight: ArrayLike | None = None,
    kind: Literal["kf", "k1", "k2", "k3"] = "kf",
    surrogate: Literal["score", "pathwise"] | None = None,
    clip: float | None = None,
    self_normalize_axis: int | None = None,
) -> Array:
    r"""Monte-Carlo terms of an f-divergence, one per sample; their mean estimates it.

    .. math:: D_f(p\|q) \approx \frac1n \sum_{i=1}^n w_i\, k(d_i),
        \qquad d_i = \log p(x_i) - \log q(x_i), \quad x_i \sim q

    ==========  =====================================  ================================
    kind        k(d), with r = exp(d)                  mean
    ==========  =====================================  ================================
    kf and k3   f(r) - f'(1) (r - 1), never negative   unbiased, of low variance
    k1          f(r) as `get` tabulates it             unbiased
    k2          f''(1) d^2 / 2                         biased, right for near p and q
    ==========  =====================================  ================================

    With `div="reverse_kl"`, which is KL(q||p), k1, k2 and k3 are Schulman's: -d,
    d^2/2 and exp(d) - 1 - d. Samples of p estimate the `dual` of `div` with -d.

    Gradients are those of automatic differentiation through d, at fixed samples, unless
    `surrogate="score"`. That is the gradient of the divergence in the mean

    - for a learner of p: kf and k1;
    - for a learner of q whose samples are reparametrised, x = g(noise): kf and k1, when
      d is differentiated through x as well;
    - for either, or both: kf and k1 with a differentiable `log_weight`, which on policy
      is log q - stop_gradient(log q);
    - for a learner of q on policy: any kind with `surrogate="score"`, and k2 with
      `reverse_kl`, whose plain gradient d grad d is the same.

    It is not for a learner of q whose samples are held fixed: the plain gradient of
    `reverse_kl` k3 is then that of the other one, KL(p||q), and that of k1 is 0 in the
    mean.

    Args:
      log_ratio: d at the samples, any shape; `-inf` where p has no mass.
      div: a name that `get` knows without a parameter, or a record.
      log_weight: log q - log b for samples of a behaviour law b, broadcast against
        `log_ratio`; None where the samples are of q.
      kind: "kf", "k1", "k2" or "k3" of the table.
      surrogate: "score" keeps the value and replaces its gradient by
        :math:`w\,(r f'(r) - f(r) - f'(1))\,\nabla d`, the REINFORCE gradient of a
        learner of q with f'(1) as its baseline; the factors before the gradient are
        constants. p has to be fixed. "pathwise" and None are the plain gradient.
      clip: d is clamped to [-clip, clip] in the value and in the factors above. A
        clamped sample has a gradient with "score" only. None: no clipping.
      self_normalize_axis: axis of the samples over whose mean the weights are divided;
        lowers the variance for a bias of order 1/n. None: no division.

    Returns:
      Array of the common shape, at least float32. `inf` where k is, and NaN where both
      p and q but not b vanish or an input is NaN.

    Raises:
      TypeError: an input is not of a floating dtype, or `div` is no divergence.
      ValueError: an option is unknown, `clip` is not positive, k2 is asked for a
        divergence without f''(1), `self_normalize_axis` is given without
        `log_weight`, or the shapes do not broadcast.

    Differentiable in `log_ratio` and `log_weight`, in every mode and order; with
    "score" in `log_ratio` only and to first order.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> x = jax.random.normal(jax.random.key(0), (10_000,))  # q = N(0, 1)
      >>> log_ratio = x**2 / 2 - (x - 0.1) ** 2 / 2  # p = N(0.1, 1)
      >>> k3 = divergence.mc_estimate(log_ratio, "reverse_kl", kind="k3")
      >>> print(f"{k3.mean():.4f}")  # KL(q || p) = 0.1^2 / 2
      0.0051

    References:
      Schulman, 2020, "Approximating KL divergence"; Go et al., 2023,
      arXiv:2302.08215, eq. (5), for the gradient in q.
    """
    div = as_record(div)
    _check.one_of("kind", kind, _KINDS)
    if surrogate is not None:
        _check.one_of("surrogate", surrogate, _SURROGATES)
    if clip is not None:
        _check.positive(clip=clip)
    if kind == "k2" and div.curvature == jnp.inf:
        raise ValueError(f"kind is 'k2', but {div.name} has no f''(1); use 'kf'.")
    ell, log_weight = _weighted(log_ratio, log_weight, self_normalize_axis)
    ratio = ell if clip is None else jnp.clip(ell, -clip, clip)
    terms, (low, high) = parts(div)
    if kind == "k1":
        value = jnp.exp(log_weight) * div.f(ratio)
    elif kind == "k2":
        value = jnp.exp(log_weight) * div.curvature / 2 * ratio**2
    else:
        value = at_samples(terms, (low, high), ratio, log_weight)
    if surrogate != "score":
        return value
    slope = at_samples(along_q(terms), (-low, 0.0), ratio, log_weight)
    slope = jax.lax.stop_gradient(slope)
    return implicit_identity(_scaled_tangent, value, (ell, slope))


def _scaled_tangent(_: Array, theta: tuple, tangent: tuple) -> Array:
    # Not value + slope (d - stop_gradient(d)), which is NaN where p vanishes.
    return theta[1] * tangent[0]


def _weighted(
    log_ratio: ArrayLike, log_weight: ArrayLike | None, axis: int | None
) -> tuple[Array, Array]:
    """The log-ratios and, in their shape, the logs of the weights."""
    if log_weight is None:
        if axis is not None:
            raise ValueError("self_normalize_axis is given; expected a log_weight too.")
        (ell,) = _check.floating(log_ratio=log_ratio)
        return ell, jnp.zeros_like(ell)
    ell, log_weight = _check.floating(log_ratio=log_ratio, log_weight=log_weight)
    shape = _check.broadcastable(log_ratio=ell, log_weight=log_weight)
    ell, log_weight = jnp.broadcast_to(ell, shape), jnp.broadcast_to(log_weight, shape)
    if axis is not None:
        log_weight = jax.nn.log_softmax(log_weight, axis) + jnp.log(shape[axis])
    return ell, log_weight


def at_samples(
    terms: Terms, limits: tuple[ArrayLike, ArrayLike], ell: Array, log_weight: Array
) -> Array:
    """`terms` with the weights as q; inf where w p/q overflows."""
    log_p = log_weight + ell
    overflow = log_p > jnp.log(jnp.finfo(ell.dtype).max)
    outside = overflow | (ell == -jnp.inf) | (log_weight == -jnp.inf)
    safe, safe_weight = jnp.where(outside, 0, ell), jnp.where(outside, 0, log_weight)
    inside = terms(safe_weight + safe, safe_weight, safe)
    value = at_zeros(log_p, log_weight, inside, *limits)
    return jnp.where(overflow, jnp.inf, value)


def along_q(terms: Terms) -> Terms:
    r"""The derivative of -`terms` in log q, of the order of log r near r = 1.

    It is :math:`q (r f'(r) - f(r)) = q f^*(f'(r))` of the normalised f.
    """

    def slope(log_p: Array, log_q: Array, ell: Array) -> Array:
        one = jnp.ones_like(ell)
        return -jax.jvp(
            lambda log_q, ell: terms(log_p, log_q, ell), (log_q, ell), (one, -one)
        )[1]

    return slope


def sequence_kl(
    logits_p: ArrayLike, logits_q: ArrayLike, mask: ArrayLike | None = None
) -> Array:
    r"""Rao-Blackwellised KL between two sequence models, along samples of p.

    .. math:: \sum_t D\big(p(\cdot \mid x_{<t}) \,\|\, q(\cdot \mid x_{<t})\big),
        \qquad x \sim p

    Each step is summed over the vocabulary instead of being sampled. The mean over x is
    the KL of the whole sequences, and its variance is never above that of
    log p(x) - log q(x).

    By the chain rule this holds for KL alone: the sum over steps of another
    f-divergence is not the f-divergence of the sequences.

    Args:
      logits_p: `[..., T, V]`, logits of p at the prefixes of its own samples; any
        normalisation. `-inf` marks an impossible token.
      logits_q: logits of q at the same prefixes; the leading axes broadcast.
      mask: `[..., T]`, False at the positions that do not count. The logits there may
        hold anything, NaN included. None counts all.

    Returns:
      Array `[...]`, in nats.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: there is no axis T, the vocabularies differ, or the shapes do not
        broadcast.

    Differentiable in both logits, in every mode and order. For a learner of q the mean
    of the gradients is that of the sequence KL. For a learner of p it lacks the part
    that comes from the samples, :math:`E[\sum_t D_t \nabla \log p(x_{<t})]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> logits_p = jnp.log(jnp.array([[0.5, 0.5], [0.9, 0.1]]))
      >>> logits_q = jnp.log(jnp.array([[0.9, 0.1], [0.9, 0.1]]))
      >>> print(f"{divergence.sequence_kl(logits_p, logits_q):.4f}")
      0.5108

    References:
      Amini, Vieira and Cotterell, 2025, arXiv:2504.10637.
    """
    p, q = _check.floating(logits_p=logits_p, logits_q=logits_q)
    for name, x in (("logits_p", p), ("logits_q", q)):
        if x.ndim < 2:
            raise ValueError(f"{name} has shape {x.shape}; expected [..., T, V].")
    if mask is not None:
        keep = jnp.asarray(mask, bool)[..., None]
        _check.broadcastable(logits_p=p, logits_q=q, mask=keep)
        p, q = jnp.where(keep, p, 0), jnp.where(keep, q, 0)  # equal laws: exactly 0
    return jnp.sum(from_logits(p, q, "kl"), -1)
