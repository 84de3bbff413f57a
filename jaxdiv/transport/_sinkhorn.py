"""Entropic optimal transport: one solve, all its costs, every derivative."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import _check
from jaxdiv.transport import _blocks, _derivative, _gap, _half_steps, _solver
from jaxdiv.transport._blocks import Costs, Matrix
from jaxdiv.transport._cost import Cost, GroundCost, check_cost, clouds
from jaxdiv.typing import Array, ArrayLike

_METHODS = ("auto", "kernel", "log", "pallas", "stream")
_MASS_TOLERANCE = 1e-4  # relative difference of the two total masses


class SinkhornResult(NamedTuple):
    r"""Solution of the entropic problem, with what is needed to use its plan.

    The plan is :math:`P_{ij} = a_i b_j \exp((f_i + g_j - C_{ij})/\varepsilon)`.

    Attributes:
      f: potential of x, shape `(n,)`, in the gauge <a, f> = 0 where both marginals
        are held.
      g: potential of y, shape `(m,)`.
      reg_ot_cost: :math:`\langle P, C\rangle + \varepsilon\,KL(P\|ab^\top)` and the
        penalties of the marginals, by its dual.
      primal_cost: :math:`\langle P, C\rangle`.
      ent_reg_cost: `reg_ot_cost` with :math:`-\varepsilon H(P)` in place of the KL
        term; for held marginals of mass 1 it is less by eps (H(a) + H(b)).
      dual_cost: dual objective at f and g, a lower bound whether converged or not.
      duality_gap: how far `reg_ot_cost` is below the optimum at most: the objective of
        a plan with the right marginals, less `dual_cost`.
      marginal_error: L1 error of both marginals of the plan, with an estimate of what
        the rounding of f and g adds to it.
      n_iters: iterations taken.
      converged: whether `marginal_error` is at most the threshold.
      errors: error at the last of every five iterations, -1 where none was made.
      a: weights of x.
      b: weights of y.
      eps: strength of the regularisation.
      rho_a: price of another first marginal, inf where it is held.
      rho_b: price of another second marginal.
      cost: the ground cost, or the cost matrix where one was given.
    """

    f: Array
    g: Array
    reg_ot_cost: Array
    primal_cost: Array
    ent_reg_cost: Array
    dual_cost: Array
    duality_gap: Array
    marginal_error: Array
    n_iters: Array
    converged: Array
    errors: Array
    a: Array
    b: Array
    eps: Array
    rho_a: Array
    rho_b: Array
    cost: GroundCost | Array


def sinkhorn(
    x: ArrayLike,
    y: ArrayLike,
    *,
    eps: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    cost: Cost = "sqeuclidean",
    rho_a: ArrayLike = math.inf,
    rho_b: ArrayLike = math.inf,
    init: tuple[ArrayLike, ArrayLike] | None = None,
    threshold: float = 1e-3,
    max_iterations: int = 2000,
    method: str = "auto",
    momentum: str | float = "auto",
    block_size: int | None = None,
) -> SinkhornResult:
    r"""Entropic optimal transport between two weighted point clouds.

    .. math:: \min_{P \ge 0} \langle P, C\rangle
              + \varepsilon\,\mathrm{KL}(P\|ab^\top)
              + \rho_a\,\mathrm{KL}(P \mathbf 1\|a)
              + \rho_b\,\mathrm{KL}(P^\top \mathbf 1\|b)

    An infinite rho, the default, holds the marginal: P 1 = a.

    Args:
      x: points, shape `(n, d)`.
      y: points, shape `(m, d)`.
      eps: strength of the regularisation, in units of the cost.
      a: weights of x, shape `(n,)`, non-negative with sum 1; None is uniform. A weight
        may be 0: ragged clouds are padded with such points.
      b: weights of y, shape `(m,)`.
      cost: `"sqeuclidean"`, `"euclidean"`, or a function of two points of shape `(d,)`,
        a `CostFn` of ott-jax for one.
      rho_a: price of a first marginal other than a, in units of the cost; a and b may
        then have unequal sums.
      rho_b: price of a second marginal other than b.
      init: potentials (f, g) to start from.
      threshold: L1 error of both marginals at which to stop.
      max_iterations: iterations at most.
      method: `"kernel"` holds exp(-C/eps) and multiplies, absorbing the potentials
        when they outgrow the dtype; it takes a step of `"log"` where it fails. `"log"`
        stays in the log domain, slower. `"stream"` never holds more than a block of
        the costs, in any derivative either: memory O(n + m), every iteration computes
        them anew. `"pallas"`, for the squared Euclidean cost alone, streams the
        half-steps in the log domain through a kernel for GPU and TPU, and the rest as
        `"stream"` does; on other devices it is interpreted, which is slow. `"auto"` is
        `"kernel"` up to 512 MiB of costs and `"stream"` beyond, or `"pallas"` where
        the default device is a GPU or TPU, the points are float32, and the cost fits.
      momentum: over-relaxation in [1, 2), or `"auto"` to adapt it.
      block_size: columns of the costs at a time, where they are streamed; None takes
        about a million entries.

    Returns:
      `SinkhornResult`. Not converged is reported by `converged`, not raised. Costs are
      NaN where an input is, where traced weights are negative or of unequal sums, and
      inf where a point with mass has no partner at finite cost.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: a shape does not fit; eps, rho, threshold or momentum is out of
        range; concrete weights are negative, NaN or, with both marginals held, of
        unequal sums; a name is unknown, or the method cannot take the cost.

    The potentials are differentiable in `x`, `y`, `a`, `b`, `eps` and finite `rho`, in
    every mode and order, by the equations that they solve (a conjugate-gradient solve,
    NaN where its relative residual stays above 1e-2); so are the costs, `reg_ot_cost`,
    `ent_reg_cost` and `dual_cost` by Danskin's theorem, without a linear solve at
    first order. The iterations are never differentiated, and `duality_gap`,
    `marginal_error`, `errors` and `init` not at all. With both marginals held,
    derivatives in `a` and `b` are meant along directions that keep the sums.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.5], [2.0]])
      >>> result = transport.sinkhorn(x, y, eps=0.1)
      >>> print(f"{result.primal_cost:.3f} {bool(result.converged)}")
      0.625 True

    References:
      Cuturi, 2013, arXiv:1306.0895; Schmitzer, 2016, arXiv:1610.06519 (absorption);
      Thibault et al., 2017, arXiv:1711.01851 (over-relaxation); Chizat et al., 2016,
      arXiv:1607.05816 (soft marginals).
    """
    check_cost(cost)
    x, y = clouds(x, y)
    method = _chosen(method, x, y, cost)
    options = _options(threshold, max_iterations, method, momentum)
    costs = _blocks.of_points(x, y, cost, method, block_size)
    data = _data(costs, a, b, eps, rho_a, rho_b)
    result = _checked_solve(data, init, threshold, options)
    return result._replace(cost=GroundCost(cost))


def sinkhorn_from_cost(
    C: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    eps: ArrayLike,
    rho_a: ArrayLike = math.inf,
    rho_b: ArrayLike = math.inf,
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
      rho_a: price of a first marginal other than a; infinite holds it.
      rho_b: price of a second marginal other than b.
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
    if method in ("stream", "pallas"):
        raise ValueError(f"method is {method!r}; expected another where C is held.")
    options = _options(threshold, max_iterations, method, momentum)
    data = _data(Matrix(C), a, b, eps, rho_a, rho_b)
    return _checked_solve(data, init, threshold, options)


def _checked_solve(
    data: _derivative.Data,
    init: tuple[ArrayLike, ArrayLike] | None,
    threshold: float,
    options: _solver.Options,
) -> SinkhornResult:
    if init is not None:
        f, g = _check.floating(f=init[0], g=init[1])
        init = (f.astype(data.a.dtype), g.astype(data.a.dtype))
        if (f.shape, g.shape) != (data.a.shape, data.b.shape):
            raise ValueError(
                f"init has shapes {f.shape} and {g.shape}; expected {data.a.shape} and "
                f"{data.b.shape}."
            )
    return _solve(data, init, jnp.asarray(threshold, data.a.dtype), options)


def ot_cost(
    x: ArrayLike,
    y: ArrayLike,
    *,
    eps: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    cost: Cost = "sqeuclidean",
    rho_a: ArrayLike = math.inf,
    rho_b: ArrayLike = math.inf,
    threshold: float = 1e-3,
    max_iterations: int = 2000,
    method: str = "auto",
    momentum: str | float = "auto",
    block_size: int | None = None,
) -> Array:
    r"""Entropic transport cost, :math:`\langle P, C\rangle + \varepsilon KL(P\|ab^T)`.

    Args:
      x: points, shape `(n, d)`.
      y: points, shape `(m, d)`.
      eps: strength of the regularisation, in units of the cost.
      a: weights of x; None is uniform.
      b: weights of y; None is uniform.
      cost: `"sqeuclidean"`, `"euclidean"`, or a function of two points.
      rho_a: price of a first marginal other than a; infinite holds it. The cost then
        includes what is paid.
      rho_b: price of a second marginal other than b.
      threshold: L1 error of both marginals at which to stop.
      max_iterations: iterations at most.
      method: `"auto"`, `"kernel"`, `"log"`, `"stream"` or `"pallas"`.
      momentum: over-relaxation in [1, 2), or `"auto"` to adapt it.
      block_size: columns of the costs at a time, where they are streamed.

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
        rho_a=rho_a,
        rho_b=rho_b,
        threshold=threshold,
        max_iterations=max_iterations,
        method=method,
        momentum=momentum,
        block_size=block_size,
    ).reg_ot_cost


