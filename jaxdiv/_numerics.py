"""Stable arithmetic that several rooms stand on."""

import math

import jax.numpy as jnp

from jaxdiv.typing import Array


def exp_remainder(x: Array) -> Array:
    r"""The remainder of second order, :math:`e^x - 1 - x`, without cancellation.

    Every f-divergence is a sum of such remainders: near x = 0, where the naive form
    loses all digits and turns negative, this one keeps them and stays non-negative.
    """
    # Taylor terms up to x^k / k! reach machine precision on |x| < 1/2.
    last = 9 if x.dtype == jnp.float32 else 16
    small = jnp.abs(x) < 0.5
    near = jnp.where(small, x, 0)
    series = jnp.zeros_like(x)
    for k in range(last, 1, -1):
        series = series * near + 1 / math.factorial(k)
    # `far` keeps the branch that is not taken finite, and with it the gradient.
    far = jnp.where(small, 1, x)
    return jnp.where(small, near * near * series, jnp.expm1(far) - far)
