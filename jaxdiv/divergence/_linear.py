"""Divergence between two heads' laws without an array of tokens x vocabulary.

The tokens are taken in chunks. `custom_vjp` is used because memory demands it: plain
reverse mode would keep the logits of every chunk.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.divergence._categorical import from_logits, parts
from jaxdiv.divergence._generators import FDivergence, as_record
from jaxdiv.typing import Array, ArrayLike

_PARTS = 8  # a chunk's rows and the head's are worked on in so many parts


def linear_divergence(
    hidden_s: ArrayLike,
    head_s: ArrayLike,
    hidden_t: ArrayLike,
    head_t: ArrayLike,
    div: str | FDivergence = "kl",
    *,
    chunk: int | None = None,
    mask: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    weights: ArrayLike | None = None,
) -> Array:
    r"""f-divergence of a student's head from a teacher's, token by token.

    .. math:: D_i = D_f\big(\mathrm{softmax}(h^t_i W_t / T) \,\|\,
        \mathrm{softmax}(h^s_i W_s / T)\big)

    The exact value of `from_logits` with p the teacher and q the student, so that "kl"
    is the usual distillation loss and "reverse_kl" the mode-seeking one. The logits are
    formed `chunk` tokens at a time, in the gradient too.

    Per-token values leave open how the caller weights them, so that their gradient
    forms the logits a second time. With `weights` the loss is
    :math:`\sum_i w_i D_i`, and its gradient is accumulated along with it: a third less
    arithmetic in a training step.

    Args:
      hidden_s: the student's last hidden states, `[N, D_s]`.
      head_s: the student's output matrix, `[D_s, V]`.
      hidden_t: the teacher's hidden states at the same tokens, `[N, D_t]`.
      head_t: the teacher's output matrix, `[D_t, V]`.
      div: a name that `get` knows without a parameter, or a record.
      chunk: tokens per chunk, rounded up to a multiple of 8. The memory is that of two
        to three arrays `[chunk, V]`, and of the gradient `[D_s, V]` in float32. None
        takes D_s / 4, which keeps the first below the second.
      mask: boolean, `[N]`, False at tokens that do not count. Their hidden states may
        hold anything, NaN included. None counts all.
      temperature: T > 0, of both laws.
      weights: `[N]`, weight of each token, such as mask / mask.sum(). None returns the
        values of the tokens.

    Returns:
      `[N]`, in nats, 0 where `mask` is False; with `weights` their weighted sum, a
      scalar. At least float32: matrix products of bfloat16 are accumulated in float32.

    Raises:
      TypeError: an input is not of a floating dtype, or `div` is no divergence.
      ValueError: the shapes do not fit, the name is unknown, or `chunk` or
        `temperature` is not positive.

    Differentiable in reverse mode, in `hidden_s`, `head_s` and `weights`. The teacher
    and the temperature are constants: their gradient is zero. Reverse mode may be
    repeated. Forward mode (`jax.jvp`, `jax.jacfwd`) raises a TypeError; `jax.vmap`
    works.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> hidden = jax.random.normal(jax.random.key(0), (8, 16))
      >>> head = jax.random.normal(jax.random.key(1), (16, 1000)) / 4
      >>> values = divergence.linear_divergence(hidden, head, 0.9 * hidden, head, "js")
      >>> print(values.shape, f"{values.mean():.5f}")
      (8,) 0.00107

    References:
      Hsu et al., 2024, arXiv:2410.10989, section 3.3, for the gradient formed along
      with the loss.
    """
    div = as_record(div)
    student, teacher = _models(
        hidden_s=hidden_s, head_s=head_s, hidden_t=hidden_t, head_t=head_t
    )
    count, width = student.hidden.shape
    keep = jnp.ones(count, bool) if mask is None else jnp.asarray(mask, bool)
    _check_tokens(count, mask=keep)
    _check.positive(temperature=temperature)
    if chunk is None:
        chunk = max(16, width // 4)
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; expected at least 1.")
    chunk = _PARTS * max(1, -(-min(chunk, count) // _PARTS))

    def chunked(x: Array) -> Array:
        padding = [(0, -count % chunk)] + [(0, 0)] * (x.ndim - 1)
        return jnp.reshape(jnp.pad(x, padding), (-1, chunk, *x.shape[1:]))

    def kept(model: _Model) -> _Model:
        hidden = jnp.where(keep[:, None], model.hidden, 0)
        return _Model(chunked(hidden), model.head)

    dtype = jnp.promote_types(jnp.result_type(*student, *teacher), jnp.float32)
    fixed = jax.lax.stop_gradient(
        _Fixed(kept(teacher), chunked(keep), jnp.asarray(temperature, dtype))
    )
    if weights is None:
        return jnp.ravel(_values(div, kept(student), fixed))[:count]
    (weights,) = _check.floating(weights=weights)
    _check_tokens(count, weights=weights)
    return _weighted_sum(div, kept(student), chunked(weights.astype(dtype)), fixed)


class _Model(NamedTuple):
    hidden: Array  # [chunks, chunk, D], one chunk inside of a loop
    head: Array  # [D, V]


class _Fixed(NamedTuple):
    """What no gradient is formed for."""

    teacher: _Model
    keep: Array  # [chunks, chunk]
    temperature: Array  # in the dtype of the result


def _models(**given: ArrayLike) -> tuple[_Model, _Model]:
    jax.eval_shape(_check.floating, **given)  # only checks: bfloat16 stays
    arrays = {name: jnp.asarray(x) for name, x in given.items()}
    _check.rank(2, **arrays)
    shapes = ", ".join(f"{name} {x.shape}" for name, x in arrays.items())
    hidden_s, head_s, hidden_t, head_t = arrays.values()
    if not (
        len(hidden_s) == len(hidden_t)
        and hidden_s.shape[1] == len(head_s)
        and hidden_t.shape[1] == len(head_t)
        and head_s.shape[1] == head_t.shape[1]
    ):
        raise ValueError(
            f"Expected [N, D] and [D, V] of one N and one V, got {shapes}."
        )
    return _Model(hidden_s, head_s), _Model(hidden_t, head_t)


def _check_tokens(count: int, **arrays: Array) -> None:
    for name, x in arrays.items():
        if x.shape != (count,):
            raise ValueError(f"{name} has shape {x.shape}; expected ({count},).")


def _logits(hidden: Array, head: Array) -> Array:
    dtype = jnp.promote_types(jnp.result_type(hidden, head), jnp.float32)
    return jnp.matmul(hidden, head, preferred_element_type=dtype)


def _chunk_values(div: FDivergence, logits: Array, fixed: _Fixed) -> Array:
    """The values of one chunk, from the student's logits."""
    teacher = _logits(*fixed.teacher)
    values = from_logits(teacher, logits, div, temperature=fixed.temperature)
    return jnp.where(fixed.keep, values, 0)


