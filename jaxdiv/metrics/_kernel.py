"""Kernel distance between real and generated samples."""

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.typing import Array, ArrayLike


def kid(real: ArrayLike, fake: ArrayLike, *, block_size: int = 256) -> Array:
    r"""Kernel inception distance: unbiased squared MMD with the cubic kernel.

    .. math:: \mathrm{MMD}^2 = \mathbb E\, k(X, X') + \mathbb E\, k(Y, Y')
              - 2\, \mathbb E\, k(X, Y), \qquad k(x, y) = (x \cdot y / d + 1)^3

    It is `jaxdiv.discrepancy.mmd` with that kernel, in O(block_size (n + m)) memory, on
    all pairs of the two sets. Means over random subsets, as KID is often reported,
    estimate the same quantity with more noise.

    Args:
      real: features of real samples, shape `[n, d]`.
      fake: features of generated samples, shape `[m, d]`.
      block_size: rows of the kernel matrix that are held at a time.

    Returns:
      Scalar, negative at times; NaN where an input is NaN.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the dimensions differ, a set has fewer than two points, or
        `block_size` is less than 1.

    Differentiable in both arguments, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import metrics
      >>> real = jnp.array([[0.0], [1.0], [2.0]])
      >>> print(f"{metrics.kid(real, real + 1):.1f}")
      21.7

    References:
      Binkowski et al., 2018, arXiv:1801.01401, section 4.
    """
    real, fake = _check.floating(real=real, fake=fake)
    _check.rank(2, real=real, fake=fake)
    _check.in_range(1, closed=True, block_size=block_size)
    if real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise ValueError(
            f"real has shape {real.shape} and fake {fake.shape}; expected (n, d) and "
            "(m, d) with at least 2 points each."
        )
    # Differences are averaged, not means subtracted: rounding averages out too.
    x, y = (
        _mean_kernel(a, a, block_size, own=True) - _mean_kernel(a, b, block_size)
        for a, b in ((real, fake), (fake, real))
    )
    return jnp.mean(x) + jnp.mean(y)


def _mean_kernel(x: Array, y: Array, block_size: int, *, own: bool = False) -> Array:
    """Mean kernel of each row of x with those of y; with `own` without itself."""

    def of_row(row: Array) -> Array:
        total = jnp.sum(_cubic(y, row))
        return total - _cubic(row, row) if own else total

    # Reverse mode keeps the rows alone.
    totals = jax.lax.map(jax.checkpoint(of_row), x, batch_size=block_size)
    return totals / (len(y) - own)


def _cubic(x: Array, y: Array) -> Array:
    return (jnp.matmul(x, y, precision="highest") / y.shape[-1] + 1) ** 3
