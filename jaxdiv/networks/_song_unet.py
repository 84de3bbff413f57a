"""The U-Nets of score-based SDEs, DDPM++ and NCSN++, as EDM trains them."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv import _check
from jaxdiv.networks._unet import UNet, make_plan, positional
from jaxdiv.networks._unet_block import (
    GroupNorm,
    Style,
    UNetConv,
    check_dtype,
    check_filter,
    linear,
)
from jaxdiv.typing import Array

_FOURIER_SCALE = 16.0


class _Fourier(nnx.Module):
    """Sines and cosines at random frequencies, which are drawn once and for all."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs) -> None:
        freqs = jax.random.normal(rngs.params(), (channels // 2,))
        self.freqs = nnx.Variable(_FOURIER_SCALE * freqs)

    def __call__(self, c_noise: Array) -> tuple[Array, Array]:
        freqs = jax.lax.stop_gradient(self.freqs.get_value())
        angles = c_noise[:, None] * (2 * math.pi * freqs).astype(c_noise.dtype)
        return jnp.sin(angles), jnp.cos(angles)


class SongUNet(UNet):
    """DDPM++ and NCSN++: the U-Nets of EDM's CIFAR-10, FFHQ and AFHQ models.

    The defaults are those of the original; `channel_mult=(2, 2, 2)`, `dropout=0.13` and
    `augment_dim=9` make the CIFAR-10 model DDPM++ of 55.7 million parameters, and with
    `embedding_type="fourier"`, `channel_mult_noise=2`, `encoder_type="residual"` and
    `resample_filter=(1, 3, 3, 1)` it is NCSN++ of 56.4 million. With 32 or fewer
    channels it trains on a CPU.

    The frequencies of a Fourier embedding are no parameters: they are drawn from `rngs`
    and stay. To go on with saved parameters, build the network with the same seed, or
    keep the frequencies with them, as `jaxdiv.diffusion.load_edm_safetensors` does.

    Args:
      img_resolution: height and width of the images.
      in_channels: channels of the images.
      out_channels: channels of the output; None is `in_channels`.
      label_dim: number of classes; 0 is unconditional.
      augment_dim: length of the augmentation labels; 0 is without.
      model_channels: channels at the first resolution, before the multiplier.
      channel_mult: multiplier of the channels at each resolution; each resolution is
        half the one before.
      channel_mult_emb: width of the embedding, in `model_channels`.
      num_blocks: blocks at each resolution; the decoder has one more.
      attn_resolutions: resolutions with attention.
      dropout: rate at which activations are dropped when a key is given.
      embedding_type: of the noise level, "positional" or "fourier".
      channel_mult_noise: width of the noise level's embedding, in `model_channels`.
      encoder_type: "standard", or "residual" to bring the image in again at each
        resolution.
      resample_filter: taps along each axis with which the resolution is changed.
      dtype: dtype of the computation, such as `jnp.bfloat16`; None is that of the
        inputs. Parameters, moments of the norms, softmax, embedding and last layers
        are float32 whatever it is.
      remat: compute the insides of the blocks again in the backward pass instead of
        keeping them. XLA's CPU compiler undoes it (jax 0.10).
      rngs: flax's random streams, of which `params` makes the initial weights.

    Raises:
      ValueError: a size is out of range, a name is unknown, or the resolution cannot
        be halved so often.
      TypeError: `dtype` is not a floating dtype.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxdiv import networks
      >>> size = dict(model_channels=8, channel_mult=(1, 2), num_blocks=1)
      >>> net = networks.SongUNet(8, 1, **size, rngs=nnx.Rngs(0))
      >>> forward = jax.jit(lambda x, noise: net(x, noise, features=True))
      >>> out, features = forward(jnp.ones((2, 8, 8, 1)), jnp.zeros(2))
      >>> print(out.shape, features.shape)
      (2, 8, 8, 1) (2, 4, 4, 16)

    References:
      Song et al., 2021, arXiv:2011.13456, appendix H; Karras et al., 2022,
      arXiv:2206.00364, appendix F and the authors' code.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int | None = None,
        *,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
        dtype: Any = None,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            img_resolution,
            in_channels,
            label_dim=label_dim,
            augment_dim=augment_dim,
            model_channels=model_channels,
            channel_mult=channel_mult,
            channel_mult_emb=channel_mult_emb,
            num_blocks=num_blocks,
            dropout=dropout,
            remat=remat,
        )
        out_channels = in_channels if out_channels is None else out_channels
        _check.in_range(1, closed=True, out_channels=out_channels)
        _check.in_range(1, closed=True, channel_mult_noise=channel_mult_noise)
        _check.one_of("embedding_type", embedding_type, ["fourier", "positional"])
        _check.one_of("encoder_type", encoder_type, ["residual", "standard"])
        style = Style(
            embed=model_channels * channel_mult_emb,
            dropout=dropout,
            taps=check_filter(resample_filter),
            dtype=check_dtype(dtype),
        )
        self.noise_channels = model_channels * channel_mult_noise
        self._build_embedding(embedding_type, style, rngs)
        widths = [model_channels * mult for mult in channel_mult]
        plan = make_plan(
            img_resolution,
            model_channels,
            widths,
            num_blocks,
            attn_resolutions,
            decoder_attends=False,
            image_again=encoder_type == "residual",
        )
        self._build_blocks(plan, style, rngs)
        top = f"{img_resolution}x{img_resolution}"
        last = UNetConv(widths[0], out_channels, 3, style.init_last, rngs=rngs)
        self.dec[f"{top}_aux_norm"] = GroupNorm(widths[0], style.eps)
        self.dec[f"{top}_aux_conv"] = last

    def _build_embedding(
        self, embedding_type: str, style: Style, rngs: nnx.Rngs
    ) -> None:
        channels, init = self.noise_channels, style.init
        self.map_label = (
            linear(self.label_dim, channels, init, rngs=rngs)
            if self.label_dim
            else None
        )
        self.map_augment = (
            linear(self.augment_dim, channels, init, bias=False, rngs=rngs)
            if self.augment_dim
            else None
        )
        self.map_layer0 = linear(channels, style.embed, init, rngs=rngs)
        self.map_layer1 = linear(style.embed, style.embed, init, rngs=rngs)
        fourier = embedding_type == "fourier"
        self.map_noise = _Fourier(channels, rngs=rngs) if fourier else None

    def _embed(
        self,
        c_noise: Array,
        class_labels: Array | None,
        augment_labels: Array | None,
    ) -> Array:
        c_noise = jnp.atleast_1d(c_noise)
        if self.map_noise is None:
            waves = positional(c_noise, self.noise_channels, endpoint=True)
        else:
            waves = self.map_noise(c_noise)
        e = jnp.concatenate(waves, axis=1)
        if self.map_label is not None:
            if class_labels is None:
                class_labels = jnp.zeros((1, self.label_dim), e.dtype)
            e = e + self.map_label(class_labels * math.sqrt(self.label_dim))
        if self.map_augment is not None and augment_labels is not None:
            e = e + self.map_augment(augment_labels)
        return jax.nn.silu(self.map_layer1(jax.nn.silu(self.map_layer0(e))))

    def _finish(self, h: Array) -> Array:
        dec: Any = self.dec
        top = f"{self.shape[0]}x{self.shape[0]}"
        return dec[f"{top}_aux_conv"](jax.nn.silu(dec[f"{top}_aux_norm"](h)))