def self_cost(
    x: Array,
    a: ArrayLike | None,
    *,
    eps: ArrayLike,
    cost: Cost,
    threshold: float,
    max_iterations: int,
    rho: ArrayLike = math.inf,
    method: str = "auto",
    block_size: int | None = None,
) -> Array:
    """Entropic cost between a cloud and itself, whose two potentials are one."""
    check_cost(cost)
    method = _chosen(method, x, x, cost)
    options = _options(threshold, max_iterations, method, "auto")
    costs = _blocks.of_points(x, x, cost, method, block_size)
    data = _data(costs, a, a, eps, rho, rho)
    options = options._replace(symmetric=True)
    return _checked_solve(data, None, threshold, options).reg_ot_cost


def _chosen(method: str, x: Array, y: Array, cost: Cost) -> str:
    """What "auto" stands for; any other method as it is."""
    fits = cost == "sqeuclidean"
    if method == "pallas" and not fits:
        raise ValueError(
            f"cost is {cost!r}; expected 'sqeuclidean' where method is 'pallas'."
        )
    if method != "auto":
        return method
    method = _blocks.xla_method(x, y)
    if method == "stream" and fits and x.dtype == jnp.float32:
        return "pallas" if jax.default_backend() in ("gpu", "tpu") else method
    return method


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
        method=method if method in ("log", "pallas") else "kernel",
        max_iterations=int(max_iterations),
        momentum=None if isinstance(momentum, str) else momentum,
    )


