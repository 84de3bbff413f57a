"""Whether a derivative can be trusted, told without taking it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.implicit._attach import pose
from jaxdiv.implicit._linear_solve import (
    DENSE_SIZE,
    Linear,
    Options,
    dense,
    linear_solve,
    norm,
    raveled,
    solve_with,
)
from jaxdiv.typing import Array, PyTree

_KRYLOV_STEPS = 100  # of the bidiagonalisation that estimates singular values


class Diagnostics(NamedTuple):
    r"""What `check` found; scalars.

    Attributes:
      residual_norm: norm of F at the solution.
      newton_step_norm: norm of :math:`(\partial_x F)^{-1} F`, an estimate of how
        far the solution is from the true one.
      condition: largest over least singular value of :math:`\partial_x F`. A relative
        error of the derivative is about this times the rounding error; infinite means
        that directions are left undetermined.
      min_singular: least singular value; about 0 where the solution is not isolated.
      solve_residual: relative residual that the linear solver leaves on a right side of
        no special direction. Far above its tolerance the derivative is wrong.
    """

    residual_norm: Array
    newton_step_norm: Array
    condition: Array
    min_singular: Array
    solve_residual: Array


def check(
    F: Callable[..., PyTree],
    x: PyTree,
    *theta: PyTree,
    solve: Any = "auto",
    symmetric: bool = False,
    ridge: float = 0.0,
    tol: float | None = None,
    maxiter: int | None = None,
    preconditioner: Linear | None = None,
    mask: PyTree = None,
    **kw_theta: PyTree,
) -> Diagnostics:
    r"""Measures what the derivative of a solution rests on.

    .. math:: \|F\|, \quad \|(\partial_x F)^{-1} F\|, \quad
       \kappa(\partial_x F), \quad \sigma_{\min}(\partial_x F)

    Args:
      F: residual `F(x, *theta, **kw_theta)`, as for `attach`.
      x: the solution.
      *theta: what it depends on.
      solve: linear solver to be tried, as in `linear_solve`, and its options:
      symmetric: as in `linear_solve`.
      ridge: as in `linear_solve`.
      tol: as in `linear_solve`.
      maxiter: as in `linear_solve`.
      preconditioner: as in `linear_solve`.
      mask: dead unknowns, as in `attach`.
      **kw_theta: more of `theta`, by name.

    Returns:
      `Diagnostics`. Up to 512 unknowns the singular values are exact; beyond, they are
      the extremes of a hundred steps of Golub-Kahan bidiagonalisation: the largest is
      good, the least is an upper bound, and so `condition` a lower one.

    Raises:
      TypeError: as `attach`.
      ValueError: an option is out of range.

    Not meant to be differentiated.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import implicit
      >>> A = jnp.array([[2.0, 0.0], [0.0, 1e-3]])
      >>> found = implicit.check(lambda x, b: A @ x - b, jnp.zeros(2), jnp.ones(2))
      >>> print(f"{found.condition:.0f} {found.newton_step_norm:.1f}")
      2000 1000.0

    References:
      Blondel et al., 2022, arXiv:2105.15183, theorem 1; Golub and Van Loan, 2013,
      section 10.4.
    """
    options = Options(solve, symmetric, ridge, tol, maxiter, preconditioner).check()
    problem = pose(lambda x, *args: F(x, *args, **kw_theta), x, theta, mask=mask)
    residual = problem.residual(problem.x, problem.operands)
    _, slope = jax.linearize(
        lambda *x: problem.residual(x, problem.operands), *problem.x
    )
    on_vector, flat, back = raveled(lambda v: slope(*v), tuple(problem.x))
    if flat.size == 0:
        zero = norm(())
        return Diagnostics(zero, zero, zero + 1, zero + jnp.inf, zero)
    probe = back(jax.random.normal(jax.random.key(0), flat.shape, flat.dtype))
    _, info = linear_solve(lambda v: slope(*v), probe, **options._asdict())
    step = solve_with(options, lambda v: slope(*v), residual)
    if flat.size <= DENSE_SIZE:
        values = jnp.linalg.svd(dense(on_vector, flat), compute_uv=False)
    else:
        values = _singular_values(on_vector, flat)
    largest, least = jnp.max(values), jnp.min(values)
    return Diagnostics(
        norm(residual), norm(step), largest / least, least, info.residual
    )


def _singular_values(A: Linear, like: Array) -> Array:
    """Ritz values of Golub-Kahan bidiagonalisation, fully orthogonalised."""
    adjoint = jax.linear_transpose(A, like)

    def back(u: Array) -> Array:
        return adjoint(u.conj())[0].conj()

    steps = min(_KRYLOV_STEPS, like.size)
    dtype = like.dtype

    def unit(x: Array, basis: Array) -> tuple[Array, Array]:
        for _ in range(2):
            x = x - basis.T @ (basis.conj() @ x)
        size = jnp.linalg.norm(x)
        return size, x / jnp.where(size > 0, size, 1)

    def step(carry: tuple, k: Array) -> tuple:
        V, U, v, beta, last = carry
        V = V.at[k].set(v)
        alpha, u = unit(A(v) - beta * last, U)
        U = U.at[k].set(u)
        beta, following = unit(back(u) - alpha * v, V)
        return (V, U, following, beta, u), (alpha, beta)

    empty = jnp.zeros((steps, like.size), dtype)
    start = jax.random.normal(jax.random.key(1), like.shape, dtype)
    _, v = unit(start, empty)
    carry = (empty, empty, v, jnp.zeros((), jnp.finfo(dtype).dtype), jnp.zeros_like(v))
    _, (alphas, betas) = jax.lax.scan(step, carry, jnp.arange(steps))
    bidiagonal = jnp.diag(alphas) + jnp.diag(betas[:-1], 1)
    return jnp.linalg.svd(bidiagonal, compute_uv=False)
