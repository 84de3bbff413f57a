"""Distances between the points of samples, and what the measures on them share."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.typing import Array, ArrayLike

_BLOCK = 256  # rows of a distance matrix that the blocked forms hold at a time


def pairwise_distance(
    x: ArrayLike, y: ArrayLike | None = None, *, exponent: float = 1.0
) -> Array:
    r"""Euclidean distances between all pairs of points, to a power.

    .. math:: D_{kl} = \|x_k - y_l\|_2^{a}

    Distances are taken from differences, so points that coincide are at distance 0
    exactly, and points that are close keep their digits.

    Args:
      x: sample, shape `(n,)` or `(n, d)`.
      y: second sample, shape `(m,)` or `(m, d)`; None takes `x` again.
      exponent: the power a, a concrete number in (0, 2].

    Returns:
      Array of shape `(n, m)`, at least float32; NaN where a point is NaN.

    Raises:
      TypeError: a sample is not of a floating dtype, or the exponent is traced.
      ValueError: the shapes are not as above, the dimensions differ, or the exponent is
        outside (0, 2].

    Differentiable in `x` and `y`, in every mode and order; where points coincide every
    derivative is taken as 0 (for the exponent 2 it is the true one).

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import discrepancy
      >>> print(discrepancy.pairwise_distance(jnp.array([0.0, 1.0, 3.0])))
      [[0. 1. 3.]
       [1. 0. 2.]
       [3. 2. 0.]]

    References:
      Szekely, Rizzo and Bakirov, 2007, arXiv:0803.4101, section 2.
    """
    exponent = checked_exponent(exponent)
    x, other = two_samples(x, x if y is None else y)
    return distances(x, x if y is None else other, exponent)


def distances(x: Array, y: Array, exponent: float) -> Array:
    """Powers of the distances between the rows of `(n, d)` and `(m, d)`."""
    return _distances(x, y, exponent, x is y)


@functools.partial(jax.jit, static_argnums=(2, 3))  # eager would form (n, m, d)
def _distances(x: Array, y: Array, exponent: float, same: bool) -> Array:  # noqa: FBT001
    if x.shape[1] == 1:
        base, power = jnp.abs(x - y.T), exponent
    else:
        base, power = _squared(x, y), exponent / 2
    if same:
        # Where x is a product, XLA may fuse its two uses into another multiply-add
        # each: the difference is then rounding, not 0, and so is its sign.
        base = jnp.where(jnp.eye(len(x), dtype=bool), 0, base)
    if power == 1:
        return base
    apart = base != 0
    safe = jnp.where(apart, base, 1)
    return jnp.where(apart, jnp.sqrt(safe) if power == 0.5 else safe**power, 0)


def _squared(x: Array, y: Array) -> Array:
    """Squared distances: the value from differences, derivatives as matmuls."""
    # The differences would be kept for the backward pass, n m d numbers. `expanded` is
    # the same polynomial and keeps none; what it adds to the value is exactly 0.
    value = jnp.sum(jax.lax.stop_gradient(x[:, None] - y) ** 2, -1)
    # About a common centre, where the derivatives cancel least.
    finite = jnp.isfinite(jax.lax.stop_gradient(x))
    total = jnp.sum(jnp.where(finite, jax.lax.stop_gradient(x), 0), 0)
    centre = total / jnp.maximum(jnp.sum(finite, 0), 1)
    x, y = x - centre, y - centre
    cross = jnp.matmul(x, y.T, precision="highest")
    expanded = jnp.sum(x**2, -1)[:, None] + jnp.sum(y**2, -1) - 2 * cross
    return value + (expanded - jax.lax.stop_gradient(expanded))


def two_sample_mean(xx: Array, xy: Array, yy: Array, *, estimator: str) -> Array:
    """E xx + E yy - 2 E xy; "u" leaves the diagonals of xx and yy out.

    Rows are subtracted before they are averaged: rounding then averages out too.
    """

    def row_means(k: Array) -> Array:
        if estimator == "v":
            return jnp.mean(k, 1)
        return jnp.sum(jnp.where(jnp.eye(len(k), dtype=bool), 0, k), 1) / (len(k) - 1)

    rows_x, rows_y = row_means(xx) - jnp.mean(xy, 1), row_means(yy) - jnp.mean(xy, 0)
    return jnp.mean(rows_x) + jnp.mean(rows_y)


def map_rows(f: Callable, rows: tuple[Array, ...]) -> Array:
    """Maps `f` over rows, a block at a time; reverse mode keeps the rows alone."""
    return jax.lax.map(jax.checkpoint(lambda row: f(*row)), rows, batch_size=_BLOCK)


def two_samples(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Both samples as `(n, d)` and `(m, d)` in one dtype, their shapes checked."""
    x, y = samples(x=x, y=y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"The points of x have dimension {x.shape[1]}, those of y {y.shape[1]}; "
            "expected the same."
        )
    return x, y


def paired_samples(at_least: int, **arrays: ArrayLike) -> tuple[Array, ...]:
    """The samples as `(n, d_i)` in one dtype, with the same n."""
    out = samples(**arrays)
    sizes = ", ".join(f"{name} {len(x)}" for name, x in zip(arrays, out, strict=True))
    if len({len(x) for x in out}) > 1:
        raise ValueError(f"The samples differ in length: {sizes}; expected one length.")
    if len(out[0]) < at_least:
        raise ValueError(
            f"Numbers of points: {sizes}; the estimator needs at least {at_least}."
        )
    return out


def samples(**arrays: ArrayLike) -> tuple[Array, ...]:
    """Non-empty samples as `(n, d)` in one dtype."""
    out = []
    for name, x in zip(arrays, _check.floating(**arrays), strict=True):
        if x.ndim not in (1, 2) or 0 in x.shape:
            raise ValueError(
                f"{name} has shape {x.shape}; expected (n,) or (n, d), not empty."
            )
        out.append(x if x.ndim == 2 else x[:, None])
    return tuple(out)


def checked_exponent(exponent: float) -> float:
    """The exponent as a Python number, which compiled functions can be keyed by."""
    if _check.concrete(exponent) is None:
        raise TypeError("exponent is traced; expected a concrete number in (0, 2].")
    if not 0 < exponent <= 2:
        raise ValueError(f"exponent is {exponent}; expected a number in (0, 2].")
    return float(exponent)


def check_one_dimensional(method: str, exponent: float, *samples: Array) -> None:
    """Raises ValueError where a form for sorted numbers does not apply."""
    shapes = [x.shape for x in samples]
    if any(shape[1] != 1 for shape in shapes) or exponent != 1:
        raise ValueError(
            f"method={method!r} got shapes {shapes} and exponent {exponent}; "
            "expected one-dimensional samples and exponent 1."
        )
