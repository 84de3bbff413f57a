r"""Derivatives of the entropic problem at its solution.

With the density :math:`E_{ij} = \exp((f_i + g_j - C_{ij})/\varepsilon)` of the plan
against the product of the weights, the potentials solve

.. math:: \sum_j b_j E_{ij} = 1, \qquad \sum_i a_i E_{ij} = 1.

No iteration is differentiated. The equations never divide by a weight, so that an atom
of weight zero has a finite derivative.
"""

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
    # Eliminating df leaves  A w = rhs  for w = sqrt(b) dg with
    #   A = diag(c) - sqrt(b) E^T diag(a / r) E sqrt(b),  r = E b,  c = E^T a,
    # positive semidefinite, its kernel spanned by sqrt(b): f + s, g - s is the same
    # plan. Adding that direction makes it definite and chooses one of the solutions.
    C, a, b, eps = data
    f, g = potentials

    def density(data: Data) -> Array:
        return jnp.exp(exponent(f, g, data.C, data.eps))

    def marginals(data: Data) -> Potentials:
        E = density(data)
        return E @ data.b, data.a @ E

    E = density(data)
    r, c = E @ b, a @ E
    h_row, h_column = jax.jvp(marginals, (data,), (tangents,))[1]
    h_row, h_column = -eps * h_row, -eps * h_column
    root_b = jnp.sqrt(jnp.where(b > 0, b, 1)) * (b > 0)
    shift = root_b / jnp.sqrt(jnp.sum(b))

    def matvec(w: Array) -> Array:
        inner = (a / r) * (E @ (root_b * w))
        return c * w - root_b * (inner @ E) + shift * jnp.vdot(shift, w)

    rhs = root_b * (h_column - (a * h_row / r) @ E)
    w = jax.lax.custom_linear_solve(matvec, rhs, _conjugate_gradient, symmetric=True)
    df = (h_row - E @ (root_b * w)) / r
    return df, (h_column - (a * df) @ E) / c


def _conjugate_gradient(matvec, rhs: Array) -> Array:  # noqa: ANN001
    # The spectrum is within [1 - s^2, 1], s^2 the rate of Sinkhorn's iteration: about
    # the square root of its number of steps.
    tolerance = 20 * float(jnp.finfo(rhs.dtype).eps)
    return jax.scipy.sparse.linalg.cg(matvec, rhs, tol=tolerance, maxiter=500)[0]
