"""Entropic transport side by side with ott-jax and POT, on this machine.

    python -m benchmarks.transport

Same points, same eps, same L1 error of both marginals; jitted, best of several
interleaved runs, so that a busy machine slows all alike. "tuned" is ott-jax with the
momentum 1.5 that suits these problems. POT counts its errors otherwise: it runs for as
many iterations as it needs for the error asked for, and makes no look at it. "floor" is
the time of two products with a kernel that is held, as often as ours iterates.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import ot

from examples._report import print_table
from examples._timing import best_of, compiled
from examples.sinkhorn_speed import clouds, mean_cost, ours, theirs
from jaxdiv.typing import Array


class Task(NamedTuple):
    """A problem, and what is asked of its solution."""

    name: str
    run: Callable
    n: int
    d: int
    share: float
    threshold: float = 1e-3
    rounds: int = 5


def solved(solve: Callable, x: Array, y: Array) -> tuple[Array, ...]:
    out = solve(x, y)
    return out.f, out.g, out.reg_ot_cost


def cost_slope(solve: Callable, x: Array, y: Array) -> tuple[Array, Array]:
    return jax.value_and_grad(lambda x: solve(x, y).reg_ot_cost)(x)


def potential_slope(solve: Callable, x: Array, y: Array) -> tuple[Array, Array]:
    weights = jnp.cos(jnp.arange(x.shape[0]))
    return jax.value_and_grad(lambda x: weights @ solve(x, y).f)(x)


def gap_slope(solve: Callable, x: Array, y: Array) -> tuple[Array, Array]:
    def gap(y: Array) -> Array:
        return jnp.mean(jnp.sum((x - y) ** 2, 1)) - solve(x, y).ent_reg_cost

    return jax.value_and_grad(gap)(y)


def by_pot(x: Array, y: Array, share: float, threshold: float) -> Callable | None:
    """POT's solver with the iterations that the threshold takes; None if it fails."""
    eps = float(share * mean_cost(x, y))
    weights = np.full(len(x), 1 / len(x), np.float32)
    K = np.exp(-ot.dist(np.asarray(x), np.asarray(y)) / eps)
    u, count, error = np.ones_like(weights), 0, np.inf
    with np.errstate(all="ignore"):
        while error > threshold:
            u, count = weights / (K @ (weights / (u @ K))), count + 1
            error = np.abs(u * (K @ (weights / (u @ K))) - weights).sum()
    if not np.isfinite(error):
        return None

    def run(x: Array, y: Array) -> Any:
        C = ot.dist(np.asarray(x), np.asarray(y))
        options = {"numItermax": count, "stopThr": 0, "warn": False}
        return ot.sinkhorn(weights, weights, C, eps, **options)

    return run


def floor(x: Array, y: Array, n_iters: int) -> Callable[..., Any]:
    """The products that so many iterations cannot do without."""
    K = jnp.exp(-jnp.sum((x[:, None] - y) ** 2, -1) / 10)

    @jax.jit
    def run(K: Array, v: Array) -> Array:
        product = functools.partial(jnp.matmul, precision="highest")
        body = lambda _, v: 1e-3 * product(product(K, v), K)  # noqa: E731
        return jax.lax.fori_loop(0, n_iters, body, v)

    return lambda x, y: run(K, jnp.ones(len(x)))


def main() -> None:
    tasks = [
        Task("solve", solved, 512, 2, 0.05),
        Task("solve", solved, 2048, 2, 0.05),
        Task("solve", solved, 8192, 2, 0.05, rounds=1),
        Task("solve", solved, 512, 64, 0.05),
        Task("solve", solved, 2048, 64, 0.05),
        Task("solve", solved, 512, 2, 0.01, 1e-4),
        Task("cost and gradient", cost_slope, 512, 2, 0.05),
        Task("potentials and gradient", potential_slope, 512, 2, 0.05),
        Task("Monge gap and gradient", gap_slope, 1024, 2, 0.02),
    ]
    rows = []
    for task in tasks:
        x, y = clouds(task.n, task.d)
        options = {"share": task.share, "threshold": task.threshold}
        solvers = {
            "jaxdiv": functools.partial(ours, **options),
            "ott-jax": functools.partial(theirs, **options),
            "tuned": functools.partial(theirs, momentum=1.5, **options),
        }
        rivals, compilation = {}, {}
        for who, solve in solvers.items():
            run = functools.partial(task.run, solve)
            rivals[who], compilation[who] = compiled(run, x, y)
        n_iters = int(jax.jit(solvers["jaxdiv"])(x, y).n_iters)
        if task.run is solved:
            rivals["floor"] = floor(x, y, n_iters)
            if pot := by_pot(x, y, task.share, task.threshold):
                rivals["POT"] = pot
        t = best_of(rivals, x, y, rounds=task.rounds)
        ratios = [
            t[who] / t["jaxdiv"] if who in t else "-"
            for who in ("ott-jax", "tuned", "POT", "floor")
        ]
        rows.append(
            [
                task.name,
                task.n,
                task.d,
                f"{task.share:g}, {task.threshold:g}",
                n_iters,
                t["jaxdiv"],
                *ratios,
                compilation["jaxdiv"],
                compilation["ott-jax"],
            ]
        )
        print(f"{task.name}, n={task.n}, d={task.d}: {ratios[0]:.1f}x", flush=True)
    print("\nTimes of the others over ours; compilation in seconds.")
    header = ("task", "n", "d", "eps, error", "iterations", "jaxdiv ms", "ott-jax")
    header += ("tuned", "POT", "floor", "compile", "compile ott")
    print_table(header, rows)


if __name__ == "__main__":
    main()
