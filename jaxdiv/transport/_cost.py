"""Ground costs: by name, or any function of two points."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.typing import Array, ArrayLike, CostFn

Cost = str | CostFn
_BY_DIFFERENCES = 8  # up to this dimension differences are as fast as a matmul


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class GroundCost:
    """A cost inside a pytree: part of its structure, not one of its leaves.

    Attributes:
      function: name or function of two points.
    """

    function: Cost


def _squared_euclidean(x: Array, y: Array) -> Array:
    # |x|^2 + |y|^2 - 2 x.y cancels least around the common mean
    x, y = centred(x, y)
    cross = jnp.matmul(x, y.T, precision="highest")
    return jnp.sum(x**2, -1)[:, None] + jnp.sum(y**2, -1) - 2 * cross


def _euclidean(x: Array, y: Array) -> Array:
    if x.shape[-1] <= _BY_DIFFERENCES:
        squared = jnp.sum((x[:, None] - y) ** 2, -1)
    else:
        squared = _squared_euclidean(x, y)
    apart = squared > 0  # where points meet, the cost is 0 and so is its derivative
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)


_NAMED: dict[str, Callable[[Array, Array], Array]] = {
    "euclidean": _euclidean,
    "sqeuclidean": _squared_euclidean,
}


def cost_matrix(x: Array, y: Array, cost: Cost) -> Array:
    """Costs of all pairs, shape `(n, m)`."""
    if callable(cost):
        return jax.vmap(jax.vmap(cost, (None, 0)), (0, None))(x, y)
    return _NAMED[cost](x, y)


def paired_cost(x: Array, y: Array, cost: Cost) -> Array:
    """Costs of x_i with y_i, shape `(n,)`."""
    if callable(cost):
        return jax.vmap(cost)(x, y)
    return jax.vmap(lambda x, y: _NAMED[cost](x[None], y[None])[0, 0])(x, y)


def centred(x: Array, y: Array) -> tuple[Array, Array]:
    """Both clouds around their common mean, a constant in derivatives."""
    centre = jax.lax.stop_gradient((x.mean(0) + y.mean(0)) / 2)
    return x - centre, y - centre


def mean_cost(x: Array, y: Array, cost: Cost) -> Array:
    """The scale of the costs, a constant in derivatives; 1 where no pair costs."""
    mean = jax.lax.stop_gradient(jnp.mean(cost_matrix(x, y, cost)))
    return jnp.where(mean == 0, 1, mean)


def check_cost(cost: Cost) -> None:
    if not callable(cost):
        _check.one_of("cost", cost, _NAMED)


def clouds(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Both point clouds in one floating dtype, their shapes checked."""
    x, y = _check.floating(x=x, y=y)
    _check.rank(2, x=x, y=y)
    if x.shape[1] != y.shape[1] or 0 in (x.shape[0], y.shape[0]):
        raise ValueError(
            f"x has shape {x.shape} and y {y.shape}; expected (n, d) and (m, d) with "
            "at least one point each."
        )
    return x, y
