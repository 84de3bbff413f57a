r"""Divergences between von Mises-Fisher laws, in closed form.

In the natural parameter :math:`\eta = \kappa\mu` the log-normaliser against the uniform
law is :math:`H(\eta) = h(|\eta|)`, a convex function, and every divergence here is a
gap of H along the segment between two parameters. Between near parameters the gap is
the integral of its second derivative, which keeps the digits that the difference loses.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiv import _check, special
from jaxdiv.distributions._von_mises_fisher import (
    deficit,
    log_partition,
    on_sphere,
    one_less_resultant,
    proper,
    resultant,
    resultant_slope,
    tangent_variance,
)
from jaxdiv.typing import Array, ArrayLike

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)
_NEAR = 0.1  # of the scale on which the second derivative of H varies


class _Pair(NamedTuple):
    """Two laws, up to a rotation.

    Attributes:
      p: concentration of the first.
      q: concentration of the second.
      apart: 1 less the cosine between their mean directions.
      dim: dimension.
    """

    p: Array
    q: Array
    apart: Array
    dim: int


def vmf_kl(
    mu_p: ArrayLike, kappa_p: ArrayLike, mu_q: ArrayLike, kappa_q: ArrayLike
) -> Array:
    r"""Kullback-Leibler divergence between two von Mises-Fisher laws.

    .. math:: \mathrm{KL}(p\|q) = h(\kappa_q) - h(\kappa_p)
              + A(\kappa_p)\,(\kappa_p - \kappa_q\,\langle\mu_p, \mu_q\rangle)

    Args:
      mu_p: mean direction of p, under which the expectation is; unit, `[..., d]`.
      kappa_p: concentration of p, `[...]`, at least 0 and finite.
      mu_q: mean direction of q, `[..., d]`.
      kappa_q: concentration of q, `[...]`.

    Returns:
      Array `[...]` in nats, at least 0, exactly 0 between equal laws; NaN for a
      negative concentration.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit.

    Differentiable in all four, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> mu_p, mu_q = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.6, 0.8, 0.0])
      >>> print(f"{distributions.vmf_kl(mu_p, 10.0, mu_q, 20.0):.4f}")
      7.5069

    References:
      Diethe, 2015, arXiv:1502.07104.
    """
    return _kl(_pair(mu_p, kappa_p, mu_q, kappa_q))


def vmf_renyi(
    mu_p: ArrayLike,
    kappa_p: ArrayLike,
    mu_q: ArrayLike,
    kappa_q: ArrayLike,
    alpha: ArrayLike,
) -> Array:
    r"""Renyi divergence of order alpha between two von Mises-Fisher laws.

    .. math:: D_\alpha(p\|q) = \frac{h(\kappa_*) - \alpha h(\kappa_p)
              - (1 - \alpha) h(\kappa_q)}{\alpha - 1}, \qquad
              \kappa_* = |\alpha\kappa_p\mu_p + (1 - \alpha)\kappa_q\mu_q|

    Finite for every order, as all laws have the sphere as their support. The limit
    alpha -> 1, the Kullback-Leibler divergence, is taken.

    Args:
      mu_p: mean direction of p; unit, `[..., d]`.
      kappa_p: concentration of p, `[...]`, at least 0 and finite.
      mu_q: mean direction of q, `[..., d]`.
      kappa_q: concentration of q, `[...]`.
      alpha: order, `[...]`, positive.

    Returns:
      Array `[...]` in nats, at least 0; NaN for a negative concentration and for a
      traced order that is not positive.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, or a concrete order is not positive.

    Differentiable in all five, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> mu_p, mu_q = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.6, 0.8, 0.0])
      >>> print(f"{distributions.vmf_renyi(mu_p, 10.0, mu_q, 20.0, 0.5):.4f}")
      2.7191

    References:
      van Erven and Harremoes, 2014, arXiv:1206.2459 (the divergence).
    """
    _check.positive(alpha=alpha)
    pair = _pair(mu_p, kappa_p, mu_q, kappa_q)
    alpha = jnp.asarray(alpha, pair.p.dtype)
    return _renyi(pair, jnp.where(alpha > 0, alpha, jnp.nan))


def vmf_bhattacharyya(
    mu_p: ArrayLike, kappa_p: ArrayLike, mu_q: ArrayLike, kappa_q: ArrayLike
) -> Array:
    r"""Bhattacharyya coefficient of two von Mises-Fisher laws.

    .. math:: \int\sqrt{p\,q} = \exp\bigl(h(\tfrac12|\kappa_p\mu_p + \kappa_q\mu_q|)
              - \tfrac12 h(\kappa_p) - \tfrac12 h(\kappa_q)\bigr)

    Its negative log, the Bhattacharyya distance, is half of `vmf_renyi` of order 1/2,
    which does not underflow between laws far apart.

    Args:
      mu_p: mean direction of p; unit, `[..., d]`.
      kappa_p: concentration of p, `[...]`, at least 0 and finite.
      mu_q: mean direction of q, `[..., d]`.
      kappa_q: concentration of q, `[...]`.

    Returns:
      Array `[...]` in [0, 1], 1 between equal laws; NaN for a negative concentration.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit.

    Differentiable in all four, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> mu_p, mu_q = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.6, 0.8, 0.0])
      >>> print(f"{distributions.vmf_bhattacharyya(mu_p, 10.0, mu_q, 20.0):.4f}")
      0.2568

    References:
      Bhattacharyya, 1943 (the coefficient).
    """
    return jnp.exp(-_renyi(_pair(mu_p, kappa_p, mu_q, kappa_q), 0.5) / 2)


def vmf_hellinger(
    mu_p: ArrayLike, kappa_p: ArrayLike, mu_q: ArrayLike, kappa_q: ArrayLike
) -> Array:
    r"""Hellinger distance between two von Mises-Fisher laws.

    .. math:: H = \sqrt{1 - \int\sqrt{p\,q}}

    Args:
      mu_p: mean direction of p; unit, `[..., d]`.
      kappa_p: concentration of p, `[...]`, at least 0 and finite.
      mu_q: mean direction of q, `[..., d]`.
      kappa_q: concentration of q, `[...]`.

    Returns:
      Array `[...]` in [0, 1]; NaN for a negative concentration.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit.

    Differentiable in all four, in every mode and order, where the laws differ; between
    equal laws the distance has a kink, and the derivative is 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> mu_p, mu_q = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.6, 0.8, 0.0])
      >>> print(f"{distributions.vmf_hellinger(mu_p, 10.0, mu_q, 20.0):.4f}")
      0.8621

    References:
      Hellinger, 1909 (the distance).
    """
    squared = -jnp.expm1(-_renyi(_pair(mu_p, kappa_p, mu_q, kappa_q), 0.5) / 2)
    apart = ~(squared <= 0)
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)


def vmf_jeffreys(
    mu_p: ArrayLike, kappa_p: ArrayLike, mu_q: ArrayLike, kappa_q: ArrayLike
) -> Array:
    r"""Jeffreys divergence, KL(p||q) + KL(q||p), of two von Mises-Fisher laws.

    .. math:: J = (\kappa_p - \kappa_q)(A_p - A_q)
              + (\kappa_q A_p + \kappa_p A_q)(1 - \langle\mu_p, \mu_q\rangle)

    Args:
      mu_p: mean direction of p; unit, `[..., d]`.
      kappa_p: concentration of p, `[...]`, at least 0 and finite.
      mu_q: mean direction of q, `[..., d]`.
      kappa_q: concentration of q, `[...]`.

    Returns:
      Array `[...]` in nats, at least 0; NaN for a negative concentration.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit.

    Differentiable in all four, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> mu_p, mu_q = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.6, 0.8, 0.0])
      >>> print(f"{distributions.vmf_jeffreys(mu_p, 10.0, mu_q, 20.0):.4f}")
      11.5000

    References:
      Jeffreys, 1946 (the divergence).
    """
    return _jeffreys(_pair(mu_p, kappa_p, mu_q, kappa_q))


def vmf_geometric_js(
    mu_p: ArrayLike,
    kappa_p: ArrayLike,
    mu_q: ArrayLike,
    kappa_q: ArrayLike,
    *,
    alpha: ArrayLike = 0.5,
) -> Array:
    r"""Geometric Jensen-Shannon divergence between two von Mises-Fisher laws.

    .. math:: (1 - \alpha)\,\mathrm{KL}(p\|g) + \alpha\,\mathrm{KL}(q\|g), \qquad
              g \propto p^{1-\alpha} q^\alpha

    The geometric mean g is a von Mises-Fisher law too, which makes this closed form.
    The ordinary Jensen-Shannon divergence, against the mixture, has none: estimate it
    by `jaxdiv.divergence.mc_estimate` from samples.

    Args:
      mu_p: mean direction of p; unit, `[..., d]`.
      kappa_p: concentration of p, `[...]`, at least 0 and finite.
      mu_q: mean direction of q, `[..., d]`.
      kappa_q: concentration of q, `[...]`.
      alpha: weight of q, in (0, 1).

    Returns:
      Array `[...]` in nats, at least 0; NaN for a negative concentration and for a
      traced weight outside of (0, 1).

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, or a concrete weight is outside of (0, 1).

    Differentiable in all five, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> mu_p, mu_q = jnp.array([1.0, 0.0, 0.0]), jnp.array([0.6, 0.8, 0.0])
      >>> print(f"{distributions.vmf_geometric_js(mu_p, 10.0, mu_q, 20.0):.4f}")
      1.5155

    References:
      Nielsen, 2019, arXiv:1904.04017, section 3; Deasy et al., 2020, arXiv:2006.10599.
    """
    _check.in_range(0.0, 1.0, alpha=alpha)
    pair = _pair(mu_p, kappa_p, mu_q, kappa_q)
    alpha = jnp.asarray(alpha, pair.p.dtype)
    alpha = jnp.where((alpha > 0) & (alpha < 1), alpha, jnp.nan)
    overlap = alpha * _renyi(pair, 1 - alpha)  # -log of the integral of p^(1-a) q^a
    return alpha * (1 - alpha) * _jeffreys(pair) - overlap


def _pair(
    mu_p: ArrayLike, kappa_p: ArrayLike, mu_q: ArrayLike, kappa_q: ArrayLike
) -> _Pair:
    mu_p, kappa_p, mu_q, kappa_q = _check.floating(
        mu_p=mu_p, kappa_p=kappa_p, mu_q=mu_q, kappa_q=kappa_q
    )
    dim = on_sphere(mu_p=mu_p, mu_q=mu_q)
    _check.broadcastable(
        mu_p=mu_p[..., 0], kappa_p=kappa_p, mu_q=mu_q[..., 0], kappa_q=kappa_q
    )
    apart = jnp.sum((mu_p - mu_q) ** 2, -1) / 2
    p, q, apart = jnp.broadcast_arrays(proper(kappa_p), proper(kappa_q), apart)
    return _Pair(p, q, apart, dim)


def _squared_length(pair: _Pair, s: Array) -> tuple[Array, Array]:
    """|(1 - s) eta_p + s eta_q|^2, and what it lacks of ((1 - s) p + s q)^2."""
    straight = (1 - s) * pair.p + s * pair.q
    lacking = 2 * s * (1 - s) * pair.p * pair.q * pair.apart
    return jnp.maximum(straight**2 - lacking, 0), lacking


def _curvature(pair: _Pair, s: Array) -> Array:
    """Second derivative of H along the segment, at (1 - s) eta_p + s eta_q."""
    p, q, apart, dim = pair
    squared, _ = _squared_length(pair, s)
    moved = (q - p) ** 2 + 2 * p * q * apart  # squared length of eta_q - eta_p
    along = (q - p) * ((1 - s) * p + s * q) - (1 - 2 * s) * p * q * apart
    live = squared > 0
    k = jnp.sqrt(jnp.where(live, squared, 1))
    across = tangent_variance(k, dim)
    share = jnp.where(live, along / k, 0) ** 2
    curved = resultant_slope(k, dim) * share + across * (moved - share)
    return jnp.where(live, curved, moved / dim)


def _between(pair: _Pair, length: ArrayLike) -> Array:
    """Integral of (1 - u) times the curvature at s = length u, over u in [0, 1]."""
    u = jnp.asarray((_NODES + 1) / 2, pair.p.dtype)
    weights = jnp.asarray(_WEIGHTS / 2, pair.p.dtype) * (1 - u)
    pair = _Pair(pair.p[..., None], pair.q[..., None], pair.apart[..., None], pair.dim)
    return _curvature(pair, jnp.asarray(length)[..., None] * u) @ weights


def _near(pair: _Pair, reach: ArrayLike) -> Array:
    """Whether the curvature is nearly constant for `reach` segments from p."""
    length = jnp.abs(pair.q - pair.p) + jnp.sqrt(pair.p * pair.q * pair.apart)
    return jnp.asarray(reach) * length < _NEAR * (pair.dim + pair.p)


def _masked(pair: _Pair, keep: Array) -> _Pair:
    """The pair, or a harmless one where another branch is taken."""
    p, q, apart = (
        jnp.where(keep, z, one) for z, one in zip(pair[:3], (1, 2, 1), strict=True)
    )
    return _Pair(p, q, apart, pair.dim)


def _kl(pair: _Pair) -> Array:
    near = _near(pair, 1)
    close = _between(_masked(pair, near), 1)
    far = _masked(pair, ~near)
    ends = jnp.stack([far.p, far.q])
    small, large = log_partition(ends, far.dim), deficit(ends, far.dim)
    return jnp.where(near, close, _kl_formula(far, small, large))


def _kl_formula(pair: _Pair, h: Array, lost: Array) -> Array:
    """KL(p||q) from h(p), h(q) and the deficits of both."""
    p, q, apart, dim = pair
    A = resultant(p, dim)
    small = h[1] - h[0] - A * (q - p)
    large = lost[0] - lost[1] + one_less_resultant(p, dim) * (q - p)
    return jnp.where(p < dim, small, large) + A * q * apart


def _jeffreys(pair: _Pair) -> Array:
    p, q, apart, dim = pair
    # Between near concentrations the resultant rises by the integral of its slope.
    least = jnp.minimum(p, q)
    near = jnp.abs(q - p) < _NEAR * (dim + least)
    u = jnp.asarray((_NODES + 1) / 2, p.dtype)
    inner = jnp.where(near, q - p, 0)[..., None] * u + p[..., None]
    slope = resultant_slope(inner, dim) @ jnp.asarray(_WEIGHTS / 2, p.dtype)
    ends = jnp.stack([p, q])
    A, less = resultant(ends, dim), one_less_resultant(ends, dim)
    risen = jnp.where(least < dim, A[1] - A[0], less[0] - less[1])
    risen = jnp.where(near, slope * (q - p), risen)
    return (q - p) * risen + (q * A[0] + p * A[1]) * apart


def _renyi(pair: _Pair, alpha: ArrayLike) -> Array:
    alpha = jnp.asarray(alpha, pair.p.dtype)
    shape = jnp.broadcast_shapes(alpha.shape, pair.p.shape)
    alpha, p, q, apart = (jnp.broadcast_to(z, shape) for z in (alpha, *pair[:3]))
    pair = _Pair(p, q, apart, pair.dim)
    # Near order 1, and between near laws, the gap of H between p and the mixture.
    near_q, near = _near(pair, 1), _near(pair, jnp.abs(1 - alpha))
    length = jnp.where(near, 1 - alpha, 0)
    lengths = jnp.stack([jnp.where(near_q, 1, 0), length])
    to_q, to_mixture = _between(_masked(pair, near_q | near), lengths)
    # The formulas share what they need of p and q: less to compile.
    far = _masked(pair, ~(near & near_q))
    order = jnp.where(near, 0.5, alpha)
    squared, lacking = _squared_length(far, 1 - order)
    live = squared > 0
    mixed = jnp.where(live, jnp.sqrt(jnp.where(live, squared, 1)), 0)
    h = log_partition(jnp.stack([far.p, far.q]), pair.dim)
    lost = deficit(jnp.stack([far.p, far.q, mixed]), pair.dim)
    small = special.log_hyp0f1(pair.dim / 2, squared / 4)
    small -= order * h[0] + (1 - order) * h[1]
    straight = order * far.p + (1 - order) * far.q
    ahead = straight > 0
    less = -lacking / jnp.where(ahead, mixed + straight, 1)
    large = jnp.where(ahead, less, mixed - straight) - lost[2]
    large += order * lost[0] + (1 - order) * lost[1]
    by_formula = jnp.where(far.p + far.q < 2 * pair.dim, small, large) / (order - 1)
    kl = jnp.where(near_q, to_q, _kl_formula(far, h, lost))
    return jnp.where(near, kl - length * to_mixture, by_formula)
