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
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

from examples import _digits, _superdiff
from examples._report import finish, open_folder
from examples._superdiff import STEPS, Figures, report
from jaxdiv import datasets, diffusion, networks, training
from jaxdiv.distributions import GaussianMixture
from jaxdiv.typing import Apply, Array, Key, Params, ScoreFn

LAW = diffusion.vp(t_min=1e-3)
DIGITS_LAW = diffusion.edm(0.02, 20.0)
LINES: dict[str, dict[str, Any]] = {
    "OR": {"mode": "or"},
    "AVG": {"mode": "avg"},
    "AND": {"mode": "and"},
    "AND, flow": {"mode": "and", "stochastic": False},
    "AND, published": {"mode": "and", "curvature": False},
}
COLUMNS = ("in modes", "largest share", "median |y|", "estimated", "true", "log q off")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Several diffusion models sampled as one: any of them, or all at once."""

    out: pathlib.Path = pathlib.Path("out/superdiff")
    """Folder for pictures and figures."""
    seeds: int = 3
    """Number of seeds of the samplers; each net is trained once."""
    quick: bool = False
    """Show the flow in a minute, with nets of digits alone, which promise nothing."""


def main(settings: Settings) -> int:
    """Samples, learns, tabulates, draws; returns the exit status."""
    began = time.monotonic()
    out, quick = open_folder(settings.out), settings.quick
    n, paths, dims = (300, 1000, (2,)) if quick else (1000, 4000, (2, 5))
    seeds = range(1 if quick else settings.seeds)
    with jax.enable_x64(True):  # noqa: FBT003 - equal to 1e-9, which float32 is not
        lines = list(LINES)[: 4 if quick else None]
        exact, samples = four_gaussians(seeds, n=n, lines=lines)
        unequal = {k: unequal_widths(k, seeds, n=n) for k in LINES if "AND" in k}
        mixed = weighted_and_three(seeds, n=n)
        tracked = estimators(seeds, dims, paths=paths)
    digits, images = learn_digits(quick=quick)
    learned = {}
    if not quick:
        learned, more = four_gaussians(seeds, learn(2500), lines=list(LINES)[:4])
        samples |= {f"{k}, learned": x for k, x in more.items()}
    tables = {
        "exact scores": exact,
        "unequal widths": unequal,
        "weights, three models": mixed,
        "error of log q": tracked,
        "digits, one seed": digits,
        **({"learned scores": learned} if learned else {}),
    }
    for title, table in tables.items():
        report(title, table)
    pictures = [out / "superdiff.png", out / "digits.png"]
    _superdiff.draw(samples, models(), pictures[0])
    _digits.draw_digits(images, pictures[1])
    claims = [
        *_superdiff.exact_claims(exact, unequal, mixed, n),
        *_superdiff.estimator_claims(tracked, dims, 1000),
        *_superdiff.learned_claims(learned, digits, promised=not quick),
    ]
    return finish(
        claims,
        out=out,
        settings=dataclasses.asdict(settings),
        pictures=pictures,
        seconds=time.monotonic() - began,
        tables=tables,
    )


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
    seeds: Sequence[int],
    score_fns: Any = None,
    *,
    n: int = 1000,
    lines: Sequence[str] = tuple(LINES),
) -> tuple[dict[str, list[Figures]], dict[str, np.ndarray]]:
    """OR, AND and AVG of the two models, judged by their true densities.

    Returns:
      Figures by line and seed, and the samples of the first seed.
    """
    laws = models()
    scores = [score_of(law) for law in laws] if score_fns is None else score_fns
    table, first = {}, {}
    for line in lines:
        run = runner(scores, (n, 2), 400, **LINES[line])
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


def unequal_widths(line: str, seeds: Sequence[int], *, n: int = 1000) -> list[Figures]:
    """AND of N(0, .09) and N((1, 0), 1), whose log-densities are unequally curved."""
    laws = [
        GaussianMixture(jnp.ones(1), jnp.array([[mean, 0.0]]), jnp.array([std**2]))
        for mean, std in ((0.0, 0.3), (1.0, 1.0))
    ]
    run = runner([score_of(law) for law in laws], (n, 2), 400, **LINES[line])
    table = []
    for r in map(run, seeds):
        true = log_probs(r.x, laws)
        figures = {
            "estimated": np.ptp(r.logq, axis=1).max(),
            "true": np.median(true[:, 0] - true[:, 1]),
            "log q off": np.median(np.asarray(r.logq) - true),
        }
        table.append({k: float(v) for k, v in figures.items()})
    return table


def weighted_and_three(
    seeds: Sequence[int], *, n: int = 1000
) -> dict[str, list[Figures]]:
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
        run = runner([score_of(law) for law in laws], (n, 2), 400, **options)
        table[line] = []
        for r in map(run, seeds):
            true = log_probs(r.x, laws)
            figures = {
                "share of the first": (true.argmax(1) == 0).mean(),
                "estimated": np.ptp(r.logq, axis=1).max(),
                "true": np.median(np.ptp(true, axis=1)),
            }
            table[line].append({k: float(v) for k, v in figures.items()})
    return table


def estimators(
    seeds: Sequence[int], dims: Sequence[int] = (2, 5), *, paths: int = 4000
) -> dict[str, list[Figures]]:
    """Errors of the log-density that a path of one model has gained at its end."""
    cases = {f"Ito, {n} steps": (n, paths, {"rho": 1.0}) for n in STEPS}
    for name in ("exact", "hutchinson"):
        options = {"stochastic": False, "divergence": name}
        label = "exact divergence" if name == "exact" else "Hutchinson"
        cases[f"flow, {label}"] = (200, 1000, options)
    table = {}
    for dim in dims:
        means = np.zeros((3, dim))
        means[:, :2] = [[-1.2, 0.0], [0.8, 1.0], [0.6, -1.4]]
        law = GaussianMixture(jnp.full(3, 1 / 3), jnp.asarray(means), jnp.full(3, 0.12))
        for name, (steps, n, options) in cases.items():
            shape = (n, dim)
            run = runner(
                [score_of(law)], shape, steps, return_trajectory=True, **options
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


def train(
    network: Callable[[nnx.Rngs], nnx.Module],
    data: tuple[np.ndarray, np.ndarray],
    recipe: _digits.Recipe,
    name: str,
) -> tuple[Apply, Params]:
    """A net for each of two data sets, side by side; their parameters are stacked."""
    nets = [
        networks.EDMPrecond(network(nnx.Rngs(s)), recipe.sigma_data) for s in (0, 1)
    ]
    (denoise, first), (_, second) = map(networks.pure, nets)
    mean, std = recipe.log_sigma

    def loss(params: Params, x0: Array, key: Key) -> Array:
        level, noise = jax.random.split(key)
        t = jnp.exp(mean + std * jax.random.normal(level, x0.shape[:1]))
        return diffusion.dsm_loss(
            noise, partial(denoise, params), x0, t, sigma_data=recipe.sigma_data
        )

    def losses(params: Params, batch: tuple[Array, Array], key: Key) -> Array:
        return jax.vmap(loss)(params, jnp.stack(batch), jax.random.split(key))

    steps = recipe.teacher_steps
    adam = optax.adam(optax.cosine_decay_schedule(recipe.teacher_rate, steps))
    step = training.make_train_step(losses, adam, ema_decay=recipe.teacher_ema)
    both = jax.tree.map(lambda *x: jnp.stack(x), first, second)
    size = min(map(len, data))
    state = training.fit(
        step,
        training.init_state(both, adam),
        tuple(x[:size] for x in data),
        jax.random.key(0),
        steps=steps,
        batch_size=recipe.batch,
        chunk=recipe.chunk,
        progress=name,
    ).state
    return jax.vmap(denoise, (0, None, None)), state.ema


def learn(steps: int = 2500) -> ScoreFn:
    """Nets of both models of four Gaussians; one function gives both scores."""
    keys = jax.random.split(jax.random.key(0))
    data = [m.sample(k, (20_000,)) for m, k in zip(models(), keys, strict=True)]
    recipe = _digits.RECIPES["digits"]._replace(
        sigma_data=1.55, log_sigma=(-0.5, 2.0), teacher_steps=steps, teacher_ema=0.995
    )
    network = partial(networks.ScoreMLP, 2, width=128, depth=2)
    denoise, params = train(
        lambda rngs: network(rngs=rngs), tuple(data), recipe, "four Gaussians"
    )

    def scores(x: Array, t: Array) -> Array:
        # The nets know x / alpha at the noise level sigma / alpha.
        alpha, sigma = LAW.alpha(t), LAW.sigma(t)
        return (alpha * denoise(params, x / alpha, sigma / alpha) - x) / sigma**2

    return scores


def learn_digits(
    *, quick: bool
) -> tuple[dict[str, list[Figures]], dict[str, np.ndarray]]:
    """Nets of the digits 0 to 4 and 5 to 9, alone and together.

    Each sees 900 images 1,100 times over: OR comes out nearer to the images than one
    half of them is to the other (FDfeat .75), so that part of it is memory.
    """
    recipe = _digits.choose("digits", None, quick=quick)
    n, few, steps = recipe.samples, 400, 200
    if quick:
        recipe, few, steps = recipe._replace(teacher_steps=50), 100, 50
    data, labels = _digits.load("digits"), datasets.digits().labels
    halves = data.images[labels < 5], data.images[labels >= 5]
    denoise, both = train(recipe.network, halves, recipe, "halves of the digits")

    @partial(jax.jit, static_argnums=(1, 2))
    def sample(params: Params, n: int, line: str) -> diffusion.Superposition:
        def scores(x: Array, t: Array) -> Array:
            return (denoise(params, x, t) - x) / t**2

        shape, key = (n, *data.images.shape[1:]), jax.random.key(1)
        return diffusion.sample_superposition(
            scores, DIGITS_LAW, key, shape, steps, rho=5.0, **LINES[line]
        )

    alone = {"A": slice(0, 1), "B": slice(1, 2)}
    runs = {
        k: sample(jax.tree.map(lambda x, one=one: x[one], both), n, "OR")
        for k, one in alone.items()
    }
    runs["OR"] = sample(both, n, "OR")
    runs |= {line: sample(both, few, line) for line in ("AVG", "AND")}
    classes, table = _superdiff.class_of(data, labels), {}
    for name, r in runs.items():
        features = [data.features(x) for x in (data.images, np.asarray(r.x))]
        shares = np.bincount(classes(features[1]), minlength=10) / len(r.x)
        with jax.enable_x64(True):  # noqa: FBT003 - the covariances are singular
            distance = _digits.frechet(*features)
        figures = {
            "FDfeat": distance,
            "least share of a class": shares.min(),
            "|log q_A - log q_B|": np.median(np.ptp(r.logq, axis=1)),
        }
        table[name] = [{k: float(v) for k, v in figures.items()}]
    return table, {"real": data.images} | {k: np.asarray(r.x) for k, r in runs.items()}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
