"""The tables of three papers on diffusion models, on data that fit two cores.

    python -m examples.paper_table --rows 1 2 3 4 5 6

Row 1 fits a Gaussian to two modes, row 2 distils mixtures of the plane, row 3 follows
log-densities along samples, row 4 superposes models, row 5 distils a model of digits
into one step by six losses, row 6 does it with digits of 28 x 28 pixels.

Xu, Nie and Vahdat, 2025, arXiv:2502.15681; Wang et al., 2025, arXiv:2505.20755; Skreta
et al., 2025, arXiv:2412.17762.
"""

import contextlib
import dataclasses
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro
from flax import nnx

from examples import _digits, _plane, _superdiff, f_distill, superdiff
from examples._report import Claim, finish, open_folder, print_table
from examples.one_step_digits import distil, train_teacher
from jaxdiv import networks, training
from jaxdiv.typing import Apply, Params, PyTree

# What sets a student apart from those of `one_step_digits`.
STUDENTS: dict[str, dict[str, Any]] = {
    "DI": {"divergence": "reverse_kl", "gan_weight": 0.0},
    "SIM": {"divergence": "reverse_kl", "gan_weight": 0.0, "family": "expanded"},
    "f-distill reverse_kl": {"divergence": "reverse_kl"},
    "f-distill kl": {"divergence": "kl"},
    "f-distill js": {"divergence": "js"},
    "Uni-Instruct kl": {"divergence": "kl", "family": "expanded"},
}
AIMS = {"digits": 1.1, "mnist5k": _digits.BARS["mnist5k"].student}  # of FDfeat
COLUMNS = ("FDfeat", "FDpix", "P", "R", "D", "C", "seconds")

Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The tables of three papers on diffusion models, at the scale of two cores."""

    rows: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Which rows; row 6 has one seed."""
    seeds: int = 3
    """Number of seeds of rows 2 to 5."""
    out: pathlib.Path = pathlib.Path("out/paper_table")
    """Folder for pictures and figures."""
    quick: bool = False
    """Row 1 and a short row 5 only."""


def main(settings: Settings) -> int:
    """Makes the rows one after the other; returns the exit status."""
    began = time.monotonic()
    out = open_folder(settings.out)
    unknown = sorted(set(settings.rows) - set(ROWS))
    if unknown or settings.seeds < 1:
        sys.exit(
            f"--rows {unknown} and --seeds {settings.seeds}: expected some of "
            f"{', '.join(map(str, ROWS))}, and at least 1 seed."
        )
    chosen = [1, 5] if settings.quick else settings.rows
    rows, seconds = {}, {}
    with compiled_once():
        for number in chosen:
            start = time.monotonic()
            print(f"\nRow {number}: {ROWS[number].__doc__}", flush=True)
            rows[number] = ROWS[number](settings, out)
            seconds[number] = round(time.monotonic() - start, 1)
    return finish(
        [
            claim._replace(claim=f"row {number}: {claim.claim}")
            for number, row in rows.items()
            for claim in row.claims
        ],
        out=out,
        settings=dataclasses.asdict(settings),
        pictures=[picture for row in rows.values() for picture in row.pictures],
        seconds=time.monotonic() - began,
        figures={number: row.figures for number, row in rows.items()},
        seconds_of_rows=seconds,
    )


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """The seeds of a row run one program: it is kept until the last has run."""
    option = "jax_compilation_cache_dir"
    before = getattr(jax.config, option)
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update(option, before or folder)
        try:
            yield
        finally:
            jax.config.update(option, before)


class Row(NamedTuple):
    """What one row of the table has come to.

    Attributes:
      figures: by line of the row, then by column.
      claims: what the papers say, and whether it holds here.
      pictures: files that it wrote.
    """

    figures: Mapping[str, Mapping[str, Any]]
    claims: Sequence[Claim]
    pictures: Sequence[pathlib.Path]


class Trained(NamedTuple):
    """A denoiser and the seconds of its training, beside another's."""

    params: Params
    seconds: float


