r"""Solvers of roots and fixed points whose solution is attached to its condition."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxdiv import _check
from jaxdiv.implicit._attach import attach, attach_elementwise, residual_of, still
from jaxdiv.implicit._conditions import projected_gradient
from jaxdiv.implicit._linear_solve import Options, norm, solve_with
from jaxdiv.implicit._solution import Solution
from jaxdiv.typing import Array, ArrayLike, PyTree

_HALVINGS = 30  # of a Newton step, until the residual falls


def _floating(init: PyTree) -> PyTree:
    init = jax.tree.map(jnp.asarray, init)
    for leaf in jax.tree.leaves(init):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"init has a leaf of dtype {leaf.dtype}; expected a floating dtype."
            )
    return still(init)


def _limits(tol: float | None, maxiter: int, like: PyTree) -> float:
    if maxiter < 1:
        raise ValueError(f"maxiter is {maxiter}; expected at least 1.")
    if tol is not None:
        _check.positive(tol=tol)
        return tol
    dtype = jnp.result_type(jnp.float32, *(x.dtype for x in jax.tree.leaves(like)))
    return 1e-10 if jnp.finfo(dtype).bits == 64 else 1e-5


def _same_shape(out: PyTree, x: PyTree, name: str) -> None:
    got, want = (jax.tree.map(jnp.shape, tree) for tree in (out, x))
    if got != want:
        raise TypeError(f"{name} returns shapes {got}; expected those of init, {want}.")


class _State(NamedTuple):
    """An iterate, its image, how far apart they are, and steps so far."""

    x: Any
    image: Any
    residual: Array
    iterations: Array
    memory: Any = ()


def _iterate(
    step: Callable[[_State], _State], state: _State, tol: float, maxiter: int
) -> _State:
    """Steps until the residual is at most `tol`, is NaN, or `maxiter` is reached."""

    def unfinished(state: _State) -> Array:
        return (state.residual > tol) & (state.iterations < maxiter)

    return jax.lax.while_loop(unfinished, step, state)


def _solution(value: PyTree, state: _State, tol: float) -> Solution:
    return Solution(
        value, None, state.residual, state.iterations, state.residual <= tol
    )


def picard(
    T: Callable[..., PyTree],
    init: PyTree,
    *theta: PyTree,
    tol: float | None = None,
    maxiter: int = 1000,
    solve: Any = "auto",
) -> Solution:
    r"""The fixed point of a contraction, by plain iteration.

    .. math:: x_{k+1} = T(x_k, \theta)

    Args:
      T: map `T(x, *theta)`, shaped as x.
      init: start, a pytree of floating arrays.
      *theta: what T depends on.
      tol: largest norm of T(x) - x; 1e-10 in float64 and 1e-5 in float32 by default.
      maxiter: most steps.
      solve: linear solve of the derivative, as in `attach`.

    Returns:
      A `Solution`; its `residual` is the norm of T(x) - x at `value`.

    Raises:
      TypeError: `init` has an integer leaf, or T returns another shape.
      ValueError: `tol` is not positive or `maxiter` is below 1.

    Differentiable in `theta`, in every mode and order; the derivative in `init` is 0.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import implicit
      >>> solved = implicit.picard(lambda x, b: jnp.cos(b * x), 0.5, 1.0)
      >>> print(f"{solved.value:.4f}", solved.converged)
      0.7391 True

    References:
      Picard, 1890.
    """
    init = _floating(init)
    tol = _limits(tol, maxiter, init)
    fixed = still(theta)

    def look(x: PyTree, iterations: Any) -> _State:
        image = T(x, *fixed)
        _same_shape(image, x, "T")
        image = _as(image, x)
        return _State(x, image, _gap(image, x), jnp.asarray(iterations))

    state = _iterate(
        lambda s: look(s.image, s.iterations + 1), look(init, 0), tol, maxiter
    )
    value = attach(residual_of(T), state.x, *theta, solve=solve)
    return _solution(value, state, tol)


def _as(tree: PyTree, like: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, x: jnp.asarray(leaf, x.dtype), tree, like)


def _gap(a: PyTree, b: PyTree) -> Array:
    return norm(jax.tree.map(jnp.subtract, a, b))


def anderson(
    T: Callable[..., PyTree],
    init: PyTree,
    *theta: PyTree,
    history: int = 5,
    mixing: float = 1.0,
    ridge: float = 1e-5,
    tol: float | None = None,
    maxiter: int = 1000,
    solve: Any = "auto",
) -> Solution:
    r"""The fixed point of a map, by Anderson's acceleration.

    .. math:: x_{k+1} = \sum_i \alpha_i \bigl(x_i + \beta\,(T(x_i) - x_i)\bigr), \qquad
       \alpha = \arg\min_{\sum \alpha = 1}
       \bigl\|\sum_i \alpha_i (T(x_i) - x_i)\bigr\|^2

    over the last `history` iterates.

    Args:
      T: map `T(x, *theta)`, shaped as x.
      init: start, a pytree of floating arrays.
      *theta: what T depends on.
      history: iterates that are combined, at least 1 (which is damped iteration).
      mixing: the damping :math:`\beta` in (0, 1].
      ridge: regularisation of the small least-squares problem, whose residuals are
        scaled to length 1.
      tol: largest norm of T(x) - x; 1e-10 in float64 and 1e-5 in float32 by default.
      maxiter: most steps.
      solve: linear solve of the derivative, as in `attach`.

    Returns:
      A `Solution`; its `residual` is the norm of T(x) - x at `value`.

    Raises:
      TypeError: `init` has an integer leaf, or T returns another shape.
      ValueError: an option is out of range.

    Differentiable in `theta`, in every mode and order; the derivative in `init` is 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import implicit
      >>> solved = implicit.anderson(lambda x, b: jnp.cos(b * x), 0.5, 1.0)
      >>> print(f"{solved.value:.4f}", int(solved.iterations) < 10)
      0.7391 True

    References:
      Anderson, 1965; Walker and Ni, 2011, SIAM J. Numer. Anal. 49.
    """
    if history < 1:
        raise ValueError(f"history is {history}; expected at least 1.")
    _check.in_range(0, 1, closed=True, mixing=mixing)
    _check.positive(mixing=mixing)
    _check.in_range(0, closed=True, ridge=ridge)
    init = _floating(init)
    tol = _limits(tol, maxiter, init)
    start, unravel = ravel_pytree(init)
    fixed = still(theta)

    def image(x: Array) -> Array:
        out = T(unravel(x), *fixed)
        _same_shape(out, init, "T")
        return ravel_pytree(_as(out, init))[0]

    def look(x: Array, iterations: Any, memory: tuple[Array, Array]) -> _State:
        y = image(x)
        return _State(x, y, norm(y - x), jnp.asarray(iterations), memory)

    def step(state: _State) -> _State:
        slot = state.iterations % history
        xs, gaps = state.memory
        xs = xs.at[slot].set(state.x)
        gaps = gaps.at[slot].set(state.image - state.x)
        filled = jnp.arange(history) <= state.iterations
        x = _combine(xs, gaps, filled, mixing, ridge)
        return look(x, state.iterations + 1, (xs, gaps))

    empty = jnp.zeros((history, start.size), start.dtype)
    state = _iterate(step, look(start, 0, (empty, empty)), tol, maxiter)
    value = attach(residual_of(T), unravel(state.x), *theta, solve=solve)
    return _solution(value, state, tol)


def _combine(
    xs: Array, gaps: Array, filled: Array, mixing: float, ridge: float
) -> Array:
    """Anderson's combination of the filled slots."""
    gaps_of = jnp.where(filled[:, None], gaps, 0)
    gram = jnp.real(jnp.conj(gaps_of) @ gaps_of.T)
    # Scaled to the least residual, so that old and large ones do not drown it.
    scale = jnp.where(filled, jnp.sqrt(jnp.diagonal(gram)), 1)
    scale = jnp.where(scale > 0, scale, 1)
    gram = gram / scale / scale[:, None]
    gram = gram + (ridge + jnp.finfo(gram.dtype).eps) * jnp.eye(len(gram))
    gram = jnp.where(filled[:, None] & filled, gram, jnp.eye(len(gram)))
    weights = jnp.linalg.solve(gram, jnp.where(filled, 1 / scale, 0)) / scale
    weights = (weights / jnp.sum(weights)).astype(xs.dtype)
    return weights @ (xs + mixing * gaps)


