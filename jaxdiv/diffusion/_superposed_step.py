"""One step of a superposition: the samples and all log-densities along them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.diffusion._increment import (
    ito_log_density_increment,
    ode_log_density_increment,
)
from jaxdiv.diffusion._noise import NoiseLaw
from jaxdiv.diffusion._weights import (
    and_step,
    and_weights,
    ode_and_weights,
    or_weights,
    span_curvature,
)
from jaxdiv.typing import Array, ArrayLike, Key, ScoreFn

WeightFn = Callable[[Array, Array, Array], Array]


class Plan(NamedTuple):
    """What all steps share; `bias` has shape `(M,)`, `scores` gives `(M, B, ...)`."""

    scores: ScoreFn
    law: NoiseLaw
    mode: str | WeightFn
    temperature: ArrayLike
    bias: Array
    gain: float
    curvature: bool


def _forward(law: NoiseLaw, x: Array, t: Array) -> tuple[Array, Array, Array]:
    """Drift, its divergence and g^2."""
    rate = law.dlog_alpha(t)
    return rate * x, rate * math.prod(x.shape[1:]), law.g2(t)


def _weights(plan: Plan, logq: Array, scores: Array, t: Array) -> Array:
    """Weights of the modes that need only the log-densities."""
    if callable(plan.mode):
        weights = plan.mode(logq, scores, t)
    elif plan.mode == "or":
        weights = or_weights(logq, plan.temperature, plan.bias)
    else:
        weights = 1 / len(scores)
    return jnp.broadcast_to(jnp.asarray(weights, logq.dtype), logq.shape)


def _offsets(plan: Plan, logq: Array, t: Array, dt: Array) -> Array:
    """What each log-density shall gain in a step beyond the common increment."""
    law = plan.law
    lift = plan.bias / (law.t_max - law.t_min)
    ahead = logq - logq[:, :1] - lift * (law.t_max - t)
    return lift * dt - plan.gain * ahead


def _combined(weights: Array, scores: Array) -> Array:
    return jnp.einsum("bm,mb...->b...", weights, scores, precision="highest")


def random_step(
    plan: Plan, key: Key, x: Array, logq: Array, i: Array, t: Array, dt: Array
) -> tuple[Array, Array, Array]:
    """The step of x, of the log-densities, and the weights."""
    drift, div_drift, g2 = _forward(plan.law, x, t)
    eps = jax.random.normal(jax.random.fold_in(key, i), x.shape, x.dtype)
    unkicked = jnp.zeros_like(logq)  # what log-densities lack when noise is projected
    if plan.mode == "and" and plan.curvature:
        scores, push = jax.linearize(lambda x: plan.scores(x, t), x)
        unkicked = g2 * dt / 2 * span_curvature(scores, push)
    else:
        scores = plan.scores(x, t)
    if plan.mode == "and":
        offsets = _offsets(plan, logq, t, dt) + unkicked
        arguments = (scores, eps, dt, g2, drift, div_drift, offsets)
        dx, weights = and_step(*arguments), and_weights(*arguments)
    else:
        weights = _weights(plan, logq, scores, t)
        dx = (g2 * _combined(weights, scores) - drift) * dt + jnp.sqrt(g2 * dt) * eps
    gained = [
        ito_log_density_increment(dx, dt, score, drift, div_drift, g2)
        for score in scores
    ]
    return dx, jnp.stack(gained, -1) - unkicked, weights


def smooth_step(
    plan: Plan, probes: Array, x: Array, logq: Array, i: Array, t: Array, dt: Array
) -> tuple[Array, Array, Array]:
    """Heun's step of the probability flow, of x and the log-densities together."""
    del i
    u, rate, weights = _velocity(plan, probes, x, logq, t, dt)
    ahead = _velocity(plan, probes, x + dt * u, logq + dt * rate, t - dt, dt)
    return dt / 2 * (u + ahead[0]), dt / 2 * (rate + ahead[1]), weights


def _velocity(
    plan: Plan, probes: Array, x: Array, logq: Array, t: Array, dt: Array
) -> tuple[Array, Array, Array]:
    scores, pushed = jax.linearize(lambda x: plan.scores(x, t), x)
    divs = jnp.einsum("kb...,kmb...->bm", probes, jax.vmap(pushed)(probes))
    drift, div_drift, g2 = _forward(plan.law, x, t)
    if plan.mode == "and":
        offsets = _offsets(plan, logq, t, dt) / dt
        weights = ode_and_weights(scores, divs, g2, offsets)
    else:
        weights = _weights(plan, logq, scores, t)
    u = g2 / 2 * _combined(weights, scores) - drift
    rates = [
        ode_log_density_increment(u, score, divs[:, j], drift, div_drift, g2)
        for j, score in enumerate(scores)
    ]
    return u, jnp.stack(rates, -1), weights
