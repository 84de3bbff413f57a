"""Stable arithmetic that several rooms stand on."""

import math

import jax.numpy as jnp
from jax.scipy.special import entr

from jaxdiv.typing import Array


def _exp_series(x: Array) -> Array:
    """(e^x - 1 - x) / x^2 on |x| <= 1, by its Taylor series to machine precision."""
    last = 11 if x.dtype == jnp.float32 else 19
    series = jnp.zeros_like(x)
    for k in range(last, 1, -1):
        series = series * x + 1 / math.factorial(k)
    return series


def exp_remainder_near(x: Array) -> Array:
    """`exp_remainder` on |x| <= 1 only, without an exponential."""
    return x * x * _exp_series(x)


def exp_remainder(x: Array) -> Array:
    r"""The remainder of second order, :math:`e^x - 1 - x`, without cancellation.

    Every f-divergence is a sum of such remainders: near x = 0, where the naive form
    loses all digits and turns negative, this one keeps them and stays non-negative.
    """
    small = jnp.abs(x) < 1
    near = jnp.where(small, x, 0)
    # `far` keeps the branch that is not taken finite, and with it the gradient.
    far = jnp.where(small, 1, x)
    return jnp.where(small, exp_remainder_near(near), jnp.expm1(far) - far)


def exp_remainder_ratio(x: Array) -> Array:
    r"""The entire function :math:`(e^x - 1 - x) / x^2`, 1/2 at x = 0."""
    small = jnp.abs(x) < 1
    near, far = jnp.where(small, x, 0), jnp.where(small, 1, x)
    return jnp.where(small, _exp_series(near), (jnp.expm1(far) - far) / far / far)


def log1p_ratio(x: Array) -> Array:
    r"""The smooth function :math:`\log(1 + x) / x` on x > -1, 1 at x = 0."""
    small = jnp.abs(x) < 0.1
    near, far = jnp.where(small, x, 0), jnp.where(small, 1, x)
    series = jnp.zeros_like(x)
    for k in range(8 if x.dtype == jnp.float32 else 16, 0, -1):
        series = 1 / k - near * series
    return jnp.where(small, series, jnp.log1p(far) / far)


def log_ratio(x: Array, y: Array, log_y: Array) -> Array:
    """log(x / y) of positive numbers, with all its digits near x = y."""
    close = jnp.abs(x - y) < y / 4
    relative = jnp.where(close, x - y, 0) / jnp.where(close, y, 1)
    return jnp.where(close, jnp.log1p(relative), jnp.log(x) - log_y)


def kl_terms(x: Array, y: Array, log_y: Array) -> Array:
    """Terms x log(x / y) - x + y >= 0; y may underflow where its log does not."""
    x_zero, y_zero = x == 0, log_y == -jnp.inf
    zero = x_zero | y_zero
    a, b = jnp.where(zero, 1, x), jnp.where(zero, 1, y)
    ell = log_ratio(a, b, jnp.where(zero, 0, log_y))
    near = jnp.abs(ell) < 1
    close = jnp.where(near, ell, 0)
    terms = jnp.where(near, a * exp_remainder_near(-close), a * (ell - 1) + b)
    # The entropy of 0 is 0, with the slope that the term has there.
    at_zero = y - entr(jnp.where(x_zero, x, 1))
    return jnp.where(x_zero, at_zero, jnp.where(y_zero, jnp.inf, terms))
