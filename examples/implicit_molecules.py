"""How a packing of soft discs moves when some of them grow.

    python -m examples.implicit_molecules --out out/implicit_molecules

64 discs in a periodic box are relaxed to a minimum of their energy by FIRE, and the
positions are differentiated in the diameter of half of them, in forward mode. The
minimum is not isolated: all discs may be shifted together, so that the Hessian has two
zero modes. A dense LU solve is then wrong without a word; Krylov and least-norm solves
are right, and `implicit.check` shows the zero.

Blondel et al., 2022, arXiv:2105.15183, section 4.4; Bitzek et al., 2006, Phys. Rev.
Lett. 97, 170201 (FIRE).
"""

import dataclasses
import pathlib
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from examples._report import Claim, finish, open_folder, print_table
from jaxdiv import implicit
from jaxdiv.typing import Array

DISCS, THETA, COUNTS, FULL = 64, 0.6, (200, 400, 800), 4000
SOLVERS = ("bicgstab", "cg", "lstsq", "lu")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a packing of soft discs moves when some of them grow."""

    out: pathlib.Path = pathlib.Path("out/implicit_molecules")
    """Folder for the picture and the figures."""
    quick: bool = False
    """One start, not two."""


def box_length() -> float:
    """Side of the box that the discs would fill exactly."""
    area = DISCS / 2 * np.pi / 4 * (1 + THETA**2)
    return float(np.sqrt(area))


def energy(x: Array, theta: Array) -> Array:
    """Sum of (1 - r / sigma)^2 / 2 over pairs with r < sigma, in the periodic box."""
    diameters = jnp.where(jnp.arange(DISCS) < DISCS // 2, 1.0, theta)
    sigma = (diameters[:, None] + diameters) / 2
    shift = x[:, None] - x
    shift = shift - box_length() * jnp.round(shift / box_length())
    square = jnp.sum(shift**2, -1)
    near = (square < sigma**2) & ~jnp.eye(DISCS, dtype=bool)
    r = jnp.sqrt(jnp.where(near, square, 1.0))
    return jnp.sum(jnp.where(near, (1 - r / sigma) ** 2, 0.0)) / 4


class Fire(NamedTuple):
    """The state of the FIRE descent."""

    x: Array
    v: Array
    dt: Array
    alpha: Array
    downhill: Array


def relax(x: Array, theta: Array, count: int) -> Array:
    """Positions after `count` steps of FIRE."""
    force = jax.grad(lambda x: -energy(x, theta))

    def step(_: Array, s: Fire) -> Fire:
        F = force(s.x)
        v = s.v + s.dt * F
        power = jnp.vdot(F, v)
        speed = jnp.sqrt(jnp.sum(v**2) + 1e-300)
        size = jnp.sqrt(jnp.sum(F**2) + 1e-300)
        v = (1 - s.alpha) * v + s.alpha * speed / size * F
        good = power > 0
        downhill = jnp.where(good, s.downhill + 1, 0)
        long = good & (downhill > 5)
        dt = jnp.where(
            long, jnp.minimum(1.1 * s.dt, 0.25), jnp.where(good, s.dt, s.dt / 2)
        )
        alpha = jnp.where(long, 0.99 * s.alpha, jnp.where(good, s.alpha, 0.1))
        v = jnp.where(good, v, 0.0)
        return Fire(s.x + dt * v, v, dt, alpha, downhill)

    zero = jnp.zeros_like(x)
    start = Fire(x, zero, jnp.array(0.1), jnp.array(0.1), jnp.array(0))
    return jax.lax.fori_loop(0, count, step, start).x


def start(seed: int) -> Array:
    """Uniform positions in the box."""
    return box_length() * jax.random.uniform(jax.random.key(seed), (DISCS, 2))


F = implicit.stationarity(energy)


def sensitivity(x: Array, theta: Array, solve: str) -> Array:
    """dx/dtheta of a relaxed packing by one linear solve."""
    options = {"solve": solve, "tol": 1e-12, "maxiter": 2000}
    return jax.jacfwd(lambda t: implicit.attach(F, x, t, **options))(theta)


def centered(dx: Array) -> Array:
    """Displacements without the common one, which the energy leaves open."""
    return dx - dx.mean(0)


def off(dx: Array, exact: Array) -> float:
    """Relative error; what is not finite is infinitely wrong."""
    error = float(jnp.linalg.norm(dx - exact) / jnp.linalg.norm(exact))
    return error if np.isfinite(error) else float("inf")


def study(seed: int) -> tuple[list[dict], list[dict], dict, dict]:
    """Solvers at the minimum, iterations short of it, diagnostics, and a picture."""
    x0, theta, h = start(seed), jnp.array(THETA), 1e-6
    full = jax.jit(lambda x, t: relax(x, t, FULL))
    x = full(x0, theta)
    # From the minimum, as another start may end in another one.
    difference = centered((full(x, theta + h) - full(x, theta - h)) / (2 * h))
    solved = {s: jax.jit(sensitivity, static_argnums=2)(x, theta, s) for s in SOLVERS}
    exact = solved["lstsq"]
    solvers = [
        {"seed": seed, "solve": s, "against differences": off(dx, difference)}
        for s, dx in solved.items()
    ]
    short = []
    for count in COUNTS:
        stop, ones = (lambda t, count=count: relax(x0, t, count)), jnp.ones_like(theta)
        y, through = jax.jit(lambda t, f=stop, o=ones: jax.jvp(f, (t,), (o,)))(theta)
        dx = jax.jit(sensitivity, static_argnums=2)(y, theta, "lstsq")
        short.append(
            {
                "seed": seed,
                "steps": count,
                "max force": float(jnp.abs(F(y, theta)).max()),
                "implicit": off(dx, exact),
                "unrolled": off(centered(through), exact),
            }
        )
    hessian = jax.hessian(energy)(x, theta).reshape(2 * DISCS, 2 * DISCS)
    values = np.linalg.eigvalsh(hessian)
    found = {
        "max force": float(jnp.abs(F(x, theta)).max()),
        "zero modes": int((np.abs(values) < 1e-10).sum()),
        "min_singular": float(implicit.check(F, x, theta).min_singular),
    }
    return solvers, short, found, {"x": x, "dx": exact}


def main(settings: Settings) -> int:
    """Relaxes, differentiates, draws; returns the exit status."""
    began = time.monotonic()
    picture = open_folder(settings.out) / "packing.png"
    studies = [study(seed) for seed in range(1 if settings.quick else 2)]
    solvers = [row for s in studies for row in s[0]]
    short = [row for s in studies for row in s[1]]
    found = [s[2] for s in studies]
    for rows in (solvers, short, found):
        print_table(tuple(rows[0]), [tuple(row.values()) for row in rows])
        print()
    draw(studies[0][3], picture)
    return finish(
        claims(solvers, short, found),
        out=settings.out,
        settings=dataclasses.asdict(settings),
        pictures=[picture],
        seconds=time.monotonic() - began,
        table={"solvers": solvers, "short": short, "found": found},
    )


def claims(solvers: list[dict], short: list[dict], found: list[dict]) -> list[Claim]:
    """The sensitivity is right where the null space is respected."""
    error = {
        s: [r["against differences"] for r in solvers if r["solve"] == s]
        for s in SOLVERS
    }
    good = max(max(error[s]) for s in ("bicgstab", "cg", "lstsq"))
    force = max(row["max force"] for row in found)
    modes = [row["zero modes"] for row in found]
    least = max(row["min_singular"] for row in found)
    early = [row for row in short if row["steps"] == 400]
    ratio = min(row["unrolled"] / row["implicit"] for row in early)
    return [
        Claim("largest force after 4000 steps", force, "< 1e-13", force < 1e-13),
        Claim("zero modes of the Hessian", str(modes), "2 each", set(modes) == {2}),
        Claim("Krylov and least norm, relative error", good, "<= 1e-6", good <= 1e-6),
        Claim(
            "dense LU, relative error",
            min(error["lu"]),
            "> 0.1: wrong",
            min(error["lu"]) > 0.1,
        ),
        Claim("seen by implicit.check: min_singular", least, "< 1e-10", least < 1e-10),
        Claim("400 steps: unrolled over implicit error", ratio, "> 10", ratio > 10),
    ]


def draw(packing: dict, path: pathlib.Path) -> None:
    """The discs, and arrows that say where they go when the small ones grow."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axis, L = figure.subplots(), box_length()
    x, dx = np.asarray(packing["x"]) % L, np.asarray(packing["dx"])
    radii = np.where(np.arange(DISCS) < DISCS // 2, 0.5, THETA / 2)
    discs = [Circle(center, r) for center, r in zip(x, radii, strict=True)]
    colors = np.where(radii == 0.5, 0.35, 0.75)
    axis.add_collection(
        PatchCollection(discs, array=colors, cmap="Blues", clim=(0, 1), alpha=0.7)
    )
    axis.quiver(*x.T, *dx.T, angles="xy", width=0.004)
    axis.set(xlim=(0, L), ylim=(0, L), aspect="equal", xticks=[], yticks=[])
    axis.set_title("Displacement of relaxed discs as the small ones grow")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)  # noqa: FBT003
    sys.exit(main(tyro.cli(Settings)))