def _data(
    costs: Costs,
    a: ArrayLike | None,
    b: ArrayLike | None,
    eps: ArrayLike,
    rho_a: ArrayLike,
    rho_b: ArrayLike,
) -> _derivative.Data:
    _check.positive(eps=eps)
    for name, rho in (("rho_a", rho_a), ("rho_b", rho_b)):
        value = _check.concrete(rho)
        if value is not None and not np.all(value > 0):
            raise ValueError(f"{name} is {rho}; expected a positive number or inf.")
    dtype = _blocks.dtype(costs)
    arrays = {
        name: jnp.full(size, 1 / size, dtype) if w is None else w
        for name, w, size in zip("ab", (a, b), _blocks.size(costs), strict=True)
    }
    scale, a, b = _check.floating(costs=jnp.zeros((), dtype), **arrays)
    for name, w, size in zip("ab", (a, b), _blocks.size(costs), strict=True):
        if w.shape != (size,):
            raise ValueError(f"{name} has shape {w.shape}; expected ({size},).")
    costs = jax.tree.map(lambda z: z.astype(scale.dtype), costs)
    held = all(isinstance(r, float) and math.isinf(r) for r in (rho_a, rho_b))
    _check_concrete_weights(a, b, held=held)
    eps, rho_a, rho_b = (jnp.asarray(z, scale.dtype) for z in (eps, rho_a, rho_b))
    softness = None if held else (1 / rho_a, 1 / rho_b)
    return _derivative.Data(costs, a, b, eps, softness)


