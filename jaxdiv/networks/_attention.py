"""The two layers of a transformer's block."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxdiv import _check
from jaxdiv.typing import Array


def check_heads(width: int, heads: int, *, multiple: int) -> None:
    """Raises ValueError unless `width` divides into heads and into `multiple`."""
    _check.in_range(1, closed=True, width=width)
    _check.in_range(1, closed=True, heads=heads)
    if width % (divisor := math.lcm(heads, multiple)):
        raise ValueError(
            f"width is {width}; expected a multiple of {divisor} for {heads} heads."
        )


def _rotate(x: Array, angles: Array) -> Array:
    """Turns the pairs (i, i + half) of each head's entries; both have T on axis 1."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    x0, x1 = jnp.split(x, 2, axis=-1)
    rotated = jnp.concatenate([x0 * cos - x1 * sin, x0 * sin + x1 * cos], axis=-1)
    return rotated.astype(x.dtype)


class Attention(nnx.Module):
    """Self-attention of several heads among tokens `(B, T, width)`.

    Scores and softmax are in float32 at least. (`jax.nn.dot_product_attention` takes
    its softmax in float32 at most.)
    """

    def __init__(
        self, width: int, heads: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs
    ) -> None:
        self.shape = (3, heads, width // heads)
        self.qkv = nnx.Linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(
        self, h: Array, mask: Array | None = None, angles: Array | None = None
    ) -> Array:
        """Mixes the tokens; `mask` `(B or 1, T, T)` has a True in every row."""
        qkv = self.qkv(h).reshape(*h.shape[:2], *self.shape)
        q, k, v = (qkv[:, :, i] for i in range(3))  # (B, T, heads, width / heads)
        if angles is not None:
            q, k = _rotate(q, angles), _rotate(k, angles)
        dtype = jnp.promote_types(q.dtype, jnp.float32)
        scores = jnp.einsum("bqnc,bknc->bnqk", q, k, preferred_element_type=dtype)
        scores = scores / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = jnp.where(mask[:, None], scores, -jnp.inf)
        weights = jax.nn.softmax(scores).astype(v.dtype)
        return self.out(jnp.einsum("bnqk,bknc->bqnc", weights, v).reshape(h.shape))


class FeedForward(nnx.Module):
    """Two dense layers with a GELU between."""

    def __init__(
        self, width: int, hidden: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs
    ) -> None:
        self.dense0 = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.dense1 = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, h: Array) -> Array:
        return self.dense1(jax.nn.gelu(self.dense0(h)))
