r"""The angle between a von Mises-Fisher draw and its mean direction.

Its density is proportional to :math:`g(\theta) = e^{\kappa\cos\theta}
\sin^{d-2}\theta` on :math:`[0, \pi]`. The cosine t of the angle would lose all its
digits where it is close to 1.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.distributions._von_mises_fisher import one_less_resultant
from jaxdiv.implicit._primitive import implicit_identity
from jaxdiv.typing import Array, Key

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_BISECTIONS = 40
_MAX_ROUNDS = 200  # each accepts two draws of three or more


def _log_rise(theta: Array, move: Array, kappa: Array, dim: int) -> Array:
    """Log g(theta + move) - log g(theta), with all its digits for small moves."""
    middle, half = theta + move / 2, jnp.sin(move / 2)
    value = -2 * kappa * jnp.sin(middle) * half
    if dim == 2:
        return value
    return value + (dim - 2) * jnp.log1p(2 * jnp.cos(middle) * half / jnp.sin(theta))


def mode(kappa: Array, dim: int) -> Array:
    """The angle at which g is largest."""
    if dim == 2:
        return jnp.zeros_like(kappa)
    total = dim - 2 + jnp.sqrt((dim - 2) ** 2 + 4 * kappa**2)
    return jnp.arctan2(jnp.sqrt(2 * (dim - 2) / total), 2 * kappa / total)


def _tail(theta: Array, kappa: Array, dim: int, *, right: Array) -> tuple[Array, Array]:
    """Angles and weights of a quadrature of g over g(theta), from theta to one side.

    The side must not hold the mode: g falls along it, to nothing before the end.
    """
    limit = jnp.where(right, math.pi - theta, -theta)
    nothing = 1.2 * math.log(float(jnp.finfo(theta.dtype).eps))

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        gone = _log_rise(theta, middle * limit, kappa, dim) < nothing
        return jnp.where(gone, low, middle), jnp.where(gone, middle, high)

    start = jnp.zeros_like(limit), jnp.ones_like(limit)
    share = jax.lax.fori_loop(0, _BISECTIONS, halve, start)[1]
    length = jax.lax.stop_gradient(share * limit)[..., None]
    u = jnp.asarray((_NODES + 1) / 2, theta.dtype)
    weights = jnp.asarray(_WEIGHTS / 2, theta.dtype)
    rise = _log_rise(theta[..., None], length * u, kappa[..., None], dim)
    return theta[..., None] + length * u, jnp.abs(length) * weights * jnp.exp(rise)


def share_beyond(theta: Array, kappa: Array, dim: int) -> Array:
    """Probability of an angle larger than theta."""
    top = jax.lax.stop_gradient(mode(kappa, dim))
    right = theta >= top
    inside = (theta > 0) & (theta < math.pi)
    theta = jnp.where(inside, theta, 1)
    beyond = _tail(theta, kappa, dim, right=right)[1].sum(-1)
    beyond *= jnp.exp(_log_rise(top, theta - top, kappa, dim))
    total = _tail(top, kappa, dim, right=jnp.ones_like(right))[1].sum(-1)
    if dim > 2:
        total += _tail(top, kappa, dim, right=jnp.zeros_like(right))[1].sum(-1)
    share = jnp.where(right, beyond / total, 1 - beyond / total)
    return jnp.where(inside, share, jnp.where(right, 0, 1))


def _angle_rule(dim: int, theta: Array, kappa: Array, move: Array) -> Array:
    r"""Motion of a draw that keeps its rank: the unbiased derivative.

    .. math:: \frac{d\theta}{d\kappa} = \frac1{g(\theta)} \int_\theta^\pi
              (\cos\varphi - A)\, g(\varphi)\, d\varphi

    References:
      Figurnov et al., 2018, arXiv:1805.08498.
    """
    right = theta >= mode(kappa, dim)
    angles, weights = _tail(theta, kappa, dim, right=right)
    away = one_less_resultant(kappa, dim)[..., None] - 2 * jnp.sin(angles / 2) ** 2
    return move * jnp.where(right, 1, -1) * jnp.sum(weights * away, -1)


def draw_angle(key: Key, kappa: Array, dim: int) -> Array:
    """A draw for each concentration, with its implicit derivative in it."""
    theta = _wood(key, jax.lax.stop_gradient(kappa), dim)
    # An angle of exactly 0 or pi has density 0, and no derivative.
    tiny = float(jnp.finfo(theta.dtype).tiny)
    theta = jnp.clip(theta, tiny, math.pi)
    return implicit_identity(partial(_angle_rule, dim), theta, kappa)


def _wood(key: Key, kappa: Array, dim: int) -> Array:
    """Rejection from a projected symmetric beta law.

    References:
      Wood, 1994, "Simulation of the von Mises Fisher distribution"; Ulrich, 1984.
    """
    m = dim - 1
    b = m / (2 * kappa + jnp.sqrt(4 * kappa**2 + m**2))
    x0 = (1 - b) / (1 + b)
    spread = 4 * b / (1 + b) ** 2  # 1 - x0^2

    def propose(key: Key) -> tuple[Array, Array]:
        key_beta, key_u = jax.random.split(key)
        shape, dtype = kappa.shape, kappa.dtype
        up, down = jax.random.loggamma(key_beta, m / 2, (2, *shape), dtype)
        log_odds = jnp.log(b) + up - down  # of tan^2(theta / 2)
        beyond = 2 * b / (1 + b) - 2 * jax.nn.sigmoid(log_odds)  # t - x0
        log_ratio = kappa * beyond + m * jnp.log1p(-x0 * beyond / spread)
        log_u = jnp.log1p(-jax.random.uniform(key_u, shape, dtype))
        return 2 * jnp.arctan(jnp.exp(log_odds / 2)), (log_ratio >= log_u) | (b == 0)

    def going(state: tuple) -> Array:
        _, waiting, i = state
        return jnp.any(waiting) & (i < _MAX_ROUNDS)

    def step(state: tuple) -> tuple:
        theta, waiting, i = state
        proposed, accepted = propose(jax.random.fold_in(key, i))
        taken = waiting & accepted
        return jnp.where(taken, proposed, theta), waiting & ~accepted, i + 1

    start = jnp.full_like(kappa, jnp.nan), kappa >= 0, jnp.int32(0)
    return jax.lax.while_loop(going, step, start)[0]
