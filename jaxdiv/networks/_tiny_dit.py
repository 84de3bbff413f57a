"""A diffusion transformer for small images."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxdiv import _check
from jaxdiv.networks._attention import Attention, FeedForward, check_heads
from jaxdiv.networks._level import WAVES, check_level, waves
from jaxdiv.typing import Array, ArrayLike


def _grid(side: int, width: int) -> np.ndarray:
    """Sines and cosines of each patch's row, then of its column, `(side^2, width)`."""
    quarter = width // 4
    angles = np.outer(np.arange(side), 10_000.0 ** (-np.arange(quarter) / quarter))
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    rows, columns = np.repeat(waves, side, axis=0), np.tile(waves, (side, 1))
    return np.concatenate([rows, columns], axis=1)


def _patchify(x: Array, patch: int) -> Array:
    b, size, _, c = x.shape
    x = x.reshape(b, size // patch, patch, size // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * c)


def _unpatchify(tokens: Array, patch: int, shape: tuple[int, ...]) -> Array:
    side = shape[1] // patch
    x = tokens.reshape(shape[0], side, side, patch, patch, shape[-1])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


def _modulation(parts: int, width: int, rngs: nnx.Rngs) -> nnx.Linear:
    zeros = nnx.initializers.zeros_init()
    return nnx.Linear(width, parts * width, kernel_init=zeros, rngs=rngs)


class _Block(nnx.Module):
    """Attention and dense layers, shifted, scaled and gated; it starts as identity."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ) -> None:
        self.modulation = _modulation(6, width, rngs)
        self.norm = nnx.LayerNorm(width, use_bias=False, use_scale=False, rngs=rngs)
        self.attention = Attention(width, heads, dtype=dtype, rngs=rngs)
        self.dense = FeedForward(width, hidden, dtype=dtype, rngs=rngs)

    def __call__(self, h: Array, condition: Array) -> Array:
        parts = jnp.split(self.modulation(condition), 6, axis=-1)
        for layer, (shift, scale, gate) in (
            (self.attention, parts[:3]),
            (self.dense, parts[3:]),
        ):
            h = h + gate * layer(self.norm(h) * (1 + scale) + shift)
        return h


class TinyDiT(nnx.Module):
    r"""A diffusion transformer with adaLN-zero.

    The image is cut into patches, which become tokens, with a fixed sine embedding of
    row and column added. An embedding of noise level and class gives each block the
    shifts, scales and gates of

    .. math:: h + g_1\,\mathrm{attention}((1 + a_1)\,\mathrm{norm}(h) + b_1), \qquad
              h + g_2 W_1\,\mathrm{gelu}(W_0((1 + a_2)\,\mathrm{norm}(h) + b_2)).

    The gates start at 0, and so does the output.

    Args:
      img_resolution: height and width of the images, such as 8 or 28.
      in_channels: channels of the images.
      patch: height and width of a patch; 1 or 2 for small images.
      width: entries of a token's hidden state, a multiple of 4.
      depth: number of blocks.
      heads: heads of attention.
      mlp_ratio: hidden units of the dense layers, in widths.
      label_dim: number of classes; 0 is unconditional.
      dtype: dtype of the blocks' matrix products, such as `jnp.bfloat16`; parameters,
        hidden states, norms, softmax and output stay float32. None is that of the
        parameters.
      remat: compute the blocks' inner values a second time in the backward pass
        instead of keeping them.
      rngs: flax's random streams, of which `params` makes the initial weights.

    Raises:
      ValueError: a size is out of range, the resolution does not divide into patches,
        or the width not into heads.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxdiv import networks
      >>> net = networks.TinyDiT(8, 1, width=32, depth=1, heads=2, rngs=nnx.Rngs(0))
      >>> forward = jax.jit(lambda x, noise: net(x, noise, features=True))
      >>> out, hidden = forward(jnp.ones((5, 8, 8, 1)), jnp.zeros(5))
      >>> print(out.shape, hidden.shape)
      (5, 8, 8, 1) (5, 4, 4, 32)

    References:
      Peebles and Xie, 2023, arXiv:2212.09748.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        *,
        patch: int = 2,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        label_dim: int = 0,
        dtype: DTypeLike | None = None,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        _check.in_range(1, closed=True, in_channels=in_channels, patch=patch)
        _check.in_range(1, closed=True, depth=depth, mlp_ratio=mlp_ratio)
        _check.in_range(0, closed=True, label_dim=label_dim)
        check_heads(width, heads, multiple=4)
        if img_resolution < patch or img_resolution % patch:
            raise ValueError(
                f"img_resolution is {img_resolution}; expected a multiple of "
                f"patch = {patch}."
            )
        self.shape = (img_resolution, img_resolution, in_channels)
        self.patch, self.width = patch, width
        self.label_dim = label_dim
        self.remat = remat
        size = patch * patch * in_channels
        self._build_embedding(rngs)
        self.first = nnx.Linear(size, width, rngs=rngs)
        hidden = int(mlp_ratio * width)
        self.blocks = nnx.List(
            [_Block(width, heads, hidden, dtype=dtype, rngs=rngs) for _ in range(depth)]
        )
        self.modulation = _modulation(2, width, rngs)
        self.norm = nnx.LayerNorm(width, use_bias=False, use_scale=False, rngs=rngs)
        zeros = nnx.initializers.zeros_init()
        self.last = nnx.Linear(width, size, kernel_init=zeros, rngs=rngs)

    def _build_embedding(self, rngs: nnx.Rngs) -> None:
        self.embed0 = nnx.Linear(2 * WAVES, self.width, rngs=rngs)
        self.embed1 = nnx.Linear(self.width, self.width, rngs=rngs)
        self.label = (
            nnx.Linear(self.label_dim, self.width, use_bias=False, rngs=rngs)
            if self.label_dim
            else None
        )

    def _embed(self, c_noise: Array, class_labels: Array | None) -> Array:
        """The embedding of level and class, `(B or 1, 1, width)`."""
        e = self.embed1(jax.nn.silu(self.embed0(waves(jnp.atleast_1d(c_noise)))))
        if self.label is not None and class_labels is not None:
            e = e + self.label(class_labels)
        return jax.nn.silu(e)[:, None]

    def __call__(
        self,
        x: ArrayLike,
        c_noise: ArrayLike,
        class_labels: Array | None = None,
        *,
        features: bool = False,
    ) -> Any:
        """The network's output.

        Args:
          x: images, shape `(B, R, R, in_channels)`.
          c_noise: what the network sees of the noise level, a scalar or `(B,)`.
          class_labels: one-hot classes, `(B, label_dim)`; None is zeros.
          features: return the last hidden states too.

        Returns:
          Array shaped as `x`, or with `features` the pair of it and what the last layer
          sees of each patch, `(B, R / patch, R / patch, width)`.

        Raises:
          ValueError: a shape does not fit, or there are labels for a network without.
        """
        x, c_noise = _check.floating(x=x, c_noise=c_noise)
        check_level(x, c_noise=c_noise)
        self._check_call(x, class_labels)
        condition = self._embed(c_noise, class_labels)
        side = self.shape[0] // self.patch
        h = self.first(_patchify(x, self.patch))
        h = h + jnp.asarray(_grid(side, self.width), h.dtype)
        for block in self.blocks:
            h = (_recomputed(block) if self.remat else block)(h, condition)
        shift, scale = jnp.split(self.modulation(condition), 2, axis=-1)
        hidden = self.norm(h) * (1 + scale) + shift
        out = _unpatchify(self.last(hidden), self.patch, x.shape)
        if features:
            return out, hidden.reshape(x.shape[0], side, side, self.width)
        return out

    def _check_call(self, x: Array, class_labels: Array | None) -> None:
        if x.ndim != 4 or x.shape[1:] != self.shape:
            raise ValueError(f"x has shape {x.shape}; expected (B, *{self.shape}).")
        expected = (x.shape[0], self.label_dim)
        if class_labels is None or self.label_dim and class_labels.shape == expected:
            return
        raise ValueError(
            f"class_labels has shape {class_labels.shape}; expected "
            + (f"{expected} or None." if self.label_dim else "None: label_dim is 0.")
        )


def _recomputed(block: _Block) -> Callable[[Array, Array], Array]:
    """The block, whose inner values the backward pass computes a second time."""
    graph, state = nnx.split(block)
    run = jax.checkpoint(lambda state, *args: nnx.merge(graph, state)(*args))
    return partial(run, state)
