r"""Distance covariance, its correlation and its versions for several variables.

The centred distances carry the sign of Chakraborty and Zhang, the opposite of
Szekely's: it cancels between two variables, but not among three.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.discrepancy import _pairwise
from jaxdiv.discrepancy._signs import concordance_sum, rank_pairs, sign_sum
from jaxdiv.typing import Array, ArrayLike

_ESTIMATORS = ("u", "v")


class _Scale(NamedTuple):
    """How an estimator centres and averages: row sums, their total, the products."""

    row: float
    total: float
    mean: float


def _scale(estimator: str, n: int) -> _Scale:
    if estimator == "v":
        return _Scale(float(n), float(n * n), float(n * n))
    return _Scale(n - 2.0, (n - 1.0) * (n - 2.0), n * (n - 3.0))


def v_center(distances: ArrayLike) -> Array:
    r"""Double-centred distances, the sign of Chakraborty and Zhang.

    .. math:: V_{kl} = \bar D_{k\cdot} + \bar D_{\cdot l} - D_{kl} - \bar D

    Args:
      distances: distances between the points of one sample, shape `[..., n, n]`.

    Returns:
      Array of shape `[..., n, n]`; rows and columns sum to 0.

    Raises:
      TypeError: the input is not of a floating dtype.
      ValueError: the last two axes differ or are missing.

    Differentiable (linear), in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import discrepancy
      >>> distances = discrepancy.pairwise_distance(jnp.array([0.0, 1.0]))
      >>> print(discrepancy.v_center(distances))
      [[ 0.5 -0.5]
       [-0.5  0.5]]

    References:
      Chakraborty and Zhang, 2019, arXiv:1709.02532, section 2.
    """
    d = _square(distances, at_least=1)
    rows, columns = jnp.mean(d, -1, keepdims=True), jnp.mean(d, -2, keepdims=True)
    return rows + columns - d - jnp.mean(rows, -2, keepdims=True)


def u_center(distances: ArrayLike) -> Array:
    r"""U-centred distances, the sign of Chakraborty and Zhang.

    .. math:: U_{kl} = \frac{r_k}{n-2} + \frac{r_l}{n-2} - D_{kl}
              - \frac{S}{(n-1)(n-2)} \quad (k \ne l), \qquad U_{kk} = 0

    with the row sums r and their total S. Products of such matrices have the unbiased
    estimators as their means.

    Args:
      distances: distances between the points of one sample, zero on the diagonal,
        shape `[..., n, n]` with n >= 4.

    Returns:
      Array of shape `[..., n, n]`; rows and columns sum to 0.

    Raises:
      TypeError: the input is not of a floating dtype.
      ValueError: the last two axes differ or are missing, or n < 4.

    Differentiable (linear), in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import discrepancy
      >>> distances = discrepancy.pairwise_distance(jnp.array([0.0, 1.0, 3.0, 4.0]))
      >>> print(discrepancy.u_center(distances)[0].round(4))
      [ 0.      1.3333 -0.6667 -0.6667]

    References:
      Szekely and Rizzo, 2014, arXiv:1310.2926, eq. (2.2), with the opposite sign.
    """
    d = _square(distances, at_least=4)
    n = d.shape[-1]
    scale = _scale("u", n)
    rows, columns = jnp.sum(d, -1, keepdims=True), jnp.sum(d, -2, keepdims=True)
    total = jnp.sum(rows, -2, keepdims=True)
    centred = (rows + columns) / scale.row - d - total / scale.total
    return jnp.where(jnp.eye(n, dtype=bool), 0, centred)


def _square(distances: ArrayLike, at_least: int) -> Array:
    (d,) = _check.floating(distances=distances)
    if d.ndim < 2 or d.shape[-1] != d.shape[-2] or d.shape[-1] < at_least:
        raise ValueError(
            f"distances has shape {d.shape}; expected [..., n, n] with n >= {at_least}."
        )
    return d


_CENTER = {"u": u_center, "v": v_center}


def distance_covariance_sqr(
    x: ArrayLike,
    y: ArrayLike,
    *,
    estimator: str = "v",
    method: str = "naive",
    exponent: float = 1.0,
) -> Array:
    r"""Squared distance covariance of two paired samples.

    .. math:: \mathrm{dCov}^2_V = \frac{1}{n^2} \sum_{kl} V^x_{kl} V^y_{kl}, \qquad
              \mathrm{dCov}^2_U = \frac{1}{n(n-3)} \sum_{k \ne l} U^x_{kl} U^y_{kl}

    with the centred distances of `v_center` and `u_center`. In the population it is 0
    only for independent variables (exponent below 2).

    Args:
      x: sample, shape `(n,)` or `(n, p)`.
      y: sample of the same length, shape `(n,)` or `(n, q)`.
      estimator: "v", non-negative and biased upwards; or "u", unbiased, negative at
        times, n >= 4.
      method: "naive" holds the distance matrices; "blocked" holds some rows of them at
        a time, O(n) memory in value and gradient (second derivatives need more); "fast"
        sorts one-dimensional samples instead, O(n log n) time and memory at exponent 1.
      exponent: power of the distances, a concrete number in (0, 2].

    Returns:
      Scalar, at least float32; NaN where an input is. In float32 the absolute error is
      some 1e-7 times the product of the mean distances, in every method.

    Raises:
      TypeError: an input is not of a floating dtype, or the exponent is traced.
      ValueError: lengths differ, n < 4 with "u", an option is unknown, the exponent is
        outside (0, 2], or "fast" got more than one dimension or another exponent.

    Differentiable in `x` and `y`, in every mode and order; at ties the distance has
    derivative 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import discrepancy
      >>> x = jnp.array([0.0, 1.0, 2.0, 4.0, 7.0, 7.0, 9.0, 12.0])
      >>> y = jnp.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0])
      >>> print(f"{discrepancy.distance_covariance_sqr(x, y, method='fast'):.4f}")
      2.0566

    References:
      Szekely, Rizzo and Bakirov, 2007, arXiv:0803.4101; Huo and Szekely, 2016,
      arXiv:1410.1503 (that O(n log n) is possible).
    """
    x, y, exponent = _checked_pair(x, y, estimator, method, exponent)
    return _covariance(x, y, estimator, method, exponent)


def distance_correlation_sqr(
    x: ArrayLike,
    y: ArrayLike,
    *,
    estimator: str = "v",
    method: str = "naive",
    exponent: float = 1.0,
) -> Array:
    r"""Squared distance correlation of two paired samples.

    .. math:: \mathrm{dCor}^2(x, y) = \frac{\mathrm{dCov}^2(x, y)}
              {\sqrt{\mathrm{dCov}^2(x, x)\, \mathrm{dCov}^2(y, y)}}

    Args:
      x: sample, shape `(n,)` or `(n, p)`.
      y: sample of the same length, shape `(n,)` or `(n, q)`.
      estimator: "v", in [0, 1]; or "u", bias-corrected, negative at times, n >= 4.
      method: as for `distance_covariance_sqr`.
      exponent: power of the distances, a concrete number in (0, 2].

    Returns:
      Scalar, at least float32; 0, with derivative 0, where a sample is constant; NaN
      where an input is.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: as for `distance_covariance_sqr`.

    Differentiable in `x` and `y`, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import discrepancy
      >>> x = jnp.array([0.0, 1.0, 2.0, 4.0, 7.0])
      >>> print(f"{discrepancy.distance_correlation_sqr(x, 3 - 2 * x):.4f}")
      1.0000

    References:
      Szekely and Rizzo, 2014, arXiv:1310.2926, eq. (2.3), for "u".
    """
    x, y, exponent = _checked_pair(x, y, estimator, method, exponent)
    return _correlation(x, y, estimator, method, exponent)


def joint_distance_covariance_sqr(
    xs: Sequence[ArrayLike],
    *,
    c: ArrayLike = 1.0,
    estimator: str = "v",
    exponent: float = 1.0,
) -> Array:
    r"""Squared joint distance covariance of two or more variables.

    .. math:: \mathrm{JdCov}^2_V = \frac{1}{n^2} \sum_{kl}
              \Big(\prod_i (V^i_{kl} + c) - c^d\Big)

    and with :math:`U^i` and :math:`n(n-3)` for the unbiased estimator, diagonal
    included. It is c^(d-2) times the sum of the pairwise distance covariances plus
    terms of higher order, so it also holds the dependence among the attributes.
    Memory is O(d n^2).

    Args:
      xs: the samples of the d >= 2 variables, each `(n,)` or `(n, p_i)`.
      c: weight c > 0 of the lower orders.
      estimator: "v"; "u", unbiased; or "us", which scales each variable by the square
        root of its unbiased distance variance, for variables in different units (a
        constant variable then counts as 0). "u" and "us" need n >= 4.
      exponent: power of the distances, a concrete number in (0, 2].

    Returns:
      Scalar, at least float32; it may be negative, and NaN where an input is.

    Raises:
      TypeError: a sample is not of a floating dtype.
      ValueError: fewer than two variables, lengths differ, n < 4 with "u" or "us",
        `c` is not positive, the estimator is unknown, or the exponent is outside
        (0, 2].

    Differentiable in `xs` and `c`, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import discrepancy
      >>> a = jnp.array([0.0, 0.0, 1.0, 1.0]); b = jnp.array([0.0, 1.0, 0.0, 1.0])
      >>> xor = jnp.abs(a - b)  # independent of a and of b, not of both
      >>> print(discrepancy.joint_distance_covariance_sqr([xor, a, b]))
      0.125

    References:
      Chakraborty and Zhang, 2019, arXiv:1709.02532; Lee et al., 2025, arXiv:2509.08163.
    """
    _check.one_of("estimator", estimator, ("u", "us", "v"))
    _check.positive(c=c)
    exponent = _pairwise.checked_exponent(exponent)
    if len(xs) < 2:
        raise ValueError(f"xs holds {len(xs)} variables; expected at least 2.")
    named = {f"xs[{i}]": x for i, x in enumerate(xs)}
    samples = _pairwise.paired_samples(1 if estimator == "v" else 4, **named)
    return _joint(samples, jnp.asarray(c, samples[0].dtype), estimator, exponent)


def concatenated_distance_covariance_sqr(
    pred: ArrayLike,
    attrs: ArrayLike | Sequence[ArrayLike],
    *,
    estimator: str = "u",
    method: str = "naive",
    exponent: float = 1.0,
) -> Array:
    r"""Squared distance covariance of a prediction with all attributes at once.

    .. math:: \mathrm{CCdCov}^2 = \mathrm{dCov}^2(\hat y, [s_1; \dots; s_m])

    In the population it is 0 only if the prediction is independent of the joint law of
    the attributes, intersections included. Scale the attributes alike beforehand.

    Args:
      pred: predictions, shape `(n,)` or `(n, p)`.
      attrs: the attributes, a sequence of arrays `(n,)` or `(n, q_i)`, which become the
        columns of one sample; or that sample itself.
      estimator: "u", unbiased, n >= 4; or "v", non-negative.
      method: as for `distance_covariance_sqr`; "fast" for a single column only.
      exponent: power of the distances, a concrete number in (0, 2].

    Returns:
      Scalar, at least float32; NaN where an input is.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: there is no attribute, or as for `distance_covariance_sqr`.

    Differentiable in `pred` and `attrs`, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import discrepancy
      >>> a = jnp.array([0.0, 0.0, 1.0, 1.0]); b = jnp.array([0.0, 1.0, 0.0, 1.0])
      >>> xor = jnp.abs(a - b)
      >>> value = discrepancy.concatenated_distance_covariance_sqr(
      ...     xor, [a, b], estimator="v"
      ... )
      >>> print(f"{value:.4f}")
      0.0732

    References:
      Lee et al., 2025, arXiv:2509.08163.
    """
    if not isinstance(attrs, Sequence):
        attrs = [attrs]
    if not attrs:
        raise ValueError("attrs is empty; expected at least one attribute.")
    named = {f"attrs[{i}]": x for i, x in enumerate(attrs)}
    pred, *columns = _pairwise.paired_samples(1, pred=pred, **named)
    return distance_covariance_sqr(
        pred,
        jnp.concatenate(columns, 1),
        estimator=estimator,
        method=method,
        exponent=exponent,
    )


def _checked_pair(
    x: ArrayLike, y: ArrayLike, estimator: str, method: str, exponent: float
) -> tuple[Array, Array, float]:
    _check.one_of("estimator", estimator, _ESTIMATORS)
    _check.one_of("method", method, _MOMENTS)
    exponent = _pairwise.checked_exponent(exponent)
    x, y = _pairwise.paired_samples(1 if estimator == "v" else 4, x=x, y=y)
    if method == "fast":
        _pairwise.check_one_dimensional(method, exponent, x, y)
    return x, y, exponent


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _covariance(
    x: Array, y: Array, estimator: str, method: str, exponent: float
) -> Array:
    return _MOMENTS[method](x, y, estimator, exponent).covariance


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _correlation(
    x: Array, y: Array, estimator: str, method: str, exponent: float
) -> Array:
    covariance, var_x, var_y = _MOMENTS[method](x, y, estimator, exponent)
    constant = (var_x <= 0) | (var_y <= 0)  # false for NaN, which must pass
    root_x, root_y = (jnp.sqrt(jnp.where(constant, 1, v)) for v in (var_x, var_y))
    return jnp.where(constant, 0, covariance / root_x / root_y)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _joint(
    samples: tuple[Array, ...], c: Array, estimator: str, exponent: float
) -> Array:
    kind = "v" if estimator == "v" else "u"
    mean = _scale(kind, len(samples[0])).mean
    # prod(U + c) - c^d without its terms of first order, whose sums are 0 but for
    # rounding; c^d itself would cancel against n^2 copies of itself.
    first, higher = 0, 0  # the sum of U, and what is of higher order
    for k, x in enumerate(samples):
        centred = _CENTER[kind](_pairwise.distances(x, x, exponent))
        if estimator == "us":
            variance = jnp.sum(centred**2) / mean
            constant = variance <= 0
            root = jnp.sqrt(jnp.where(constant, 1, variance))
            centred = jnp.where(constant, 0, centred / root)
        if k:
            higher = higher * (centred + c) + c ** (k - 1) * first * centred
        first = first + centred
    return jnp.sum(higher) / mean


class _Moments(NamedTuple):
    """Distance covariance of x with y, x with x and y with y.

    What a caller does not use, the compiler drops.
    """

    covariance: Array
    var_x: Array
    var_y: Array


def _naive(x: Array, y: Array, estimator: str, exponent: float) -> _Moments:
    center, mean = _CENTER[estimator], _scale(estimator, len(x)).mean
    a, b = (center(_pairwise.distances(s, s, exponent)) for s in (x, y))
    return _Moments(*(jnp.sum(p) / mean for p in (a * b, a * a, b * b)))


def _blocked(x: Array, y: Array, estimator: str, exponent: float) -> _Moments:
    product = functools.partial(_blocked_product, estimator, exponent)
    return _Moments(product(x, y), product(x, x), product(y, y))


def _blocked_product(estimator: str, exponent: float, x: Array, y: Array) -> Array:
    n = len(x)
    scale, index = _scale(estimator, n), jnp.arange(n)

    def row(sample: Array, point: Array) -> Array:
        return _pairwise.distances(point[None], sample, exponent)[0]

    def row_sums(sample: Array) -> Array:
        return _pairwise.map_rows(lambda point: jnp.sum(row(sample, point)), (sample,))

    sums_x, sums_y = row_sums(x), row_sums(y)
    total_x, total_y = jnp.sum(sums_x), jnp.sum(sums_y)

    def product(i: Array, xi: Array, yi: Array, sum_x: Array, sum_y: Array) -> Array:
        a = (sum_x + sums_x) / scale.row - row(x, xi) - total_x / scale.total
        b = (sum_y + sums_y) / scale.row - row(y, yi) - total_y / scale.total
        return jnp.sum(a * b if estimator == "v" else jnp.where(index == i, 0, a * b))

    rows = (index, x, y, sums_x, sums_y)
    return jnp.sum(_pairwise.map_rows(product, rows)) / scale.mean


def _fast(x: Array, y: Array, estimator: str, exponent: float) -> _Moments:
    r"""By antisymmetry of the signs.

    With |x_i - x_j| = (x_i - x_j) s_ij, and W = V or U,

    .. math:: -\sum_{ij} |x_i - x_j| W^y_{ij} = -2 \sum_i x_i \sum_j s_{ij} W^y_{ij}

    and the inner sums are small where x and y are nearly independent, so that float32
    cancels per point and not in the total.
    """
    del exponent  # 1
    n = len(x)
    scale = _scale(estimator, n)
    ranks = rank_pairs(x[:, 0], y[:, 0])
    x, y = x[ranks.order, 0], y[ranks.order, 0]
    # About the medians sums are small, and constant samples exactly 0.
    x = x - jax.lax.stop_gradient(x[n // 2])
    y = y - jax.lax.stop_gradient(y[ranks.by_y[n // 2]])

    def with_ones(v: Array) -> Array:
        return jnp.stack([jnp.ones_like(v), v], 1)

    def row_sums(rank: Array, v: Array) -> Array:
        count, total = sign_sum(rank, with_ones(v)).T
        return v * count - total

    def product(v: Array, rank: Array, sums: Array, signed_sums: Array) -> Array:
        """`sums` over j of the other's distances; `signed_sums` of s_ij times them."""
        rows = sums / scale.row
        count, signed_rows = sign_sum(rank, with_ones(rows)).T
        centred = count * (rows - jnp.sum(sums) / scale.total) + signed_rows
        return -2 * jnp.sum(v * (centred - signed_sums)) / scale.mean

    sums_x, sums_y = row_sums(ranks.x, x), row_sums(ranks.y, y)
    count, total = concordance_sum(ranks, with_ones(y)).T
    return _Moments(
        product(x, ranks.x, sums_y, y * count - total),
        product(x, ranks.x, sums_x, n * x - jnp.sum(x)),
        product(y, ranks.y, sums_y, n * y - jnp.sum(y)),
    )


_MOMENTS = {"blocked": _blocked, "fast": _fast, "naive": _naive}
