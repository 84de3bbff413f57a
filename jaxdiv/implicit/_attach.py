r"""Solutions that know their own derivative.

For :math:`F(x^\star(\theta), \theta) = 0` the implicit function theorem gives

.. math:: \partial_x F \; dx^\star = -\,\partial_\theta F \; d\theta.

How the solution was found has no part in it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jaxdiv import _check
from jaxdiv.implicit._conditions import stationarity
from jaxdiv.implicit._linear_solve import Linear, Options, norm, solve_with
from jaxdiv.implicit._primitive import identity_of_leaves
from jaxdiv.implicit._solution import Solution
from jaxdiv.typing import Array, PyTree

Residual = Callable[[Sequence[Array], Sequence[Array]], tuple[Array, ...]]


class Problem(NamedTuple):
    """An optimality condition on leaves, closed over nothing traced."""

    residual: Residual  # (x, operands) -> leaves shaped as x
    x: list[Array]
    operands: list[Array]  # the arrays of theta, then what F closes over
    x_tree: Any
    theta_tree: Any
    places: list[int]  # leaves of theta that are operands


def pose(
    F: Callable,
    x: PyTree,
    theta: PyTree,
    *,
    call: Callable = lambda F, x, theta: F(x, *theta),
    has_aux: bool = False,
    mask: PyTree = None,
) -> Problem:
    """Traces a condition once, and with it every value that it closes over.

    Raises:
      TypeError: x has an integer leaf, or F returns another structure, shape or dtype.
    """
    x_leaves, x_tree = jax.tree.flatten(jax.tree.map(jnp.asarray, x))
    for leaf in x_leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"x has a leaf of dtype {leaf.dtype}; expected a floating or complex "
                "dtype. Cast it first."
            )
    leaves, theta_tree = jax.tree.flatten(theta)
    # A Python number cannot be traced, and may stand for a size: it stays as it is.
    places = [
        i for i, leaf in enumerate(leaves) if isinstance(leaf, (jax.Array, np.ndarray))
    ]
    operands = [jnp.asarray(leaves[i]) for i in places]
    alive = None if mask is None else _alive(mask, x_leaves, x_tree)

    def on_leaves(x: Sequence[Array], operands: Sequence[Array]) -> list[Array]:
        full = list(leaves)
        for i, leaf in zip(places, operands, strict=True):
            full[i] = leaf
        out = call(F, x_tree.unflatten(x), theta_tree.unflatten(full))
        if has_aux and jax.tree.structure(out) != x_tree:
            out, _ = out
        out = _shaped_as(out, x, x_tree)
        if alive is None:
            return out
        return [jnp.where(m, r, leaf) for m, r, leaf in zip(alive, out, x, strict=True)]

    closed = jax.make_jaxpr(on_leaves)(x_leaves, operands)

    def residual(x: Sequence[Array], operands: Sequence[Array]) -> tuple[Array, ...]:
        own, constants = operands[: len(places)], operands[len(places) :]
        again = ClosedJaxpr(closed.jaxpr, list(constants))
        return tuple(jaxpr_as_fun(again)(*x, *own))

    constants = [jnp.asarray(c) for c in closed.consts]
    return Problem(residual, x_leaves, operands + constants, x_tree, theta_tree, places)


def _alive(mask: PyTree, x: Sequence[Array], x_tree: Any) -> list[Array]:
    leaves, tree = jax.tree.flatten(mask)
    if tree != x_tree:
        raise TypeError(f"mask has the structure {tree}; expected that of x, {x_tree}.")
    return [
        jnp.broadcast_to(jnp.asarray(m, bool), leaf.shape)
        for m, leaf in zip(leaves, x, strict=True)
    ]


def _shaped_as(out: PyTree, x: Sequence[Array], x_tree: Any) -> list[Array]:
    """The leaves of a residual in the dtypes of x, or a TypeError."""
    leaves, tree = jax.tree.flatten(out)
    if tree != x_tree:
        raise TypeError(
            f"F returns the structure {tree}; expected that of x, {x_tree}."
        )
    cast = []
    for r, leaf in zip(map(jnp.asarray, leaves), x, strict=True):
        # A wider dtype, as of a float64 parameter, is rounded; nothing else is cast.
        wider = jnp.promote_types(r.dtype, leaf.dtype) == r.dtype
        real = jnp.isrealobj(r) == jnp.isrealobj(leaf)
        if r.shape != leaf.shape or not (wider and real):
            raise TypeError(
                f"F returns {r.dtype}{list(r.shape)} in the tree {tree} where x has "
                f"{leaf.dtype}{list(leaf.shape)} in {x_tree}; expected equal shapes "
                "and dtypes."
            )
        cast.append(r.astype(leaf.dtype))
    return cast


class _Derivative(NamedTuple):
    """The rule of a problem: a linear solve and what to do where it fails."""

    residual: Residual
    solve: Callable[
        [Any, Any, tuple[Array, ...]], tuple[Array, ...]
    ]  # (x, operands, b)
    residual_tol: float | None = None  # None: any x counts as a solution

    def __call__(self, x: Any, operands: Any, moves: Any) -> tuple[Array, ...]:
        moving = [i for i, move in enumerate(moves) if move is not None]

        def along(*parts: Array) -> tuple[Array, ...]:
            full = list(operands)
            for i, part in zip(moving, parts, strict=True):
                full[i] = part
            return self.residual(x, full)

        at = [operands[i] for i in moving]
        _, rhs = jax.jvp(along, at, [moves[i] for i in moving])
        dx = self.solve(x, operands, tuple(-r for r in rhs))
        # A product, not a selection, whose transpose would be zero in reverse mode.
        factor = jax.lax.stop_gradient(self._worth(x, operands))
        return tuple((leaf * factor).astype(leaf.dtype) for leaf in dx)

    def _worth(self, x: Any, operands: Any) -> Array:
        """1, or NaN where x is not finite or solves too badly."""
        good = jnp.ones((), bool)
        for leaf in x:
            good &= jnp.isfinite(leaf).all()
        if self.residual_tol is not None:
            good &= norm(self.residual(x, operands)) <= self.residual_tol
        return jnp.where(good, 1, jnp.nan).astype(jnp.float32)


class _Settings(NamedTuple):
    """The options that `attach` and the decorators share."""

    options: Options
    refine: int
    mask: PyTree
    residual_tol: float | None
    on_failure: str


def _settings(
    *,
    solve: Any = "auto",
    symmetric: bool = False,
    ridge: float = 0.0,
    tol: float | None = None,
    maxiter: int | None = None,
    preconditioner: Linear | None = None,
    refine: int = 0,
    mask: PyTree = None,
    residual_tol: float | None = None,
    on_failure: str = "nan",
) -> _Settings:
    options = Options(solve, symmetric, ridge, tol, maxiter, preconditioner).check()
    _check.one_of("on_failure", on_failure, ("error", "ignore", "nan"))
    if residual_tol is not None:
        _check.positive(residual_tol=residual_tol)
    if refine < 0:
        raise ValueError(f"refine is {refine}; expected a number of steps, 0 or more.")
    return _Settings(options, refine, mask, residual_tol, on_failure)


def _with_keywords(F: Callable, x: PyTree, theta: tuple) -> PyTree:
    positional, keywords = theta
    return F(x, *positional, **keywords)


def _derivative(problem: Problem, settings: _Settings) -> _Derivative:
    residual_tol = settings.residual_tol
    if settings.on_failure == "ignore":
        residual_tol = None

    def solve(x: Any, operands: Any, b: tuple[Array, ...]) -> tuple[Array, ...]:
        _, slope = jax.linearize(lambda *x: problem.residual(x, operands), *x)
        guard = residual_tol is not None
        return solve_with(settings.options, lambda v: slope(*v), b, guard=guard)

    return _Derivative(problem.residual, solve, residual_tol)


def _attach(
    F: Callable, x: PyTree, theta: tuple, *, has_aux: bool, settings: _Settings
) -> PyTree:
    """`theta` is a pair of positional and keyword arguments."""
    problem = pose(
        F, x, theta, call=_with_keywords, has_aux=has_aux, mask=settings.mask
    )
    rule = _derivative(problem, settings)
    leaves, operands = still((problem.x, problem.operands))
    for _ in range(settings.refine):
        step = rule.solve(leaves, operands, problem.residual(leaves, operands))
        leaves = [leaf - s for leaf, s in zip(leaves, step, strict=True)]
    if settings.residual_tol is not None and settings.on_failure == "error":
        size = norm(problem.residual(leaves, operands))
        checkify.check(
            size <= settings.residual_tol,
            "The residual of the solution is {size}, above residual_tol.",
            size=size,
        )
    out = identity_of_leaves(rule, leaves, problem.operands)
    return problem.x_tree.unflatten(out)


def attach(
    F: Callable[..., PyTree],
    x: PyTree,
    *theta: PyTree,
    solve: Any = "auto",
    symmetric: bool = False,
    has_aux: bool = False,
    ridge: float = 0.0,
    refine: int = 0,
    mask: PyTree = None,
    residual_tol: float | None = None,
    on_failure: str = "nan",
    tol: float | None = None,
    maxiter: int | None = None,
    preconditioner: Linear | None = None,
    **kw_theta: PyTree,
) -> PyTree:
    r"""Gives a solution the derivative that its optimality condition implies.

    .. math:: F(x^\star, \theta) = 0 \quad\Rightarrow\quad
       dx^\star = -(\partial_x F)^{-1}\, \partial_\theta F\, d\theta

    The solution may come from anywhere: a loop, an optimiser, SciPy. The forward pass
    costs nothing; one linear solve serves all parameters.

    Args:
      F: residual `F(x, *theta, **kw_theta)`, shaped as `x` and zero at the solution. It
        may close over traced values; the solution is differentiable in them as well.
      x: the solution, a pytree of floating or complex arrays (holomorphic F). Its own
        derivative is dropped.
      *theta: what the solution depends on. Arrays of integers, keys, strings, functions
        and None may stand anywhere; Python numbers are constants.
      solve: how to solve the linear system, as in `linear_solve`.
      symmetric: whether :math:`\partial_x F` is symmetric.
      has_aux: whether F returns a pair of the residual and something to ignore.
      ridge: number added to the diagonal of :math:`\partial_x F`.
      refine: Newton steps on `x` first. One makes the derivative's error of the second
        order in the solver's.
      mask: pytree of booleans that broadcast to `x`; where False the unknown is dead,
        its row of F is ignored and its derivative is 0.
      residual_tol: largest norm of F at which the solution counts as one; None for any.
      on_failure: with `residual_tol`, what happens where the residual exceeds it:
        "nan", the derivative is NaN (also where the linear solve misses its tolerance);
        "error", an error of `jax.experimental.checkify` as well; "ignore", nothing.
      tol: relative residual of an iterative linear solve.
      maxiter: most steps of an iterative linear solve.
      preconditioner: approximate inverse of :math:`\partial_x F`, on pytrees.
      **kw_theta: more of `theta`, by name.

    Returns:
      `x`, unchanged in value unless `refine` is set.

    Raises:
      TypeError: `x` has an integer leaf, or F another structure, shape or dtype.
      ValueError: an option is out of range.

    Differentiable in `theta` and in what F closes over, in every mode and order; NaN
    where `x` is not finite. With "neumann:k" the derivative is an approximation.

    Example:
      >>> import jax
      >>> from jaxdiv import implicit
      >>> def cube_root(t):
      ...     x = jax.lax.stop_gradient(t) ** (1 / 3)
      ...     return implicit.attach(lambda x, t: x**3 - t, x, t)
      >>> print(f"{jax.grad(cube_root)(2.0):.4f} {jax.hessian(cube_root)(2.0):.4f}")
      0.2100 -0.0700

    References:
      Blondel et al., 2022, arXiv:2105.15183, eq. (2).
    """
    settings = _settings(
        solve=solve,
        symmetric=symmetric,
        ridge=ridge,
        tol=tol,
        maxiter=maxiter,
        preconditioner=preconditioner,
        refine=refine,
        mask=mask,
        residual_tol=residual_tol,
        on_failure=on_failure,
    )
    return _attach(F, x, (theta, kw_theta), has_aux=has_aux, settings=settings)


def attach_elementwise(F: Callable[..., Array], x: Array, *theta: PyTree) -> Array:
    """As `attach` where each entry of F depends on the same entry of x only.

    The matrix is then diagonal, and one product with a vector of ones gives it.
    """
    problem = pose(F, x, theta)

    def divide(x: Any, operands: Any, rhs: tuple) -> tuple:
        ones = tuple(jnp.ones_like(leaf) for leaf in x)
        _, slope = jax.jvp(lambda *x: problem.residual(x, operands), x, ones)
        return (rhs[0] / slope[0],)

    rule = _Derivative(problem.residual, divide)
    (out,) = identity_of_leaves(rule, problem.x, problem.operands)
    return out


def still(tree: PyTree) -> PyTree:
    """The tree with its arrays stopped; what is not an array stays as it is."""
    return jax.tree.map(
        lambda x: jax.lax.stop_gradient(x) if isinstance(x, jax.Array) else x, tree
    )


def _decorator(
    F: Callable, opts: dict[str, Any], *, has_aux: bool
) -> Callable[[Callable], Callable]:
    settings = _settings(**opts)

    def decorate(solver: Callable) -> Callable:
        @functools.wraps(solver)
        def solved(init: PyTree, *theta: PyTree, **kw_theta: PyTree) -> PyTree:
            start, fixed, named = still((init, theta, kw_theta))
            out = solver(start, *fixed, **named)
            if isinstance(out, Solution):
                x, rest = out.value, out._replace(value=None)
            else:
                x, rest = out if has_aux else (out, None)
            x = _attach(F, x, (theta, kw_theta), has_aux=has_aux, settings=settings)
            rest = still(rest)
            if isinstance(out, Solution):
                return rest._replace(value=x)
            return (x, rest) if has_aux else x

        return solved

    return decorate


def root(
    F: Callable[..., PyTree], *, has_aux: bool = False, **opts: Any
) -> Callable[[Callable], Callable]:
    r"""Decorates a solver of F(x, theta) = 0 with the derivative of its solution.

    .. math:: F(x^\star(\theta), \theta) = 0

    Args:
      F: residual `F(x, *theta, **kw_theta)`, shaped as x.
      has_aux: whether the solver returns a pair `(x, aux)`; `aux` has no derivative. F
        may then return a pair as well, of which the second is ignored.
      **opts: options of `attach`: `solve`, `symmetric`, `ridge`, `refine`, `mask`,
        `residual_tol`, `on_failure`, `tol`, `maxiter`, `preconditioner`.

    Returns:
      A decorator for a function `solver(init, *theta, **kw_theta) -> x`. It is run once
      and never differentiated; the derivative in `init` is 0. If it returns a
      `Solution`, its value is attached and its other fields have no derivative.

    Raises:
      TypeError: an unknown option; later, as `attach`.
      ValueError: an option is out of range.

    Differentiable as `attach`.

    Example:
      >>> import jax
      >>> from jaxdiv import implicit
      >>> @implicit.root(lambda x, t: x**3 - t)
      ... def cube_root(init, t):
      ...     step = lambda _, x: x - (x**3 - t) / (3 * x**2)
      ...     return jax.lax.fori_loop(0, 20, step, init)
      >>> print(f"{jax.grad(cube_root, 1)(1.0, 2.0):.4f}")
      0.2100

    References:
      Blondel et al., 2022, arXiv:2105.15183, figure 1.
    """
    return _decorator(F, opts, has_aux=has_aux)


def fixed_point(
    T: Callable[..., PyTree], *, has_aux: bool = False, **opts: Any
) -> Callable[[Callable], Callable]:
    r"""Decorates a solver of x = T(x, theta) with the derivative of its solution.

    .. math:: (\partial_x T - I)\, dx^\star = -\,\partial_\theta T\, d\theta

    Args:
      T: map `T(x, *theta, **kw_theta)`, shaped as x.
      has_aux: as in `root`.
      **opts: as in `root`; "neumann:k" and "one_step" are for contractions.

    Returns:
      A decorator for a function `solver(init, *theta, **kw_theta) -> x`, as in `root`.

    Raises:
      TypeError: an unknown option; later, as `attach`.
      ValueError: an option is out of range.

    Differentiable as `attach`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import implicit
      >>> T = lambda x, b: jnp.cos(x) * b
      >>> @implicit.fixed_point(T)
      ... def solve(init, b):
      ...     return jax.lax.fori_loop(0, 100, lambda _, x: T(x, b), init)
      >>> print(f"{solve(0.0, 1.0):.4f} {jax.grad(solve, 1)(0.0, 1.0):.4f}")
      0.7391 0.4416

    References:
      Blondel et al., 2022, arXiv:2105.15183, section 2.1.
    """
    return _decorator(residual_of(T, has_aux=has_aux), opts, has_aux=has_aux)


def residual_of(T: Callable[..., PyTree], *, has_aux: bool = False) -> Callable:
    """F(x, ...) = T(x, ...) - x."""

    def F(x: PyTree, *theta: PyTree, **kw_theta: PyTree) -> PyTree:
        out = T(x, *theta, **kw_theta)
        if has_aux and jax.tree.structure(out) != jax.tree.structure(x):
            out, _ = out
        if jax.tree.structure(out) != jax.tree.structure(x):
            return out  # reported where residuals are checked
        return jax.tree.map(jnp.subtract, out, x)

    return F


def argmin(
    f: Callable[..., Array], *, has_aux: bool = False, **opts: Any
) -> Callable[[Callable], Callable]:
    r"""Decorates a minimiser of f(x, theta) with the derivative of its solution.

    .. math:: \nabla^2_{xx} f \; dx^\star = -\,\nabla^2_{x\theta} f \; d\theta

    Args:
      f: objective `f(x, *theta, **kw_theta) -> scalar`, smooth, without constraints.
      has_aux: whether the solver returns a pair `(x, aux)`; `aux` has no derivative.
      **opts: as in `root`; the system is the Hessian, symmetric.

    Returns:
      A decorator for a function `solver(init, *theta, **kw_theta) -> x`, as in `root`.

    Raises:
      TypeError: an unknown option; later, as `attach`.
      ValueError: an option is out of range.

    Differentiable as `attach`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import implicit
      >>> A, y = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.array([1.0, 3.0])
      >>> @implicit.argmin(lambda w, t: jnp.sum((A @ w - y) ** 2) + t * jnp.sum(w**2))
      ... def ridge(init, t):
      ...     return jnp.linalg.solve(A.T @ A + t * jnp.eye(2), A.T @ y)
      >>> print([f"{x:.4f}" for x in jax.jacobian(ridge, 1)(jnp.zeros(2), 1.0)])
      ['0.6250', '-0.3750']

    References:
      Blondel et al., 2022, arXiv:2105.15183, eq. (4).
    """
    return _decorator(stationarity(f), {"symmetric": True, **opts}, has_aux=has_aux)


def root_jvp(
    F: Callable[..., PyTree], x: PyTree, theta: tuple, tangents: tuple, **opts: Any
) -> PyTree:
    r"""The derivative of a root along a direction, without attaching it.

    .. math:: dx = -(\partial_x F)^{-1}\, \partial_\theta F\, d\theta

    Args:
      F: residual `F(x, *theta)`, shaped as `x`.
      x: the solution.
      theta: tuple of the arguments.
      tangents: tuple of directions, one an argument and shaped as it; None for an
        argument that does not move.
      **opts: as in `root`.

    Returns:
      dx, shaped as `x`.

    Raises:
      TypeError: as `attach`, or an unknown option.
      ValueError: not as many tangents as arguments.

    Differentiable in all arguments, x taken as fixed.

    Example:
      >>> from jaxdiv import implicit
      >>> F = lambda x, t: x**3 - t
      >>> print(f"{implicit.root_jvp(F, 2 ** (1 / 3), (2.0,), (1.0,)):.4f}")
      0.2100

    References:
      Blondel et al., 2022, arXiv:2105.15183, section 2.1.
    """
    problem, rule = _rule_of(F, x, theta, opts)
    if len(tangents) != len(theta):
        raise ValueError(
            f"Got {len(tangents)} tangents; expected one for each of the {len(theta)} "
            "arguments in theta, None for one that does not move."
        )
    leaves = []
    for argument, tangent in zip(theta, tangents, strict=True):
        tree = jax.tree.structure(argument)
        leaves += (
            [None] * tree.num_leaves if tangent is None else tree.flatten_up_to(tangent)
        )
    moves = [
        None
        if leaves[i] is None or not _inexact(at)
        else jnp.asarray(leaves[i], at.dtype)
        for i, at in zip(problem.places, problem.operands, strict=False)
    ]
    moves += [None] * (len(problem.operands) - len(moves))
    return problem.x_tree.unflatten(rule(problem.x, problem.operands, moves))


def root_vjp(
    F: Callable[..., PyTree], x: PyTree, theta: tuple, cotangent: PyTree, **opts: Any
) -> tuple:
    r"""The derivative of a function of a root, pulled back to the arguments.

    .. math:: (\partial_x F)^\top u = -g, \qquad g \mapsto (\partial_\theta F)^\top u

    Args:
      F: residual `F(x, *theta)`, shaped as `x`.
      x: the solution.
      theta: tuple of the arguments.
      cotangent: g, shaped as `x`.
      **opts: as in `root`.

    Returns:
      Tuple shaped as `theta`; None for what is not a floating array.

    Raises:
      TypeError: as `attach`, or an unknown option.

    Differentiable in all arguments, x taken as fixed.

    Example:
      >>> from jaxdiv import implicit
      >>> F = lambda x, t: x**3 - t
      >>> (slope,) = implicit.root_vjp(F, 2 ** (1 / 3), (2.0,), 1.0)
      >>> print(f"{slope:.4f}")
      0.2100

    References:
      Blondel et al., 2022, arXiv:2105.15183, section 2.1.
    """
    problem, rule = _rule_of(F, x, theta, opts)
    own = problem.operands[: len(problem.places)]
    moving = [k for k, at in enumerate(own) if _inexact(at)]

    def forward(parts: list[Array]) -> tuple[Array, ...]:
        moves: list[Array | None] = [None] * len(problem.operands)
        for k, part in zip(moving, parts, strict=True):
            moves[k] = part
        return rule(problem.x, problem.operands, moves)

    g = [
        jnp.asarray(leaf, at.dtype)
        for leaf, at in zip(
            problem.x_tree.flatten_up_to(cotangent), problem.x, strict=True
        )
    ]
    (pulled,) = jax.linear_transpose(forward, [own[k] for k in moving])(tuple(g))
    leaves: list[Array | None] = [None] * problem.theta_tree.num_leaves
    for k, part in zip(moving, pulled, strict=True):
        leaves[problem.places[k]] = part
    return problem.theta_tree.unflatten(leaves)


def _inexact(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _rule_of(
    F: Callable, x: PyTree, theta: tuple, opts: dict[str, Any]
) -> tuple[Problem, _Derivative]:
    settings = _settings(**opts)
    # Given by hand, numbers are arguments to move.
    theta = jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, (float, complex)) else leaf,
        tuple(theta),
    )
    problem = pose(F, x, theta, mask=settings.mask)
    return problem, _derivative(problem, settings)
