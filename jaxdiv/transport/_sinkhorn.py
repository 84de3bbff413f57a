"""Entropic optimal transport: one solve, all its costs, every derivative."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import _check
from jaxdiv.transport import _derivative, _solver
from jaxdiv.transport._cost import (
    Cost,
    GroundCost,
    check_cost,
    clouds,
    cost_matrix,
)
from jaxdiv.typing import Array, ArrayLike

_METHODS = ("auto", "kernel", "log")
_MASS_TOLERANCE = 1e-4  # relative difference of the two total masses


class SinkhornResult(NamedTuple):
    r"""Solution of the entropic problem, with what is needed to use its plan.

    The plan is :math:`P_{ij} = a_i b_j \exp((f_i + g_j - C_{ij})/\varepsilon)`.

    Attributes:
      f: potential of x, shape `(n,)`, in the gauge <a, f> = 0.
      g: potential of y, shape `(m,)`.
      reg_ot_cost: :math:`\langle P, C\rangle + \varepsilon\,KL(P\|ab^\top)`, by its
        dual.
      primal_cost: :math:`\langle P, C\rangle`.
      ent_reg_cost: :math:`\langle P, C\rangle - \varepsilon H(P)`, that is
        `reg_ot_cost` less eps (H(a) + H(b)).
      dual_cost: dual objective at f and g, a lower bound whether converged or not.
      marginal_error: L1 error of both marginals of the plan, with an estimate of what
        the rounding of f and g adds to it.
      n_iters: iterations taken.
      converged: whether `marginal_error` is at most the threshold.
      errors: error at every fifth iteration, -1 where none was made.
      a: weights of x.
      b: weights of y.
      eps: strength of the regularisation.
      cost: the ground cost, or the cost matrix where one was given.
    """

    f: Array
    g: Array
    reg_ot_cost: Array
    primal_cost: Array
    ent_reg_cost: Array
    dual_cost: Array
    marginal_error: Array
    n_iters: Array
    converged: Array
    errors: Array
    a: Array
    b: Array
    eps: Array
    cost: GroundCost | Array


def sinkhorn(
    x: ArrayLike,
    y: ArrayLike,
    *,
    eps: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    cost: Cost = "sqeuclidean",
    init: tuple[ArrayLike, ArrayLike] | None = None,
    threshold: float = 1e-3,
    max_iterations: int = 2000,
    method: str = "auto",
    momentum: str | float = "auto",
) -> SinkhornResult:
    r"""Entropic optimal transport between two weighted point clouds.

    .. math:: \min_{P \mathbf 1 = a,\; P^\top \mathbf 1 = b}
              \langle P, C\rangle + \varepsilon\,\mathrm{KL}(P\|ab^\top)

    Args:
      x: points, shape `(n, d)`.
      y: points, shape `(m, d)`.
      eps: strength of the regularisation, in units of the cost.
      a: weights of x, shape `(n,)`, non-negative with sum 1; None is uniform. A weight
        may be 0: ragged clouds are padded with such points.
      b: weights of y, shape `(m,)`.
      cost: `"sqeuclidean"`, `"euclidean"`, or a function of two points of shape `(d,)`.
      init: potentials (f, g) to start from.
      threshold: L1 error of both marginals at which to stop.
      max_iterations: iterations at most, counted in blocks of five.
      method: `"kernel"` holds exp(-C/eps) and multiplies, absorbing the potentials
        when they outgrow the dtype; `"log"` stays in the log domain, slower; `"auto"`
        is `"kernel"`, which goes over to `"log"` by itself where it fails.
      momentum: over-relaxation in [1, 2), or `"auto"` to adapt it.

    Returns:
      `SinkhornResult`. Not converged is reported by `converged`, not raised. Costs are
      NaN where an input is, where traced weights are negative or of unequal sums, and
      inf where a point with mass has no partner at finite cost.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: a shape does not fit; eps, threshold or momentum is out of range;
        concrete weights are negative, NaN or of unequal sums; a name is unknown.

    The potentials are differentiable in `x`, `y`, `a`, `b` and `eps`, in every mode
    and order, by the equations that they solve (a conjugate-gradient solve); so are
    the costs, `reg_ot_cost`, `ent_reg_cost` and `dual_cost` by Danskin's theorem,
    without a linear solve at first order. The iterations are never differentiated,
    and `marginal_error`, `errors` and `init` not at all. In `a` and `b` derivatives
    are meant along directions that keep the sums.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.5], [2.0]])
      >>> result = transport.sinkhorn(x, y, eps=0.1)
      >>> print(f"{result.primal_cost:.3f} {bool(result.converged)}")
      0.625 True

    References:
      Cuturi, 2013, arXiv:1306.0895; Schmitzer, 2016, arXiv:1610.06519 (absorption);
      Thibault et al., 2017, arXiv:1711.01851 (over-relaxation).
    """
    check_cost(cost)
    x, y = clouds(x, y)
    matrix = cost_matrix(x, y, cost)
    result = sinkhorn_from_cost(
        matrix,
        a,
        b,
        eps=eps,
        init=init,
        threshold=threshold,
        max_iterations=max_iterations,
        method=method,
        momentum=momentum,
    )
    return result._replace(cost=GroundCost(cost))


def sinkhorn_from_cost(
    C: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    eps: ArrayLike,
    init: tuple[ArrayLike, ArrayLike] | None = None,
    threshold: float = 1e-3,
    max_iterations: int = 2000,
    method: str = "auto",
    momentum: str | float = "auto",
) -> SinkhornResult:
    """Entropic optimal transport for a given cost matrix; see `sinkhorn`.

    Args:
      C: costs, shape `(n, m)`; `inf` forbids a pair.
      a: weights of the rows, shape `(n,)`; None is uniform.
      b: weights of the columns, shape `(m,)`; None is uniform.
      eps: strength of the regularisation, in units of the cost.
      init: potentials (f, g) to start from.
      threshold: L1 error of both marginals at which to stop.
      max_iterations: iterations at most.
      method: `"auto"`, `"kernel"` or `"log"`.
      momentum: over-relaxation in [1, 2), or `"auto"` to adapt it.

    Returns:
      `SinkhornResult`, whose `cost` is the matrix.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: as `sinkhorn`.

    Differentiable as `sinkhorn`, in `C` in place of the points.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> C = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> result = transport.sinkhorn_from_cost(C, eps=0.1)
      >>> print(transport.plan(result).round(3))
      [[0.5 0. ]
       [0.  0.5]]

    References:
      Cuturi, 2013, arXiv:1306.0895.
    """
    (C,) = _check.floating(C=C)
    _check.rank(2, C=C)
    if 0 in C.shape:
        raise ValueError(
            f"C has shape {C.shape}; expected at least one row and column."
        )
    options = _options(threshold, max_iterations, method, momentum)
    data = _data(C, a, b, eps)
    if init is not None:
        f, g = _check.floating(f=init[0], g=init[1])
        init = (f.astype(data.C.dtype), g.astype(data.C.dtype))
        if (f.shape, g.shape) != (data.a.shape, data.b.shape):
            raise ValueError(
                f"init has shapes {f.shape} and {g.shape}; expected {data.a.shape} and "
                f"{data.b.shape}."
            )
    return _solve(data, init, jnp.asarray(threshold, data.C.dtype), options)


def ot_cost(
    x: ArrayLike,
    y: ArrayLike,
    *,
    eps: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    cost: Cost = "sqeuclidean",
    threshold: float = 1e-3,
    max_iterations: int = 2000,
    method: str = "auto",
    momentum: str | float = "auto",
) -> Array:
    r"""Entropic transport cost, :math:`\langle P, C\rangle + \varepsilon KL(P\|ab^T)`.

    Args:
      x: points, shape `(n, d)`.
      y: points, shape `(m, d)`.
      eps: strength of the regularisation, in units of the cost.
      a: weights of x; None is uniform.
      b: weights of y; None is uniform.
      cost: `"sqeuclidean"`, `"euclidean"`, or a function of two points.
      threshold: L1 error of both marginals at which to stop.
      max_iterations: iterations at most.
      method: `"auto"`, `"kernel"` or `"log"`.
      momentum: over-relaxation in [1, 2), or `"auto"` to adapt it.

    Returns:
      A scalar, `sinkhorn(...).reg_ot_cost`.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: as `sinkhorn`.

    Differentiable by Danskin's theorem; the second derivative is the true Hessian.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.5], [2.0]])
      >>> slope = jax.grad(lambda x: transport.ot_cost(x, y, eps=0.1))(x)
      >>> print(slope.round(2).ravel())
      [-0.5 -1. ]

    References:
      Cuturi, 2013, arXiv:1306.0895; Danskin, 1966.
    """
    return sinkhorn(
        x,
        y,
        eps=eps,
        a=a,
        b=b,
        cost=cost,
        threshold=threshold,
        max_iterations=max_iterations,
        method=method,
        momentum=momentum,
    ).reg_ot_cost


def self_cost(
    x: Array,
    a: ArrayLike | None,
    *,
    eps: ArrayLike,
    cost: Cost,
    threshold: float,
    max_iterations: int,
) -> Array:
    """Entropic cost between a cloud and itself, whose two potentials are one."""
    check_cost(cost)
    options = _options(threshold, max_iterations, "auto", "auto")
    data = _data(cost_matrix(x, x, cost), a, a, eps)
    options = options._replace(symmetric=True)
    limit = jnp.asarray(threshold, data.C.dtype)
    return _solve(data, None, limit, options).reg_ot_cost


def _options(
    threshold: float, max_iterations: int, method: str, momentum: str | float
) -> _solver.Options:
    _check.positive(threshold=threshold)
    _check.in_range(1, closed=True, max_iterations=max_iterations)
    _check.one_of("method", method, _METHODS)
    if momentum != "auto":
        if isinstance(momentum, str) or not 1 <= momentum < 2:
            raise ValueError(
                f"momentum is {momentum!r}; expected 'auto' or a number in [1, 2)."
            )
        momentum = float(momentum)
    return _solver.Options(
        method="log" if method == "log" else "kernel",
        max_iterations=int(max_iterations),
        momentum=None if isinstance(momentum, str) else momentum,
    )


def _data(
    C: Array, a: ArrayLike | None, b: ArrayLike | None, eps: ArrayLike
) -> _derivative.Data:
    _check.positive(eps=eps)
    n, m = C.shape
    weights = {"a": (a, n), "b": (b, m)}
    arrays = {
        name: jnp.full(size, 1 / size, C.dtype) if w is None else w
        for name, (w, size) in weights.items()
    }
    C, a, b = _check.floating(C=C, **arrays)
    for name, w, size in (("a", a, n), ("b", b, m)):
        if w.shape != (size,):
            raise ValueError(f"{name} has shape {w.shape}; expected ({size},).")
    _check_concrete_weights(a, b)
    return _derivative.Data(C, a, b, jnp.asarray(eps, C.dtype))


def _check_concrete_weights(a: Array, b: Array) -> None:
    values = {"a": _check.concrete(a), "b": _check.concrete(b)}
    for name, w in values.items():
        if w is not None and not (np.isfinite(w) & (w >= 0)).all():
            raise ValueError(f"{name} has a negative or non-finite weight.")
    if values["a"] is None or values["b"] is None:
        return
    mass_a, mass_b = values["a"].sum(), values["b"].sum()
    if not abs(mass_a - mass_b) <= _MASS_TOLERANCE * max(mass_a, mass_b) or not mass_a:
        raise ValueError(
            f"a sums to {mass_a} and b to {mass_b}; expected equal positive sums."
        )


@partial(jax.jit, static_argnums=3)
def _solve(
    data: _derivative.Data,
    init: tuple[Array, Array] | None,
    threshold: Array,
    options: _solver.Options,
) -> SinkhornResult:
    fixed, init = jax.lax.stop_gradient((data, init))
    solution = _solver.solve(_solver.Problem(*fixed, threshold), init, options)
    potentials = _derivative.attach_potentials((solution.f, solution.g), data)
    C, a, b, eps = data
    shift = jnp.vdot(a, potentials[0]) / jnp.sum(a)
    f, g = potentials = (potentials[0] - shift, potentials[1] + shift)

    # The second marginal is exact, so the plan's mass is that of b.
    value = jnp.vdot(a, f) + jnp.vdot(b, g) - eps * jnp.sum(b) * (1 - jnp.sum(a))
    value = _derivative.attach_cost(value, data, potentials)
    finite_C = jnp.where(jnp.isposinf(C), 0, C)
    density = jnp.exp(_solver.exponent(f, g, C, eps))
    primal = a @ (density * finite_C) @ b

    valid = _is_valid(fixed.a, fixed.b) & (fixed.eps > 0)
    solved = valid & (solution.error < jnp.inf)
    unsolved = jnp.where(valid & ~solution.feasible, jnp.inf, jnp.nan)

    def settled(x: Array) -> Array:
        return jnp.where(solved, x, unsolved)

    error = settled(solution.error + _rounding(fixed, f, g))
    value = settled(value)
    return SinkhornResult(
        f=f,
        g=g,
        reg_ot_cost=value,
        primal_cost=settled(primal),
        ent_reg_cost=value - eps * (_entropy(a) + _entropy(b)),
        dual_cost=value,
        marginal_error=error,
        n_iters=solution.n_iters,
        converged=error <= threshold,
        errors=solution.errors,
        a=a,
        b=b,
        eps=eps,
        cost=C,
    )


def _rounding(data: _derivative.Data, f: Array, g: Array) -> Array:
    """What the plan owes to the rounding of f and g, which the iteration cannot see."""
    size = jnp.vdot(data.a, jnp.abs(f)) + jnp.vdot(data.b, jnp.abs(g))
    return jax.lax.stop_gradient(jnp.finfo(f.dtype).eps / 2 * size / data.eps)


def _is_valid(a: Array, b: Array) -> Array:
    mass_a, mass_b = jnp.sum(a), jnp.sum(b)
    balanced = jnp.abs(mass_a - mass_b) <= _MASS_TOLERANCE * mass_a
    return jnp.all(a >= 0) & jnp.all(b >= 0) & balanced


def _entropy(weights: Array) -> Array:
    live = weights > 0
    return -jnp.sum(jnp.where(live, weights * jnp.log(jnp.where(live, weights, 1)), 0))
