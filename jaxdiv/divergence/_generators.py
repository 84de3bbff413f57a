r"""f-divergence generators, one record each, as functions of the log-ratio.

One convention throughout: :math:`D_f(p\|q) = E_q[f(p/q)]` with f convex and f(1) = 0.
Every field of a record takes :math:`\ell = \log p/q`, so that a ratio of 1e-300 costs
nothing, and is written so that its limits at :math:`\ell = \pm\infty` come out exactly.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.divergence import _terms
from jaxdiv.divergence._terms import Terms, log_mixture
from jaxdiv.typing import Array, ArrayLike

LOG2 = math.log(2.0)


class FDivergence(NamedTuple):
    r"""A convex generator f and what the library derives from it.

    The callables take the log-ratio :math:`\ell = \log p/q`, an array of any shape, and
    return an array of that shape; `conjugate` takes the dual variable u.

    Attributes:
      name: canonical key, as `get` takes it.
      f: generator f(t) at t = exp(l).
      f_prime: first derivative f'(t).
      f_second: second derivative f''(t).
      weight: :math:`h(t) = t^2 f''(t)`, the weight of the score difference in the
        gradient of the divergence along a reparametrised q.
      log_weight: log h, exact where h overflows.
      conjugate: convex conjugate :math:`f^*(u) = \sup_t ut - f(t)`; None where it has
        no closed form.
      conjugate_domain: (f'(0), f'(inf)), the interval of u that f' reaches; below it
        `conjugate` is the constant -f(0), above it infinite.
      f_at_zero: limit of f(t) at t = 0.
      f_prime_at_inf: limit of f(t)/t at infinity.
      curvature: f''(1); :math:`D_f \approx f''(1)/2\,\chi^2` between near laws.
      symmetric: whether D_f(p||q) = D_f(q||p).
      bound: largest value that D_f takes, f(0) + f'(inf).
      terms: terms(log_p, log_q, log_ratio), what an atom adds to the divergence:
        q f(p/q) without its part linear in p - q. None, in a record of your own, makes
        `f_divergence` take it from f, with the rounding that this has.
    """

    name: str
    f: Callable[[ArrayLike], Array]
    f_prime: Callable[[ArrayLike], Array]
    f_second: Callable[[ArrayLike], Array]
    weight: Callable[[ArrayLike], Array]
    log_weight: Callable[[ArrayLike], Array]
    conjugate: Callable[[ArrayLike], Array] | None
    conjugate_domain: tuple[float, float]
    f_at_zero: float
    f_prime_at_inf: float
    curvature: float
    symmetric: bool
    bound: float
    terms: Terms | None = None


class _Generator(NamedTuple):
    """The formulas of one divergence, at finite log-ratios only."""

    terms: Terms
    f_prime: Callable[[Array], Array]
    log_second: Callable[[Array], Array]
    log_weight: Callable[[Array], Array]
    conjugate: Callable[[Array], Array] | None
    at_zero: float
    prime_at_zero: float
    prime_at_inf: float
    curvature: float
    symmetric: bool = False
    f: Callable[[Array], Array] | None = None  # where f'(1) is not 0
    infinite_at_end: bool = True  # whether f* is, at u = f'(inf)
    at_inf: float = math.inf


def _complete(name: str, g: _Generator) -> FDivergence:
    """The public record: dtype checks, limits at infinite arguments, the bound."""

    def checked(function: Callable[[Array], Array]) -> Callable[[ArrayLike], Array]:
        return lambda log_ratio: function(*_check.floating(log_ratio=log_ratio))

    def limited(
        function: Callable[[Array], Array], low: float, high: float
    ) -> Callable[[ArrayLike], Array]:
        def with_limits(ell: Array) -> Array:
            value = function(jnp.where(jnp.isinf(ell), 0, ell))
            value = jnp.where(ell == -jnp.inf, low, value)
            return jnp.where(ell == jnp.inf, high, value)

        return checked(with_limits)

    def normalised(ell: Array) -> Array:
        return g.terms(ell, jnp.zeros_like(ell), ell)

    return FDivergence(
        name=name,
        f=limited(g.f or normalised, g.at_zero, g.at_inf),
        f_prime=limited(g.f_prime, g.prime_at_zero, g.prime_at_inf),
        f_second=checked(lambda ell: jnp.exp(g.log_second(ell))),
        weight=checked(lambda ell: jnp.exp(g.log_weight(ell))),
        log_weight=checked(g.log_weight),
        conjugate=None if g.conjugate is None else _on_domain(g.conjugate, g),
        conjugate_domain=(g.prime_at_zero, g.prime_at_inf),
        f_at_zero=g.at_zero,
        f_prime_at_inf=g.prime_at_inf,
        curvature=g.curvature,
        symmetric=g.symmetric,
        bound=g.at_zero + g.prime_at_inf,
        terms=g.terms,
    )


def _on_domain(
    inside: Callable[[Array], Array], g: _Generator
) -> Callable[[ArrayLike], Array]:
    """The conjugate: -f(0) below the range of f', infinite above it."""
    low, high = g.prime_at_zero, g.prime_at_inf

    def conjugate(u: ArrayLike) -> Array:
        (u,) = _check.floating(u=u)
        # Rounding would make a large number of an infinite limit.
        under = u < high if g.infinite_at_end else u <= high
        reached = (u >= low) & under & jnp.isfinite(u)
        value = inside(jnp.where(reached, u, max(low, min(0.0, high - 1.0))))
        outside = jnp.where(u <= low, -g.at_zero, jnp.inf)
        return jnp.where(reached, value, jnp.where(jnp.isnan(u), u, outside))

    return conjugate


