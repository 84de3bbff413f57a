"""Samplers of the probability-flow equation."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.diffusion._noise import NoiseLaw, spaced_time
from jaxdiv.typing import Array, Key, ScoreFn


def _denoised(law: NoiseLaw, score_fn: ScoreFn, x: Array, t: Array) -> Array:
    return (x + law.sigma(t) ** 2 * score_fn(x, t)) / law.alpha(t)


def _one_step(law: NoiseLaw, score_fn: ScoreFn, key: Key, x: Array) -> Array:
    del key
    return _denoised(law, score_fn, x, jnp.asarray(law.t_max, x.dtype))


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


def _heun_edm(
    law: NoiseLaw,
    score_fn: ScoreFn,
    key: Key,
    x: Array,
    *,
    steps: int = 18,
    rho: float = 7.0,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
) -> Array:
    if steps < 2:
        raise ValueError(f"steps is {steps}; expected at least 2.")
    _check.positive(rho=rho)
    _check.in_range(0.0, closed=True, s_churn=s_churn, s_noise=s_noise)
    grid = spaced_time(law, jnp.linspace(1, 0, steps, dtype=x.dtype), rho)
    gamma = min(s_churn / steps, math.sqrt(2.0) - 1)
    gammas = jnp.where((grid >= s_min) & (grid <= s_max), gamma, 0)

    def churn(x: Array, i: Array) -> tuple[Array, Array]:
        if s_churn == 0:
            return x, grid[i]
        return _churned(law, jax.random.fold_in(key, i), x, grid[i], gammas[i], s_noise)

    def slope(x: Array, t: Array) -> Array:
        return law.dlog_alpha(t) * x - law.g2(t) / 2 * score_fn(x, t)

    def step(x: Array, i: Array) -> tuple[Array, None]:
        x, t = churn(x, i)
        dt = grid[i + 1] - t
        first = slope(x, t)
        second = slope(x + dt * first, grid[i + 1])
        return x + dt * (first + second) / 2, None

    x, _ = jax.lax.scan(step, x, jnp.arange(steps - 1))
    # Euler's step down to t = 0 is, for EDM's law, the denoised sample; for the others
    # it would divide by zero and this is its limit.
    x, t = churn(x, jnp.asarray(steps - 1))
    return _denoised(law, score_fn, x, t)


_SAMPLERS: dict[str, Callable[..., Array]] = {
    "heun_edm": _heun_edm,
    "one_step": _one_step,
}


def sample(
    law: NoiseLaw,
    score_fn: ScoreFn,
    key: Key,
    shape: tuple[int, ...],
    sampler: str = "heun_edm",
    *,
    dtype: Any = jnp.float32,
    **options: Any,
) -> Array:
    r"""Draws samples from noise at t_max with the score of the noised law.

    `"heun_edm"` solves the probability-flow equation
    :math:`dx/dt = (\log\alpha)'\,x - g^2 s(x, t)/2` by Heun's method of second order
    on N times uniform in :math:`t^{1/\rho}`, then denoises: 2N - 1 evaluations of the
    score. Its options:

    - `steps` (18): the number N of times, at least 2.
    - `rho` (7): how much denser the times are near t_min.
    - `s_churn` (0): noise put back over the whole run; before each step the samples
      return from t to (1 + min(s_churn / N, sqrt 2 - 1)) t.
    - `s_min`, `s_max` (0, inf): the times between which noise is put back.
    - `s_noise` (1): scale of that noise.

    `"one_step"` denoises once at t_max, which is what a distilled student does when
    the law's t_max is the student's; it has no options.

    Args:
      law: noise law; sampling starts from :math:`N(0, \sigma^2(t_{max}))`.
      score_fn: function of `(x, t)`, t a scalar, that returns the score at x.
      key: key of the initial noise and of the churn.
      shape: shape of the samples, batch first.
      sampler: `"heun_edm"` or `"one_step"`.
      dtype: dtype of the samples, float32 or float64.
      **options: of the sampler.

    Returns:
      Samples of shape `shape`.

    Raises:
      TypeError: the sampler has no such option.
      ValueError: there is no such sampler, or an option is outside its range.

    Differentiable through all evaluations in what `score_fn` closes over.

    Example:
      >>> import jax
      >>> from jaxdiv import diffusion
      >>> score = lambda x, t: -x / (1 + t**2)  # the data are standard normal
      >>> x = diffusion.sample(
      ...     diffusion.edm(), score, jax.random.key(0), (5000, 1), steps=40
      ... )
      >>> print(f"{x.mean():.1f} {x.std():.1f}")
      0.0 1.0

    References:
      Karras et al., 2022, arXiv:2206.00364, algorithm 2; Song et al., 2021,
      arXiv:2011.13456, eq. (13).
    """
    _check.one_of("sampler", sampler, _SAMPLERS)
    start, draw = jax.random.split(key)
    t_max = jnp.asarray(law.t_max, dtype)
    x = law.sigma(t_max) * jax.random.normal(start, shape, dtype)
    return _SAMPLERS[sampler](law, score_fn, draw, x, **options)
