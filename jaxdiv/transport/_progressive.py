"""The progressive entropic map: many short transports instead of a long one."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.transport._cost import clouds, mean_cost
from jaxdiv.transport._coupling import check_masses
from jaxdiv.transport._plan import entropic_map
from jaxdiv.transport._sinkhorn import SinkhornResult, sinkhorn
from jaxdiv.typing import Array, ArrayLike

Schedule = int | tuple[ArrayLike, ArrayLike]


def progot_map(
    x: ArrayLike,
    y: ArrayLike,
    schedule: Schedule = 4,
    *,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    relative_eps: float = 0.1,
    threshold: float = 1e-3,
    max_iterations: int = 2000,
) -> Callable[[Array], Array]:
    r"""Progressive entropic estimate of the transport map, at any point.

    With the entropic map :math:`T_k` from the moved cloud :math:`x^{(k)}` to y,

    .. math:: x^{(k+1)} = (1 - \alpha_k)\, x^{(k)} + \alpha_k T_k(x^{(k)}),
              \qquad \alpha_K = 1

    for K steps, the last of which goes all the way. New points follow the same steps.
    One step is `entropic_map`. More let eps be large where the clouds are far apart and
    small where they are near: the error depends on eps much less, and is about that of
    `entropic_map` at its best eps.

    Args:
      x: source points, shape `(n, d)`.
      y: target points, shape `(m, d)`.
      schedule: number of steps K, at constant speed, alpha_k = 1/(K - k + 1), with
        eps_k in proportion to the way that is left. Or `(alphas, eps)`, two arrays of
        shape `(K,)`; the last of the alphas is taken as 1.
      a: weights of x; None is uniform.
      b: weights of y; None is uniform.
      relative_eps: first eps for a number of steps, as a share of the mean cost
        between x and y.
      threshold: L1 error of the marginals at which a solve stops.
      max_iterations: iterations of a solve at most.

    Returns:
      The map, a function from points `(k, d)` to points `(k, d)`. It is a pytree
      (`jax.tree_util.Partial`), so that a jitted function may return it; its
      `keywords["results"]` is the `SinkhornResult` of all steps, stacked, with
      `converged` and the rest.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: a shape does not fit, there is no step, an alpha is not in [0, 1], or
        as `sinkhorn`.

    Differentiable in the new points, `x`, `y`, `a`, `b`, and in a schedule of arrays;
    the eps of a number of steps is a constant in derivatives.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x = jnp.linspace(-1, 1, 50)[:, None]
      >>> T = transport.progot_map(x, 3 * x + 1, 8)
      >>> print(T(jnp.array([[0.0], [0.5]])).round(1).ravel())
      [1.  2.5]

    References:
      Kassraie et al., 2024, arXiv:2406.05061, algorithm 2.
    """
    x, y = clouds(x, y)
    _check.positive(relative_eps=relative_eps)
    if isinstance(schedule, int):
        alphas, eps = _constant_speed(x, y, schedule, relative_eps)
    else:
        alphas, eps = _checked(*schedule)
    weights = {
        name: jnp.full(len(points), 1 / len(points), x.dtype) if w is None else w
        for name, w, points in (("a", a, x), ("b", b, y))
    }
    a, b = _check.floating(**weights)
    if (a.shape, b.shape) != (x.shape[:1], y.shape[:1]):
        raise ValueError(
            f"a has shape {a.shape} and b {b.shape}; expected {x.shape[:1]} and "
            f"{y.shape[:1]}."
        )
    check_masses(a=a, b=b)
    alphas, eps = alphas.astype(x.dtype).at[-1].set(1), eps.astype(x.dtype)
    results = _solve(x, y, a, b, alphas, eps, threshold, max_iterations)
    return jax.tree_util.Partial(_follow, y=y, alphas=alphas, results=results)


@partial(jax.jit, static_argnums=(6, 7))
def _solve(
    x: Array,
    y: Array,
    a: Array,
    b: Array,
    alphas: Array,
    eps: Array,
    threshold: float,
    max_iterations: int,
) -> SinkhornResult:
    limits = {"threshold": threshold, "max_iterations": max_iterations}

    def step(points: Array, now: tuple[Array, Array]) -> tuple[Array, SinkhornResult]:
        alpha, eps = now
        result = sinkhorn(points, y, eps=eps, a=a, b=b, **limits)
        return _moved(points, y, alpha, result), result

    return jax.lax.scan(step, x, (alphas, eps))[1]


@jax.jit
def _follow(
    points: ArrayLike, *, y: Array, alphas: Array, results: SinkhornResult
) -> Array:
    points, y = clouds(points, y)

    def step(points: Array, now: tuple[Array, SinkhornResult]) -> tuple[Array, None]:
        return _moved(points, y, *now), None

    return jax.lax.scan(step, points, (alphas, results))[0]


def _moved(points: Array, y: Array, alpha: Array, result: SinkhornResult) -> Array:
    return (1 - alpha) * points + alpha * entropic_map(result, y, points)


def _constant_speed(
    x: Array, y: Array, steps: int, relative_eps: float
) -> tuple[Array, Array]:
    _check.in_range(1, closed=True, schedule=steps)
    ahead = 1 - jnp.arange(steps, dtype=x.dtype) / steps
    return 1 / (steps * ahead), relative_eps * mean_cost(x, y, "sqeuclidean") * ahead


def _checked(alphas: ArrayLike, eps: ArrayLike) -> tuple[Array, Array]:
    alphas, eps = _check.floating(alphas=alphas, eps=eps)
    if alphas.ndim != 1 or alphas.shape != eps.shape or not alphas.size:
        raise ValueError(
            f"The schedule has shapes {alphas.shape} and {eps.shape}; expected two "
            "arrays of shape (K,), K at least 1."
        )
    _check.in_range(0.0, 1.0, closed=True, alphas=alphas)
    _check.positive(eps=eps)
    return alphas, eps
