"""Optimisers made smooth by noise."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.typing import Array, ArrayLike, Key

_NOISES: dict[str, tuple[Callable, Callable[[Array], Array]]] = {
    "gumbel": (jax.random.gumbel, lambda z: -z - jnp.exp(-z)),
    "normal": (jax.random.normal, lambda z: -(z**2) / 2),
}


def perturbed_argmax(
    key: Key,
    argmax: Callable[[Array], Array],
    y: ArrayLike,
    *,
    sigma: ArrayLike = 1.0,
    samples: int = 1000,
    noise: str = "normal",
) -> Array:
    r"""The mean of an optimiser under noise, which is smooth whatever the optimiser.

    .. math:: p_\sigma(y) = \mathbb E_Z\bigl[\operatorname{argmax}(y + \sigma Z)\bigr]

    Its Monte-Carlo estimate is unbiased, and so are its derivatives of every order: the
    perturbed points are held and their density is differentiated, with the unperturbed
    answer as control variate.

    Args:
      key: random key.
      argmax: any function of one event shaped as `y`, such as a shortest path, a sort
        or a one-hot vector, to an array. It is never differentiated.
      y: one event of any shape; batches by `jax.vmap`.
      sigma: scale of the noise, positive.
      samples: calls of `argmax`, vmapped.
      noise: "normal", or "gumbel", for which a one-hot argmax gives softmax(y / sigma).

    Returns:
      Array shaped as the answer of `argmax`, of the dtype of `y`; NaN where a traced
      `sigma` is not positive.

    Raises:
      TypeError: `y` is not of a floating dtype.
      ValueError: `noise` is unknown, `sigma` is not positive or `samples` below 1.

    Differentiable in `y` and `sigma`, in every mode and order.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv.implicit import layers
      >>> one_hot = lambda y: jax.nn.one_hot(jnp.argmax(y), 2)
      >>> y = jnp.array([1.0, 0.0])
      >>> p = layers.perturbed_argmax(
      ...     jax.random.key(0), one_hot, y, noise="gumbel", samples=100_000)
      >>> print(jnp.abs(p - jax.nn.softmax(y)).max() < 0.01)
      True

    References:
      Berthet et al., 2020, arXiv:2002.08676, proposition 3.1.
    """
    (y,) = _check.floating(y=y)
    _check.one_of("noise", noise, _NOISES)
    _check.positive(sigma=sigma)
    if samples < 1:
        raise ValueError(f"samples is {samples}; expected at least 1.")
    draw, log_density = _NOISES[noise]
    sigma = jnp.asarray(sigma, y.dtype)
    sigma = jnp.where(sigma > 0, sigma, jnp.nan)
    still = jax.lax.stop_gradient(y)
    points = still + jax.lax.stop_gradient(sigma) * draw(
        key, (samples, *y.shape), y.dtype
    )
    answers = jax.lax.stop_gradient(jax.vmap(argmax)(points)).astype(y.dtype)
    middle = jax.lax.stop_gradient(argmax(still)).astype(y.dtype)
    density = log_density((points - y) / sigma) - jnp.log(sigma)
    log_weight = jnp.sum(density.reshape(samples, -1), -1)
    # 1 in value; its mean is 1 at every y, so that the control variate has no bias.
    weight = jnp.exp(log_weight - jax.lax.stop_gradient(log_weight))
    weight = weight.reshape(samples, *(1,) * middle.ndim)
    return jnp.mean(answers + (weight - 1) * (answers - middle), 0)
