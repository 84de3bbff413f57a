"""The Sinkhorn divergence: entropic transport without its bias."""

import math

import jax
import jax.numpy as jnp

from jaxdiv.transport._cost import Cost, clouds
from jaxdiv.transport._sinkhorn import ot_cost, self_cost
from jaxdiv.typing import Array, ArrayLike


def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    *,
    eps: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    cost: Cost = "sqeuclidean",
    rho: ArrayLike = math.inf,
    static_y: bool = False,
    threshold: float = 1e-3,
    max_iterations: int = 2000,
    method: str = "auto",
    block_size: int | None = None,
) -> Array:
    r"""Debiased entropic transport cost between two weighted point clouds.

    .. math:: S_\varepsilon(x, y) = OT_\varepsilon(x, y)
              - \tfrac12 OT_\varepsilon(x, x) - \tfrac12 OT_\varepsilon(y, y)
              + \tfrac\varepsilon2 (m_a - m_b)^2

    The last term, of the total masses, is 0 unless marginals are soft. For the squared
    Euclidean and Euclidean costs the divergence is non-negative, and 0 exactly between
    equal laws, up to the error that the threshold leaves.

    Args:
      x: points, shape `(n, d)`.
      y: points, shape `(m, d)`.
      eps: strength of the regularisation, in units of the cost.
      a: weights of x; None is uniform.
      b: weights of y; None is uniform.
      cost: a symmetric cost: `"sqeuclidean"`, `"euclidean"`, or a function of two
        points.
      rho: price of other marginals than a and b, as in `sinkhorn`; infinite holds them.
      static_y: y and b are constants; their own term is then left out of the
        derivative.
      threshold: L1 error of the marginals at which a solve stops.
      max_iterations: iterations of a solve at most.
      method: as in `sinkhorn`.
      block_size: as in `sinkhorn`.

    Returns:
      A scalar.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: as `sinkhorn`.

    Differentiable by Danskin's theorem, as `ot_cost`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x = jnp.array([[0.0], [1.0], [3.0]])
      >>> print(f"{transport.sinkhorn_divergence(x, x + 2, eps=0.1):.3f}")
      4.000

    References:
      Feydy et al., 2018, arXiv:1810.08278, eq. (3).
    """
    x, y = clouds(x, y)
    options = {
        "eps": eps,
        "cost": cost,
        "threshold": threshold,
        "max_iterations": max_iterations,
        "method": method,
        "block_size": block_size,
    }
    constant = jax.lax.stop_gradient if static_y else lambda z: z
    between = ot_cost(x, y, a=a, b=b, rho_a=rho, rho_b=rho, **options)
    within_x = self_cost(x, a, rho=rho, **options)
    within_y = self_cost(constant(y), constant(b), rho=rho, **options)
    value = between - (within_x + within_y) / 2
    if isinstance(rho, float) and math.isinf(rho):
        return value
    mass_a, mass_b = (1 if w is None else jnp.sum(w) for w in (a, constant(b)))
    return value + eps / 2 * (mass_a - mass_b) ** 2
