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
from jaxdiv._numerics import exp_remainder
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


class _Generator(NamedTuple):
    """The formulas of one divergence, at finite log-ratios only."""

    f: Callable[[Array], Array]
    f_prime: Callable[[Array], Array]
    log_second: Callable[[Array], Array]
    log_weight: Callable[[Array], Array]
    conjugate: Callable[[Array], Array] | None
    at_zero: float
    at_inf: float
    prime_at_zero: float
    prime_at_inf: float
    curvature: float
    symmetric: bool = False


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

    low, high = g.prime_at_zero, g.prime_at_inf

    def conjugate(u: ArrayLike) -> Array:
        assert g.conjugate is not None
        (u,) = _check.floating(u=u)
        inside = (u >= low) & (u <= high) & jnp.isfinite(u)
        safe = jnp.where(inside, u, min(0.0, high - 1.0))
        outside = jnp.where(u <= low, -g.at_zero, jnp.inf)
        return jnp.where(inside, g.conjugate(safe), jnp.where(jnp.isnan(u), u, outside))

    return FDivergence(
        name=name,
        f=limited(g.f, g.at_zero, g.at_inf),
        f_prime=limited(g.f_prime, low, high),
        f_second=checked(lambda ell: jnp.exp(g.log_second(ell))),
        weight=checked(lambda ell: jnp.exp(g.log_weight(ell))),
        log_weight=checked(g.log_weight),
        conjugate=None if g.conjugate is None else conjugate,
        conjugate_domain=(low, high),
        f_at_zero=g.at_zero,
        f_prime_at_inf=high,
        curvature=g.curvature,
        symmetric=g.symmetric,
        bound=g.at_zero + high,
    )


def _constant(ell: Array, value: float) -> Array:
    """`value` everywhere, but NaN where the log-ratio is NaN."""
    return jnp.where(jnp.isnan(ell), ell, value)


def log_mean_exp(ell: Array) -> Array:
    r"""log((1 + e^l) / 2), accurate near l = 0 and far from it.

    With m = (p + q)/2 it is log m/q as a function of l = log p/q.
    """
    positive = ell > 0
    up = jnp.where(positive, ell, 0)
    down = jnp.where(positive, 0, ell)
    return jnp.where(
        positive,
        up + jnp.log1p(jnp.expm1(-up) / 2),
        jnp.log1p(jnp.expm1(down) / 2),
    )


def _js_f(ell: Array) -> Array:
    # With m = (t + 1)/2: f = (t log t/m + log 1/m)/2. Between near laws the two terms
    # cancel; there both are written as second-order remainders around m.
    near = jnp.abs(ell) < 1
    small, large = jnp.where(near, ell, 0), jnp.where(near, 1, ell)
    remainder = jnp.exp(small) * exp_remainder(log_mean_exp(-small)) + exp_remainder(
        log_mean_exp(small)
    )
    direct = -jnp.exp(large) * log_mean_exp(-large) - log_mean_exp(large)
    return jnp.where(near, remainder, direct) / 2


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


def _alpha_f(a: float) -> Callable[[Array], Array]:
    d = 1 - a

    def near_one(ell: Array) -> Array:
        # Divided by a(a - 1) the linear terms of t^a - 1 and a(t - 1) are gone, so
        # neither l -> 0 nor a -> 0, 1 loses digits.
        if a < 0.5:
            return (exp_remainder(a * ell) / a - exp_remainder(ell)) / (a - 1)
        back = exp_remainder(-d * ell) / d - exp_remainder(-ell)
        return -jnp.exp(ell) * back / a

    def away(ell: Array) -> Array:
        if a < 0.5:
            return (jnp.expm1(a * ell) / a - jnp.expm1(ell)) / (a - 1)
        # t^a - t, from the side on which no factor overflows.
        side = d * ell > 0
        x, y = jnp.where(side, ell, 0), jnp.where(side, 0, ell)
        gap = jnp.where(
            side, jnp.exp(x) * jnp.expm1(-d * x), -jnp.exp(a * y) * jnp.expm1(d * y)
        )
        return -(jnp.expm1(ell) + gap / d) / a

    def f(ell: Array) -> Array:
        near = jnp.abs(ell) < 1
        return jnp.where(
            near, near_one(jnp.where(near, ell, 0)), away(jnp.where(near, 1, ell))
        )

    return f


