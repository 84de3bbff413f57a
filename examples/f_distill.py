"""One-step students by f-divergences: exact on the line, trained in the plane.

    python -m examples.f_distill --out out/f_distill

The gradient of D_f(teacher || student) is that of reverse KL with each sample weighted
by h(r), r the density ratio. First the exact gradient: the Gaussian that each f fits to
two modes. Then three nets (student, denoiser of the student's law, discriminator) on
mixtures in the plane, whose ideal teacher is known. The seeds train side by side. In
the "hard" case the student starts from one small blob, and the noise is too weak to
show it the other modes.

Xu, Nie and Vahdat, 2025, arXiv:2502.15681.
"""

import dataclasses
import functools
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib.figure import Figure

from examples import _plane
from examples._report import Claim, finish, open_folder, print_table
from jaxdiv import datasets, diffusion, divergence
from jaxdiv.distributions import GaussianMixture
from jaxdiv.typing import Array

# Gaussian closest to .6 N(-1.5, .6^2) + .4 N(1.5, .6^2), by quadrature: mean and std.
FITS = {
    "softened_rkl": (-1.476596, 0.627207),
    "reverse_kl": (-0.239393, 1.413859),
    "jeffreys": (-0.249677, 1.454653),
    "squared_hellinger": (-0.279005, 1.530604),
    "js": (-0.292080, 1.562362),
    "kl": (-0.3, 1.587451),
}
COLUMNS = ("case", "divergence", "steps", *_plane.FIGURES, "steps/s")


class Case(NamedTuple):
    """What is to be learned, and for how long.

    Attributes:
      data: name of the mixture.
      at: numbers of student steps after which it is judged.
      t_max: largest noise level of the losses.
      t_init: level that the student denoises from. Untrained it scales the noise by
        c_skip: a Gaussian of std 1.1 for 6, and of 0.3 for 26.6.
    """

    data: str
    at: tuple[int, ...]
    t_max: float = 6.0
    t_init: float = 6.0


CASES = {
    "imb8": Case("imb8", (3000,)),
    "ring8": Case("ring8", (500,)),  # balanced: little to tell apart
    "grid25": Case("grid25", (500,)),
    "hard": Case("imb8", (250, 500, 750), t_max=1.0, t_init=26.6),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """One-step students by f-divergences: exact on the line, trained in the plane."""

    out: pathlib.Path = pathlib.Path("out/f_distill")
    """Folder for the pictures and the figures."""
    divergences: tuple[str, ...] = ("js", "kl", "reverse_kl")
    """What the students descend; an unknown name lists the known ones."""
    cases: tuple[str, ...] = tuple(CASES)
    """Which mixtures: imb8, ring8, grid25, or the hard case of imb8."""
    seeds: int = 3
    """Runs of each."""
    quick: bool = False
    """Show the flow in less than a minute: 50 steps, of what comes first."""


def main(settings: Settings) -> int:
    """Fits, trains, draws; returns the exit status."""
    began = time.monotonic()
    names, cases = chosen(settings)
    seeds = min(settings.seeds, 2) if settings.quick else settings.seeds
    pictures = [open_folder(settings.out) / n for n in ("gaussian.png", "samples.png")]
    fits, exact = exact_part()
    print_table(("divergence", "mean", "std"), [(k, *v) for k, v in fits.items()])
    draw_fits(fits, pictures[0])
    print()
    table, samples = mixture_table(cases, names, seeds)
    print_table(COLUMNS, [_plane.cells(row, COLUMNS) for row in table])
    draw_samples(samples, pictures[1])
    return finish(
        [*exact, *trained_claims(table)],
        out=settings.out,
        settings=dataclasses.asdict(settings),
        pictures=pictures,
        seconds=time.monotonic() - began,
        fits=fits,
        table=table,
    )


def chosen(settings: Settings) -> tuple[list[str], dict[str, Case]]:
    """The divergences by their own names and the cases, fewer for a quick run."""
    try:
        names = [divergence.get(name).name for name in settings.divergences]
        for name in names:
            diffusion.f_distill_weight(name, jnp.ones(1))  # it has one
    except ValueError as error:
        sys.exit(f"--divergences: {error}")
    unknown = sorted(set(settings.cases) - set(CASES))
    if unknown or settings.seeds < 1:
        sys.exit(
            f"--cases {unknown} and --seeds {settings.seeds}: expected some of "
            f"{', '.join(CASES)}, and at least 1 seed."
        )
    cases = {name: CASES[name] for name in settings.cases}
    if settings.quick:
        names = names[:1] + names[1:][-1:]
        cases = {
            k: case._replace(at=(_plane.CHUNK,)) for k, case in list(cases.items())[:1]
        }
    return names, cases


# --- On the line: exact scores and ratio ---------------------------------------------


def pseudo_loss(
    params: tuple[Array, Array],
    z: Array,
    noise: Array,
    sigma: float,
    name: str,
    teacher: GaussianMixture,
    mass: Array | float = 1.0,
) -> Array:
    """f-distill's loss of the student mean + scale z, which knows its own law."""
    mean, scale = params
    x0 = (mean + scale * z)[:, None]
    x = x0 + sigma * noise[:, None]
    student = jax.lax.stop_gradient(gaussian(mean, scale))
    log_ratio = teacher.log_prob(x, sigma=sigma) - student.log_prob(x, sigma=sigma)
    weight = diffusion.f_distill_weight(name, jnp.exp(log_ratio), normalise=False)
    # Scores stand for denoisers: the loss sees their difference only.
    scores = (law.score(x, sigma=sigma) for law in (teacher, student))
    return diffusion.f_distill_loss(x0, *scores, mass * weight, dmd_normalise=False)


def gaussian(mean: Array, scale: Array) -> GaussianMixture:
    """N(mean, scale^2) as a mixture of one."""
    return GaussianMixture(
        jnp.ones(1), jnp.reshape(mean, (1, 1)), jnp.reshape(scale**2, 1)
    )


def on_the_line(
    weights: Sequence[float], means: Sequence[float], stds: Sequence[float]
) -> GaussianMixture:
    """A mixture in one dimension."""
    return GaussianMixture(
        jnp.array(weights), jnp.array(means)[:, None], jnp.array(stds) ** 2
    )


def fit_gaussians(steps: int = 800) -> dict[str, tuple[float, float]]:
    """Descends each divergence by its f-distill gradient; quadrature, no sampling."""
    teacher = on_the_line([0.6, 0.4], [-1.5, 1.5], [0.6, 0.6])
    z = jnp.linspace(-8, 8, 401)
    mass = jnp.exp(-(z**2) / 2)
    adam = optax.adam(optax.cosine_decay_schedule(0.05, steps))

    def loss(params: dict[str, tuple[Array, Array]]) -> Array:
        rest = (z, jnp.zeros_like(z), 0.0)
        each = (
            pseudo_loss(p, *rest, name, teacher, mass / mass.mean())
            for name, p in params.items()
        )
        return sum(each)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        params, state = carry
        updates, state = adam.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    # Two modes make two basins: each starts in that of its published minimum.
    start = {k: (jnp.array(m + 0.3), jnp.array(s + 0.2)) for k, (m, s) in FITS.items()}
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, steps)[0][0])
    params = run((start, adam.init(start)))
    return {name: (float(params[name][0]), float(params[name][1])) for name in FITS}


