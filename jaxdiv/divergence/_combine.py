"""New records from records: dual, normalised, rescaled, mixed."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.divergence._generators import FDivergence, as_record
from jaxdiv.divergence._terms import exchanged
from jaxdiv.typing import Array, ArrayLike


def _field(
    function: Callable[[Array], Array], low: float = math.nan, high: float = math.nan
) -> Callable[[ArrayLike], Array]:
    """A record's field; `low` and `high`, unless NaN, are its values at -inf, inf."""

    def field(log_ratio: ArrayLike) -> Array:
        (ell,) = _check.floating(log_ratio=log_ratio)
        if math.isnan(low) and math.isnan(high):
            return function(ell)
        value = function(jnp.where(jnp.isinf(ell), 0, ell))
        value = jnp.where(ell == -jnp.inf, low, value)
        return jnp.where(ell == jnp.inf, high, value)

    return field


def dual(div: str | FDivergence) -> FDivergence:
    r"""The record of the divergence with its arguments exchanged.

    .. math:: f^\diamond(t) = t f(1/t), \qquad D_{f^\diamond}(p\|q) = D_f(q\|p)

    Args:
      div: a name that `get` knows without a parameter, or a record.

    Returns:
      An `FDivergence` named `"dual(...)"`; a symmetric `div` itself. Its `conjugate` is
      None, since f* would have to be inverted for it, and the lower end of the
      `conjugate_domain` is NaN where `div` has no conjugate either.

    Raises:
      TypeError: `div` is neither name nor record.
      ValueError: the name is unknown.

    The callables of the record are as differentiable as those of `div`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> reverse = divergence.dual("kl")  # t log t becomes -log t
      >>> print(f"{reverse.f(jnp.log(2.0)):.4f}")
      -0.6931

    References:
      Csiszar, 1967.
    """
    div = as_record(div)
    if div.symmetric:
        return div
    # f_dual(inf) = lim t f(1/t), f_dual'(0) = lim f(s) - s f'(s) = -f*(f'(inf))
    at_inf = div.f_at_zero * math.inf if div.f_at_zero else div.conjugate_domain[0]
    slope = math.nan
    if div.conjugate is not None:
        slope = -float(div.conjugate(jnp.asarray(div.f_prime_at_inf)))
    return FDivergence(
        name=f"dual({div.name})",
        f=_field(lambda ell: jnp.exp(ell) * div.f(-ell), div.f_prime_at_inf, at_inf),
        f_prime=_field(
            lambda ell: div.f(-ell) - jnp.exp(-ell) * div.f_prime(-ell),
            slope,
            div.f_at_zero,
        ),
        f_second=_field(lambda ell: jnp.exp(-3 * ell + jnp.log(div.f_second(-ell)))),
        weight=_field(lambda ell: jnp.exp(ell + div.log_weight(-ell))),
        log_weight=_field(lambda ell: ell + div.log_weight(-ell)),
        conjugate=None,
        conjugate_domain=(slope, div.f_at_zero),
        f_at_zero=div.f_prime_at_inf,
        f_prime_at_inf=div.f_at_zero,
        curvature=div.curvature,
        symmetric=False,
        bound=div.bound,
        terms=None if div.terms is None else exchanged(div.terms),
    )


def normalize(div: str | FDivergence) -> FDivergence:
    r"""The record with f'(1) = 0, whose f is non-negative.

    .. math:: \bar f(t) = f(t) - f'(1)(t - 1), \qquad
              \bar f^*(u) = f^*(u + f'(1)) - f'(1)

    The divergence is the same between normalised laws, and every sampled term of
    `mc_estimate` is non-negative.

    Args:
      div: a name that `get` knows without a parameter, or a record.

    Returns:
      An `FDivergence` of the same name; `div` itself where f'(1) = 0 already.

    Raises:
      TypeError: `div` is neither name nor record.
      ValueError: the name is unknown.

    The callables of the record are as differentiable as those of `div`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> kl = divergence.normalize("kl")  # t log t - t + 1
      >>> print(f"{kl.f(jnp.log(2.0)):.4f} {kl.f_prime(0.0):.1f} {kl.f_at_zero:.1f}")
      0.3863 0.0 1.0

    References:
      Liese and Vajda, 2006.
    """
    div = as_record(div)
    slope = float(div.f_prime(jnp.zeros(())))
    if slope == 0:
        return div
    given, terms = div.conjugate, div.terms

    def conjugate(u: ArrayLike) -> Array:
        assert given is not None
        (u,) = _check.floating(u=u)
        return given(u + slope) - slope

    def f(ell: Array) -> Array:
        if terms is None:
            return div.f(ell) - slope * jnp.expm1(ell)
        return terms(ell, jnp.zeros_like(ell), ell)

    low, high = div.conjugate_domain
    low, high = low - slope, high - slope
    return div._replace(
        f=_field(f, div.f_at_zero + slope, math.inf),
        f_prime=_field(lambda ell: div.f_prime(ell) - slope),
        conjugate=None if given is None else conjugate,
        conjugate_domain=(low, high),
        f_at_zero=div.f_at_zero + slope,
        f_prime_at_inf=high,
    )


