r"""Noise laws :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon`."""

import math
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


def vp(
    beta_min: float = 0.1,
    beta_max: float = 20.0,
    *,
    t_min: float = 1e-5,
    t_max: float = 1.0,
) -> NoiseLaw:
    r"""The variance-preserving law: data of variance 1 keep it.

    .. math:: \log\alpha_t = -\tfrac12\beta_0 t - \tfrac14(\beta_1 - \beta_0)t^2,
              \qquad \sigma_t^2 = 1 - \alpha_t^2, \qquad
              g^2(t) = \beta_0 + (\beta_1 - \beta_0) t

    Args:
      beta_min: rate of noise at t = 0.
      beta_max: rate of noise at t = 1.
      t_min: smallest time; the score grows as 1 / sigma towards 0.
      t_max: largest time.

    Returns:
      The `NoiseLaw`.

    Raises:
      ValueError: not 0 < t_min < t_max, or not 0 < beta_min <= beta_max.

    Example:
      >>> from jaxdiv import diffusion
      >>> law = diffusion.vp()
      >>> print(f"{law.alpha(0.5):.6f} {law.sigma(0.5):.6f} {law.g2(0.5):.2f}")
      0.281183 0.959654 10.05

    References:
      Song et al., 2021, arXiv:2011.13456, eq. (32).
    """
    _check.positive(t_min=t_min, beta_min=beta_min)
    _check.in_range(t_min, t_max=t_max)
    _check.in_range(beta_min, closed=True, beta_max=beta_max)
    slope = beta_max - beta_min

    def log_alpha(t: ArrayLike) -> Array:
        t = jnp.asarray(t)
        return -t * (beta_min / 2 + slope / 4 * t)

    def rate(t: ArrayLike) -> Array:
        return beta_min + slope * jnp.asarray(t)

    return NoiseLaw(
        alpha=lambda t: jnp.exp(log_alpha(t)),
        sigma=lambda t: jnp.sqrt(-jnp.expm1(2 * log_alpha(t))),
        dlog_alpha=lambda t: -rate(t) / 2,
        g2=rate,
        t_min=t_min,
        t_max=t_max,
    )


def ve(
    sigma_min: float = 0.02,
    sigma_max: float = 100.0,
    *,
    t_min: float = 1e-5,
    t_max: float = 1.0,
) -> NoiseLaw:
    r"""The variance-exploding law, whose noise grows geometrically.

    .. math:: x_t = x_0 + \sigma_t\varepsilon, \qquad
              \sigma_t = \sigma_{min}(\sigma_{max}/\sigma_{min})^t, \qquad
              g^2(t) = 2\sigma_t^2\log(\sigma_{max}/\sigma_{min})

    Args:
      sigma_min: noise level at t = 0.
      sigma_max: noise level at t = 1.
      t_min: smallest time.
      t_max: largest time.

    Returns:
      The `NoiseLaw`.

    Raises:
      ValueError: not 0 < t_min < t_max, or not 0 < sigma_min < sigma_max.

    Example:
      >>> from jaxdiv import diffusion
      >>> law = diffusion.ve()
      >>> print(f"{law.sigma(0.5):.4f} {law.g2(0.5):.3f}")
      1.4142 34.069

    References:
      Song et al., 2021, arXiv:2011.13456, eq. (30).
    """
    _check.positive(t_min=t_min, sigma_min=sigma_min)
    _check.in_range(t_min, t_max=t_max)
    _check.in_range(sigma_min, sigma_max=sigma_max)
    growth = math.log(sigma_max / sigma_min)

    def sigma(t: ArrayLike) -> Array:
        return sigma_min * jnp.exp(growth * jnp.asarray(t))

    return NoiseLaw(
        alpha=jnp.ones_like,
        sigma=sigma,
        dlog_alpha=jnp.zeros_like,
        g2=lambda t: 2 * growth * sigma(t) ** 2,
        t_min=t_min,
        t_max=t_max,
    )


