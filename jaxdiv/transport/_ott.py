"""To ott-jax and back: its potentials, and its output with all its methods."""

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.transport._cost import GroundCost, cost_matrix
from jaxdiv.transport._plan import solved_points
from jaxdiv.transport._sinkhorn import SinkhornResult
from jaxdiv.typing import Array, ArrayLike

if TYPE_CHECKING:
    from ott.solvers.linear.sinkhorn import SinkhornOutput


def to_ott_potentials(
    f: ArrayLike, g: ArrayLike, a: ArrayLike, b: ArrayLike, eps: ArrayLike
) -> tuple[Array, Array]:
    r"""Potentials in the convention of ott-jax.

    .. math:: P_{ij} = e^{(F_i + G_j - C_{ij})/\varepsilon}, \qquad
              F = f + \varepsilon\log a, \quad G = g + \varepsilon\log b

    Args:
      f: potential relative to the product of the weights, shape `(n,)`.
      g: likewise, shape `(m,)`.
      a: weights, shape `(n,)`.
      b: weights, shape `(m,)`.
      eps: strength of the regularisation.

    Returns:
      F and G, -inf at an atom of weight 0.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: a shape does not fit, or eps is not positive.

    Differentiable where the weights are positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> half = jnp.array([0.5, 0.5])
      >>> F, G = transport.to_ott_potentials(half, half, half, half, eps=1.0)
      >>> print(F.round(3))
      [-0.193 -0.193]
    """
    f, g, a, b = _potentials(eps, f=f, g=g, a=a, b=b)
    return f + eps * jnp.log(a), g + eps * jnp.log(b)


def from_ott_potentials(
    F: ArrayLike, G: ArrayLike, a: ArrayLike, b: ArrayLike, eps: ArrayLike
) -> tuple[Array, Array]:
    """Potentials of ott-jax relative to the product of the weights.

    Args:
      F: potential of ott-jax, shape `(n,)`.
      G: likewise, shape `(m,)`.
      a: weights, shape `(n,)`.
      b: weights, shape `(m,)`.
      eps: strength of the regularisation.

    Returns:
      f and g, the inverse of `to_ott_potentials`; 0 at an atom of weight 0, where
      ott-jax keeps no potential. They can be the `init` of `sinkhorn`.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: a shape does not fit, or eps is not positive.

    Differentiable where the weights are positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> half = jnp.array([0.5, 0.5])
      >>> F, G = transport.to_ott_potentials(half, half, half, half, eps=1.0)
      >>> print(transport.from_ott_potentials(F, G, half, half, eps=1.0)[0])
      [0.5 0.5]
    """
    F, G, a, b = _potentials(eps, F=F, G=G, a=a, b=b)

    def relative(F: Array, a: Array) -> Array:
        live = a > 0
        return jnp.where(live, F - eps * jnp.log(jnp.where(live, a, 1)), 0)

    return relative(F, a), relative(G, b)


def _potentials(eps: ArrayLike, **arrays: ArrayLike) -> tuple[Array, ...]:
    _check.positive(eps=eps)
    one, two, a, b = _check.floating(**arrays)
    if (one.shape, two.shape) != (a.shape, b.shape):
        names = ", ".join(f"{name} {jnp.shape(z)}" for name, z in arrays.items())
        raise ValueError(f"Shapes are {names}; expected weights like potentials.")
    return one, two, a, b


def to_ott(
    res: SinkhornResult, x: ArrayLike | None = None, y: ArrayLike | None = None
) -> "SinkhornOutput":
    """The result as the `SinkhornOutput` that ott-jax's own solver returns.

    With soft marginals the plan is the one that was solved for, while ott-jax's own
    problem has the plan's entropy where ours has KL(P || a b^T): another optimum.

    Args:
      res: what `sinkhorn` or `sinkhorn_from_cost` returned.
      x: the points that it was solved for; not needed where a cost matrix was given.
      y: likewise.

    Returns:
      `ott.solvers.linear.sinkhorn.SinkhornOutput` with its geometry: a `PointCloud`
      for a named cost or a `CostFn`, else a `Geometry` of the cost matrix.

    Raises:
      ValueError: the points are missing, or not as many as were solved for.

    Differentiable as the result.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x = jnp.array([[0.0], [1.0]])
      >>> res = transport.sinkhorn(x, x + 3, eps=0.1)
      >>> print(transport.to_ott(res, x, x + 3).matrix.round(2))
      [[0.5 0. ]
       [0.  0.5]]
    """
    from ott.geometry import costs, geometry, pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear.sinkhorn import SinkhornOutput

    epsilon: Any = res.eps
    if not isinstance(res.cost, GroundCost):
        geom = geometry.Geometry(res.cost, epsilon=epsilon)
    else:
        x, y = solved_points(res, x, y)
        named = {"sqeuclidean": costs.SqEuclidean(), "euclidean": costs.Euclidean()}
        cost = res.cost.function
        cost = cost if callable(cost) else named[cost]
        if isinstance(cost, costs.CostFn):
            geom = pointcloud.PointCloud(x, y, cost_fn=cost, epsilon=epsilon)
        else:
            geom = geometry.Geometry(cost_matrix(x, y, cost), epsilon=epsilon)
    taus: Any = {
        name: jnp.where(jnp.isinf(rho), 1, rho / (rho + res.eps))
        for name, rho in (("tau_a", res.rho_a), ("tau_b", res.rho_b))
    }
    problem = linear_problem.LinearProblem(geom, res.a, res.b, **taus)
    converged: Any = res.converged
    return SinkhornOutput(
        potentials=to_ott_potentials(res.f, res.g, res.a, res.b, res.eps),
        errors=res.errors,
        reg_ot_cost=res.reg_ot_cost,
        ot_prob=problem,
        converged=converged,
    )