def _constant(ell: Array, value: float) -> Array:
    """`value` everywhere, but NaN where the log-ratio is NaN."""
    return jnp.where(jnp.isnan(ell), ell, value)


def _jeffreys_conjugate(u: Array) -> Array:
    # f'(t) = u is solved by w = 1/t with w + log w = 1 - u (a Lambert W). Newton on
    # y = log w falls monotonically from these starts. The last two steps carry the
    # derivatives: s differentiable Newton steps at a root are exact to order 2^s - 1.
    z = 1 - u
    y = jax.lax.stop_gradient(jnp.where(z > 1, jnp.log(jnp.maximum(z, 1)), z))

    def newton(y: Array, z: Array) -> Array:
        return y - (jnp.exp(y) + y - z) / (jnp.exp(y) + 1)

    for _ in range(8):
        y = newton(y, jax.lax.stop_gradient(z))
    for _ in range(2):
        y = newton(y, z)
    return u + jnp.exp(y) + jnp.exp(-y) - 2


def _alpha(a: float) -> _Generator:
    if a == 2:
        log_second = lambda ell: _constant(ell, 0.0)  # noqa: E731
    else:
        log_second = lambda ell: (a - 2) * ell  # noqa: E731
    return _Generator(
        terms=_terms.alpha(a),
        f_prime=lambda ell: jnp.expm1((a - 1) * ell) / (a - 1),
        log_second=log_second,
        log_weight=lambda ell: a * ell,
        conjugate=lambda u: jnp.expm1(a / (a - 1) * jnp.log1p((a - 1) * u)) / a,
        at_zero=1 / a if a > 0 else math.inf,
        prime_at_zero=1 / (1 - a) if a > 1 else -math.inf,
        prime_at_inf=1 / (1 - a) if a < 1 else math.inf,
        curvature=1.0,
        symmetric=a == 0.5,
        infinite_at_end=a > 0,
    )


def _generalized_js(w: float) -> _Generator:
    v = 1 - w
    return _Generator(
        terms=_terms.generalized_js(w),
        f_prime=lambda ell: -w * log_mixture(v, -ell),
        log_second=lambda ell: math.log(w * v) - ell - log_mixture(w, ell),
        log_weight=lambda ell: math.log(w * v) - log_mixture(v, -ell),
        conjugate=lambda u: -v * jnp.log1p(-w / v * jnp.expm1(u / w)),
        at_zero=-v * math.log(v),
        prime_at_zero=-math.inf,
        prime_at_inf=-w * math.log(w),
        curvature=w * v,
        symmetric=w == 0.5,
    )


