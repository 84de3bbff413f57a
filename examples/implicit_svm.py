"""The hyper-gradient of a support vector machine, four ways.

    python -m examples.implicit_svm --out out/implicit_svm

A multiclass machine on digits 0 to 4 is trained in its dual, on the product of 200
simplexes, and its penalty e^lambda is moved to lower the error on other digits. The
derivative of the dual solution comes from the fixed point of projected gradient, from
that of mirror descent, or from differentiating through the iterations; all are compared
with a central difference. One of the four is wrong without a word: `implicit.check`
tells.

Blondel et al., 2022, arXiv:2105.15183, section 4.1.
"""

import dataclasses
import functools
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from examples._report import Claim, finish, open_folder, print_table
from jaxdiv import implicit
from jaxdiv.implicit.projection import simplex
from jaxdiv.typing import Array

CLASSES, ROWS, LAMBDA, STEPS = 5, 200, 1.0, (100, 500, 2000)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The hyper-gradient of a support vector machine, four ways."""

    out: pathlib.Path = pathlib.Path("out/implicit_svm")
    """Folder for the picture and the figures."""
    quick: bool = False
    """Take 10 outer steps, not 30."""


class Data(NamedTuple):
    """Training and validation images as rows, labels as one-hot rows."""

    X: Array
    Y: Array
    X_val: Array
    Y_val: Array


def load() -> Data:
    """400 digits 0 to 4, halved with equal shares of each."""
    X, y = load_digits(n_class=CLASSES, return_X_y=True)
    X, X_val, y, y_val = train_test_split(
        X / 16, y, train_size=ROWS, test_size=ROWS, stratify=y, random_state=0
    )
    one_hot = np.eye(CLASSES)
    return Data(*map(jnp.asarray, (X, one_hot[y], X_val, one_hot[y_val])))


class Machine(NamedTuple):
    """The dual objective, the loss of its solution, and a step for its solver."""

    dual: Callable[[Array, Array], Array]  # (x, lambda)
    loss: Callable[[Array, Array], Array]  # (x, lambda)
    step: Callable[[Array], Array]


def machine(data: Data) -> Machine:
    """W = X'(Y - x) / theta with rows of x on the simplex, theta = e^lambda."""
    norm = np.linalg.norm(data.X, 2) ** 2

    def weights(x: Array, lam: Array) -> Array:
        return data.X.T @ (data.Y - x) / jnp.exp(lam)

    def dual(x: Array, lam: Array) -> Array:
        W = weights(x, lam)
        return jnp.exp(lam) / 2 * jnp.sum(W**2) + jnp.vdot(x, data.Y)

    def loss(x: Array, lam: Array) -> Array:
        error = data.X_val @ weights(x, lam) - data.Y_val
        return jnp.mean(jnp.sum(error**2, 1)) / 2

    return Machine(dual, loss, lambda lam: jnp.exp(lam) / norm)


def start() -> Array:
    """The uniform point of every simplex."""
    return jnp.full((ROWS, CLASSES), 1 / CLASSES)


def train(svm: Machine, lam: Array, tol: float = 1e-10) -> implicit.Solution:
    """The dual solution, its derivative by the projected-gradient fixed point."""
    return implicit.projected_fista(
        svm.dual,
        simplex,
        start(),
        lam,
        stepsize=svm.step(lam),
        tol=tol,
        maxiter=20_000,
        solve="gmres",
    )


