r"""The entmax map: a softmax that can be sparse, with its implicit derivative.

.. math:: p = [(\alpha - 1)\theta - \tau]_+^{1/(\alpha - 1)}, \qquad \sum_i p_i = 1
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from jaxdiv._numerics import exp_remainder_near, kl_terms
from jaxdiv.implicit._primitive import implicit_identity
from jaxdiv.typing import Array


@partial(jax.jit, static_argnums=1)
def entmax_of(theta: Array, alpha: float) -> Array:
    """The entmax of `theta` over the last axis, alpha in [1, 2].

    Softmax at alpha = 1, sparsemax (the Euclidean projection on the simplex) at 2. An
    entry of -inf gets 0; a row of them NaN. Differentiable in every mode and order
    where no entry is on the border of the support.
    """
    if alpha == 1:
        return jax.nn.softmax(theta)
    p = _bisect(jax.lax.stop_gradient(theta), alpha)
    return implicit_identity(partial(_rule, alpha), p, theta)


def _bisect(theta: Array, alpha: float) -> Array:
    n, info = theta.shape[-1], jnp.finfo(theta.dtype)
    z = (alpha - 1) * (theta - jnp.max(theta, -1, keepdims=True))
    power = 1 / (alpha - 1)
    power = round(power) if math.isclose(power, round(power)) else power

    def mass(tau: Array) -> Array:
        return jnp.maximum(z - tau, 0) ** power

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        tau = (low + high) / 2
        heavy = jnp.sum(mass(tau), -1, keepdims=True) >= 1
        return jnp.where(heavy, tau, low), jnp.where(heavy, high, tau)

    # One category has at most all of the mass, and the largest at least 1/n of it. The
    # halvings end at the last bit of the smallest threshold, n^(1 - alpha).
    low = jnp.full_like(z[..., :1], -1)
    high = jnp.full_like(low, -(n ** (1 - alpha)))
    steps = info.nmant + 2 + math.ceil((alpha - 1) * math.log2(n))
    low, _ = jax.lax.fori_loop(0, steps, halve, (low, high))
    p = mass(low)
    return p / jnp.sum(p, -1, keepdims=True)


def _rule(alpha: float, p: Array, theta: Array, dtheta: Array) -> Array:
    del theta
    inside = p > 0
    s = jnp.where(inside, jnp.where(inside, p, 1) ** (2 - alpha), 0)
    mean = jnp.sum(s * dtheta, -1, keepdims=True) / jnp.sum(s, -1, keepdims=True)
    return s * (dtheta - mean)


@partial(jax.jit, static_argnums=2)
def fenchel_young_of(theta: Array, y: Array, alpha: float) -> Array:
    p = entmax_of(theta, alpha)
    if alpha == 1:
        return jnp.sum(kl_terms(y, p, jax.nn.log_softmax(theta)), -1)
    value = _tsallis_loss(*jax.lax.stop_gradient((theta, y, p)), alpha)
    return implicit_identity(partial(_loss_rule, alpha), value, (theta, y, p))


def _tsallis_loss(theta: Array, y: Array, p: Array, alpha: float) -> Array:
    """The Bregman divergence of y from p, and what y loses off the support of p."""
    close = jnp.abs(y - p) < p / 4
    ell = jnp.log1p(jnp.where(close, y - p, 0) / jnp.where(close, p, 1))
    near = exp_remainder_near(alpha * ell) - alpha * exp_remainder_near(ell)
    far = y**alpha - p**alpha - alpha * p ** (alpha - 1) * (y - p)
    terms = jnp.where(close, p**alpha * near, far) / (alpha * (alpha - 1))
    terms = jnp.where(y < 0, jnp.nan, terms)
    # The threshold, from the largest entry, where p^(alpha - 1) / (alpha - 1) is its
    # distance to it.
    top = jnp.max(p, -1, keepdims=True) ** (alpha - 1) / (alpha - 1)
    threshold = jnp.max(theta, -1, keepdims=True) - top
    below = jnp.where((p == 0) & (y > 0), (threshold - theta) * y, 0)
    return jnp.sum(terms + below, -1)


def _loss_rule(alpha: float, value: Array, at: tuple, tangents: tuple) -> Array:
    # The prediction's own motion has no effect on the loss (Danskin); its derivative
    # enters the second order, through p.
    del value
    theta, y, p = at
    dtheta, dy, _ = tangents
    mass, possible = y > 0, theta > -jnp.inf
    power = jnp.where(mass, jnp.where(mass, y, 1) ** (alpha - 1), 0)
    slope = (power - 1 / alpha) / (alpha - 1) - jnp.where(possible, theta, 0)
    return jnp.sum((p - y) * dtheta + jnp.where(possible, slope, 0) * dy, -1)