def _skew_kl(w: float) -> _Generator:
    v = 1 - w
    return _Generator(
        terms=_terms.skew_kl(w),
        f=lambda ell: -jnp.exp(ell) * log_mixture(v, -ell),
        f_prime=lambda ell: -log_mixture(v, -ell) + v * jnp.exp(-log_mixture(w, ell)),
        log_second=lambda ell: 2 * math.log(v) - ell - 2 * log_mixture(w, ell),
        log_weight=lambda ell: (
            2 * math.log(v) - log_mixture(w, ell) - log_mixture(v, -ell)
        ),
        conjugate=None,
        at_zero=0.0,
        prime_at_zero=-math.inf,
        prime_at_inf=-math.log(w),
        curvature=v**2,
    )


def _skew_rkl(w: float) -> _Generator:
    v = 1 - w
    return _Generator(
        terms=_terms.exchanged(_terms.skew_kl(w)),
        f=lambda ell: -log_mixture(v, ell),
        f_prime=lambda ell: -v * jnp.exp(-log_mixture(v, ell)),
        log_second=lambda ell: 2 * math.log(v) - 2 * log_mixture(v, ell),
        log_weight=lambda ell: 2 * math.log(v) - 2 * log_mixture(w, -ell),
        conjugate=lambda u: -w / v * u - 1 - jnp.log(-u / v),
        at_zero=-math.log(w),
        prime_at_zero=-v / w,
        prime_at_inf=0.0,
        curvature=v**2,
        at_inf=-math.inf,
    )


def _le_cam(scale: float, terms: Terms) -> _Generator:
    log_scale = math.log(scale)
    return _Generator(
        terms=terms,
        # (t - 1)(t + 3) / (2 (t + 1)^2) with x = tanh(l/2) = (t - 1)/(t + 1)
        f_prime=lambda ell: scale * jnp.tanh(ell / 2) * (2 - jnp.tanh(ell / 2)) / 2,
        log_second=lambda ell: log_scale + 2 * LOG2 - 3 * jax.nn.softplus(ell),
        log_weight=lambda ell: (
            log_scale + 2 * LOG2 - jax.nn.softplus(ell) - 2 * jax.nn.softplus(-ell)
        ),
        conjugate=lambda u: scale * (2 - 2 * jnp.sqrt(1 - 2 * u / scale)) - u,
        at_zero=scale / 2,
        prime_at_zero=-1.5 * scale,
        prime_at_inf=scale / 2,
        curvature=scale / 2,
        symmetric=True,
        infinite_at_end=False,
    )


