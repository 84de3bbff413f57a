"""A decoder-only transformer for short sequences of tokens."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxdiv import _check
from jaxdiv.networks._attention import Attention, FeedForward, check_heads
from jaxdiv.typing import Array, ArrayLike

_BASE = 10_000.0  # ratio of the fastest and the slowest rotation


class _Block(nnx.Module):
    """h + attention(norm h), then h + dense(norm h)."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ) -> None:
        self.norm0 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, dtype=dtype, rngs=rngs)
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.dense = FeedForward(width, hidden, dtype=dtype, rngs=rngs)

    def __call__(self, h: Array, mask: Array, angles: Array) -> Array:
        h = h + self.attention(self.norm0(h), mask, angles)
        return h + self.dense(self.norm1(h))


class TinyTransformer(nnx.Module):
    r"""A causal transformer from tokens to the logits of the next token.

    Pre-norm blocks :math:`h + \mathrm{attention}(\mathrm{norm}\,h)`,
    :math:`h + W_1\,\mathrm{gelu}(W_0\,\mathrm{norm}\,h)`; positions are rotations of
    queries and keys, so that only their differences count; the embedding :math:`E` is
    also the output matrix: :math:`\mathrm{logits} = E\,\mathrm{norm}\,h`.

    Args:
      vocab_size: number of tokens.
      max_length: longest sequence that a call takes.
      width: entries of a token's hidden state.
      depth: number of blocks.
      heads: heads of attention; each has an even number of entries.
      mlp_ratio: hidden units of the dense layers, in widths.
      dtype: dtype of the matrix products, such as `jnp.bfloat16`; parameters, hidden
        states, norms, softmax and logits stay float32. None is that of the parameters.
      rngs: flax's random streams, of which `params` makes the initial weights.

    Raises:
      ValueError: a size is smaller than 1, or the width does not divide into heads.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxdiv import networks
      >>> size = dict(max_length=16, width=32, depth=1, heads=2)
      >>> net = networks.TinyTransformer(50, **size, rngs=nnx.Rngs(0))
      >>> forward = jax.jit(lambda tokens: net(tokens, features=True))
      >>> logits, hidden = forward(jnp.array([[3, 1, 4], [1, 5, 9]]))
      >>> print(logits.shape, hidden.shape)
      (2, 3, 50) (2, 3, 32)

    References:
      Vaswani et al., 2017, arXiv:1706.03762; Su et al., 2021, arXiv:2104.09864 (rotary
      positions); Press and Wolf, 2017, arXiv:1608.05859 (tied embedding).
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        max_length: int,
        width: int = 96,
        depth: int = 2,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        _check.in_range(1, closed=True, vocab_size=vocab_size, max_length=max_length)
        _check.in_range(1, closed=True, depth=depth, mlp_ratio=mlp_ratio)
        check_heads(width, heads, multiple=2 * heads)
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.head_width = width // heads
        self.dtype = dtype
        init = nnx.initializers.normal(0.02, jnp.float32)
        self.embedding = nnx.Param(init(rngs.params(), (vocab_size, width)))
        hidden = int(mlp_ratio * width)
        self.blocks = nnx.List(
            [_Block(width, heads, hidden, dtype=dtype, rngs=rngs) for _ in range(depth)]
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(
        self,
        tokens: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        positions: ArrayLike | None = None,
        features: bool = False,
    ) -> Any:
        """The logits of the token after each of the tokens.

        Args:
          tokens: integers in [0, vocab_size), shape `(..., T)`, masked ones included;
            where a traced one is outside, its whole sequence has logits NaN.
          mask: boolean, broadcasts to `(..., T, T)`: whether the token of a row may see
            that of a column, among those before it; each always sees itself. Padding on
            either side is `valid[..., None, :]`. None is all True.
          positions: integers that broadcast to `(..., T)`; None is 0 to T - 1.
          features: return the last hidden states too.

        Returns:
          Array `(..., T, vocab_size)`, or with `features` the pair of it and the
          hidden states `(..., T, width)`, of which the logits are the products with
          the parameter `embedding`.

        Raises:
          TypeError: tokens or positions are not integers, or the mask is not boolean.
          ValueError: a shape does not fit, or a token is out of range.
        """
        tokens = self._check_tokens(tokens)
        shape, length = tokens.shape, tokens.shape[-1]
        table = self.embedding.get_value()
        seen = _visible(shape, mask)
        angles = _angles(shape, positions, self.head_width // 2, table.dtype)
        h = table.at[tokens.reshape(-1, length)].get(
            mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
        )
        for block in self.blocks:
            h = block(h, seen, angles)
        hidden = self.norm(h)
        operands = [x.astype(self.dtype or x.dtype) for x in (hidden, table)]
        logits = jnp.einsum("btc,vc->btv", *operands, preferred_element_type=h.dtype)
        logits = logits.reshape(*shape, -1)
        return (logits, hidden.reshape(*shape, -1)) if features else logits

    def _check_tokens(self, tokens: ArrayLike) -> Array:
        _check_dtype(jnp.integer, "integers", tokens=tokens)
        _check.in_range(0, self.vocab_size - 1, closed=True, tokens=tokens)
        tokens = jnp.asarray(tokens)
        if not tokens.ndim or not 1 <= tokens.shape[-1] <= self.max_length:
            raise ValueError(
                f"tokens has shape {tokens.shape}; expected (..., T) with T from 1 to "
                f"max_length = {self.max_length}."
            )
        return tokens


def _check_dtype(kind: Any, words: str, **arrays: ArrayLike) -> None:
    for name, x in arrays.items():
        if not jnp.issubdtype(dtype := jnp.result_type(x), kind):
            raise TypeError(f"{name} has dtype {dtype}; expected {words}.")


def _fit(shape: tuple[int, ...], **arrays: ArrayLike) -> Array:
    """The array broadcast to `shape`."""
    ((name, x),) = arrays.items()
    try:
        return jnp.broadcast_to(x, shape)
    except ValueError as error:
        raise ValueError(
            f"{name} has shape {jnp.shape(x)}, which does not broadcast to {shape}."
        ) from error


def _visible(shape: tuple[int, ...], mask: ArrayLike | None) -> Array:
    """Which tokens see which, `(B or 1, T, T)`."""
    length = shape[-1]
    causal = jnp.tri(length, dtype=bool)
    if mask is None:
        return causal[None]
    _check_dtype(jnp.bool_, "booleans", mask=mask)
    mask = _fit((*shape, length), mask=mask).reshape(-1, length, length)
    return (mask & causal) | jnp.eye(length, dtype=bool)


def _angles(
    shape: tuple[int, ...], positions: ArrayLike | None, half: int, dtype: DTypeLike
) -> Array:
    """The rotation of each pair of entries at each position, `(B or 1, T, half)`."""
    if positions is None:
        places = jnp.arange(shape[-1])[None]
    else:
        _check_dtype(jnp.integer, "integers", positions=positions)
        places = _fit(shape, positions=positions).reshape(-1, shape[-1])
    speeds = _BASE ** (-jnp.arange(half, dtype=dtype) / half)
    return places[..., None].astype(dtype) * speeds
