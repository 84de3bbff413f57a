"""Quadratic programs side by side with qpax, in batches on a CPU.

    python -m benchmarks.qp

A row is a precision, a size and a task; both libraries solve the same problems in one
process, jitted, best of several interleaved runs. jaxdiv has its defaults. qpax is
asked for 1e-8 and for 1e-5, its default; it holds slacks above the root of the machine
precision, and where that is above its tolerance it takes all of its 30 iterations. The
process is a new one with one thread a LAPACK call and a large pool: with two threads,
batched LAPACK calls that run at once may wait for each other for ever (jaxlib 0.10).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from examples._report import print_table
from examples._timing import best_of, compiled
from jaxdiv.implicit import layers
from jaxdiv.typing import Array

BATCH = 128
SIZES = (20, 50, 100, 200)
ROUNDS = 2
TIME_LIMIT = 600
TOLERANCES = {"float64": (1e-8, 1e-5), "float32": (1e-3,)}  # of qpax
HEADER = [
    "precision",
    "n",
    "qpax tol",
    "task",
    "jaxdiv ms",
    "qpax ms",
    "ratio",
    "jaxdiv compile s",
    "qpax compile s",
    "jaxdiv KKT",
    "qpax KKT",
    "jaxdiv iterations",
    "qpax iterations",
]


def problems(n: int, dtype: str) -> tuple[Array, ...]:
    """Programs of n variables, n/2 equalities and n inequalities."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((BATCH, n, n))
    Q = root @ root.swapaxes(1, 2) / n + 0.01 * np.eye(n)
    c, z = rng.standard_normal((2, BATCH, n))
    E, M = rng.standard_normal((BATCH, n // 2, n)), rng.standard_normal((BATCH, n, n))
    d, h = (np.einsum("bij,bj->bi", A, z) for A in (E, M))
    h = h + rng.uniform(0, 1, h.shape)
    return tuple(jnp.asarray(x, dtype) for x in (Q, c, E, d, M, h))


def kkt_residual(problem: tuple[Array, ...], *point: Array) -> float:
    """Largest violation of a condition, in float64 and not scaled."""
    Q, c, E, d, M, h = (np.asarray(x, np.float64) for x in problem)
    z, nu, lam = (np.asarray(x, np.float64)[..., None] for x in point)
    slack = h[..., None] - M @ z
    violations = (
        Q @ z + c[..., None] + E.swapaxes(1, 2) @ nu + M.swapaxes(1, 2) @ lam,
        E @ z - d[..., None],
        np.minimum(slack, 0),
        np.minimum(lam, 0),
        lam * slack,
    )
    return float(max(np.abs(v).max() for v in violations))


def ours(*problem: Array) -> tuple[Array, ...]:
    found = layers.qp(*problem)
    return *found.value, found.iterations


def theirs(tol: float) -> tuple[Callable, Callable]:
    """The solver of qpax and the one that has a derivative, over a batch."""
    import qpax

    def solve(*problem: Array) -> tuple[Array, ...]:
        z, _, lam, nu, _, iterations = qpax.solve_qp(*problem, solver_tol=tol)
        return z, nu, lam, iterations

    def primal(*problem: Array) -> Array:
        return qpax.solve_qp_primal(*problem, solver_tol=tol)

    return jax.vmap(solve), jax.vmap(primal)


def gradient(solve: Callable) -> Callable:
    """Slopes of a weighted solution in all of the problem."""

    def loss(problem: tuple[Array, ...]) -> Array:
        z = solve(*problem)
        return jnp.sum(z * jnp.cos(jnp.arange(z.shape[-1], dtype=z.dtype)))

    return lambda *problem: jax.grad(loss)(problem)


def compare(dtype: str, n: int, tol: float) -> list[list[Any]]:
    problem = problems(n, dtype)
    solve, primal = theirs(tol)
    tasks = {
        "solve": (ours, solve),
        "solve and gradient": (
            gradient(lambda *problem: ours(*problem)[0]),
            gradient(primal),
        ),
    }
    programs = {
        name: [compiled(f, *problem) for f in pair] for name, pair in tasks.items()
    }
    points = [run(*problem) for run, _ in programs["solve"]]
    errors = [kkt_residual(problem, *point[:3]) for point in points]
    steps = [int(jnp.max(point[3])) for point in points]
    found = []
    for name, pair in programs.items():
        rivals = dict(zip(("jaxdiv", "qpax"), (run for run, _ in pair), strict=True))
        times = list(best_of(rivals, *problem, rounds=ROUNDS).values())
        ratio = times[1] / times[0]
        seconds = [spent for _, spent in pair]
        found.append([dtype, n, tol, name, *times, ratio, *seconds, *errors, *steps])
    return found


def in_new_process(dtype: str, n: int, tol: float) -> list[list[Any]]:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "NPROC": "8"}
    command = [sys.executable, "-m", "benchmarks.qp", dtype, str(n), str(tol)]
    try:
        done = subprocess.run(
            command,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=TIME_LIMIT,
        )
    except subprocess.TimeoutExpired:
        return [[dtype, n, tol, "no end", *[float("nan")] * (len(HEADER) - 4)]]
    return json.loads(done.stdout.splitlines()[-1])


def rows() -> list[list[Any]]:
    """All comparisons; the columns are those of `HEADER`."""
    return [
        row
        for dtype, tolerances in TOLERANCES.items()
        for tol in tolerances
        for n in SIZES
        for row in in_new_process(dtype, n, tol)
    ]


def main(arguments: list[str]) -> None:
    if arguments:
        dtype, n, tol = arguments
        with jax.enable_x64(dtype == "float64"):
            print(json.dumps(compare(dtype, int(n), float(tol))))
        return
    print_table(HEADER, rows())


if __name__ == "__main__":
    main(sys.argv[1:])
