"""What EDM's U-Nets have in common: the order of their blocks, and the way through."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv import _check
from jaxdiv.networks._level import check_level
from jaxdiv.networks._unet_block import DownConv, Style, UNetBlock, UNetConv
from jaxdiv.typing import Array, ArrayLike, Key

_JOINED = 0.5**0.5  # keeps the variance of a sum of two


def positional(c_noise: Array, channels: int, *, endpoint: bool) -> tuple[Array, Array]:
    """Sines and cosines of the noise level at frequencies from 1 to 1/10000.

    With `endpoint` the last frequency is 1/10000, else the one after it would be.
    """
    half = channels // 2
    exponents = jnp.arange(half, dtype=c_noise.dtype) / (half - endpoint)
    angles = c_noise[:, None] * (1 / 10_000) ** exponents
    return jnp.sin(angles), jnp.cos(angles)


class Spec(NamedTuple):
    """A block of the network, under its name in the original code.

    `image` names a convolution that brings the image in again after the block.
    """

    name: str
    channels_in: int
    channels_out: int
    resample: str = ""
    attention: bool = False
    image: str = ""


class Plan(NamedTuple):
    """The blocks of encoder and decoder, in the order of the forward pass.

    Attributes:
      channels: of the first convolution.
      encoder: blocks down to the lowest resolution.
      decoder: blocks up to the highest.
      level_ends: which of the skips are the last of their resolution.
    """

    channels: int
    encoder: tuple[Spec, ...]
    decoder: tuple[Spec, ...]
    level_ends: slice


def make_plan(
    resolution: int,
    channels: int,
    widths: Sequence[int],
    num_blocks: int,
    attention: Sequence[int],
    *,
    decoder_attends: bool,
    image_again: bool = False,
) -> Plan:
    """The plan of a network with these widths, from the highest resolution down.

    With `decoder_attends` every block of the decoder at the resolutions `attention`
    attends, else the last there; with `image_again` the image joins at every halving.
    """
    first, encoder, skips = channels, [], [channels]
    sizes = [resolution >> level for level in range(len(widths))]
    for size, width in zip(sizes, widths, strict=True):
        if size != resolution:
            image = f"{size}x{size}_aux_residual" if image_again else ""
            down = Spec(f"{size}x{size}_down", channels, channels, "down", image=image)
            encoder.append(down)
            skips.append(channels)
        for i in range(num_blocks):
            name = f"{size}x{size}_block{i}"
            encoder.append(Spec(name, channels, width, "", size in attention))
            skips.append(channels := width)
    decoder = []
    for size, width in zip(reversed(sizes), reversed(widths), strict=True):
        if size == sizes[-1]:
            decoder.append(
                Spec(f"{size}x{size}_in0", channels, channels, attention=True)
            )
            decoder.append(Spec(f"{size}x{size}_in1", channels, channels))
        else:
            decoder.append(Spec(f"{size}x{size}_up", channels, channels, "up"))
        for i in range(num_blocks + 1):
            attends = size in attention and (decoder_attends or i == num_blocks)
            joined = channels + skips.pop()
            decoder.append(Spec(f"{size}x{size}_block{i}", joined, width, "", attends))
            channels = width
    ends = slice(num_blocks, None, num_blocks + 1)
    return Plan(first, tuple(encoder), tuple(decoder), ends)


class UNet(nnx.Module):
    """The way through; a subclass adds the embedding and the last layers."""

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        *,
        label_dim: int,
        augment_dim: int,
        model_channels: int,
        channel_mult: Sequence[int],
        channel_mult_emb: int,
        num_blocks: int,
        dropout: float,
        remat: bool,
    ) -> None:
        _check.in_range(1, closed=True, in_channels=in_channels)
        _check.in_range(1, closed=True, num_blocks=num_blocks)
        _check.in_range(1, closed=True, channel_mult_emb=channel_mult_emb)
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
        self.remat = remat

    def _build_blocks(self, plan: Plan, style: Style, rngs: nnx.Rngs) -> None:
        """Sets `enc` and `dec`, whose entries are named as in the original code."""
        options: Any = {"dtype": style.dtype, "rngs": rngs}
        resolution, _, channels = self.shape
        self._plan = plan
        self._first = f"{resolution}x{resolution}_conv"
        first = UNetConv(channels, plan.channels, 3, style.init, **options)
        layers: list[dict[str, nnx.Module]] = [{self._first: first}, {}]
        for found, specs in zip(layers, (plan.encoder, plan.decoder), strict=True):
            for spec in specs:
                found[spec.name] = UNetBlock(
                    spec.channels_in,
                    spec.channels_out,
                    style,
                    resample=spec.resample,
                    attention=spec.attention,
                    rngs=rngs,
                )
                if spec.image:
                    width = spec.channels_out
                    found[spec.image] = DownConv(
                        channels, width, 3, style.init, taps=style.taps, **options
                    )
                    channels = width
        self.enc, self.dec = (nnx.Dict(found) for found in layers)

    def _embed(
        self,
        c_noise: Array,
        class_labels: Array | None,
        augment_labels: Array | None,
    ) -> Array:
        """The embedding of all conditions, shape `(B or 1, embed)`."""
        raise NotImplementedError

    def _finish(self, h: Array) -> Array:
        """The output, from what the decoder's last block gives."""
        raise NotImplementedError

    def __call__(
        self,
        x: ArrayLike,
        c_noise: ArrayLike,
        class_labels: Array | None = None,
        augment_labels: Array | None = None,
        *,
        key: Key | None = None,
        features: bool | str = False,
    ) -> Any:
        """The network's output.

        Args:
          x: images, shape `(B, R, R, in_channels)`.
          c_noise: what the network sees of the noise level, a scalar or `(B,)`.
          class_labels: one-hot classes, `(B, label_dim)`; None is zeros.
          augment_labels: `(B, augment_dim)`; None is zeros.
          key: key of the dropout; None drops nothing.
          features: return what the encoder makes of the image too: True is its output
            at the lowest resolution, "encoder" the tuple of those at each resolution,
            from the highest down.

        Returns:
          Array `(B, R, R, out_channels)`, in the dtype of the inputs and at least
          float32, or with `features` the pair of it and the features, in the dtype
          of the computation.

        Raises:
          ValueError: a shape does not fit, there are labels for a network without, or
            `features` is unknown.
        """
        x, c_noise = _check.floating(x=x, c_noise=c_noise)
        check_level(x, c_noise=c_noise)
        self._check_call(
            x,
            class_labels=(class_labels, self.label_dim),
            augment_labels=(augment_labels, self.augment_dim),
        )
        if not isinstance(features, bool):
            _check.one_of("features", features, ["encoder"])
        embedding = self._embed(c_noise, class_labels, augment_labels)
        keys = (None if key is None else jax.random.fold_in(key, i) for i in count())
        skips = self._encode(x, embedding, keys)
        ends = tuple(skips[self._plan.level_ends])
        out = self._finish(self._decode(skips, embedding, keys).astype(x.dtype))
        if not features:
            return out
        return out, (ends if features == "encoder" else ends[-1])

    def _encode(
        self, x: Array, embedding: Array, keys: Iterator[Key | None]
    ) -> list[Array]:
        """The images after the first convolution and after each block."""
        enc: Any = self.enc
        image, h = x, enc[self._first](x)
        skips = [h]
        for spec in self._plan.encoder:
            h = self._run(enc[spec.name], h, embedding, next(keys))
            if spec.image:
                h = image = (h + enc[spec.image](image)) * _JOINED
            skips.append(h)
        return skips

    def _decode(
        self, skips: list[Array], embedding: Array, keys: Iterator[Key | None]
    ) -> Array:
        dec: Any = self.dec
        skips = list(skips)
        h = skips[-1]
        for spec in self._plan.decoder:
            if h.shape[-1] != spec.channels_in:
                h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = self._run(dec[spec.name], h, embedding, next(keys))
        return h

    def _run(
        self, block: UNetBlock, h: Array, embedding: Array, key: Key | None
    ) -> Array:
        def run(h: Array, embedding: Array) -> Array:
            return block(h, embedding, key)

        return (jax.checkpoint(run) if self.remat else run)(h, embedding)

    def _check_call(self, x: Array, **labels: tuple[Array | None, int]) -> None:
        if x.shape[1:] != self.shape:
            raise ValueError(f"x has shape {x.shape}; expected (B, *{self.shape}).")
        for name, (label, size) in labels.items():
            if label is not None and (label.ndim != 2 or label.shape[1] != size):
                raise ValueError(
                    f"{name} has shape {label.shape}; expected (B, {size})"
                    + (" or None." if size else ": the network takes none.")
                )
