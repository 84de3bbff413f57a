r"""What a step of generation adds to the log-density of a noised law.

Generation runs backwards: `dt > 0` is the amount by which t falls, and a velocity is
in units of that falling time. The forward equation is :math:`dx = f\,dt + g\,dW` with
marginals :math:`q_t` and score :math:`s = \nabla\log q_t`.
"""

import math

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.typing import Array, ArrayLike, Key

_MAX_EXACT = 256  # entries of a sample; from there on a few probes are far cheaper


def flat(x: Array) -> Array:
    """Samples `(B, ...)` as `(B, D)`; one sample `(d,)` stays as it is."""
    if x.ndim == 0:
        raise ValueError("Expected samples of shape (B, ...) or (d,), got a scalar.")
    return x if x.ndim == 1 else x.reshape(x.shape[0], math.prod(x.shape[1:]))


def inner(x: Array, y: Array) -> Array:
    """Inner products over the last axis."""
    return jnp.sum(x * y, -1)


def flat_drift(drift: Array, shape: tuple[int, ...]) -> Array:
    """The drift in the shape of the samples, flattened."""
    try:
        return flat(jnp.broadcast_to(drift, shape))
    except ValueError as error:
        raise ValueError(
            f"drift has shape {drift.shape}; expected one that broadcasts to the "
            f"samples of shape {shape}."
        ) from error


def check_per_sample(batch: tuple[int, ...], **values: Array) -> None:
    """Raises ValueError unless each value is a scalar or one number for each sample."""
    for name, value in values.items():
        if value.shape not in ((), batch):
            raise ValueError(
                f"{name} has shape {value.shape}; expected a scalar or one value for "
                f"each sample, shape {batch}."
            )


def directions(x: Array, key: Key | None, n_probes: int, **method: str) -> Array:
    """Directions z, `(K, B or 1, ...)`, whose forms z' J z sum to the trace of J.

    Args:
      x: samples `(B, ...)`; each one's part of the linear map J is its own.
      key: key of the signs of `"hutchinson"`.
      n_probes: number of vectors of signs, of which the trace is the mean.
      **method: the argument's name, and `"exact"` or `"hutchinson"`.

    Raises:
      ValueError: an unknown method, no key, or too many entries for `"exact"`.
    """
    ((name, chosen),) = method.items()
    _check.one_of(name, chosen, ("exact", "hutchinson"))
    _check.in_range(1, closed=True, n_probes=n_probes)
    if chosen == "hutchinson":
        if key is None:
            raise ValueError(f"key is None; expected a key for {name}='hutchinson'.")
        signs = jax.random.rademacher(key, (n_probes, *x.shape), x.dtype)
        return signs / math.sqrt(n_probes)
    size = math.prod(x.shape[1:])
    if size > _MAX_EXACT:
        raise ValueError(
            f"A sample has {size} entries; expected at most {_MAX_EXACT} for "
            f"{name}='exact'. Use {name}='hutchinson'."
        )
    return jnp.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:])


def ito_log_density_increment(
    dx: ArrayLike,
    dt: ArrayLike,
    score: ArrayLike,
    drift: ArrayLike,
    div_drift: ArrayLike,
    g2: ArrayLike,
) -> Array:
    r"""Increment of log q along a random step, without the divergence of the score.

    .. math:: d\log q(x) = \langle dx, s\rangle + \bigl(\nabla\!\cdot\! f +
              \langle f, s\rangle - \tfrac12 g^2 |s|^2\bigr)\,dt

    It holds for any process :math:`dx = u\,d\tau + g\,dW` whatever its velocity u, as
    long as its noise has the g of the forward equation. Over a path of n steps the
    bias of the sum is O(1/n) and its spread O(n^(-1/2)).

    Args:
      dx: step that was taken, noise included, shape `(B, ...)`, or `(d,)` for one
        sample.
      dt: length of the step, positive; a scalar or `(B,)`.
      score: score of q at the start of the step, shaped as `dx`.
      drift: forward drift f there; broadcasts to `dx`.
      div_drift: its divergence, summed over the coordinates once: a d for the linear
        drift a x in d dimensions. A scalar or `(B,)`.
      g2: squared diffusion coefficient, a scalar or `(B,)`.

    Returns:
      Increments of shape `(B,)`, or `()` for one sample.

    Raises:
      TypeError: an argument is not of a floating dtype.
      ValueError: the shapes do not fit, or `dt` is not positive.

    Differentiable in all arguments, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> dx, score = jnp.array([[0.1, 0.2]]), jnp.array([[1.0, 0.0]])
      >>> print(diffusion.ito_log_density_increment(dx, 0.01, score, 0.0, 0.0, 2.0))
      [0.09]

    References:
      Skreta et al., 2025, arXiv:2412.17762 (Ito density estimator).
    """
    dx, dt, score, drift, div_drift, g2 = _check.floating(
        dx=dx, dt=dt, score=score, drift=drift, div_drift=div_drift, g2=g2
    )
    _check.same_shape(dx=dx, score=score)
    _check.positive(dt=dt)
    step, s, f = flat(dx), flat(score), flat_drift(drift, dx.shape)
    check_per_sample(step.shape[:-1], dt=dt, div_drift=div_drift, g2=g2)
    return inner(step, s) + (div_drift + inner(f - g2[..., None] / 2 * s, s)) * dt


def ode_log_density_increment(
    dx_dt: ArrayLike,
    score: ArrayLike,
    div_score: ArrayLike,
    drift: ArrayLike,
    div_drift: ArrayLike,
    g2: ArrayLike,
) -> Array:
    r"""Rate of log q along a smooth path, in units of the falling time.

    .. math:: \frac{d\log q(x)}{d\tau} = \langle u, s\rangle + \nabla\!\cdot\! f +
              \langle f, s\rangle - \tfrac12 g^2\bigl(\nabla\!\cdot\! s + |s|^2\bigr)

    It is exact for any velocity u; multiply it by the step, or integrate it with x.

    Args:
      dx_dt: velocity u as t falls, shape `(B, ...)`, or `(d,)` for one sample; on the
        probability flow it is :math:`-f + g^2 s / 2`.
      score: score of q, shaped as `dx_dt`.
      div_score: its divergence, a scalar or `(B,)`.
      drift: forward drift f; broadcasts to `dx_dt`.
      div_drift: its divergence, summed over the coordinates once.
      g2: squared diffusion coefficient, a scalar or `(B,)`.

    Returns:
      Rates of shape `(B,)`, or `()` for one sample.

    Raises:
      TypeError: an argument is not of a floating dtype.
      ValueError: the shapes do not fit.

    Differentiable in all arguments, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> u, score = jnp.array([[0.5, 0.0]]), jnp.array([[1.0, 0.0]])
      >>> print(diffusion.ode_log_density_increment(u, score, -1.0, 0.0, 0.0, 2.0))
      [0.5]

    References:
      Skreta et al., 2025, arXiv:2412.17762 (smooth density estimator).
    """
    dx_dt, score, div_score, drift, div_drift, g2 = _check.floating(
        dx_dt=dx_dt,
        score=score,
        div_score=div_score,
        drift=drift,
        div_drift=div_drift,
        g2=g2,
    )
    _check.same_shape(dx_dt=dx_dt, score=score)
    u, s, f = flat(dx_dt), flat(score), flat_drift(drift, dx_dt.shape)
    batch = u.shape[:-1]
    check_per_sample(batch, div_score=div_score, div_drift=div_drift, g2=g2)
    return inner(u + f, s) + div_drift - g2 / 2 * (div_score + inner(s, s))
