r"""Quadratic and linear programs, solved by an interior point method.

The equalities are eliminated first: with an orthonormal basis Z of the null space of E
every feasible z is z_0 + Z w, and the iteration is left with the inequalities
in n - m unknowns. What remains of an iteration is one product G' D G and one Cholesky
factorisation of that size. At its end the active set is known, and the equations with
the active rows as equalities give the remaining digits, the multipliers and the
derivative, all from the same factorisation.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.lax.linalg import cholesky, lu, triangular_solve

from jaxdiv import _check
from jaxdiv.implicit._primitive import implicit_identity
from jaxdiv.implicit._solution import Solution
from jaxdiv.typing import Array, ArrayLike, PyTree

_RUNNING, _OPTIMAL, _INFEASIBLE, _UNBOUNDED = range(4)
_ROUNDS = 2  # interior point, then the active set; again to the end if it was wrong
_REFINEMENTS = 30

_Triple = tuple[Array, Array, Array]


class _Problem(NamedTuple):
    """min 1/2 z'Qz + c'z subject to Ez = d, Mz <= h."""

    Q: Array
    c: Array
    E: Array
    d: Array
    M: Array
    h: Array


class _Scales(NamedTuple):
    """What was divided out: z = columns y, a row of E by `equal`, of M by `below`."""

    columns: Array
    equal: Array
    below: Array
    objective: Array
    size: Array


class _Space(NamedTuple):
    """The solutions of Ez = d.

    Attributes:
      Z: orthonormal columns that span the null space of E; some may be zero.
      idle: 1 for the zero columns of Z, else 0.
      B: pseudo-inverse of E.
    """

    Z: Array
    idle: Array
    B: Array


class _Reduced(NamedTuple):
    """min 1/2 w'Pw + q'w subject to Gw <= g.

    Attributes:
      P: Z'QZ.
      q: slope at the origin.
      G: rows of M times Z, 0 where there is no bound.
      g: what is left of h at the origin.
      idle: 1 where w has no meaning and stays 0.
      origin: the solution of Ez = d of least norm.
    """

    P: Array
    q: Array
    G: Array
    g: Array
    idle: Array
    origin: Array


class _Iterate(NamedTuple):
    w: Array
    s: Array
    lam: Array
    dual: Array  # Pw + q + G'lam
    primal: Array  # Gw + s - g
    error: Array
    delta: Array
    status: Array
    iterations: Array


class _Found(NamedTuple):
    """A solution with what a linear system at it needs.

    Attributes:
      point: (z, nu, lam).
      S: Z (Z' (Q + M' diag(rho) M) Z)^{-1} Z', shape `(n, n)`.
      B: pseudo-inverse of E.
      rho: penalty of every active row, 0 where a row is not active.
      residual: largest scaled residual of the KKT conditions.
      status: what the iteration found out.
      iterations: iterations taken.
    """

    point: _Triple
    S: Array
    B: Array
    rho: Array
    residual: Array
    status: Array
    iterations: Array


def _regular(x: Array) -> float:
    """What is added to a diagonal: small, and well above the rounding of a product."""
    return float(jnp.finfo(x.dtype).eps) ** 0.6


def _largest(x: Array) -> Array:
    return jnp.max(jnp.abs(x), initial=0.0)


def _guard(scale: Array) -> Array:
    return jnp.where(scale > 0, scale, 1)


def _row_norms(A: Array) -> Array:
    return _guard(jnp.sqrt(jnp.sum(A**2, -1)))


# --- Scales -----------------------------------------------------------------------


def _power_of_two(x: Array) -> Array:
    return jnp.exp2(jnp.round(jnp.log2(_guard(x))))


def _scaled(problem: _Problem) -> tuple[_Problem, _Scales]:
    """The problem with rows of norm 1 and columns, bounds and objective of size 1."""
    Q, c, E, d, M, h = problem

    def width(A: Array) -> Array:
        A = jnp.abs(A)
        rows = _guard(jnp.max(A, 1, initial=0.0))
        return jnp.max(A / rows[:, None], 0, initial=0.0)

    bend = jnp.sqrt(jnp.abs(jnp.diagonal(Q)) / _guard(_largest(Q)))
    widths = jnp.maximum(bend, jnp.maximum(width(E), width(M)))
    columns = 1 / _power_of_two(widths)
    Q, c, E, M = columns[:, None] * Q * columns, columns * c, E * columns, M * columns
    equal, below = _row_norms(E), _row_norms(M)
    bounds = jnp.abs(jnp.concatenate([d / equal, h / below]))
    told = (bounds > 0) & (bounds < jnp.inf)
    logs = jnp.where(told, jnp.log(jnp.where(told, bounds, 1)), 0)
    size = _power_of_two(jnp.exp(jnp.sum(logs) / jnp.maximum(jnp.sum(told), 1)))
    c = c / size
    objective = _guard(jnp.maximum(_largest(Q), _largest(c)))
    scaled = _Problem(
        Q=Q / objective,
        c=c / objective,
        E=E / equal[:, None],
        d=d / (equal * size),
        M=M / below[:, None],
        h=h / (below * size),
    )
    return scaled, _Scales(columns, equal, below, objective, size)


def _unscaled(found: _Found, scales: _Scales) -> _Found:
    columns, equal, below, objective, size = scales
    z, nu, lam = found.point
    force = objective * size
    return found._replace(
        point=(size * columns * z, force * nu / equal, force * lam / below),
        S=columns[:, None] * found.S * columns / objective,
        B=columns[:, None] * found.B / equal,
        rho=objective * found.rho / below**2,
    )


# --- The equalities -------------------------------------------------------------


def _by_lu(E: Array) -> tuple[_Space, Array]:
    """The space, and whether the rows of E are independent; needs fewer than n rows.

    An LU factorisation costs a fraction of QR on a CPU, and its triangular factor is
    well conditioned in practice: a Cholesky factorisation makes its basis orthonormal.
    """
    m, n = E.shape
    factors, _, order = lu(E.T)
    top, low = factors[:m], factors[m:]
    pivots = jnp.abs(jnp.diagonal(top))
    eps = jnp.finfo(E.dtype).eps
    independent = jnp.min(pivots) > 10 * n * eps * jnp.max(pivots)

    # One factorisation or triangular solve waits for the other, here and below: two
    # batched ones at once can wait for each other's threads for ever (jaxlib 0.10).
    U_inverse = triangular_solve(
        top, jnp.eye(m, dtype=E.dtype), left_side=True, transpose_a=True
    )
    both = triangular_solve(
        top,
        jnp.concatenate([low.T, U_inverse], 1),
        left_side=True,
        lower=True,
        transpose_a=True,
        unit_diagonal=True,
    )
    X, B = both[:, : n - m], both[:, n - m :]
    one = jnp.eye(n - m, dtype=E.dtype)
    root = cholesky(one + X.T @ X, symmetrize_input=False)
    Z = jnp.concatenate([-X, one])
    Z = triangular_solve(root, Z, lower=True, transpose_a=True)
    back = jnp.argsort(order)
    Z, B = Z[back], jnp.concatenate([B, jnp.zeros((n - m, m), E.dtype)])[back]
    B = B - Z @ (Z.T @ B)
    return _Space(Z, jnp.zeros(n - m, E.dtype), B), independent


def _by_svd(E: Array) -> _Space:
    """The space whatever the rank of E; Z has n columns, the first ones zero."""
    m, n = E.shape
    left, values, right = jnp.linalg.svd(E, full_matrices=True)
    size = min(m, n)
    eps = jnp.finfo(E.dtype).eps
    kept = values > 10 * max(m, n) * eps * jnp.max(values)
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
    B = (right[:size].T * inverse) @ left[:, :size].T
    idle = jnp.zeros(n, E.dtype).at[:size].set(kept)
    return _Space(right.T * (1 - idle), idle, B)


def _everything(E: Array) -> _Space:
    n = E.shape[1]
    return _Space(jnp.eye(n, dtype=E.dtype), jnp.zeros(n, E.dtype), E.T)


# --- Interior point -------------------------------------------------------------


def _factor(reduced: _Reduced, D: Array, delta: Array) -> Array:
    G = reduced.G
    H = reduced.P + (G * D[:, None]).T @ G + jnp.diag(reduced.idle + delta)
    return cholesky(H, symmetrize_input=False)


def _back_substitute(L: Array, b: Array) -> Array:
    x = triangular_solve(L, b[:, None], left_side=True, lower=True)
    return triangular_solve(L, x, left_side=True, lower=True, transpose_a=True)[:, 0]


def _measured(reduced: _Reduced, it: _Iterate, dw: Array, dlam: Array) -> _Iterate:
    """The iterate with its residuals, each divided by 1 + its largest term.

    What grows without bound in a problem that has no solution shows in a step (dw,
    dlam) before it does in the iterate.
    """
    P, q, G, g, *_ = reduced
    dlam = jnp.maximum(dlam, 0)
    curvature, bend = P @ it.w, P @ dw
    value, rise = G @ it.w, G @ dw
    force, cancelled = it.lam @ G, dlam @ G
    dual, primal = curvature + q + force, value + it.s - g
    scale = 1 + jnp.maximum(_largest(g), _largest(value))
    work = jnp.abs(it.w @ curvature) + jnp.abs(it.w @ q)
    errors = (
        it.s @ it.lam / (1 + work),
        _largest(dual)
        / (1 + jnp.max(jnp.abs(jnp.stack([q, curvature, force])), initial=0.0)),
        _largest(primal) / scale,
    )
    # Whatever is feasible, or the multipliers, would have a norm above this.
    eps = float(jnp.finfo(P.dtype).eps)
    far = 3 * eps**-0.5
    pull, descent = -(g @ dlam), -(q @ dw)
    infeasible = (pull > far * scale * jnp.sqrt(jnp.sum(cancelled**2))) & (
        pull > _regular(P) * (jnp.abs(g) @ dlam)
    )
    against = jnp.maximum(_largest(bend), jnp.max(rise, initial=0.0))
    unbounded = (descent > far * (1 + _largest(q)) * against) & (
        descent > _regular(P) * (jnp.abs(q) @ jnp.abs(dw))
    )
    status = jnp.where(
        infeasible, _INFEASIBLE, jnp.where(unbounded, _UNBOUNDED, _RUNNING)
    )
    error = functools.reduce(jnp.maximum, errors)
    return it._replace(dual=dual, primal=primal, error=error, status=status)


def _start(reduced: _Reduced) -> _Iterate:
    """The point of least squares, its slacks and multipliers made positive."""
    P, q, G, g, *_ = reduced
    delta = jnp.asarray(_regular(P), P.dtype)
    L = _factor(reduced, jnp.ones_like(g), delta)
    w = _back_substitute(L, g @ G - q)
    slack = g - G @ w
    s = slack + jnp.where(jnp.min(slack) > 0, 0, 1 - jnp.min(slack))
    lam = -slack + jnp.where(jnp.max(slack) < 0, 0, 1 + jnp.max(slack))
    zero = jnp.zeros((), jnp.int32)
    it = _Iterate(w, s, lam, w, s, delta, delta, zero, zero)
    return _measured(reduced, it, w, lam)


def _longest(x: Array, dx: Array) -> Array:
    """Largest step at which x + step dx >= 0."""
    return 1 / jnp.maximum(jnp.max(-dx / x), jnp.finfo(x.dtype).tiny)


def _step(reduced: _Reduced, it: _Iterate) -> _Iterate:
    """Mehrotra's predictor and corrector, one factorisation for both."""
    G, s, lam = reduced.G, it.s, it.lam
    # Bounded where lam is of the size it has in a problem that has a solution.
    D = lam / (s + _regular(lam) * jnp.minimum(lam, 1))
    L = _factor(reduced, D, it.delta)

    def direction(complement: Array) -> _Triple:
        target = complement / lam - it.primal
        dw = _back_substitute(L, (D * target) @ G - it.dual)
        move = G @ dw
        return dw, -it.primal - move, D * (move - target)

    product = s * lam
    mu = jnp.mean(product)
    _, ds, dlam = direction(product)
    reach = jnp.minimum(1, jnp.minimum(_longest(s, ds), _longest(lam, dlam)))
    left = jnp.mean((s + reach * ds) * (lam + reach * dlam)) / mu
    dw, ds, dlam = direction(product + ds * dlam - left**3 * mu)
    reach = jnp.minimum(_longest(s, ds), _longest(lam, dlam))
    step = jnp.minimum(1, jnp.maximum(0.99, 1 - mu) * reach)

    w, s, lam = it.w + step * dw, s + step * ds, lam + step * dlam
    new = _measured(reduced, it._replace(w=w, s=s, lam=lam), dw, dlam)
    fine = jnp.isfinite(new.error) & (jnp.min(s) > 0) & (jnp.min(lam) > 0)
    # A factorisation that failed is tried again with more on its diagonal.
    new = new._replace(delta=jnp.maximum(_regular(s), it.delta / 10))
    it = jax.tree.map(
        lambda a, b: jnp.where(fine, a, b), new, it._replace(delta=100 * it.delta)
    )
    return it._replace(iterations=it.iterations + 1)


