"""From a plan to a coupling: exact marginals, and pairs drawn from it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import _check
from jaxdiv.transport._cost import GroundCost, cost_matrix
from jaxdiv.transport._plan import solved_points
from jaxdiv.transport._sinkhorn import SinkhornResult
from jaxdiv.typing import Array, ArrayLike, Key

_MASS_TOLERANCE = 1e-4  # relative difference of the two total masses
_BLOCK = 256  # rows of the plan that are held at a time


def round_plan(P: ArrayLike, a: ArrayLike, b: ArrayLike) -> Array:
    r"""The nearby plan whose marginals are a and b, up to rounding.

    Rows, then columns, that have too much mass are scaled down; what is missing is
    added as a product:

    .. math:: P'' = \operatorname{diag}(u) P \operatorname{diag}(v), \qquad
              P'' + \frac{(a - P''\mathbf 1)(b - P''^\top\mathbf 1)^\top}
                         {|a - P''\mathbf 1|_1}

    It moves no more than twice the L1 error of the marginals of P.

    Args:
      P: non-negative matrix, shape `[..., n, m]`.
      a: weights of the rows, shape `[..., n]`, non-negative.
      b: weights of the columns, shape `[..., m]`, of the same sum.

    Returns:
      Array of the broadcast shape `[..., n, m]`; NaN where an input is, or where
      traced inputs are negative or of unequal sums.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit; or a concrete entry is negative or not finite,
        or the concrete sums differ.

    Differentiable in all arguments, in every mode, almost everywhere; finite at
    weights and rows of zero, and where the marginals are right already.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> half = jnp.array([0.5, 0.5])
      >>> print(transport.round_plan(jnp.array([[0.6, 0.2], [0.0, 0.2]]), half, half))
      [[0.375 0.125]
       [0.125 0.375]]

    References:
      Altschuler, Weed and Rigollet, 2017, arXiv:1705.09634, algorithm 2.
    """
    P, a, b = _check.floating(P=P, a=a, b=b)
    if P.ndim < 2 or (*a.shape[-1:], *b.shape[-1:]) != P.shape[-2:]:
        raise ValueError(
            f"P has shape {P.shape}, a {a.shape} and b {b.shape}; expected "
            "[..., n, m], [..., n] and [..., m]."
        )
    check_masses(P=P, a=a, b=b)
    row, column = a[..., :, None], b[..., None, :]
    scaled = P * _shrink(row, P.sum(-1, keepdims=True))
    scaled *= _shrink(column, scaled.sum(-2, keepdims=True))
    short_row = jnp.maximum(row - scaled.sum(-1, keepdims=True), 0)
    short_column = jnp.maximum(column - scaled.sum(-2, keepdims=True), 0)
    missing = short_row.sum((-2, -1), keepdims=True)
    added = short_row * short_column / jnp.where(missing > 0, missing, 1)
    mass_a, mass_b = a.sum(-1), b.sum(-1)
    valid = jnp.abs(mass_a - mass_b) <= _MASS_TOLERANCE * mass_a
    for x in (row, column, P):
        valid &= (x >= 0).all((-2, -1))
    return jnp.where(valid[..., None, None], scaled + added, jnp.nan)


def sample_plan(
    key: Key,
    res: SinkhornResult,
    x: ArrayLike | None,
    y: ArrayLike | None,
    num: int,
) -> tuple[Array, Array]:
    r"""Draws index pairs (i, j) with probabilities proportional to the plan.

    First i by its marginal, then j by its conditional,

    .. math:: p(i) \propto a_i \sum_j b_j e^{(f_i + g_j - C_{ij})/\varepsilon},
              \qquad p(j \mid i) \propto b_j e^{(f_i + g_j - C_{ij})/\varepsilon}

    both in the log domain. The plan is never held: memory is O(n + m + num) and a
    block of rows. An atom of weight zero is never drawn.

    Args:
      key: key of the draws.
      res: what `sinkhorn` or `sinkhorn_from_cost` returned.
      x: the points that it was solved for, shape `(n, d)`; None where a cost matrix
        was given.
      y: likewise, shape `(m, d)`.
      num: number of pairs, drawn with replacement.

    Returns:
      `(i, j)`, two integer arrays of shape `(num,)`: `x[i]` and `y[j]` are coupled.

    Raises:
      ValueError: points are missing or not as many as were solved for, or `num` is
        less than 1.

    Not differentiable.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x = jnp.array([[0.0], [1.0], [2.0]])
      >>> res = transport.sinkhorn(x, x + 5, eps=0.01)
      >>> i, j = transport.sample_plan(jax.random.key(0), res, x, x + 5, 100)
      >>> print((i == j).all())
      True

    References:
      Tong et al., 2023, arXiv:2302.00482, section 3.3.
    """
    _check.in_range(1, closed=True, num=num)
    log_a, log_b = (jnp.log(w) for w in (res.a, res.b))
    costs = _cost_rows(res, x, y)

    def conditional(i: Array) -> Array:
        return log_b + (res.f[i] + res.g - costs(i)) / res.eps

    def draw(row: tuple[Key, Array]) -> Array:
        return jax.random.categorical(row[0], conditional(row[1]))

    n = res.f.shape[0]
    log_rows = log_a + jax.lax.map(
        lambda i: jax.nn.logsumexp(conditional(i)), jnp.arange(n), batch_size=_BLOCK
    )
    key_i, key_j = jax.random.split(key)
    i = jax.random.choice(key_i, n, (num,), p=jax.nn.softmax(log_rows))
    j = jax.lax.map(draw, (jax.random.split(key_j, num), i), batch_size=_BLOCK)
    return i, j


def _shrink(wanted: Array, mass: Array) -> Array:
    """The factor that takes mass down to what is wanted, 1 where it is not above."""
    over = mass > wanted
    return jnp.where(over, wanted / jnp.where(over, mass, 1), 1)


def check_masses(**arrays: Array) -> None:
    """Raises ValueError where a concrete array is no mass, or a and b do not agree."""
    values = {name: _check.concrete(x) for name, x in arrays.items()}
    for name, x in values.items():
        if x is not None and not (np.isfinite(x) & (x >= 0)).all():
            raise ValueError(f"{name} has a negative or non-finite entry.")
    if values["a"] is not None and values["b"] is not None:
        mass_a, mass_b = values["a"].sum(-1), values["b"].sum(-1)
        if not (np.abs(mass_a - mass_b) <= _MASS_TOLERANCE * mass_a).all():
            raise ValueError(
                f"a sums to {mass_a} and b to {mass_b}; expected equal sums."
            )


def _cost_rows(
    res: SinkhornResult, x: ArrayLike | None, y: ArrayLike | None
) -> Callable[[Array], Array]:
    """The function from i to row i of the costs."""
    if not isinstance(res.cost, GroundCost):
        matrix = res.cost
        return lambda i: matrix[i]
    x, y = solved_points(res, x, y)
    function = res.cost.function
    return lambda i: cost_matrix(x[i][None], y, function)[0]
