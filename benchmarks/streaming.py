"""Memory and time of Sinkhorn where the costs are never held.

    python -m benchmarks.streaming --points 20000

Peak resident memory of this process above what it held after a small solve, and wall
time with compilation, of the value, of the gradient of the regularised cost and of
that of a function of the potentials. Both clouds have as many points; the costs alone
would take 4 bytes for each pair.
"""

import dataclasses
import resource
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import tyro

from benchmarks.transport import clouds, mean_cost
from examples._report import print_table
from jaxdiv import transport
from jaxdiv.typing import Array


@dataclasses.dataclass(frozen=True)
class Settings:
    """Memory and time of Sinkhorn where the costs are never held."""

    points: int = 20_000
    """Points of each cloud."""
    dim: int = 8
    """Their dimension."""
    value_only: bool = False
    """Leave the gradients out."""


def peak() -> float:
    """Most resident memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(settings: Settings) -> None:
    x, y = clouds(settings.points, settings.dim)
    eps = 0.05 * mean_cost(x, y)

    def solved(x: Array, y: Array) -> transport.SinkhornResult:
        return transport.sinkhorn(x, y, eps=eps, method="stream")

    def of_potentials(x: Array) -> Array:
        return jnp.cos(jnp.arange(len(x))) @ solved(x, y).f

    tasks: dict[str, Callable[[Array], tuple]] = {"value": lambda x: (solved(x, y),)}
    if not settings.value_only:
        tasks["gradient of the cost"] = jax.value_and_grad(
            lambda x: solved(x, y).reg_ot_cost
        )
        tasks["gradient of the potentials"] = jax.value_and_grad(of_potentials)
    jax.block_until_ready(solved(x[:64], y[:64]))
    before, rows = peak(), []
    for name, task in tasks.items():
        began = time.perf_counter()
        out = jax.block_until_ready(jax.jit(task)(x))
        done = ""
        if name == "value":
            done = f"{out[0].n_iters} iterations, converged: {bool(out[0].converged)}"
        rows.append([name, peak() - before, time.perf_counter() - began, done])
    held = 4 * settings.points**2 / 2**20
    print(f"The costs would take {held:.0f} MiB.\n")
    print_table(("task", "MiB so far", "s", ""), rows)


if __name__ == "__main__":
    main(tyro.cli(Settings))
