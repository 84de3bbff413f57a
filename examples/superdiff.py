"""Several diffusion models sampled as one: any of them, or all of them at once.

    python -m examples.superdiff --out out/superdiff

Each model's log-density is followed along the samples, and weighs its score: OR draws
from the mixture of the models, AND where all are equally dense, AVG is the plain mean
of the scores. First with exact scores, where truth is known: four Gaussians, one model
with the upper two and one with the lower; then with nets that learned these; then two
nets, each of which has seen but half of the ten digits.

Skreta et al., 2025, arXiv:2412.17762.
"""

import dataclasses
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from matplotlib.figure import Figure

from examples import _digits
from examples._report import Claim, finish, open_folder, print_table
from examples.one_step_digits import train_teacher
from jaxdiv import datasets, diffusion, networks, training
from jaxdiv.distributions import GaussianMixture
from jaxdiv.typing import Array, Key, PyTree, ScoreFn

LAW = diffusion.vp(t_min=1e-3)
DIGITS_LAW = diffusion.edm(0.02, 20.0)
LINES: dict[str, dict[str, Any]] = {
    "OR": {"mode": "or"},
    "OR, flow": {"mode": "or", "stochastic": False},
    "AVG": {"mode": "avg"},
    "AND": {"mode": "and"},
    "AND, flow": {"mode": "and", "stochastic": False},
    "AND, published": {"mode": "and", "curvature": False},
}
COLUMNS = ("in modes", "largest share", "median |y|", "estimated", "true", "log q off")
STEPS = (100, 400, 1600)  # of the estimators, a factor apart

Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Several diffusion models sampled as one: any of them, or all at once."""

    out: pathlib.Path = pathlib.Path("out/superdiff")
    """Folder for pictures and figures."""
    seeds: int = 3
    """Number of seeds of all that is not digits, which have one."""
    quick: bool = False
    """Show the flow in a minute; what is learned is then not promised."""


def main(settings: Settings) -> int:
    """Samples, learns, tabulates, draws; returns the exit status."""
    began = time.monotonic()
    out = open_folder(settings.out)
    quick, seeds = settings.quick, range(1 if settings.quick else settings.seeds)
    with jax.enable_x64(True):  # noqa: FBT003 - equal to 1e-10, which float32 is not
        exact, samples = four_gaussians(seeds)
        unequal = {k: unequal_widths(seeds, **LINES[k]) for k in LINES if "AND" in k}
        mixed = weighted_and_three(seeds)
        tracked = estimators(seeds, paths=1000 if quick else 4000)
    learned, more = four_gaussians(seeds, learn(steps=500 if quick else 4000))
    samples |= {f"{k}, learned": x for k, x in more.items()}
    report("exact scores", exact)
    report("learned scores", learned)
    report("N(0, .09) and N((1, 0), 1)", unequal)
    report("M models", mixed)
    report("error of log q", tracked)
    digits, images = learn_digits(quick=quick)
    report("digits, one seed", digits)

    pictures = [out / "superdiff.png", out / "digits.png"]
    draw(samples, pictures[0])
    _digits.draw_digits(images, pictures[1])
    lines = exact_claims(exact, unequal, mixed)
    lines += estimator_claims(tracked, promised=not quick)
    lines += learned_claims(learned, digits, promised=not quick)
    tables = {
        "exact": exact,
        "learned": learned,
        "unequal": unequal,
        "mixed": mixed,
        "estimators": tracked,
        "digits": digits,
    }
    return finish(
        lines,
        out=out,
        settings=dataclasses.asdict(settings),
        pictures=pictures,
        seconds=time.monotonic() - began,
        tables=tables,
    )


def report(title: str, table: Mapping[str, Sequence[Figures]]) -> None:
    """Prints mean and standard deviation over the seeds."""
    columns = list(next(iter(table.values()))[0])
    rows = []
    for line, runs in table.items():
        values = np.array([[run[c] for c in columns] for run in runs])
        mean, spread = values.mean(0), values.std(0, ddof=min(1, len(runs) - 1))
        cells = [f"{m:.3g} +- {s:.1g}" for m, s in zip(mean, spread, strict=True)]
        rows.append([line, *(cells if len(runs) > 1 else (f"{m:.3g}" for m in mean))])
    print_table((title, *columns), rows)
    print()


def part(mixture: GaussianMixture, chosen: Array) -> GaussianMixture:
    """The mixture of some of the components."""
    weights = mixture.weights[chosen]
    return GaussianMixture(
        weights / weights.sum(), mixture.means[chosen], mixture.covs[chosen]
    )


def models() -> list[GaussianMixture]:
    """One model of the upper two Gaussians and one of the lower two."""
    four = datasets.gaussian_mixture_2d("four")
    upper = np.asarray(four.means)[:, 1] > 0
    return [part(four, upper), part(four, ~upper)]


def score_of(mixture: GaussianMixture) -> ScoreFn:
    """The exact score of a noised mixture."""
    return lambda x, t: mixture.score(x, LAW.alpha(t), LAW.sigma(t))


def log_probs(x: Array, laws: Sequence[GaussianMixture]) -> np.ndarray:
    """True log-densities at the end of a run, shape `(n, M)`."""
    scales = LAW.alpha(LAW.t_min), LAW.sigma(LAW.t_min)
    return np.stack([law.log_prob(x, *scales) for law in laws], -1)


def runner(
    score_fns: Any, shape: tuple[int, ...], steps: int, **options: Any
) -> Callable[[int], diffusion.Superposition]:
    """A compiled sampler, a function of the seed, in JAX's default dtype."""
    sample = jax.jit(
        lambda key: diffusion.sample_superposition(
            score_fns, LAW, key, shape, steps, dtype=jnp.zeros(()).dtype, **options
        )
    )
    return lambda seed: sample(jax.random.key(seed))


