"""The block that EDM's U-Nets are built of."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv.networks._conv import Conv
from jaxdiv.typing import Array, Key

_EPS = 1e-6  # in the variance of a group
_SKIP_SCALE = math.sqrt(0.5)  # keeps the variance of a sum of two


def xavier(gain: float = 1.0) -> nnx.Initializer:
    """Xavier's uniform law, with the weights multiplied by `gain`."""
    return nnx.initializers.variance_scaling(gain**2, "fan_avg", "uniform")


def conv(
    channels_in: int, channels_out: int, size: int, *, gain: float = 1.0, rngs: nnx.Rngs
) -> Conv:
    return Conv(channels_in, channels_out, size, kernel_init=xavier(gain), rngs=rngs)


class GroupNorm(nnx.Module):
    """As `nnx.GroupNorm` with EDM's groups; half its time on CPU.

    The moments are taken per channel first: a reduction over pixels alone runs at the
    speed of memory, one over pixels and a group's channels does not.
    """

    def __init__(self, channels: int) -> None:
        self.groups = min(32, max(channels // 4, 1))
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
        centred = x - self._group_mean(x)
        inverse = jax.lax.rsqrt(self._group_mean(centred**2) + _EPS)
        return centred * (inverse * self.scale.get_value()) + self.bias.get_value()


def downsample(x: Array) -> Array:
    """Means of 2 x 2 pixels."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def upsample(x: Array) -> Array:
    """Every pixel four times."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


_RESAMPLE = {"down": downsample, "up": upsample, "": lambda x: x}


def _dropout(x: Array, rate: float, key: Key | None) -> Array:
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0)


class _Attention(nnx.Module):
    """Self-attention of one head over all pixels, added to its input."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs) -> None:
        self.norm = GroupNorm(channels)
        self.qkv = conv(channels, 3 * channels, 1, gain=math.sqrt(0.2), rngs=rngs)
        self.proj = conv(channels, channels, 1, gain=1e-5, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        # q, k and v of a channel are neighbours: the last axis is the fastest.
        qkv = self.qkv(self.norm(x)).reshape(b, h * w, c, 3)
        q, k, v = (qkv[..., i] for i in range(3))
        weights = jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", q, k / math.sqrt(c)))
        mixed = jnp.einsum("bqk,bkc->bqc", weights, v).reshape(x.shape)
        return (self.proj(mixed) + x) * _SKIP_SCALE


class UNetBlock(nnx.Module):
    """Two convolutions with the embedding added between, a skip, and attention.

    `resample` is "down" or "up" to halve or double the resolution before the first
    convolution and in the skip, or "".
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        embed: int,
        *,
        resample: str = "",
        attention: bool = False,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        self.channels_in = channels_in
        self.channels_out = channels_out
        self.resample = resample
        self.dropout = dropout
        self.norm0 = GroupNorm(channels_in)
        self.conv0 = conv(channels_in, channels_out, 3, rngs=rngs)
        self.affine = nnx.Linear(embed, channels_out, kernel_init=xavier(), rngs=rngs)
        self.norm1 = GroupNorm(channels_out)
        self.conv1 = conv(channels_out, channels_out, 3, gain=1e-5, rngs=rngs)
        projects = channels_in != channels_out or resample
        self.skip = conv(channels_in, channels_out, 1, rngs=rngs) if projects else None
        self.attention = _Attention(channels_out, rngs=rngs) if attention else None

    def __call__(self, x: Array, embedding: Array, key: Key | None = None) -> Array:
        resample = _RESAMPLE[self.resample]
        h = self.conv0(resample(jax.nn.silu(self.norm0(x))))
        h = h + self.affine(embedding)[:, None, None, :]
        h = self.conv1(_dropout(jax.nn.silu(self.norm1(h)), self.dropout, key))
        if self.skip is not None:
            x = self.skip(resample(x))
        x = (h + x) * _SKIP_SCALE
        return x if self.attention is None else self.attention(x)
