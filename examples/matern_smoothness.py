"""Learn how smooth a Gaussian process is, by gradient descent on its smoothness.

    python -m examples.matern_smoothness --out out/matern_smoothness

A Matern kernel of smoothness nu is a Bessel function of order nu: nu is mostly fixed at
1/2, 3/2 or 5/2, where the kernel is elementary, as few libraries have a derivative in
the order. Here nu, the length scale, the variance and the noise are learned together,
by the marginal likelihood of draws from processes whose nu is known.

The kernel is that of Plesner, Sorensen and Hauberg, 2024, arXiv:2409.08729, section 5;
the draws are our own.
"""

import dataclasses
import functools
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from examples._report import Claim, finish, open_folder, print_table
from jaxdiv import special
from jaxdiv.typing import Array

NAMES = ("smoothness", "length", "variance", "noise")
HALVES = (0.5, 1.5, 2.5)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Learn the smoothness of Gaussian processes by gradient descent."""

    out: pathlib.Path = pathlib.Path("out/matern_smoothness")
    """Folder for the picture and the figures."""
    smoothness: tuple[float, ...] = (0.3, 0.8, 1.5, 2.2)
    """Smoothness of the processes that are drawn from."""
    points: int = 300
    """Points of a draw."""
    draws: int = 4
    """Draws of each process, which are fitted together."""
    iterations: int = 40
    """Iterations of the optimiser."""
    seed: int = 0
    """Seed of the draws."""
    quick: bool = False
    """Few points and two processes only."""


def main(settings: Settings) -> int:
    """Draws, fits and compares; returns the exit status."""
    began = time.monotonic()
    out = open_folder(settings.out)
    if settings.quick:
        settings = dataclasses.replace(
            settings, smoothness=(0.8, 1.5), points=100, iterations=20
        )
    promised = not settings.quick
    with jax.enable_x64(True):  # noqa: FBT003 - the likelihood is ill-conditioned
        off = slope_error(settings)
        rows = [learn(settings, nu) for nu in settings.smoothness]
    print_table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    worst = max(abs(np.log(row["learned"] / row["nu"])) for row in rows)
    gain = min(row["log-likelihood"] - row["best half-integer"] for row in rows)
    claims = [
        Claim(
            "slope of the likelihood in nu against differences, relative error",
            off,
            "<= 1e-6",
            off <= 1e-6,
        ),
        Claim(
            "learned nu over the true one, worst factor",
            float(np.exp(worst)),
            "<= 1.25",
            bool(worst <= np.log(1.25)),
            promised,
        ),
        Claim(
            "log-likelihood gained over nu = 1/2, 3/2 and 5/2, at least",
            gain,
            ">= -0.01",
            gain >= -0.01,
            promised,
        ),
    ]
    picture = out / "smoothness.png"
    draw(rows, picture)
    return finish(
        claims,
        out=out,
        settings=dataclasses.asdict(settings),
        pictures=[picture],
        seconds=time.monotonic() - began,
        fits=rows,
    )


def covariance(log_params: dict[str, Array], x: Array) -> Array:
    """Covariance of noisy values of a Matern process at the points of a line."""
    p = {name: jnp.exp(value) for name, value in log_params.items()}
    distance = jnp.abs(x[:, None] - x)
    kernel = special.matern_kernel(distance, p["length"], p["smoothness"])
    return p["variance"] * kernel + p["noise"] * jnp.eye(len(x))


def negative_log_likelihood(log_params: dict[str, Array], x: Array, y: Array) -> Array:
    """Of independent draws y, shape `(draws, n)`, a draw."""
    L = jnp.linalg.cholesky(covariance(log_params, x))
    white = jax.scipy.linalg.solve_triangular(L, y.T, lower=True)
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(L)))
    fit = jnp.sum(white**2) / len(y)
    return (fit + log_det + len(x) * jnp.log(2 * jnp.pi)) / 2


def data(settings: Settings, nu: float) -> tuple[Array, Array]:
    """Points, and draws of the process there."""
    rng = np.random.default_rng(settings.seed)
    x = jnp.asarray(np.sort(rng.uniform(0, 10, settings.points)))
    truth = {"smoothness": nu, "length": 1.0, "variance": 1.0, "noise": 1e-4}
    log_params = {name: jnp.log(value) for name, value in truth.items()}
    L = jnp.linalg.cholesky(covariance(log_params, x))
    noise = rng.standard_normal((settings.points, settings.draws))
    return x, (L @ noise).T


def fit(
    settings: Settings, x: Array, y: Array, nu: float | None = None
) -> tuple[dict[str, float], float]:
    """Parameters of the highest likelihood, and it; nu is learned where it is None."""
    start = {"smoothness": nu or 1.0, "length": 0.5, "variance": 0.5, "noise": 1e-3}
    free = {name: jnp.log(jnp.float64(value)) for name, value in start.items()}
    held = {"smoothness": free.pop("smoothness")} if nu is not None else {}
    free, value = descend(free, held, x, y, settings.iterations)
    found = {name: float(jnp.exp(v)) for name, v in (free | held).items()}
    return found, -float(value)


@functools.partial(jax.jit, static_argnames="iterations")
def descend(
    free: dict[str, Array], held: dict[str, Array], x: Array, y: Array, iterations: int
) -> tuple[dict[str, Array], Array]:
    """The free parameters and the loss after so many iterations."""

    def loss(free: dict[str, Array]) -> Array:
        return negative_log_likelihood(free | held, x, y)

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(_: int, carry: tuple) -> tuple:
        free, state = carry
        value, slope = value_and_grad(free, state=state)
        updates, state = optimizer.update(
            slope, state, free, value=value, grad=slope, value_fn=loss
        )
        return optax.apply_updates(free, updates), state

    start = free, optimizer.init(free)
    free, _ = jax.lax.fori_loop(0, iterations, step, start)
    return free, loss(free)


def learn(settings: Settings, nu: float) -> dict[str, Any]:
    """The learned parameters of one process, and the best of the usual kernels."""
    x, y = data(settings, nu)
    found, likelihood = fit(settings, x, y)
    usual = max(fit(settings, x, y, half)[1] for half in HALVES)
    return {
        "nu": nu,
        "learned": found["smoothness"],
        **{name: found[name] for name in NAMES[1:]},
        "log-likelihood": likelihood,
        "best half-integer": usual,
    }


def slope_error(settings: Settings) -> float:
    """Relative error of the slope in log nu against central differences."""
    x, y = data(settings, 0.8)
    params = {"smoothness": 1.1, "length": 0.7, "variance": 0.9, "noise": 1e-2}
    log_params = {name: jnp.log(value) for name, value in params.items()}

    @jax.jit
    def along(z: Array) -> Array:
        return negative_log_likelihood(log_params | {"smoothness": z}, x, y)

    z, h = log_params["smoothness"], 1e-3
    ahead, behind = (along(z + 2 * h) - along(z - 2 * h), along(z + h) - along(z - h))
    expected = (8 * behind - ahead) / (12 * h)
    return float(abs(jax.grad(along)(z) / expected - 1))


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Correlations of the true and of the learned kernel."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    distance = np.linspace(0, 3, 200)
    for i, row in enumerate(rows):
        true = special.matern_kernel(distance, 1.0, row["nu"])
        learned = special.matern_kernel(distance, row["length"], row["learned"])
        axes.plot(distance, true, f"C{i}", label=f"nu = {row['nu']:g}")
        axes.plot(distance, learned, f"C{i}--")
    axes.set(xlabel="distance", ylabel="correlation (dashed: learned)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
