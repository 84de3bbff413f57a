"""The same transport problem solved by jaxdiv and by ott-jax: time and agreement.

    python -m examples.sinkhorn_speed --out out/sinkhorn_speed

Two clouds of growing size, one eps, one error of the marginals. The costs and their
gradients must agree; the times are of this machine, both solvers in turns in one
process, and are no promise: `python -m benchmarks.transport` has more of them.

Cuturi, 2013, arXiv:1306.0895; the peer is ott-jax, arXiv:2201.12324.
"""

import dataclasses
import functools
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from ott.geometry import pointcloud
from ott.solvers import linear
from ott.solvers.linear import acceleration

from examples._report import Claim, finish, open_folder, print_table
from examples._timing import best_of
from jaxdiv import transport
from jaxdiv.typing import Array

SHARE, THRESHOLD = 0.05, 1e-3  # eps over the mean cost; L1 error of the marginals


@dataclasses.dataclass(frozen=True)
class Settings:
    """Solve the same transport problems with jaxdiv and with ott-jax."""

    out: pathlib.Path = pathlib.Path("out/sinkhorn_speed")
    """Folder for the picture and the figures."""
    sizes: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    """Points of each cloud."""
    dim: int = 2
    """Dimension of the points."""
    rounds: int = 5
    """Runs of each solver, of which the best one counts."""
    quick: bool = False
    """Small sizes only."""


def clouds(n: int, d: int) -> tuple[Array, Array]:
    """Two Gaussian clouds of n points."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d)).astype(np.float32)
    y = (0.5 + 0.7 * rng.standard_normal((n, d))).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(y)


def mean_cost(x: Array, y: Array) -> Array:
    """Mean squared distance between the clouds."""
    return (
        jnp.mean(jnp.sum(x**2, 1))
        + jnp.mean(jnp.sum(y**2, 1))
        - 2 * (x.mean(0) @ y.mean(0))
    )


def ours(
    x: Array, y: Array, *, share: float = SHARE, threshold: float = THRESHOLD
) -> transport.SinkhornResult:
    """The solution by jaxdiv."""
    eps = jax.lax.stop_gradient(share * mean_cost(x, y))
    return transport.sinkhorn(x, y, eps=eps, threshold=threshold)


def theirs(
    x: Array,
    y: Array,
    *,
    share: float = SHARE,
    threshold: float = THRESHOLD,
    momentum: float = 1.0,
) -> Any:
    """The solution by ott-jax."""
    eps = jax.lax.stop_gradient(share * mean_cost(x, y))
    return linear.solve(
        pointcloud.PointCloud(x, y, epsilon=eps),
        threshold=threshold,
        max_iterations=2000,
        momentum=acceleration.Momentum(value=momentum),
    )


def with_gradient(solve: Callable, x: Array, y: Array) -> tuple[Array, Array]:
    """The regularised cost and its gradient in x."""
    return jax.value_and_grad(lambda x: solve(x, y).reg_ot_cost)(x)


def main(settings: Settings) -> int:
    """Solves, times and compares; returns the exit status."""
    began = time.monotonic()
    out = open_folder(settings.out)
    sizes = (64, 128) if settings.quick else settings.sizes
    rows, claims = [], []
    rivals = {
        "jaxdiv": jax.jit(functools.partial(with_gradient, ours)),
        "ott-jax": jax.jit(functools.partial(with_gradient, theirs)),
        "ott-jax, momentum 1.5": jax.jit(
            functools.partial(with_gradient, functools.partial(theirs, momentum=1.5))
        ),
    }
    for n in sizes:
        x, y = clouds(n, settings.dim)
        times = best_of(rivals, x, y, rounds=settings.rounds)
        (value, slope), (peer, peer_slope) = (
            rivals[who](x, y) for who in ("jaxdiv", "ott-jax")
        )
        apart = jnp.linalg.norm(slope - peer_slope) / jnp.linalg.norm(slope)
        rows.append(
            {"n": n, **times}
            | {"cost": abs(float(value / peer) - 1), "gradient": float(apart)}
        )
    print("Milliseconds for the cost and its gradient; relative differences to ott-jax")
    print_table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    for what in ("cost", "gradient"):
        worst = max(row[what] for row in rows)
        claim = f"relative difference of the {what} to ott-jax's, at most"
        claims.append(Claim(claim, worst, "<= 5e-3", worst <= 5e-3))
    for who, aim in (("ott-jax", 10), ("ott-jax, momentum 1.5", 5)):
        ratio = rows[-1][who] / rows[-1]["jaxdiv"]
        claim = f"n = {sizes[-1]}: times faster than {who}"
        claims.append(Claim(claim, ratio, f">= {aim}", ratio >= aim, promised=False))
    picture = out / "times.png"
    draw(rows, tuple(rivals), picture)
    return finish(
        claims,
        out=out,
        settings=dataclasses.asdict(settings),
        pictures=[picture],
        seconds=time.monotonic() - began,
        table=rows,
    )


def draw(
    rows: list[dict[str, Any]], names: tuple[str, ...], path: pathlib.Path
) -> None:
    """Time against size."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 4), layout="constrained")
    for name in names:
        axis.loglog([r["n"] for r in rows], [r[name] for r in rows], "o-", label=name)
    axis.set_xlabel("points of each cloud")
    axis.set_ylabel("ms for the cost and its gradient")
    axis.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Settings)))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. Nothing was saved; the whole run takes a minute.")
