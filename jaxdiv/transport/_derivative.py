r"""Derivatives of the entropic problem at its solution.

With the density :math:`E_{ij} = \exp((f_i + g_j - C_{ij})/\varepsilon)` of the plan
against the product of the weights, the potentials solve

.. math:: \sum_j b_j E_{ij} = 1, \qquad \sum_i a_i E_{ij} = 1.

No iteration is differentiated. The equations never divide by a weight, so that an atom
of weight zero has a finite derivative.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.implicit._primitive import implicit_identity
from jaxdiv.transport._solver import exponent
from jaxdiv.typing import Array

Potentials = tuple[Array, Array]


class Data(NamedTuple):
    """What the solution depends on."""

    C: Array
    a: Array
    b: Array
    eps: Array


def dual_value(data: Data, potentials: Potentials) -> Array:
    """The dual objective, a lower bound of the cost whatever the potentials."""
    C, a, b, eps = data
    f, g = potentials
    mass = a @ jnp.exp(exponent(f, g, C, eps)) @ b
    return jnp.vdot(a, f) + jnp.vdot(b, g) - eps * (mass - jnp.sum(a) * jnp.sum(b))


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


def _potentials_rule(potentials: Potentials, data: Data, tangents: Data) -> Potentials:
    # With r = E b and c = E^T a, eliminating df leaves  S dg = rhs,
    #   S = diag(c) - E^T diag(a / r) E diag(b).
    # Its kernel is the constants, as f + s, g - s is the same plan; adding that
    # direction chooses one of the solutions.
    C, a, b, eps = data
    f, g = potentials

    def marginals(data: Data) -> Potentials:
        E = jnp.exp(exponent(f, g, data.C, data.eps))
        return E @ data.b, data.a @ E

    E = jnp.exp(exponent(f, g, C, eps))
    r, c = E @ b, a @ E
    h_row, h_column = jax.jvp(marginals, (data,), (tangents,))[1]
    h_row, h_column = -eps * h_row, -eps * h_column
    mass = jnp.vdot(b, c)

    def coupling(v: Array) -> Array:
        return ((a / r) * (E @ v)) @ E

    def matvec(dg: Array) -> Array:
        return c * (dg + jnp.vdot(b * c, dg) / mass) - coupling(b * dg)

    # diag(b) S is symmetric: conjugate gradients see  A = I - h E^T diag(a/r) E h  with
    # h = sqrt(b / c), plus the added direction q. The root stays inside the solves,
    # which are not differentiated: its slope is infinite at a weight of zero.
    h, q = jnp.sqrt(b / c), jnp.sqrt(b * c)

    def conjugate_gradient(rhs: Array) -> Array:
        def symmetric(z: Array) -> Array:
            return z - h * coupling(h * z) + q * jnp.vdot(q, z) / mass

        return _conjugate_gradient(symmetric, rhs)

    def solve(_: object, rhs: Array) -> Array:
        z = conjugate_gradient(h * rhs)
        return (rhs + coupling(h * z)) / c - jnp.vdot(q, z) / mass

    def transpose_solve(_: object, rhs: Array) -> Array:
        z = conjugate_gradient(h * (coupling(rhs / c) - c * jnp.sum(rhs) / mass))
        return rhs / c + h * z

    rhs = h_column - (a * h_row / r) @ E
    dg = jax.lax.custom_linear_solve(matvec, rhs, solve, transpose_solve)
    return (h_row - E @ (b * dg)) / r, dg


def _conjugate_gradient(matvec: Callable[[Array], Array], rhs: Array) -> Array:
    # The spectrum is within [1 - s^2, 1], s^2 the rate of Sinkhorn's iteration: about
    # the square root of its number of steps.
    tolerance = 20 * float(jnp.finfo(rhs.dtype).eps)
    return jax.scipy.sparse.linalg.cg(matvec, rhs, tol=tolerance, maxiter=500)[0]