# --- The linear system at the solution -------------------------------------------


def _kkt(problem: _Problem, active: Array) -> Callable[[_Triple], _Triple]:
    """The symmetric system with the active rows as equalities, lam = 0 elsewhere."""
    Q, _, E, _, M, _ = problem

    def matvec(x: _Triple) -> _Triple:
        z, nu, lam = x
        return (
            Q @ z + nu @ E + (active * lam) @ M,
            E @ z,
            active * (M @ z) + (1 - active) * lam,
        )

    return matvec


def _solve_kkt(
    problem: _Problem, S: Array, B: Array, rho: Array, rhs: _Triple, start: _Triple
) -> _Triple:
    """Solution of the system of `_kkt`, the nearest to `start` of several.

    A step solves the system with -1/rho in place of the zero block (a step of the
    proximal method of multipliers); it is repeated on what is left. A right side out of
    reach of a singular system then adds the same to every step, and is taken out.
    """
    Q, _, _, _, M, _ = problem
    matvec = _kkt(problem, (rho > 0).astype(rho.dtype))
    tiny = 4 * float(jnp.finfo(rho.dtype).eps)

    def approximate(r: _Triple) -> _Triple:
        first, second, third = r
        shift = B @ second
        force = first - Q @ shift + (rho * (third - M @ shift)) @ M
        z = shift + S @ force
        lam = jnp.where(rho > 0, rho * (M @ z - third), third)
        forced = jnp.where(rho > 0, lam, 0) @ M
        return z, (first - Q @ z - forced) @ B, lam

    def size(r: _Triple) -> Array:
        return jnp.sqrt(sum(jnp.sum(a**2) for a in r))

    def refine(state: tuple) -> tuple:
        x, _, now, _, n = state
        r = jax.tree.map(jnp.subtract, rhs, matvec(x))
        dx = approximate(r)
        return jax.tree.map(jnp.add, x, dx), dx, size(r), now, n + 1

    def proceed(state: tuple) -> Array:
        _, _, now, before, n = state
        more = (n < 4) | ((now < before / 2) & (n < _REFINEMENTS))
        return more & (now > tiny * whole)

    whole = size(rhs)
    unknown = jnp.full_like(whole, jnp.inf)
    state = (start, start, unknown, unknown, jnp.zeros_like(whole))
    x, dx, left, _, n = jax.lax.while_loop(proceed, refine, state)
    excess = jnp.where(left > tiny**0.4 * whole, n, 0)
    return jax.tree.map(lambda x, dx: x - excess * dx, x, dx)


