r"""The named f-divergences between categorical laws given by log-probabilities."""

import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.divergence import _terms
from jaxdiv.divergence._categorical import as_laws, f_divergence, sum_terms
from jaxdiv.typing import Array, ArrayLike


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
    return f_divergence(log_p, log_q, "kl", axis=axis, where=where)


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
      log_q: as `log_p`; the other axes broadcast.
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
    return f_divergence(log_p, log_q, "reverse_kl", axis=axis, where=where)


def jeffreys(
    log_p: ArrayLike,
    log_q: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Jeffreys divergence, the sum of both Kullback-Leibler divergences.

    .. math:: D(p\|q) + D(q\|p) = \sum_i (p_i - q_i) \log\frac{p_i}{q_i}

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis, in nats; `inf` where the supports differ.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, or the numbers of categories differ.

    Differentiable in both arguments, in every mode and order, where the value is
    finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.jeffreys(log_p, log_q):.4f}")
      0.8789

    References:
      Jeffreys, 1946.
    """
    return f_divergence(log_p, log_q, "jeffreys", axis=axis, where=where)


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
    return f_divergence(log_p, log_q, "js", axis=axis, where=where)


def generalized_js(
    log_p: ArrayLike,
    log_q: ArrayLike,
    w: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Jensen-Shannon divergence with weights w and 1 - w, in nats.

    .. math:: w D(p\|m) + (1 - w) D(q\|m), \qquad m = w p + (1 - w) q

    Near both ends it vanishes: divided by w(1 - w), as `rescale` does, it tends to
    D(p||q) at w = 0 and to D(q||p) at w = 1.

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      w: weight of p in (0, 1), a number or a scalar array.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis, at most the entropy of (w, 1 - w).

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, the numbers of categories differ, or w
        is not in (0, 1).

    Differentiable in `log_p`, `log_q` and `w`, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.generalized_js(log_p, log_q, 0.2):.4f}")
      0.0727

    References:
      Lin, 1991, eq. (4.1).
    """
    _check.in_range(0.0, 1.0, w=w)
    p, q = as_laws(log_p, log_q, axis, where)
    w = jnp.asarray(w, p.dtype)
    limits = -(1 - w) * jnp.log1p(-w), -w * jnp.log(w)
    return sum_terms(p, q, _terms.generalized_js(w), limits, axis)


def skew_kl(
    log_p: ArrayLike,
    log_q: ArrayLike,
    w: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Kullback-Leibler divergence from a mixture of both laws, in nats.

    .. math:: D(p\|w p + (1 - w) q)

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      w: weight of p in the mixture, in (0, 1), a number or a scalar array.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis, at most -log w.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, the numbers of categories differ, or w
        is not in (0, 1).

    Differentiable in `log_p`, `log_q` and `w`, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.skew_kl(log_p, log_q, 0.1):.4f}")
      0.3653

    References:
      Lee, 1999; for distillation Ko et al., 2024, arXiv:2402.03898.
    """
    _check.in_range(0.0, 1.0, w=w)
    p, q = as_laws(log_p, log_q, axis, where)
    w = jnp.asarray(w, p.dtype)
    limits = 1 - w, w - 1 - jnp.log(w)
    return sum_terms(p, q, _terms.skew_kl(w), limits, axis)


def skew_rkl(
    log_p: ArrayLike,
    log_q: ArrayLike,
    w: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Reverse skew divergence, `skew_kl` with its laws exchanged.

    .. math:: D(q\|(1 - w) p + w q)

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      w: weight of q in the mixture, in (0, 1), a number or a scalar array.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis, at most -log w.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, the numbers of categories differ, or w
        is not in (0, 1).

    Differentiable in `log_p`, `log_q` and `w`, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.skew_rkl(log_p, log_q, 0.1):.4f}")
      0.3071

    References:
      Ko et al., 2024, arXiv:2402.03898.
    """
    p, q = as_laws(log_p, log_q, axis, where)
    return skew_kl(q, p, w, axis=axis)


