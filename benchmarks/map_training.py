"""Training a map with the Monge gap, and the same loop over ott-jax's Sinkhorn.

    python -m benchmarks.map_training

One loss, S_eps(T(x), y) + M_eps'(x, T(x)) with the entropic gap, one network, batch
256, eps and threshold as `fit_monge_map` has them; both loops scan 50 steps a dispatch.
The first dispatch, which compiles, is not counted but told apart. "tuned" is ott-jax
with the momentum 1.5 that suits these problems.
"""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ott.geometry import pointcloud
from ott.solvers import linear
from ott.solvers.linear import acceleration

from examples._report import print_table
from jaxdiv import transport
from jaxdiv.typing import Array, Key, Params

STEPS, CHUNK, BATCH = 500, 50, 256
EPS_FIT, EPS_GAP, THRESHOLD = 0.05, 0.02, 5e-3  # as in fit_monge_map
WIDTH = 128


def init(dim: int, key: Key) -> Params:
    """Weights of a residual network of two layers that starts near the identity."""
    sizes = (dim, WIDTH, WIDTH, dim)
    scales = (1.0, 1.0, 0.01)
    return [
        (scale * jax.random.normal(k, (i, o)) / i**0.5, jnp.zeros(o))
        for k, i, o, scale in zip(
            jax.random.split(key, 3), sizes, sizes[1:], scales, strict=False
        )
    ]


def apply(params: Params, x: Array) -> Array:
    """The images of the points."""
    z = x
    for kernel, bias in params[:-1]:
        z = jax.nn.gelu(z @ kernel + bias)
    kernel, bias = params[-1]
    return x + z @ kernel + bias


def by_jaxdiv(x: Array, y: Array) -> tuple[np.ndarray, float]:
    """The seconds of each chunk of steps, and the last loss."""
    dim = x.shape[1]
    seconds, losses = [time.perf_counter()], []

    def on_chunk(done: int, metrics: dict) -> None:
        seconds.append(time.perf_counter())
        losses.append(float(metrics["loss"]))

    transport.fit_monge_map(
        jax.random.key(0),
        x,
        y,
        kind="entropy",
        net=(functools.partial(init, dim), apply),
        steps=STEPS,
        batch_size=BATCH,
        on_chunk=on_chunk,
    )
    return np.diff(seconds), losses[-1]


def by_ott(momentum: float | None, x: Array, y: Array) -> tuple[np.ndarray, float]:
    """The same loop over ott-jax's solver."""
    mean = jnp.mean(jnp.sum((x[:1024, None] - y[:1024]) ** 2, -1))
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))

    def solve(x: Array, y: Array, eps: Array) -> linear.sinkhorn.SinkhornOutput:
        options = (
            {"momentum": acceleration.Momentum(value=momentum)} if momentum else {}
        )
        geometry = pointcloud.PointCloud(x, y, epsilon=eps)
        return linear.solve(geometry, threshold=THRESHOLD, **options)

    def loss(params: Params, x: Array, y: Array) -> Array:
        image, fit = apply(params, x), EPS_FIT * mean
        divergence = solve(image, y, fit).reg_ot_cost
        divergence -= solve(image, image, fit).reg_ot_cost / 2
        divergence -= solve(y, y, fit).reg_ot_cost / 2
        spent = jnp.mean(jnp.sum((x - image) ** 2, -1))
        return divergence + spent - solve(x, image, EPS_GAP * mean).ent_reg_cost

    def step(state: tuple, key: Key) -> tuple[tuple, Array]:
        params, optimizer_state = state
        batch_x, batch_y = (
            z[jax.random.randint(k, (BATCH,), 0, len(z))]
            for z, k in zip((x, y), jax.random.split(key), strict=True)
        )
        value, slope = jax.value_and_grad(loss)(params, batch_x, batch_y)
        updates, optimizer_state = optimizer.update(slope, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), value

    @jax.jit
    def chunk(state: tuple, keys: Key) -> tuple[tuple, Array]:
        return jax.lax.scan(step, state, keys)

    params = init(x.shape[1], jax.random.key(0))
    state = params, optimizer.init(params)
    seconds = [time.perf_counter()]
    for keys in jax.random.split(jax.random.key(1), (STEPS // CHUNK, CHUNK)):
        state, losses = jax.block_until_ready(chunk(state, keys))
        seconds.append(time.perf_counter())
    return np.diff(seconds), float(losses[-1])


def main() -> None:
    rivals: dict[str, Callable] = {
        "jaxdiv": by_jaxdiv,
        "ott-jax": functools.partial(by_ott, None),
        "tuned": functools.partial(by_ott, 1.5),
    }
    rows = []
    for dim in (2, 8):
        keys = jax.random.split(jax.random.key(0))
        _, slope, sample = transport.convex_potential_pair(keys[0], dim, 3 * dim)
        x = sample(keys[1], 4096)
        y = slope(x)
        for who, run in rivals.items():
            seconds, loss = run(x, y)
            rate = CHUNK / np.median(seconds[1:])
            rows.append([dim, who, rate, seconds[0], loss])
            print(f"d={dim}, {who}: {rate:.0f} steps/s", flush=True)
    print()
    print_table(("d", "loop", "steps/s", "first chunk s", "last loss"), rows)


if __name__ == "__main__":
    main()
