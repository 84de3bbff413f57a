"""Square root of a positive semidefinite matrix, whose derivative stays finite."""

import jax
import jax.numpy as jnp

from jaxdiv.implicit._primitive import implicit_identity
from jaxdiv.typing import Array


def psd_sqrt(matrix: Array) -> Array:
    r"""The symmetric root R of a symmetric matrix, R R = matrix; shape `(d, d)`.

    Eigenvalues below zero, which rounding leaves in singular matrices, count as zero.
    The derivative solves :math:`R\,dR + dR\,R = dM`. Differentiating `eigh` instead
    divides by differences of eigenvalues and is NaN where two of them agree; here the
    divisors are sums, and in the null space, where the derivative is infinite, it is
    taken as zero.
    """
    matrix = (matrix + matrix.T) / 2
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(matrix))
    root = (vectors * jnp.sqrt(jnp.maximum(values, 0))) @ vectors.T
    return implicit_identity(_rule, root, matrix)


def _rule(root: Array, matrix: Array, tangent: Array) -> Array:
    del matrix
    return solve_lyapunov(root, tangent)


def solve_lyapunov(root: Array, b: Array) -> Array:
    """X with root X + X root = b, differentiable; root is symmetric, semidefinite."""
    return jax.lax.custom_linear_solve(
        lambda x: root @ x + x @ root,
        b,
        lambda _, b: _solve_lyapunov(root, b),
        symmetric=True,
    )


def _solve_lyapunov(root: Array, b: Array) -> Array:
    """X with root X + X root = b; the part of b in the null space gives zero."""
    values, vectors = jnp.linalg.eigh(root)
    sums = values[:, None] + values[None, :]
    regular = sums > len(values) * jnp.finfo(root.dtype).eps * jnp.max(sums)
    inner = vectors.T @ b @ vectors
    return (
        vectors
        @ jnp.where(regular, inner / jnp.where(regular, sums, 1), 0)
        @ (vectors.T)
    )
