"""One loss for ten one-step distillations: exact identities, then trained students.

    python -m examples.uni_instruct --out out/uni_instruct

An f-divergence of teacher and student is an integral over noise levels of a weighted
distance of their scores (Uni-Instruct). First, on the line and by quadrature, that this
is so, that the loss of three terms has the right gradient, and what stopping its weight
costs. Then three nets learn a mixture in the plane whose ideal teacher is known, by the
integral family (DI) and by the expanded one, with equal numbers of steps. Last,
particles that are seen through one-dimensional views: a stand-in for the distillation
of text to 3-D, in which SDS, VSD and the forward KL differ in diversity.

Wang et al., 2025, arXiv:2505.20755.
"""

import dataclasses
import functools
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

from examples import _plane
from examples._plane import CHUNK, FIGURES, SAMPLES, modes
from examples._report import Claim, finish, open_folder, print_table
from examples._uni_instruct import RULES, distil_particles, exact_claims
from jaxdiv import datasets
from jaxdiv.distributions import GaussianMixture

METHODS: dict[str, dict[str, Any]] = {
    "DI": {"family": "integral", "divergence": "reverse_kl"},
    "SIM": {"family": "expanded", "divergence": "reverse_kl"},
    "uni kl + GAN": {"family": "expanded", "divergence": "kl", "gan_weight": 0.1},
    "uni js": {"family": "expanded", "divergence": "js"},
}
MIXTURE = "imb8"  # eight Gaussians on a ring, each with 0.6 times the last one's weight


@dataclasses.dataclass(frozen=True)
class Settings:
    """One loss for ten one-step distillations."""

    out: pathlib.Path = pathlib.Path("out/uni_instruct")
    """Folder for the picture and the figures."""
    steps: int = 1000
    """Updates of each student, a multiple of 50."""
    seeds: int = 3
    """Runs of each method; they train side by side."""
    quick: bool = False
    """Show the flow in less than a minute: one method, 50 steps, one seed."""


def main(settings: Settings) -> int:
    """Computes, trains, draws; returns the exit status."""
    began = time.monotonic()
    if settings.steps < CHUNK or settings.steps % CHUNK or settings.seeds < 1:
        sys.exit(
            f"--steps {settings.steps}, --seeds {settings.seeds}: expected a "
            f"multiple of {CHUNK}, and at least 1 seed."
        )
    picture = open_folder(settings.out) / "samples.png"
    claims = exact_claims()
    steps, seeds = (CHUNK, 1) if settings.quick else (settings.steps, settings.seeds)
    names = list(METHODS)[2:3] if settings.quick else list(METHODS)
    mixture = datasets.gaussian_mixture_2d(MIXTURE)
    table, samples = {}, {"teacher": mixture.sample(jax.random.key(3), (SAMPLES,))}
    runs = [(METHODS[name], mixture, steps, seeds) for name in names]
    for name, found in zip(names, _plane.side_by_side(train, runs), strict=True):
        table[name], samples[name] = found
        print(f"{name}: JS {np.mean(table[name]['JS']):.4f}", flush=True)
    rules, moves = (RULES[::2], 400) if settings.quick else (RULES, 1500)
    particles, scores = particle_part(mixture, rules, seeds, moves)
    for columns, rows in (
        (("method", *FIGURES, "steps/s"), table),
        (("particles", *FIGURES[3:]), scores),
    ):
        print()
        print_table(
            columns,
            [[k, *_plane.cells(row, columns[1:])] for k, row in rows.items()],
        )
    draw(samples, particles, picture)
    if not settings.quick:
        claims += trained_claims(table) + particle_claims(scores)
    return finish(
        claims,
        out=settings.out,
        settings=dataclasses.asdict(settings),
        pictures=[picture],
        seconds=time.monotonic() - began,
        table=table,
        particles=scores,
    )


# --- In the plane: three nets and an analytic teacher --------------------------------


def train(
    options: Mapping[str, Any], mixture: GaussianMixture, steps: int, seeds: int
) -> tuple[dict[str, Any], np.ndarray]:
    """One student a seed: figures as lists over the seeds, samples of the first."""
    # Before, the ratios of a discriminator are noise.
    prog = _plane.program(seeds, ratio_after=steps // 5, **options)
    (row,), samples = _plane.train(prog, mixture, [steps])
    return row, samples[0]


def trained_claims(table: Mapping[str, Mapping[str, Any]]) -> list[Claim]:
    """Means over the seeds; figures of small nets are shown, not promised."""
    lines = []
    for name, row in table.items():
        count = float(np.mean(row["modes"]))
        lines.append(Claim(f"{name}: modes", count, "8", count == 8, promised=False))
    for name in ("SIM", "uni kl + GAN", "uni js"):
        ours, rival = (np.mean(table[k]["JS"]) for k in (name, "DI"))
        text = f"{ours:.4f}, {rival:.4f}"
        what = f"{name}: smoothed JS below that of DI"
        lines.append(Claim(what, text, "less", bool(ours < rival), promised=False))
    cost = float(table["DI"]["steps/s"] / table["SIM"]["steps/s"])
    return [
        *lines,
        Claim(
            "SIM: times as long a step as DI", cost, "<= 3", cost <= 3, promised=False
        ),
    ]


# --- Particles seen from all sides ---------------------------------------------------


def particle_part(
    mixture: GaussianMixture, rules: Sequence[str], seeds: int, steps: int
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, list[float]]]]:
    """Particles by each rule: those of the first seed, and the figures of all."""
    keys = jax.random.split(jax.random.key(5), seeds)
    drawn, scores = {}, {}
    for rule in rules:
        move = functools.partial(distil_particles, mixture, rule, steps=steps)
        found = jax.jit(jax.vmap(move))(keys)
        figures = np.array([modes(x, mixture) for x in found], float).T.tolist()
        scores[rule] = dict(zip(FIGURES[3:], figures, strict=True))
        drawn[f"particles, {rule}"] = np.asarray(found[0])
    return drawn, scores


def particle_claims(scores: Mapping[str, Mapping[str, Any]]) -> list[Claim]:
    """Diversity: a known law of the views keeps the particles apart."""
    counts = {rule: float(np.mean(row["modes"])) for rule, row in scores.items()}
    return [
        Claim(
            f"particles: modes of {rule} against SDS",
            f"{counts[rule]:.2f}, {counts['SDS']:.2f}",
            "at least 3 more",
            counts[rule] >= counts["SDS"] + 3,
        )
        for rule in RULES[1:]
    ]


# --- The picture ---------------------------------------------------------------------


def draw(
    samples: Mapping[str, np.ndarray],
    particles: Mapping[str, np.ndarray],
    path: pathlib.Path,
) -> None:
    """The teacher's samples and those of the students above, the particles below."""
    columns = max(len(samples), len(particles))
    figure = Figure(figsize=(3 * columns, 6), layout="constrained")
    panels = figure.subplots(2, columns)
    for axis in panels.flat:
        axis.axis("off")
    for row, (shown, size) in enumerate(((samples, 0.6), (particles, 12))):
        for axis, (name, x) in zip(panels[row], shown.items(), strict=False):
            axis.axis("on")
            axis.scatter(*np.asarray(x[:5000]).T, s=size, linewidths=0)
            axis.set(xlim=(-6, 6), ylim=(-6, 6), xticks=[], yticks=[], aspect="equal")
            axis.set_title(name, fontsize=10)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