def digits_runs(
    name: str, recipe: _digits.Recipe, students: Sequence[str], seeds: int
) -> tuple[dict[str, list[Figures]], dict[str, np.ndarray]]:
    """Figures of the teachers and of their students by seed; the first seed's images.

    Two are trained at a time.
    """
    data = _digits.load(name)

    def network(seed: int) -> tuple[Apply, Params]:
        net = recipe.network(nnx.Rngs(seed))
        return networks.pure(networks.EDMPrecond(net, recipe.sigma_data))

    denoise, _ = network(0)
    keys = [jax.random.split(jax.random.key(seed), 3) for seed in range(seeds)]

    def trained(seed: int, label: str, teacher: Params | None = None) -> Trained:
        def fit(phase: str, step: Callable, state: PyTree, *, steps: int) -> Any:
            size = {"batch_size": recipe.batch, "chunk": recipe.chunk}
            key = keys[seed][0 if teacher is None else 1]
            shown = f"{phase}, seed {seed}"
            return training.fit(
                step, state, data.images, key, steps=steps, progress=shown, **size
            )

        began = time.monotonic()
        if teacher is None:
            run = train_teacher(recipe, denoise, network(seed)[1], fit)
        else:
            run = distil(label, recipe, denoise, teacher, fit, **STUDENTS[label])
        return Trained(run.state.ema, time.monotonic() - began)

    teachers = list(
        _plane.side_by_side(trained, [(seed, "teacher") for seed in range(seeds)])
    )
    tasks = [
        (seed, label, teachers[seed].params)
        for seed in range(seeds)
        for label in students
    ]
    of_task = list(_plane.side_by_side(trained, tasks))
    sampler = _digits.Sampler(denoise, data.images.shape[1:], recipe)
    figures: dict[str, list[Figures]] = {label: [] for label in ("teacher", *students)}
    images = {"real": data.images}
    runs = {(seed, "teacher"): run for seed, run in enumerate(teachers)}
    runs |= {task[:2]: run for task, run in zip(tasks, of_task, strict=True)}
    for (seed, label), run in runs.items():
        drawn = sampler(run.params, keys[seed][2], 35 if label == "teacher" else 1)
        found = _digits.compare(data, data.images, drawn)
        figures[label].append(found | {"seconds": run.seconds})
        images.setdefault(label, drawn)
    return figures, images


def spread(runs: Sequence[Figures]) -> dict[str, str]:
    """Mean and standard deviation over the seeds, by column."""
    table = {c: np.array([run[c] for run in runs]) for c in COLUMNS}
    if len(runs) == 1:
        return {c: f"{x[0]:.3g}" for c, x in table.items()}
    return {c: f"{x.mean():.3g} +- {x.std(ddof=1):.2g}" for c, x in table.items()}


def digits_row(
    name: str,
    recipe: _digits.Recipe,
    students: Sequence[str],
    seeds: int,
    out: pathlib.Path,
) -> Row:
    """All seeds of a data set of digits, their table, and a picture of the first."""
    figures, images = digits_runs(name, recipe, students, seeds)
    table = [(k, *spread(of_seeds).values()) for k, of_seeds in figures.items()]
    print_table((f"{name}, {seeds} seeds", *COLUMNS), table)
    picture = out / f"{name}.png"
    _digits.draw_digits(images, picture)
    return Row(figures, digits_claims(name, figures), [picture])


def digits_claims(name: str, figures: Mapping[str, Sequence[Figures]]) -> list[Claim]:
    """What the sheets of the papers say of one step on digits."""

    def mean(label: str, column: str) -> float:
        return float(np.mean([run[column] for run in figures[label]]))

    def compare(column: str, better: str, worse: str, sign: int) -> Claim:
        # Seeds share their teacher and their noise: paired differences.
        pairs = zip(figures[better], figures[worse], strict=True)
        ahead = np.array([sign * (a[column] - b[column]) for a, b in pairs])
        both = f"{mean(better, column):.3f}, {mean(worse, column):.3f}"
        words = f"all {len(ahead)} seeds"
        return Claim(
            f"{name}: {column} of {better} {'above' if sign > 0 else 'below'} {worse}",
            f"{both}: {(ahead > 0).sum()} of {len(ahead)}",
            words,
            bool((ahead > 0).all()),
            promised=False,
        )

    best = min((k for k in figures if k != "teacher"), key=lambda k: mean(k, "FDfeat"))
    least, aim = mean(best, "FDfeat"), AIMS[name]
    claims = [
        Claim(
            f"{name}: FDfeat of the best student, {best}",
            least,
            f"<= {aim}",
            least <= aim,
        )
    ]
    pairs = [
        ("R", "SIM", "DI", 1),
        ("FDfeat", "SIM", "DI", -1),
        ("FDfeat", "f-distill js", "f-distill reverse_kl", -1),
        ("R", "f-distill kl", "f-distill reverse_kl", 1),
    ]
    claims += [compare(*p) for p in pairs if {p[1], p[2]} <= set(figures)]
    return [claim._replace(promised=False) for claim in claims]


