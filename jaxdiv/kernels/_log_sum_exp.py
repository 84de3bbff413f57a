"""Log-sum-exp of biased inner products, in memory O(n + m).

    out_i = log sum_j exp(h_j + x_i . y_j)

Half-steps of Sinkhorn's iteration are of this form where the cost is an inner product,
or a squared distance, up to terms of x alone and of y alone: they enter out and h. A
block of exponents is formed at a time, and what is kept of it is its maximum and the
sum of the exponentials relative to that (Milakov and Gimelshein, 2018,
arXiv:1805.02867).

A GPU runs its blocks of rows at once, each of which goes through the columns in a loop.
A TPU takes the blocks one after the other, in the order of the grid, and fetches the
next meanwhile: the running sums then live in scratch memory.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu, triton

from jaxdiv.typing import Array

_GPU_BLOCK, _GPU_BYTES = 64, 256  # points of a tile, and what of each is loaded at once
_TPU_ROWS, _TPU_COLUMNS, _TPU_FEATURES = 256, 512, 512
_SUBLANES, _LANES = 8, 128  # of a register of a TPU


def reference(x: Array, y: Array, h: Array) -> Array:
    """What `log_sum_exp` computes, by way of the whole matrix."""
    return jax.nn.logsumexp(h + jnp.matmul(x, y.T, precision="highest"), axis=1)


def log_sum_exp(x: Array, y: Array, h: Array) -> Array:
    """Log-sum-exp over j of `h_j + x_i . y_j`.

    Args:
      x: shape `(n, d)`, float32 or float64; a TPU knows float32 alone.
      y: shape `(m, d)`.
      h: shape `(m,)`; -inf leaves a column out.

    Returns:
      Array of shape `(n,)`; -inf where all of `h` is.

    Not differentiable: callers attach the derivative of what they solve.
    """
    on_gpu, elsewhere = by_triton, partial(by_triton, interpret=True)
    return jax.lax.platform_dependent(
        *(x, y, h), cuda=on_gpu, rocm=on_gpu, tpu=by_mosaic, default=elsewhere
    )


def by_triton(x: Array, y: Array, h: Array, *, interpret: bool = False) -> Array:
    """`log_sum_exp` as a GPU computes it."""
    n, d = x.shape
    chunk = min(_GPU_BYTES // x.dtype.itemsize, max(16, pl.next_power_of_2(d)))
    x, y, h = _padded(x, y, h, _GPU_BLOCK, _GPU_BLOCK, chunk)
    rows = x.shape[0]
    call = pl.pallas_call(
        partial(_triton_kernel, chunk=chunk),
        out_shape=jax.ShapeDtypeStruct((rows,), x.dtype),
        grid=(rows // _GPU_BLOCK,),
        in_specs=[
            pl.BlockSpec((_GPU_BLOCK, x.shape[1]), lambda i: (i, 0)),
            pl.BlockSpec(y.shape, lambda i: (0, 0)),
            pl.BlockSpec(h.shape, lambda i: (0,)),
        ],
        out_specs=pl.BlockSpec((_GPU_BLOCK,), lambda i: (i,)),
        # With 4 warps the registers spill.
        compiler_params=triton.CompilerParams(num_warps=8, num_stages=2),
        interpret=interpret,
        name="log_sum_exp",
    )
    return call(x, y, h)[:n]


def by_mosaic(x: Array, y: Array, h: Array, *, interpret: bool = False) -> Array:
    """`log_sum_exp` as a TPU computes it."""
    n, d = x.shape
    rows = min(_TPU_ROWS, _multiple(n, _SUBLANES))
    columns = min(_TPU_COLUMNS, _multiple(y.shape[0], _LANES))
    chunk = min(_TPU_FEATURES, _multiple(d, _LANES))
    x, y, h = _padded(x, y, h, rows, columns, chunk)
    running = tpu.VMEM((rows, 1), x.dtype)
    call = pl.pallas_call(
        _mosaic_kernel,
        out_shape=jax.ShapeDtypeStruct((x.shape[0], 1), x.dtype),
        grid=(x.shape[0] // rows, y.shape[0] // columns, x.shape[1] // chunk),
        in_specs=[
            pl.BlockSpec((rows, chunk), lambda i, j, k: (i, k)),
            pl.BlockSpec((columns, chunk), lambda i, j, k: (j, k)),
            pl.BlockSpec((1, columns), lambda i, j, k: (0, j)),
        ],
        out_specs=pl.BlockSpec((rows, 1), lambda i, j, k: (i, 0)),
        scratch_shapes=[tpu.VMEM((rows, columns), x.dtype), running, running],
        compiler_params=tpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary")
        ),
        interpret=interpret,
        name="log_sum_exp",
    )
    return call(x, y, h[None])[:n, 0]


def _triton_kernel(x: Any, y: Any, h: Any, out: Any, *, chunk: int) -> None:
    chunks, columns = x.shape[1] // chunk, y.shape[0] // _GPU_BLOCK
    first = x[:, pl.ds(0, chunk)]  # all there is, in most cases

    def body(j: Array, running: tuple[Array, Array]) -> tuple[Array, Array]:
        block = pl.ds(j * _GPU_BLOCK, _GPU_BLOCK)

        def add(k: Array, z: Array) -> Array:
            features = pl.ds(k * chunk, chunk)
            return z + _products(x[:, features], y[block, features])

        z = h[block][None, :] + _products(first, y[block, pl.ds(0, chunk)])
        return _fold(running, jax.lax.fori_loop(1, chunks, add, z))

    start = jnp.full(_GPU_BLOCK, -jnp.inf, x.dtype), jnp.zeros(_GPU_BLOCK, x.dtype)
    top, total = jax.lax.fori_loop(0, columns, body, start)
    out[:] = top + jnp.log(total)


def _mosaic_kernel(
    x: Any, y: Any, h: Any, out: Any, z: Any, top: Any, total: Any
) -> None:
    j, k = pl.program_id(1), pl.program_id(2)
    last_k = k == pl.num_programs(2) - 1

    @pl.when((j == 0) & (k == 0))
    def _() -> None:
        top[...] = jnp.full_like(top, -jnp.inf)
        total[...] = jnp.zeros_like(total)

    @pl.when(k == 0)
    def _() -> None:
        z[...] = jnp.broadcast_to(h[...], z.shape)

    z[...] += _products(x[...], y[...])

    @pl.when(last_k)
    def _() -> None:
        new_top, new_total = _fold((top[:, 0], total[:, 0]), z[...])
        top[...], total[...] = new_top[:, None], new_total[:, None]

    @pl.when(last_k & (j == pl.num_programs(1) - 1))
    def _() -> None:
        out[...] = top[...] + jnp.log(total[...])


def _products(x: Array, y: Array) -> Array:
    # Less than full precision keeps Sinkhorn's iteration from its threshold.
    return jax.lax.dot_general(
        *(x, y, (((1,), (1,)), ((), ()))),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=x.dtype,
    )


def _fold(running: tuple[Array, Array], z: Array) -> tuple[Array, Array]:
    """Running maximum and sum of exponentials relative to it, with those of z."""
    top, total = running
    new = jnp.maximum(top, jnp.max(z, 1))
    base = jnp.where(new == -jnp.inf, 0, new)  # -inf less -inf would be NaN
    return new, total * jnp.exp(top - base) + jnp.sum(jnp.exp(z - base[:, None]), 1)


def _padded(
    x: Array, y: Array, h: Array, rows: int, columns: int, chunk: int
) -> tuple[Array, Array, Array]:
    """The arrays filled up to whole blocks, in a way that leaves the sums alone."""
    (n, d), m = x.shape, y.shape[0]
    x = jnp.pad(x, [(0, -n % rows), (0, -d % chunk)])
    y = jnp.pad(y, [(0, -m % columns), (0, -d % chunk)])
    return x, y, jnp.pad(h, (0, -m % columns), constant_values=-jnp.inf)


def _multiple(size: int, of: int) -> int:
    return -(-size // of) * of
