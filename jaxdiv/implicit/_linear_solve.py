r"""One linear solve for every derivative: dense or Krylov, in every mode.

The system is a function v -> A v on a pytree. A dense solve writes A out; a Krylov one
stands inside `jax.lax.custom_linear_solve`, so that its loop is never differentiated.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse import linalg as krylov

from jaxdiv import _check
from jaxdiv.typing import Array, PyTree

Linear = Callable[[PyTree], PyTree]
Solver = Callable[[Linear, PyTree], PyTree]

DENSE_SIZE = 512  # unknowns up to which "auto" writes the matrix out
_DENSE = ("cholesky", "lstsq", "lu")
_KRYLOV = ("bicgstab", "cg", "gmres", "normal_cg")
_NAMES = (*_DENSE, *_KRYLOV, "auto", "neumann:k", "one_step")


class LinearInfo(NamedTuple):
    r"""What a linear solve reached.

    Attributes:
      residual: :math:`\|b - A x\| / \|b\|`, a scalar.
      converged: whether the residual is at most ten times `tol`.
    """

    residual: Array
    converged: Array


class Options(NamedTuple):
    """How to solve; `linear_solve` says what each means."""

    solve: Any = "auto"
    symmetric: bool = False
    ridge: float = 0.0
    tol: float | None = None
    maxiter: int | None = None
    preconditioner: Linear | None = None

    def check(self) -> "Options":
        """The options, or an error that says which of them is wrong."""
        if isinstance(self.solve, str):
            _terms(self.solve)
        elif not callable(self.solve) and not _from_lineax(self.solve):
            raise TypeError(
                f"solve is a {type(self.solve).__name__}; expected a name, a function "
                "(matvec, b) -> x, or a lineax solver."
            )
        if self.tol is not None:
            _check.positive(tol=self.tol)
        if self.maxiter is not None and self.maxiter < 1:
            raise ValueError(f"maxiter is {self.maxiter}; expected at least 1.")
        return self

    def tolerance(self, dtype: Any) -> float:
        """`tol`, or its default for a dtype."""
        if self.tol is not None:
            return self.tol
        return 1e-10 if jnp.finfo(dtype).bits == 64 else 1e-6


def _terms(name: str) -> int | None:
    """Terms of the Neumann series that a name asks for; None if it is another name."""
    if name == "one_step":
        return 1
    head, _, count = name.partition(":")
    if head == "neumann" and count.isdecimal() and int(count) > 0:
        return int(count)
    if name not in _NAMES or name == "neumann:k":
        raise ValueError(f"solve is {name!r}; expected one of {', '.join(_NAMES)}.")
    return None


def _from_lineax(solver: Any) -> bool:
    return hasattr(solver, "init") and hasattr(solver, "compute")


def linear_solve(
    matvec: Linear,
    b: PyTree,
    *,
    solve: Any = "auto",
    symmetric: bool = False,
    ridge: float = 0.0,
    tol: float | None = None,
    maxiter: int | None = None,
    preconditioner: Linear | None = None,
) -> tuple[PyTree, LinearInfo]:
    r"""Solves a linear system that is given as a function.

    .. math:: A x = b, \qquad A v = \mathrm{matvec}(v)

    ============== ==================================================================
    solve          method
    ============== ==================================================================
    "auto"         "lu" up to 512 unknowns; beyond them "gmres", "cg" if symmetric
    "lu"           dense, by LU
    "cholesky"     dense, A symmetric and definite (of either sign)
    "lstsq"        dense, the solution of least norm; for a singular A
    "cg"           conjugate gradients, A symmetric and definite (of either sign)
    "normal_cg"    conjugate gradients on :math:`A^\top A`, of the squared condition
    "gmres"        GMRES, any A
    "bicgstab"     BiCGSTAB, any A
    "neumann:k"    :math:`-\sum_{j<k} (I + A)^j b`; for A = dT - I at a fixed point
    "one_step"     "neumann:1", the Jacobian-free gradient
    a function     `(matvec, b) -> x`; it is not differentiated
    a solver       of lineax, where that package is installed
    ============== ==================================================================

    Args:
      matvec: linear function of a pytree shaped as `b`. It may close over traced
        values, and the solution is differentiable in them.
      b: pytree of floating or complex arrays.
      solve: a method of the table.
      symmetric: whether A is symmetric; spares its transpose.
      ridge: number that is added to the diagonal of A.
      tol: relative residual at which a Krylov method stops; 1e-10 in float64 and 1e-6
        in float32 by default.
      maxiter: most steps of a Krylov method (restarts of "gmres").
      preconditioner: function of a pytree, an approximate inverse of A, for a Krylov
        method.

    Returns:
      The solution, shaped as `b`, and a `LinearInfo` of what was reached.

    Raises:
      TypeError: `b` has an integer leaf, or `matvec` another shape than `b`.
      ValueError: an unknown name, `tol` not positive, or `maxiter` below 1.

    Differentiable in `b` and in what `matvec` closes over, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import implicit
      >>> A = jnp.array([[2.0, 1.0], [0.0, 4.0]])
      >>> x, info = implicit.linear_solve(lambda v: A @ v, jnp.array([1.0, 2.0]))
      >>> print(x, info.converged)
      [0.25 0.5 ] True

    References:
      Saad, 2003, Iterative Methods for Sparse Linear Systems; for the Neumann series
      Fung et al., 2022, arXiv:2103.12803.
    """
    options = Options(solve, symmetric, ridge, tol, maxiter, preconditioner).check()
    b = jax.tree.map(jnp.asarray, b)
    for leaf in jax.tree.leaves(b):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(f"b has a leaf of {leaf.dtype}; expected a floating dtype.")
    want, got = (jax.tree.map(jnp.shape, t) for t in (b, jax.eval_shape(matvec, b)))
    if want != got:
        raise TypeError(f"matvec returns shapes {got}; expected those of b, {want}.")
    x = solve_with(options, matvec, b)
    residual = jax.lax.stop_gradient(_relative_residual(options, matvec, b, x))
    tolerance = options.tolerance(residual.dtype)
    return x, LinearInfo(residual, residual <= 10 * tolerance)


def solve_with(
    options: Options, matvec: Linear, b: PyTree, *, guard: bool = False
) -> PyTree:
    """The solution; with `guard`, NaN where its residual misses the tolerance."""
    size = sum(leaf.size for leaf in jax.tree.leaves(b))
    if size == 0:
        return b
    A = partial(_shifted, matvec, options.ridge)
    solve = options.solve
    if solve == "auto":
        large = "cg" if options.symmetric else "gmres"
        solve = "lu" if size <= DENSE_SIZE else large
    if isinstance(solve, str) and (terms := _terms(solve)):
        return _neumann(A, b, terms)
    if solve in _DENSE:
        return _solve_dense(solve, A, b, options if guard else None)
    run = partial(_run, solve, options)
    if guard:
        run = partial(_guarded, run, options)
    symmetric = options.symmetric or solve == "cg"
    return jax.lax.custom_linear_solve(A, b, run, run, symmetric)


def _shifted(matvec: Linear, ridge: float, v: PyTree) -> PyTree:
    if isinstance(ridge, (int, float)) and ridge == 0:
        return matvec(v)
    return jax.tree.map(lambda Av, v: Av + ridge * v, matvec(v), v)


def _neumann(A: Linear, b: PyTree, terms: int) -> PyTree:
    def add(_: int, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        total, term = carry
        term = jax.tree.map(jnp.add, term, A(term))
        return jax.tree.map(jnp.add, total, term), term

    total, _ = jax.lax.fori_loop(1, terms, add, (b, b))
    return jax.tree.map(jnp.negative, total)


def raveled(matvec: Linear, like: PyTree) -> tuple[Linear, Array, Callable]:
    """`matvec` on vectors of at least float32, `like` as one, and the way back."""
    flat, unravel = ravel_pytree(like)
    wide = jnp.promote_types(flat.dtype, jnp.float32)

    def on_vector(v: Array) -> Array:
        return ravel_pytree(matvec(back(v)))[0].astype(wide)

    def back(v: Array) -> PyTree:
        return unravel(v.astype(flat.dtype))

    return on_vector, flat.astype(wide), back


def dense(on_vector: Linear, vector: Array) -> Array:
    """The matrix of a linear function of vectors."""
    columns = jax.vmap(on_vector, out_axes=1)
    return columns(jnp.eye(vector.size, dtype=vector.dtype))


def _solve_dense(name: str, A: Linear, b: PyTree, guard: Options | None) -> PyTree:
    on_vector, flat, back = raveled(A, b)
    matrix = dense(on_vector, flat)
    if name == "lu" and guard is None:
        return back(jnp.linalg.solve(matrix, flat))

    def run(_: Linear, b: Array) -> Array:
        return _direct(name, matrix, b)

    def run_transposed(_: Linear, b: Array) -> Array:
        return _direct(name, matrix.T, b)

    solve, transposed = run, run_transposed
    if guard is not None:
        solve = partial(_guarded, run, guard)
        transposed = partial(_guarded, run_transposed, guard)
    x = jax.lax.custom_linear_solve(
        lambda v: jnp.dot(matrix, v, precision="highest"), flat, solve, transposed
    )
    return back(x)


def _direct(name: str, matrix: Array, b: Array) -> Array:
    if name == "lu":
        return jnp.linalg.solve(matrix, b)
    if name == "lstsq":
        return jnp.linalg.lstsq(matrix, b)[0]
    sign = jnp.sign(jnp.trace(matrix).real)
    factor = jax.scipy.linalg.cho_factor(sign * matrix, lower=True)
    return sign * jax.scipy.linalg.cho_solve(factor, b)


def _run(solve: Any, options: Options, matvec: Linear, b: PyTree) -> PyTree:
    """A Krylov method by name, a caller's function, or a lineax solver."""
    if not isinstance(solve, str):
        return (
            _run_lineax(solve, matvec, b) if _from_lineax(solve) else solve(matvec, b)
        )
    A, flat, back = raveled(matvec, b)
    M = None
    if options.preconditioner is not None:
        M, _, _ = raveled(options.preconditioner, b)
    settings = {"tol": options.tolerance(flat.dtype), "maxiter": options.maxiter}
    if solve == "normal_cg":
        transposed = jax.linear_transpose(A, flat)

        def adjoint(v: Array) -> Array:
            return transposed(v.conj())[0].conj()

        x, _ = krylov.cg(lambda v: adjoint(A(v)), adjoint(flat), M=M, **settings)
    elif solve == "gmres":
        x, _ = krylov.gmres(A, flat, M=M, restart=min(flat.size, 40), **settings)
    else:
        x, _ = getattr(krylov, solve)(A, flat, M=M, **settings)
    return back(x)


