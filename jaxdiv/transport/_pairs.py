"""Pairs of laws between which the optimal map is known."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.typing import Array, ArrayLike, Key


def convex_potential_pair(
    key: Key, d: int, k: int
) -> tuple[
    Callable[[ArrayLike], Array],
    Callable[[ArrayLike], Array],
    Callable[[Key, int], Array],
]:
    r"""A random law and a convex potential, whose gradient is optimal from that law.

    .. math:: \phi(x) = 0.15\,|x|^2 + \frac{1.5}{\sqrt k}\sum_{i=1}^k
              \log\cosh(w_i^\top x + b_i), \qquad
              \nabla\phi(x) = 0.3\,x + \frac{1.5}{\sqrt k} W^\top\tanh(Wx + b)

    with entries of W from N(0, 2.25/d) and of b from N(0, 1). The law is an equal
    mixture of three Gaussians of standard deviation 0.5, with centres from N(0, 1.44).

    Args:
      key: key of the potential and of the centres.
      d: dimension.
      k: number of ridges of the potential.

    Returns:
      `(phi, grad_phi, sampler)`: `phi(x)` of points `[..., d]` has shape `[...]`;
      `grad_phi(x)`, the optimal map for the squared Euclidean cost, has that of x;
      `sampler(key, n)` draws `(n, d)` points of the law.

    Raises:
      ValueError: `d` or `k` is less than 1.

    `phi` and `grad_phi` are smooth.

    Example:
      >>> import jax
      >>> from jaxdiv import transport
      >>> phi, T, sampler = transport.convex_potential_pair(jax.random.key(0), 2, 6)
      >>> x = sampler(jax.random.key(1), 32)
      >>> print(f"{abs(transport.exact_monge_gap(x, T(x))):.4f}")
      0.0000

    References:
      Brenier, 1991; Korotin et al., 2021, arXiv:2106.01954, for the use of such pairs.
    """
    _check.in_range(1, closed=True, d=d, k=k)
    key_w, key_b, key_c = jax.random.split(key, 3)
    W = 1.5 * jax.random.normal(key_w, (k, d)) / d**0.5
    b = jax.random.normal(key_b, (k,))
    centres = 1.2 * jax.random.normal(key_c, (3, d))
    scale = 1.5 / k**0.5

    def ridges(x: ArrayLike) -> tuple[Array, Array, Array]:
        (x,) = _check.floating(x=x)
        w = W.astype(x.dtype)
        z = jnp.matmul(x, w.T, precision="highest") + b.astype(x.dtype)
        return x, w, z

    def phi(x: ArrayLike) -> Array:
        x, _, z = ridges(x)
        log_cosh = jnp.logaddexp(z, -z) - jnp.log(2).astype(x.dtype)
        return 0.15 * jnp.sum(x**2, -1) + scale * jnp.sum(log_cosh, -1)

    def grad_phi(x: ArrayLike) -> Array:
        x, w, z = ridges(x)
        return 0.3 * x + scale * jnp.matmul(jnp.tanh(z), w, precision="highest")

    def sampler(key: Key, n: int) -> Array:
        key_which, key_noise = jax.random.split(key)
        which = jax.random.randint(key_which, (n,), 0, 3)
        return centres[which] + 0.5 * jax.random.normal(key_noise, (n, d))

    return phi, grad_phi, sampler
