"""Sinkhorn's iteration: numbers in, numbers out, no derivative.

The unknowns are held as logarithms in units of eps, relative to absorbed potentials:
`f = f0 + eps * u`, `g = g0 + eps * v`. With M = (f0 + g0 - C)/eps the half-steps are

    u <- -log sum_j b_j exp(M_ij + v_j),    v <- -log sum_i a_i exp(M_ij + u_i)

and there are two ways to take them. "kernel" takes the exponential of M alone: a
half-step is then one matrix-vector product, with a kernel that is built once where the
costs are held, and block by block where they are not. "log" leaves u and v in the
exponent: slower, and safe whatever the range of M. All else is shared, and "kernel"
takes a step of "log" where a product left the range of the dtype.

A marginal that is only penalised, by rho KL(. | a), has the half-step damped to
f <- f/(1 + eps/rho) of the plain one.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv._numerics import exp_remainder, exp_remainder_ratio
from jaxdiv.transport import _blocks
from jaxdiv.transport._blocks import Costs, Matrix
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


class Problem(NamedTuple):
    """What is to be solved.

    Attributes:
      costs: of all pairs.
      a: weights of the rows.
      b: weights of the columns.
      eps: strength of the regularisation.
      softness: 1/rho_a and 1/rho_b, or None where both marginals are held.
      threshold: error at which to stop.
    """

    costs: Costs
    a: Array
    b: Array
    eps: Array
    softness: tuple[Array, Array] | None
    threshold: Array


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


class _Side(NamedTuple):
    """One marginal, as the unknown u of its potential `eps * (base + u)` sees it."""

    weight: Array
    base: Array
    softness: Array | None  # eps / rho

    def damped(self, plain: Array) -> Array:
        """The half-step, from that of a marginal which is held."""
        # An atom with neither mass nor partner has no potential: any number will do.
        plain = jnp.where((self.weight == 0) & (plain == jnp.inf), 0, plain)
        if self.softness is None:
            return plain
        return (plain - self.softness * self.base) / (1 + self.softness)

    def target(self, u: Array) -> Array:
        """What the marginal should be."""
        if self.softness is None:
            return self.weight
        return self.weight * jnp.exp(-self.softness * (self.base + u))

    def log_excess(self, u: Array, u_next: Array) -> Array:
        """Log of the marginal over its target, from the half-step u -> u_next."""
        gap = u - u_next
        return gap if self.softness is None else gap * (1 + self.softness)

    def error(self, u: Array, u_next: Array) -> Array:
        """L1 distance of the marginal from its target."""
        log_excess = jnp.minimum(self.log_excess(u, u_next), _log_range(u, 0.8))
        return jnp.sum(self.target(u) * jnp.abs(jnp.expm1(log_excess)))

    def relaxed(self, u: Array, u_next: Array, momentum: Array) -> Array:
        """Over-relaxed half-step, plain where that would not raise the dual enough.

        With R(d) = exp(d) - 1 - d the plain step over d raises the dual by
        <weight, R(d)>, the relaxed one by <weight, R(d) - R((1 - momentum) d)>. To ask
        for half of what the quadratic part of R promises makes the iteration converge
        from anywhere. A soft marginal adds R(-s d)/s to R(d), s its softness.

        References:
          Thibault et al., 2017, arXiv:1711.01851.
        """
        d = u - u_next
        beyond = 1 - momentum
        lost = self._loss(beyond * d) - (1 + beyond**2) / 2 * self._loss(d)
        safe = jnp.sum(self.target(u_next) * lost) <= 0
        return u - jnp.where(safe, momentum, 1) * d

    def _loss(self, d: Array) -> Array:
        if self.softness is None:
            return exp_remainder(d)
        s = self.softness
        return exp_remainder(d) + s * d * d * exp_remainder_ratio(-s * d)


class _Steps(NamedTuple):
    """The half-steps at fixed absorbed potentials.

    Attributes:
      row: what belongs to u.
      column: what belongs to v.
      rows: v -> the next u.
      columns: u -> the next v.
      both: (u, v, momentum) -> v, the v that it was relaxed to reach, the next u.
    """

    row: _Side
    column: _Side
    rows: Callable[[Array], Array]
    columns: Callable[[Array], Array]
    both: Callable[[Array, Array, Array], tuple[Array, Array, Array]]


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


def exponent(f: Array, g: Array, C: Array, eps: Array) -> Array:
    """(f + g - C)/eps, bounded so that its exponential is finite.

    No pair of which one weight is positive comes near the bound. A forbidden pair
    gets -inf, and a derivative of 0 instead of inf - inf.
    """
    allowed = ~jnp.isposinf(C)
    slack = f[:, None] + g - jnp.where(allowed, C, 0)
    return jnp.where(allowed, jnp.minimum(slack / eps, _log_range(C, 0.8)), -jnp.inf)


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


def _log_range(x: Array, share: float) -> float:
    return share * math.log(jnp.finfo(x.dtype).max)


def _reach(x: Array, method: str) -> float:
    """Bound on |u| and |v| before they are absorbed: K keeps its range up to it."""
    return _log_range(x, 1 / 3) if method == "kernel" else math.inf


def _steps(f: Array, g: Array, problem: Problem, method: str) -> _Steps:
    costs, a, b, eps, softness, _ = problem
    soft_a, soft_b = (None, None) if softness is None else (eps * s for s in softness)
    row, column = _Side(a, f / eps, soft_a), _Side(b, g / eps, soft_b)
    if method == "kernel" and isinstance(costs, Matrix):
        return _held_steps(jnp.exp(exponent(f, g, costs.C, eps)), row, column)

    way = _kernel_way(a) if method == "kernel" else _log_way(a)
    neutral = jnp.full_like(f, way.neutral)

    def block(C: Array, g: Array) -> Array:
        return way.kernel(exponent(f, g, C, eps))

    def over_blocks(body: Callable, *columns: Array) -> tuple:
        combine = {"combine": way.combine, "start": neutral}
        return _blocks.fold(costs, body, *columns, **combine)

    def rows(v: Array) -> Array:
        def body(C: Array, g: Array, b: Array, v: Array) -> tuple[Array, tuple]:
            return way.to_rows(block(C, g), b, v), ()

        return row.damped(way.finish(over_blocks(body, g, b, v)[0]))

    def columns(u: Array) -> Array:
        def body(C: Array, g: Array) -> tuple[tuple, Array]:
            return (), way.to_columns(block(C, g), u)

        return column.damped(_blocks.fold(costs, body, g)[1])

    def both(u: Array, v: Array, momentum: Array) -> tuple[Array, Array, Array]:
        def body(C: Array, g: Array, b: Array, v: Array) -> tuple[Array, tuple]:
            K, side = block(C, g), _Side(b, g / eps, soft_b)
            v_next = side.damped(way.to_columns(K, u))
            v = side.relaxed(v, v_next, momentum)
            return way.to_rows(K, b, v), (v, v_next)

        total, (v, v_next) = over_blocks(body, g, b, v)
        return v, v_next, row.damped(way.finish(total))

    return _Steps(row, column, rows, columns, both)


class _Way(NamedTuple):
    """How to take the half-steps on a block of columns.

    Attributes:
      kernel: of the exponents M.
      to_columns: (kernel, u) -> the next v of its columns.
      to_rows: (kernel, b, v) -> its share of the next u.
      combine: two shares.
      neutral: the share of nothing.
      finish: all shares -> the next u.
    """

    kernel: Callable[[Array], Array]
    to_columns: Callable[[Array, Array], Array]
    to_rows: Callable[[Array, Array, Array], Array]
    combine: Callable[[Array, Array], Array]
    neutral: float
    finish: Callable[[Array], Array]


def _kernel_way(a: Array) -> _Way:
    return _Way(
        kernel=jnp.exp,
        to_columns=lambda K, u: -jnp.log(_product(a * jnp.exp(u), K)),
        to_rows=lambda K, b, v: _product(K, b * jnp.exp(v)),
        combine=jnp.add,
        neutral=0.0,
        finish=lambda total: -jnp.log(total),
    )


def _log_way(a: Array) -> _Way:
    lse = jax.nn.logsumexp
    return _Way(
        kernel=lambda M: M,
        to_columns=lambda M, u: -lse(M + (jnp.log(a) + u)[:, None], 0),
        to_rows=lambda M, b, v: lse(M + (jnp.log(b) + v), 1),
        combine=jnp.logaddexp,
        neutral=-math.inf,
        finish=jnp.negative,
    )


def _held_steps(K: Array, row: _Side, column: _Side) -> _Steps:
    def rows(v: Array) -> Array:
        return row.damped(-jnp.log(_product(K, column.weight * jnp.exp(v))))

    def columns(u: Array) -> Array:
        return column.damped(-jnp.log(_product(row.weight * jnp.exp(u), K)))

    def both(u: Array, v: Array, momentum: Array) -> tuple[Array, Array, Array]:
        v_next = columns(u)
        v = column.relaxed(v, v_next, momentum)
        return v, v_next, rows(v)

    return _Steps(row, column, rows, columns, both)


def _product(one: Array, two: Array) -> Array:
    return jnp.matmul(one, two, precision="highest")


def _log_step(state: _Outer, problem: Problem) -> _Outer:
    steps = _steps(state.f, state.g, problem, "log")
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
    steps = _steps(state.f, state.g, problem, options.method)
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


def _enter(state: _Outer, steps: _Steps, options: Options) -> _Inner:
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


def _iterate(s: _Inner, steps: _Steps) -> tuple[Array, Array, Array, Array]:
    """A block of iterations; the error is that of the state it ends in."""

    def body(_: Array, carry: tuple) -> tuple:
        u, v, u_next, _ = carry
        u = steps.row.relaxed(u, u_next, s.momentum)
        v, v_next, u_next = steps.both(u, v, s.momentum)
        error = steps.row.error(u, u_next) + steps.column.error(v, v_next)
        return *_translated(u, v, u_next, steps), error

    return jax.lax.fori_loop(0, CHECK_EVERY, body, (s.u, s.v, s.u_next, s.error))


def _translated(
    u: Array, v: Array, u_next: Array, steps: _Steps
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


def _iterate_symmetric(s: _Inner, steps: _Steps) -> tuple[Array, Array, Array, Array]:
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
