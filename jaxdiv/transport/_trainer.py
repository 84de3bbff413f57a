"""What the trainers of maps share: dense networks, minibatches and the loop."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiv import _check, loop
from jaxdiv.transport._cost import clouds
from jaxdiv.typing import Array, ArrayLike, Key, Params

ApplyNet = Callable[[Params, Array], Array]
Net = tuple[Callable[[Key], Params], ApplyNet]
Metrics = dict[str, Any]
OnChunk = Callable[[int, Metrics], None]
Objective = Callable[[Params, Key, Array, Array], tuple[Array, Metrics]]

SCALE_POINTS = 1024  # enough to estimate a mean cost
THRESHOLD = 5e-3  # of a Sinkhorn solve: a stochastic gradient needs no more
_CHUNK = 50  # steps between two calls of on_chunk


def mlp(*sizes: int, dtype: Any, last: float = 1.0) -> Net:
    """Dense layers with GELU between; `last` scales the weights of the last one."""

    @jax.jit
    def init(key: Key) -> Params:
        layers = []
        for i, (rows, columns) in enumerate(zip(sizes, sizes[1:], strict=False)):
            scale = (last if i == len(sizes) - 2 else 1.0) / rows**0.5
            kernel = scale * jax.random.normal(
                jax.random.fold_in(key, i), (rows, columns), dtype
            )
            layers.append({"kernel": kernel, "bias": jnp.zeros(columns, dtype)})
        return layers

    def apply(params: Params, x: Array) -> Array:
        for layer in params[:-1]:
            x = jax.nn.gelu(x @ layer["kernel"] + layer["bias"])
        return x @ params[-1]["kernel"] + params[-1]["bias"]

    return init, apply


def residual_mlp(dim: int, dtype: Any) -> Net:
    """T(x) = x + MLP(x), which starts near the identity, of gap 0."""
    init, apply = mlp(dim, 128, 128, dim, dtype=dtype, last=0.01)
    return init, lambda params, x: x + apply(params, x)


def adam(
    rate: float, steps: int, *, b1: float = 0.9, b2: float = 0.999
) -> optax.GradientTransformation:
    """Adam whose rate decays to 0 by a cosine."""
    return optax.adam(optax.cosine_decay_schedule(rate, steps), b1=b1, b2=b2)


def inputs(
    x: ArrayLike, y: ArrayLike, *, steps: int, batch_size: int
) -> tuple[Array, Array]:
    """Both clouds in one dtype; what every trainer asks of its arguments."""
    x, y = clouds(x, y)
    _check.in_range(1, closed=True, steps=steps, batch_size=batch_size)
    return x, y


def train(
    objective: Objective,
    init: Callable[[Key], Params],
    key: Key,
    x: Array,
    y: Array,
    *,
    steps: int,
    batch_size: int,
    optimizer: optax.GradientTransformation,
    on_chunk: OnChunk | None,
) -> tuple[Params, Metrics]:
    """Minimises `objective(params, key, x, y)` over minibatches of the two clouds.

    Returns:
      The parameters and the history: every metric, the loss and the norm of its
      gradient with one entry a step, and `"status"`. A step that is not finite is
      undone and ends the training as `"diverged"`.
    """

    def step(state: tuple, i: Array, context: tuple) -> tuple[tuple, Metrics]:
        params, opt_state = state
        x, y, key = context
        key_x, key_y, key = jax.random.split(jax.random.fold_in(key, i), 3)
        batch_x, batch_y = (
            cloud[jax.random.randint(k, (batch_size,), 0, len(cloud))]
            for cloud, k in ((x, key_x), (y, key_y))
        )
        (loss, metrics), grads = jax.value_and_grad(objective, has_aux=True)(
            params, key, batch_x, batch_y
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
        size=min(_CHUNK, steps),
        context=(x, y, key_batch),
    ):
        params = chunk.state[0]
        parts.append(jax.tree.map(np.asarray, chunk.metrics))
        if not chunk.finite:
            status = "diverged"
        elif on_chunk is not None:
            on_chunk(chunk.done, {name: v[-1] for name, v in parts[-1].items()})
    history = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return params, history | {"status": status}