def _residual(problem: _Problem, point: _Triple) -> Array:
    """Largest violation of the KKT conditions, each relative to 1 + its terms."""
    Q, c, E, d, M, h = problem
    z, nu, lam = point
    bent, equal, below = Q @ z, E @ z, M @ z
    h = jnp.where(jnp.isposinf(h), jnp.maximum(below, 0) + 1, h)
    terms = (bent, c, nu @ E, lam @ M)
    value = 1 + jnp.abs(z @ bent) + jnp.abs(c @ z)

    def scaled(violation: Array, *terms: Array) -> Array:
        return _largest(violation) / (
            1 + functools.reduce(jnp.maximum, [_largest(term) for term in terms])
        )

    errors = (
        scaled(bent + c + nu @ E + lam @ M, *terms),
        scaled(equal - d, equal, d),
        scaled(jnp.maximum(below - h, 0), below, h),
        scaled(jnp.minimum(lam, 0), lam),
        _largest(lam * (h - below)) / value,
    )
    return functools.reduce(jnp.maximum, errors)


# --- From the parts to the solution ----------------------------------------------


def _reduce(problem: _Problem, space: _Space) -> _Reduced:
    Q, c, _, d, M, h = problem
    Z, idle, B = space
    given = h < jnp.inf  # a row without a bound becomes 0 <= 1
    rows = jnp.where(given[:, None], M, 0)
    origin = B @ d
    return _Reduced(
        P=Z.T @ (Q @ Z),
        q=(Q @ origin + c) @ Z,
        G=rows @ Z,
        g=jnp.where(given, h, 1) - rows @ origin,
        idle=idle,
        origin=origin,
    )