def _run_lineax(solver: Any, matvec: Linear, b: PyTree) -> PyTree:
    import lineax  # noqa: PLC0415 - optional, and slow to import

    shape = jax.eval_shape(lambda: b)
    operator = lineax.FunctionLinearOperator(matvec, shape)
    return lineax.linear_solve(operator, b, solver, throw=False).value


def _guarded(run: Solver, options: Options, matvec: Linear, b: PyTree) -> PyTree:
    # Inside the custom solve, where a function of the right side need not be linear.
    x = run(matvec, b)
    error = _distance(jax.tree.map(jnp.subtract, b, matvec(x)), b)
    tolerance = 10 * options.tolerance(error.dtype)
    factor = jnp.where(error <= tolerance, 1, jnp.nan)
    return jax.tree.map(lambda leaf: (leaf * factor).astype(leaf.dtype), x)


def _relative_residual(options: Options, matvec: Linear, b: PyTree, x: PyTree) -> Array:
    Ax = _shifted(matvec, options.ridge, x)
    return _distance(jax.tree.map(jnp.subtract, b, Ax), b)


def _distance(difference: PyTree, b: PyTree) -> Array:
    """The norm of the difference over that of b; 0 where both vanish."""
    size, scale = norm(difference), norm(b)
    return jnp.where(size == 0, 0, size / jnp.where(scale == 0, 1, scale))


def norm(tree: PyTree) -> Array:
    """The Euclidean norm of a pytree, in float32 or better; 0 if it is empty."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    wide = jnp.result_type(jnp.float32, *(jnp.real(leaf).dtype for leaf in leaves))
    squares = [
        jnp.sum(jnp.abs(leaf.astype(jnp.promote_types(leaf.dtype, wide))) ** 2)
        for leaf in leaves
    ]
    return jnp.sqrt(sum(squares, jnp.zeros((), wide)))
