"""The block that EDM's U-Nets are built of."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxdiv.networks._conv import Conv, conv
from jaxdiv.typing import Array, Key


class Init(NamedTuple):
    """The law of a layer's initial weights.

    Attributes:
      kernel: of the kernel.
      bias: whether the bias is uniform in [-1, 1] / sqrt(fan_in), or else 0.
    """

    kernel: nnx.Initializer
    bias: bool = False


def _uniform(scale: float, mode: str) -> nnx.Initializer:
    """As `variance_scaling`, but drawn as a row: a quarter of the compilation."""

    def draw(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        field = math.prod(shape[:-2])
        fans = {"fan_in": shape[-2], "fan_avg": (shape[-2] + shape[-1]) / 2}
        limit = math.sqrt(3 * scale / (field * fans[mode]))
        row = jax.random.uniform(key, (math.prod(shape),), dtype, -limit, limit)
        return row.reshape(shape)

    return draw


def xavier(gain: float = 1.0) -> Init:
    """Xavier's uniform law, with the weights multiplied by `gain`."""
    return Init(_uniform(gain**2, "fan_avg"))


# Kernel and bias in [-1, 1] / sqrt(fan_in).
UNIFORM = Init(_uniform(1 / 3, "fan_in"), bias=True)
ZERO = Init(nnx.initializers.zeros_init())


def _bias_law(init: Init, fan_in: int) -> nnx.Initializer:
    if not init.bias:
        return nnx.initializers.zeros_init()
    limit = fan_in**-0.5
    return lambda key, shape, dtype: jax.random.uniform(
        key, shape, dtype, -limit, limit
    )


def linear(
    size_in: int, size_out: int, init: Init, *, bias: bool = True, rngs: nnx.Rngs
) -> nnx.Linear:
    return nnx.Linear(
        size_in,
        size_out,
        use_bias=bias,
        kernel_init=init.kernel,
        bias_init=_bias_law(init, size_in),
        rngs=rngs,
    )


class UNetConv(Conv):
    """A convolution with this initial law, computed in `dtype` where there is one."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        size: int,
        init: Init,
        *,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            channels_in, channels_out, size, kernel_init=init.kernel, rngs=rngs
        )
        if init.bias:
            law = _bias_law(init, channels_in * size**2)
            self.bias = nnx.Param(law(rngs.params(), (channels_out,), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        kernel, bias = self.kernel.get_value(), self.bias.get_value()
        if self.dtype is not None:
            x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        return conv(x, kernel) + bias


def at_least_float32(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class GroupNorm(nnx.Module):
    """As `nnx.GroupNorm` with EDM's groups; half its time on CPU.

    The moments are taken per channel first: a reduction over pixels alone runs at the
    speed of memory, one over pixels and a group's channels does not.
    """

    def __init__(self, channels: int, eps: float) -> None:
        self.groups = min(32, max(channels // 4, 1))
        self.eps = eps
        if channels % self.groups:
            raise ValueError(
                f"A layer has {channels} channels, which do not divide into "
                f"{self.groups} groups; choose other model_channels or channel_mult."
            )
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))

    def _group_mean(self, x: Array) -> Array:
        """Means over pixels and the channels of a group, shape `(B, 1, 1, C)`."""
        b, _, _, c = x.shape
        means = x.mean((1, 2)).reshape(b, self.groups, -1).mean(-1)
        return jnp.repeat(means, c // self.groups, axis=1)[:, None, None, :]

    def __call__(self, x: Array) -> Array:
        wide = at_least_float32(x)
        centred = wide - self._group_mean(wide)
        inverse = lax.rsqrt(self._group_mean(centred**2) + self.eps)
        out = centred * (inverse * self.scale.get_value()) + self.bias.get_value()
        return out.astype(x.dtype)


Filter = tuple[float, ...]  # an even number of taps along each axis


def _pad(x: Array, taps: Filter) -> Array:
    """Zeros around the images, as many as the filter reaches past its two pixels."""
    width = (len(taps) - 1) // 2
    return jnp.pad(x, ((0, 0), (width, width), (width, width), (0, 0)))


def _filter(x: Array, taps: Filter) -> Array:
    """Every second place of the images filtered along both axes, without padding."""
    for axis in (1, 2):
        places = x.shape[axis] - len(taps) + 1
        seen = [
            lax.slice_in_dim(x, i, i + places, stride=2, axis=axis)
            for i in range(len(taps))
        ]
        x = sum(
            (tap / sum(taps) * part for tap, part in zip(taps, seen, strict=True)),
            start=jnp.zeros_like(seen[0]),
        )
    return x


def downsample(x: Array, taps: Filter) -> Array:
    """Half the resolution: weighted means, with the default taps of 2 x 2 pixels."""
    if taps == (1, 1):
        b, h, w, c = x.shape
        return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
    return _filter(_pad(x, taps), taps)


def upsample(x: Array, taps: Filter) -> Array:
    """Twice the resolution: 4 times the transpose of `downsample`."""
    b, h, w, c = x.shape
    if taps == (1, 1):  # every pixel four times
        x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
        return x.reshape(b, 2 * h, 2 * w, c)
    large = jax.ShapeDtypeStruct((b, 2 * h, 2 * w, c), x.dtype)
    (up,) = jax.linear_transpose(lambda y: downsample(y, taps), large)(x)
    return 4 * up


class DownConv(UNetConv):
    """A convolution and `downsample`, which meets no zeros beyond the image's edge."""

    def __init__(self, *args: Any, taps: Filter, **options: Any) -> None:
        super().__init__(*args, **options)
        self.taps = taps

    def __call__(self, x: Array) -> Array:
        return _filter(super().__call__(_pad(x, self.taps)), self.taps)


