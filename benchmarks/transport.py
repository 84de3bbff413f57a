"""Entropic transport side by side with ott-jax, on this machine.

    python -m benchmarks.transport

Same points, same eps, same threshold on the L1 error of the marginals; jitted, best
of several interleaved runs, so that a busy machine slows both alike. "tuned" is
ott-jax with the momentum 1.5 that suits these problems.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ott.geometry import pointcloud
from ott.solvers import linear
from ott.solvers.linear import acceleration

from benchmarks._timing import best_of
from examples._report import print_table
from jaxdiv import transport
from jaxdiv.typing import Array

THRESHOLD = 1e-3
ROUNDS = 5


def clouds(n: int, d: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d)).astype(np.float32)
    y = (0.5 + 0.7 * rng.standard_normal((n, d))).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(y)


def mean_cost(x: Array, y: Array) -> Array:
    return (
        jnp.mean(jnp.sum(x**2, 1))
        + jnp.mean(jnp.sum(y**2, 1))
        - 2 * (x.mean(0) @ y.mean(0))
    )


def ours(x: Array, y: Array, *, share: float) -> transport.SinkhornResult:
    eps = jax.lax.stop_gradient(share * mean_cost(x, y))
    return transport.sinkhorn(x, y, eps=eps, threshold=THRESHOLD)


def theirs(x: Array, y: Array, *, share: float, momentum: float = 1.0) -> Any:
    eps = jax.lax.stop_gradient(share * mean_cost(x, y))
    return linear.solve(
        pointcloud.PointCloud(x, y, epsilon=eps),
        threshold=THRESHOLD,
        max_iterations=2000,
        momentum=acceleration.Momentum(value=momentum),
    )


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


def main() -> None:
    tasks = [
        ("solve", solved, 512, 2, 0.05),
        ("solve", solved, 2048, 2, 0.05),
        ("solve", solved, 512, 64, 0.05),
        ("solve", solved, 512, 2, 0.01),
        ("cost and gradient", cost_slope, 512, 2, 0.05),
        ("potentials and gradient", potential_slope, 512, 2, 0.05),
        ("Monge gap and gradient", gap_slope, 1024, 2, 0.02),
    ]
    rows = []
    for name, task, n, d, share in tasks:
        solvers = {
            "jaxdiv": functools.partial(ours, share=share),
            "ott-jax": functools.partial(theirs, share=share),
            "tuned": functools.partial(theirs, share=share, momentum=1.5),
        }
        rivals = {
            who: jax.jit(functools.partial(task, solve))
            for who, solve in solvers.items()
        }
        t = best_of(rivals, *clouds(n, d), rounds=ROUNDS)
        ratios = [t[who] / t["jaxdiv"] for who in ("ott-jax", "tuned")]
        rows.append([name, n, d, share, *t.values(), *ratios])
        print(f"{name}, n={n}, d={d}: {ratios[0]:.1f}x", flush=True)
    print()
    print_table(
        ("task", "n", "d", "eps", "jaxdiv ms", "ott ms", "tuned ms", "x", "x tuned"),
        rows,
    )


if __name__ == "__main__":
    main()