def worst_standard_error(groups: int = 100, size: int = 1000) -> float:
    """Monte Carlo gradients against those of the divergences, in standard errors."""
    teacher, sigma = on_the_line([0.3, 0.7], [-1.5, 1.0], [0.5, 0.7]), 0.6
    params = (jnp.array(0.2), jnp.array(1.05))
    draws = jax.random.normal(jax.random.key(0), (groups, 2, size), params[0].dtype)
    names = [*FITS, "pearson_chi2"]
    x = jnp.linspace(-14, 14, 8001)[:, None]

    def divergence_of(params: tuple[Array, Array], name: str) -> Array:
        log_q = gaussian(*params).log_prob(x, sigma=sigma)
        ell = teacher.log_prob(x, sigma=sigma) - log_q
        return jnp.trapezoid(jnp.exp(log_q) * divergence.get(name).f(ell), x[:, 0])

    @jax.jit
    def both(draws: Array) -> list[tuple]:
        def sampled(draw: Array, name: str) -> tuple[Array, Array]:
            return jax.grad(pseudo_loss)(params, *draw, sigma, name, teacher)

        return [
            (
                jax.grad(divergence_of)(params, name),
                jax.vmap(functools.partial(sampled, name=name))(draws),
            )
            for name in names
        ]

    errors = [
        abs(found.mean() - exact) / (found.std() / groups**0.5)
        for exacts, founds in both(draws)
        for exact, found in zip(exacts, founds, strict=True)
    ]
    return float(max(errors))


def off_the_dmd_gradient() -> float:
    """Largest difference between the gradient with f = reverse KL and VSD's."""
    x0, teacher, fake = jax.random.normal(jax.random.key(1), (3, 64, 2))
    weight = diffusion.f_distill_weight("reverse_kl", jnp.geomspace(0.1, 20.0, 64))
    ours = jax.grad(diffusion.f_distill_loss)
    ours = ours(x0, teacher, fake, weight, dmd_normalise=False)
    return float(jnp.abs(ours - (fake - teacher) / 64).max())