def row_1(settings: Settings, out: pathlib.Path) -> Row:
    """The Gaussian that each divergence fits to two modes."""
    del settings
    fits, found = f_distill.exact_part()
    print_table(("divergence", "mean", "std"), [(k, *fit) for k, fit in fits.items()])
    picture = out / "gaussian.png"
    f_distill.draw_fits(fits, picture)
    table = {k: {"mean": mean, "std": std} for k, (mean, std) in fits.items()}
    return Row(table, found, [picture])


def row_2(settings: Settings, out: pathlib.Path) -> Row:
    """Mixtures of the plane distilled into one step."""
    table, samples = f_distill.mixture_table(
        f_distill.CASES, ("js", "kl", "reverse_kl"), settings.seeds
    )
    columns = f_distill.COLUMNS
    rows = [_plane.cells(row, columns) for row in table]
    print_table(columns, rows)
    picture = out / "mixtures.png"
    f_distill.draw_samples(samples, picture)
    figures = {f"{r['case']}, {r['divergence']}, {r['steps']}": r for r in table}
    return Row(figures, f_distill.trained_claims(table), [picture])


def row_3(settings: Settings, out: pathlib.Path) -> Row:
    """The log-density that is followed along the samples."""
    del out
    dims = (2, 5)
    with jax.enable_x64(True):  # noqa: FBT003 - errors of 1e-5 are to be seen
        table = superdiff.estimators(range(settings.seeds), dims)
    _superdiff.report("error of log q", table)
    return Row(table, _superdiff.estimator_claims(table, dims, 1000), [])


def row_4(settings: Settings, out: pathlib.Path) -> Row:
    """Two models sampled as one, with exact and with learned scores."""
    seeds = range(settings.seeds)
    with jax.enable_x64(True):  # noqa: FBT003 - log-densities are equal to 1e-9
        exact, samples = superdiff.four_gaussians(seeds)
        lines = [line for line in superdiff.LINES if "AND" in line]
        unequal = {line: superdiff.unequal_widths(line, seeds) for line in lines}
        mixed = superdiff.weighted_and_three(seeds)
    learned, more = superdiff.four_gaussians(
        seeds, superdiff.learn(), lines=list(superdiff.LINES)[:4]
    )
    tables = {"exact": exact, "learned": learned, "unequal": unequal, "mixed": mixed}
    for title, table in tables.items():
        _superdiff.report(title, table)
    samples |= {f"{k}, learned": x for k, x in more.items()}
    picture = out / "superposition.png"
    _superdiff.draw(samples, superdiff.models(), picture)
    return Row(tables, _superdiff.exact_claims(exact, unequal, mixed, 1000), [picture])


def row_5(settings: Settings, out: pathlib.Path) -> Row:
    """Digits of 8 x 8 pixels, six students of one teacher a seed."""
    recipe = _digits.choose("digits", None, quick=settings.quick)
    students = list(STUDENTS)[:2] if settings.quick else list(STUDENTS)
    seeds = 1 if settings.quick else settings.seeds
    return digits_row("digits", recipe, students, seeds, out)


def row_6(settings: Settings, out: pathlib.Path) -> Row:
    """Digits of 28 x 28 pixels, one seed."""
    recipe = _digits.choose("mnist5k", None, quick=settings.quick)
    return digits_row("mnist5k", recipe, ["f-distill js"], 1, out)


ROWS = {1: row_1, 2: row_2, 3: row_3, 4: row_4, 5: row_5, 6: row_6}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