def unrolled(svm: Machine, lam: Array, count: int) -> Array:
    """The dual after `count` accelerated steps, each of them to be differentiated."""
    T = implicit.projected_gradient(svm.dual, simplex, svm.step(lam))

    def step(k: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        x, before = pair
        return T(x + k / (k + 3) * (x - before), lam), x

    return jax.lax.fori_loop(0, count, step, (start(), start()))[0]


def mirror(svm: Machine, x: Array, lam: Array, **options: Any) -> Array:
    """The solution, its derivative by the mirror-descent fixed point."""
    F = mirror_residual(svm, lam)
    return implicit.attach(F, jnp.maximum(x, 1e-300), lam, **options)


def mirror_residual(svm: Machine, lam: Array) -> Callable[[Array, Array], Array]:
    """T(x) - x of mirror descent."""
    T = implicit.mirror_descent(svm.dual, jax.lax.stop_gradient(1 / jnp.exp(lam)))
    return lambda x, lam: T(x, lam) - x


def hyper_gradients(svm: Machine) -> dict[str, tuple[float, float, float]]:
    """For each way: the gradient at lambda = 1, seconds a call, seconds to compile."""
    lam = jnp.array(LAMBDA)
    solved = train(svm, lam, 1e-12).value

    def by(solution: Callable[[Array], Array]) -> Callable[[Array], Array]:
        return jax.grad(lambda lam: svm.loss(solution(lam), lam))

    ways = {
        "implicit, projected gradient": by(lambda lam: train(svm, lam).value),
        "implicit, mirror descent, normal CG": by(
            lambda lam: mirror(svm, solved, lam, solve="normal_cg", tol=1e-6)
        ),
        "implicit, mirror descent, dense": by(
            lambda lam: mirror(svm, solved, lam, solve="lu")
        ),
        **{
            f"unrolled, {count} steps": by(
                functools.partial(unrolled, svm, count=count)
            )
            for count in STEPS
        },
    }
    found = {"central difference": (central_difference(svm), math.nan, math.nan)}
    for name, way in ways.items():
        began = time.perf_counter()
        run = jax.jit(way).lower(lam).compile()
        compiled = time.perf_counter()
        value = float(run(lam))
        began, compile_time = time.perf_counter(), compiled - began
        jax.block_until_ready(run(lam))
        found[name] = (value, time.perf_counter() - began, compile_time)
    return found


def central_difference(svm: Machine, width: float = 1e-4) -> float:
    """(loss(1 + h) - loss(1 - h)) / 2h of solutions to twelve digits."""
    ends = [LAMBDA + width, LAMBDA - width]
    high, low = (svm.loss(train(svm, jnp.array(s), 1e-13).value, s) for s in ends)
    return float((high - low) / (2 * width))


def tune(svm: Machine, steps: int) -> list[tuple[float, float]]:
    """(lambda, loss) along gradient descent on lambda."""

    @jax.jit
    def step(lam: Array) -> tuple[Array, Array]:
        value, slope = jax.value_and_grad(
            lambda lam: svm.loss(train(svm, lam, 1e-8).value, lam)
        )(lam)
        return value, lam - 2.0 * slope

    path, lam = [], jnp.array(LAMBDA)
    for _ in range(steps):
        value, following = step(lam)
        path.append((float(lam), float(value)))
        lam = following
    return path


def main(settings: Settings) -> int:
    """Compares, tunes, draws; returns the exit status."""
    began = time.monotonic()
    picture = open_folder(settings.out) / "hyper_gradients.png"
    svm = machine(load())
    found = hyper_gradients(svm)
    exact = found["central difference"][0]
    rows = [
        (name, value, value / exact - 1, seconds, compiling)
        for name, (value, seconds, compiling) in found.items()
    ]
    print_table(("hyper-gradient by", "value", "error", "s", "s to compile"), rows)
    checks = diagnose(svm)
    path = tune(svm, 10 if settings.quick else 30)
    draw(found, path, picture)
    return finish(
        claims(found, checks, path),
        out=settings.out,
        settings=dataclasses.asdict(settings),
        pictures=[picture],
        seconds=time.monotonic() - began,
        table=[list(row) for row in rows],
    )


def diagnose(svm: Machine) -> dict[str, implicit.Diagnostics]:
    """What `implicit.check` says of the two fixed points."""
    lam = jnp.array(LAMBDA)
    x = train(svm, lam, 1e-12).value
    T = implicit.projected_gradient(svm.dual, simplex, svm.step(lam))
    checks = {
        "projected gradient, GMRES": implicit.check(
            lambda x, lam: T(x, lam) - x, x, lam, solve="gmres"
        ),
        "mirror descent, normal CG": implicit.check(
            mirror_residual(svm, lam), x, lam, solve="normal_cg", tol=1e-6
        ),
    }
    print()
    header = ("implicit.check", *implicit.Diagnostics._fields)
    print_table(header, [(k, *map(float, v)) for k, v in checks.items()])
    return checks


def claims(
    found: dict[str, tuple[float, float, float]],
    checks: dict[str, implicit.Diagnostics],
    path: list[tuple[float, float]],
) -> list[Claim]:
    """The implicit gradient is right; what is wrong is seen."""
    exact = found["central difference"][0]
    error = {name: abs(value / exact - 1) for name, (value, *_) in found.items()}
    projected = error["implicit, projected gradient"]
    rest = [error[f"unrolled, {count} steps"] for count in STEPS]
    flagged = checks["mirror descent, normal CG"]
    seconds = found[f"unrolled, {STEPS[-1]} steps"][1]
    ratio = seconds / found["implicit, projected gradient"][1]
    return [
        Claim(
            "hyper-gradient at lambda = 1",
            exact,
            "-0.2752",
            abs(exact + 0.27523) < 1e-4,
        ),
        Claim(
            "projected gradient, relative error",
            projected,
            "<= 1e-4",
            projected <= 1e-4,
        ),
        Claim("least error of unrolling", min(rest), ">= 1e-2", min(rest) >= 1e-2),
        Claim(
            "normal CG on mirror descent leaves a residual",
            float(flagged.solve_residual),
            "> 1e-5, its tolerance",
            bool(flagged.solve_residual > 1e-5),
        ),
        Claim(
            "time of unrolling 2000 steps over implicit",
            ratio,
            "> 1",
            ratio > 1,
            promised=False,
        ),
        Claim(
            "validation loss",
            f"{path[0][1]:.4f} to {path[-1][1]:.4f}",
            "falls",
            path[-1][1] < path[0][1],
        ),
    ]


def draw(
    found: dict[str, tuple[float, float, float]],
    path: list[tuple[float, float]],
    picture: pathlib.Path,
) -> None:
    """The hyper-gradients as bars, and the way of the outer descent."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(found)
    left.barh(names, [found[name][0] for name in names], color="tab:blue")
    left.axvline(found["central difference"][0], color="black", linewidth=1)
    left.set(title="Hyper-gradient at $\\lambda = 1$")
    left.invert_yaxis()
    right.plot(*zip(*path, strict=True), "o-")
    right.set(title="Outer descent", xlabel="$\\lambda$", ylabel="validation loss")
    right.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)  # noqa: FBT003
    sys.exit(main(tyro.cli(Settings)))