def rescale(div: str | FDivergence) -> FDivergence:
    r"""The record divided by its curvature, so that f''(1) = 1.

    All rescaled divergences agree to second order, :math:`D \approx \chi^2/2`, so that
    one coefficient in front of them means the same pull towards a near law. Applied to
    `"gjs"` it gives gjs/(w(1 - w)), continuous with both Kullback-Leibler divergences
    at w = 0, 1.

    .. math:: \tilde f = f / f''(1), \qquad \tilde f^*(u) = f^*(f''(1) u) / f''(1)

    Args:
      div: a name that `get` knows without a parameter, or a record.

    Returns:
      An `FDivergence` of the same name.

    Raises:
      TypeError: `div` is neither name nor record.
      ValueError: the name is unknown, or f''(1) is infinite, as of total variation.

    The callables of the record are as differentiable as those of `div`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_p, log_q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.6, 0.4]))
      >>> for name in ("kl", "js", "pearson_chi2"):
      ...     record = divergence.rescale(name)
      ...     print(f"{divergence.f_divergence(log_p, log_q, record):.3f}")
      0.020
      0.020
      0.021

    References:
      Csiszar and Shields, 2004, section 4.
    """
    div = as_record(div)
    if not 0 < div.curvature < math.inf:
        raise ValueError(
            f"{div.name} has f''(1) = {div.curvature}; expected a positive number."
        )
    return _sum(div.name, [div], [1 / div.curvature])


def mixture(divs: Sequence[str | FDivergence], weights: Sequence[float]) -> FDivergence:
    r"""The record of a non-negative combination of divergences.

    .. math:: f = \sum_k w_k f_k

    Args:
      divs: names that `get` knows without a parameter, or records.
      weights: as many numbers, at least one positive and none negative.

    Returns:
      An `FDivergence`; its `conjugate` is None unless there is only one term.

    Raises:
      TypeError: an entry is neither name nor record.
      ValueError: the numbers differ, a weight is negative, or none is positive.

    The callables of the record are as differentiable as those of its terms.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> jeffreys = divergence.mixture(["kl", "reverse_kl"], [1.0, 1.0])
      >>> print(f"{jeffreys.f(jnp.log(2.0)):.4f}")
      0.6931

    References:
      Ali and Silvey, 1966.
    """
    if len(divs) != len(weights):
        raise ValueError(
            f"{len(divs)} divs and {len(weights)} weights; expected equal numbers."
        )
    _check.in_range(0.0, math.inf, closed=True, weights=jnp.asarray(weights))
    parts = [
        (as_record(div), float(weight))
        for div, weight in zip(divs, weights, strict=True)
        if weight
    ]
    if not parts:
        raise ValueError("weights are all 0; expected a positive one.")
    records, weights = zip(*parts, strict=True)
    name = " + ".join(f"{w:g} {r.name}" for r, w in parts)
    return _sum(name, records, weights)


def _sum(
    name: str, records: Sequence[FDivergence], weights: Sequence[float]
) -> FDivergence:
    def total(values: Sequence) -> Any:
        return sum(w * x for w, x in zip(weights, values, strict=True))

    def add(field: str) -> Callable[..., Array]:
        return lambda *args: total([getattr(r, field)(*args) for r in records])

    def log_weight(log_ratio: ArrayLike) -> Array:
        logs = [
            math.log(w) + r.log_weight(log_ratio)
            for r, w in zip(records, weights, strict=True)
        ]
        value = logs[0]
        for log in logs[1:]:
            value = jnp.logaddexp(value, log)
        return value

    first, given = weights[0], records[0].conjugate

    def conjugate(u: ArrayLike) -> Array:
        assert given is not None
        (u,) = _check.floating(u=u)
        return first * given(u / first)

    low = total([r.f_at_zero for r in records])
    prime_high = total([r.f_prime_at_inf for r in records])
    high = math.inf if prime_high > 0 else total([r.f(math.inf) for r in records])
    closed = len(records) == 1 and given is not None
    return FDivergence(
        name=name,
        f=_field(add("f"), low, float(high)),
        f_prime=add("f_prime"),
        f_second=add("f_second"),
        weight=add("weight"),
        log_weight=log_weight,
        conjugate=conjugate if closed else None,
        conjugate_domain=(
            total([r.conjugate_domain[0] for r in records]),
            prime_high,
        ),
        f_at_zero=low,
        f_prime_at_inf=prime_high,
        curvature=total([r.curvature for r in records]),
        symmetric=all(r.symmetric for r in records),
        bound=total([r.bound for r in records]),
        terms=None if any(r.terms is None for r in records) else add("terms"),
    )
