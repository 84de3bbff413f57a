"""The ADM U-Net of guided diffusion, as EDM trains it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv import _check
from jaxdiv.networks._unet import UNet, make_plan, positional
from jaxdiv.networks._unet_block import (
    UNIFORM,
    ZERO,
    GroupNorm,
    Init,
    Style,
    UNetConv,
    check_dtype,
    linear,
)
from jaxdiv.typing import Array


class DhariwalUNet(UNet):
    """ADM: the U-Net of EDM's ImageNet-64 model.

    The defaults are those of the original; with `label_dim=1000` at resolution 64 it
    has 295.9 million parameters. The embedding scales and shifts the activations, and
    attention has several heads.

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
      channels_per_head: channels of an attention head.
      dtype: dtype of the computation, such as `jnp.bfloat16`; None is that of the
        inputs. Parameters, moments of the norms, softmax, embedding and last layers
        are float32 whatever it is.
      remat: compute the insides of the blocks again in the backward pass instead of
        keeping them. XLA's CPU compiler undoes it (jax 0.10).
      rngs: flax's random streams, of which `params` makes the initial weights.

    Raises:
      ValueError: a size is out of range, the resolution cannot be halved so often, or
        the channels of a layer with attention are no multiple of `channels_per_head`.
      TypeError: `dtype` is not a floating dtype.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxdiv import networks
      >>> size = dict(model_channels=8, channel_mult=(1, 2), num_blocks=1)
      >>> heads = dict(channels_per_head=8)
      >>> net = networks.DhariwalUNet(8, 1, **size, **heads, rngs=nnx.Rngs(0))
      >>> forward = lambda x, noise: net(x, noise, features="encoder")
      >>> x, noise = jnp.ones((2, 8, 8, 1)), jnp.zeros(2)
      >>> out, features = jax.eval_shape(forward, x, noise)
      >>> print(out.shape, [level.shape for level in features])
      (2, 8, 8, 1) [(2, 8, 8, 8), (2, 4, 4, 16)]

    References:
      Dhariwal and Nichol, 2021, arXiv:2105.05233; Karras et al., 2022,
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
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        channels_per_head: int = 64,
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
        _check.in_range(1, closed=True, channels_per_head=channels_per_head)
        style = Style(
            embed=model_channels * channel_mult_emb,
            dropout=dropout,
            eps=1e-5,
            skip_scale=1.0,
            adaptive=True,
            resample_proj=False,
            head_channels=channels_per_head,
            init=UNIFORM,
            init_last=ZERO,
            init_qkv=UNIFORM,
            dtype=check_dtype(dtype),
        )
        self.model_channels = model_channels
        self._build_embedding(style, rngs)
        widths = [model_channels * mult for mult in channel_mult]
        plan = make_plan(
            img_resolution,
            widths[0],
            widths,
            num_blocks,
            attn_resolutions,
            decoder_attends=True,
        )
        self._build_blocks(plan, style, rngs)
        self.out_norm = GroupNorm(widths[0], style.eps)
        self.out_conv = UNetConv(widths[0], out_channels, 3, ZERO, rngs=rngs)

    def _build_embedding(self, style: Style, rngs: nnx.Rngs) -> None:
        channels, embed = self.model_channels, style.embed
        self.map_augment = (
            linear(self.augment_dim, channels, ZERO, bias=False, rngs=rngs)
            if self.augment_dim
            else None
        )
        self.map_layer0 = linear(channels, embed, style.init, rngs=rngs)
        self.map_layer1 = linear(embed, embed, style.init, rngs=rngs)
        normal = Init(nnx.initializers.normal(1.0))
        self.map_label = (
            linear(self.label_dim, embed, normal, bias=False, rngs=rngs)
            if self.label_dim
            else None
        )

    def _embed(
        self,
        c_noise: Array,
        class_labels: Array | None,
        augment_labels: Array | None,
    ) -> Array:
        c_noise = jnp.atleast_1d(c_noise)
        sines, cosines = positional(c_noise, self.model_channels, endpoint=False)
        e = jnp.concatenate([cosines, sines], axis=1)
        if self.map_augment is not None and augment_labels is not None:
            e = e + self.map_augment(augment_labels)
        e = self.map_layer1(jax.nn.silu(self.map_layer0(e)))
        if self.map_label is not None and class_labels is not None:
            e = e + self.map_label(class_labels)
        return jax.nn.silu(e)

    def _finish(self, h: Array) -> Array:
        return self.out_conv(jax.nn.silu(self.out_norm(h)))