def four_gaussians(
    seeds: Sequence[int], score_fns: Any = None, *, samples: int = 1000
) -> tuple[dict[str, list[Figures]], dict[str, np.ndarray]]:
    """OR, AND and AVG of the two models, judged by their true densities.

    Returns:
      Figures by line and seed, and the samples of the first seed.
    """
    laws = models()
    scores = [score_of(law) for law in laws] if score_fns is None else score_fns
    table, first = {}, {}
    for line, options in LINES.items():
        run = runner(scores, (samples, 2), 400, **options)
        runs = [run(seed) for seed in seeds]
        table[line] = [judge(r, laws) for r in runs]
        first[line] = np.asarray(runs[0].x)
    return table, first


def judge(r: diffusion.Superposition, laws: Sequence[GaussianMixture]) -> Figures:
    """Where the samples lie, and how far apart the log-densities are."""
    x, true = np.asarray(r.x), log_probs(r.x, laws)
    means = np.concatenate([law.means for law in laws])
    distances = np.linalg.norm(x[:, None] - means, axis=-1)
    shares = np.bincount(distances.argmin(1), minlength=len(means)) / len(x)
    off = (np.asarray(r.logq) - true)[np.arange(len(x)), true.argmax(1)]
    near = distances.min(1) < 3 * math.sqrt(float(laws[0].covs[0]))
    figures = (
        near.mean(),
        shares.max(),
        np.median(np.abs(x[:, 1])),
        np.ptp(r.logq, axis=1).max(),
        np.median(np.ptp(true, axis=1)),
        np.median(off),
    )
    return dict(zip(COLUMNS, map(float, figures), strict=True))


def unequal_widths(seeds: Sequence[int], **options: Any) -> list[Figures]:
    """AND of two Gaussians whose log-densities are not equally curved."""
    laws = [
        GaussianMixture(jnp.ones(1), jnp.array([[mean, 0.0]]), jnp.array([std**2]))
        for mean, std in ((0.0, 0.3), (1.0, 1.0))
    ]
    run = runner([score_of(law) for law in laws], (1000, 2), 400, **options)
    table = []
    for seed in seeds:
        r = run(seed)
        true = log_probs(r.x, laws)
        table.append(
            {
                "estimated": float(np.ptp(r.logq, axis=1).max()),
                "true": float(np.median(true[:, 0] - true[:, 1])),
                "log q off": float(np.median(np.asarray(r.logq) - true)),
            }
        )
    return table