def _begin(problem: _Problem, reduced: _Reduced) -> _Iterate:
    d = problem.d
    if problem.h.size:
        it = _start(reduced)
    else:
        w, none = jnp.zeros_like(reduced.q), jnp.zeros_like(problem.h)
        zero, count = jnp.zeros((), d.dtype), jnp.zeros((), jnp.int32)
        it = _Iterate(w, none, none, w, none, zero, zero, count, count)
    missed = _largest(problem.E @ reduced.origin - d)
    consistent = missed <= _regular(d) * _largest(d)
    return it._replace(status=jnp.where(consistent, it.status, _INFEASIBLE))


def _finish(
    problem: _Problem, space: _Space, reduced: _Reduced, it: _Iterate
) -> _Found:
    """The solution that the active set of the iterate gives, or the iterate."""
    Q, c, E, d, M, h = problem
    Z, _, B = space
    active = (it.lam > it.s).astype(Q.dtype)
    eps = float(jnp.finfo(Q.dtype).eps)
    rho = active * eps**-0.38
    L = _factor(reduced, rho, jnp.asarray(_regular(Q), Q.dtype))
    root = triangular_solve(L, Z, lower=True, transpose_a=True)
    S = root @ root.T

    z = reduced.origin + Z @ it.w
    rough = (z, -((Q @ z + c + it.lam @ M) @ B), it.lam)
    rhs = (-c, d, jnp.where(active > 0, h, 0))
    start = (*rough[:2], active * it.lam)
    z, nu, lam = _solve_kkt(problem, S, B, rho, rhs, start)
    points = jax.tree.map(lambda *x: jnp.stack(x), rough, (z, nu, jnp.maximum(lam, 0)))
    errors = jax.vmap(_residual, (None, 0))(problem, points)
    best = jnp.where(errors[1] <= errors[0], 1, 0)
    point = jax.tree.map(lambda x: x[best], points)
    residual = jnp.min(errors)
    return _Found(point, S, B, rho, residual, it.status, it.iterations)


