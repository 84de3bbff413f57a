"""Which divergence when: ten of them in one picture and one table.

    python -m examples.divergence_tour --out out/divergence_tour

D_f(p||q) = E_q[f(p/q)], teacher p, student q. The generator f says what a ratio costs,
the weight h = t^2 f'' how much it counts, the force F = t f' - f what it does to the
student's logit. Below: the Gaussian that each fits to two modes. One of them, or both?

Minka, 2005, MSR-TR-2005-173; Xu, Nie and Vahdat, 2025, arXiv:2502.15681.
"""

import dataclasses
import math
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.scipy.stats import norm
from matplotlib import colormaps
from matplotlib.figure import Figure

from examples._report import Claim, finish, open_folder, print_table
from jaxdiv import divergence
from jaxdiv.divergence import FDivergence, f_divergence
from jaxdiv.typing import Array

# The value at p = (.5, .3, .15, .05) against the uniform law, and when to use it.
GUIDE = {
    "kl": (0.244174318131555, "samples of p only: maximum likelihood"),
    "reverse_kl": (0.311198699711548, "samples of q only: RL, one-step distillation"),
    "js": (0.0650799979067673, "supports differ; the usual trade-off in distillation"),
    "jeffreys": (0.555373017843103, "both kinds of error are dear, and supports agree"),
    "squared_hellinger": (0.0671327644687829, "its root is to be a metric"),
    "tv": (0.3, "odds of telling p from q by one draw; to report, not to fit"),
    "pearson_chi2": (0.46, "q is a proposal for p: variance of the weights p/q"),
    "neyman_chi2": (1.0, "p is a proposal for q: variance of the weights q/p"),
    "le_cam": (0.123106060606061, "outliers: ratios far from 1 are let go"),
    "softened_rkl": (0.181038703898013, "one sharp mode, at a low variance"),
}
ORDER = "softened_rkl", "reverse_kl", "jeffreys", "squared_hellinger", "js", "kl"
WIDTHS = 0.627207, 1.413859, 1.454653, 1.530604, 1.562362, 1.587451  # by quadrature
COLUMNS = "divergence/leaning/fitted std/from N(0, 1)/bound/q where p = 0/p where q = 0"
COLUMNS = (*COLUMNS.split("/"), "h(0)", "h(inf)", "h bounded", "when to use")
GRID = jnp.linspace(-8, 8, 801)
STARTS = ((0.0, 0.0), (-1.5, math.log(0.6)))  # mean and log-deviation


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which divergence when: ten of them in one picture and one table."""

    out: pathlib.Path = pathlib.Path("out/divergence_tour")
    """Folder for the picture and the figures."""
    quick: bool = False
    """Take 600 gradient steps, not 2000; the claims are promised all the same."""


def main(settings: Settings) -> int:
    """Fits, tabulates, draws; returns the exit status."""
    began = time.monotonic()
    picture = open_folder(settings.out) / "divergences.png"
    fits = fit(600 if settings.quick else 2000)
    table = [decide(name, found) for name, found in fits.items()]
    print_table(COLUMNS, table)
    draw(fits, picture)
    return finish(
        claims(fits),
        out=settings.out,
        settings=dataclasses.asdict(settings),
        pictures=[picture],
        seconds=time.monotonic() - began,
        table=[dict(zip(COLUMNS, row, strict=True)) for row in table],
    )


def gaussian(mean: Array, log_std: Array) -> Array:
    """Log-law on the grid, one for each mean."""
    x = GRID - mean[..., None]
    return jax.nn.log_softmax(norm.logpdf(x, scale=jnp.exp(log_std)[..., None]))


def teacher() -> Array:
    """Log-law of .6 N(-1.5, .6^2) + .4 N(1.5, .6^2)."""
    modes = gaussian(jnp.array([-1.5, 1.5]), jnp.log(jnp.array([0.6, 0.6])))
    return jnp.logaddexp(math.log(0.6) + modes[0], math.log(0.4) + modes[1])


def fit(steps: int) -> dict[str, dict[str, float]]:
    """Descends every divergence from every start at once; narrowest first."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))

    def losses(params: Array) -> Array:
        pairs = zip(GUIDE, gaussian(*params), strict=True)
        return jnp.stack([f_divergence(teacher(), q, name) for name, q in pairs])

    @jax.jit
    def step(params: Array, state: optax.OptState) -> tuple[Array, optax.OptState]:
        gradient = jax.grad(lambda x: losses(x).sum())(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    params = jnp.array(STARTS).T[:, None].repeat(len(GUIDE), 1)
    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    found = {}
    for i, (name, best) in enumerate(zip(GUIDE, losses(params).argmin(1), strict=True)):
        mean, std = params[0, i].tolist(), jnp.exp(params[1, i]).tolist()
        found[name] = {"mean": mean[best], "std": std[best], "std from N(0, 1)": std[0]}
    return dict(sorted(found.items(), key=lambda item: item[1]["std"]))


def decide(name: str, found: dict[str, float]) -> list[str]:
    """A row of the decision table; it leans away from what costs without bound."""
    record = divergence.normalize(name)
    outside, missed = record.f_at_zero, record.f_prime_at_inf
    widths = [f"{found[column]:.3f}" for column in ("std", "std from N(0, 1)")]
    seeks, covers = math.isinf(outside), math.isinf(missed)
    leaning = ("neither", "seeks modes", "covers mass", "does both")[seeks + 2 * covers]
    h = np.exp(record.log_weight(jnp.array([-jnp.inf, jnp.inf])))
    numbers = [f"{number:.3g}" for number in (record.bound, outside, missed, *h)]
    bounded = "yes" if np.isfinite(h).all() else "no"
    bounded = "atom at 1" if math.isinf(record.curvature) else bounded
    return [name, leaning, *widths, *numbers, bounded, GUIDE[name][1]]


def force(record: FDivergence, log_ratio: Array) -> Array:
    """Minus the derivative of the divergence in log q, for each unit of q."""
    return jnp.exp(log_ratio) * record.f_prime(log_ratio) - record.f(log_ratio)


def claims(fits: dict[str, dict[str, float]]) -> list[Claim]:
    """Published values and fits, the force, the common curvature, and the order."""
    p, q = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05])), jnp.log(jnp.full(4, 0.25))
    near = jax.nn.log_softmax(p + jnp.array([2e-3, -3e-3, 1e-3, 4e-3]))
    half = divergence.pearson_chi2(near, p) / 2
    records = [divergence.normalize(name) for name in GUIDE]
    value = [f_divergence(p, q, r) / GUIDE[r.name][0] - 1 for r in records]
    slope = jax.grad(f_divergence, 1)
    pull = [slope(p, q, r) / jnp.exp(q) + force(r, p - q) for r in records]
    smooth = [divergence.rescale(r) for r in records if r.name != "tv"]
    curve = [f_divergence(near, p, r) / half - 1 for r in smooth]
    widths = [fits[name]["std"] for name in ORDER]
    lines = []
    for claim, errors, most in [
        ("published values, relative error", value, 1e-6),
        ("gradient in log q is -q F, error", pull, 1e-5),
        ("rescaled, between near laws, against chi2/2", curve, 0.01),
        ("published fitted std, error", np.subtract(widths, WIDTHS), 1e-3),
    ]:
        worst = float(np.abs(np.stack(errors)).max())
        lines.append(Claim(claim, worst, f"<= {most:g}", worst <= most))
    for column in ("std", "std from N(0, 1)"):
        stds = [fits[name][column] for name in ORDER]
        text = " < ".join(f"{std:.3f}" for std in stds)
        rises = bool((np.diff(stds) > 0).all())
        lines.append(Claim(f"fitted {column}", text, " < ".join(ORDER), rises))
    return lines


