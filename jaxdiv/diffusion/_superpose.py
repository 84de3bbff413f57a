"""Sampling from several diffusion models at once."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import _check
from jaxdiv.diffusion._increment import directions
from jaxdiv.diffusion._noise import NoiseLaw
from jaxdiv.diffusion._superposed_step import (
    Plan,
    WeightFn,
    random_step,
    smooth_step,
)
from jaxdiv.typing import Array, ArrayLike, Key, ScoreFn

_MODES = ("and", "avg", "or")


class SuperpositionPath(NamedTuple):
    """All steps of a run of n steps.

    Attributes:
      t: times from t_max down to t_min, shape `(n + 1,)`.
      x: samples at these times, `(n + 1, B, ...)`.
      logq: log-densities of the models there, `(n + 1, B, M)`.
      weights: weights of the models in each step, `(n, B, M)`.
    """

    t: Array
    x: Array
    logq: Array
    weights: Array


class Superposition(NamedTuple):
    """Samples of a superposition of M models.

    Attributes:
      x: samples, shape `(B, ...)`.
      logq: estimate of each model's log-density at t_min at the sample, `(B, M)`.
      aux: the whole path where it was asked for, else None.
    """

    x: Array
    logq: Array
    aux: SuperpositionPath | None


def sample_superposition(
    score_fns: Sequence[ScoreFn] | ScoreFn,
    law: NoiseLaw | Sequence[NoiseLaw],
    key: Key,
    shape: tuple[int, ...],
    n_steps: int,
    *,
    mode: str | WeightFn = "or",
    stochastic: bool = True,
    temperature: ArrayLike = 1.0,
    bias: ArrayLike = 0.0,
    gain: float = 0.0,
    curvature: bool = True,
    divergence: str = "exact",
    n_probes: int = 1,
    rho: float = 2.0,
    return_trajectory: bool = False,
    dtype: Any = jnp.float32,
) -> Superposition:
    r"""Draws from several models at once, with their log-densities as the guide.

    .. math:: dx = \Bigl(-f + g^2\sum_j\kappa_j s_j\Bigr)d\tau + g\,dW, \qquad
              \sum_j\kappa_j = 1

    The weights belong to each sample and each step:

    - `"or"`: `or_weights` of the log-densities so far, a draw from the mixture of the
      models with weights proportional to :math:`e^\ell`, with :math:`\ell` the bias.
    - `"and"`: `and_step`, a draw where all models are equally dense. A bias lifts the
      end: log q_i - log q_j becomes :math:`\ell_i - \ell_j`.
    - `"avg"`: 1/M, the usual average of scores, for comparison.
    - a function of `(logq, scores, t)`, shapes `(B, M)`, `(M, B, ...)` and `()`, that
      gives weights which broadcast to `(B, M)`.

    The log-densities start at that of the noise at t_max and follow the samples by the
    Ito estimator, whose error falls as n_steps^(-1/2). With `stochastic=False` the
    probability flow :math:`dx/d\tau = -f + \tfrac12 g^2\sum_j\kappa_j s_j` is solved by
    Heun's method, two evaluations a step, and the log-densities are of second order
    too; they then need the divergence of every score. In `"and"` the velocity is
    infinite where the differences of the scores become linearly dependent, and a path
    that passes close by is thrown out. The noise of random steps has the g of the law:
    the estimator holds for no other.

    Args:
      score_fns: functions of `(x, t)`, t a scalar, one per model; or one function that
        returns all scores, shape `(M, B, ...)`. A sample's score must not depend on
        the other samples.
      law: noise law of all models, or one for each, which must agree.
      key: key of the initial noise, the noise of the steps and the probe.
      shape: shape of the samples, `(B, ...)`, batch first.
      n_steps: number of steps.
      mode: how the models are combined, see above.
      stochastic: whether the steps are random.
      temperature: T of `or_weights`, a number.
      bias: log-weights of the models in `"or"`, the lift in `"and"`; broadcasts to
        `(M,)`.
      gain: in `"and"`, the share of what differs in log q from its course that each
        step takes back, in [0, 1]; it removes the drift of rounding.
      curvature: in random `"and"` steps, count the noise that the projection takes
        away (see `and_step`): M - 1 directional derivatives of all scores a step.
        False is the published method, whose samples are not equally dense where the
        curvatures of the models differ, however small the steps.
      divergence: of the scores, which only `stochastic=False` needs: `"exact"`, by a
        directional derivative for each entry of a sample, at most 256; or
        `"hutchinson"`, the mean over `n_probes` vectors of random signs, which are
        fixed for the path and common to the models.
      n_probes: number of those vectors for each sample.
      rho: times are t_min + (t_max - t_min) u^rho with u uniform; 1 spaces them evenly,
        2 is dense near t_min.
      return_trajectory: keep the path in `aux`.
      dtype: dtype of the samples and log-densities, float32 or float64. Scores of a
        lower precision are converted.

    Returns:
      `Superposition` at t_min: `x`, `logq`, `aux`. A NaN in one score makes its sample
      NaN. With one model every mode is plain sampling.

    Raises:
      TypeError: there is nothing to call in `score_fns`.
      ValueError: laws that differ, t_min or n_steps that is not positive, an unknown
        mode, an option out of range, or scores of another shape.

    Differentiable through all evaluations in what the score functions close over, and
    in `bias` and `temperature`; each step is computed anew in the backward pass.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> law = diffusion.vp(t_min=1e-3)
      >>> def gaussian(mean):  # unit variance, which vp keeps
      ...     return lambda x, t: law.alpha(t) * mean - x
      >>> draw = diffusion.sample_superposition(
      ...     [gaussian(-2.0), gaussian(2.0)],
      ...     law,
      ...     jax.random.key(0),
      ...     (500, 1),
      ...     100,
      ...     mode="and",
      ... )
      >>> print(bool(jnp.abs(draw.logq[:, 0] - draw.logq[:, 1]).max() < 1e-4))
      True
      >>> print(bool(jnp.abs(draw.x).max() < 0.2))  # equally dense: x near 0
      True

    References:
      Skreta et al., 2025, arXiv:2412.17762, algorithm 1.
    """
    scores, laws = _stacked(score_fns), _laws(law)
    law = laws[0]
    _check_options(law, shape, n_steps, mode, rho, gain)
    start, noise, signs = jax.random.split(key, 3)
    x, log_prob = _noise(law, start, shape, dtype)
    count = _count_models(scores, x, law.t_max, len(laws))
    plan = Plan(
        scores=lambda x, t: jnp.asarray(scores(x, t), x.dtype),
        law=law,
        mode=mode,
        temperature=temperature,
        bias=_broadcast_bias(bias, count, dtype),
        gain=gain,
        curvature=curvature and count > 1,
    )
    if stochastic:
        take = partial(random_step, plan, noise)
    else:
        probes = directions(x, signs, n_probes, divergence=divergence)
        probes = jnp.broadcast_to(probes, (len(probes), *x.shape))
        take = partial(smooth_step, plan, probes)

    def step(carry: tuple, time: tuple) -> tuple[tuple, Any]:
        x, logq, lost = carry
        dx, gained, weights = take(x, logq, *time)
        x = x + dx
        logq, lost = _add(logq, lost, gained)
        return (x, logq, lost), (x, logq, weights) if return_trajectory else None

    logq = jnp.repeat(log_prob[:, None], count, 1)
    t, dt = (jnp.asarray(v, dtype) for v in _times(law, n_steps, rho))
    last, path = jax.lax.scan(
        jax.checkpoint(step, prevent_cse=False),  # type: ignore[reportPrivateImportUsage]
        (x, logq, jnp.zeros_like(logq)),
        (jnp.arange(n_steps), t, dt),
    )
    if path is not None:
        t = jnp.append(t, jnp.asarray(law.t_min, dtype))
        xs = jnp.concatenate([x[None], path[0]])
        logqs = jnp.concatenate([logq[None], path[1]])
        path = SuperpositionPath(t, xs, logqs, path[2])
    return Superposition(last[0], last[1], path)


def _stacked(score_fns: Sequence[ScoreFn] | ScoreFn) -> ScoreFn:
    if callable(score_fns):
        return score_fns
    functions = tuple(score_fns)
    if not functions or not all(map(callable, functions)):
        raise TypeError(
            f"score_fns is {score_fns!r}; expected functions of (x, t), one per model, "
            "or one function that returns all scores."
        )
    return lambda x, t: jnp.stack([score(x, t) for score in functions])


def _laws(law: NoiseLaw | Sequence[NoiseLaw]) -> tuple[NoiseLaw, ...]:
    """The laws, which must agree on a table of all that samplers use of them."""
    if isinstance(law, NoiseLaw):
        return (law,)
    laws = tuple(law)
    if not laws:
        raise ValueError("law is empty; expected a noise law, or one for each model.")
    with jax.ensure_compile_time_eval():
        tables = [_table(each, laws[0]) for each in laws]
    for i, table in enumerate(tables):
        if table is None or tables[0] is None:  # of traced values nothing is known
            continue
        for name, first, other in zip(NoiseLaw._fields, tables[0], table, strict=True):
            if not np.allclose(other, first, rtol=1e-4, atol=0):
                raise ValueError(
                    f"law {i} has another {name} than law 0; models can be superposed "
                    "only under one noise law."
                )
    return laws


def _table(law: NoiseLaw, first: NoiseLaw) -> list[np.ndarray] | None:
    t = jnp.linspace(first.t_min, first.t_max, 9)
    columns = [_check.concrete(jnp.asarray(f(t))) for f in law[:4]]
    known = [column for column in columns if column is not None]
    if len(known) < len(columns):
        return None
    return [*known, np.asarray(law.t_min), np.asarray(law.t_max)]


def _check_options(
    law: NoiseLaw,
    shape: tuple[int, ...],
    n_steps: int,
    mode: str | WeightFn,
    rho: float,
    gain: float,
) -> None:
    _check.positive(t_min=law.t_min, rho=rho)
    _check.in_range(law.t_min, t_max=law.t_max)
    _check.in_range(0.0, 1.0, closed=True, gain=gain)
    if not callable(mode):
        _check.one_of("mode", mode, _MODES)
    if n_steps < 1:
        raise ValueError(f"n_steps is {n_steps}; expected at least 1.")
    if len(shape) < 2:
        raise ValueError(f"shape is {shape}; expected (B, ...), batch first.")


def _count_models(scores: ScoreFn, x: Array, t: float, laws: int) -> int:
    shape = jax.eval_shape(scores, x, jnp.asarray(t, x.dtype)).shape
    if len(shape) != x.ndim + 1 or shape[1:] != x.shape or not shape[0]:
        raise ValueError(
            f"score_fns give shape {shape}; expected (M, ...) before the shape of the "
            f"samples, {x.shape}."
        )
    if laws not in (1, shape[0]):
        raise ValueError(f"law holds {laws} laws for {shape[0]} models.")
    return shape[0]


def _broadcast_bias(bias: ArrayLike, count: int, dtype: Any) -> Array:
    if np.shape(bias) not in ((), (1,), (count,)):
        raise ValueError(
            f"bias has shape {np.shape(bias)}; expected a scalar or ({count},), one "
            "number for each model."
        )
    return jnp.broadcast_to(jnp.asarray(bias, dtype), (count,))


def _times(law: NoiseLaw, n_steps: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of the steps, in NumPy's float64 so that short ones are."""
    u = np.linspace(1, 0, n_steps + 1)
    t = law.t_min + (law.t_max - law.t_min) * u**rho
    dt = -np.diff(t)
    if not (dt > 0).all():
        raise ValueError(
            f"rho is {rho}; with n_steps {n_steps} it makes steps of length 0. "
            "Expected a smaller one."
        )
    return t[:-1], dt


def _noise(
    law: NoiseLaw, key: Key, shape: tuple[int, ...], dtype: Any
) -> tuple[Array, Array]:
    """Samples of the noise at t_max and their log-density."""
    sigma = law.sigma(jnp.asarray(law.t_max, dtype))
    eps = jax.random.normal(key, shape, dtype)
    size = math.prod(shape[1:])
    constant = size * (math.log(2 * math.pi) / 2 + jnp.log(sigma))
    return sigma * eps, -jnp.sum(eps**2, range(1, eps.ndim)) / 2 - constant


def _add(total: Array, lost: Array, term: Array) -> tuple[Array, Array]:
    """Kahan's sum, since thousands of small terms are added to a large one."""
    term = term - lost
    new = total + term
    return new, (new - total) - term
