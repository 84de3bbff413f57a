"""Energy distance between two samples."""

import functools

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.discrepancy import _pairwise
from jaxdiv.discrepancy._signs import dense_ranks, sign_sum
from jaxdiv.typing import Array, ArrayLike

_LARGEST_MATRIX = 2**24  # entries; above this "auto" streams blocks


def energy_distance(
    x: ArrayLike, y: ArrayLike, *, exponent: float = 1.0, method: str = "auto"
) -> Array:
    r"""Energy distance between two samples, the V-statistic.

    .. math:: \mathcal E = 2\,\mathbb E |X - Y|^a - \mathbb E |X - X'|^a
              - \mathbb E |Y - Y'|^a

    with means over all pairs, a point with itself included. In one dimension, with
    exponent 1, it is twice the integral of (F - G)^2: the square of what
    `scipy.stats.energy_distance` returns.

    Args:
      x: sample, shape `(n,)` or `(n, d)`.
      y: sample, shape `(m,)` or `(m, d)`.
      exponent: the power a, a concrete number in (0, 2]; at 2 only the means matter.
      method: "pairwise" holds the distance matrices; "blocked" holds some rows of them
        at a time, O(n + m) memory in value and gradient (second derivatives need more);
        "sort" takes one-dimensional samples at exponent 1 in O((n + m) log(n + m));
        "auto" sorts where it can and streams where the matrices would be large.

    Returns:
      Scalar, at least float32, non-negative, and 0 for equal samples, up to rounding;
      NaN where an input is.

    Raises:
      TypeError: a sample is not of a floating dtype, or the exponent is traced.
      ValueError: the shapes are not as above or the dimensions differ, the exponent is
        outside (0, 2], the method is unknown, or "sort" does not apply.

    Differentiable in `x` and `y`, in every mode and order; where points coincide the
    distance has derivative 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import discrepancy
      >>> x, y = jnp.array([0.0, 1.0]), jnp.array([1.0, 2.0, 3.0])
      >>> print(f"{discrepancy.energy_distance(x, y):.4f}")
      1.6111

    References:
      Szekely and Rizzo, 2013, Energy statistics, J. Stat. Plan. Inference 143, eq. (6).
    """
    _check.one_of("method", method, ("auto", *_METHODS))
    exponent = _pairwise.checked_exponent(exponent)
    x, y = _pairwise.two_samples(x, y)
    if method == "sort":
        _pairwise.check_one_dimensional(method, exponent, x, y)
    if method == "auto":
        method = _choose(x, y, exponent)
    return _METHODS[method](x, y, exponent)


def _choose(x: Array, y: Array, exponent: float) -> str:
    if x.shape[1] == 1 and exponent == 1:
        return "sort"
    return "pairwise" if (len(x) + len(y)) ** 2 <= _LARGEST_MATRIX else "blocked"


@functools.partial(jax.jit, static_argnums=2)
def _pairwise_form(x: Array, y: Array, exponent: float) -> Array:
    xx, xy, yy = (
        _pairwise.distances(a, b, exponent) for a, b in ((x, x), (x, y), (y, y))
    )
    return -_pairwise.two_sample_mean(xx, xy, yy, estimator="v")


@functools.partial(jax.jit, static_argnums=2)
def _blocked_form(x: Array, y: Array, exponent: float) -> Array:
    def excess(point: Array) -> Array:
        """How much further y is than x."""
        to_x, to_y = (_pairwise.distances(point[None], s, exponent) for s in (x, y))
        return jnp.mean(to_y) - jnp.mean(to_x)

    from_x, from_y = (_pairwise.map_rows(excess, (s,)) for s in (x, y))
    return jnp.mean(from_x) - jnp.mean(from_y)


@functools.partial(jax.jit, static_argnums=2)
def _sort_form(x: Array, y: Array, exponent: float) -> Array:
    """-2 sum_i w_i z_i sum_j sign(z_i - z_j) w_j, w = 1/n on x and -1/m on y."""
    del exponent  # 1
    z = jnp.concatenate([x[:, 0], y[:, 0]])
    order = jnp.argsort(jax.lax.stop_gradient(z))
    z, in_x = z[order], (order < len(x)).astype(z.dtype)
    z = z - jax.lax.stop_gradient(z[len(z) // 2])
    # Counts are whole numbers: equal samples cancel exactly.
    counts = sign_sum(dense_ranks(z), jnp.stack([in_x, 1 - in_x], 1))
    signed = counts[:, 0] / len(x) - counts[:, 1] / len(y)
    return -2 * jnp.sum((in_x / len(x) - (1 - in_x) / len(y)) * z * signed)


_METHODS = {"blocked": _blocked_form, "pairwise": _pairwise_form, "sort": _sort_form}
