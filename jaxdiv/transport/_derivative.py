r"""Derivatives of the entropic problem at its solution.

With the density :math:`E_{ij} = \exp((f_i + g_j - C_{ij})/\varepsilon)` of the plan
against the product of the weights, the potentials solve

.. math:: \sum_j b_j E_{ij} = e^{-f_i/\rho_a}, \qquad
          \sum_i a_i E_{ij} = e^{-g_j/\rho_b}.

No iteration is differentiated. The equations never divide by a weight, so that an atom
of weight zero has a finite derivative.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv._numerics import exp_remainder_ratio
from jaxdiv.implicit._primitive import implicit_identity
from jaxdiv.transport import _blocks
from jaxdiv.transport._blocks import Costs, Matrix
from jaxdiv.transport._half_steps import exponent
from jaxdiv.typing import Array

Potentials = tuple[Array, Array]
Product = Callable[[Array], Array]
_LEAST_ACCURACY = 1e-2  # of a linear solve; a derivative with less is NaN


class Data(NamedTuple):
    """What the solution depends on.

    Attributes:
      costs: of all pairs.
      a: weights of the rows.
      b: weights of the columns.
      eps: strength of the regularisation.
      softness: 1/rho_a and 1/rho_b, or None where both marginals are held.
    """

    costs: Costs
    a: Array
    b: Array
    eps: Array
    softness: tuple[Array, Array] | None


def dual_value(data: Data, potentials: Potentials, mass: Array | None = None) -> Array:
    """The dual objective, a lower bound of the cost whatever the potentials.

    `mass` is that of the plan, computed where it is not known.
    """
    a, b, eps = data.a, data.b, data.eps
    f, g = potentials
    if mass is None:
        mass = jnp.vdot(a, _density(data, potentials)[0](b))
    value = -eps * (mass - jnp.sum(a) * jnp.sum(b))
    if data.softness is None:
        return value + jnp.vdot(a, f) + jnp.vdot(b, g)
    soft_a, soft_b = data.softness
    return value + jnp.vdot(a, _reward(soft_a, f)) + jnp.vdot(b, _reward(soft_b, g))


def _reward(softness: Array, f: Array) -> Array:
    """(1 - exp(-s f))/s, which is f at s = 0."""
    x = softness * f
    return f * (1 - x * exp_remainder_ratio(-x))


def attach_potentials(potentials: Potentials, data: Data) -> Potentials:
    """The potentials with their derivative in all that they depend on."""
    return implicit_identity(_potentials_rule, potentials, data)


def attach_cost(value: Array, data: Data, potentials: Potentials) -> Array:
    """The cost with its derivative by Danskin's theorem.

    The first derivative holds the potentials fixed and needs no linear solve; the
    second moves them along, since the rule reads the attached potentials.
    """
    return implicit_identity(_cost_rule, value, (data, potentials))


def _cost_rule(value: Array, theta: tuple, tangents: tuple) -> Array:
    del value
    data, potentials = theta
    moved, _ = tangents  # at the optimum the potentials' own motion has no effect
    return jax.jvp(lambda data: dual_value(data, potentials), (data,), (moved,))[1]


def _density(data: Data, potentials: Potentials) -> tuple[Product, Product]:
    """The products E v and u E; E is held where the costs are."""
    f, g = potentials
    costs, eps = data.costs, data.eps
    if isinstance(costs, Matrix):
        E = jnp.exp(exponent(f, g, costs.C, eps))
        return lambda v: E @ v, lambda u: u @ E

    def to_rows(v: Array) -> Array:
        def body(C: Array, g: Array, v: Array) -> tuple[Array, tuple]:
            return jnp.exp(exponent(f, g, C, eps)) @ v, ()

        return _blocks.fold(costs, body, g, v)[0]

    def to_columns(u: Array) -> Array:
        def body(C: Array, g: Array) -> tuple[tuple, Array]:
            return (), u @ jnp.exp(exponent(f, g, C, eps))

        return _blocks.fold(costs, body, g)[1]

    return to_rows, to_columns


def _potentials_rule(potentials: Potentials, data: Data, tangents: Data) -> Potentials:
    # With r = E b and c = E^T a, eliminating df leaves  S dg = rhs,
    #   S = diag(c) - E^T diag(a / r) E diag(b),
    # r and c raised by the slopes of soft marginals. Where both are held its kernel is
    # the constants, as f + s, g - s is the same plan; adding that direction, `free`,
    # chooses one of the solutions.
    f, g = potentials
    a, b, eps = data.a, data.b, data.eps

    def equations(data: Data) -> Potentials:
        to_rows, to_columns = _density(data, potentials)
        r, c = to_rows(data.b), to_columns(data.a)
        if data.softness is None:
            return r, c
        soft_a, soft_b = data.softness
        return r - jnp.exp(-soft_a * f), c - jnp.exp(-soft_b * g)

    to_rows, to_columns = _density(data, potentials)
    r, c = to_rows(b), to_columns(a)
    free = jnp.ones((), f.dtype)
    if data.softness is not None:
        soft_a, soft_b = data.softness
        r += eps * soft_a * jnp.exp(-soft_a * f)
        c += eps * soft_b * jnp.exp(-soft_b * g)
        free = jnp.where((soft_a == 0) & (soft_b == 0), free, 0)
    h_row, h_column = jax.jvp(equations, (data,), (tangents,))[1]
    h_row, h_column = -eps * h_row, -eps * h_column
    free /= jnp.vdot(b, c)

    def coupling(v: Array) -> Array:
        return to_columns((a / r) * to_rows(v))

    def matvec(dg: Array) -> Array:
        return c * (dg + free * jnp.vdot(b * c, dg)) - coupling(b * dg)

    # diag(b) S is symmetric: conjugate gradients see  A = I - h E^T diag(a/r) E h  with
    # h = sqrt(b / c), plus the added direction q. The root stays inside the solves,
    # which are not differentiated: its slope is infinite at a weight of zero.
    h, q = jnp.sqrt(b / c), jnp.sqrt(b * c)

    def conjugate_gradient(rhs: Array) -> Array:
        def symmetric(z: Array) -> Array:
            return z - h * coupling(h * z) + free * q * jnp.vdot(q, z)

        return _conjugate_gradient(symmetric, rhs)

    def solve(_: object, rhs: Array) -> Array:
        z = conjugate_gradient(h * rhs)
        return (rhs + coupling(h * z)) / c - free * jnp.vdot(q, z)

    def transpose_solve(_: object, rhs: Array) -> Array:
        z = conjugate_gradient(h * (coupling(rhs / c) - free * c * jnp.sum(rhs)))
        return rhs / c + h * z

    rhs = h_column - to_columns(a * h_row / r)
    dg = jax.lax.custom_linear_solve(matvec, rhs, solve, transpose_solve)
    return (h_row - to_rows(b * dg)) / r, dg


def _conjugate_gradient(matvec: Callable[[Array], Array], rhs: Array) -> Array:
    # The spectrum is within [1 - s^2, 1], s^2 the rate of Sinkhorn's iteration: about
    # the square root of its number of steps.
    tolerance = 20 * float(jnp.finfo(rhs.dtype).eps)
    z = jax.scipy.sparse.linalg.cg(matvec, rhs, tol=tolerance, maxiter=500)[0]
    left = jnp.linalg.norm(rhs - matvec(z))
    solved = left <= _LEAST_ACCURACY * jnp.linalg.norm(rhs)
    return z * jnp.where(solved, 1, jnp.nan)