def newton(
    F: Callable[..., PyTree],
    init: PyTree,
    *theta: PyTree,
    tol: float | None = None,
    maxiter: int = 50,
    solve: Any = "auto",
) -> Solution:
    r"""A root, by Newton's method; a step is halved until the residual falls.

    .. math:: x_{k+1} = x_k - s\,(\partial_x F)^{-1} F(x_k, \theta)

    Args:
      F: residual `F(x, *theta)`, shaped as x.
      init: start, a pytree of floating arrays.
      *theta: what F depends on.
      tol: largest norm of F; 1e-10 in float64 and 1e-5 in float32 by default.
      maxiter: most steps.
      solve: linear solve of the steps and of the derivative, as in `attach`.

    Returns:
      A `Solution`; its `residual` is the norm of F at `value`.

    Raises:
      TypeError: `init` has an integer leaf, or F returns another shape.
      ValueError: `tol` is not positive, `maxiter` is below 1, or `solve` is unknown.

    Differentiable in `theta`, in every mode and order; the derivative in `init` is 0.

    Example:
      >>> import jax
      >>> from jaxdiv import implicit
      >>> root = lambda t: implicit.newton(lambda x, t: x**3 - t, 1.0, t).value
      >>> print(f"{root(2.0):.4f} {jax.grad(root)(2.0):.4f}")
      1.2599 0.2100

    References:
      Nocedal and Wright, 2006, Numerical Optimization, section 11.1.
    """
    options = Options(solve).check()
    init = _floating(init)
    tol = _limits(tol, maxiter, init)
    fixed = still(theta)

    def residual(x: PyTree) -> PyTree:
        out = F(x, *fixed)
        _same_shape(out, x, "F")
        return _as(out, x)

    def step(state: _State) -> _State:
        _, slope = jax.linearize(residual, state.x)
        direction = solve_with(options, slope, state.image)

        def shorter(search: tuple) -> tuple:
            size, *_ = search
            x = jax.tree.map(lambda x, d: x - size * d, state.x, direction)
            value = residual(x)
            return size / 2, x, value, norm(value)

        def too_long(search: tuple) -> Array:
            size, _, _, residual = search
            worse = ~(residual < (1 - size / 2) * state.residual)  # NaN counts as worse
            return worse & (size > 2.0**-_HALVINGS)

        one = jnp.ones((), state.residual.dtype)
        start = (one, state.x, state.image, jnp.full_like(one, jnp.inf))
        _, x, value, size = jax.lax.while_loop(too_long, shorter, shorter(start))
        return _State(x, value, size, state.iterations + 1)

    value = residual(init)
    start = _State(init, value, norm(value), jnp.asarray(0))
    state = _iterate(step, start, tol, maxiter)
    return _solution(attach(F, state.x, *theta, solve=solve), state, tol)