def _dropout(x: Array, rate: float, key: Key | None) -> Array:
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0)


class Style(NamedTuple):
    """What the blocks of one network share.

    Attributes:
      embed: width of the embedding.
      dropout: rate of the dropout.
      taps: filter of the resampling along each axis.
      eps: in the variance of a group.
      skip_scale: of the sum with the skip; sqrt(1/2) keeps the variance.
      adaptive: the embedding scales and shifts the second norm's output, or else it
        is added to that norm's input.
      resample_proj: a skip that only resamples has a convolution too.
      head_channels: channels of an attention head; None is one head.
      init: law of the weights.
      init_last: law of the last convolution on a branch.
      init_qkv: law of the attention's first.
      dtype: dtype of the computation; None is that of the input.
    """

    embed: int
    dropout: float
    taps: Filter = (1, 1)
    eps: float = 1e-6
    skip_scale: float = math.sqrt(0.5)
    adaptive: bool = False
    resample_proj: bool = True
    head_channels: int | None = None
    init: Init = xavier()
    init_last: Init = xavier(1e-5)
    init_qkv: Init = xavier(math.sqrt(0.2))
    dtype: Any = None


class _Attention(nnx.Module):
    """Self-attention over all pixels, added to its input."""

    def __init__(self, channels: int, style: Style, *, rngs: nnx.Rngs) -> None:
        head = style.head_channels or channels
        if channels % head:
            raise ValueError(
                f"A layer with attention has {channels} channels; expected a multiple "
                f"of channels_per_head, {head}."
            )
        self.heads = channels // head
        self.skip_scale = style.skip_scale
        options: Any = {"dtype": style.dtype, "rngs": rngs}
        self.norm = GroupNorm(channels, style.eps)
        self.qkv = UNetConv(channels, 3 * channels, 1, style.init_qkv, **options)
        self.proj = UNetConv(channels, channels, 1, style.init_last, **options)

    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        # q, k and v of a channel are neighbours: the last axis is the fastest.
        qkv = self.qkv(self.norm(x)).reshape(b, h * w, self.heads, -1, 3)
        q, k, v = (qkv[..., i] for i in range(3))
        q, k = at_least_float32(q), at_least_float32(k) / math.sqrt(c / self.heads)
        weights = jax.nn.softmax(jnp.einsum("bqnc,bknc->bnqk", q, k)).astype(v.dtype)
        mixed = jnp.einsum("bnqk,bknc->bqnc", weights, v).reshape(x.shape)
        return (self.proj(mixed) + x) * self.skip_scale


class UNetBlock(nnx.Module):
    """Two convolutions with the embedding between, a skip, and attention.

    `resample` is "down" or "up" to halve or double the resolution before the first
    convolution and in the skip, or "".
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        style: Style,
        *,
        resample: str = "",
        attention: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.resample, self.taps = resample, style.taps
        self.dropout, self.skip_scale = style.dropout, style.skip_scale
        self.adaptive = style.adaptive
        options: Any = {"dtype": style.dtype, "rngs": rngs}
        self.norm0 = GroupNorm(channels_in, style.eps)
        self.conv0 = UNetConv(channels_in, channels_out, 3, style.init, **options)
        affine = channels_out * (2 if style.adaptive else 1)
        self.affine = linear(style.embed, affine, style.init, rngs=rngs)
        self.norm1 = GroupNorm(channels_out, style.eps)
        self.conv1 = UNetConv(channels_out, channels_out, 3, style.init_last, **options)
        projects = channels_in != channels_out or (resample and style.resample_proj)
        self.skip = (
            UNetConv(channels_in, channels_out, 1, style.init, **options)
            if projects
            else None
        )
        self.attention = (
            _Attention(channels_out, style, rngs=rngs) if attention else None
        )

    def _resample(self, x: Array) -> Array:
        if not self.resample:
            return x
        return (downsample if self.resample == "down" else upsample)(x, self.taps)

    def _condition(self, h: Array, embedding: Array) -> Array:
        affine = self.affine(embedding)[:, None, None, :].astype(h.dtype)
        if not self.adaptive:
            return self.norm1(h + affine)
        scale, shift = jnp.split(affine, 2, axis=-1)
        return self.norm1(h) * (1 + scale) + shift

    def __call__(self, x: Array, embedding: Array, key: Key | None = None) -> Array:
        h = self.conv0(self._resample(jax.nn.silu(self.norm0(x))))
        h = jax.nn.silu(self._condition(h, embedding))
        h = self.conv1(_dropout(h, self.dropout, key))
        x = self._resample(x)
        if self.skip is not None:
            x = self.skip(x)
        x = (h + x) * self.skip_scale
        return x if self.attention is None else self.attention(x)


def check_filter(resample_filter: Sequence[float]) -> Filter:
    """The filter as a tuple; raises ValueError unless it can halve a resolution."""
    taps = tuple(resample_filter)
    if not taps or len(taps) % 2 or not sum(taps) > 0:
        raise ValueError(
            f"resample_filter is {taps}; expected an even number of taps with a "
            "positive sum, such as (1, 1) or (1, 3, 3, 1)."
        )
    return taps


def check_dtype(dtype: Any) -> Any:
    """The dtype of the computation, or None; raises TypeError for what cannot be."""
    if dtype is None:
        return None
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype is {dtype}; expected a real floating dtype or None.")
    return dtype