def draw(fits: dict[str, dict[str, float]], path: pathlib.Path) -> None:
    """Generators, weights and forces above; the fits below, narrowest first."""
    colors = 0.88 * colormaps["turbo"](np.linspace(0.05, 0.95, len(fits)))[:, :3]
    figure = Figure(figsize=(15, 9), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.1, 1])
    upper.suptitle("Ten f-divergences, rescaled to $f''(1) = 1$ (tv: $f''$ is an atom)")
    axes, ell = upper.subplots(1, 3), jnp.linspace(-4, 4, 401)
    for name, color in zip(fits, colors, strict=True):
        scaled = name if name == "tv" else divergence.rescale(name)
        record = divergence.normalize(scaled)
        curves = (record.f(ell), record.weight(ell), force(record, ell))
        for axis, curve in zip(axes, curves, strict=True):
            dashes = "--" if record.symmetric else "-"
            axis.plot(ell, curve, dashes, color=color, label=name, linewidth=1.8)
    axes[0].set(title="Generator $f(t)$: what a ratio costs", ylim=(-0.1, 5))
    axes[1].set(title="Weight $t^2 f''(t)$ of a ratio", yscale="log", ylim=(1e-2, 1e2))
    axes[2].set(title="Force $t f'(t) - f(t)$ on the student's logit", ylim=(-5, 5))
    for axis in axes:
        axis.set(xlabel=r"$\log\,t = \log\,p/q$", xlim=(-4, 4))
        axis.grid(alpha=0.3)
    upper.legend(handles=axes[0].lines, loc="outside right", title="dashed: symmetric")
    lower.suptitle("The Gaussian that each fits to a teacher of two modes (grey)")
    panels, unit = lower.subplots(2, 5, sharex=True, sharey=True), GRID[1] - GRID[0]
    for axis, name, color in zip(panels.flat, fits, colors, strict=True):
        mean, std = fits[name]["mean"], fits[name]["std"]
        axis.fill_between(GRID, jnp.exp(teacher()) / unit, color="0.85")
        axis.plot(GRID, norm.pdf(GRID, mean, std), color=color, linewidth=2)
        axis.set(title=f"{name}: std {std:.2f}", xlim=(-5, 5), ylim=(0, 0.7))
    lower.supxlabel("x")
    lower.supylabel("density")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