def projected_fista(
    f: Callable[..., Array],
    proj: Callable[..., PyTree],
    init: PyTree,
    theta_f: PyTree = None,
    theta_C: PyTree = None,
    *,
    stepsize: float | Array,
    tol: float | None = None,
    maxiter: int = 1000,
    solve: Any = "auto",
) -> Solution:
    r"""A constrained minimum, by accelerated projected gradient with restarts.

    .. math:: x_{k+1} = \operatorname{proj}_C(y_k - \eta \nabla f(y_k)), \qquad
       y_{k+1} = x_{k+1} + \beta_k (x_{k+1} - x_k)

    Momentum starts again whenever it points uphill.

    Args:
      f: smooth convex objective `f(x, theta_f) -> scalar`.
      proj: Euclidean projection, `proj(y)` or `proj(y, theta_C)`.
      init: start, a pytree of floating arrays.
      theta_f: what f depends on.
      theta_C: what the constraints depend on; None where they are fixed.
      stepsize: the step :math:`\eta`, at most one over the Lipschitz constant of the
        gradient. It may be traced; its derivative is not taken.
      tol: largest norm of T(x) - x, T the projected-gradient step; 1e-10 in float64 and
        1e-5 in float32 by default.
      maxiter: most steps.
      solve: linear solve of the derivative, as in `attach`.

    Returns:
      A `Solution`; its `residual` is the norm of T(x) - x at `value`.

    Raises:
      TypeError: `init` has an integer leaf.
      ValueError: `stepsize` or `tol` is not positive, or `maxiter` is below 1.

    Differentiable in `theta_f` and `theta_C`, in every mode and order, by
    `projected_gradient`; the derivative in `init` is 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import implicit
      >>> f = lambda x, y: jnp.sum((x - y) ** 2) / 2
      >>> y = jnp.array([0.9, 0.2, 1.1, -0.4])
      >>> solved = implicit.projected_fista(
      ...     f, implicit.projection.simplex, jnp.ones(4) / 4, y, stepsize=0.5)
      >>> print([f"{x:.3f}" for x in solved.value], solved.converged)
      ['0.400', '0.000', '0.600', '0.000'] True

    References:
      Beck and Teboulle, 2009, SIAM J. Imaging Sci. 2; O'Donoghue and Candes, 2015.
    """
    init = _floating(init)
    tol = _limits(tol, maxiter, init)
    _check.positive(stepsize=stepsize)
    stepsize = jax.lax.stop_gradient(stepsize)
    T = projected_gradient(f, proj, stepsize)
    fixed = still((theta_f, theta_C))

    def step(state: _State) -> _State:
        x = state.image
        before, y, momentum = state.memory
        uphill = (
            _dot(
                jax.tree.map(jnp.subtract, y, x), jax.tree.map(jnp.subtract, x, before)
            )
            > 0
        )
        momentum = jnp.where(uphill, 1.0, momentum)
        following = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        weight = jnp.where(uphill, 0.0, (momentum - 1) / following)
        y = jax.tree.map(lambda x, b: x + (weight * (x - b)).astype(x.dtype), x, before)
        return look(y, (x, y, following), state.iterations + 1)

    def look(y: PyTree, memory: tuple, iterations: Any) -> _State:
        image = _as(T(y, *fixed), y)
        return _State(y, image, _gap(image, y), jnp.asarray(iterations), memory)

    one = jnp.ones((), jnp.float32)
    state = _iterate(step, look(init, (init, init, one), 0), tol, maxiter)
    # The image lies in the set; what it misses is measured where it is returned.
    x = state.image
    state = state._replace(residual=_gap(_as(T(x, *fixed), x), x))
    value = attach(residual_of(T), x, theta_f, theta_C, solve=solve)
    return _solution(value, state, tol)


