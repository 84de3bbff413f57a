"""What a solved problem is used for: its plan and the map that it induces."""

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.transport import _blocks
from jaxdiv.transport._cost import GroundCost, clouds, cost_matrix
from jaxdiv.transport._half_steps import exponent
from jaxdiv.transport._sinkhorn import SinkhornResult
from jaxdiv.typing import Array, ArrayLike


def solved_points(
    result: SinkhornResult, x: ArrayLike | None, y: ArrayLike | None
) -> tuple[Array, Array]:
    """The points that a result was solved for, checked to be as many."""
    if x is None or y is None:
        raise ValueError("x and y are missing; the result was solved from points.")
    x, y = clouds(x, y)
    shape = (result.f.shape[-1], result.g.shape[-1])
    if (x.shape[0], y.shape[0]) != shape:
        raise ValueError(
            f"x has {x.shape[0]} points and y {y.shape[0]}; expected {shape[0]} and "
            f"{shape[1]}, those of the result."
        )
    return x, y


def _costs(
    result: SinkhornResult, x: ArrayLike | None, y: ArrayLike | None, method: str
) -> _blocks.Costs:
    if not isinstance(result.cost, GroundCost):
        return _blocks.Matrix(result.cost)
    x, y = solved_points(result, x, y)
    return _blocks.of_points(x, y, result.cost.function, method, None)


def plan(
    result: SinkhornResult, x: ArrayLike | None = None, y: ArrayLike | None = None
) -> Array:
    r"""The transport plan of a solved problem.

    .. math:: P_{ij} = a_i b_j \exp((f_i + g_j - C_{ij})/\varepsilon)

    Args:
      result: what `sinkhorn` or `sinkhorn_from_cost` returned.
      x: the points that it was solved for, shape `(n, d)`; not needed where a cost
        matrix was given.
      y: likewise, shape `(m, d)`.

    Returns:
      Array of shape `(n, m)`; its marginals are a and b up to `marginal_error`.

    Raises:
      ValueError: points are missing, or not as many as were solved for.

    Differentiable in all that the problem depends on.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x = jnp.array([[0.0], [1.0]])
      >>> result = transport.sinkhorn(x, x + 3, eps=0.1)
      >>> print(transport.plan(result, x, x + 3).round(2))
      [[0.5 0. ]
       [0.  0.5]]

    References:
      Cuturi, 2013, arXiv:1306.0895, lemma 2.
    """
    f, g, a, b, eps = result.f, result.g, result.a, result.b, result.eps

    def body(C: Array) -> tuple[tuple, Array]:
        return (), (a[:, None] * jnp.exp(exponent(f, g, C, eps)) * b).T

    return _blocks.fold(_costs(result, x, y, "kernel"), body)[1].T


def apply_plan(
    result: SinkhornResult,
    x: ArrayLike | None,
    y: ArrayLike | None,
    v: ArrayLike,
    axis: int,
) -> Array:
    """Product of the plan, or its transpose, with vectors.

    Beyond 512 MiB of costs they are computed block by block, in memory O(n + m).

    Args:
      result: what `sinkhorn` or `sinkhorn_from_cost` returned.
      x: the points that it was solved for; None where a cost matrix was given.
      y: likewise.
      v: shape `(m,)` or `(m, k)` for `axis=1`, `(n,)` or `(n, k)` for `axis=0`.
      axis: axis of the plan that is summed over: 1 gives P v, 0 gives P^T v.

    Returns:
      Array of shape `(n,)` or `(n, k)` for `axis=1`, `(m,)` or `(m, k)` for `axis=0`.

    Raises:
      TypeError: `v` is not of a floating dtype.
      ValueError: `axis` is neither 0 nor 1, or a shape does not fit.

    Differentiable in `v` and in all that the problem depends on.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[3.0], [4.0]])
      >>> result = transport.sinkhorn(x, y, eps=0.1)
      >>> print(2 * transport.apply_plan(result, x, y, y, axis=1).round(2))
      [[3.]
       [4.]]
    """
    _check.one_of("axis", axis, (0, 1))
    (v,) = _check.floating(v=v)
    costs = _costs(result, x, y, "auto")
    count = _blocks.size(costs)[axis]
    if not v.ndim or v.shape[0] != count:
        raise ValueError(f"v has shape {v.shape}; expected a leading axis of {count}.")
    f, g, a, b, eps = result.f, result.g, result.a, result.b, result.eps

    def weighted(weights: Array, v: Array) -> Array:
        return weights.reshape(-1, *(1,) * (v.ndim - 1)) * v

    def to_rows(C: Array, g: Array, b: Array, v: Array) -> tuple[Array, tuple]:
        E = jnp.exp(exponent(f, g, C, eps))
        return jnp.matmul(E, weighted(b, v), precision="highest"), ()

    def to_columns(C: Array, g: Array, b: Array) -> tuple[tuple, Array]:
        E = jnp.exp(exponent(f, g, C, eps))
        return (), weighted(b, jnp.matmul(E.T, weighted(a, v), precision="highest"))

    if axis == 1:
        return weighted(a, _blocks.fold(costs, to_rows, g, b, v)[0])
    return _blocks.fold(costs, to_columns, g, b)[1]


def entropic_map(result: SinkhornResult, y: ArrayLike, x_new: ArrayLike) -> Array:
    r"""The entropic estimate of the transport map, at any point.

    .. math:: T(x) = \sum_j w_j(x)\, y_j, \qquad
              w(x) = \mathrm{softmax}_j\left(\log b_j + (g_j - |x - y_j|^2)/\varepsilon
              \right)

    Args:
      result: what `sinkhorn` returned for the squared Euclidean cost.
      y: the target points that it was solved for, shape `(m, d)`.
      x_new: points to map, shape `(k, d)`.

    Returns:
      Array of shape `(k, d)`.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the cost is another, or a shape does not fit.

    Differentiable in `x_new`, `y` and in all that the problem depends on.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x = jnp.array([[0.0], [1.0], [2.0]])
      >>> result = transport.sinkhorn(x, x + 3, eps=0.05)
      >>> print(transport.entropic_map(result, x + 3, jnp.array([[1.1]])).round(2))
      [[4.]]

    References:
      Pooladian and Niles-Weed, 2021, arXiv:2109.12004, eq. (7).
    """
    name = result.cost.function if isinstance(result.cost, GroundCost) else "a matrix"
    if name != "sqeuclidean":
        raise ValueError(f"The cost is {name!r}; expected 'sqeuclidean'.")
    x_new, y = clouds(x_new, y)
    if y.shape[0] != result.g.shape[-1]:
        raise ValueError(
            f"y has {y.shape[0]} points; expected {result.g.shape[-1]}, those of the "
            "result."
        )
    C = cost_matrix(x_new, y, name)
    # log 0 = -inf leaves an atom without mass out; where keeps its gradient finite.
    live = result.b > 0
    log_b = jnp.where(live, jnp.log(jnp.where(live, result.b, 1)), -jnp.inf)
    logits = log_b + (result.g - C) / result.eps
    return jnp.matmul(jax.nn.softmax(logits, -1), y, precision="highest")
