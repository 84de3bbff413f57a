"""Sinkhorn's iteration: numbers in, numbers out, no derivative.

The unknowns are held as logarithms in units of eps, relative to absorbed potentials:
`f = f0 + eps * u`, `g = g0 + eps * v`. The half-steps are those of `_half_steps`, by
way of "kernel" or of "log"; "kernel" takes a step of "log" where a product left the
range of the dtype.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.transport import _blocks
from jaxdiv.transport._half_steps import Problem, Steps, half_steps, log_range
from jaxdiv.typing import Array

CHECK_EVERY = 5  # iterations between two looks at the error
_PATIENCE = 100  # looks without a new smallest error before the loop gives up
_MIN_MOMENTUM, _MAX_MOMENTUM = 1.5, 1.95  # after a first block of plain iterations


class Options(NamedTuple):
    """How to iterate; hashable, so static under `jit`.

    Attributes:
      method: "kernel" or "log".
      max_iterations: iterations at most.
      momentum: over-relaxation in [1, 2), or None to adapt it.
      symmetric: the two clouds and their weights are the same, and so is the cost in
        both directions; the momentum is then not used.
    """

    method: str
    max_iterations: int
    momentum: float | None
    symmetric: bool = False


class Solution(NamedTuple):
    """Where the iteration ended.

    Attributes:
      f: first potential, in no particular gauge.
      g: second potential, the c-transform of `f`: the second marginal is exact.
      log_excess: log of the plan's first marginal over what it should be.
      error: L1 error of the marginals.
      n_iters: iterations taken.
      errors: the error at every look, -1 where there was none.
      feasible: False where an atom with mass has no partner at finite cost.
    """

    f: Array
    g: Array
    log_excess: Array
    error: Array
    n_iters: Array
    errors: Array
    feasible: Array


class _Outer(NamedTuple):
    f: Array
    g: Array
    u: Array
    v: Array
    log_excess: Array
    error: Array
    n_iters: Array
    errors: Array
    failed: Array
    done: Array


class _Inner(NamedTuple):
    u: Array
    v: Array
    u_next: Array  # transform of v: the next u and, free of charge, the row error
    error: Array
    n_iters: Array
    errors: Array
    momentum: Array
    best: Array
    waited: Array  # looks since the best error
    finite: Array
    in_reach: Array


def solve(
    problem: Problem, init: tuple[Array, Array] | None, options: Options
) -> Solution:
    """Potentials of the entropic problem."""
    eps = problem.eps
    f, g, feasible = _start(problem, None if init is None else init[1])
    u, v = jnp.zeros_like(f), jnp.zeros_like(g)
    if init is not None:
        reach = _reach(f, options.method)
        u = jnp.clip((init[0] - f) / eps, -reach, reach)
        v = jnp.clip((init[1] - g) / eps, -reach, reach)
    state = _Outer(
        f=f,
        g=g,
        u=u,
        v=v,
        log_excess=jnp.full_like(f, jnp.nan),
        error=jnp.full((), jnp.inf, f.dtype),
        n_iters=jnp.zeros((), jnp.int32),
        errors=jnp.full(-(-options.max_iterations // CHECK_EVERY), -1.0, f.dtype),
        failed=jnp.zeros((), bool),
        done=~feasible | jnp.isnan(f).any() | jnp.isnan(g).any(),
    )
    state = jax.lax.while_loop(
        lambda s: ~s.done,
        lambda s: _absorb_and_iterate(s, problem, options),
        state,
    )
    return Solution(
        f=state.f,
        g=state.g,
        log_excess=state.log_excess,
        error=state.error,
        n_iters=state.n_iters,
        errors=state.errors,
        feasible=feasible,
    )


def _start(problem: Problem, g: Array | None) -> tuple[Array, Array, Array]:
    """Hard c-transforms: every row and every column of K then has an entry of 1.

    Normalising the rows alone would let the column of an outlier underflow.
    """
    costs, a, b = problem.costs, problem.a, problem.b
    start = jnp.zeros_like(b) if g is None else g

    def over_columns(C: Array, g: Array, b: Array) -> tuple[Array, tuple]:
        return jnp.min(C - g, 1, where=b > 0, initial=jnp.inf), ()

    def over_rows(C: Array) -> tuple[tuple, Array]:
        slack = C - f[:, None]
        return (), jnp.min(slack, 0, where=(a > 0)[:, None], initial=jnp.inf)

    f, _ = _blocks.fold(
        costs,
        over_columns,
        start,
        b,
        combine=jnp.minimum,
        start=jnp.full_like(a, jnp.inf),
    )
    feasible = jnp.all((f != jnp.inf) | (a == 0))
    f = jnp.where(f == jnp.inf, 0, f)
    g_next = _blocks.fold(costs, over_rows)[1]
    feasible &= jnp.all((g_next != jnp.inf) | (b == 0))
    return f, jnp.where(g_next == jnp.inf, 0, g_next), feasible


def _reach(x: Array, method: str) -> float:
    """Bound on |u| and |v| before they are absorbed: K keeps its range up to it."""
    return log_range(x, 1 / 3) if method == "kernel" else math.inf


def _log_step(state: _Outer, problem: Problem) -> _Outer:
    steps = half_steps(state.f, state.g, problem, "log")
    u = steps.rows(state.v)
    v = steps.columns(u)
    return state._replace(
        f=state.f + problem.eps * u,
        g=state.g + problem.eps * v,
        u=jnp.zeros_like(u),
        v=jnp.zeros_like(v),
        failed=jnp.zeros((), bool),
    )


def _absorb_and_iterate(state: _Outer, problem: Problem, options: Options) -> _Outer:
    """Builds the kernel at the present potentials, iterates, ends on plain steps.

    The inner loop closes over the kernel and does not carry it: a carry would be
    copied at every look.
    """
    eps, threshold = problem.eps, problem.threshold
    if options.method == "kernel":
        # A loop of at most one pass: unlike a `cond` it costs nothing under `vmap`.
        state = jax.lax.while_loop(
            lambda s: s.failed, lambda s: _log_step(s, problem), state
        )
    steps = half_steps(state.f, state.g, problem, options.method)
    iterate = _iterate_symmetric if options.symmetric else _iterate

    def going(s: _Inner) -> Array:
        ended = (s.n_iters >= options.max_iterations) | (s.waited >= _PATIENCE)
        return (s.error > threshold) & ~ended & s.finite & s.in_reach

    def block(s: _Inner) -> _Inner:
        return _accepted(s, iterate(s, steps), options)

    s = jax.lax.while_loop(going, block, _enter(state, steps, options))
    # Plain half-steps: the error cannot grow, and the second marginal becomes exact.
    u, v = s.u_next, steps.columns(s.u_next)
    u_next = steps.rows(v)
    error = steps.row.error(u, u_next)
    finite = s.finite & jnp.isfinite(error)
    u, v = jnp.where(finite, u, s.u), jnp.where(finite, v, s.v)
    n_iters = s.n_iters + jnp.where(finite, 0, CHECK_EVERY)  # bounds the failures
    ended = (n_iters >= options.max_iterations) | (s.waited >= _PATIENCE)
    # After a failed block comes a step of "log", so that g is a c-transform at the end.
    ended &= finite | (s.n_iters == state.n_iters)
    return _Outer(
        f=state.f + eps * u,
        g=state.g + eps * v,
        u=jnp.zeros_like(u),
        v=jnp.zeros_like(v),
        log_excess=jnp.where(finite, steps.row.log_excess(u, u_next), jnp.nan),
        error=jnp.where(finite, error, _most(problem)),
        n_iters=n_iters,
        errors=s.errors,
        failed=~finite,
        done=ended | (finite & (error <= threshold) & s.in_reach),
    )


def _most(problem: Problem) -> Array:
    """What the error is not more than, once one marginal is exact."""
    return jnp.sum(problem.a) + jnp.sum(problem.b)


def _enter(state: _Outer, steps: Steps, options: Options) -> _Inner:
    u_next = steps.rows(state.v)
    error = steps.row.error(state.u, u_next)
    error += steps.column.error(state.v, steps.columns(state.u))
    return _Inner(
        u=state.u,
        v=state.v,
        u_next=u_next,
        error=error,
        n_iters=state.n_iters,
        errors=state.errors,
        momentum=jnp.full((), options.momentum or 1.0, error.dtype),
        best=jnp.full((), jnp.inf, error.dtype),
        waited=jnp.zeros((), jnp.int32),
        finite=jnp.ones((), bool),
        in_reach=jnp.ones((), bool),
    )


def _iterate(s: _Inner, steps: Steps) -> tuple[Array, Array, Array, Array]:
    """A block of iterations; the error is that of the state it ends in."""

    def body(_: Array, carry: tuple) -> tuple:
        u, v, u_next, _ = carry
        u = steps.row.relaxed(u, u_next, s.momentum)
        v, v_next, u_next = steps.both(u, v, s.momentum)
        error = steps.row.error(u, u_next) + steps.column.error(v, v_next)
        return *_translated(u, v, u_next, steps), error

    return jax.lax.fori_loop(0, CHECK_EVERY, body, (s.u, s.v, s.u_next, s.error))


def _translated(
    u: Array, v: Array, u_next: Array, steps: Steps
) -> tuple[Array, Array, Array]:
    """The best of all (f + t, g - t), which soft marginals alone reach slowly.

    References:
      Sejourne, Vialard and Peyre, 2022, arXiv:2201.00730.
    """
    row, column = steps.row, steps.column
    if row.softness is None or column.softness is None:
        return u, v, u_next
    total = row.softness + column.softness
    held = total == 0
    t = jax.nn.logsumexp(-row.softness * (row.base + u), b=row.weight)
    t -= jax.nn.logsumexp(-column.softness * (column.base + v), b=column.weight)
    t = jnp.where(held, 0, t / jnp.where(held, 1, total))
    return u + t, v - t, u_next + t / (1 + row.softness)


def _iterate_symmetric(s: _Inner, steps: Steps) -> tuple[Array, Array, Array, Array]:
    """As `_iterate` where u = v: the average of u and its transform halves the error.

    References:
      Feydy et al., 2018, arXiv:1810.08278, section 3.1.
    """

    def body(_: Array, carry: tuple) -> tuple:
        u, u_next = carry
        u = (u + u_next) / 2
        return u, steps.rows(u)

    u, u_next = jax.lax.fori_loop(0, CHECK_EVERY, body, (s.u, s.u_next))
    return u, u, u_next, 2 * steps.row.error(u, u_next)


def _accepted(
    s: _Inner,
    new: tuple[Array, Array, Array, Array],
    options: Options,
) -> _Inner:
    """The outcome of a block, or what was before it where that is not finite."""
    u, v, u_next, error = new
    finite = jnp.isfinite(error)  # every u and v enters it
    momentum = s.momentum
    if options.momentum is None:
        momentum = _adapted(momentum, s.error, error)
    better = error < s.best
    return _Inner(
        u=jnp.where(finite, u, s.u),
        v=jnp.where(finite, v, s.v),
        u_next=jnp.where(finite, u_next, s.u_next),
        error=error,
        n_iters=s.n_iters + CHECK_EVERY,
        errors=s.errors.at[jax.lax.div(s.n_iters, jnp.int32(CHECK_EVERY))].set(error),
        momentum=momentum,
        best=jnp.where(better, error, s.best),
        waited=jnp.where(better, 0, s.waited + 1),
        finite=finite,
        in_reach=jnp.maximum(jnp.abs(u).max(), jnp.abs(v).max())
        <= _reach(u, options.method),
    )


def _adapted(momentum: Array, before: Array, now: Array) -> Array:
    """Momentum from the observed rate, by Young's relation for over-relaxation.

    A method with rate r at momentum 1 has at momentum w the rate l that solves
    (l + w - 1)^2 = l w^2 r, as long as l > w - 1; its best w is 2/(1 + sqrt(1 - r)).
    Half of the way to it is gone, as one look at the error is a noisy estimate. A rate
    of w - 1 or less says that w is past its best.
    """
    rate = (now / before) ** (1 / CHECK_EVERY)
    plain = (rate + momentum - 1) ** 2 / (rate * momentum**2)
    best = 2 / (1 + jnp.sqrt(jnp.maximum(1 - plain, 0)))
    raised = jnp.maximum(momentum, (momentum + jnp.minimum(best, _MAX_MOMENTUM)) / 2)
    lowered = 1 + 0.95 * (momentum - 1)
    known = jnp.where(rate > momentum - 1, raised, lowered)
    return jnp.maximum(jnp.where(rate < 1, known, momentum), _MIN_MOMENTUM)