def _where(keep: Array, new: PyTree, old: PyTree) -> PyTree:
    """Lane by lane, `new` where `keep` is True."""
    return jax.tree.map(
        lambda a, b: jnp.where(keep.reshape(-1, *(1,) * (a.ndim - 1)), a, b), new, old
    )


def _search(
    reduced: _Reduced, it: _Iterate, target: Array, done: Array, maxiter: int
) -> _Iterate:
    """Steps until every lane that is not done has an error below the target."""

    def going(it: _Iterate) -> Array:
        left = (it.error > target) & (it.iterations < maxiter)
        return left & (it.status == _RUNNING) & ~done

    def step(it: _Iterate) -> _Iterate:
        return _where(going(it), jax.vmap(_step)(reduced, it), it)

    return jax.lax.while_loop(lambda it: going(it).any(), step, it)


def _solve_in(problem: _Problem, space: _Space, tol: Array, maxiter: int) -> _Found:
    """Solves a batch of problems; every array has one leading axis.

    The loops are those of the batch: `vmap` would select between the old and the new
    state of every array in them, and take both branches of `cond`.
    """
    reduced = jax.vmap(_reduce)(problem, space)
    it = jax.vmap(_begin)(problem, reduced)
    finish = functools.partial(jax.vmap(_finish), problem, space, reduced)
    if not problem.h.size:
        found = finish(it)
        return _judged(found, jax.vmap(_is_unbounded)(problem, space, found), tol)

    def again(state: tuple) -> tuple:
        it, found, number = state
        done = found.residual <= tol
        target = jnp.where(number == 0, tol, tol / 16)
        it = _search(reduced, it, target, done, maxiter)
        return it, _where(done, found, finish(it)), number + 1

    def unsolved(state: tuple) -> Array:
        it, found, number = state
        left = (found.residual > tol) & (it.status == _RUNNING)
        left = (left & (it.iterations < maxiter)).any()
        return (number == 0) | ((number < _ROUNDS) & left)

    nothing = jax.tree.map(
        lambda a: jnp.full(a.shape, jnp.inf).astype(a.dtype), jax.eval_shape(finish, it)
    )
    state = (it, nothing, jnp.zeros((), jnp.int32))
    _, found, _ = jax.lax.while_loop(unsolved, again, state)
    return _judged(found, jnp.zeros_like(found.status, bool), tol)


def _is_unbounded(problem: _Problem, space: _Space, found: _Found) -> Array:
    """Whether the slope that is left, without inequalities, meets no curvature."""
    Q, c, *_ = problem
    slope = (Q @ found.point[0] + c) @ space.Z
    bend = (Q @ (space.Z @ slope)) @ space.Z
    loose = jnp.finfo(c.dtype).eps ** 0.5
    return _largest(bend) <= loose * _largest(Q) * _largest(slope)


def _judged(found: _Found, unbounded: Array, tol: Array) -> _Found:
    status = jnp.where(unbounded, _UNBOUNDED, found.status)
    solved = (found.residual <= tol) & (found.status != _INFEASIBLE)
    return found._replace(status=jnp.where(solved, _OPTIMAL, status))


def _solve_batch(
    problem: _Problem, tol: Array, maxiter: int, *, independent: bool | None
) -> _Found:
    problem, scales = jax.vmap(_scaled)(problem)
    _, m, n = problem.E.shape
    E = problem.E

    def by_svd() -> _Found:
        return _solve_in(problem, jax.vmap(_by_svd)(E), tol, maxiter)

    if m == 0:
        found = _solve_in(problem, jax.vmap(_everything)(E), tol, maxiter)
    elif m >= n or independent is False:
        found = by_svd()
    else:
        space, seen = jax.vmap(_by_lu)(E)
        by_lu = functools.partial(_solve_in, problem, space, tol, maxiter)
        found = by_lu() if independent else jax.lax.cond(seen.all(), by_lu, by_svd)
    return jax.vmap(_unscaled)(found, scales)