def _alpha(a: float) -> _Generator:
    if a == 2:
        log_second = lambda ell: _constant(ell, 0.0)  # noqa: E731
    else:
        log_second = lambda ell: (a - 2) * ell  # noqa: E731
    return _Generator(
        f=_alpha_f(a),
        f_prime=lambda ell: jnp.expm1((a - 1) * ell) / (a - 1),
        log_second=log_second,
        log_weight=lambda ell: a * ell,
        conjugate=lambda u: jnp.expm1(a / (a - 1) * jnp.log1p((a - 1) * u)) / a,
        at_zero=1 / a if a > 0 else math.inf,
        at_inf=math.inf,
        prime_at_zero=1 / (1 - a) if a > 1 else -math.inf,
        prime_at_inf=1 / (1 - a) if a < 1 else math.inf,
        curvature=1.0,
        symmetric=a == 0.5,
    )


_TABLE = {
    "kl": _Generator(
        f=lambda ell: jnp.exp(ell) * ell,
        f_prime=lambda ell: ell + 1,
        log_second=lambda ell: -ell,
        log_weight=lambda ell: ell,
        conjugate=lambda u: jnp.exp(u - 1),
        at_zero=0.0,
        at_inf=math.inf,
        prime_at_zero=-math.inf,
        prime_at_inf=math.inf,
        curvature=1.0,
    ),
    "reverse_kl": _Generator(
        f=lambda ell: -ell,
        f_prime=lambda ell: -jnp.exp(-ell),
        log_second=lambda ell: -2 * ell,
        log_weight=lambda ell: _constant(ell, 0.0),
        conjugate=lambda u: -1 - jnp.log(-u),
        at_zero=math.inf,
        at_inf=-math.inf,
        prime_at_zero=-math.inf,
        prime_at_inf=0.0,
        curvature=1.0,
    ),
    "jeffreys": _Generator(
        f=lambda ell: jnp.expm1(ell) * ell,
        f_prime=lambda ell: ell - jnp.expm1(-ell),
        log_second=lambda ell: jnp.logaddexp(-ell, -2 * ell),
        log_weight=jax.nn.softplus,
        conjugate=_jeffreys_conjugate,
        at_zero=math.inf,
        at_inf=math.inf,
        prime_at_zero=-math.inf,
        prime_at_inf=math.inf,
        curvature=2.0,
        symmetric=True,
    ),
    "js": _Generator(
        f=_js_f,
        f_prime=lambda ell: -log_mean_exp(-ell) / 2,
        log_second=lambda ell: -LOG2 - ell - jax.nn.softplus(ell),
        log_weight=lambda ell: -LOG2 - jax.nn.softplus(-ell),
        conjugate=lambda u: -jnp.log1p(-jnp.expm1(2 * u)) / 2,
        at_zero=LOG2 / 2,
        at_inf=math.inf,
        prime_at_zero=-math.inf,
        prime_at_inf=LOG2 / 2,
        curvature=0.25,
        symmetric=True,
    ),
    "softened_rkl": _Generator(
        f=lambda ell: (jnp.exp(ell) + 1) * log_mean_exp(-ell),
        f_prime=lambda ell: log_mean_exp(-ell) - jnp.exp(-ell),
        log_second=lambda ell: -2 * ell - jax.nn.softplus(ell),
        log_weight=lambda ell: -jax.nn.softplus(ell),
        conjugate=None,
        at_zero=math.inf,
        at_inf=-math.inf,
        prime_at_zero=-math.inf,
        prime_at_inf=-LOG2,
        curvature=0.5,
    ),
    "squared_hellinger": _Generator(
        f=lambda ell: jnp.expm1(ell / 2) ** 2 / 2,
        f_prime=lambda ell: -jnp.expm1(-ell / 2) / 2,
        log_second=lambda ell: -1.5 * ell - 2 * LOG2,
        log_weight=lambda ell: ell / 2 - 2 * LOG2,
        conjugate=lambda u: u / (1 - 2 * u),
        at_zero=0.5,
        at_inf=math.inf,
        prime_at_zero=-math.inf,
        prime_at_inf=0.5,
        curvature=0.25,
        symmetric=True,
    ),
    "pearson_chi2": _Generator(
        f=lambda ell: jnp.expm1(ell) ** 2,
        f_prime=lambda ell: 2 * jnp.expm1(ell),
        log_second=lambda ell: _constant(ell, LOG2),
        log_weight=lambda ell: 2 * ell + LOG2,
        conjugate=lambda u: u + u**2 / 4,
        at_zero=1.0,
        at_inf=math.inf,
        prime_at_zero=-2.0,
        prime_at_inf=math.inf,
        curvature=2.0,
    ),
    "neyman_chi2": _Generator(
        f=lambda ell: -jnp.expm1(ell) * jnp.expm1(-ell),
        f_prime=lambda ell: -jnp.expm1(-2 * ell),
        log_second=lambda ell: LOG2 - 3 * ell,
        log_weight=lambda ell: LOG2 - ell,
        conjugate=lambda u: 2 - 2 * jnp.sqrt(1 - u),
        at_zero=math.inf,
        at_inf=math.inf,
        prime_at_zero=-math.inf,
        prime_at_inf=1.0,
        curvature=2.0,
    ),
    "le_cam": _Generator(
        f=lambda ell: jnp.expm1(ell) * jnp.tanh(ell / 2) / 2,
        # (t - 1)(t + 3) / (2 (t + 1)^2) with x = tanh(l/2) = (t - 1)/(t + 1)
        f_prime=lambda ell: jnp.tanh(ell / 2) * (2 - jnp.tanh(ell / 2)) / 2,
        log_second=lambda ell: 2 * LOG2 - 3 * jax.nn.softplus(ell),
        log_weight=lambda ell: (
            2 * LOG2 - jax.nn.softplus(ell) - 2 * jax.nn.softplus(-ell)
        ),
        conjugate=lambda u: 2 - u - 2 * jnp.sqrt(1 - 2 * u),
        at_zero=0.5,
        at_inf=math.inf,
        prime_at_zero=-1.5,
        prime_at_inf=0.5,
        curvature=0.5,
        symmetric=True,
    ),
}

