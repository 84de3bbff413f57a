"""Preconditioning of a denoiser, and the loss that trains it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.diffusion._noise import NoiseLaw, add_noise, edm
from jaxdiv.typing import Array, ArrayLike, DenoiseFn, Key


class Preconditioning(NamedTuple):
    r"""Scales of :math:`D(x) = c_{skip} x + c_{out} F(c_{in} x, c_{noise})`.

    Attributes:
      c_skip: weight of the noisy input in the denoised output.
      c_out: scale of the network's output.
      c_in: scale of the network's input; its variance becomes 1.
      c_noise: what the network sees of the noise level.
      weight: weight of the squared error of D, 1 / c_out^2.
    """

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array
    weight: Array


def precondition(sigma: ArrayLike, sigma_data: float = 0.5) -> Preconditioning:
    r"""EDM's scales, with which the network's input and target have variance 1.

    .. math::
      c_{skip} = \frac{\sigma_d^2}{\sigma^2 + \sigma_d^2}, \quad
      c_{out} = \frac{\sigma\sigma_d}{\sqrt{\sigma^2 + \sigma_d^2}}, \quad
      c_{in} = \frac{1}{\sqrt{\sigma^2 + \sigma_d^2}}, \quad
      c_{noise} = \tfrac14\log\sigma

    Args:
      sigma: noise levels, any shape.
      sigma_data: standard deviation of the data.

    Returns:
      `Preconditioning` of arrays shaped as `sigma`; NaN where a traced sigma is not
      positive.

    Raises:
      TypeError: `sigma` is not of a floating dtype.
      ValueError: a concrete `sigma`, or `sigma_data`, is not positive.

    Differentiable in `sigma`, in every mode and order.

    Example:
      >>> from jaxdiv import diffusion
      >>> scales = diffusion.precondition(0.5, sigma_data=0.5)
      >>> print(f"{scales.c_skip:.4f} {scales.c_out:.4f} {scales.weight:.1f}")
      0.5000 0.3536 8.0

    References:
      Karras et al., 2022, arXiv:2206.00364, table 1 and appendix B.6.
    """
    (sigma,) = _check.floating(sigma=sigma)
    _check.positive(sigma=sigma, sigma_data=sigma_data)
    sigma = jnp.where(sigma > 0, sigma, jnp.nan)
    c_in = jax.lax.rsqrt(sigma**2 + sigma_data**2)
    c_out = sigma * sigma_data * c_in
    return Preconditioning(
        c_skip=(sigma_data * c_in) ** 2,
        c_out=c_out,
        c_in=c_in,
        c_noise=jnp.log(sigma) / 4,
        weight=1 / c_out**2,
    )


def dsm_loss(
    key: Key,
    denoise: DenoiseFn,
    x0: ArrayLike,
    t: ArrayLike,
    *,
    law: NoiseLaw | None = None,
    sigma_data: float = 0.5,
) -> Array:
    r"""Denoising score matching with EDM's weight, one value per sample.

    .. math:: \frac{1}{d\,c_{out}^2(\sigma_t/\alpha_t)}
              \left\|D(\alpha_t x_0 + \sigma_t\varepsilon, t) - x_0\right\|^2

    The minimiser over all functions is :math:`D(x, t) = E[x_0 | x_t = x]`, whatever
    the weight; with this one a preconditioned network sees a loss near 1 at every t.

    Args:
      key: key of the noise.
      denoise: function of `(x, t)`, the noised samples and their times, that returns
        an array shaped as x.
      x0: clean samples, shape `(B, ...)`.
      t: times, shape `(B,)` or a scalar.
      law: noise law; None is `edm()`.
      sigma_data: standard deviation of the data, of which only the weight knows.

    Returns:
      Array of shape `(B,)`: the squared error averaged over the d data entries.

    Raises:
      TypeError: `x0` or `t` is not of a floating dtype.
      ValueError: the shapes of `t` or of what `denoise` returns do not fit `x0`, or
        a concrete `t` is not positive.

    Differentiable in `x0`, in `t`, and in all that `denoise` closes over.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> perfect = lambda x, t: jnp.ones_like(x)
      >>> x0 = jnp.ones((2, 3))
      >>> print(diffusion.dsm_loss(jax.random.key(0), perfect, x0, jnp.array(0.3)))
      [0. 0.]

    References:
      Vincent, 2011; Karras et al., 2022, arXiv:2206.00364, eqs. (2) and (8).
    """
    x0, t = _check.floating(x0=x0, t=t)
    law = edm() if law is None else law
    noised = add_noise(law, x0, t, jax.random.normal(key, x0.shape, x0.dtype))
    return dsm_error(law, denoise(noised, t), x0, t, sigma_data)


def dsm_error(
    law: NoiseLaw, denoised: Array, x0: Array, t: Array, sigma_data: float
) -> Array:
    """The loss of samples that have been denoised already."""
    _check.same_shape(denoised=denoised, x0=x0)
    weight = precondition(law.sigma(t) / law.alpha(t), sigma_data).weight
    return weight * jnp.mean((denoised - x0) ** 2, range(1, x0.ndim))