@functools.lru_cache
def _solver(
    maxiter: int, *, independent: bool | None
) -> Callable[[_Problem, Array], _Found]:
    """`_solve_batch`, for which `vmap` makes the batch larger."""

    @jax.custom_batching.custom_vmap
    def solve(problem: _Problem, tol: Array) -> _Found:
        return _solve_batch(problem, tol, maxiter, independent=independent)

    @solve.def_vmap
    def _(size: int, batched: PyTree, *args: PyTree) -> tuple[_Found, PyTree]:
        flat = jax.tree.map(
            lambda b, x: (x if b else jnp.broadcast_to(x, (size, *x.shape))).reshape(
                -1, *x.shape[1 + b :]
            ),
            tuple(batched),
            args,
        )
        found = solve(*flat)
        found = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), found)
        return found, jax.tree.map(lambda _: True, found)

    return solve


def _rule(x: tuple, problem: _Problem, tangent: _Problem) -> tuple:
    """The derivative of the equations that hold: active rows as equalities."""
    z, nu, lam, S, B, rho = x
    active = (rho > 0).astype(rho.dtype)
    rhs = (
        -(tangent.Q @ z + tangent.c + nu @ tangent.E + (active * lam) @ tangent.M),
        tangent.d - tangent.E @ z,
        active * (tangent.h - tangent.M @ z),
    )
    matvec, constant = (
        _kkt(problem, active),
        jax.lax.stop_gradient((problem, S, B, rho)),
    )
    flat, unflatten = ravel_pytree(rhs)  # transposed, a tuple may not be known in part
    dx = jax.lax.custom_linear_solve(
        lambda x: jnp.concatenate(matvec(unflatten(x))),
        flat,
        lambda _, b: jnp.concatenate(
            _solve_kkt(*constant, unflatten(b), unflatten(jnp.zeros_like(b)))
        ),
        symmetric=True,
    )
    dx = unflatten(dx)
    return *dx, *jax.tree.map(jnp.zeros_like, (S, B, rho))


@functools.partial(jax.jit, static_argnames=("maxiter", "independent"))
def _solution(
    problem: _Problem, tol: Array, *, maxiter: int, independent: bool | None
) -> tuple[Solution, Array]:
    """The solution of a batch of any shape, and its status."""
    cores = [1 if x in "cdh" else 2 for x in _Problem._fields]
    batch = jnp.broadcast_shapes(
        *(x.shape[: x.ndim - k] for x, k in zip(problem, cores, strict=True))
    )
    size = math.prod(batch)
    Q = (problem.Q + jnp.swapaxes(problem.Q, -1, -2)) / 2
    flat = _Problem(
        *(
            jnp.broadcast_to(x, batch + x.shape[x.ndim - k :]).reshape(
                size, *x.shape[x.ndim - k :]
            )
            for x, k in zip(problem._replace(Q=Q), cores, strict=True)
        )
    )
    found = _solver(maxiter, independent=independent)(
        *jax.lax.stop_gradient((flat, jnp.broadcast_to(tol, size)))
    )
    failed = (found.status == _INFEASIBLE) | (found.status == _UNBOUNDED)
    point = _where(
        ~failed, found.point, jax.tree.map(lambda a: a + jnp.nan, found.point)
    )
    x = (*point, found.S, found.B, found.rho)
    value = implicit_identity(jax.vmap(_rule), x, flat)[:3]
    residual, iterations, status = (
        a.reshape(batch) for a in (found.residual, found.iterations, found.status)
    )
    value = tuple(a.reshape(*batch, a.shape[-1]) for a in value)
    return Solution(value, None, residual, iterations, status == _OPTIMAL), status


# --- Arguments --------------------------------------------------------------------


def _pair(
    n: int, matrix: ArrayLike | None, vector: ArrayLike | None, names: str
) -> dict[str, ArrayLike]:
    """A block of constraints, empty where it is absent."""
    A, b = names
    if (matrix is None) != (vector is None):
        given, missing = (A, b) if vector is None else (b, A)
        raise ValueError(f"{given} is given and {missing} is None; expected both.")
    if matrix is None or vector is None:
        return {A: np.zeros((0, n), np.float32), b: np.zeros(0, np.float32)}
    return {A: matrix, b: vector}


