"""Conditional flow matching, with batches paired by optimal transport."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from jaxdiv import _check
from jaxdiv.transport._cost import cost_matrix, mean_cost
from jaxdiv.transport._monge_gap import assignment
from jaxdiv.transport._plan import plan
from jaxdiv.transport._sinkhorn import sinkhorn
from jaxdiv.transport._trainer import (
    SCALE_POINTS,
    THRESHOLD,
    Metrics,
    OnChunk,
    adam,
    inputs,
    mlp,
    train,
)
from jaxdiv.typing import Array, ArrayLike, Key, Params

Velocity = Callable[[Params, Array, Array], Array]

_PAIRINGS = ("exact", "independent", "sinkhorn")
_METHODS = ("euler", "heun")


def fit_otcfm(
    key: Key,
    x: ArrayLike,
    y: ArrayLike,
    *,
    pairing: str = "sinkhorn",
    net: tuple[Callable[[Key], Params], Velocity] | None = None,
    eps: float = 0.02,
    steps: int = 1000,
    batch_size: int = 256,
    optimizer: optax.GradientTransformation | None = None,
    on_chunk: OnChunk | None = None,
) -> tuple[Callable[..., Array], Params, Metrics]:
    r"""Fits a flow that carries x onto y along nearly straight lines.

    .. math:: \min_\theta\; \mathbb E\,|v_\theta((1 - t)\,x + t\,y,\; t) - (y - x)|^2,
              \qquad t \sim U(0, 1)

    over pairs (x, y) drawn from the optimal plan between two minibatches. The map is
    the end of the flow dz/dt = v(z, t) from z = x. The larger the batch, the nearer is
    it to the optimal map and the straighter are its paths, to the point where one step
    follows them.

    Args:
      key: key of the initial weights, of the batches and of the pairs.
      x: source points, shape `(n, d)`.
      y: target points, shape `(m, d)`.
      pairing: `"sinkhorn"` draws a partner for each x from the entropic plan;
        `"exact"` takes the optimal assignment, solved by SciPy on the host in O(B^3);
        `"independent"` leaves the batches as drawn, plain flow matching.
      net: pair of functions `init(key) -> params` and `apply(params, x, t)`, with t of
        shape `(n,)`, to the velocities; None is an MLP of three layers of 128 units.
      eps: regularisation of the pairing, as a share of the mean squared distance
        between the clouds.
      steps: gradient steps.
      batch_size: points of each cloud a step.
      optimizer: None is Adam at 3e-3, decayed to 0 by a cosine.
      on_chunk: called as `on_chunk(steps_done, last_metrics)` about every 50 steps.

    Returns:
      `(apply, params, history)`: `apply(params, x, steps=16, method="euler")` is the
      map, integrated in that many steps of `"euler"` or `"heun"`, of one and two
      evaluations. The history holds an array with one entry a step for each of
      `"loss"`, `"cost"` (the mean squared distance of the pairs) and `"grad_norm"`,
      and `"status"`: `"done"`, or `"diverged"` when a step was not finite; the
      parameters are then those before that step.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: a shape does not fit, a number is out of range, or a name is unknown.

    The fit is not differentiable; the map is, in the parameters and the points.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x = jax.random.normal(jax.random.key(0), (200, 1))
      >>> apply, params, history = transport.fit_otcfm(
      ...     jax.random.key(1), x, x + 2, steps=100, batch_size=64
      ... )
      >>> print(history["status"], f"{jnp.mean(apply(params, x, steps=1) - x):.0f}")
      done 2

    References:
      Tong et al., 2023, arXiv:2302.00482, section 3.2.3; Lipman et al., 2022,
      arXiv:2210.02747.
    """
    _check.one_of("pairing", pairing, _PAIRINGS)
    x, y = inputs(x, y, steps=steps, batch_size=batch_size)
    _check.positive(eps=eps)
    init, velocity = net or _velocity_mlp(x.shape[1], x.dtype)
    scale = eps * mean_cost(x[:SCALE_POINTS], y[:SCALE_POINTS], "sqeuclidean")

    def partners(key: Key, x: Array, y: Array) -> Array:
        if pairing == "independent":
            return y
        if pairing == "exact":
            index = jax.ShapeDtypeStruct((len(x),), jnp.int32)
            costs = cost_matrix(x, y, "sqeuclidean")
            return y[jax.pure_callback(assignment, index, costs)]
        result = sinkhorn(x, y, eps=scale, threshold=THRESHOLD)
        return y[jax.random.categorical(key, jnp.log(plan(result, x, y)))]

    def objective(params: Params, key: Key, x: Array, y: Array) -> tuple:
        key_pairs, key_t = jax.random.split(key)
        t = jax.random.uniform(key_t, (len(x),), x.dtype)
        along = partners(key_pairs, x, y) - x
        error = velocity(params, x + t[:, None] * along, t) - along
        loss, cost = (jnp.mean(jnp.sum(v**2, -1)) for v in (error, along))
        return loss, {"cost": cost}

    params, history = train(
        objective,
        init,
        key,
        x,
        y,
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer or adam(3e-3, steps),
        on_chunk=on_chunk,
    )
    return partial(_flow, velocity), params, history


def _velocity_mlp(
    dim: int, dtype: jnp.dtype
) -> tuple[Callable[[Key], Params], Velocity]:
    init, dense = mlp(dim + 1, 128, 128, 128, dim, dtype=dtype)

    def apply(params: Params, x: Array, t: Array) -> Array:
        return dense(params, jnp.concatenate([x, t[:, None]], -1))

    return init, apply


def _flow(
    velocity: Velocity,
    params: Params,
    x: ArrayLike,
    *,
    steps: int = 16,
    method: str = "euler",
) -> Array:
    """The points where the flow carries x from t = 0 to t = 1."""
    _check.in_range(1, closed=True, steps=steps)
    _check.one_of("method", method, _METHODS)
    (x,) = _check.floating(x=x)

    def slope(z: Array, i: Array) -> Array:
        return velocity(params, z, jnp.full(len(z), i / steps, z.dtype))

    def step(i: Array, z: Array) -> Array:
        move = slope(z, i) / steps
        if method == "heun":
            move = (move + slope(z + move, i + 1) / steps) / 2
        return z + move

    return jax.lax.fori_loop(0, steps, step, x)
