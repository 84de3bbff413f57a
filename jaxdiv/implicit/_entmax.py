r"""The entmax map: a softmax that can be sparse, with its implicit derivative.

.. math:: p = [(\alpha - 1)\theta - \tau]_+^{1/(\alpha - 1)}, \qquad \sum_i p_i = 1
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from jaxdiv.implicit._primitive import implicit_identity
from jaxdiv.typing import Array


def _entmax(theta: Array, alpha: float) -> Array:
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
