"""The exponential families that the library knows, one record each."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax.linalg import cholesky, triangular_solve
from jax.scipy.special import gammaln

from jaxdiv import _check
from jaxdiv._numerics import exp_remainder, exp_remainder_ratio, log1p_ratio
from jaxdiv.divergence._bregman import log_det_gap, log_ratio
from jaxdiv.divergence._segment import Line, gap_along, line, renyi_gap
from jaxdiv.special import log_hyp0f1
from jaxdiv.typing import Array, ArrayLike, PyTree


class ExponentialFamily(NamedTuple):
    r"""An exponential family, as its log-partition and what is known beside it.

    The density is :math:`\exp(\langle\theta, T(x)\rangle - A(\theta))` against a base
    measure. Leading axes of the parameters broadcast.

    Attributes:
      name: key in the registry.
      log_partition: A, from natural parameters to an array ``[...]``; smooth inside the
        domain. Where it is infinite outside, with finite derivatives, so are those of
        what is built on it.
      natural: ``natural(*ordinary)`` gives theta from the ordinary parameters.
      in_domain: in_domain(theta) -> bool ``[...]``, whether A is finite; True for NaN.
      kl: kl(theta_1, theta_2), a closed form; None takes it from A.
      renyi: renyi(theta_1, theta_2, a), a closed form, `inf` where the integral
        diverges; None takes it from A.
    """

    name: str
    log_partition: Callable[[PyTree], Array]
    natural: Callable[..., PyTree]
    in_domain: Callable[[PyTree], Array]
    kl: Callable[[PyTree, PyTree], Array] | None = None
    renyi: Callable[[PyTree, PyTree, Array], Array] | None = None


def _between(x: Array, low: float, high: float) -> Array:
    """Whether x is in (low, high); a NaN is let through, to come out as NaN."""
    return ~((x <= low) | (x >= high))


def _ordinary(function: Callable) -> Callable[..., PyTree]:
    """`function` of floating arrays, as the map from ordinary parameters."""

    def natural(*parameters: ArrayLike) -> PyTree:
        names = (f"parameter {i}" for i in range(len(parameters)))
        return function(*_check.floating(**dict(zip(names, parameters, strict=True))))

    return natural


def _one(
    name: str,
    formula: Callable[[Array], Array],
    natural: Callable,
    low: float,
    high: float,
    *,
    vector: bool = False,
    kl: Callable | None = None,
    renyi: Callable | None = None,
) -> ExponentialFamily:
    """A family of one number, or one vector, with every entry in (low, high)."""
    middle = min(max(0.0, low + 1), high - 1)  # stands in for what is outside

    def in_domain(theta: Array) -> Array:
        (theta,) = _check.floating(theta=theta)
        if vector and not theta.ndim:
            raise ValueError("theta is a scalar; expected a last axis.")
        inside = _between(theta, low, high)
        return inside.all(-1) if vector else inside

    def log_partition(theta: Array) -> Array:
        (theta,) = _check.floating(theta=theta)
        inside = in_domain(theta)
        mask = inside[..., None] if vector else inside
        return jnp.where(inside, formula(jnp.where(mask, theta, middle)), jnp.inf)

    return ExponentialFamily(
        name, log_partition, _ordinary(natural), in_domain, kl, renyi
    )


def _pair(theta: PyTree) -> tuple[Array, Array]:
    """The two parameters, from a tuple or from an array with a last axis of 2."""
    if not isinstance(theta, (tuple, list)):
        (theta,) = _check.floating(theta=theta)
        if theta.shape[-1:] != (2,):
            raise ValueError(
                f"theta has shape {theta.shape}; expected a tuple of two arrays or a "
                "last axis of 2."
            )
        theta = theta[..., 0], theta[..., 1]
    if len(theta) != 2:
        raise ValueError(f"theta has {len(theta)} parts; expected two.")
    first, second = _check.floating(first=theta[0], second=theta[1])
    _check.broadcastable(first=first, second=second)
    return first, second


def _two(
    name: str,
    formula: Callable[[Array, Array], Array],
    natural: Callable,
    first: tuple[float, float],
    second: tuple[float, float],
    *,
    kl: Callable | None = None,
    renyi: Callable | None = None,
) -> ExponentialFamily:
    """A family of two numbers, each in its interval."""

    def in_domain(theta: PyTree) -> Array:
        x, y = _pair(theta)
        return _between(x, *first) & _between(y, *second)

    def log_partition(theta: PyTree) -> Array:
        x, y = _pair(theta)
        inside = _between(x, *first) & _between(y, *second)
        x0, y0 = (min(max(0.0, a + 1), b - 1) for a, b in (first, second))
        value = formula(jnp.where(inside, x, x0), jnp.where(inside, y, y0))
        return jnp.where(inside, value, jnp.inf)

    return ExponentialFamily(
        name, log_partition, _ordinary(natural), in_domain, kl, renyi
    )


def _centred(t1: Array, t2: Array) -> Line:
    """The log-partition between logits, up to a linear function of s.

    No divergence sees that function, and a common offset of the logits then costs no
    digits.
    """
    c1, c2 = (jax.lax.stop_gradient(jnp.max(t, -1, keepdims=True)) for t in (t1, t2))
    return line(
        lambda both: jax.nn.logsumexp(both[0] - both[1], -1), (t1, c1), (t2, c2)
    )


def _categorical_kl(t1: Array, t2: Array) -> Array:
    return gap_along(_centred(t1, t2), t1.dtype)


def _categorical_renyi(t1: Array, t2: Array, a: Array) -> Array:
    return renyi_gap(_centred(t1, t2), 1 - a, jnp.ones((), bool))


def _log_beta(alpha: Array) -> Array:
    return jnp.sum(gammaln(alpha), -1) - gammaln(jnp.sum(alpha, -1))


# The Gaussian, from its precision P = L L^T = -2 theta[1] and P mean = theta[0].


def _precision(theta: PyTree) -> tuple[Array, Array]:
    if not isinstance(theta, (tuple, list)) or len(theta) != 2:
        raise ValueError("theta is no pair; expected (precision @ mean, -precision/2).")
    shift, half = _check.floating(shift=theta[0], half=theta[1])
    d = shift.shape[-1:]
    if half.shape[-2:] != d + d:
        raise ValueError(
            f"theta has shapes {shift.shape} and {half.shape}; expected [..., d] and "
            "[..., d, d]."
        )
    batch = _check.broadcastable(shift=shift[..., None], half=half)[:-2]
    P = -half - jnp.swapaxes(half, -1, -2)
    return jnp.broadcast_to(shift, batch + d), jnp.broadcast_to(P, batch + d + d)


def _half_solve(L: Array, x: Array, *, transpose: bool = False) -> Array:
    """L^-1 x, or L^-T x, for vectors x."""
    solved = triangular_solve(
        L, x[..., None], left_side=True, lower=True, transpose_a=transpose
    )
    return solved[..., 0]


def _positive_definite(P: Array) -> Array:
    """Whether P has a Cholesky factor; a NaN is let through."""
    # Without derivative: that of the test would be NaN where it fails.
    P = jax.lax.stop_gradient(P)
    factor = jnp.isfinite(cholesky(P)).all((-2, -1))
    return factor | jnp.isnan(P).any((-2, -1))


def _gaussian_in_domain(theta: PyTree) -> Array:
    shift, P = _precision(theta)
    return _positive_definite(P) & _between(shift, -np.inf, np.inf).all(-1)


def _gaussian_log_partition(theta: PyTree) -> Array:
    shift, P = _precision(theta)
    inside = _positive_definite(P)
    identity = jnp.eye(P.shape[-1], dtype=P.dtype)
    L = cholesky(jnp.where(inside[..., None, None], P, identity))
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(L, axis1=-2, axis2=-1)), -1)
    maha = jnp.sum(_half_solve(L, shift) ** 2, -1)
    value = (maha - log_det + P.shape[-1] * np.log(2 * np.pi)) / 2
    return jnp.where(inside, value, jnp.inf)


def _gaussian_natural(mean: Array, covariance: Array) -> PyTree:
    if covariance.shape[-2:] != mean.shape[-1:] * 2:
        raise ValueError(
            f"mean has shape {mean.shape} and covariance {covariance.shape}; expected "
            "[..., d] and [..., d, d]."
        )
    L = cholesky(covariance)
    identity = jnp.broadcast_to(jnp.eye(mean.shape[-1], dtype=L.dtype), L.shape)
    root = triangular_solve(L, identity, left_side=True, lower=True)
    P = jnp.swapaxes(root, -1, -2) @ root
    return (P @ mean[..., None])[..., 0], -P / 2


def _both_precisions(t1: PyTree, t2: PyTree) -> tuple[Array, Array, Array, Array]:
    shift1, P1 = _precision(t1)
    shift2, P2 = _precision(t2)
    batch = _check.broadcastable(t1=P1, t2=P2)
    shift1, shift2 = (jnp.broadcast_to(x, batch[:-1]) for x in (shift1, shift2))
    return shift1, jnp.broadcast_to(P1, batch), shift2, jnp.broadcast_to(P2, batch)


def _residual(shift1: Array, P1: Array, shift2: Array, P2: Array) -> Array:
    """P2 (mean1 - mean2), 0 between equal parameters."""
    L = cholesky(P1)
    mean = _half_solve(L, _half_solve(L, shift1), transpose=True)
    return ((P2 - P1) @ mean[..., None])[..., 0] + (shift1 - shift2)


def _gaussian_kl(t1: PyTree, t2: PyTree) -> Array:
    shift1, P1, shift2, P2 = _both_precisions(t1, t2)
    gap = log_det_gap(P1, P2, jnp.ones(P1.shape[:-2], P1.dtype))
    moved = _half_solve(cholesky(P2), _residual(shift1, P1, shift2, P2))
    return (gap + jnp.sum(moved**2, -1)) / 2


def _gaussian_renyi(t1: PyTree, t2: PyTree, a: Array) -> Array:
    # S* = a S2 + (1 - a) S1 = S1 M S2 with M = a P1 + (1 - a) P2, so that
    # m^T S*^-1 m = (P2 m)^T M^-1 (P1 m) with m the difference of the means.
    shift1, P1, shift2, P2 = _both_precisions(t1, t2)
    mixed = _positive_definite(a * P1 + (1 - a) * P2)
    e = jnp.where(mixed, 1 - a, 0)
    weight = e[..., None, None]
    L = cholesky((1 - weight) * P1 + weight * P2)
    right = _half_solve(L, _residual(shift1, P1, shift2, P2))
    left = _half_solve(L, -_residual(shift2, P2, shift1, P1))
    gap = log_det_gap(P1, P2, jnp.ones_like(e)) - log_det_gap(P1, P2, e)
    value = (gap + (1 - e) * jnp.sum(left * right, -1)) / 2
    return jnp.where(mixed, value, jnp.inf)


# The Laplace laws, up to scale and shift by u = |loc1 - loc2| / scale1 and
# r = scale1 / scale2.


def _laplace_shape(t1: PyTree, t2: PyTree) -> tuple[Array, Array, Array, Array]:
    """u, r, 1 - r with all its digits, and log r."""
    loc1, scale1 = _pair(t1)
    loc2, scale2 = _pair(t2)
    gap = loc1 - loc2
    # Not `abs`: the divergences are smooth at 0, where one side's derivatives serve.
    u = jnp.where(gap < 0, -gap, gap) / scale1
    one_less = (scale2 - scale1) / scale2
    return u, scale1 / scale2, one_less, log_ratio(scale1, scale2, jnp.log(scale2))


def _laplace_kl(t1: PyTree, t2: PyTree) -> Array:
    u, r, _, log_r = _laplace_shape(t1, t2)
    return r * exp_remainder(-u) + exp_remainder(log_r)


def _laplace_renyi(t1: PyTree, t2: PyTree, a: Array) -> Array:
    u, r, one_less, log_r = _laplace_shape(t1, t2)
    e = 1 - a
    defined = a + e * r > 0
    e = jnp.where(defined, e, 0)
    near = (1 + jnp.abs(e)) * (u + jnp.abs(log_r)) < 0.2
    u0, gap, log_r0 = (jnp.where(near, x, 0) for x in (u, one_less, log_r))
    close = _laplace_renyi_near(u0, gap, log_r0, e)
    far = -log_r - _laplace_mean_log(u, r, e)
    # What rounding leaves below 0, and at a = 0; the derivatives stay.
    far = far - jax.lax.stop_gradient(jnp.where(a == 0, far, jnp.minimum(far, 0)))
    return jnp.where(defined, jnp.where(near, close, far), jnp.inf)


def _laplace_mean_log(u: Array, r: Array, e: Array) -> Array:
    """(1/e) log of the integral of exp(-a |x| - c |x - u|) / 2, with c = e r."""
    a, c = 1 - e, e * r
    # The integral is 1 + e t, from its form without an (a - c) in a denominator where
    # the two rates may meet.
    small = (jnp.abs(c) < a / 2) & (jnp.abs(c) * u < 1)
    a1, c1, u1 = jnp.where(small, a, 1), jnp.where(small, c, 0), jnp.where(small, u, 0)
    slow, fast = 1 - r * u1 * _expm1_ratio(-c1 * u1), jnp.exp(-a1 * u1)
    t = (a1 * slow - r * (fast - c1)) / (a1 - c1) / (a1 + c1)
    near = jnp.where(small, t, 0)
    near = near * log1p_ratio(jnp.where(small, e, 0) * near)

    a, c, e = jnp.where(small, 1, a), jnp.where(small, 1, c), jnp.where(small, 1, e)
    slower = jnp.where(c < a, c, a)
    x = jnp.where(c < a, c - a, a - c) * u  # at most 0
    integral = (1 + jnp.exp(x)) / (a + c) + u * _expm1_ratio(x)
    log_integral = jnp.log(integral / 2) - slower * u
    return jnp.where(small, near, log_integral / e)


def _expm1_ratio(x: Array) -> Array:
    """(e^x - 1) / x."""
    near = jnp.abs(x) < 1
    close, far = jnp.where(near, x, 0), jnp.where(near, 1, x)
    return jnp.where(near, 1 + close * exp_remainder_ratio(close), jnp.expm1(far) / far)


_LAGUERRE = np.polynomial.laguerre.laggauss(10)
_LEGENDRE = np.polynomial.legendre.leggauss(10)


def _laplace_renyi_near(u: Array, one_less: Array, log_r: Array, e: Array) -> Array:
    # The integral of p^a q^e misses 1 by that of a p + e q - p (q/p)^e, of second order
    # in l = log q/p and of one sign. l is linear on each of three pieces of the line.
    y, tail_weights = (jnp.asarray(x, u.dtype) for x in _LAGUERRE)
    x, weights = (jnp.asarray(x, u.dtype) for x in _LEGENDRE)
    u, one_less, log_r, e = (x[..., None] for x in (u, one_less, log_r, e))
    r = 1 - one_less

    def missing(ell: Array) -> Array:
        curved = exp_remainder_ratio(ell) - e * exp_remainder_ratio(e * ell)
        return ell * ell * curved

    def tail(start: Array) -> Array:
        return missing(start + one_less * y)

    v = u * (1 + x) / 2
    middle = u / 2 * jnp.exp(-v) * missing(log_r - r * u + (1 + r) * v)
    tails = tail(log_r - r * u) + jnp.exp(-u) * tail(log_r + u)
    total = (tails @ tail_weights + middle @ weights) / 2
    return total * log1p_ratio(-e[..., 0] * total)


def _vmf_log_partition(theta: Array) -> Array:
    """Against the uniform law on the sphere."""
    return log_hyp0f1(theta.shape[-1] / 2, jnp.sum(theta**2, -1) / 4)


def _vmf_natural(mean_direction: Array, concentration: Array) -> Array:
    return concentration[..., None] * mean_direction


BUILT_IN = (
    _one(
        "bernoulli",
        jax.nn.softplus,
        lambda p: jnp.log(p) - jnp.log1p(-p),
        -np.inf,
        np.inf,
    ),
    _two(
        "beta",
        lambda x, y: _log_beta(jnp.stack([x + 1, y + 1], -1)),
        lambda a, b: (a - 1, b - 1),
        (-1, np.inf),
        (-1, np.inf),
    ),
    _one(
        "categorical",
        partial(jax.nn.logsumexp, axis=-1),
        jnp.log,
        -np.inf,
        np.inf,
        vector=True,
        kl=_categorical_kl,
        renyi=_categorical_renyi,
    ),
    _one(
        "dirichlet",
        lambda theta: _log_beta(theta + 1),
        lambda alpha: alpha - 1,
        -1,
        np.inf,
        vector=True,
    ),
    _one(
        "exponential",
        lambda theta: -jnp.log(-theta),
        lambda rate: -rate,
        -np.inf,
        0,
    ),
    _two(
        "gamma",
        lambda x, y: gammaln(x + 1) - (x + 1) * jnp.log(-y),
        lambda shape, rate: (shape - 1, -rate),
        (-1, np.inf),
        (-np.inf, 0),
    ),
    ExponentialFamily(
        "gaussian",
        _gaussian_log_partition,
        _ordinary(_gaussian_natural),
        _gaussian_in_domain,
        _gaussian_kl,
        _gaussian_renyi,
    ),
    _one(
        "geometric",
        lambda theta: -jnp.log(-jnp.expm1(theta)),
        lambda p: jnp.log1p(-p),
        -np.inf,
        0,
    ),
    _two(
        "inverse_gamma",
        lambda x, y: gammaln(-x - 1) + (x + 1) * jnp.log(-y),
        lambda shape, scale: (-shape - 1, -scale),
        (-np.inf, -1),
        (-np.inf, 0),
    ),
    _two(
        "laplace",
        lambda loc, scale: jnp.log(2 * scale),
        lambda loc, scale: (loc, scale),
        (-np.inf, np.inf),
        (0, np.inf),
        kl=_laplace_kl,
        renyi=_laplace_renyi,
    ),
    _one("poisson", jnp.exp, jnp.log, -np.inf, np.inf),
    _one("vmf", _vmf_log_partition, _vmf_natural, -np.inf, np.inf, vector=True),
)