def softened_rkl(
    log_p: ArrayLike,
    log_q: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Softened reverse Kullback-Leibler divergence of f-distill, in nats.

    .. math:: 2 D(\tfrac12(p + q) \| p) = \sum_i (p_i + q_i) \log\frac{p_i + q_i}{2 p_i}

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis; `inf` where q has mass outside the support of p.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, or the numbers of categories differ.

    Differentiable in both arguments, in every mode and order, where the value is
    finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.softened_rkl(log_p, log_q):.4f}")
      0.1646

    References:
      Xu, Nie and Vahdat, 2025, arXiv:2502.15681, table 1.
    """
    return f_divergence(log_p, log_q, "softened_rkl", axis=axis, where=where)


def squared_hellinger(
    log_p: ArrayLike,
    log_q: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Squared Hellinger distance, at most 1.

    .. math:: \tfrac12 \sum_i (\sqrt{p_i} - \sqrt{q_i})^2 = 1 - \sum_i \sqrt{p_i q_i}

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis, in [0, 1].

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, or the numbers of categories differ.

    Differentiable in both arguments, in every mode and order. Its square root is not at
    p = q.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.squared_hellinger(log_p, log_q):.4f}")
      0.1056

    References:
      Hellinger, 1909; with the factor 1/2, Le Cam, 1986.
    """
    return f_divergence(log_p, log_q, "squared_hellinger", axis=axis, where=where)


def total_variation(
    log_p: ArrayLike,
    log_q: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Total variation distance, at most 1.

    .. math:: \tfrac12 \sum_i |p_i - q_i|

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis, in [0, 1].

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, or the numbers of categories differ.

    Differentiable almost everywhere; where p_i = q_i the subgradient 0 is taken.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.total_variation(log_p, log_q):.4f}")
      0.4000

    References:
      Csiszar, 1967.
    """
    return f_divergence(log_p, log_q, "tv", axis=axis, where=where)


def pearson_chi2(
    log_p: ArrayLike,
    log_q: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Pearson's chi-squared divergence.

    .. math:: \sum_i \frac{(p_i - q_i)^2}{q_i}

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis; `inf` where p has mass outside the support of q.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, or the numbers of categories differ.

    Differentiable in both arguments, in every mode and order, where the value is
    finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.pearson_chi2(log_p, log_q):.4f}")
      1.7778

    References:
      Pearson, 1900.
    """
    return f_divergence(log_p, log_q, "pearson_chi2", axis=axis, where=where)


def neyman_chi2(
    log_p: ArrayLike,
    log_q: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Neyman's chi-squared divergence, `pearson_chi2` with its laws exchanged.

    .. math:: \sum_i \frac{(p_i - q_i)^2}{p_i}

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis; `inf` where q has mass outside the support of p.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, or the numbers of categories differ.

    Differentiable in both arguments, in every mode and order, where the value is
    finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.neyman_chi2(log_p, log_q):.4f}")
      0.6400

    References:
      Neyman, 1949.
    """
    return f_divergence(log_p, log_q, "neyman_chi2", axis=axis, where=where)


def le_cam(
    log_p: ArrayLike,
    log_q: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Le Cam's divergence, at most 1.

    .. math:: \tfrac12 \sum_i \frac{(p_i - q_i)^2}{p_i + q_i}

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis, in [0, 1].

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, or the numbers of categories differ.

    Differentiable in both arguments, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.le_cam(log_p, log_q):.4f}")
      0.1905

    References:
      Le Cam, 1986.
    """
    return f_divergence(log_p, log_q, "le_cam", axis=axis, where=where)


def vincze_le_cam(
    log_p: ArrayLike,
    log_q: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Vincze-Le Cam divergence or triangular discrimination, twice `le_cam`.

    .. math:: \sum_i \frac{(p_i - q_i)^2}{p_i + q_i}

    Args:
      log_p: natural log-probabilities, normalised, categories on `axis`; `-inf` marks
        an impossible category.
      log_q: as `log_p`; the other axes broadcast.
      axis: category axis.
      where: boolean mask of the categories that count; None counts all.

    Returns:
      Array without the category axis, in [0, 2].

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not broadcast, or the numbers of categories differ.

    Differentiable in both arguments, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
      >>> print(f"{divergence.vincze_le_cam(log_p, log_q):.4f}")
      0.3810

    References:
      Vincze, 1981; Topsoe, 2000.
    """
    return f_divergence(log_p, log_q, "vincze_le_cam", axis=axis, where=where)