def _check_concrete_weights(a: Array, b: Array, *, held: bool) -> None:
    values = {"a": _check.concrete(a), "b": _check.concrete(b)}
    for name, w in values.items():
        if w is not None and not (np.isfinite(w) & (w >= 0)).all():
            raise ValueError(f"{name} has a negative or non-finite weight.")
    if values["a"] is None or values["b"] is None or not held:
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
    problem = _half_steps.Problem(*fixed, threshold)
    solution = _solver.solve(problem, init, options)
    potentials = _derivative.attach_potentials((solution.f, solution.g), data)
    costs, a, b, eps, softness = data
    if softness is None:
        shift = jnp.vdot(a, potentials[0]) / jnp.sum(a)
        potentials = (potentials[0] - shift, potentials[1] + shift)
        mass = jnp.sum(b)  # the second marginal is exact
    else:
        mass = jnp.vdot(b, jnp.exp(-softness[1] * potentials[1]))
    f, g = potentials
    value = _derivative.dual_value(data, potentials, mass)
    value = _derivative.attach_cost(value, data, potentials)
    primal, rounded = _gap.primal_cost(data, potentials, solution.log_excess)

    valid = _is_valid(fixed) & (fixed.eps > 0)
    solved = valid & (solution.error < jnp.inf)
    unsolved = jnp.where(valid & ~solution.feasible, jnp.inf, jnp.nan)

    def settled(x: Array) -> Array:
        return jnp.where(solved, x, unsolved)

    rounding = _solver.rounding(problem, *jax.lax.stop_gradient(potentials))
    error = settled(solution.error + rounding)
    value = settled(value)
    gap = _gap.duality_gap(fixed, (f, g), solution.log_excess, rounded)
    row = a if softness is None else a * jnp.exp(-softness[0] * f)
    column = b if softness is None else b * jnp.exp(-softness[1] * g)
    entropic = _gap.cross_entropy(row, a) + _gap.cross_entropy(column, b)
    return SinkhornResult(
        f=f,
        g=g,
        reg_ot_cost=value,
        primal_cost=settled(primal),
        ent_reg_cost=value - eps * (entropic - mass + jnp.sum(a) * jnp.sum(b)),
        dual_cost=value,
        duality_gap=settled(jax.lax.stop_gradient(gap)),
        marginal_error=error,
        n_iters=solution.n_iters,
        converged=error <= threshold,
        errors=solution.errors,
        a=a,
        b=b,
        eps=eps,
        rho_a=jnp.full_like(eps, jnp.inf) if softness is None else 1 / softness[0],
        rho_b=jnp.full_like(eps, jnp.inf) if softness is None else 1 / softness[1],
        cost=costs.C if isinstance(costs, Matrix) else jnp.zeros(()),
    )


def _is_valid(data: _derivative.Data) -> Array:
    valid = jnp.all(data.a >= 0) & jnp.all(data.b >= 0)
    if data.softness is not None:
        return valid & (data.softness[0] >= 0) & (data.softness[1] >= 0)
    mass_a, mass_b = jnp.sum(data.a), jnp.sum(data.b)
    return valid & (jnp.abs(mass_a - mass_b) <= _MASS_TOLERANCE * mass_a)
