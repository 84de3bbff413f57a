"""EDM's preconditioning around any network."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxdiv import _check
from jaxdiv.diffusion import precondition
from jaxdiv.networks._level import check_level
from jaxdiv.typing import Array, ArrayLike


class EDMPrecond(nnx.Module):
    r"""A denoiser whose network sees inputs and targets of variance 1.

    .. math:: D(x, \sigma) = c_{skip}\,x + c_{out}\,F(c_{in} x,\, c_{noise})

    Args:
      net: F, a module called as `net(x, c_noise)`, and with `class_labels`,
        `augment_labels` and other options by keyword where they are given.
      sigma_data: standard deviation of the data.

    Raises:
      ValueError: `sigma_data` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxdiv import networks
      >>> net = networks.ScoreMLP(2, width=16, depth=1, rngs=nnx.Rngs(0))
      >>> denoise = networks.EDMPrecond(net, sigma_data=1.0)
      >>> print(denoise(jnp.ones((1, 2)), jnp.array(1.0)).round(4))  # F starts at 0
      [[0.5 0.5]]

    References:
      Karras et al., 2022, arXiv:2206.00364, eq. (7) and table 1.
    """

    def __init__(self, net: nnx.Module, sigma_data: float = 0.5) -> None:
        _check.positive(sigma_data=sigma_data)
        self.net = net
        self.sigma_data = sigma_data

    def __call__(
        self,
        x: ArrayLike,
        sigma: ArrayLike,
        class_labels: Array | None = None,
        augment_labels: Array | None = None,
        *,
        features: bool | str = False,
        **options: Any,
    ) -> Any:
        """Denoises.

        Args:
          x: noised data, shape `(B, ...)`.
          sigma: noise level, a scalar or `(B,)`.
          class_labels: one-hot classes `(B, classes)`, for a network that takes them.
          augment_labels: description of an augmentation, likewise.
          features: return the network's inner features too; the network may know
            several, by name.
          **options: of the network, such as `key` for its dropout.

        Returns:
          The denoised data, shaped as `x`, or with `features` the pair of them and
          the network's features.
        """
        x, sigma = _check.floating(x=x, sigma=sigma)
        check_level(x, sigma=sigma)
        labels = {"class_labels": class_labels, "augment_labels": augment_labels}
        options |= {name: v for name, v in labels.items() if v is not None}
        if features:
            options["features"] = features
        scales = precondition(sigma, self.sigma_data)
        c_skip, c_out, c_in = (
            jnp.reshape(scale, scale.shape + (1,) * (x.ndim - 1) * scale.ndim)
            for scale in (scales.c_skip, scales.c_out, scales.c_in)
        )
        out = self.net(c_in * x, scales.c_noise, **options)
        if features:
            return c_skip * x + c_out * out[0], out[1]
        return c_skip * x + c_out * out