_ALIASES = {
    "fkl": "kl",
    "rkl": "reverse_kl",
    "srkl": "softened_rkl",
    "sq_hellinger": "squared_hellinger",
    "pearson": "pearson_chi2",
    "neyman": "neyman_chi2",
    "lecam": "le_cam",
}


def names() -> tuple[str, ...]:
    """Canonical keys that `get` knows, in alphabetical order.

    Returns:
      The keys; `"alpha"` takes a parameter, the others none.

    Example:
      >>> from jaxdiv import divergence
      >>> "js" in divergence.names()
      True
    """
    return tuple(sorted([*_TABLE, "alpha"]))


def get(name: str, **parameters: float) -> FDivergence:
    r"""The record of an f-divergence by its name.

    .. math:: D_f(p\|q) = E_q\left[f(p/q)\right]

    ===================  =====================================  ==================
    key                  f(t)                                   h(t) = t^2 f''(t)
    ===================  =====================================  ==================
    kl                   t log t                                t
    reverse_kl           -log t                                 1
    jeffreys             (t - 1) log t                          1 + t
    js (at most log 2)   (t log t - (t+1) log((t+1)/2)) / 2     t / (2(1 + t))
    softened_rkl         (t + 1) log((t+1)/(2t))                1 / (1 + t)
    squared_hellinger    (sqrt t - 1)^2 / 2                     sqrt(t) / 4
    pearson_chi2         (t - 1)^2                              2 t^2
    neyman_chi2          (t - 1)^2 / t                          2 / t
    le_cam               (t - 1)^2 / (2(t + 1))                 4 t^2 / (t + 1)^3
    alpha(a)             (t^a - a t - (1 - a)) / (a(a - 1))     t^a
    ===================  =====================================  ==================

    The f-distill paper writes twice our js, squared_hellinger and le_cam. Its short
    names (fkl, rkl, srkl, pearson, neyman, lecam, sq_hellinger) are accepted and mean
    the records above; the factor cancels where its weights are normalised.

    Args:
      name: a key of the table or one of those aliases.
      **parameters: `a` for `"alpha"`; a = 1 gives `kl` and a = 0 gives `reverse_kl`,
        which are its limits up to a multiple of t - 1.

    Returns:
      The `FDivergence`, whose callables are differentiable to every order.

    Raises:
      ValueError: the name is unknown, or a parameter is missing, unknown or not finite.

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
    if key == "alpha":
        return _get_alpha(**parameters)
    if key not in _TABLE:
        raise ValueError(
            f"name is {name!r}; expected one of {', '.join(names())} "
            f"or an alias ({', '.join(sorted(_ALIASES))})."
        )
    if parameters:
        raise ValueError(f"{key} takes no parameters, got {sorted(parameters)}.")
    return _complete(key, _TABLE[key])


def _get_alpha(**parameters: float) -> FDivergence:
    if set(parameters) != {"a"}:
        raise ValueError(
            f"alpha takes the parameter a, got {sorted(parameters) or 'none'}."
        )
    _check.in_range(a=parameters["a"])
    a = float(parameters["a"])
    if a in (0.0, 1.0):
        return get("kl" if a else "reverse_kl")
    return _complete("alpha", _alpha(a))
