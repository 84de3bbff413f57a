"""Toy laws in the plane that are known exactly."""

import math

import jax.numpy as jnp
import numpy as np

from jaxdiv import _check
from jaxdiv.distributions import GaussianMixture


def gaussian_mixture_2d(name: str) -> GaussianMixture:
    r"""A mixture of round Gaussians in the plane.

    - "grid25": 25 of deviation 0.1 at the points of {-4, -2, 0, 2, 4}^2.
    - "ring8": 8 of deviation 0.3 on the circle of radius 4, from angle 0 on.
    - "imb8": "ring8" with the weights in proportion to 0.6^k, k = 0, ..., 7.
    - "four": 4 of deviation 0.4 at :math:`(\pm 1.5, \pm 1.5)`.

    Args:
      name: one of the above.

    Returns:
      `jaxdiv.distributions.GaussianMixture`, of JAX's default floating dtype.

    Raises:
      ValueError: the name is unknown; the message lists the names.

    Example:
      >>> import jax
      >>> from jaxdiv import datasets
      >>> mixture = datasets.gaussian_mixture_2d("imb8")
      >>> print(mixture.means.shape, f"{mixture.weights[0]:.4f}")
      (8, 2) 0.4068
      >>> print(mixture.sample(jax.random.key(0), (5,)).shape)
      (5, 2)

    References:
      Xu, Nie and Vahdat, 2025, arXiv:2502.15681; Skreta et al., 2024,
      arXiv:2412.17762, for "four".
    """
    _check.one_of("name", name, _LAWS)
    means, std, weights = _LAWS[name]
    weights = np.array(weights) / np.sum(weights)
    covs = np.full(len(means), std**2)
    return GaussianMixture(*(jnp.asarray(x, float) for x in (weights, means, covs)))


def _square(points: tuple[float, ...]) -> list[tuple[float, float]]:
    return [(x, y) for x in points for y in points]


_CIRCLE = [math.tau * k / 8 for k in range(8)]
_RING = [(4 * math.cos(angle), 4 * math.sin(angle)) for angle in _CIRCLE]
_LAWS = {
    "grid25": (_square((-4.0, -2.0, 0.0, 2.0, 4.0)), 0.1, 25 * [1.0]),
    "ring8": (_RING, 0.3, 8 * [1.0]),
    "imb8": (_RING, 0.3, [0.6**k for k in range(8)]),
    "four": (_square((-1.5, 1.5)), 0.4, 4 * [1.0]),
}