def _check_shapes(problem: _Problem) -> None:
    Q, c = problem.Q, problem.c
    for name, x in zip(_Problem._fields, problem, strict=True):
        axes = 1 if name in "cdh" else 2
        if x.ndim < axes:
            raise ValueError(
                f"{name} has shape {x.shape}; expected at least {axes} axes."
            )
    n = c.shape[-1]
    if Q.shape[-1] != Q.shape[-2]:
        raise ValueError(f"Q has shape {Q.shape}; expected a square matrix.")
    if n == 0 or Q.shape[-1] != n:
        raise ValueError(
            f"Q has shape {Q.shape} and c has shape {c.shape}; expected "
            "(..., n, n) and (..., n) with one n > 0."
        )
    for A, b in ("Ed", "Mh"):
        rows, bound = getattr(problem, A), getattr(problem, b)
        if rows.shape[-1] != n:
            raise ValueError(
                f"{A} has shape {rows.shape} and c has shape {c.shape}; expected "
                f"{A} with {n} columns."
            )
        if rows.shape[-2] != bound.shape[-1]:
            raise ValueError(
                f"{A} has shape {rows.shape} and {b} has shape {bound.shape}; expected "
                f"as many entries of {b} as rows of {A}."
            )


def _check_convex(Q: Array) -> None:
    """ValueError where a concrete Q has an eigenvalue below zero."""
    matrix = _check.concrete(Q)
    if matrix is None or not np.isfinite(matrix).all() or not matrix.size:
        return
    matrix = (matrix + np.swapaxes(matrix, -1, -2)) / 2
    n = matrix.shape[-1]
    room = 10 * n * np.finfo(matrix.dtype).eps * np.abs(matrix).max((-1, -2))
    try:
        np.linalg.cholesky(matrix + room[..., None, None] * np.eye(n) + 1e-300)
    except np.linalg.LinAlgError:
        least = np.linalg.eigvalsh(matrix)[..., 0]
        if (least < -room).any():
            raise ValueError(
                f"Q has the eigenvalue {least.min():.3g}; expected a positive "
                "semidefinite matrix."
            ) from None


def _problem(**arrays: ArrayLike) -> _Problem:
    problem = _Problem(*_check.floating(**arrays))
    _check_shapes(problem)
    cores = {name: 1 if name in "cdh" else 2 for name in _Problem._fields}
    try:
        jnp.broadcast_shapes(
            *(x.shape[: x.ndim - cores[name]] for name, x in problem._asdict().items())
        )
    except ValueError as error:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in problem._asdict().items())
        raise ValueError(f"Leading axes do not broadcast: {shapes}.") from error
    return problem


def _independent(E: Array) -> bool | None:
    """Whether the rows of one concrete E are; half the program is then not compiled."""
    matrix = _check.concrete(E)
    if matrix is None or matrix.ndim > 2 or not 0 < len(matrix) < matrix.shape[1]:
        return None
    if not np.isfinite(matrix).all():
        return None
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    values = np.linalg.svd(matrix / np.where(norms > 0, norms, 1), compute_uv=False)
    rounding = 10 * matrix.shape[1] * np.finfo(matrix.dtype).eps
    return bool(values[-1] > rounding * values[0])


def _run(problem: _Problem, tol: float | None, maxiter: int) -> Solution:
    if maxiter < 1:
        raise ValueError(f"maxiter is {maxiter}; expected at least 1.")
    if tol is None:
        tol = 1e-5 if problem.c.dtype == jnp.float32 else 1e-10
    _check.positive(tol=tol)
    solution, status = _solution(
        problem,
        jnp.asarray(tol, problem.c.dtype),
        maxiter=maxiter,
        independent=_independent(problem.E),
    )
    outcome = _check.concrete(status)
    if outcome is not None:
        for code, word in ((_INFEASIBLE, "infeasible"), (_UNBOUNDED, "unbounded")):
            if (outcome == code).any():
                which = f" (index {np.argwhere(outcome == code)[0]})"
                raise ValueError(
                    f"The problem{which if outcome.ndim else ''} is {word}."
                )
    return solution


