"""Maps between two laws, learned from samples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiv import _check, loop
from jaxdiv.transport._cost import Cost, check_cost, clouds, mean_cost
from jaxdiv.transport._divergence import sinkhorn_divergence
from jaxdiv.transport._monge_gap import KINDS, gap_and_result
from jaxdiv.typing import Array, ArrayLike, Key, Params

Net = tuple[Callable[[Key], Params], Callable[[Params, Array], Array]]
Metrics = dict[str, Any]

_THRESHOLD = 5e-3  # a stochastic gradient needs no more
_SCALE_POINTS = 1024  # enough to estimate a mean cost


def residual_mlp(dim: int, width: int = 128, depth: int = 2) -> Net:
    """T(x) = x + MLP(x) with GELU layers; it starts near the identity, of gap 0."""
    sizes = [dim, *[width] * depth, dim]

    def init(key: Key) -> Params:
        layers = []
        for i, (rows, columns) in enumerate(zip(sizes, sizes[1:], strict=False)):
            scale = (0.01 if i == depth else 1.0) / rows**0.5
            kernel = scale * jax.random.normal(
                jax.random.fold_in(key, i), (rows, columns)
            )
            layers.append({"kernel": kernel, "bias": jnp.zeros(columns)})
        return layers

    def apply(params: Params, x: Array) -> Array:
        h = x
        for layer in params[:-1]:
            h = jax.nn.gelu(h @ layer["kernel"] + layer["bias"])
        return x + h @ params[-1]["kernel"] + params[-1]["bias"]

    return init, apply


def fit_monge_map(
    key: Key,
    x: ArrayLike,
    y: ArrayLike,
    *,
    cost: Cost = "sqeuclidean",
    lam: float = 1.0,
    kind: str = "entropy",
    net: Net | None = None,
    steps: int = 500,
    batch_size: int = 256,
    eps_fit: float = 0.05,
    eps_gap: float = 0.02,
    optimizer: optax.GradientTransformation | None = None,
    on_chunk: Callable[[int, Metrics], None] | None = None,
) -> tuple[Callable[[Params, Array], Array], Params, Metrics]:
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
      kind: kind of the gap, see `monge_gap_from_samples`.
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
    x, y = clouds(x, y)
    _check.in_range(0.0, closed=True, lam=lam)
    _check.in_range(1, closed=True, steps=steps, batch_size=batch_size)
    _check.positive(eps_fit=eps_fit, eps_gap=eps_gap)
    init, apply = residual_mlp(x.shape[1]) if net is None else net
    if optimizer is None:
        optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    few = x[:_SCALE_POINTS], y[:_SCALE_POINTS]
    fit_scale = eps_fit * mean_cost(*few, "sqeuclidean")
    gap_scale = eps_gap * mean_cost(*few, cost)

    def objective(params: Params, batch_x: Array, batch_y: Array) -> tuple:
        image = apply(params, batch_x)
        fit = sinkhorn_divergence(
            image, batch_y, eps=fit_scale, static_y=True, threshold=_THRESHOLD
        )
        gap = jnp.zeros_like(fit)
        if lam > 0:
            gap, _ = gap_and_result(
                batch_x,
                image,
                cost=cost,
                eps=gap_scale,
                kind=kind,
                threshold=_THRESHOLD,
            )
        return fit + lam * gap, {"fit": fit, "gap": gap}

    def step(state: tuple, i: Array, context: tuple) -> tuple[tuple, dict[str, Array]]:
        params, opt_state = state
        x, y, key = context
        batch = [
            cloud[jax.random.randint(k, (batch_size,), 0, len(cloud))]
            for cloud, k in zip(
                (x, y), jax.random.split(jax.random.fold_in(key, i)), strict=True
            )
        ]
        (loss, metrics), grads = jax.value_and_grad(objective, has_aux=True)(
            params, *batch
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        metrics |= {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return (optax.apply_updates(params, updates), opt_state), metrics

    key_init, key_batch = jax.random.split(key)
    params = init(key_init)
    parts, status = [], "done"
    for chunk in loop.chunks(
        step,
        (params, optimizer.init(params)),
        steps=steps,
        size=min(50, steps),
        context=(x, y, key_batch),
    ):
        params = chunk.state[0]
        parts.append(jax.tree.map(np.asarray, chunk.metrics))
        if not chunk.finite:
            status = "diverged"
        elif on_chunk is not None:
            on_chunk(chunk.done, {name: v[-1] for name, v in parts[-1].items()})
    history = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return apply, params, history | {"status": status}
