"""The half-steps of Sinkhorn's iteration, on costs that are held or streamed.

With M = (f0 + g0 - C)/eps at absorbed potentials f0 and g0 they are

    u <- -log sum_j b_j exp(M_ij + v_j),    v <- -log sum_i a_i exp(M_ij + u_i)

and there are three ways to take them. "kernel" takes the exponential of M alone: a
half-step is then one matrix-vector product, with a kernel that is built once where the
costs are held, and block by block where they are not. "log" leaves u and v in the
exponent: slower, and safe whatever the range of M. "pallas" does as "log" where the
cost is the squared Euclidean one, so that M is an inner product up to terms of one
point each.

A marginal that is only penalised, by rho KL(. | a), has the half-step damped to
f <- f/(1 + eps/rho) of the plain one.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.transport import _blocks
from jaxdiv.transport._blocks import Costs, Matrix, Points
from jaxdiv.transport._cost import centred
from jaxdiv.typing import Array


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


class Side(NamedTuple):
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

    def off(self, u: Array, u_next: Array) -> Array:
        """Distance of the marginal from its target, atom by atom."""
        log_excess = jnp.minimum(self.log_excess(u, u_next), log_range(u, 0.8))
        return self.target(u) * jnp.abs(jnp.expm1(log_excess))

    def relaxed(self, u: Array, u_next: Array, momentum: Array) -> Array:
        """Over-relaxed half-step, each atom only as far as surely raises the dual.

        With R(d) = exp(d) - 1 - d the plain step over d raises the dual by
        weight R(d), and one that goes further, by a share h of d, by
        weight (R(d) - R(-h d)). With h <= 1/(1 - d) for a negative d, and h <= 1 for a
        positive one, that is at least half of (1 - h^2) weight R(d): the iteration
        converges from anywhere. A soft marginal adds R(-s d)/s to R(d), s its
        softness.

        References:
          Thibault et al., 2017, arXiv:1711.01851, whose test is one for all atoms.
        """
        d = u - u_next
        steep = -d if self.softness is None else jnp.maximum(-d, self.softness * d)
        share = jnp.minimum(momentum - 1, 1 / (1 + jnp.maximum(steep, 0)))
        return u - (1 + share) * d


class Steps(NamedTuple):
    """The half-steps at fixed absorbed potentials.

    Attributes:
      row: what belongs to u.
      column: what belongs to v.
      rows: v -> the next u.
      columns: u -> the next v.
      both: (u, v, momentum) -> v, the v that it was relaxed to reach, the next u.
    """

    row: Side
    column: Side
    rows: Callable[[Array], Array]
    columns: Callable[[Array], Array]
    both: Callable[[Array, Array, Array], tuple[Array, Array, Array]]


def exponent(f: Array, g: Array, C: Array, eps: Array) -> Array:
    """(f + g - C)/eps, bounded so that its exponential is finite.

    No pair of which one weight is positive comes near the bound. A forbidden pair
    gets -inf, and a derivative of 0 instead of inf - inf.
    """
    allowed = ~jnp.isposinf(C)
    return jnp.where(allowed, _exponent(f, g, jnp.where(allowed, C, 0), eps), -jnp.inf)


def _exponent(f: Array, g: Array, C: Array, eps: Array) -> Array:
    """The same without a derivative, and without the copy of C that it would keep."""
    return jnp.minimum((f[:, None] + g - C) / eps, log_range(C, 0.8))


def log_range(x: Array, share: float) -> float:
    return share * math.log(jnp.finfo(x.dtype).max)


def half_steps(f: Array, g: Array, problem: Problem, method: str) -> Steps:
    costs, a, b, eps, softness, _ = problem
    soft_a, soft_b = (None, None) if softness is None else (eps * s for s in softness)
    row, column = Side(a, f / eps, soft_a), Side(b, g / eps, soft_b)
    if method == "pallas" and isinstance(costs, Points):
        return _pallas_steps(costs, eps, row, column)
    if method == "kernel" and isinstance(costs, Matrix):
        return _held_steps(jnp.exp(_exponent(f, g, costs.C, eps)), row, column)

    way = _kernel_way(a) if method == "kernel" else _log_way(a)
    neutral = jnp.full_like(f, way.neutral)

    def block(C: Array, g: Array) -> Array:
        return way.kernel(_exponent(f, g, C, eps))

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
            K, side = block(C, g), Side(b, g / eps, soft_b)
            v_next = side.damped(way.to_columns(K, u))
            v = side.relaxed(v, v_next, momentum)
            return way.to_rows(K, b, v), (v, v_next)

        total, (v, v_next) = over_blocks(body, g, b, v)
        return v, v_next, row.damped(way.finish(total))

    return Steps(row, column, rows, columns, both)


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


def _held_steps(K: Array, row: Side, column: Side) -> Steps:
    def rows(v: Array) -> Array:
        return row.damped(-jnp.log(_product(K, column.weight * jnp.exp(v))))

    def columns(u: Array) -> Array:
        return column.damped(-jnp.log(_product(row.weight * jnp.exp(u), K)))

    return _one_by_one(row, column, rows, columns)


def _pallas_steps(costs: Points, eps: Array, row: Side, column: Side) -> Steps:
    # M_ij = rest_i + other_j + 2 x_i.y_j / eps. Pallas takes a quarter of a second to
    # load: not before it is asked for.
    from jaxdiv.kernels._log_sum_exp import log_sum_exp

    x, y = centred(costs.x, costs.y)
    rest = row.base - jnp.sum(x**2, -1) / eps
    other = column.base - jnp.sum(y**2, -1) / eps
    x = 2 * x / eps

    def rows(v: Array) -> Array:
        bias = jnp.log(column.weight) + other + v
        return row.damped(-(rest + log_sum_exp(x, y, bias)))

    def columns(u: Array) -> Array:
        bias = jnp.log(row.weight) + rest + u
        return column.damped(-(other + log_sum_exp(y, x, bias)))

    return _one_by_one(row, column, rows, columns)


def _one_by_one(
    row: Side,
    column: Side,
    rows: Callable[[Array], Array],
    columns: Callable[[Array], Array],
) -> Steps:
    def both(u: Array, v: Array, momentum: Array) -> tuple[Array, Array, Array]:
        v_next = columns(u)
        v = column.relaxed(v, v_next, momentum)
        return v, v_next, rows(v)

    return Steps(row, column, rows, columns, both)


def _product(one: Array, two: Array) -> Array:
    return jnp.matmul(one, two, precision="highest")
