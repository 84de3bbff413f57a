r"""Optimality conditions, ready to attach.

A condition is a function of the unknown and of what it depends on: a residual F that is
zero at the solution, or a map T whose fixed point it is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.typing import Array, ArrayLike, PyTree

Condition = Callable[..., PyTree]


def stationarity(f: Callable[..., Array]) -> Condition:
    r"""The condition of an unconstrained minimum: the gradient vanishes.

    .. math:: F(x, \theta) = \nabla_x f(x, \theta)

    Args:
      f: objective `f(x, *theta) -> scalar`.

    Returns:
      The residual `F(x, *theta)`, shaped as `x`. Its derivative in x is the Hessian,
      which is symmetric.

    Example:
      >>> from jaxdiv import implicit
      >>> F = implicit.stationarity(lambda x, t: (x - t) ** 2)
      >>> print(F(3.0, 1.0))
      4.0

    References:
      Blondel et al., 2022, arXiv:2105.15183, table 1.
    """
    return jax.grad(f)


def proximal_gradient(
    f: Callable[..., Array], prox: Callable[..., PyTree], stepsize: ArrayLike = 1.0
) -> Condition:
    r"""The fixed point of a proximal-gradient step.

    .. math:: T(x, \theta_f, \theta_g) = \operatorname{prox}_{\eta g}\bigl(
       x - \eta \nabla_x f(x, \theta_f),\, \theta_g\bigr)

    Args:
      f: smooth part, `f(x, theta_f) -> scalar`.
      prox: proximal operator `prox(y, theta_g, stepsize)` of the other part.
      stepsize: the step :math:`\eta`. It has no part in the solution, but in the
        conditioning of the derivative: one over the Lipschitz constant of the gradient
        is the choice.

    Returns:
      The map `T(x, theta_f, theta_g=None)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import implicit
      >>> def soft(y, threshold, stepsize):
      ...     return jnp.sign(y) * jnp.maximum(jnp.abs(y) - stepsize * threshold, 0)
      >>> T = implicit.proximal_gradient(lambda x, y: jnp.sum((x - y) ** 2) / 2, soft)
      >>> print(T(jnp.zeros(2), jnp.array([2.0, -0.5]), 1.0))
      [ 1. -0.]

    References:
      Blondel et al., 2022, arXiv:2105.15183, table 1.
    """

    def T(x: PyTree, theta_f: PyTree, theta_g: PyTree = None) -> PyTree:
        return prox(_descend(f, x, theta_f, stepsize), theta_g, stepsize)

    return T


def projected_gradient(
    f: Callable[..., Array], proj: Callable[..., PyTree], stepsize: ArrayLike = 1.0
) -> Condition:
    r"""The fixed point of a projected-gradient step.

    .. math:: T(x, \theta_f, \theta_C) =
       \operatorname{proj}_C\bigl(x - \eta \nabla_x f(x, \theta_f),\, \theta_C\bigr)

    Args:
      f: objective `f(x, theta_f) -> scalar`.
      proj: Euclidean projection on the constraints, `proj(y)` or `proj(y, theta_C)`.
      stepsize: the step :math:`\eta`, best one over the Lipschitz constant.

    Returns:
      The map `T(x, theta_f, theta_C=None)`; `proj` is called with one argument where
      there is no `theta_C`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import implicit
      >>> f = lambda x, y: jnp.sum((x - y) ** 2) / 2
      >>> T = implicit.projected_gradient(f, implicit.projection.simplex)
      >>> print(T(jnp.array([0.5, 0.5]), jnp.array([2.0, 0.0])))
      [1. 0.]

    References:
      Blondel et al., 2022, arXiv:2105.15183, table 1.
    """

    def T(x: PyTree, theta_f: PyTree, theta_C: PyTree = None) -> PyTree:
        y = _descend(f, x, theta_f, stepsize)
        return proj(y) if theta_C is None else proj(y, theta_C)

    return T


def _descend(f: Callable[..., Array], x: PyTree, theta: PyTree, step: Any) -> PyTree:
    return jax.tree.map(lambda x, g: x - step * g, x, jax.grad(f)(x, theta))


def mirror_descent(f: Callable[..., Array], stepsize: Any = 1.0) -> Condition:
    r"""The fixed point of a mirror-descent step on the simplex, in the geometry of KL.

    .. math:: T_i = \frac{x_i e^{-\eta g_i}}{\sum_j x_j e^{-\eta g_j}},
       \qquad g = \nabla_x f(x, \theta)

    Args:
      f: objective `f(x, *theta) -> scalar`; the rows of x, over its last axis, are on
        the simplex.
      stepsize: the step :math:`\eta`.

    Returns:
      The map `T(x, *theta)`. Entries of x that are 0 stay there, and the system may be
      singular: prefer `projected_gradient` for sparse solutions.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import implicit
      >>> T = implicit.mirror_descent(lambda x, c: jnp.vdot(x, c))
      >>> x = T(jnp.array([0.5, 0.5]), jnp.log(jnp.array([1.0, 3.0])))
      >>> print([f"{p:.2f}" for p in x])
      ['0.75', '0.25']

    References:
      Blondel et al., 2022, arXiv:2105.15183, table 1; Beck and Teboulle, 2003.
    """

    def step(x: Array, g: Array) -> Array:
        g = g - jnp.min(g, -1, keepdims=True)
        weights = x * jnp.exp(-stepsize * g)
        return weights / jnp.sum(weights, -1, keepdims=True)

    def T(x: PyTree, *theta: PyTree) -> PyTree:
        return jax.tree.map(step, x, jax.grad(f)(x, *theta))

    return T


def kkt(
    f: Callable[..., Array],
    eq: Callable[..., PyTree] | None = None,
    ineq: Callable[..., PyTree] | None = None,
) -> Condition:
    r"""The Karush-Kuhn-Tucker conditions of a constrained minimum.

    .. math:: F = \bigl(\nabla_z f + (\partial_z H)^\top \nu
       + (\partial_z G)^\top\lambda,\; H,\; \lambda \odot G\bigr)

    for the problem of minimising f subject to H(z) = 0 and G(z) <= 0, with
    :math:`\lambda \ge 0`.

    Args:
      f: objective `f(z, *theta) -> scalar`.
      eq: equality constraints `H(z, *theta)`, a pytree; None where there are none.
      ineq: inequality constraints `G(z, *theta)`, a pytree; None where there are none.

    Returns:
      The residual `F((z, nu, lam), *theta)`, a triple; a multiplier whose constraints
      are absent is None. Where a constraint is active with a multiplier of 0 its
      derivative is singular: solve with "lstsq" there.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import implicit
      >>> F = implicit.kkt(lambda z, t: jnp.sum((z - t) ** 2), eq=lambda z, t: z.sum())
      >>> z, nu = jnp.array([1.0, -1.0]), jnp.array(-2.0)
      >>> print(F((z, nu, None), jnp.array([2.0, 0.0])))
      (Array([-4., -4.], dtype=float32), Array(0., dtype=float32), None)

    References:
      Blondel et al., 2022, arXiv:2105.15183, table 1.
    """

    def F(x: tuple[PyTree, PyTree, PyTree], *theta: PyTree) -> tuple:
        z, nu, lam = x

        def pull(constraint: Callable | None, multiplier: PyTree) -> tuple:
            if constraint is None:
                return None, jax.tree.map(jnp.zeros_like, z)
            value, back = jax.vjp(lambda z: constraint(z, *theta), z)
            return value, back(multiplier)[0]

        H, along_H = pull(eq, nu)
        G, along_G = pull(ineq, lam)
        slope = jax.tree.map(
            lambda *parts: sum(parts), jax.grad(f)(z, *theta), along_H, along_G
        )
        return slope, H, jax.tree.map(jnp.multiply, lam, G)

    return F


def block(
    f: Callable[..., Array],
    proxes: Sequence[Callable[..., PyTree]],
    stepsizes: Sequence[ArrayLike],
) -> Condition:
    r"""The fixed point of proximal-gradient steps, one for each block of the unknown.

    .. math:: T_j = \operatorname{prox}_{\eta_j g_j}\bigl(
       x_j - \eta_j \nabla_{x_j} f(x, \theta_f),\, \theta_{g,j}\bigr)

    Args:
      f: smooth part `f(x, theta_f) -> scalar`, x a tuple of blocks.
      proxes: for each block its operator `prox(y, theta_g, stepsize)`.
      stepsizes: for each block its step, best one over the Lipschitz constant of the
        gradient in that block.

    Returns:
      The map `T(x, theta_f, theta_g=None)`, `theta_g` a tuple of one entry a block.

    Raises:
      ValueError: not as many steps, blocks or entries of `theta_g` as operators.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import implicit
      >>> free = lambda y, theta, stepsize: y
      >>> positive = lambda y, theta, stepsize: jnp.maximum(y, 0)
      >>> f = lambda x, t: (x[0] - t) ** 2 + (x[1] + t) ** 2
      >>> T = implicit.block(f, (free, positive), (0.5, 0.5))
      >>> print(*T((jnp.array(0.0), jnp.array(0.0)), 1.0))
      1.0 0.0

    References:
      Blondel et al., 2022, arXiv:2105.15183, table 1.
    """
    proxes, stepsizes = tuple(proxes), tuple(stepsizes)
    if len(stepsizes) != len(proxes):
        raise ValueError(f"Got {len(proxes)} proxes and {len(stepsizes)} stepsizes.")

    def T(x: tuple, theta_f: PyTree, theta_g: tuple | None = None) -> tuple:
        theta_g = (None,) * len(proxes) if theta_g is None else theta_g
        if not len(x) == len(theta_g) == len(proxes):
            raise ValueError(
                f"Got {len(x)} blocks and {len(theta_g)} entries of theta_g for "
                f"{len(proxes)} proxes."
            )
        blocks = zip(
            proxes, stepsizes, x, jax.grad(f)(x, theta_f), theta_g, strict=True
        )
        return tuple(
            prox(jax.tree.map(lambda x, g, step=step: x - step * g, x, g), theta, step)
            for prox, step, x, g, theta in blocks
        )

    return T
