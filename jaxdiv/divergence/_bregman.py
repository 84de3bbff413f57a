r"""Bregman divergences and Fenchel-Young losses.

Both are the gap of a convex function above a tangent. Written as that difference it
loses every digit where the two points are near; each form here is a sum of
non-negative terms instead, or an integral of the curvature along the segment.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax.linalg import cholesky, triangular_solve

from jaxdiv import _check
from jaxdiv._numerics import exp_remainder, kl_terms, log_ratio
from jaxdiv.divergence._segment import gap_along, line
from jaxdiv.implicit._entmax import fenchel_young_of
from jaxdiv.typing import Array, ArrayLike


def log_det_gap(Y: Array, X: Array, e: Array) -> Array:
    r"""Tr E - log|I + e E| / e with :math:`E = Y^{-1}(X - Y)`.

    At e = 1 it is the log-det divergence, at e = 0 nothing.
    """
    L = cholesky(Y)
    E = triangular_solve(L, X - Y, left_side=True, lower=True)
    E = triangular_solve(L, E, lower=True, transpose_a=True)
    size = jnp.sum((e[..., None, None] * E) ** 2, (-2, -1))
    radius, last = (0.2, 11) if Y.dtype == jnp.float32 else (0.02, 10)
    near = size < radius**2
    step = jnp.where(near, e, 0)[..., None, None] * jnp.where(
        near[..., None, None], E, 0
    )
    # tr(E step p(step)) with p(x) = (x - log(1 + x)) / x^2, a series in matrix
    # products: no eigenvalues, which have no derivative where two of them meet.
    identity = jnp.eye(Y.shape[-1], dtype=Y.dtype)
    series = identity / last
    for k in range(last - 1, 1, -1):
        series = identity / k - step @ series
    series = jnp.sum(E * (step @ series), (-2, -1))

    far = jnp.where(near, 1, e)
    between = far[..., None, None]
    other = jnp.where(near[..., None, None], Y, (1 - between) * Y + between * X)
    gained = _log_det_of(cholesky(other)) - _log_det_of(L)
    trace = jnp.trace(E, axis1=-2, axis2=-1)
    return jnp.where(near, series, trace - gained / far)


def _log_det_of(L: Array) -> Array:
    return 2 * jnp.sum(jnp.log(jnp.diagonal(L, axis1=-2, axis2=-1)), -1)


def _equal_events(axes: int, **arrays: Array) -> None:
    """ValueError unless both have the same last axes, square where they are two."""
    (first, x), (second, y) = arrays.items()
    event = x.shape[-axes:]
    if len(event) < axes or event != y.shape[-axes:]:
        raise ValueError(
            f"{first} has shape {x.shape} and {second} {y.shape}; expected equal last "
            "axes."
        )
    if len(set(event)) > 1:
        raise ValueError(f"{first} has shape {x.shape}; expected square matrices.")


def _refuse(outside: Array, name: str, x: Array, expected: str) -> None:
    """ValueError where a concrete argument has an entry outside of the domain."""
    wrong = _check.concrete(outside)
    if wrong is not None and wrong.any():
        entry = np.asarray(x)[np.broadcast_to(wrong, x.shape)][0]
        raise ValueError(f"{name} has the entry {entry}; expected {expected}.")


@jax.jit
def _generalised_kl(x: Array, y: Array) -> Array:
    zero = y == 0
    log_y = jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1, y)))
    return jnp.sum(kl_terms(x, y, log_y), -1)


@jax.jit
def _itakura_saito(x: Array, y: Array) -> Array:
    return jnp.sum(exp_remainder(log_ratio(x, y, jnp.log(y))), -1)


def _squared_euclidean(x: Array, y: Array) -> Array:
    return jnp.sum((x - y) ** 2, -1)


@jax.jit
def _log_det(x: Array, y: Array) -> Array:
    return log_det_gap(y, x, jnp.ones(x.shape[:-2], x.dtype))


def _anywhere(x: Array) -> Array:
    return jnp.zeros_like(x, bool)


def _not_positive_definite(x: Array) -> Array:
    failed = ~jnp.isfinite(cholesky(x)).all((-2, -1), keepdims=True)
    return failed & ~jnp.isnan(x).any((-2, -1), keepdims=True)


class _Named(NamedTuple):
    """A divergence, where an argument is outside of its domain, and what it expects."""

    divergence: Callable[[Array, Array], Array]
    outside: Callable[[Array], Array]
    expected: str
    axes: int = 1


_NAMED = {
    "itakura_saito": _Named(_itakura_saito, lambda x: x <= 0, "positive entries"),
    "kl": _Named(_generalised_kl, lambda x: x < 0, "non-negative entries"),
    "log_det": _Named(
        _log_det, _not_positive_definite, "positive definite matrices", 2
    ),
    "squared_euclidean": _Named(_squared_euclidean, _anywhere, "any entries"),
}


def bregman(
    generator: str | Callable[[Array], Array], x: ArrayLike, y: ArrayLike
) -> Array:
    r"""Bregman divergence, the gap of a convex function above its tangent at y.

    .. math:: B_F(x, y) = F(x) - F(y) - \langle \nabla F(y),\, x - y\rangle \ge 0

    =====================  ====================================  ==================
    generator              F                                     domain
    =====================  ====================================  ==================
    "squared_euclidean"    :math:`\|x\|^2` (no factor 1/2)       reals
    "kl"                   :math:`\sum_i x_i \log x_i - x_i`     non-negative
    "itakura_saito"        :math:`-\sum_i \log x_i`              positive
    "log_det"              :math:`-\log\det x`, matrices         positive definite
    =====================  ====================================  ==================

    Args:
      generator: a name of the table, or a smooth convex function F of one event,
        ``[d] -> []``. The names cancel no digits between near arguments; for a function
        of your own the curvature along the segment recovers most of them.
      x: points, shape ``[..., d]``; ``[..., d, d]`` for "log_det", whose matrices are
        taken as symmetric.
      y: points where the tangent is taken, as `x`; leading axes broadcast.

    Returns:
      Array ``[...]``, at least float32; `inf` for "kl" where y is 0 and x is not, NaN
      where traced arguments leave the domain.

    Raises:
      TypeError: an input is not of a floating dtype, or `generator` is neither a name
        nor a function.
      ValueError: the name is unknown, the shapes do not fit, or a concrete argument
        leaves the domain.

    Differentiable in x and y, in every mode and order. The slope of "kl" in x is
    infinite at x = 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> x, y = jnp.array([1.0, 2.0]), jnp.array([2.0, 1.0])
      >>> print(f"{divergence.bregman('squared_euclidean', x, y):.4f}")
      2.0000
      >>> print(f"{divergence.bregman(lambda x: jnp.sum(jnp.exp(x)), x, y):.4f}")
      4.6708

    References:
      Bregman, 1967; Banerjee et al., 2005, JMLR 6, table 1.
    """
    x, y = _check.floating(x=x, y=y)
    _check.broadcastable(x=x, y=y)
    if isinstance(generator, str):
        _check.one_of("generator", generator, _NAMED)
        named = _NAMED[generator]
        _equal_events(named.axes, x=x, y=y)
        for name, argument in (("x", x), ("y", y)):
            _refuse(named.outside(argument), name, argument, named.expected)
        return named.divergence(*jnp.broadcast_arrays(x, y))
    if not callable(generator):
        raise TypeError(f"generator is {generator!r}; expected a name or a function.")
    _equal_events(1, x=x, y=y)
    F = jnp.vectorize(generator, signature="(d)->()")
    return gap_along(line(F, y, x), x.dtype)


_ORDERS = {"shannon": 1.0, "sparsemax": 2.0, "entmax15": 1.5}


def _order(regularizer: str | float) -> float:
    if isinstance(regularizer, str):
        _check.one_of("regularizer", regularizer, _ORDERS)
        return _ORDERS[regularizer]
    alpha = float(regularizer)
    if not 1 <= alpha <= 2:
        raise ValueError(f"regularizer is {alpha}; expected a name or order in [1, 2].")
    return alpha


def fenchel_young(
    theta: ArrayLike, y: ArrayLike, *, regularizer: str | float = "shannon"
) -> Array:
    r"""Fenchel-Young loss of scores against a law, with its matching prediction.

    .. math::

        L(\theta; y) = \Omega^*(\theta) + \Omega(y) - \langle \theta, y\rangle \ge 0,
        \qquad \Omega(p) = \frac{\sum_i p_i^\alpha - 1}{\alpha (\alpha - 1)}

    It is 0 exactly where y is the prediction :math:`\hat p(\theta) = \nabla\Omega^*`,
    and :math:`\nabla_\theta L = \hat p(\theta) - y`:

    ============  =====  ========================================  ================
    regularizer   alpha  :math:`\Omega(p)`                         prediction
    ============  =====  ========================================  ================
    "shannon"     1      :math:`\sum_i p_i \log p_i`               softmax
    "entmax15"    1.5    :math:`\frac43 (\sum_i p_i^{3/2} - 1)`    1.5-entmax
    "sparsemax"   2      :math:`\frac12 (\|p\|^2 - 1)`             sparsemax
    ============  =====  ========================================  ================

    With "shannon" it is the KL divergence of y from the softmax, the cross-entropy less
    the entropy of y. `optax.losses.make_fenchel_young_loss` leaves :math:`\Omega(y)`
    out, so that its minimum is not 0.

    Args:
      theta: scores, shape ``[..., k]``; `-inf` marks an impossible category.
      y: target probabilities, shape ``[..., k]``, summing to 1; leading axes broadcast.
      regularizer: a name of the table, or a concrete order alpha in [1, 2].

    Returns:
      Array ``[...]``, at least float32; `inf` where y has mass on an impossible
      category, NaN for a row of `-inf` alone and where a traced y is negative.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, a concrete y is negative, the name is unknown
        or the order outside [1, 2].

    Differentiable in `theta` and `y` along the simplex, in every mode and order away
    from the border of the prediction's support; the derivative of the prediction is
    implicit, no iteration is unrolled.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> theta, y = jnp.array([1.0, 0.2, -2.0]), jnp.array([1.0, 0.0, 0.0])
      >>> loss = lambda t: divergence.fenchel_young(t, y, regularizer="sparsemax")
      >>> print(f"{loss(theta):.4f}", [f"{x:.4f}" for x in jax.grad(loss)(theta)])
      0.0100 ['-0.1000', '0.1000', '0.0000']

    References:
      Blondel, Martins and Niculae, 2020, JMLR 21, definition 2; Peters, Niculae and
      Martins, 2019, arXiv:1905.05702, eq. (11).
    """
    alpha = _order(regularizer)
    theta, y = _check.floating(theta=theta, y=y)
    _check.broadcastable(theta=theta, y=y)
    _equal_events(1, theta=theta, y=y)
    _refuse(y < 0, "y", y, "non-negative entries")
    return fenchel_young_of(theta, y, alpha)
