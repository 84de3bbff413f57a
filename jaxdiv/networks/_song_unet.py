"""The DDPM++ U-Net of score-based SDEs, as EDM trains it."""

import math
from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv import _check
from jaxdiv.networks._level import check_level
from jaxdiv.networks._unet_block import GroupNorm, UNetBlock, conv, xavier
from jaxdiv.typing import Array, ArrayLike, Key


def _positional(c_noise: Array, channels: int) -> Array:
    """Sines, then cosines of the noise level at frequencies from 1 to 1/10000."""
    half = channels // 2
    frequencies = (1 / 10_000) ** (jnp.arange(half, dtype=c_noise.dtype) / (half - 1))
    angles = c_noise[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


class _Spec(NamedTuple):
    """A block of the network, under its name in the original code."""

    name: str
    channels_in: int
    channels_out: int
    resample: str = ""
    attention: bool = False


def _plan(
    resolution: int,
    channels: int,
    widths: Sequence[int],
    num_blocks: int,
    attention: Sequence[int],
) -> tuple[tuple[_Spec, ...], tuple[_Spec, ...]]:
    """The blocks of encoder and decoder, in the order of the forward pass."""
    encoder, skips = [], [channels]
    sizes = [resolution >> level for level in range(len(widths))]
    for size, width in zip(sizes, widths, strict=True):
        if size != resolution:
            encoder.append(_Spec(f"{size}x{size}_down", channels, channels, "down"))
            skips.append(channels)
        for i in range(num_blocks):
            name = f"{size}x{size}_block{i}"
            encoder.append(_Spec(name, channels, width, "", size in attention))
            skips.append(channels := width)
    decoder = []
    for size, width in zip(reversed(sizes), reversed(widths), strict=True):
        if size == sizes[-1]:
            decoder.append(
                _Spec(f"{size}x{size}_in0", channels, channels, "", attention=True)
            )
            decoder.append(_Spec(f"{size}x{size}_in1", channels, channels))
        else:
            decoder.append(_Spec(f"{size}x{size}_up", channels, channels, "up"))
        for i in range(num_blocks + 1):
            attends = i == num_blocks and size in attention
            joined = channels + skips.pop()
            decoder.append(_Spec(f"{size}x{size}_block{i}", joined, width, "", attends))
            channels = width
    return tuple(encoder), tuple(decoder)


class SongUNet(nnx.Module):
    """DDPM++: the U-Net of EDM's CIFAR-10, FFHQ and AFHQ models.

    The defaults are those of the original; `channel_mult=(2, 2, 2)`, `dropout=0.13` and
    `augment_dim=9` make the CIFAR-10 model of 55.7 million parameters. With 32 or
    fewer channels it trains on a CPU.

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
      rngs: flax's random streams, of which `params` makes the initial weights.

    Raises:
      ValueError: a size is out of range, or the resolution cannot be halved so often.

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
        rngs: nnx.Rngs,
    ) -> None:
        out_channels = in_channels if out_channels is None else out_channels
        _check.in_range(1, closed=True, in_channels=in_channels)
        _check.in_range(1, closed=True, out_channels=out_channels)
        _check.in_range(1, closed=True, num_blocks=num_blocks)
        _check.in_range(4, closed=True, model_channels=model_channels)
        _check.in_range(0.0, 0.99, closed=True, dropout=dropout)
        if not channel_mult or img_resolution % 2 ** (len(channel_mult) - 1):
            raise ValueError(
                f"img_resolution is {img_resolution}; expected a multiple of "
                f"2^{len(channel_mult) - 1} for channel_mult {tuple(channel_mult)}."
            )
        self.shape = (img_resolution, img_resolution, in_channels)
        self.label_dim = label_dim
        self.augment_dim = augment_dim
        self.model_channels = model_channels
        embed = model_channels * channel_mult_emb
        self._build_embedding(embed, rngs)
        widths = [model_channels * mult for mult in channel_mult]
        self._enc_plan, self._dec_plan = _plan(
            img_resolution, model_channels, widths, num_blocks, attn_resolutions
        )

        def blocks(plan: tuple[_Spec, ...]) -> dict[str, nnx.Module]:
            return {
                spec.name: UNetBlock(
                    spec.channels_in,
                    spec.channels_out,
                    embed,
                    resample=spec.resample,
                    attention=spec.attention,
                    dropout=dropout,
                    rngs=rngs,
                )
                for spec in plan
            }

        top = f"{img_resolution}x{img_resolution}"
        first = conv(in_channels, model_channels, 3, rngs=rngs)
        self.enc = nnx.Dict({f"{top}_conv": first, **blocks(self._enc_plan)})
        self.dec = nnx.Dict(
            {
                **blocks(self._dec_plan),
                f"{top}_aux_norm": GroupNorm(widths[0]),
                f"{top}_aux_conv": conv(
                    widths[0], out_channels, 3, gain=1e-5, rngs=rngs
                ),
            }
        )

    def _build_embedding(self, embed: int, rngs: nnx.Rngs) -> None:
        def linear(size_in: int, size_out: int, *, bias: bool = True) -> nnx.Linear:
            return nnx.Linear(
                size_in, size_out, use_bias=bias, kernel_init=xavier(), rngs=rngs
            )

        channels = self.model_channels
        self.map_label = linear(self.label_dim, channels) if self.label_dim else None
        self.map_augment = (
            linear(self.augment_dim, channels, bias=False) if self.augment_dim else None
        )
        self.map_layer0 = linear(channels, embed)
        self.map_layer1 = linear(embed, embed)

    def _embed(
        self,
        c_noise: Array,
        class_labels: Array | None,
        augment_labels: Array | None,
    ) -> Array:
        """The embedding of all conditions, shape `(B or 1, embed)`."""
        e = _positional(jnp.atleast_1d(c_noise), self.model_channels)
        if self.map_label is not None:
            if class_labels is None:
                class_labels = jnp.zeros((1, self.label_dim), e.dtype)
            e = e + self.map_label(class_labels * math.sqrt(self.label_dim))
        if self.map_augment is not None and augment_labels is not None:
            e = e + self.map_augment(augment_labels)
        return jax.nn.silu(self.map_layer1(jax.nn.silu(self.map_layer0(e))))

    def __call__(
        self,
        x: ArrayLike,
        c_noise: ArrayLike,
        class_labels: Array | None = None,
        augment_labels: Array | None = None,
        *,
        key: Key | None = None,
        features: bool = False,
    ) -> Any:
        """The network's output.

        Args:
          x: images, shape `(B, R, R, in_channels)`.
          c_noise: what the network sees of the noise level, a scalar or `(B,)`.
          class_labels: one-hot classes, `(B, label_dim)`; None is zeros.
          augment_labels: `(B, augment_dim)`; None is zeros.
          key: key of the dropout; None drops nothing.
          features: return the encoder's output too.

        Returns:
          Array `(B, R, R, out_channels)`, or with `features` the pair of it and what
          the encoder has made of the image, at the lowest resolution.

        Raises:
          ValueError: a shape does not fit, or there are labels for a network without.
        """
        x, c_noise = _check.floating(x=x, c_noise=c_noise)
        check_level(x, c_noise=c_noise)
        self._check_call(
            x,
            class_labels=(class_labels, self.label_dim),
            augment_labels=(augment_labels, self.augment_dim),
        )
        embedding = self._embed(c_noise, class_labels, augment_labels)

        keys = (None if key is None else jax.random.fold_in(key, i) for i in count())
        enc: Any = self.enc
        dec: Any = self.dec
        top = f"{self.shape[0]}x{self.shape[0]}"
        h = enc[f"{top}_conv"](x)
        skips = [h]
        for spec in self._enc_plan:
            h = enc[spec.name](h, embedding, next(keys))
            skips.append(h)
        bottleneck = h
        for spec in self._dec_plan:
            if h.shape[-1] != spec.channels_in:
                h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = dec[spec.name](h, embedding, next(keys))
        out = dec[f"{top}_aux_conv"](jax.nn.silu(dec[f"{top}_aux_norm"](h)))
        return (out, bottleneck) if features else out

    def _check_call(self, x: Array, **labels: tuple[Array | None, int]) -> None:
        if x.shape[1:] != self.shape:
            raise ValueError(f"x has shape {x.shape}; expected (B, *{self.shape}).")
        for name, (label, size) in labels.items():
            if label is not None and (label.ndim != 2 or label.shape[1] != size):
                raise ValueError(
                    f"{name} has shape {label.shape}; expected (B, {size})"
                    + (" or None." if size else ": the network takes none.")
                )
