"""Sinkhorn's iteration: numbers in, numbers out, no derivative.

The unknowns are held as logarithms in units of eps, relative to absorbed potentials:
`f = f0 + eps * u`, `g = g0 + eps * v`. The half-steps are those of `_half_steps`, by
way of "kernel", "log" or "pallas"; "kernel" takes a step of "log" where a product left
the range of the dtype.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.transport import _blocks
from jaxdiv.transport._half_steps import Problem, Steps, half_steps, log_range
from jaxdiv.typing import Array

CHECK_EVERY = 5  # iterations of a block, after which the momentum is adapted
_PATIENCE = 100  # blocks without a new smallest error before the loop gives up
_FIRST_AIM = 10.0  # times the threshold; over-relaxed iterates have the larger errors
_FAILURES = 3  # of a kernel, after which the steps of "log" end the work
_INFEASIBLE, _NAN = 1, 2  # what may be wrong with the start
_MIN_MOMENTUM, _MAX_MOMENTUM = 1.5, 1.95  # once adapted


class Options(NamedTuple):
    """How to iterate; hashable, so static under `jit`.

    Attributes:
      method: "kernel", "log" or "pallas".
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


class _State(NamedTuple):
    f: Array
    g: Array
    u: Array
    v: Array
    u_next: Array  # transform of v: the next u; between two kernels the row excess
    error: Array
    n_iters: Array
    errors: Array
    momentum: Array
    best: Array
    waited: Array  # blocks since the best error
    aim: Array  # error at which to try a plain iteration
    settling: Array  # the next block is one plain iteration
    settled: Array  # nothing is left to do with this kernel
    failed: Array  # a product left the range of the dtype
    failures: Array  # how often; from _FAILURES on, steps of "log" since then
    done: Array


