"""Neural optimal transport whose potentials are held dual by expectiles."""

import jax
import jax.numpy as jnp
import optax

from jaxdiv import _check
from jaxdiv.transport._cost import Cost, check_cost, mean_cost, paired_cost
from jaxdiv.transport._trainer import (
    SCALE_POINTS,
    ApplyNet,
    Metrics,
    Net,
    OnChunk,
    adam,
    inputs,
    mlp,
    residual_mlp,
    train,
)
from jaxdiv.typing import Array, ArrayLike, Key, Params


def fit_expectile(
    key: Key,
    x: ArrayLike,
    y: ArrayLike,
    *,
    cost: Cost = "sqeuclidean",
    net: Net | None = None,
    expectile: float = 0.99,
    weight: float = 1.0,
    steps: int = 2000,
    batch_size: int = 256,
    optimizer: optax.GradientTransformation | None = None,
    on_chunk: OnChunk | None = None,
) -> tuple[ApplyNet, Params, Metrics]:
    r"""Fits an optimal map as saddle point of the dual, without an inner loop.

    .. math:: \max_g \min_T\; \mathbb E\,[c(x, T(x)) - g(T(x))] + \mathbb E\, g(y)
              - w\, \mathbb E\, L_\tau(f(x) + g(y) - c(x, y)),
              \qquad f(x) = c(x, T(x)) - g(T(x))

    over minibatches drawn with replacement. The last term, the expectile loss
    :math:`L_\tau(u) = |\tau - 1_{u < 0}|\, u^2`, punishes f + g above c, which the dual
    forbids, by tau, and slack by 1 - tau: it keeps f near the conjugate of g without a
    minimisation at each step. Both networks move at once.

    Args:
      key: key of the initial weights and of the batches.
      x: source points, shape `(n, d)`.
      y: target points, shape `(m, d)`.
      cost: the cost c: `"sqeuclidean"`, `"euclidean"`, or a function of two points.
      net: of the map T, a pair of functions `init(key) -> params` and
        `apply(params, x) -> images`; None is a residual network of two layers of 128
        units that starts near the identity. The potential g is an MLP of that size.
      expectile: tau, in (0.5, 1); near 1 it keeps to the constraint alone.
      weight: weight w of the expectile loss, for costs with mean 1.
      steps: gradient steps.
      batch_size: points of each cloud a step.
      optimizer: of both networks; None is Adam at 3e-3 with b1 = 0.5 and b2 = 0.9,
        decayed to 0 by a cosine.
      on_chunk: called as `on_chunk(steps_done, last_metrics)` about every 50 steps.

    Returns:
      `(apply, params, history)`: `apply(params, x)` is the map T. The history holds an
      array with one entry a step for each of `"loss"` (of a max-min: its size says
      little), `"cost"` (the transport cost, by the dual), `"penalty"` (the mean of
      L) and `"grad_norm"`, and `"status"`: `"done"`, or `"diverged"` when a step was
      not finite; the parameters are then those before that step.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: a shape does not fit, a number is out of range, or a name is unknown.

    Not differentiable.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x = jax.random.normal(jax.random.key(0), (200, 1))
      >>> apply, params, history = transport.fit_expectile(
      ...     jax.random.key(1), x, x + 2, steps=400, batch_size=64
      ... )
      >>> print(history["status"], f"{jnp.mean(apply(params, x) - x):.0f}")
      done 2

    References:
      Buzun et al., 2024, arXiv:2403.03777, section 4.
    """
    check_cost(cost)
    x, y = inputs(x, y, steps=steps, batch_size=batch_size)
    _check.in_range(0.5, 1.0, expectile=expectile)
    _check.in_range(0.0, closed=True, weight=weight)
    init_map, apply = net or residual_mlp(x.shape[1], x.dtype)
    init_potential, dense = mlp(x.shape[1], 128, 128, 1, dtype=x.dtype)
    scale = mean_cost(x[:SCALE_POINTS], y[:SCALE_POINTS], cost)
    stop = jax.lax.stop_gradient

    def potential(params: Params, y: Array) -> Array:
        return dense(params, y)[:, 0]

    def relative_cost(x: Array, y: Array) -> Array:
        return paired_cost(x, y, cost) / scale

    def asymmetric(u: Array) -> Array:
        return jnp.mean(jnp.abs(expectile - (u < 0)) * u**2)

    def init(key: Key) -> Params:
        key_map, key_potential = jax.random.split(key)
        return {"map": init_map(key_map), "potential": init_potential(key_potential)}

    def objective(params: Params, _: Key, x: Array, y: Array) -> tuple:
        image = apply(params["map"], x)
        at_image = potential(stop(params["potential"]), image)
        of_map = jnp.mean(relative_cost(x, image) - at_image)
        image = stop(image)
        f = relative_cost(x, image) - potential(params["potential"], image)
        g = potential(params["potential"], y)
        c = relative_cost(x, y)
        penalty = asymmetric(stop(f) + g - c) + asymmetric(f + stop(g) - c)
        dual = jnp.mean(f) + jnp.mean(g)
        loss = of_map - dual + weight * penalty
        return loss, {"cost": scale * dual, "penalty": penalty}

    params, history = train(
        objective,
        init,
        key,
        x,
        y,
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer or adam(3e-3, steps, b1=0.5, b2=0.9),
        on_chunk=on_chunk,
    )
    return apply, params["map"], history
