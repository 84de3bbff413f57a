"""A dictionary learned for the task, through the sparse codes that it gives.

    python -m examples.implicit_dictionary --out out/implicit_dictionary

Eight atoms code images of digits, and the codes tell odd digits from even ones. The
code of an image is the solution of an elastic net; its derivative in the atoms comes
from the fixed point of the proximal-gradient step, one small dense system an image, so
that atoms and classifier are trained together. Against it stand a dictionary learned
without the labels, and logistic regression on the pixels. The same is run on a data
set where it gains nothing.

Blondel et al., 2022, arXiv:2105.15183, section 4.3; Mairal, Bach and Ponce, 2012.
"""

import dataclasses
import functools
import pathlib
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from examples._report import Claim, finish, open_folder, print_table
from jaxdiv import implicit
from jaxdiv.typing import Array

L1, L2, CODE_STEPS = 0.1, 0.1, 150
WAYS = ("task-driven", "dictionary, then logistic", "logistic on the inputs")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A dictionary learned for the task, through the sparse codes that it gives."""

    out: pathlib.Path = pathlib.Path("out/implicit_dictionary")
    """Folder for the picture and the figures."""
    seeds: int = 3
    """Splits of the data into training and test rows."""
    steps: int = 200
    """Adam steps on atoms and classifier."""
    quick: bool = False
    """Take one split."""


class Task(NamedTuple):
    """Inputs as rows, labels 0 or 1, and the sizes of the experiment."""

    X: np.ndarray
    y: np.ndarray
    atoms: int
    rows: int


def tasks() -> dict[str, Task]:
    """Odd or even digits, centred; and breast cancer, standardised."""
    X, y = load_digits(return_X_y=True)
    digits = Task(X / 16 - (X / 16).mean(0), y % 2, 8, 300)
    X, y = load_breast_cancer(return_X_y=True)
    return {
        "odd digits": digits,
        "breast cancer": Task((X - X.mean(0)) / X.std(0), y, 5, 60),
    }


def elastic_net(code: Array, theta: tuple[Array, Array]) -> Array:
    """The smooth part: squared error of one input and the ridge penalty."""
    atoms, x = theta
    return (jnp.sum((x - code @ atoms) ** 2) + L2 * jnp.sum(code**2)) / 2


def soft_threshold(code: Array, _: None, step: Array) -> Array:
    """The proximal operator of the other part, L1 times the sum of sizes."""
    return jnp.sign(code) * jnp.maximum(jnp.abs(code) - step * L1, 0)


def encode(atoms: Array, X: Array) -> Array:
    """Sparse codes of the rows of X; differentiable in the atoms."""
    still = jax.lax.stop_gradient(atoms)
    step = 1 / (jnp.linalg.norm(still, 2) ** 2 + L2)
    T = implicit.proximal_gradient(elastic_net, soft_threshold, step)

    @implicit.fixed_point(T, solve="lu")
    def solver(code: Array, theta: tuple[Array, Array]) -> Array:
        return jax.lax.fori_loop(0, CODE_STEPS, lambda _, c: T(c, theta), code)

    zero = jnp.zeros(len(atoms))
    return jax.vmap(lambda x: solver(zero, (atoms, x)))(X)


class Model(NamedTuple):
    """Atoms as rows, and a linear classifier of codes."""

    atoms: Array
    weights: Array
    offset: Array


def logits(model: Model, X: Array) -> Array:
    """Of class 1."""
    return encode(model.atoms, X) @ model.weights + model.offset


def loss(model: Model, X: Array, y: Array) -> Array:
    """Mean logistic loss with a ridge penalty on the weights."""
    errors = optax.sigmoid_binary_cross_entropy(logits(model, X), y)
    return errors.mean() + jnp.sum(model.weights**2) / (2 * len(X))


@functools.partial(jax.jit, static_argnames="steps")
def fit(model: Model, X: Array, y: Array, steps: int) -> tuple[Model, Array]:
    """Adam on everything, the atoms kept in the unit ball; and the losses."""
    optimizer = optax.adam(1e-2)

    def step(carry: tuple, _: None) -> tuple[tuple, Array]:
        model, state = carry
        value, slope = jax.value_and_grad(loss)(model, X, y)
        updates, state = optimizer.update(slope, state)
        model = optax.apply_updates(model, updates)
        atoms = jax.vmap(implicit.projection.l2_ball)(model.atoms)
        return (model._replace(atoms=atoms), state), value

    (model, _), losses = jax.lax.scan(
        step, (model, optimizer.init(model)), length=steps
    )
    return model, losses


class Outcome(NamedTuple):
    """Test areas under the curve by `WAYS`, atoms before and after, the losses."""

    areas: tuple[float, float, float]
    before: Array
    after: Array
    losses: Array


def experiment(task: Task, seed: int, steps: int) -> Outcome:
    """One split: the three ways on the same rows."""
    X, X_test, y, y_test = train_test_split(
        task.X, task.y, train_size=task.rows, stratify=task.y, random_state=seed
    )
    learner = MiniBatchDictionaryLearning(
        task.atoms, alpha=L1, batch_size=32, max_iter=100, random_state=seed
    )
    atoms = jnp.asarray(learner.fit(X).components_)
    codes, codes_test = (np.asarray(encode(atoms, rows)) for rows in (X, X_test))
    on_codes = LogisticRegression(max_iter=5000).fit(codes, y)
    on_inputs = LogisticRegression(max_iter=5000).fit(X, y)
    start = Model(
        atoms, jnp.asarray(on_codes.coef_[0]), jnp.asarray(on_codes.intercept_[0])
    )
    model, losses = fit(start, jnp.asarray(X), jnp.asarray(y, float), steps)
    scores = (
        logits(model, X_test),
        on_codes.decision_function(codes_test),
        on_inputs.decision_function(X_test),
    )
    areas = tuple(float(roc_auc_score(y_test, score)) for score in scores)
    return Outcome(areas, atoms, model.atoms, losses)


def slope_error(task: Task) -> float:
    """Relative error of the implicit gradient in the atoms, by central differences."""
    keys = jax.random.split(jax.random.key(0), 3)
    X, y = jnp.asarray(task.X[:20]), jnp.asarray(task.y[:20], float)
    atoms = jax.vmap(implicit.projection.l2_ball)(
        jax.random.normal(keys[0], (task.atoms, X.shape[1]))
    )
    model = Model(atoms, jax.random.normal(keys[1], (task.atoms,)), jnp.array(0.0))
    along = jax.random.normal(keys[2], atoms.shape)

    @jax.jit
    def value(s: Array) -> Array:
        return loss(model._replace(atoms=atoms + s * along), X, y)

    width = 1e-5
    difference = (value(width) - value(-width)) / (2 * width)
    return float(abs(jax.grad(value)(0.0) / difference - 1))


def main(settings: Settings) -> int:
    """Trains, compares, draws; returns the exit status."""
    began = time.monotonic()
    picture = open_folder(settings.out) / "dictionaries.png"
    seeds = range(1 if settings.quick else settings.seeds)
    everything, rows = {}, []
    for name, task in tasks().items():
        outcomes = [experiment(task, seed, settings.steps) for seed in seeds]
        everything[name] = outcomes
        areas = np.array([o.areas for o in outcomes])
        spread = areas.std(0)
        cells = zip(areas.mean(0), spread, strict=True)
        rows.append((name, *(f"{m:.3f} +- {s:.3f}" for m, s in cells)))
    print_table(("area under the curve", *WAYS), rows)
    draw(everything["odd digits"][0], picture)
    return finish(
        claims(everything, slope_error(tasks()["odd digits"])),
        out=settings.out,
        settings=dataclasses.asdict(settings),
        pictures=[picture],
        seconds=time.monotonic() - began,
        table=[list(row) for row in rows],
    )


def claims(everything: dict[str, list[Outcome]], error: float) -> list[Claim]:
    """Training the dictionary for the task pays on digits, not on every data set."""
    digits = np.array([o.areas for o in everything["odd digits"]])
    cancer = np.array([o.areas for o in everything["breast cancer"]])
    over_codes = (digits[:, 0] - digits[:, 1]).min()
    over_inputs = (digits[:, 0] - digits[:, 2]).min()
    gain = float(cancer[:, 0].mean() - cancer[:, 2].mean())
    return [
        Claim("gradient in the atoms, relative error", error, "<= 1e-6", error <= 1e-6),
        Claim(
            "digits: area of task-driven",
            float(digits[:, 0].mean()),
            ">= 0.98",
            digits[:, 0].mean() >= 0.98,
        ),
        Claim(
            "least gain over a dictionary learned first",
            over_codes,
            "> 0",
            over_codes > 0,
        ),
        Claim(
            "least gain over logistic regression on pixels",
            over_inputs,
            "> 0",
            over_inputs > 0,
        ),
        Claim(
            "breast cancer: gain over logistic regression",
            gain,
            "> 0",
            gain > 0,
            promised=False,
        ),
    ]


def draw(outcome: Outcome, path: pathlib.Path) -> None:
    """Atoms before and after, and the loss."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(3, 1))
    axes = left.subplots(2, len(outcome.before))
    for row, atoms, name in zip(
        axes,
        (outcome.before, outcome.after),
        ("learned first", "for the task"),
        strict=True,
    ):
        for axis, atom in zip(row, np.asarray(atoms), strict=True):
            bound = np.abs(atom).max()
            axis.imshow(atom.reshape(8, 8), cmap="RdBu_r", vmin=-bound, vmax=bound)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name)
    left.suptitle("Atoms for odd against even digits")
    axis = right.subplots()
    axis.plot(outcome.losses)
    axis.set(title="Training loss", xlabel="Adam step")
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)  # noqa: FBT003
    sys.exit(main(tyro.cli(Settings)))