def solve(
    problem: Problem, init: tuple[Array, Array] | None, options: Options
) -> Solution:
    """Potentials of the entropic problem."""
    eps = problem.eps
    f, g, status = _start(problem, None if init is None else init[1])
    u, v = jnp.zeros_like(f), jnp.zeros_like(g)
    if init is not None:
        reach = _reach(f, options.method)
        u = jnp.clip((init[0] - f) / eps, -reach, reach)
        v = jnp.clip((init[1] - g) / eps, -reach, reach)
    no, inf = jnp.zeros((), bool), jnp.full((), jnp.inf, f.dtype)
    state = _State(
        f=f,
        g=g,
        u=u,
        v=v,
        u_next=u,
        error=inf,
        n_iters=jnp.zeros((), jnp.int32),
        errors=jnp.full(-(-options.max_iterations // CHECK_EVERY), -1.0, f.dtype),
        momentum=jnp.full_like(inf, options.momentum or 1.0),
        best=inf,
        waited=jnp.zeros((), jnp.int32),
        aim=_FIRST_AIM * problem.threshold,
        settling=jnp.full((), init is not None),  # it may leave nothing to do
        settled=no,
        failed=no,
        failures=jnp.zeros((), jnp.int32),
        done=status > 0,
    )
    state = jax.lax.while_loop(
        lambda s: ~s.done,
        lambda s: _absorb_and_iterate(s, problem, options),
        state,
    )
    return Solution(
        f=state.f,
        g=state.g,
        log_excess=state.u_next,
        error=state.error,
        n_iters=state.n_iters,
        errors=state.errors,
        feasible=status != _INFEASIBLE,
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
    alone = jnp.any((f == jnp.inf) & (a != 0))
    f = jnp.where(f == jnp.inf, 0, f)
    g_next = _blocks.fold(costs, over_rows)[1]
    alone |= jnp.any((g_next == jnp.inf) & (b != 0))
    g_next = jnp.where(g_next == jnp.inf, 0, g_next)
    unknown = jnp.isnan(f).any() | jnp.isnan(g_next).any()
    return f, g_next, jnp.where(unknown, _NAN, jnp.where(alone, _INFEASIBLE, 0))


def _reach(x: Array, method: str) -> float:
    """Bound on |u| and |v| before they are absorbed: K keeps its range up to it."""
    return log_range(x, 1 / 3) if method == "kernel" else math.inf


def _log_step(
    state: _State, problem: Problem, threshold: Array, options: Options
) -> _State:
    """One step of "log" after a failed block; after the last one, all that are left."""
    steps = half_steps(state.f, state.g, problem, "log")
    zero = jnp.zeros_like(state.v)
    u_next = steps.rows(zero)
    exhausted = _exhausted(state.n_iters, state.waited, options)
    stuck = exhausted | (state.failures >= _FAILURES)
    # What a step of "log" has left is exact in its second marginal.
    error = jnp.sum(steps.row.off(jnp.zeros_like(u_next), u_next))
    done = error <= threshold
    kept = (state.failures > _FAILURES) & (done | exhausted)
    u = jnp.where(kept, 0, u_next)
    v = jnp.where(kept, 0, steps.columns(u))
    taken = jnp.where(stuck, jnp.where(kept, 0, 1), CHECK_EVERY)
    failures = jnp.maximum(state.failures, _FAILURES) + 1
    return state._replace(
        f=state.f + problem.eps * u,
        g=state.g + problem.eps * v,
        u=jnp.zeros_like(u),
        v=zero,
        u_next=u_next,
        error=error,
        n_iters=state.n_iters + taken,  # bounds the number of failures
        settled=kept,
        failed=stuck & ~kept,
        failures=jnp.where(stuck, failures, state.failures),
        done=kept & done,
    )


def _absorb_and_iterate(state: _State, problem: Problem, options: Options) -> _State:
    """Builds the kernel at the present potentials, iterates, ends on plain steps.

    The inner loop closes over the kernel and does not carry it: a carry would be
    copied at every look.
    """
    eps = problem.eps
    unseen = jnp.minimum(2 * rounding(problem, state.f, state.g), problem.threshold / 2)
    threshold = problem.threshold - unseen
    no = jnp.zeros_like(state.failed)
    state = state._replace(settled=no)
    if options.method == "kernel":
        # A loop and no `cond`: under `vmap` it costs nothing where nothing failed.
        state = jax.lax.while_loop(
            lambda s: s.failed,
            lambda s: _log_step(s, problem, threshold, options),
            state,
        )
    if options.symmetric:
        mean = (state.f + state.g) / 2
        f, g = (jnp.where(state.settled, z, mean) for z in (state.f, state.g))
        state = state._replace(f=f, g=g)
    steps = half_steps(state.f, state.g, problem, options.method)
    iterate = _iterate_symmetric if options.symmetric else _iterate
    s = jax.lax.while_loop(
        lambda s: ~s.settled,
        lambda s: _accepted(s, iterate(s, steps, options), threshold, options),
        state._replace(
            u_next=jnp.where(state.settled, state.u_next, state.u), failed=no
        ),
    )
    log_excess = steps.row.log_excess(s.u, s.u_next)
    ended = _exhausted(s.n_iters, s.waited, options)
    if options.method == "kernel":
        ended &= ~s.failed  # "log" has the last word
    return s._replace(
        f=s.f + eps * s.u,
        g=s.g + eps * s.v,
        u=jnp.zeros_like(s.u),
        v=jnp.zeros_like(s.v),
        u_next=jnp.where(s.failed, jnp.nan, log_excess),
        error=jnp.where(s.failed, _most(problem), s.error),
        done=ended | (s.done & ~s.failed),
    )


def rounding(problem: Problem, f: Array, g: Array) -> Array:
    """What the plan owes to the rounding of f and g, which the iteration cannot see."""
    size = jnp.vdot(problem.a, jnp.abs(f)) + jnp.vdot(problem.b, jnp.abs(g))
    return jnp.finfo(f.dtype).eps / 2 * size / problem.eps


def _most(problem: Problem) -> Array:
    """What the error is not more than, once one marginal is exact."""
    return jnp.sum(problem.a) + jnp.sum(problem.b)


def _exhausted(n_iters: Array, waited: Array, options: Options) -> Array:
    return (n_iters >= options.max_iterations) | (waited >= _PATIENCE)


def _length(s: _State, options: Options) -> Array:
    """Iterations of the next block; 1 and 2 are looked at, for a first rate."""
    short = s.settling | (s.n_iters < 2)
    length = jnp.where(s.n_iters == 2, CHECK_EVERY - 2, CHECK_EVERY)
    return jnp.where(short, 1, jnp.minimum(length, options.max_iterations - s.n_iters))


def _iterate(
    s: _State, steps: Steps, options: Options
) -> tuple[Array, Array, Array, Array, Array]:
    """A block of iterations; the error is that of the state it ends in."""
    # Plain when settling: the error cannot grow, and the second marginal is exact.
    momentum = jnp.where(s.settling, 1, s.momentum)

    def body(u: Array, v: Array, u_next: Array) -> tuple[Array, Array, Array, Array]:
        u = steps.row.relaxed(u, u_next, momentum)
        v, v_next, u_next = steps.both(u, v, momentum)
        # Two sums: joined to one array, a sharded u would be gathered.
        error = jnp.sum(steps.row.off(u, u_next))
        error += jnp.sum(steps.column.off(v, v_next))
        return *_translated(u, v, u_next, s.settling, steps), error

    return _until_near(s, options, body)


def _until_near(
    s: _State, options: Options, body: Callable
) -> tuple[Array, Array, Array, Array, Array]:
    """Repeats `body` for the length of a block, or until the error is small."""
    length = _length(s, options)

    def going(carry: tuple) -> Array:
        *_, error, i = carry
        return (i == 0) | ((i < length) & (error > s.aim))

    def step(carry: tuple) -> tuple:
        u, v, u_next, _, i = carry
        return *body(u, v, u_next), i + 1

    start = (s.u, s.v, s.u_next, s.error, jnp.zeros_like(s.n_iters))
    return jax.lax.while_loop(going, step, start)


def _translated(
    u: Array, v: Array, u_next: Array, settling: Array, steps: Steps
) -> tuple[Array, Array, Array]:
    """The best of all (f + t, g - t), which soft marginals alone reach slowly.

    References:
      Sejourne, Vialard and Peyre, 2022, arXiv:2201.00730.
    """
    row, column = steps.row, steps.column
    if row.softness is None or column.softness is None:
        return u, v, u_next
    total = row.softness + column.softness
    held = (total == 0) | settling
    t = jax.nn.logsumexp(-row.softness * (row.base + u), b=row.weight)
    t -= jax.nn.logsumexp(-column.softness * (column.base + v), b=column.weight)
    t = jnp.where(held, 0, t / jnp.where(held, 1, total))
    return u + t, v - t, u_next + t / (1 + row.softness)


def _iterate_symmetric(
    s: _State, steps: Steps, options: Options
) -> tuple[Array, Array, Array, Array, Array]:
    """As `_iterate` where u = v: the average of u and its transform halves the error.

    References:
      Feydy et al., 2018, arXiv:1810.08278, section 3.1.
    """
    share = jnp.where(s.settling, 1, 0.5)

    def body(_: Array, v: Array, v_next: Array) -> tuple[Array, Array, Array, Array]:
        new = v + share * (v_next - v)
        new_next = steps.rows(new)
        off = steps.row.off(jnp.where(s.settling, v, new), new_next)
        return v, new, new_next, jnp.sum(off) / share

    return _until_near(s, options, body)


def _accepted(
    s: _State,
    new: tuple[Array, Array, Array, Array, Array],
    threshold: Array,
    options: Options,
) -> _State:
    """The outcome of a block, or what was before it where that is not finite."""
    u, v, u_next, error, length = new
    finite = jnp.isfinite(error)  # every u and v enters it
    momentum = s.momentum
    if options.momentum is None:
        momentum = _adapted(momentum, s.error, error, length)
    better = error < s.best
    look = jax.lax.div(s.n_iters, jnp.int32(CHECK_EVERY))
    in_reach = jnp.maximum(jnp.abs(u).max(), jnp.abs(v).max()) <= _reach(
        u, options.method
    )
    done = (error <= threshold) & in_reach
    n_iters = s.n_iters + length
    waited = jnp.where(better, 0, s.waited + 1)
    leaving = done | ~in_reach | ~finite | s.failed
    leaving |= _exhausted(n_iters, waited, options)
    settled = s.settling & leaving
    tried = s.settling & (s.error <= s.aim)
    aim = jnp.where(tried, jnp.maximum(s.aim / 3, threshold), s.aim)
    return s._replace(
        u=jnp.where(finite, u, s.u),
        v=jnp.where(finite, v, s.v),
        u_next=jnp.where(finite, u_next, s.u_next),
        error=error,
        n_iters=jnp.where(settled, s.n_iters, n_iters),
        errors=s.errors.at[look].set(jnp.where(s.settling, s.errors[look], error)),
        momentum=jnp.where(s.settling, s.momentum, momentum),
        best=jnp.where(better, error, s.best),
        waited=waited,
        aim=aim,
        settling=~s.settling & ((error <= s.aim) | leaving),
        settled=settled,
        failed=s.failed | ~finite,
        failures=s.failures + (~finite & ~s.failed),
        done=done,
    )


def _adapted(momentum: Array, before: Array, now: Array, length: Array) -> Array:
    """Momentum from the observed rate, by Young's relation for over-relaxation.

    A method with rate r at momentum 1 has at momentum w the rate l that solves
    (l + w - 1)^2 = l w^2 r, as long as l > w - 1; its best w is 2/(1 + sqrt(1 - r)).
    Half of the way to it is gone, as one look at the error is a noisy estimate. A rate
    of w - 1 or less says that w is past its best.
    """
    rate = (now / before) ** (1 / length)
    plain = (rate + momentum - 1) ** 2 / (rate * momentum**2)
    best = 2 / (1 + jnp.sqrt(jnp.maximum(1 - plain, 0)))
    raised = jnp.maximum(momentum, (momentum + jnp.minimum(best, _MAX_MOMENTUM)) / 2)
    lowered = 1 + 0.95 * (momentum - 1)
    known = jnp.where(rate > momentum - 1, raised, lowered)
    known = jnp.maximum(jnp.where(rate < 1, known, momentum), _MIN_MOMENTUM)
    return jnp.where(before < jnp.inf, known, momentum)
