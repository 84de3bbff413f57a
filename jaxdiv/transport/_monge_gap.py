r"""The Monge gap: how much more a map spends than an optimal plan would.

.. math:: \mathcal M^c_\rho(T) = \int c(x, T(x))\,d\rho(x) - W_c(\rho, T_\#\rho) \ge 0
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from jaxdiv import _check
from jaxdiv.transport._cost import (
    Cost,
    check_cost,
    clouds,
    cost_matrix,
    mean_cost,
    paired_cost,
)
from jaxdiv.transport._plan import plan
from jaxdiv.transport._sinkhorn import SinkhornResult, self_cost, sinkhorn
from jaxdiv.typing import Array, ArrayLike

KINDS = ("debiased", "entropy", "kl", "sharp")
_RELATIVE_EPS = 0.02  # of the mean cost, where nothing is said


def monge_gap_from_samples(
    x: ArrayLike,
    y: ArrayLike,
    *,
    cost: Cost = "sqeuclidean",
    eps: ArrayLike | None = None,
    relative_eps: float | None = None,
    weights: ArrayLike | None = None,
    kind: str = "entropy",
    offset: bool = False,
    threshold: float = 1e-3,
    max_iterations: int = 2000,
    return_result: bool = False,
) -> Array | tuple[Array, SinkhornResult]:
    r"""Monge gap of the map that sends x_i to y_i.

    .. math:: \sum_i w_i\, c(x_i, y_i) - W_\varepsilon(x, y)

    With P the entropic plan between the two clouds, W is, by `kind`:

    - `"entropy"`: <P, C> - eps H(P), the paper's. The gap is at least the exact gap
      plus eps H(w) (eps log n), so never 0; `offset=True` takes that constant off.
    - `"kl"`: <P, C> + eps KL(P || w w^T). It differs from `"entropy"` by a constant
      only, and may be negative.
    - `"sharp"`: <P, C>. At most the exact gap; may be negative.
    - `"debiased"`: the Sinkhorn divergence. Exactly 0 for translations; not of one
      sign elsewhere.

    Args:
      x: source points, shape `(n, d)`.
      y: their images, shape `(n, d)`, paired by index.
      cost: `"sqeuclidean"`, `"euclidean"`, or a function of two points; for
        `"debiased"` it must be 0 between equal points.
      eps: strength of the regularisation, in units of the cost.
      relative_eps: the same as a share of the mean cost between the clouds, which is
        held constant in the derivative; 0.02 where neither is given.
      weights: weights w of the pairs, shape `(n,)`, with sum 1; None is uniform.
      kind: see above.
      offset: see above; for `"entropy"` only.
      threshold: L1 error of the marginals at which a solve stops.
      max_iterations: iterations of a solve at most.
      return_result: return the `SinkhornResult` between x and y too.

    Returns:
      A scalar, or the pair of it and the result.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes differ; eps is not positive, or both forms of it are
        given; the kind is unknown, or has no offset.

    Differentiable in `x`, `y`, `weights` and `eps`, in every mode and order. The first
    derivative is closed form, `monge_gap_gradient`, and needs no linear solve, except
    for `"sharp"`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x = jnp.array([[0.0], [1.0], [2.0]])
      >>> gap = lambda y: transport.monge_gap_from_samples(x, y, eps=0.05, offset=True)
      >>> print(f"{gap(2 * x):.3f} {gap(-x):.3f}")  # monotone, and not
      0.000 2.667

    References:
      Uscidda and Cuturi, 2023, arXiv:2302.04953, eq. (8).
    """
    gap, result = gap_and_result(
        x,
        y,
        cost=cost,
        eps=eps,
        relative_eps=relative_eps,
        weights=weights,
        kind=kind,
        offset=offset,
        threshold=threshold,
        max_iterations=max_iterations,
    )
    return (gap, result) if return_result else gap


def gap_and_result(
    x: ArrayLike,
    y: ArrayLike,
    *,
    cost: Cost,
    eps: ArrayLike | None = None,
    relative_eps: float | None = None,
    weights: ArrayLike | None = None,
    kind: str,
    offset: bool = False,
    threshold: float,
    max_iterations: int = 2000,
) -> tuple[Array, SinkhornResult]:
    """The gap as `monge_gap_from_samples` defines it, and the solve behind it."""
    _check.one_of("kind", kind, KINDS)
    check_cost(cost)
    if offset and kind != "entropy":
        raise ValueError(f"offset=True has no meaning for kind {kind!r}.")
    x, y = _paired(x, y)
    eps = _resolved_eps(x, y, cost, eps, relative_eps)
    limits = {"threshold": threshold, "max_iterations": max_iterations}
    result = sinkhorn(x, y, eps=eps, a=weights, b=weights, cost=cost, **limits)
    spent = jnp.vdot(result.a, paired_cost(x, y, cost))
    gap = (
        spent
        - {
            "entropy": result.ent_reg_cost,
            "kl": result.reg_ot_cost,
            "sharp": result.primal_cost,
            "debiased": result.reg_ot_cost,
        }[kind]
    )
    if kind == "debiased":
        within = partial(self_cost, eps=eps, cost=cost, **limits)
        gap += (within(x, weights) + within(y, weights)) / 2
    if offset:
        gap -= (result.reg_ot_cost - result.ent_reg_cost) / 2  # eps H(w)
    return gap, result


def monge_gap(
    map_fn: Callable[[Array], Array],
    x: ArrayLike,
    *,
    cost: Cost = "sqeuclidean",
    eps: ArrayLike | None = None,
    relative_eps: float | None = None,
    weights: ArrayLike | None = None,
    kind: str = "entropy",
    offset: bool = False,
    threshold: float = 1e-3,
    max_iterations: int = 2000,
    return_result: bool = False,
) -> Array | tuple[Array, SinkhornResult]:
    """Monge gap of a map on a sample of its source; see `monge_gap_from_samples`.

    Args:
      map_fn: function from points `(n, d)` to points `(n, d)`.
      x: source points, shape `(n, d)`.
      cost: `"sqeuclidean"`, `"euclidean"`, or a function of two points.
      eps: strength of the regularisation, in units of the cost.
      relative_eps: the same as a share of the mean cost; 0.02 where neither is given.
      weights: weights of the points; None is uniform.
      kind: `"entropy"`, `"kl"`, `"sharp"` or `"debiased"`.
      offset: take eps H(w) off the `"entropy"` gap.
      threshold: L1 error of the marginals at which a solve stops.
      max_iterations: iterations of a solve at most.
      return_result: return the `SinkhornResult` too.

    Returns:
      A scalar, or the pair of it and the result.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: as `monge_gap_from_samples`.

    Differentiable in what `map_fn` closes over, and as `monge_gap_from_samples`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x = jnp.array([[0.0], [1.0], [2.0]])
      >>> gap = transport.monge_gap(lambda x: 3 - x, x, eps=0.05, offset=True)
      >>> print(f"{gap:.3f}")
      2.667

    References:
      Uscidda and Cuturi, 2023, arXiv:2302.04953, definition 3.1.
    """
    (x,) = _check.floating(x=x)
    return monge_gap_from_samples(
        x,
        map_fn(x),
        cost=cost,
        eps=eps,
        relative_eps=relative_eps,
        weights=weights,
        kind=kind,
        offset=offset,
        threshold=threshold,
        max_iterations=max_iterations,
        return_result=return_result,
    )


def monge_gap_gradient(
    x: ArrayLike,
    y: ArrayLike,
    *,
    cost: Cost = "sqeuclidean",
    eps: ArrayLike | None = None,
    relative_eps: float | None = None,
    weights: ArrayLike | None = None,
    kind: str = "entropy",
    threshold: float = 1e-3,
    max_iterations: int = 2000,
) -> Array:
    r"""Closed-form gradient of the Monge gap in the images y.

    .. math:: \frac{\partial\mathcal M}{\partial y_i} = w_i\,\partial_2 c(x_i, y_i)
              - \sum_j P_{ji}\,\partial_2 c(x_j, y_i)

    For the squared Euclidean cost and uniform weights it is
    :math:`\frac2n(\bar x(y_i) - x_i)`: the plan's average pre-image of y_i should be
    x_i. `"debiased"` adds half the gradient of the cost of y with itself.

    Args:
      x: source points, shape `(n, d)`.
      y: their images, shape `(n, d)`.
      cost: `"sqeuclidean"`, `"euclidean"`, or a function of two points.
      eps: strength of the regularisation, in units of the cost.
      relative_eps: the same as a share of the mean cost; 0.02 where neither is given.
      weights: weights of the pairs; None is uniform.
      kind: `"entropy"`, `"kl"` (the same gradient) or `"debiased"`.
      threshold: L1 error of the marginals at which a solve stops; the gradient's error
        is of its size.
      max_iterations: iterations of a solve at most.

    Returns:
      Array of shape `(n, d)`, what `jax.grad` of `monge_gap_from_samples` gives.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: as `monge_gap_from_samples`; or the kind is `"sharp"`, whose gradient
        needs a linear solve: use `jax.grad`.

    Differentiable as the gap itself.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x = jnp.array([[0.0], [1.0]])
      >>> print(transport.monge_gap_gradient(x, -x, eps=0.01).round(2))
      [[ 1.]
       [-1.]]

    References:
      Uscidda and Cuturi, 2023, arXiv:2302.04953; Danskin, 1966.
    """
    if kind == "sharp":
        raise ValueError(
            "kind is 'sharp'; expected 'entropy', 'kl' or 'debiased'. The gradient of "
            "the sharp gap needs a linear solve: use jax.grad."
        )
    _check.one_of("kind", kind, KINDS)
    check_cost(cost)
    x, y = _paired(x, y)
    eps = _resolved_eps(x, y, cost, eps, relative_eps)
    solved = partial(
        sinkhorn,
        eps=eps,
        a=weights,
        b=weights,
        cost=cost,
        threshold=threshold,
        max_iterations=max_iterations,
    )

    def pull(points: Array, P: Array) -> Array:
        """Sum over j of P_ji times the slope of c(points_j, .) at y_i."""
        return jax.vjp(lambda y: cost_matrix(points, y, cost), y)[1](P)[0]

    result = solved(x, y)
    slopes = jax.vjp(lambda y: paired_cost(x, y, cost), y)[1](result.a)[0]
    gradient = slopes - pull(x, plan(result, x, y))
    if kind == "debiased":
        # both arguments of the symmetric cost move: twice the half
        gradient += pull(y, plan(solved(y, y), y, y))
    return gradient


def exact_monge_gap(x: ArrayLike, y: ArrayLike, *, cost: Cost = "sqeuclidean") -> Array:
    r"""Monge gap of the map that sends x_i to y_i, without regularisation.

    .. math:: \frac1n\sum_i c(x_i, y_i)
              - \min_\sigma \frac1n\sum_i c(x_i, y_{\sigma(i)})

    The assignment is solved by SciPy on the host, in O(n^3): a thousand points take a
    fraction of a second.

    Args:
      x: source points, shape `(n, d)`.
      y: their images, shape `(n, d)`.
      cost: `"sqeuclidean"`, `"euclidean"`, or a function of two points.

    Returns:
      A scalar, non-negative up to rounding; NaN where an input is NaN. Under `jax.jit`
      it is a callback to the host.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes differ, or the cost is unknown.

    Differentiable once, almost everywhere: the assignment is piecewise constant.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x = jnp.array([[0.0], [1.0], [2.0]])
      >>> print(f"{transport.exact_monge_gap(x, -x):.3f}")
      2.667

    References:
      Uscidda and Cuturi, 2023, arXiv:2302.04953, definition 3.1.
    """
    check_cost(cost)
    x, y = _paired(x, y)
    C = jax.lax.stop_gradient(cost_matrix(x, y, cost))
    index = jax.ShapeDtypeStruct((x.shape[0],), jnp.int32)
    sigma = jax.pure_callback(assignment, index, C, vmap_method="sequential")
    excess = paired_cost(x, y, cost) - paired_cost(x, y[sigma], cost)
    return jnp.mean(excess)


def assignment(C: np.ndarray) -> np.ndarray:
    C = np.asarray(C)
    if np.isnan(C).any():  # the value is NaN with any assignment
        return np.arange(len(C), dtype=np.int32)
    return scipy.optimize.linear_sum_assignment(C)[1].astype(np.int32)


def _paired(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    x, y = clouds(x, y)
    _check.same_shape(x=x, y=y)
    return x, y


def _resolved_eps(
    x: Array,
    y: Array,
    cost: Cost,
    eps: ArrayLike | None,
    relative_eps: float | None,
) -> ArrayLike:
    if eps is not None and relative_eps is not None:
        raise ValueError("eps and relative_eps are both given; expected one of them.")
    if eps is not None:
        return eps
    share = _RELATIVE_EPS if relative_eps is None else relative_eps
    _check.positive(relative_eps=share)
    return share * mean_cost(x, y, cost)
