"""Samplers: each takes noise down a grid of times and denoises it at the last."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.diffusion._noise import NoiseLaw, spaced_time
from jaxdiv.typing import Array, Key, ScoreFn


def velocity(law: NoiseLaw, score_fn: ScoreFn, x: Array, t: Array) -> Array:
    """dx/dt along the probability flow."""
    return law.dlog_alpha(t) * x - law.g2(t) / 2 * score_fn(x, t)


def denoised(law: NoiseLaw, score_fn: ScoreFn, x: Array, t: Array) -> Array:
    """The posterior mean of the clean sample."""
    return (x + law.sigma(t) ** 2 * score_fn(x, t)) / law.alpha(t)


def times(law: NoiseLaw, x: Array, steps: int, rho: float) -> Array:
    """The times that the score is asked at, from t_max down to t_min."""
    if steps < 2:
        raise ValueError(f"steps is {steps}; expected at least 2.")
    _check.positive(rho=rho)
    return spaced_time(law, jnp.linspace(1, 0, steps, dtype=x.dtype), rho)


def _descend(
    law: NoiseLaw,
    score_fn: ScoreFn,
    x: Array,
    grid: Array,
    step: Callable[[Array, Array, Array, Array], Array],
) -> Array:
    """`step(x, t, next t, index)` down the grid, then denoised."""

    def body(x: Array, here: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return step(x, *here), None

    x, _ = jax.lax.scan(body, x, (grid[:-1], grid[1:], jnp.arange(len(grid) - 1)))
    return denoised(law, score_fn, x, grid[-1])


def one_step(law: NoiseLaw, score_fn: ScoreFn, key: Key, x: Array) -> Array:
    """Denoises once, at t_max."""
    del key
    return denoised(law, score_fn, x, jnp.asarray(law.t_max, x.dtype))


def euler(law: NoiseLaw, score_fn: ScoreFn, key: Key, x: Array, grid: Array) -> Array:
    """Euler's method on the probability flow."""
    del key

    def step(x: Array, t: Array, after: Array, i: Array) -> Array:
        del i
        return x + (after - t) * velocity(law, score_fn, x, t)

    return _descend(law, score_fn, x, grid, step)


def euler_maruyama(
    law: NoiseLaw, score_fn: ScoreFn, key: Key, x: Array, grid: Array
) -> Array:
    """Euler's method on the reverse equation, which is stochastic."""

    def step(x: Array, t: Array, after: Array, i: Array) -> Array:
        dt, g2 = t - after, law.g2(t)
        noise = jax.random.normal(jax.random.fold_in(key, i), x.shape, x.dtype)
        drift = g2 * score_fn(x, t) - law.dlog_alpha(t) * x
        return x + dt * drift + jnp.sqrt(g2 * dt) * noise

    return _descend(law, score_fn, x, grid, step)


def ddim(law: NoiseLaw, score_fn: ScoreFn, key: Key, x: Array, grid: Array) -> Array:
    """Euler's method for x / alpha as a function of sigma / alpha."""
    del key

    def step(x: Array, t: Array, after: Array, i: Array) -> Array:
        del i
        pull = law.sigma(t) * score_fn(x, t)  # the noise in x, negated
        clean = (x + law.sigma(t) * pull) / law.alpha(t)
        return law.alpha(after) * clean - law.sigma(after) * pull

    return _descend(law, score_fn, x, grid, step)


def dpmpp_2m(
    law: NoiseLaw, score_fn: ScoreFn, key: Key, x: Array, grid: Array
) -> Array:
    """DPM-Solver++(2M): two-step Adams in the log of alpha / sigma."""
    del key
    alpha, sigma = law.alpha(grid), law.sigma(grid)
    h = jnp.diff(jnp.log(alpha / sigma))
    # The first step has none before it to extrapolate from: its weight is 0.
    ahead = jnp.append(0, h[1:] / (2 * h[:-1]))

    def step(carry: tuple, here: tuple) -> tuple[tuple, None]:
        (x, last), (t, ahead, shrink, gain) = carry, here
        clean = denoised(law, score_fn, x, t)
        x = shrink * x + gain * (clean + ahead * (clean - last))
        return (x, clean), None

    scales = sigma[1:] / sigma[:-1], -alpha[1:] * jnp.expm1(-h)
    start = x, jnp.zeros_like(x)
    (x, _), _ = jax.lax.scan(step, start, (grid[:-1], ahead, *scales))
    return denoised(law, score_fn, x, grid[-1])


def _churned(
    law: NoiseLaw, key: Key, x: Array, t: Array, gamma: Array, s_noise: float
) -> tuple[Array, Array]:
    """Samples taken from t back to t (1 + gamma) by the law's own transition."""
    later = t * (1 + gamma)
    scale = law.alpha(later) / law.alpha(t)
    variance = law.sigma(later) ** 2 - (scale * law.sigma(t)) ** 2
    # Where later = t rounding leaves a variance of eps sigma^2, and its root is large.
    std = jnp.sqrt(jnp.where(gamma > 0, jnp.maximum(variance, 0), 0))
    return scale * x + s_noise * std * jax.random.normal(key, x.shape, x.dtype), later


def heun_edm(
    law: NoiseLaw,
    score_fn: ScoreFn,
    key: Key,
    x: Array,
    grid: Array,
    *,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
) -> Array:
    """Algorithm 2 of EDM: Heun's method on the probability flow, with churn."""
    _check.in_range(0.0, closed=True, s_churn=s_churn, s_noise=s_noise)
    steps = len(grid)
    gamma = min(s_churn / steps, math.sqrt(2.0) - 1)
    gammas = jnp.where((grid >= s_min) & (grid <= s_max), gamma, 0)

    def churn(x: Array, i: Array) -> tuple[Array, Array]:
        if s_churn == 0:
            return x, grid[i]
        return _churned(law, jax.random.fold_in(key, i), x, grid[i], gammas[i], s_noise)

    def step(x: Array, i: Array) -> tuple[Array, None]:
        x, t = churn(x, i)
        dt = grid[i + 1] - t
        first = velocity(law, score_fn, x, t)
        second = velocity(law, score_fn, x + dt * first, grid[i + 1])
        return x + dt * (first + second) / 2, None

    x, _ = jax.lax.scan(step, x, jnp.arange(steps - 1))
    # Euler's step down to t = 0 is, for EDM's law, the denoised sample; for the others
    # it would divide by zero and this is its limit.
    x, t = churn(x, jnp.asarray(steps - 1))
    return denoised(law, score_fn, x, t)


def heun(law: NoiseLaw, score_fn: ScoreFn, key: Key, x: Array, grid: Array) -> Array:
    """Heun's method on the probability flow, without churn."""
    return heun_edm(law, score_fn, key, x, grid)
