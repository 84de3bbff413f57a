"""The map that carries one law onto another at no Monge gap."""

import jax.numpy as jnp
import optax

from jaxdiv import _check
from jaxdiv.transport._cost import Cost, check_cost, mean_cost
from jaxdiv.transport._divergence import sinkhorn_divergence
from jaxdiv.transport._monge_gap import KINDS, gap_and_result
from jaxdiv.transport._trainer import (
    SCALE_POINTS,
    THRESHOLD,
    ApplyNet,
    Metrics,
    Net,
    OnChunk,
    adam,
    inputs,
    residual_mlp,
    train,
)
from jaxdiv.typing import Array, ArrayLike, Key, Params


def fit_monge_map(
    key: Key,
    x: ArrayLike,
    y: ArrayLike,
    *,
    cost: Cost = "sqeuclidean",
    lam: float = 1.0,
    kind: str = "debiased",
    net: Net | None = None,
    steps: int = 500,
    batch_size: int = 256,
    eps_fit: float = 0.05,
    eps_gap: float = 0.02,
    optimizer: optax.GradientTransformation | None = None,
    on_chunk: OnChunk | None = None,
) -> tuple[ApplyNet, Params, Metrics]:
    r"""Fits a map that carries x onto y and is optimal for a cost.

    .. math:: \min_\theta\; S_\varepsilon(T_\theta(x), y)
              + \lambda\, \mathcal M^c_{\varepsilon'}(x, T_\theta(x))

    over minibatches drawn with replacement. The first term, the Sinkhorn divergence
    for the squared Euclidean cost, asks that T carry the one law onto the other; the
    second, the Monge gap, that it do so at the least cost c.

    Args:
      key: key of the initial weights and of the batches.
      x: source points, shape `(n, d)`.
      y: target points, shape `(m, d)`.
      cost: the cost c: `"sqeuclidean"`, `"euclidean"`, or a function of two points.
      lam: weight lambda of the Monge gap, whose scale is that of c; 0 leaves it out.
      kind: kind of the gap, see `monge_gap_from_samples`; `"debiased"` shrinks the map
        least, but asks for a cost that is 0 between equal points.
      net: pair of functions `init(key) -> params` and `apply(params, x) -> images`;
        None is a residual network of two layers of 128 units that starts near the
        identity.
      steps: gradient steps.
      batch_size: points of each cloud a step.
      eps_fit: regularisation of the divergence, as a share of the mean squared
        distance between the clouds.
      eps_gap: regularisation of the gap, as a share of their mean cost.
      optimizer: None is Adam at 3e-3, decayed to 0 by a cosine.
      on_chunk: called as `on_chunk(steps_done, last_metrics)` about every 50 steps.

    Returns:
      `(apply, params, history)`: `apply(params, x)` is the map. The history holds an
      array with one entry a step for each of `"loss"`, `"fit"` (the divergence),
      `"gap"` (0 where lam is 0) and `"grad_norm"`, and `"status"`: `"done"`, or
      `"diverged"` when a step was not finite; the parameters are then those before
      that step.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: a shape does not fit, a number is out of range, or a name is unknown.

    Not differentiable.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x = jax.random.normal(jax.random.key(0), (200, 1))
      >>> apply, params, history = transport.fit_monge_map(
      ...     jax.random.key(1), x, x + 2, steps=200, batch_size=64
      ... )
      >>> print(history["status"], f"{jnp.mean(apply(params, x) - x):.1f}")
      done 2.0

    References:
      Uscidda and Cuturi, 2023, arXiv:2302.04953, eq. (9).
    """
    check_cost(cost)
    _check.one_of("kind", kind, KINDS)
    x, y = inputs(x, y, steps=steps, batch_size=batch_size)
    _check.in_range(0.0, closed=True, lam=lam)
    _check.positive(eps_fit=eps_fit, eps_gap=eps_gap)
    init, apply = net or residual_mlp(x.shape[1], x.dtype)
    few = x[:SCALE_POINTS], y[:SCALE_POINTS]
    fit_scale = eps_fit * mean_cost(*few, "sqeuclidean")
    gap_scale = eps_gap * mean_cost(*few, cost)

    def objective(params: Params, _: Key, x: Array, y: Array) -> tuple:
        image = apply(params, x)
        fit = sinkhorn_divergence(
            image, y, eps=fit_scale, static_y=True, threshold=THRESHOLD
        )
        gap = jnp.zeros_like(fit)
        if lam > 0:
            gap = gap_and_result(
                x,
                image,
                cost=cost,
                eps=gap_scale,
                kind=kind,
                threshold=THRESHOLD,
            )[0]
        return fit + lam * gap, {"fit": fit, "gap": gap}

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
    return apply, params, history
