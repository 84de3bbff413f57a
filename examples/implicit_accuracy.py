"""How wrong is the derivative of a solution that is itself a little wrong?

    python -m examples.implicit_accuracy --out out/implicit_accuracy

Gradient descent is stopped early on two problems with real data, ridge and logistic
regression, and the derivative of the solution in the penalty is taken in three ways:
implicitly at the last iterate, by differentiating through all iterations, and
implicitly after one Newton step (`refine=1`). Theorem 1 bounds the error of the first
by the error of the iterate times a constant, which for ridge regression is one over the
least eigenvalue of the Hessian.

Blondel et al., 2022, arXiv:2105.15183, theorem 1 and figure 3.
"""

import dataclasses
import functools
import pathlib
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure
from sklearn import datasets

from examples._report import Claim, finish, open_folder, print_table
from jaxdiv import implicit
from jaxdiv.typing import Array


@dataclasses.dataclass(frozen=True)
class Settings:
    """How wrong is the derivative of a solution that is itself a little wrong?"""

    out: pathlib.Path = pathlib.Path("out/implicit_accuracy")
    """Folder for the picture and the figures."""
    quick: bool = False
    """The run takes seconds; this changes nothing."""


class Problem(NamedTuple):
    """An objective of weights and a penalty, the penalty, and a step of descent."""

    objective: Callable[[Array, Array], Array]
    theta: float
    step: float
    size: int
    counts: tuple[int, ...]


def ridge() -> Problem:
    """Diabetes, every column divided by its deviation; penalty theta / 2."""
    X, y = datasets.load_diabetes(return_X_y=True)
    X, y = X / X.std(0), y / y.std()

    def objective(w: Array, theta: Array) -> Array:
        return jnp.sum((X @ w - y) ** 2) / 2 + theta * w @ w / 2

    step = 1 / (np.linalg.norm(X, 2) ** 2 + 1)
    return Problem(objective, 1.0, step, X.shape[1], (100, 200, 400, 800, 1600, 3200))


def logistic() -> Problem:
    """Breast cancer, standardised; penalty e^theta / 2 at e^theta = 0.01."""
    X, y = datasets.load_breast_cancer(return_X_y=True)
    X, signs = (X - X.mean(0)) / X.std(0), 2.0 * y - 1

    def objective(w: Array, theta: Array) -> Array:
        margins = signs * (X @ w)
        return jnp.mean(jax.nn.softplus(-margins)) + jnp.exp(theta) * w @ w / 2

    step = 1 / (np.linalg.norm(X, 2) ** 2 / len(X) / 4 + 0.01)
    return Problem(
        objective, float(np.log(0.01)), step, X.shape[1], (100, 300, 1000, 3000)
    )


def descend(problem: Problem, theta: Array, count: int) -> Array:
    """Weights after `count` steps of gradient descent from zero."""
    slope = jax.grad(problem.objective)
    return jax.lax.fori_loop(
        0,
        count,
        lambda _, w: w - problem.step * slope(w, theta),
        jnp.zeros(problem.size),
    )


def errors(problem: Problem) -> list[dict[str, float]]:
    """Relative errors of the iterate and of its three derivatives, for each count."""
    F, theta = implicit.stationarity(problem.objective), jnp.array(problem.theta)

    @functools.partial(jax.jit, static_argnums=1)
    def derivatives(theta: Array, count: int) -> tuple[Array, ...]:
        run = functools.partial(descend, problem, count=count)
        x = run(theta)
        at = {"symmetric": True}
        return (
            x,
            jax.jacfwd(lambda t: implicit.attach(F, x, t, **at))(theta),
            jax.jacfwd(run)(theta),
            jax.jacfwd(lambda t: implicit.attach(F, x, t, refine=1, **at))(theta),
        )

    exact = implicit.newton(F, jnp.zeros(problem.size), theta, tol=1e-12).value
    slope = jax.jacfwd(lambda t: implicit.attach(F, exact, t))(theta)
    rows = []
    for count in problem.counts:
        x, *found = derivatives(theta, count)
        off = [float(jnp.linalg.norm(d - slope)) for d in found]
        size = float(jnp.linalg.norm(slope))
        iterate = float(jnp.linalg.norm(x - exact))
        names = ("implicit", "unrolled", "refined")
        relative = {n: e / size for n, e in zip(names, off, strict=True)}
        rows.append(
            {"steps": count, "iterate": iterate, **relative, "C": off[0] / iterate}
        )
    return rows


def constant(problem: Problem) -> float:
    """One over the least eigenvalue of the Hessian, the bound of ridge regression."""
    hessian = jax.hessian(problem.objective)(jnp.zeros(problem.size), problem.theta)
    return float(1 / np.linalg.eigvalsh(hessian)[0])


def main(settings: Settings) -> int:
    """Measures, prints, draws; returns the exit status."""
    began = time.monotonic()
    picture = open_folder(settings.out) / "errors.png"
    bound = constant(ridge())
    tables = {"ridge": errors(ridge()), "logistic": errors(logistic())}
    for name, rows in tables.items():
        print(f"{name}: error of the weights, relative errors of their derivative")
        print_table(tuple(rows[0]), [tuple(row.values()) for row in rows])
        print()
    draw(tables, bound, picture)
    return finish(
        claims(tables, bound),
        out=settings.out,
        settings=dataclasses.asdict(settings),
        pictures=[picture],
        seconds=time.monotonic() - began,
        table=tables,
    )


def claims(tables: dict[str, list[dict[str, float]]], bound: float) -> list[Claim]:
    """What theorem 1 says, and that unrolling is worse and one Newton step better."""
    rows = [row for table in tables.values() for row in table]
    last = tables["ridge"][-1]
    against = min(row["unrolled"] / row["implicit"] for row in rows)
    gain = min(row["implicit"] / row["refined"] for row in rows)
    refined = max(row["refined"] for row in tables["ridge"])
    return [
        Claim(
            "ridge: error of the derivative over error of the weights",
            last["C"],
            f"1 / least eigenvalue = {bound:.4g}",
            abs(last["C"] / bound - 1) < 0.01,
        ),
        Claim(
            "and never above it",
            max(row["C"] for row in tables["ridge"]),
            f"<= {bound:.4g}",
            all(row["C"] <= bound * (1 + 1e-6) for row in tables["ridge"]),
        ),
        Claim("least error of unrolling over implicit", against, "> 1", against > 1),
        Claim("least error of implicit over refined", gain, "> 1", gain > 1),
        Claim(
            "ridge: refined, at any step count", refined, "<= 1e-13", refined <= 1e-13
        ),
    ]


def draw(tables: dict[str, list[dict]], bound: float, path: pathlib.Path) -> None:
    """Errors of the derivative against the error of the weights."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axis, (name, rows) in zip(figure.subplots(1, 2), tables.items(), strict=True):
        x = [row["iterate"] for row in rows]
        for kind, mark in [("unrolled", "s-"), ("implicit", "o-"), ("refined", "^-")]:
            axis.loglog(x, [max(row[kind], 1e-17) for row in rows], mark, label=kind)
        axis.set(title=f"{name} regression", xlabel="error of the weights")
        axis.set_ylabel("relative error of their derivative")
        axis.grid(alpha=0.3)
        axis.invert_xaxis()
        axis.legend()
    figure.suptitle(
        f"Theorem 1: error of the derivative <= {bound:.3f} x error (ridge)"
    )
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)  # noqa: FBT003
    sys.exit(main(tyro.cli(Settings)))
