"""A network that is convex in its input."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv import _check
from jaxdiv.typing import Array, ArrayLike


class ICNN(nnx.Module):
    r"""An input-convex network with a quadratic part, from points to numbers.

    .. math:: z_1 = \sigma(A_1 x + b_1), \qquad
              z_{k+1} = \sigma(W_k z_k + A_{k+1} x + b_{k+1}), \qquad
              \varphi(x) = w^\top z_K + \tfrac12 |B x|^2 + c^\top x

    with the softplus for :math:`\sigma`, convex and increasing, and W, w softpluses of
    free weights, so positive: whatever the weights, :math:`\varphi` is convex. It
    starts near :math:`|x|^2/2`, whose gradient is the identity.

    Args:
      size: number of entries of a point.
      width: units of a hidden layer.
      depth: number of hidden layers.
      rngs: flax's random streams, of which `params` makes the initial weights.

    Raises:
      ValueError: a size is smaller than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxdiv import networks
      >>> apply, params = networks.pure(networks.ICNN(2, rngs=nnx.Rngs(0)))
      >>> x = jnp.array([[1.0, -1.0], [3.0, 0.0]])
      >>> values = apply(params, x)
      >>> print(values.shape, apply(params, x.mean(0)) < values.mean())
      (2,) True

    References:
      Amos et al., 2017, arXiv:1609.07152; Bunne et al., 2022, arXiv:2202.08170.
    """

    def __init__(
        self, size: int, *, width: int = 64, depth: int = 2, rngs: nnx.Rngs
    ) -> None:
        _check.in_range(1, closed=True, size=size, width=width, depth=depth)
        self.size = size
        bias = nnx.initializers.normal(1.0)
        self.skips = nnx.List(
            [nnx.Linear(size, width, bias_init=bias, rngs=rngs) for _ in range(depth)]
        )
        self.mixes = nnx.List(
            [
                nnx.Param(jax.random.normal(rngs.params(), (width, width)))
                for _ in range(depth - 1)
            ]
        )
        self.out = nnx.Param(jnp.full(width, -3.0))  # its softplus is 0.05
        self.root = nnx.Param(jnp.eye(size))
        self.slope = nnx.Param(jnp.zeros(size))

    def __call__(self, x: ArrayLike) -> Array:
        """The values of the convex function.

        Args:
          x: points, shape `(..., size)`.

        Returns:
          Array of shape `(...)`.

        Raises:
          ValueError: the last axis is not of that size.
        """
        (x,) = _check.floating(x=x)
        if x.shape[-1:] != (self.size,):
            raise ValueError(
                f"x has shape {x.shape}; expected {self.size} entries in its last axis."
            )
        first, *rest = self.skips
        z = jax.nn.softplus(first(x))
        for mix, skip in zip(self.mixes, rest, strict=True):
            z = jax.nn.softplus(z @ _mean(mix) + skip(x))
        ridges = z @ _mean(self.out) * len(self.out[...]) ** 0.5
        return ridges + jnp.sum((x @ self.root) ** 2, -1) / 2 + x @ self.slope


def _mean(free: nnx.Param) -> Array:
    """Positive weights, divided by the number of units that they sum over."""
    return jax.nn.softplus(free[...]) / free[...].shape[0]
