r"""What one atom adds to a divergence, in a form that loses no digits.

A term is :math:`q\,\bar f(p/q)` with the normalised generator
:math:`\bar f(t) = f(t) - f'(1)(t - 1) \ge 0`: between normalised laws the linear part
sums to nothing, and without it no term is negative and near laws cancel nothing. Each
function takes log p, log q and the log-ratio, which a caller may know better than
their difference, and works from the side of the larger law, where no exponential
overflows unless the term does. The log-ratio is finite: 0 where a law is zero.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxdiv._numerics import exp_remainder_near, exp_remainder_ratio
from jaxdiv.typing import Array, ArrayLike

Terms = Callable[[Array, Array, Array], Array]


def log_mixture(weight: Array | float, ell: Array) -> Array:
    r"""log(w e^l + 1 - w), accurate near l = 0 and far from it.

    With m = w p + (1 - w) q it is log m/q as a function of l = log p/q.
    """
    positive = ell > 0
    share = jnp.where(positive, 1 - weight, weight)
    log_ratio = jnp.log1p(share * jnp.expm1(jnp.where(positive, -ell, ell)))
    return log_ratio + jnp.where(positive, ell, 0)


def _from_larger(log_p: Array, log_q: Array, ell: Array) -> tuple[Array, Array]:
    """Log of the larger law, and the log of the smaller over the larger.

    The branch of l <= 0 is smooth through l = 0, so derivatives of every order are
    right where the laws meet, which `abs` and `maximum` would not give.
    """
    above = ell > 0
    return jnp.where(above, log_p, log_q), jnp.where(above, -ell, ell)


def _kl(p: Array, q: Array, ell: Array) -> Array:
    """Terms p l - p + q with l = log p/q."""
    near = jnp.abs(ell) < 1
    close = jnp.where(near, ell, 0)
    return jnp.where(near, p * exp_remainder_near(-close), p * (ell - 1) + q)


def kl(log_p: Array, log_q: Array, ell: Array) -> Array:
    """Terms p log(p/q) - p + q."""
    return _kl(jnp.exp(log_p), jnp.exp(log_q), ell)


def jeffreys(log_p: Array, log_q: Array, ell: Array) -> Array:
    """(p - q) log(p/q)."""
    top, x = _from_larger(log_p, log_q, ell)
    return jnp.exp(top) * jnp.expm1(x) * x


def squared_hellinger(log_p: Array, log_q: Array, ell: Array) -> Array:
    """(sqrt p - sqrt q)^2 / 2."""
    top, x = _from_larger(log_p, log_q, ell)
    return jnp.exp(top) * jnp.expm1(x / 2) ** 2 / 2


def total_variation(log_p: Array, log_q: Array, ell: Array) -> Array:
    """|p - q| / 2, with the subgradient 0 where p = q."""
    top, x = _from_larger(log_p, log_q, ell)
    return jnp.where(ell == 0, 0, -jnp.exp(top) * jnp.expm1(x) / 2)


def vincze_le_cam(log_p: Array, log_q: Array, ell: Array) -> Array:
    """(p - q)^2 / (p + q)."""
    top, x = _from_larger(log_p, log_q, ell)
    return jnp.exp(top) * jnp.expm1(x) * jnp.tanh(x / 2)


def le_cam(log_p: Array, log_q: Array, ell: Array) -> Array:
    """(p - q)^2 / (2 (p + q))."""
    return vincze_le_cam(log_p, log_q, ell) / 2


def pearson_chi2(log_p: Array, log_q: Array, ell: Array) -> Array:
    """(p - q)^2 / q."""
    top, x = _from_larger(log_p, log_q, ell)
    # p^2/q in one exponential: it may be of order 1 where p and q underflow.
    return jnp.exp(top + jnp.where(ell > 0, ell, 0)) * jnp.expm1(x) ** 2


def skew_kl(w: Array | float) -> Terms:
    """Terms p log(p/m) - p + m, m = w p + (1 - w) q."""

    def terms(log_p: Array, log_q: Array, ell: Array) -> Array:
        p, q = jnp.exp(log_p), jnp.exp(log_q)
        return _kl(p, w * p + (1 - w) * q, -log_mixture(1 - w, -ell))

    return terms


def generalized_js(w: Array | float) -> Terms:
    """Terms w p log(p/m) + (1 - w) q log(q/m), m = w p + (1 - w) q."""

    def terms(log_p: Array, log_q: Array, ell: Array) -> Array:
        p, q = jnp.exp(log_p), jnp.exp(log_q)
        m, m_over_q = w * p + (1 - w) * q, log_mixture(w, ell)
        return w * _kl(p, m, ell - m_over_q) + (1 - w) * _kl(q, m, -m_over_q)

    return terms


def softened_rkl(log_p: Array, log_q: Array, ell: Array) -> Array:
    """(p + q) log((p + q) / 2p) + p - q, which is 2 KL(m || p) with m = (p + q)/2."""
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    return 2 * _kl((p + q) / 2, p, log_mixture(0.5, -ell))


def alpha(a: Array | float) -> Terms:
    """(p^a q^(1-a) - a p - (1 - a) q) / (a (a - 1)), smooth in a through 0 and 1.

    The fraction is the second divided difference of a -> t^a at 0, 1, a. Exchanging p
    and q maps a to 1 - a, so that only a <= 1/2 has to be written, where a - 1 is no
    small divisor.
    """

    def terms(log_p: Array, log_q: Array, ell: Array) -> Array:
        swap = jnp.asarray(a, ell.dtype) > 0.5
        b = jnp.where(swap, 1 - a, a).astype(ell.dtype)
        x = jnp.where(swap, -ell, ell)
        log_p, log_q = jnp.where(swap, log_q, log_p), jnp.where(swap, log_p, log_q)
        p, q = jnp.exp(log_p), jnp.exp(log_q)
        near = jnp.abs(x) < 1
        close = jnp.where(near, x, 0)
        inner = b * exp_remainder_ratio(b * close) - exp_remainder_ratio(close)
        return jnp.where(
            near,
            q * close * close * inner / (b - 1),
            (_power_gap(log_q, q, b, x) - (p - q)) / (b - 1),
        )

    return terms


def _power_gap(log_q: Array, q: Array, b: Array, x: Array) -> Array:
    """The function q (e^(b x) - 1) / b, also at b = 0 and where q underflows."""
    small = jnp.abs(b * x) < 1
    close = jnp.where(small, b * x, 0)
    slope = q * x * (1 + close * exp_remainder_ratio(close))
    divisor = jnp.where(small, 1, b)
    return jnp.where(small, slope, (jnp.exp(log_q + b * x) - q) / divisor)


def exchanged(terms: Terms) -> Terms:
    """The same divergence with p and q exchanged."""
    return lambda log_p, log_q, ell: terms(log_q, log_p, -ell)


def at_zeros(
    log_p: Array, log_q: Array, terms: Array, low: ArrayLike, high: ArrayLike
) -> Array:
    """Puts in the limits: q low where p = 0, p high where q = 0, 0 where both are."""
    p_zero, q_zero = log_p == -jnp.inf, log_q == -jnp.inf
    terms = jnp.where(p_zero, _times(log_q, low), terms)
    return jnp.where(q_zero, jnp.where(p_zero, 0, _times(log_p, high)), terms)


def _times(log_law: Array, limit: ArrayLike) -> Array:
    """A law times a limit of f, infinite also where the law underflows."""
    limit = jnp.asarray(limit, log_law.dtype)
    finite = jnp.exp(log_law) * jnp.where(jnp.isinf(limit), 0, limit)
    return jnp.where(jnp.isinf(limit), limit, finite)


def log_ratio_inside(log_p: Array, log_q: Array) -> tuple[Array, Array]:
    """The log-ratio with 0 in place of it where a law is zero, and where that is.

    Keeps the branch that is not taken finite, and with it the gradient.
    """
    zero = (log_p == -jnp.inf) | (log_q == -jnp.inf)
    return jnp.where(zero, 0, log_p - log_q), zero