def weighted_and_three(seeds: Sequence[int]) -> dict[str, list[Figures]]:
    """OR with the weights .8 and .2, and OR and AND of three models of one Gaussian."""
    four = datasets.gaussian_mixture_2d("four")
    three = [part(four, np.arange(4) == j) for j in range(3)]
    cases = {
        "OR of .8 and .2": (models(), {"bias": np.log([0.8, 0.2])}),
        "OR of three": (three, {}),
        "AND of three": (three, {"mode": "and"}),
    }
    table = {}
    for line, (laws, options) in cases.items():
        run = runner([score_of(law) for law in laws], (1000, 2), 400, **options)
        table[line] = []
        for seed in seeds:
            r = run(seed)
            true = log_probs(r.x, laws)
            shares = np.bincount(true.argmax(1), minlength=len(laws)) / len(true)
            table[line].append(
                {
                    "share of the first": float(shares[0]),
                    "estimated": float(np.ptp(r.logq, axis=1).max()),
                    "true": float(np.median(np.ptp(true, axis=1))),
                }
            )
    return table


def estimators(seeds: Sequence[int], *, paths: int = 4000) -> dict[str, list[Figures]]:
    """Errors of the log-density that a path of one model has gained at its end."""
    cases = {f"Ito, {n} steps": (n, paths, {"rho": 1.0}) for n in STEPS}
    flow: dict[str, Any] = {"stochastic": False}
    cases["flow, exact divergence, 200 steps"] = (200, 1000, flow)
    hutchinson = flow | {"divergence": "hutchinson"}
    cases["flow, Hutchinson, 200 steps"] = (200, 1000, hutchinson)
    table = {}
    for dim in (2, 5):
        means = np.zeros((3, dim))
        means[:, :2] = [[-1.2, 0.0], [0.8, 1.0], [0.6, -1.4]]
        law = GaussianMixture(jnp.full(3, 1 / 3), jnp.asarray(means), jnp.full(3, 0.12))
        for name, (steps, n, options) in cases.items():
            run = runner(
                [score_of(law)], (n, dim), steps, return_trajectory=True, **options
            )
            table[f"d = {dim}: {name}"] = [gained_error(run(s), law) for s in seeds]
    return table


def gained_error(r: diffusion.Superposition, law: GaussianMixture) -> Figures:
    """Mean and spread of the error; that of the start, not quite noise, is left out."""
    path = r.aux
    start = LAW.alpha(LAW.t_max), LAW.sigma(LAW.t_max)
    true = log_probs(r.x, [law])[:, 0] - law.log_prob(path.x[0], *start)
    error = np.asarray(path.logq[-1] - path.logq[0])[:, 0] - np.asarray(true)
    return {"mean": float(error.mean()), "std": float(error.std())}


def learn(steps: int) -> ScoreFn:
    """Both models as nets, trained side by side; one function gives both scores."""
    laws = models()

    def network(seed: int) -> nnx.Module:
        net = networks.ScoreMLP(2, width=128, depth=2, rngs=nnx.Rngs(seed))
        return networks.EDMPrecond(net, sigma_data=1.55)

    denoise, *_ = networks.pure(network(0))
    trees = [networks.pure(network(seed))[1] for seed in range(2)]
    both = jax.tree.map(lambda *x: jnp.stack(x), *trees)

    def loss(params: PyTree, batch: None, key: Key) -> Array:
        del batch
        total = jnp.zeros(512)
        for j, law in enumerate(laws):
            one = jax.tree.map(lambda x, j=j: x[j], params)
            draw, level, noise = jax.random.split(jax.random.fold_in(key, j), 3)
            sigma = jnp.exp(2 * jax.random.normal(level, (512,)) - 0.5)
            x0 = law.sample(draw, (512,))
            total += diffusion.dsm_loss(
                noise, partial(denoise, one), x0, sigma, sigma_data=1.55
            )
        return total

    adam = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    step = training.make_train_step(loss, adam, ema_decay=0.995)
    trained = training.fit(
        step,
        training.init_state(both, adam),
        None,
        jax.random.key(0),
        steps=steps,
        progress="four Gaussians",
    ).state.ema

    def scores(x: Array, t: Array) -> Array:
        # The nets know x / alpha at the noise level sigma / alpha.
        alpha, sigma = LAW.alpha(t), LAW.sigma(t)
        denoised = jax.vmap(denoise, (0, None, None))(trained, x / alpha, sigma / alpha)
        return (alpha * denoised - x) / sigma**2

    return scores


