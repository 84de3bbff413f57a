"""The transport cost of a plan, and how far the potentials are from the optimum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import entr

from jaxdiv._numerics import exp_remainder
from jaxdiv.transport import _blocks
from jaxdiv.transport._derivative import Data, Potentials
from jaxdiv.transport._half_steps import exponent
from jaxdiv.typing import Array


class Rounded(NamedTuple):
    """Marginals of the plan with the excess of its rows cut off.

    Attributes:
      column: its second marginal over the weights.
      row_left: what it lacks of the first.
      cost_left: the costs of each column, weighted by `row_left`.
      forbidden: what of `row_left` may not go to each column.
    """

    column: Array
    row_left: Array
    cost_left: Array
    forbidden: Array


def primal_cost(
    data: Data, potentials: Potentials, log_excess: Array
) -> tuple[Array, Rounded]:
    """The transport cost, and what the duality gap needs, in one pass over pairs."""
    f, g = potentials
    a, eps, softness = data.a, data.eps, data.softness
    excess = jnp.maximum(log_excess, 0)
    if softness is not None:
        excess = jnp.where(softness[0] == 0, log_excess, 0)
    cut = jax.lax.stop_gradient(a * jnp.exp(-excess))
    left = jax.lax.stop_gradient(a * jnp.maximum(-jnp.expm1(log_excess), 0))

    def body(C: Array, g: Array, b: Array) -> tuple[Array, tuple[Array, ...]]:
        E = jnp.exp(exponent(f, g, C, eps))
        forbidden = jnp.isposinf(C)
        finite = jnp.where(forbidden, 0, C)
        primal = a @ (E * finite) @ b
        E, finite = jax.lax.stop_gradient((E, finite))
        if softness is not None:
            return primal, (cut @ E, b, b)
        return primal, (cut @ E, left @ finite, left @ forbidden)

    primal, (column, *lost) = _blocks.fold(data.costs, body, g, data.b)
    return primal, Rounded(column, left, *lost)


def duality_gap(
    data: Data,
    potentials: Potentials,
    log_excess: Array,
    rounded: Rounded,
) -> Array:
    r"""Objective of a plan that is feasible, less the dual value.

    Where both marginals are held, the plan is cut down to rows of mass a or less, and
    what is then missing, da and db, comes back as :math:`da\,db^\top/\delta`. The
    entropy of that sum is bounded by the entropies of its parts (log-sum inequality),
    so that no pass over pairs is needed.

    References:
      Altschuler, Weed and Rigollet, 2017, arXiv:1705.09634.
    """
    _, a, b, eps, softness = data
    f, g = potentials
    if softness is not None:
        # Of the marginals of the plan, or of the one with exact rows, one is off; with
        # h the log of its excess the objective has (h e^h - e^h + 1) target / softness.
        held = softness[0] == 0
        target = b * jnp.exp(-softness[1] * g)
        h = jnp.log(rounded.column) + softness[1] * g
        columns_off = jnp.vdot(target, h * jnp.exp(h) - jnp.expm1(h))
        columns_off = jnp.where(columns_off > 0, columns_off / softness[1], 0)
        target, h = a * jnp.exp(-softness[0] * f), log_excess
        rows_off = jnp.vdot(target, h * jnp.exp(h) - jnp.expm1(h))
        rows_off /= jnp.where(held, 1, softness[0])
        return jnp.where(
            held, columns_off + eps * jnp.vdot(a, exp_remainder(h)), rows_off
        )
    da, db = rounded.row_left, b * jnp.maximum(1 - rounded.column, 0)
    delta, total = jnp.sum(da), jnp.sum(a)
    nothing = delta <= 0
    delta = jnp.where(nothing, 1, delta)
    share = delta / total
    entropy = entr(delta) + total * entr(share)
    entropy -= (total - delta) * jnp.log1p(-jnp.minimum(share, 1 - 1e-6))
    above = jnp.maximum(log_excess, 0)
    kept = a * jnp.minimum(jnp.exp(log_excess), 1)
    rows = eps * (_surprise(da, a) - entr(da) - kept * above) - da * f
    columns = eps * (_surprise(db, b) - entr(db)) + db * (rounded.cost_left / delta - g)
    gap = eps * entropy + jnp.sum(rows) + jnp.sum(columns)
    gap = jnp.where(nothing, 0, jnp.maximum(gap, 0))
    blocked = jnp.vdot(db, rounded.forbidden) / delta
    return jnp.where(blocked > 10 * jnp.finfo(a.dtype).eps * total, jnp.inf, gap)


def cross_entropy(p: Array, q: Array) -> Array:
    """The sum of -p log q, without the atoms where q is 0."""
    return jnp.sum(_surprise(p, q))


def _surprise(p: Array, q: Array) -> Array:
    live = q > 0
    return -jnp.where(live, p * jnp.log(jnp.where(live, q, 1)), 0)
