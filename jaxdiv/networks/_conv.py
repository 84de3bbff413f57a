"""A convolution whose gradients XLA compiles well on CPU, also inside a loop.

XLA:CPU hands a convolution to its fast kernels only in the layout NHWC, HWIO -> NHWC.
It brings others into that layout, but not in the body of a loop (jax 0.10): there the
gradients of `lax.conv` ran 8 to 20 times slower than they do outside. Here both
gradients are written in that layout. The two bilinear maps below are each other's
transposes, so that every mode and order of derivative stays among them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxdiv.typing import Array

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _lax_conv(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT
    )


def _lax_kernel_grad(x: Array, y: Array, *, size: int) -> Array:
    shape = jax.ShapeDtypeStruct((size, size, x.shape[-1], y.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: _lax_conv(x, kernel), shape)(y)[0]


def _cpu_kernel_grad(x: Array, y: Array, *, size: int) -> Array:
    """A convolution of the images as channels: batch and channels change places."""
    half = size // 2
    grad = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        y.transpose(1, 2, 0, 3),
        (1, 1),
        [(half, half)] * 2,
        dimension_numbers=_LAYOUT,
    )
    return grad.transpose(1, 2, 0, 3)


_conv_p = Primitive("same_convolution")
_kernel_grad_p = Primitive("same_convolution_kernel_grad")

_conv_p.def_impl(_lax_conv)
_kernel_grad_p.def_impl(_lax_kernel_grad)
mlir.register_lowering(_conv_p, mlir.lower_fun(_lax_conv, multiple_results=False))
for rule, platform in ((_lax_kernel_grad, None), (_cpu_kernel_grad, "cpu")):
    lowering = mlir.lower_fun(rule, multiple_results=False)
    mlir.register_lowering(_kernel_grad_p, lowering, platform=platform)


@_conv_p.def_abstract_eval
def _conv_shape(x: Any, kernel: Any) -> Any:
    return x.update(shape=(*x.shape[:3], kernel.shape[3]))


@_kernel_grad_p.def_abstract_eval
def _kernel_grad_shape(x: Any, y: Any, *, size: int) -> Any:
    return x.update(shape=(size, size, x.shape[3], y.shape[3]))


def _turned(kernel: Array) -> Array:
    """The kernel of the transposed convolution."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


# Transposes: <y, conv(x, k)> = <conv(y, turned k), x> = <kernel_grad(x, y), k>.
ad.defbilinear(
    _conv_p,
    lambda ct, x, kernel: _conv_p.bind(ct, _turned(kernel)),
    lambda ct, x, kernel: _kernel_grad_p.bind(x, ct, size=kernel.aval.shape[0]),
)
ad.defbilinear(
    _kernel_grad_p,
    lambda ct, x, y, **_: _conv_p.bind(y, _turned(ct)),
    lambda ct, x, y, **_: _conv_p.bind(x, ct),
)


def _batch_conv(args: tuple, dims: tuple) -> tuple[Array, int]:
    x, kernel = args
    if dims[1] is None:  # more images for the same kernel
        x = jnp.moveaxis(x, dims[0], 0)
        y = _conv_p.bind(x.reshape(-1, *x.shape[2:]), kernel)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0
    return jax.vmap(_lax_conv, dims)(x, kernel), 0


def _batch_kernel_grad(args: tuple, dims: tuple, *, size: int) -> tuple[Array, int]:
    return jax.vmap(lambda x, y: _lax_kernel_grad(x, y, size=size), dims)(*args), 0


batching.primitive_batchers[_conv_p] = _batch_conv
batching.primitive_batchers[_kernel_grad_p] = _batch_kernel_grad


def conv(x: Array, kernel: Array) -> Array:
    """Correlation of images `(B, H, W, C)` with an odd kernel `(k, k, C, K)`.

    The images are padded with zeros to keep their size; differentiable in both
    arguments, in every mode and order.
    """
    dtype = jnp.result_type(x, kernel)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    if kernel.shape[0] == 1:
        return x @ kernel[0, 0]
    return _conv_p.bind(x, kernel)


class Conv(nnx.Module):
    """As `nnx.Conv` of stride 1 with an odd square kernel, by `conv`."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        size: int,
        *,
        kernel_init: nnx.Initializer,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (size, size, channels_in, channels_out)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels_out, jnp.float32))

    def __call__(self, x: Array) -> Array:
        return conv(x, self.kernel.get_value()) + self.bias.get_value()