def _over_chunks(fixed: _Fixed) -> tuple[Array, Array]:
    return fixed.teacher.hidden, fixed.keep


def _chunk_of(fixed: _Fixed, hidden: Array, keep: Array) -> _Fixed:
    return _Fixed(_Model(hidden, fixed.teacher.head), keep, fixed.temperature)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _values(div: FDivergence, student: _Model, fixed: _Fixed) -> Array:
    """The values of all tokens, `[chunks, chunk]`."""

    def values(rows: tuple[Array, tuple[Array, Array]]) -> Array:
        hidden, rest = rows
        logits = _logits(hidden, student.head)
        return _chunk_values(div, logits, _chunk_of(fixed, *rest))

    return jax.lax.map(values, (student.hidden, _over_chunks(fixed)))


def _values_fwd(
    div: FDivergence, student: _Model, fixed: _Fixed
) -> tuple[Array, tuple[_Model, _Fixed]]:
    return _values(div, student, fixed), (student, fixed)


def _values_bwd(
    div: FDivergence, residuals: tuple[_Model, _Fixed], weights: Array
) -> tuple[_Model, None]:
    student, fixed = residuals
    return _with_gradient(div, student, weights, fixed)[1], None


_values.defvjp(_values_fwd, _values_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_sum(
    div: FDivergence, student: _Model, weights: Array, fixed: _Fixed
) -> Array:
    return jnp.vdot(weights, _values(div, student, fixed))


def _weighted_sum_fwd(
    div: FDivergence, student: _Model, weights: Array, fixed: _Fixed
) -> tuple[Array, tuple[Array, _Model]]:
    values, gradient = _with_gradient(div, student, weights, fixed)
    return jnp.vdot(weights, values), (values, gradient)


def _weighted_sum_bwd(
    div: FDivergence, residuals: tuple[Array, _Model], cotangent: Array
) -> tuple[_Model, Array, None]:
    del div
    values, gradient = residuals
    hidden, head = (cotangent.astype(x.dtype) * x for x in gradient)
    return _Model(hidden, head), cotangent * values, None


_weighted_sum.defvjp(_weighted_sum_fwd, _weighted_sum_bwd)


def _with_gradient(
    div: FDivergence, student: _Model, weights: Array, fixed: _Fixed
) -> tuple[Array, _Model]:
    """The values, and the gradient of their sum under `weights`."""
    head = student.head

    def step(total: Array, rows: tuple) -> tuple[Array, tuple[Array, Array]]:
        hidden, weights, (hidden_t, keep) = rows
        weights = jnp.where(keep, weights, 0)
        values, slopes = _slopes(
            div,
            _logits(hidden_t, fixed.teacher.head),
            _logits(hidden, head).astype(weights.dtype),
            weights,
            fixed.temperature,
        )
        # float16 would lose the slopes of the many small probabilities.
        slopes = slopes.astype(jnp.promote_types(head.dtype, jnp.bfloat16))
        total = _add_product(total, hidden, slopes)
        hidden_slopes = _logits(slopes, head.T).astype(hidden.dtype)
        return total, (jnp.where(keep, values, 0), hidden_slopes)

    total = jnp.zeros(head.shape, jnp.promote_types(head.dtype, jnp.float32))
    rows = student.hidden, weights, _over_chunks(fixed)
    total, (values, slopes) = jax.lax.scan(step, total, rows)
    return values, _Model(slopes, total.astype(head.dtype))


def _slopes(
    div: FDivergence,
    logits_t: Array,
    logits_s: Array,
    weights: Array,
    temperature: Array,
) -> tuple[Array, Array]:
    """The values of the rows, and `weights` times their gradients in `logits_s`.

    A few rows at a time, which stay in the cache; the slopes take the place of the
    logits.
    """
    size = len(weights) // _PARTS

    def part(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        values, logits_s = carry
        at = i * size

        def take(x: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, at, size)

        value, slope = _row_slopes(div, take(logits_t), take(logits_s), temperature)
        slope = slope * take(weights)[:, None]
        put = jax.lax.dynamic_update_slice_in_dim
        return put(values, value, at, 0), put(logits_s, slope, at, 0)

    return jax.lax.fori_loop(0, _PARTS, part, (jnp.zeros_like(weights), logits_s))


def _row_slopes(
    div: FDivergence, logits_t: Array, logits_s: Array, temperature: Array
) -> tuple[Array, Array]:
    x, y = logits_t / temperature, logits_s / temperature
    norm_p = jax.nn.logsumexp(x, -1, keepdims=True)
    norm_q = jax.nn.logsumexp(y, -1, keepdims=True)
    log_p, log_q, ell = x - norm_p, y - norm_q, (x - y) - (norm_p - norm_q)
    terms, _ = parts(div)
    one = jnp.ones_like(ell)
    values, slopes = jax.jvp(
        lambda log_q, ell: terms(log_p, log_q, ell), (log_q, ell), (one, -one)
    )
    value, total = jnp.sum(values, -1), jnp.sum(slopes, -1)
    slopes = (slopes - jnp.exp(log_q) * total[:, None]) / temperature
    # Also the order that lets the slopes take the place of the logits without a copy:
    # they now wait for the sum of the values.
    return value, jnp.where(jnp.isnan(value)[:, None], jnp.nan, slopes)


def _add_product(total: Array, hidden: Array, slopes: Array) -> Array:
    """Total + hidden.T @ slopes, whose product is not formed at once."""
    blocks = math.gcd(len(total), _PARTS)
    size = len(total) // blocks

    def add(i: Array, total: Array) -> Array:
        part = jax.lax.dynamic_slice_in_dim(hidden, i * size, size, 1)
        old = jax.lax.dynamic_slice_in_dim(total, i * size, size)
        new = old + _logits(part.T, slopes)
        return jax.lax.dynamic_update_slice_in_dim(total, new, i * size, 0)

    return jax.lax.fori_loop(0, blocks, add, total)
