r"""Noise laws :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon`."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.typing import Array, ArrayLike


class NoiseLaw(NamedTuple):
    r"""A Gaussian noising of data, as functions of time.

    The forward equation is :math:`dx = (\log\alpha)'\,x\,dt + g\,dW` with
    :math:`g^2 = (\sigma^2)' - 2(\log\alpha)'\sigma^2`.

    Attributes:
      alpha: scale of the data, a function of t.
      sigma: standard deviation of the noise, a function of t.
      dlog_alpha: derivative of log alpha in t.
      g2: squared diffusion coefficient.
      t_min: smallest time that samplers and losses use.
      t_max: largest time; there the law is taken for pure noise.
    """

    alpha: Callable[[Array], Array]
    sigma: Callable[[Array], Array]
    dlog_alpha: Callable[[Array], Array]
    g2: Callable[[Array], Array]
    t_min: float
    t_max: float


def edm(t_min: float = 0.002, t_max: float = 80.0) -> NoiseLaw:
    r"""The law of EDM, whose time is the noise level itself.

    .. math:: x_t = x_0 + t\,\varepsilon, \qquad g^2(t) = 2t

    Args:
      t_min: smallest noise level, in units of the data.
      t_max: largest noise level.

    Returns:
      The `NoiseLaw`.

    Raises:
      ValueError: not 0 < t_min < t_max.

    Example:
      >>> from jaxdiv import diffusion
      >>> law = diffusion.edm()
      >>> print(law.sigma(3.0), law.g2(3.0), law.t_max)
      3.0 6.0 80.0

    References:
      Karras et al., 2022, arXiv:2206.00364, table 1.
    """
    _check.positive(t_min=t_min)
    _check.in_range(t_min, t_max=t_max)
    return NoiseLaw(jnp.ones_like, jnp.asarray, jnp.zeros_like, _twice, t_min, t_max)


def _twice(t: Array) -> Array:
    return 2 * t


def over_data(t: Array, x: Array) -> Array:
    """`t`, a scalar or one value per sample, shaped to broadcast against `x`."""
    if t.ndim > 1 or (t.ndim == 1 and t.shape != x.shape[:1]):
        raise ValueError(
            f"t has shape {t.shape}; expected a scalar or one value for each of the "
            f"samples of shape {x.shape}."
        )
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))


def add_noise(law: NoiseLaw, x0: Array, t: Array, noise: Array) -> Array:
    """The noised samples at time t."""
    return over_data(law.alpha(t), x0) * x0 + over_data(law.sigma(t), x0) * noise


def spaced_time(law: NoiseLaw, u: ArrayLike, rho: float) -> Array:
    """Time at the fraction u of the way from t_min to t_max, uniform in t^(1/rho)."""
    low, high = law.t_min ** (1 / rho), law.t_max ** (1 / rho)
    return (low + u * (high - low)) ** rho
