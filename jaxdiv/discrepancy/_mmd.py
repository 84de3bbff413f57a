"""Maximum mean discrepancy between two samples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.discrepancy import _pairwise
from jaxdiv.typing import Array, ArrayLike

KernelFn = Callable[[Array, Array], Array]  # (d,), (d,) -> scalar


def mmd(
    x: ArrayLike,
    y: ArrayLike,
    *,
    kernel: str | KernelFn = "rbf",
    bandwidth: ArrayLike | None = None,
    estimator: str = "u",
) -> Array:
    r"""Squared maximum mean discrepancy between two samples.

    .. math:: \mathrm{MMD}^2 = \mathbb E\, k(X, X') + \mathbb E\, k(Y, Y')
              - 2\, \mathbb E\, k(X, Y), \qquad
              k_{\mathrm{rbf}}(x, y) = e^{-\|x - y\|^2 / (2 h^2)}

    The kernel matrices are held: memory is O((n + m)^2).

    Args:
      x: sample, shape `(n,)` or `(n, d)`.
      y: sample, shape `(m,)` or `(m, d)`.
      kernel: "rbf", or a symmetric positive definite function of two points `(d,)`
        (`(1,)` for samples `(n,)`).
      bandwidth: h > 0 of "rbf"; None takes the median distance between two points of
        the pooled sample (1 if that is 0), a constant in derivatives.
      estimator: "u" is unbiased and negative at times, n, m >= 2; "v" counts each
        point's pair with itself, is non-negative and biased upwards.

    Returns:
      Scalar, MMD squared, at least float32; NaN where an input is.

    Raises:
      TypeError: a sample is not of a floating dtype.
      ValueError: the shapes are not as above or the dimensions differ, a sample has one
        point with "u", the bandwidth is not positive or goes with a kernel of the
        caller's, or an option is unknown.

    Differentiable in `x`, `y` and `bandwidth`, in every mode and order that the kernel
    allows.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import discrepancy
      >>> x, y = jnp.array([0.0, 1.0]), jnp.array([1.0, 2.0, 3.0])
      >>> print(f"{discrepancy.mmd(x, y, bandwidth=1.0):.4f}")
      0.2244
      >>> print(f"{discrepancy.mmd(x, y, kernel=jnp.dot, estimator='v'):.4f}")
      2.2500

    References:
      Gretton et al., 2012, JMLR 13, eqs. (3) and (5).
    """
    _check.one_of("estimator", estimator, ("u", "v"))
    x, y = _pairwise.two_samples(x, y)
    if estimator == "u" and min(len(x), len(y)) < 2:
        raise ValueError(
            f"x has {len(x)} points and y {len(y)}; 'u' needs at least 2 each."
        )
    k = _kernel_matrix(kernel, bandwidth, x, y)
    return _pairwise.two_sample_mean(k(x, x), k(x, y), k(y, y), estimator=estimator)


def _kernel_matrix(
    kernel: str | KernelFn, bandwidth: ArrayLike | None, x: Array, y: Array
) -> Callable[[Array, Array], Array]:
    if callable(kernel):
        if bandwidth is not None:
            raise ValueError(
                f"bandwidth is {bandwidth}; expected None with a kernel of your own."
            )
        return jax.vmap(jax.vmap(kernel, (None, 0)), (0, None))
    _check.one_of("kernel", kernel, ("rbf",))
    if bandwidth is None:
        bandwidth = _median_distance(jax.lax.stop_gradient(jnp.concatenate([x, y])))
    else:
        _check.positive(bandwidth=bandwidth)
    precision = 0.5 / jnp.asarray(bandwidth, x.dtype) ** 2
    return lambda a, b: jnp.exp(-precision * _pairwise.distances(a, b, 2.0))


def _median_distance(z: Array) -> Array:
    distances = _pairwise.distances(z, z, 1.0)
    median = jnp.median(distances[jnp.tril_indices(len(z), -1)])
    return jnp.where(median == 0, 1, median)