def exact_part() -> tuple[dict[str, tuple[float, float]], list[Claim]]:
    """The Gaussian fits, and what needs no network."""
    with jax.enable_x64(True):  # noqa: FBT003 - fits are compared in four digits
        fits, off = fit_gaussians(), worst_standard_error()
    error = max(float(np.abs(np.subtract(fits[k], FITS[k])).max()) for k in FITS)
    dmd = off_the_dmd_gradient()
    stds = [fits[name][1] for name in FITS]
    text = " < ".join(f"{std:.3f}" for std in stds)
    return fits, [
        Claim("Gaussian fits against quadrature", error, "<= 1e-5", error <= 1e-5),
        Claim("fitted std", text, " < ".join(FITS), stds == sorted(stds)),
        Claim("Monte Carlo gradients, standard errors off", off, "<= 4", off <= 4),
        Claim("reverse_kl: difference from DMD's gradient", dmd, "0", dmd == 0),
    ]


# --- In the plane: three nets and an analytic teacher --------------------------------


@functools.cache
def compiled_for(name: str, t_max: float, t_init: float, seeds: int) -> _plane.Program:
    """The training with one divergence and one pair of levels."""
    law = diffusion.edm(0.03, t_max)
    return _plane.program(seeds, divergence=name, law=law, t_init=t_init)


def mixture_table(
    cases: Mapping[str, Case], names: Sequence[str], seeds: int
) -> tuple[list[dict[str, Any]], dict[tuple[str, str], np.ndarray]]:
    """Figures of every case and divergence, a list over the seeds each; samples."""
    runs = [(label, name) for label in cases for name in names]

    def run(label: str, name: str) -> tuple[list[dict[str, Any]], np.ndarray]:
        case = cases[label]
        prog = compiled_for(name, case.t_max, case.t_init, seeds)
        mixture = datasets.gaussian_mixture_2d(case.data)
        rows, drawn = _plane.train(prog, mixture, case.at)
        print(f"{label}, {name}: JS {np.mean(rows[-1]['JS']):.4f}", flush=True)
        return [{"case": label, "divergence": name, **row} for row in rows], drawn[0]

    table, samples = [], {}
    for label, case in cases.items():
        mixture = datasets.gaussian_mixture_2d(case.data)
        samples[label, "teacher"] = mixture.sample(jax.random.key(3), (_plane.SAMPLES,))
    for (label, name), (rows, drawn) in zip(
        runs, _plane.side_by_side(run, runs), strict=True
    ):
        table += rows
        samples[label, name] = drawn
    return table, samples


def trained_claims(table: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """What the means over the seeds say; figures of small nets are not promised."""
    means = {
        (row["case"], row["steps"], row["divergence"]): {
            name: float(np.mean(row[name])) for name in _plane.FIGURES
        }
        for row in table
    }
    lines = []
    for (case, steps, name), found in means.items():
        whole = 25 if case == "grid25" else 8
        if case != "hard":
            count = found["modes"]
            what = f"{case}, {name}, {steps} steps: modes"
            lines.append(Claim(what, count, str(whole), count == whole, promised=False))
        rival = means.get((case, steps, "reverse_kl"))
        if CASES[case].data != "imb8" or name not in ("js", "kl") or rival is None:
            continue
        for figure in ("JS", "weight TV") if name == "js" else ("weight TV",):
            what = f"{case}, {steps} steps: {figure} of {name} < reverse_kl"
            both = f"{found[figure]:.4f}, {rival[figure]:.4f}"
            holds = found[figure] < rival[figure]
            lines.append(Claim(what, both, "less", holds, promised=False))
    return lines


# --- Pictures ------------------------------------------------------------------------


def draw_fits(fits: Mapping[str, tuple[float, float]], path: pathlib.Path) -> None:
    """The Gaussians over the teacher's density."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis, x = figure.subplots(), jnp.linspace(-5, 5, 401)[:, None]
    teacher = on_the_line([0.6, 0.4], [-1.5, 1.5], [0.6, 0.6])
    axis.fill_between(x[:, 0], jnp.exp(teacher.log_prob(x)), color="0.85")
    for name, (mean, std) in fits.items():
        law = gaussian(jnp.float32(mean), jnp.float32(std))
        axis.plot(x, jnp.exp(law.log_prob(x)), label=f"{name}: std {std:.2f}")
    axis.set(xlabel="x", ylabel="density", ylim=0)
    axis.legend(frameon=False, title="the Gaussian that f-distill finds")
    figure.savefig(path, dpi=120)


def draw_samples(
    samples: Mapping[tuple[str, str], np.ndarray], path: pathlib.Path
) -> None:
    """One row a case: the teacher's samples, and those of students of one seed."""
    rows, columns = (list(dict.fromkeys(part)) for part in zip(*samples, strict=True))
    figure = Figure(figsize=(3 * len(columns), 3 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for (row, column), x in samples.items():
        axis = panels[rows.index(row), columns.index(column)]
        axis.plot(*np.asarray(x[:5000]).T, ",", color="C0")
        axis.set(xlim=(-6, 6), ylim=(-6, 6), xticks=[], yticks=[], aspect="equal")
        axis.set_title(f"{row}: {column}", fontsize=10)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