def learn_digits(
    *, quick: bool
) -> tuple[dict[str, list[Figures]], dict[str, np.ndarray]]:
    """Nets of the digits 0 to 4 and 5 to 9, alone and together."""
    recipe = _digits.choose("digits", None, quick=quick)
    data, labels = _digits.load("digits"), datasets.digits().labels
    net = networks.EDMPrecond(recipe.network(nnx.Rngs(0)), recipe.sigma_data)
    denoise, params = networks.pure(net)

    def train(name: str, images: np.ndarray) -> PyTree:
        def fit(phase: str, step: Callable, state: PyTree, *, steps: int) -> Any:
            del phase
            size = {"batch_size": recipe.batch, "chunk": recipe.chunk}
            key = jax.random.key(0)
            return training.fit(
                step, state, images, key, steps=steps, progress=name, **size
            )

        return train_teacher(recipe, denoise, params, fit).state.ema

    halves = {"A": labels < 5, "B": labels >= 5}
    nets = {k: train(f"digits of {k}", data.images[half]) for k, half in halves.items()}
    both = jax.tree.map(lambda *x: jnp.stack(x), *nets.values())
    classes = class_of(data, labels)

    def sample(params: PyTree, n: int, **options: Any) -> diffusion.Superposition:
        def scores(x: Array, t: Array) -> Array:
            return (jax.vmap(denoise, (0, None, None))(params, x, t) - x) / t**2

        draw = lambda key: diffusion.sample_superposition(
            scores, DIGITS_LAW, key, (n, 8, 8, 1), 200, rho=5.0, **options
        )
        return jax.jit(draw)(jax.random.key(1))

    runs = {
        k: sample(jax.tree.map(lambda x: x[None], p), recipe.samples)
        for k, p in nets.items()
    }
    runs["OR"] = sample(both, recipe.samples)
    runs |= {k: sample(both, 400, **LINES[k]) for k in ("AVG", "AND")}
    table = {}
    for name, r in runs.items():
        images = np.asarray(r.x)
        found = _digits.compare(data, data.images, images)
        shares = np.bincount(classes(images), minlength=10) / len(images)
        table[name] = [
            {k: found[k] for k in ("FDfeat", "FDpix")}
            | {
                "least share of a class": float(shares.min()),
                "|log q_A - log q_B|": float(np.median(np.ptp(r.logq, axis=1))),
            }
        ]
    return table, {"real": data.images} | {k: np.asarray(r.x) for k, r in runs.items()}


