"""Sinkhorn's iteration: numbers in, numbers out, no derivative.

The unknowns are held as logarithms in units of eps, relative to absorbed potentials:
`f = f0 + eps * u`, `g = g0 + eps * v`. With M = (f0 + g0 - C)/eps the half-steps are

    u <- -log sum_j b_j exp(M_ij + v_j),    v <- -log sum_i a_i exp(M_ij + u_i)

and there are two ways to take them. "kernel" builds K = exp(M) once: a half-step is
then one matrix-vector product. "log" leaves M in the exponent: slower, and safe
whatever the range of M. All else is shared, and "kernel" takes a step of "log" where
a product left the range of the dtype.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv._numerics import exp_remainder
from jaxdiv.typing import Array

CHECK_EVERY = 5  # iterations between two looks at the error
_PATIENCE = 100  # looks without a new smallest error before the loop gives up
_MIN_MOMENTUM, _MAX_MOMENTUM = 1.5, 1.95  # after a first block of plain iterations

_HalfStep = Callable[[Array], Array]


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
    """What is to be solved."""

    C: Array
    a: Array
    b: Array
    eps: Array
    threshold: Array


class Solution(NamedTuple):
    """Where the iteration ended.

    Attributes:
      f: first potential, in no particular gauge.
      g: second potential, the c-transform of `f`: the second marginal is exact.
      error: L1 error of the marginals.
      n_iters: iterations taken.
      errors: the error at every look, -1 where there was none.
      feasible: False where an atom with mass has no partner at finite cost.
    """

    f: Array
    g: Array
    error: Array
    n_iters: Array
    errors: Array
    feasible: Array


class _Outer(NamedTuple):
    f: Array
    g: Array
    u: Array
    v: Array
    error: Array
    n_iters: Array
    errors: Array
    failed: Array
    done: Array


class _Inner(NamedTuple):
    u: Array
    v: Array
    u_next: Array  # c-transform of v: the next u and, free of charge, the row error
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
    C, a, b, eps, threshold = problem
    f, g, feasible = _start(problem, 0 if init is None else init[1])
    u, v = jnp.zeros_like(f), jnp.zeros_like(g)
    if init is not None:
        reach = _reach(C, options.method)
        u = jnp.clip((init[0] - f) / eps, -reach, reach)
        v = jnp.clip((init[1] - g) / eps, -reach, reach)
    state = _Outer(
        f=f,
        g=g,
        u=u,
        v=v,
        error=jnp.full((), jnp.inf, C.dtype),
        n_iters=jnp.zeros((), jnp.int32),
        errors=jnp.full(-(-options.max_iterations // CHECK_EVERY), -1.0, C.dtype),
        failed=jnp.zeros((), bool),
        done=~feasible | jnp.isnan(f).any() | jnp.isnan(g).any(),
    )
    state = jax.lax.while_loop(
        lambda s: ~s.done,
        lambda s: _absorb_and_iterate(s, problem, options),
        state,
    )
    return Solution(
        state.f, state.g, state.error, state.n_iters, state.errors, feasible
    )


def _start(problem: Problem, g: Array | float) -> tuple[Array, Array, Array]:
    """Hard c-transforms: every row and every column of K then has an entry of 1.

    Normalising the rows alone would let the column of an outlier underflow.
    """
    C, a, b, _, _ = problem
    f = jnp.min(C - g, 1, where=b > 0, initial=jnp.inf)
    feasible = jnp.all((f != jnp.inf) | (a == 0))
    f = jnp.where(f == jnp.inf, 0, f)
    g = jnp.min(C - f[:, None], 0, where=(a > 0)[:, None], initial=jnp.inf)
    feasible &= jnp.all((g != jnp.inf) | (b == 0))
    return f, jnp.where(g == jnp.inf, 0, g), feasible


def _log_range(x: Array, share: float) -> float:
    return share * math.log(jnp.finfo(x.dtype).max)


def _reach(x: Array, method: str) -> float:
    """Bound on |u| and |v| before they are absorbed: K keeps its range up to it."""
    return _log_range(x, 1 / 3) if method == "kernel" else math.inf


def _half_steps(
    M: Array, a: Array, b: Array, method: str
) -> tuple[_HalfStep, _HalfStep]:
    """The maps v -> next u and u -> next v."""
    if method == "kernel":
        K = jnp.exp(M)

        def rows(v: Array) -> Array:
            return -jnp.log(jnp.matmul(K, b * jnp.exp(v), precision="highest"))

        def columns(u: Array) -> Array:
            return -jnp.log(jnp.matmul(a * jnp.exp(u), K, precision="highest"))
    else:
        log_a, log_b = jnp.log(a), jnp.log(b)

        def rows(v: Array) -> Array:
            return -jax.nn.logsumexp(M + (log_b + v), 1)

        def columns(u: Array) -> Array:
            return -jax.nn.logsumexp(M + (log_a + u)[:, None], 0)

    def settled(half_step: _HalfStep, weight: Array) -> _HalfStep:
        # An atom with neither mass nor partner has no potential: any number will do.
        def step(z: Array) -> Array:
            new = half_step(z)
            return jnp.where((weight == 0) & (new == jnp.inf), 0, new)

        return step

    return settled(rows, a), settled(columns, b)


def _log_step(state: _Outer, problem: Problem) -> _Outer:
    C, a, b, eps, _ = problem
    M = exponent(state.f, state.g, C, eps)
    rows, columns = _half_steps(M, a, b, "log")
    u = rows(state.v)
    v = columns(u)
    return state._replace(
        f=state.f + eps * u,
        g=state.g + eps * v,
        u=jnp.zeros_like(u),
        v=jnp.zeros_like(v),
        failed=jnp.zeros((), bool),
    )


def _absorb_and_iterate(state: _Outer, problem: Problem, options: Options) -> _Outer:
    """Builds the kernel at the present potentials, iterates, ends on plain steps.

    The inner loop closes over the kernel and does not carry it: a carry would be
    copied at every look.
    """
    C, a, b, eps, threshold = problem
    method = options.method
    if method == "kernel":
        # A loop of at most one pass: unlike a `cond` it costs nothing under `vmap`.
        state = jax.lax.while_loop(
            lambda s: s.failed, lambda s: _log_step(s, problem), state
        )
    rows, columns = _half_steps(exponent(state.f, state.g, C, eps), a, b, method)
    iterate = _iterate_symmetric if options.symmetric else _iterate

    def going(s: _Inner) -> Array:
        ended = (s.n_iters >= options.max_iterations) | (s.waited >= _PATIENCE)
        return (s.error > threshold) & ~ended & s.finite & s.in_reach

    def block(s: _Inner) -> _Inner:
        return _accepted(s, iterate(s, a, b, rows, columns), options)

    s = jax.lax.while_loop(going, block, _enter(state, a, b, rows, columns, options))
    # Plain half-steps: the error cannot grow, and the second marginal becomes exact.
    u, v = s.u_next, columns(s.u_next)
    error = _marginal_error(a, u, rows(v))
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
        error=jnp.where(finite, error, jnp.sum(a) + jnp.sum(b)),  # it is never more
        n_iters=n_iters,
        errors=s.errors,
        failed=~finite,
        done=ended | (finite & (error <= threshold) & s.in_reach),
    )


def _enter(
    state: _Outer,
    a: Array,
    b: Array,
    rows: _HalfStep,
    columns: _HalfStep,
    options: Options,
) -> _Inner:
    u_next = rows(state.v)
    error = _marginal_error(a, state.u, u_next)
    error += _marginal_error(b, state.v, columns(state.u))
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


def _iterate(
    s: _Inner, a: Array, b: Array, rows: _HalfStep, columns: _HalfStep
) -> tuple[Array, Array, Array, Array]:
    """A block of iterations; the error is that of the state it ends in."""

    def body(_: Array, carry: tuple) -> tuple:
        u, v, u_next, _ = carry
        u = _relaxed(a, u, u_next, s.momentum)
        v_next = columns(u)
        v = _relaxed(b, v, v_next, s.momentum)
        u_next = rows(v)
        error = _marginal_error(a, u, u_next) + _marginal_error(b, v, v_next)
        return u, v, u_next, error

    return jax.lax.fori_loop(0, CHECK_EVERY, body, (s.u, s.v, s.u_next, s.error))


def _iterate_symmetric(
    s: _Inner, a: Array, b: Array, rows: _HalfStep, columns: _HalfStep
) -> tuple[Array, Array, Array, Array]:
    """As `_iterate` where u = v: the average of u and its transform halves the error.

    References:
      Feydy et al., 2018, arXiv:1810.08278, section 3.1.
    """

    def body(_: Array, carry: tuple) -> tuple:
        u, u_next = carry
        u = (u + u_next) / 2
        return u, rows(u)

    u, u_next = jax.lax.fori_loop(0, CHECK_EVERY, body, (s.u, s.u_next))
    return u, u, u_next, 2 * _marginal_error(a, u, u_next)


def _relaxed(weight: Array, z: Array, z_next: Array, momentum: Array) -> Array:
    """Over-relaxed half-step, plain where that would not raise the dual enough.

    With R(d) = exp(d) - 1 - d the plain step over d raises the dual by <weight, R(d)>,
    the relaxed one by <weight, R(d) - R((1 - momentum) d)>. To ask for half of what
    the quadratic part of R promises makes the iteration converge from anywhere.

    References:
      Thibault et al., 2017, arXiv:1711.01851.
    """
    d = z - z_next
    beyond = 1 - momentum
    lost = exp_remainder(beyond * d) - (1 + beyond**2) / 2 * exp_remainder(d)
    safe = jnp.sum(weight * lost) <= 0
    return z - jnp.where(safe, momentum, 1) * d


def _marginal_error(weight: Array, z: Array, z_next: Array) -> Array:
    """L1 error of the marginal that the half-step from z to z_next makes exact."""
    log_ratio = jnp.minimum(z - z_next, _log_range(z, 0.8))  # 0 * exp(.) stays 0
    return jnp.sum(weight * jnp.abs(jnp.expm1(log_ratio)))


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
