"""A residual network of dense layers for small data."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv import _check
from jaxdiv.networks._level import WAVES, check_level, waves
from jaxdiv.typing import Array, ArrayLike


class _Block(nnx.Module):
    """h + dense(silu(dense(FiLM(norm h)))); it starts as the identity."""

    def __init__(self, width: int, embed: int, *, rngs: nnx.Rngs) -> None:
        zeros = nnx.initializers.zeros_init()
        self.norm = nnx.LayerNorm(width, use_bias=False, use_scale=False, rngs=rngs)
        self.film = nnx.Linear(embed, 2 * width, kernel_init=zeros, rngs=rngs)
        self.dense0 = nnx.Linear(width, width, rngs=rngs)
        self.dense1 = nnx.Linear(width, width, kernel_init=zeros, rngs=rngs)

    def __call__(self, h: Array, embedding: Array) -> Array:
        scale, shift = jnp.split(self.film(embedding), 2, axis=-1)
        hidden = self.norm(h) * (1 + scale) + shift
        return h + self.dense1(jax.nn.silu(self.dense0(hidden)))


class ScoreMLP(nnx.Module):
    r"""A residual MLP conditioned on the noise level by FiLM.

    Each block is :math:`h + W_1\,\mathrm{silu}(W_0((1 + a)\,\mathrm{norm}(h) + b))`
    with a, b linear in an embedding of the level. The blocks start as the identity
    and the output as 0.

    Args:
      size: number of entries of one sample.
      width: units of a hidden layer.
      depth: number of blocks.
      embed: units of the level's embedding.
      rngs: flax's random streams, of which `params` makes the initial weights.

    Raises:
      ValueError: a size is smaller than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxdiv import networks
      >>> net = networks.ScoreMLP(64, width=32, rngs=nnx.Rngs(0))
      >>> out, hidden = net(jnp.ones((5, 8, 8, 1)), jnp.zeros(5), features=True)
      >>> print(out.shape, hidden.shape)
      (5, 8, 8, 1) (5, 32)

    References:
      Perez et al., 2018, arXiv:1709.07871 (FiLM).
    """

    def __init__(
        self,
        size: int,
        *,
        width: int = 256,
        depth: int = 3,
        embed: int = 128,
        rngs: nnx.Rngs,
    ) -> None:
        _check.in_range(1, closed=True, size=size, width=width, embed=embed)
        _check.in_range(1, closed=True, depth=depth)
        zeros = nnx.initializers.zeros_init()
        self.size = size
        self.embed0 = nnx.Linear(2 * WAVES, embed, rngs=rngs)
        self.embed1 = nnx.Linear(embed, embed, rngs=rngs)
        self.first = nnx.Linear(size, width, rngs=rngs)
        self.blocks = nnx.List([_Block(width, embed, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.last = nnx.Linear(width, size, kernel_init=zeros, rngs=rngs)

    def __call__(
        self, x: ArrayLike, c_noise: ArrayLike, *, features: bool = False
    ) -> Any:
        """The network's output.

        Args:
          x: samples, shape `(B, ...)` with `size` entries each.
          c_noise: what the network sees of the noise level, a scalar or `(B,)`.
          features: return the last hidden layer too.

        Returns:
          Array shaped as `x`, or with `features` the pair of it and the last hidden
          layer `(B, width)`.

        Raises:
          ValueError: a shape does not fit.
        """
        x, c_noise = _check.floating(x=x, c_noise=c_noise)
        check_level(x, c_noise=c_noise)
        if math.prod(x.shape[1:]) != self.size:
            raise ValueError(
                f"x has shape {x.shape}; expected {self.size} entries a sample."
            )
        embedding = jax.nn.silu(self.embed0(waves(jnp.atleast_1d(c_noise))))
        embedding = jax.nn.silu(self.embed1(embedding))  # (B or 1, embed)
        h = self.first(x.reshape(x.shape[0], self.size))
        for block in self.blocks:
            h = block(h, embedding)
        hidden = jax.nn.silu(self.norm(h))
        out = self.last(hidden).reshape(x.shape)
        return (out, hidden) if features else out