def _dot(a: PyTree, b: PyTree) -> Array:
    parts = jax.tree.map(lambda x, y: jnp.vdot(x, y).real, a, b)
    return sum(jax.tree.leaves(parts), jnp.zeros(()))


def bisect(
    F: Callable[..., Array],
    low: ArrayLike,
    high: ArrayLike,
    *theta: PyTree,
    tol: float | None = None,
    maxiter: int | None = None,
) -> Solution:
    r"""Roots of one unknown each, by halving a bracket; one for every entry.

    .. math:: F(x, \theta) = 0, \qquad low \le x \le high

    Args:
      F: residual `F(x, *theta)`, elementwise in x: an entry of the result depends on
        the same entry of x only. Its sign differs at the two ends.
      low: lower ends; the common shape of both ends is that of x.
      high: upper ends.
      *theta: what F depends on.
      tol: width of the bracket relative to x at which to stop; 4 eps by default.
      maxiter: most halvings; as many as the dtype has bits to give by default.

    Returns:
      A `Solution`; its `residual` is the largest width of a bracket. An entry without a
      change of sign is NaN, and `converged` is then False.

    Raises:
      TypeError: an end is not floating, or F returns another shape.
      ValueError: `low` above `high`, or an option is out of range.

    Differentiable in `theta` by the implicit rule, in every mode and order; the
    derivative in the ends is 0.

    Example:
      >>> import jax
      >>> from jaxdiv import implicit
      >>> root = lambda t: implicit.bisect(lambda x, t: x**3 - t, 0.0, 2.0, t).value
      >>> print(f"{root(2.0):.4f} {jax.grad(root)(2.0):.4f}")
      1.2599 0.2100

    References:
      Press et al., 2007, Numerical Recipes, section 9.1.
    """
    left, right = _check.floating(low=low, high=high)
    shape = _check.broadcastable(low=left, high=right)
    left, right = (still(jnp.broadcast_to(end, shape)) for end in (left, right))
    inverted = _check.concrete(left > right)
    if inverted is not None and inverted.any():
        raise ValueError(f"low is {low} and high {high}; expected low <= high.")
    info = jnp.finfo(left.dtype)
    # Down to the least normal number, if a root is that near to 0.
    most = info.nmant + 2 - int(info.minexp) if maxiter is None else maxiter
    tol = _limits(4 * float(info.eps) if tol is None else tol, most, left)
    fixed = still(theta)

    def sign(x: Array) -> Array:
        value = jnp.asarray(F(x, *fixed))
        _same_shape(value, x, "F")
        return jnp.sign(value)

    at_low = sign(left)
    bracketed = at_low * sign(right) <= 0

    def look(low: Array, high: Array, iterations: Any) -> _State:
        size = jnp.maximum(jnp.maximum(jnp.abs(low), jnp.abs(high)), info.tiny)
        width = jnp.max((high - low) / size, initial=0)
        return _State(low, high, width, jnp.asarray(iterations))

    def step(state: _State) -> _State:
        low, high = state.x, state.image
        middle = low + (high - low) / 2
        right = sign(middle) * at_low > 0
        low, high = jnp.where(right, middle, low), jnp.where(right, high, middle)
        return look(low, high, state.iterations + 1)

    state = _iterate(step, look(left, right, 0), tol, most)
    x = jnp.where(bracketed, state.x + (state.image - state.x) / 2, jnp.nan)
    residual = jnp.where(bracketed.all(), state.residual, jnp.nan)
    state = state._replace(residual=residual)
    return _solution(attach_elementwise(F, x, *theta), state, tol)