def flow(t_min: float = 1e-3, t_max: float = 0.999) -> NoiseLaw:
    r"""The straight line from data to noise of flow matching.

    .. math:: x_t = (1 - t)\,x_0 + t\,\varepsilon, \qquad
              g^2(t) = \frac{2t}{1 - t}

    At t = 1 the score says nothing of the data and g is infinite: t_max stays below.

    Args:
      t_min: smallest time.
      t_max: largest time.

    Returns:
      The `NoiseLaw`.

    Raises:
      ValueError: not 0 < t_min < t_max < 1.

    Example:
      >>> from jaxdiv import diffusion
      >>> law = diffusion.flow()
      >>> print(law.alpha(0.75), law.sigma(0.75), law.g2(0.75))
      0.25 0.75 6.0

    References:
      Lipman et al., 2023, arXiv:2210.02747, eq. (20).
    """
    _check.positive(t_min=t_min)
    _check.in_range(t_min, 1.0, t_max=t_max)
    return NoiseLaw(
        alpha=lambda t: 1 - jnp.asarray(t),
        sigma=jnp.asarray,
        dlog_alpha=lambda t: -1 / (1 - jnp.asarray(t)),
        g2=lambda t: 2 * jnp.asarray(t) / (1 - jnp.asarray(t)),
        t_min=t_min,
        t_max=t_max,
    )


def _twice(t: Array) -> Array:
    return 2 * t


_KINDS = ("denoised", "eps", "score", "velocity")


def convert(
    pred: ArrayLike, from_: str, to: str, x: ArrayLike, t: ArrayLike, law: NoiseLaw
) -> Array:
    r"""One prediction of a network in terms of another.

    .. math::
      D = E[x_0 | x_t], \qquad s = \frac{\alpha D - x}{\sigma^2}, \qquad
      \hat\varepsilon = -\sigma s, \qquad
      v = \alpha' D + \sigma'\hat\varepsilon = (\log\alpha)' x - \tfrac12 g^2 s

    The velocity is that of the probability flow; for `flow()` it is
    :math:`E[\varepsilon - x_0 | x_t] = (x - D)/t`.

    Args:
      pred: the prediction at `x`, shaped as it.
      from_: what it is: `"denoised"`, `"eps"`, `"score"` or `"velocity"`.
      to: what is wanted, from the same list.
      x: noised data, shape `(B, ...)`.
      t: times, a scalar or `(B,)`.
      law: noise law.

    Returns:
      Array shaped as `x`; `pred` itself where both kinds are one.

    Raises:
      TypeError: an array is not of a floating dtype.
      ValueError: an unknown kind, or the shapes do not fit.

    Differentiable in `pred`, `x` and `t`, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> x, denoised = jnp.array([[2.0]]), jnp.array([[1.0]])
      >>> args = x, jnp.array([0.5]), diffusion.flow()
      >>> print(diffusion.convert(denoised, "denoised", "velocity", *args))
      [[2.]]

    References:
      Karras et al., 2022, arXiv:2206.00364, eq. (3); Lipman et al., 2023,
      arXiv:2210.02747.
    """
    pred, x, t = _check.floating(pred=pred, x=x, t=t)
    _check.one_of("from_", from_, _KINDS)
    _check.one_of("to", to, _KINDS)
    _check.same_shape(pred=pred, x=x)
    if from_ == to:
        return pred
    alpha, sigma, drift, g2 = (
        over_data(f(t), x) for f in (law.alpha, law.sigma, law.dlog_alpha, law.g2)
    )
    score = {
        "denoised": lambda: (alpha * pred - x) / sigma**2,
        "eps": lambda: -pred / sigma,
        "score": lambda: pred,
        "velocity": lambda: 2 * (drift * x - pred) / g2,
    }[from_]()
    return {
        "denoised": lambda: (x + sigma**2 * score) / alpha,
        "eps": lambda: -sigma * score,
        "score": lambda: score,
        "velocity": lambda: drift * x - g2 * score / 2,
    }[to]()


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