def qp(
    Q: ArrayLike,
    c: ArrayLike,
    E: ArrayLike | None = None,
    d: ArrayLike | None = None,
    M: ArrayLike | None = None,
    h: ArrayLike | None = None,
    *,
    tol: float | None = None,
    maxiter: int = 50,
) -> Solution:
    r"""Solves a convex quadratic program, differentiably in all that defines it.

    .. math:: \min_z \tfrac12 z^\top Q z + c^\top z
       \quad\text{s.t.}\quad E z = d,\ M z \le h

    by a primal-dual interior point method whose active set is then solved for exactly.

    Args:
      Q: positive semidefinite, shape ``[..., n, n]``; the symmetric part counts.
      c: slopes, shape ``[..., n]``.
      E: equalities, shape ``[..., m, n]``, or None.
      d: their right sides, shape ``[..., m]``, or None.
      M: inequalities, shape ``[..., k, n]``, or None.
      h: their right sides, shape ``[..., k]``, or None; inf for none.
      tol: largest residual of a solution; 1e-10 in float64 and 1e-5 in float32 by
        default.
      maxiter: most iterations.

    Returns:
      `Solution` with `value = (z, nu, lam)`, where Qz + c + E'nu + M'lam = 0 and lam is
      not negative; an absent constraint has multipliers of size 0. `residual` is the
      largest violation of the conditions, each relative to 1 + its terms, in units in
      which rows, columns, bounds and objective are of size 1. Leading axes broadcast. A
      traced problem that is infeasible or unbounded gives NaN and is not `converged`;
      one that ends at `maxiter` gives its last iterate.

    Raises:
      TypeError: an argument is not of a floating dtype.
      ValueError: shapes do not fit, `tol` is not positive or `maxiter` below 1; a
        concrete Q is not positive semidefinite, or a concrete problem infeasible or
        unbounded.

    Differentiable in all six arguments, in every mode and order, by the conditions on
    the active set; where active constraints depend on each other, by the solution of
    least norm.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import layers
      >>> Q, c = jnp.array([[2.0, 0.0], [0.0, 2.0]]), jnp.array([-2.0, -6.0])
      >>> M, h = jnp.array([[1.0, 1.0]]), jnp.array([2.0])
      >>> z, _, lam = layers.qp(Q, c, M=M, h=h).value
      >>> print([f"{x:.2f}" for x in z + 1], [f"{x:.2f}" for x in lam])
      ['1.00', '3.00'] ['2.00']
      >>> slope = jax.grad(lambda h: layers.qp(Q, c, M=M, h=h).value[0][0])(h)
      >>> print(f"{slope[0]:.2f}")
      0.50

    References:
      Mehrotra, 1992, SIAM J. Optim. 2; Amos and Kolter, 2017, arXiv:1703.00443.
    """
    n = np.shape(c)[-1] if np.ndim(c) else 0
    problem = _problem(Q=Q, c=c, **_pair(n, E, d, "Ed"), **_pair(n, M, h, "Mh"))
    _check_convex(problem.Q)
    return _run(problem, tol, maxiter)


def lp(
    c: ArrayLike,
    E: ArrayLike | None = None,
    d: ArrayLike | None = None,
    M: ArrayLike | None = None,
    h: ArrayLike | None = None,
    *,
    smoothing: ArrayLike = 0.0,
    tol: float | None = None,
    maxiter: int = 50,
) -> Solution:
    r"""Solves a linear program, or one smoothed by a quadratic term.

    .. math:: \min_z c^\top z + \tfrac{\sigma}{2} \|z\|^2
       \quad\text{s.t.}\quad E z = d,\ M z \le h

    Args:
      c: costs, shape ``[..., n]``.
      E: equalities, shape ``[..., m, n]``, or None.
      d: their right sides, shape ``[..., m]``, or None.
      M: inequalities, shape ``[..., k, n]``, or None.
      h: their right sides, shape ``[..., k]``, or None; inf for none.
      smoothing: the weight :math:`\sigma`, not negative; broadcasts against the batch.
        At 0 the solution is a vertex, whose derivative in `c` is 0.
      tol: as for `qp`.
      maxiter: as for `qp`.

    Returns:
      `Solution`, as `qp` returns it.

    Raises:
      TypeError: an argument is not of a floating dtype.
      ValueError: as `qp`; or `smoothing` is negative.

    Differentiable as `qp`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import layers
      >>> c, E, d = jnp.array([3.0, 1.0, 2.0]), jnp.ones((1, 3)), jnp.ones(1)
      >>> z, _, _ = layers.lp(c, E, d, M=-jnp.eye(3), h=jnp.zeros(3)).value
      >>> print(abs(z.round(3)))
      [0. 1. 0.]

    References:
      Mehrotra, 1992, SIAM J. Optim. 2; Berthet et al., 2020, arXiv:2002.08676, for
      smoothing.
    """
    n = np.shape(c)[-1] if np.ndim(c) else 0
    (c,) = _check.floating(c=c)
    _check.in_range(0.0, math.inf, closed=True, smoothing=smoothing)
    Q = jnp.asarray(smoothing, c.dtype)[..., None, None] * jnp.eye(n, dtype=c.dtype)
    problem = _problem(Q=Q, c=c, **_pair(n, E, d, "Ed"), **_pair(n, M, h, "Mh"))
    return _run(problem, tol, maxiter)
