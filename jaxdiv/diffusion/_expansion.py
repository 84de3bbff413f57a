r"""An f-divergence as an integral over noise levels of a weighted score distance.

In all of it p is the teacher and q the student, both noised to one level, r = p/q,
and :math:`u = \nabla\log r` is the difference of their scores.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.diffusion._distill import weighted_record
from jaxdiv.divergence import FDivergence
from jaxdiv.typing import Array, ArrayLike, ScoreFn


class UniWeights(NamedTuple):
    r"""The weights of the three terms of the expanded gradient, each shaped as l.

    Attributes:
      h: :math:`h = r^2 f''`, of the score-matching term `sim`.
      c_fgm: :math:`h - r h'`, of the explicit term `fgm`.
      c_di: :math:`-r^2 h''`, of the term `di` along the score difference.
    """

    h: Array
    c_fgm: Array
    c_di: Array


def uni_weights(name: str | FDivergence, log_ratio: ArrayLike) -> UniWeights:
    r"""Weights of the three terms in the gradient of the expanded divergence.

    .. math:: h = r^2 f'', \qquad c_{fgm} = h - r h' = h(1 - a), \qquad
              c_{di} = -r^2 h'' = h(a(1 - a) - a'), \qquad
              a = \frac{d\log h}{d\log r}

    For `reverse_kl` they are 1, 1, 0 and for `kl` r, 0, 0. As everywhere in jaxdiv,
    `js` and `squared_hellinger` are half of what the paper calls so.

    Args:
      name: a key or alias of `jaxdiv.divergence.get`, or a record that it returned,
        such as `get("alpha", a=0.3)`.
      log_ratio: log p/q at the noised samples, of any shape.

    Returns:
      `UniWeights`, at least float32, each with the rounding of h (so at a ratio beyond
      1/eps a `mixture` with `kl` has lost the constants of c_fgm). At l = -inf and inf
      they are the limits: of `js` 0, 0, 0 and 1/2, 1/2, 0; of `kl` 0, 0, 0 and inf, 0,
      0; of `jeffreys` 1, 1, 0 and inf, 1, 0. NaN where the log-ratio is NaN.

    Raises:
      TypeError: `log_ratio` is not of a floating dtype.
      ValueError: the name is unknown (the message lists the names), or the divergence
        has no weight: f'' of total variation is an atom.

    Differentiable in `log_ratio`, in every mode and order, where it is finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> weights = diffusion.uni_weights("pearson", jnp.log(jnp.array([3.0])))
      >>> print(*(w.round(3) for w in weights))
      [18.] [-18.] [-36.]

    References:
      Wang et al., 2025, arXiv:2505.20755.
    """
    record = weighted_record(name)
    (ell,) = _check.floating(log_ratio=log_ratio)
    # No factor of a product may leave the range of the dtype before the other does.
    limit = 0.45 * math.log(jnp.finfo(ell.dtype).max)
    inside = jnp.clip(ell, -limit, limit)

    def slope(ell: Array) -> Array:
        return _derivative(record.log_weight, ell)

    a, mirrored = slope(inside), -inside if record.symmetric else inside
    # For a symmetric divergence h(r) = r h(1/r): 1 - a(l) = a(-l) does not cancel.
    rest = slope(mirrored) if record.symmetric else 1 - a
    bend = a * rest - _derivative(slope, mirrored)
    h, h_inside = record.weight(ell), record.weight(inside)
    return UniWeights(h, _product(h, h_inside, rest), _product(h, h_inside, bend))


def _derivative(function: Callable[[Array], Array], x: Array) -> Array:
    """The derivative of an elementwise function."""
    return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]


def _product(h: Array, h_inside: Array, factor: Array) -> Array:
    """The product with h; its limit where the factor has died out."""
    gone = jnp.abs(factor) <= jnp.finfo(factor.dtype).eps
    return jnp.where(gone, h_inside, h) * factor


def diffusion_expansion(
    log_ratio_fn: ScoreFn,
    score_p: ScoreFn,
    score_q: ScoreFn,
    sampler_q: Callable[[Array], Array | tuple[Array, Array]],
    sigmas: ArrayLike,
    f: str | FDivergence,
) -> Array:
    r"""Difference of an f-divergence between two noise levels, from scores.

    .. math:: D_f(p_a\|q_a) - D_f(p_b\|q_b) = \int_a^b \sigma
              E_{q_\sigma}\left[h(r)\,\|s_p - s_q\|^2\right] d\sigma

    with :math:`p_\sigma` the law of :math:`x_0 + \sigma\varepsilon`. At a large b the
    second divergence is small and the integral is the divergence itself.

    Args:
      log_ratio_fn: log p/q, a function of points `(n, d)` and a scalar sigma that
        returns `(n,)`.
      score_p: score of the noised p, a function of the same that returns `(n, d)`.
      score_q: score of the noised q.
      sampler_q: function of sigma that returns points `(n, d)` of the noised q, or
        the pair of points and weights `(n,)` that sum to 1: a quadrature. To draw,
        close over a key; one key for all levels keeps the integrand smooth.
      sigmas: increasing noise levels, shape `(m,)`; the rule is the trapezoid in
        log sigma, so a geometric grid serves best.
      f: a key or alias of `jaxdiv.divergence.get`, or a record that it returned.

    Returns:
      A scalar in nats.

    Raises:
      TypeError: `sigmas` is not of a floating dtype.
      ValueError: the divergence is unknown or has no weight, or `sigmas` is not an
        increasing vector of two or more positive numbers.

    Differentiable in `sigmas` and in all that the functions close over.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> score = lambda mean: lambda x, sigma: (mean - x) / (1 + sigma**2)
      >>> value = diffusion.diffusion_expansion(
      ...     lambda x, sigma: (2 * x[:, 0] - 1) / (2 * (1 + sigma**2)),
      ...     score(1.0),
      ...     score(0.0),
      ...     lambda sigma: jnp.zeros((1, 1)),
      ...     jnp.geomspace(1e-3, 1e3, 500),
      ...     "reverse_kl",
      ... )
      >>> print(f"{value:.4f}")  # KL of two unit Gaussians at distance 1
      0.5000

    References:
      Wang et al., 2025, arXiv:2505.20755; Lyu, 2009, arXiv:1205.2629, for the KL
      divergence.
    """
    record = weighted_record(f)
    (sigmas,) = _check.floating(sigmas=sigmas)
    _check.rank(1, sigmas=sigmas)
    _check.positive(sigmas=sigmas)
    concrete = _check.concrete(sigmas)
    if sigmas.size < 2 or (
        concrete is not None and not (concrete[1:] > concrete[:-1]).all()
    ):
        raise ValueError(f"sigmas is {sigmas}; expected two or more increasing levels.")

    def fisher(sigma: Array) -> Array:
        drawn = sampler_q(sigma)
        x, mass = drawn if isinstance(drawn, tuple) else (drawn, 1 / len(drawn))
        u2 = jnp.sum((score_p(x, sigma) - score_q(x, sigma)) ** 2, -1)
        # One exponential: a large weight meets a small mass.
        log_h = record.log_weight(log_ratio_fn(x, sigma))
        return jnp.sum(jnp.exp(log_h + jnp.log(mass)) * u2)

    integrand = sigmas**2 * jax.lax.map(fisher, sigmas)
    return jnp.trapezoid(integrand, jnp.log(sigmas))