_TABLE = {
    "kl": _Generator(
        terms=_terms.kl,
        f=lambda ell: jnp.exp(ell) * ell,
        f_prime=lambda ell: ell + 1,
        log_second=lambda ell: -ell,
        log_weight=lambda ell: ell,
        conjugate=lambda u: jnp.exp(u - 1),
        at_zero=0.0,
        prime_at_zero=-math.inf,
        prime_at_inf=math.inf,
        curvature=1.0,
    ),
    "reverse_kl": _Generator(
        terms=_terms.exchanged(_terms.kl),
        f=lambda ell: -ell,
        f_prime=lambda ell: -jnp.exp(-ell),
        log_second=lambda ell: -2 * ell,
        log_weight=lambda ell: _constant(ell, 0.0),
        conjugate=lambda u: -1 - jnp.log(-u),
        at_zero=math.inf,
        prime_at_zero=-math.inf,
        prime_at_inf=0.0,
        curvature=1.0,
        at_inf=-math.inf,
    ),
    "jeffreys": _Generator(
        terms=_terms.jeffreys,
        f_prime=lambda ell: ell - jnp.expm1(-ell),
        log_second=lambda ell: jnp.logaddexp(-ell, -2 * ell),
        log_weight=jax.nn.softplus,
        conjugate=_jeffreys_conjugate,
        at_zero=math.inf,
        prime_at_zero=-math.inf,
        prime_at_inf=math.inf,
        curvature=2.0,
        symmetric=True,
    ),
    "js": _generalized_js(0.5),
    "softened_rkl": _Generator(
        terms=_terms.softened_rkl,
        f=lambda ell: (jnp.exp(ell) + 1) * log_mixture(0.5, -ell),
        f_prime=lambda ell: log_mixture(0.5, -ell) - jnp.exp(-ell),
        log_second=lambda ell: -2 * ell - jax.nn.softplus(ell),
        log_weight=lambda ell: -jax.nn.softplus(ell),
        conjugate=None,
        at_zero=math.inf,
        prime_at_zero=-math.inf,
        prime_at_inf=-LOG2,
        curvature=0.5,
        at_inf=-math.inf,
    ),
    "squared_hellinger": _Generator(
        terms=_terms.squared_hellinger,
        f_prime=lambda ell: -jnp.expm1(-ell / 2) / 2,
        log_second=lambda ell: -1.5 * ell - 2 * LOG2,
        log_weight=lambda ell: ell / 2 - 2 * LOG2,
        conjugate=lambda u: u / (1 - 2 * u),
        at_zero=0.5,
        prime_at_zero=-math.inf,
        prime_at_inf=0.5,
        curvature=0.25,
        symmetric=True,
    ),
    "tv": _Generator(
        terms=_terms.total_variation,
        f_prime=lambda ell: jnp.sign(ell) / 2,
        log_second=lambda ell: _constant(ell, -math.inf),
        log_weight=lambda ell: _constant(ell, -math.inf),
        conjugate=lambda u: u,
        at_zero=0.5,
        prime_at_zero=-0.5,
        prime_at_inf=0.5,
        curvature=math.inf,
        symmetric=True,
        infinite_at_end=False,
    ),
    "pearson_chi2": _Generator(
        terms=_terms.pearson_chi2,
        f_prime=lambda ell: 2 * jnp.expm1(ell),
        log_second=lambda ell: _constant(ell, LOG2),
        log_weight=lambda ell: 2 * ell + LOG2,
        conjugate=lambda u: u + u**2 / 4,
        at_zero=1.0,
        prime_at_zero=-2.0,
        prime_at_inf=math.inf,
        curvature=2.0,
    ),
    "neyman_chi2": _Generator(
        terms=_terms.exchanged(_terms.pearson_chi2),
        f_prime=lambda ell: -jnp.expm1(-2 * ell),
        log_second=lambda ell: LOG2 - 3 * ell,
        log_weight=lambda ell: LOG2 - ell,
        conjugate=lambda u: 2 - 2 * jnp.sqrt(1 - u),
        at_zero=math.inf,
        prime_at_zero=-math.inf,
        prime_at_inf=1.0,
        curvature=2.0,
        infinite_at_end=False,
    ),
    "le_cam": _le_cam(1.0, _terms.le_cam),
    "vincze_le_cam": _le_cam(2.0, _terms.vincze_le_cam),
}

_FAMILIES = {  # key: (its parameter, the generator at it)
    "alpha": ("a", _alpha),
    "gjs": ("w", _generalized_js),
    "skew_kl": ("w", _skew_kl),
    "skew_rkl": ("w", _skew_rkl),
}

_ALIASES = {
    "fkl": "kl",
    "generalized_js": "gjs",
    "lecam": "le_cam",
    "neyman": "neyman_chi2",
    "pearson": "pearson_chi2",
    "rkl": "reverse_kl",
    "sq_hellinger": "squared_hellinger",
    "srkl": "softened_rkl",
    "total_variation": "tv",
    "triangular_discrimination": "vincze_le_cam",
}


def names() -> tuple[str, ...]:
    """Canonical keys that `get` knows, in alphabetical order.

    Returns:
      The keys; `"alpha"` takes a parameter a, `"gjs"`, `"skew_kl"` and `"skew_rkl"` a
      weight w, the others none.

    Example:
      >>> from jaxdiv import divergence
      >>> "js" in divergence.names()
      True
    """
    return tuple(sorted([*_TABLE, *_FAMILIES]))