def class_of(
    data: _digits.Dataset, labels: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """The digit of the nearest class mean, in features."""
    features = data.features(data.images)
    means = np.stack([features[labels == k].mean(0) for k in range(10)])

    def classify(images: np.ndarray) -> np.ndarray:
        distances = (data.features(images)[:, None] - means) ** 2
        return distances.sum(-1).argmin(1)

    return classify


def worst(runs: Sequence[Figures], column: str, of: Callable = max) -> float:
    """The worst figure of all seeds."""
    return float(of(run[column] for run in runs))


def at_most(text: str, measured: float, bar: float, *, promised: bool = True) -> Claim:
    """A claim that a figure is small."""
    return Claim(text, measured, f"<= {bar:.3g}", measured <= bar, promised)


def at_least(text: str, measured: float, bar: float, *, promised: bool = True) -> Claim:
    """A claim that a figure is large."""
    return Claim(text, measured, f">= {bar:.3g}", measured >= bar, promised)


def exact_claims(
    exact: Mapping[str, Sequence[Figures]],
    unequal: Mapping[str, Sequence[Figures]],
    mixed: Mapping[str, Sequence[Figures]],
) -> list[Claim]:
    """What holds of exact scores, at the worst seed."""

    def error(share: float) -> float:
        return 4 * math.sqrt(share * (1 - share) / 1000)

    def apart(runs: Sequence[Figures], share: float) -> float:
        return max(abs(run["share of the first"] - share) for run in runs)

    lines = [
        at_least(
            "OR: share within 3 std of a mode",
            worst(exact["OR"], "in modes", min),
            0.97,
        ),
        at_most(
            "OR: largest share of a mode",
            worst(exact["OR"], "largest share"),
            0.25 + error(0.25),
        ),
        at_most(
            "AVG: share within 3 std of a mode", worst(exact["AVG"], "in modes"), 0.45
        ),
        at_least(
            "AVG: true |log q1 - log q2|, median", worst(exact["AVG"], "true", min), 3
        ),
    ]
    for line in ("AND", "AND, flow"):
        runs = exact[line]
        lines.append(
            at_most(
                f"{line}: estimated |log q1 - log q2|, most",
                worst(runs, "estimated"),
                1e-9,
            )
        )
        lines.append(
            at_most(
                f"{line}: true |log q1 - log q2|, median", worst(runs, "true"), 0.03
            )
        )
        most = max(abs(run["true"]) for run in unequal[line])
        lines.append(
            at_most(f"{line}, unequal widths: true log q1 - log q2", most, 0.05)
        )
    published = min(abs(run["true"]) for run in unequal["AND, published"])
    return [
        *lines,
        at_least("published AND, unequal widths: true log q1 - log q2", published, 0.5),
        at_most(
            "OR of .8 and .2: error of the share",
            apart(mixed["OR of .8 and .2"], 0.8),
            error(0.8),
        ),
        at_most(
            "OR of three: error of the share",
            apart(mixed["OR of three"], 1 / 3),
            error(1 / 3),
        ),
        at_most(
            "AND of three: true differences, median",
            worst(mixed["AND of three"], "true"),
            0.05,
        ),
    ]


def estimator_claims(
    tracked: Mapping[str, Sequence[Figures]], *, promised: bool
) -> list[Claim]:
    """Orders of the Ito estimator, and the flow."""
    lines = []
    for dim in (2, 5):
        runs = {
            name: tracked[f"d = {dim}: Ito, {n} steps"]
            for name, n in zip(STEPS, STEPS, strict=True)
        }
        for column, order, within in (("mean", -1, 0.2), ("std", -0.5, 0.1)):
            values = [np.mean([run[column] for run in runs[n]]) for n in STEPS]
            slope = float(np.polyfit(np.log(STEPS), np.log(values), 1)[0])
            text = f"d = {dim}: order of the Ito estimate's {column}"
            bar = f"{order} +- {within}"
            lines.append(
                Claim(text, slope, bar, abs(slope - order) <= within, promised)
            )
        flow = tracked[f"d = {dim}: flow, exact divergence, 200 steps"]
        lines.append(
            at_most(f"d = {dim}: flow, error of log q", worst(flow, "std"), 5e-4)
        )
        probes = tracked[f"d = {dim}: flow, Hutchinson, 200 steps"]
        errors = [abs(run["mean"]) / run["std"] * math.sqrt(1000) for run in probes]
        text = f"d = {dim}: Hutchinson, bias in standard errors"
        lines.append(at_most(text, max(errors), 4))
    return lines


def learned_claims(
    learned: Mapping[str, Sequence[Figures]],
    digits: Mapping[str, Sequence[Figures]],
    *,
    promised: bool,
) -> list[Claim]:
    """What nets do, at the worst seed."""
    only = {line: runs[0] for line, runs in digits.items()}
    single = min(only[k]["FDfeat"] for k in "AB")
    gap = "|log q_A - log q_B|"
    low, high = (partial(f, promised=promised) for f in (at_most, at_least))
    return [
        high(
            "learned OR: share within 3 std of a mode",
            worst(learned["OR"], "in modes", min),
            0.95,
        ),
        low(
            "learned AND: true |log q1 - log q2|, median",
            worst(learned["AND"], "true"),
            0.5,
        ),
        high(
            "digits, OR: least share of a class",
            only["OR"]["least share of a class"],
            0.03,
        ),
        high(
            "digits: FDfeat of the better model over OR's",
            single / only["OR"]["FDfeat"],
            3,
        ),
        low(
            "digits: |log q_A - log q_B|, AND over AVG",
            only["AND"][gap] / only["AVG"][gap],
            1e-3,
        ),
    ]


def draw(samples: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
    """Samples over the contours of both models; exact scores above, nets below."""
    names = ("OR", "AVG", "AND", "AND, flow")
    figure = Figure(figsize=(14, 7.4), layout="constrained")
    panels = figure.subplots(2, 4, sharex=True, sharey=True)
    axis = np.linspace(-3, 3, 121)
    grid = np.stack(np.meshgrid(axis, axis), -1)
    for row, suffix in zip(panels, ("", ", learned"), strict=True):
        for panel, name in zip(row, names, strict=True):
            for law, color in zip(models(), ("tab:blue", "tab:orange"), strict=True):
                density = np.exp(law.log_prob(jnp.asarray(grid)))
                panel.contour(axis, axis, density, 4, colors=color, linewidths=0.8)
            panel.plot(*samples[name + suffix].T, ".k", markersize=1.5, alpha=0.5)
            panel.set(title=name + suffix, aspect="equal", xlim=(-3, 3), ylim=(-3, 3))
    figure.suptitle("Two models (contours) sampled as one")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