def get(name: str, **parameters: float) -> FDivergence:
    r"""The record of an f-divergence by its name.

    .. math:: D_f(p\|q) = E_q\left[f(p/q)\right]

    ===================  =====================================  =====================
    key                  f(t)                                   h(t) = t^2 f''(t)
    ===================  =====================================  =====================
    kl                   t log t                                t
    reverse_kl           -log t                                 1
    jeffreys             (t - 1) log t                          1 + t
    js (at most log 2)   (t log t - (t+1) log((t+1)/2)) / 2     t / (2(1 + t))
    gjs(w)               w t log(t/m) - (1-w) log m             w(1-w) t / m
    skew_kl(w)           t log(t/m)                             (1-w)^2 t / m^2
    skew_rkl(w)          -log((1-w) t + w)                      (1-w)^2 t^2 / (...)^2
    softened_rkl         (t + 1) log((t+1)/(2t))                1 / (1 + t)
    squared_hellinger    (sqrt t - 1)^2 / 2                     sqrt(t) / 4
    tv                   abs(t - 1) / 2                         0 (an atom at t = 1)
    pearson_chi2         (t - 1)^2                              2 t^2
    neyman_chi2          (t - 1)^2 / t                          2 / t
    le_cam               (t - 1)^2 / (2(t + 1))                 4 t^2 / (t + 1)^3
    vincze_le_cam        (t - 1)^2 / (t + 1)                    8 t^2 / (t + 1)^3
    alpha(a)             (t^a - a t - (1 - a)) / (a(a - 1))     t^a
    ===================  =====================================  =====================

    with m = w t + 1 - w. The f-distill paper writes twice our js, squared_hellinger and
    le_cam. Its short names (fkl, rkl, srkl, pearson, neyman, lecam, sq_hellinger) are
    accepted and mean the records above; the factor cancels where its weights are
    normalised. Other aliases: total_variation, generalized_js, and
    triangular_discrimination for vincze_le_cam.

    Args:
      name: a key of the table or one of those aliases.
      **parameters: `a` for `"alpha"`; a = 1 gives `kl` and a = 0 gives `reverse_kl`,
        which are its limits up to a multiple of t - 1. `w` in (0, 1) for `"gjs"`,
        `"skew_kl"`, `"skew_rkl"`.

    Returns:
      The `FDivergence`, whose callables are differentiable to every order. Total
      variation is the exception: f' is half the sign, and `curvature` is infinite.

    Raises:
      ValueError: the name is unknown, or a parameter is missing, unknown or out of its
        range.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> js = divergence.get("js")
      >>> print(f"{js.f(jnp.log(2.0)):.4f} {js.weight(jnp.log(2.0)):.4f}")
      0.0849 0.3333
      >>> divergence.get("alpha", a=1.0).name
      'kl'

    References:
      Ali and Silvey, 1966; Csiszar, 1967. Weights: Xu, Nie and Vahdat, 2025,
      arXiv:2502.15681, table 1.
    """
    key = _ALIASES.get(name, name)
    if key in _FAMILIES:
        return _member(key, parameters)
    if key not in _TABLE:
        raise ValueError(
            f"name is {name!r}; expected one of {', '.join(names())} "
            f"or an alias ({', '.join(sorted(_ALIASES))})."
        )
    if parameters:
        raise ValueError(f"{key} takes no parameters, got {sorted(parameters)}.")
    return _complete(key, _TABLE[key])


def _member(key: str, parameters: dict[str, float]) -> FDivergence:
    """The record of a family at its parameter."""
    parameter, generator = _FAMILIES[key]
    if set(parameters) != {parameter}:
        raise ValueError(
            f"{key} takes the parameter {parameter}, got "
            f"{sorted(parameters) or 'none'}."
        )
    value = float(parameters[parameter])
    if key != "alpha":
        _check.in_range(0.0, 1.0, w=value)
    elif value in (0, 1):
        return get("kl" if value else "reverse_kl")
    else:
        _check.in_range(a=value)
    return _complete(key, generator(value))


def as_record(div: str | FDivergence) -> FDivergence:
    """`div` itself, or the record of that name.

    Raises:
      TypeError: `div` is neither.
    """
    if isinstance(div, str):
        return get(div)
    if not isinstance(div, FDivergence):
        raise TypeError(
            f"div is a {type(div).__name__}; expected a name or a record of get()."
        )
    return div
