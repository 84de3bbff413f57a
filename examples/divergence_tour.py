"""Which divergence when: ten of them in one picture and one table.

    python -m examples.divergence_tour --out out/divergence_tour

D_f(p||q) = E_q[f(p/q)], teacher p, student q. The generator f says what a ratio costs,
the weight h(t) = t^2 f''(t) how much a sample of that ratio counts, and the force
F(t) = t f'(t) - f(t) what the student's logit feels there. Below them is the Gaussian
that each divergence fits to a teacher of two modes: does it pick one or cover both?

Minka, 2005, MSR-TR-2005-173; Xu, Nie and Vahdat, 2025, arXiv:2502.15681.
"""

import dataclasses
import math
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.scipy.stats import norm

from examples._report import Claim, finish, open_folder, print_table
from jaxdiv import divergence
from jaxdiv.divergence import FDivergence
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
# Means and deviations of the best Gaussians, by quadrature in float64, narrowest first.
PUBLISHED = {
    "softened_rkl": (-1.476596, 0.627207),
    "reverse_kl": (-0.239393, 1.413859),
    "jeffreys": (-0.249677, 1.454653),
    "squared_hellinger": (-0.279005, 1.530604),
    "js": (-0.292080, 1.562362),
    "kl": (-0.3, 1.587451),
}
GRID = jnp.linspace(-8, 8, 801)
STARTS = ((0.0, 1.0), (-1.5, 0.6))  # between the modes, and on the heavier one


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which divergence when: ten of them in one picture and one table."""

    out: pathlib.Path = pathlib.Path("out/divergence_tour")
    """Folder for the picture and the figures."""
    steps: int = 2000
    """Gradient steps of the Gaussian fits."""
    quick: bool = False
    """Take 600 steps; the claims are promised all the same."""


def main(settings: Settings) -> int:
    """Fits, tabulates, draws; returns the exit status."""
    began = time.monotonic()
    out = open_folder(settings.out)
    log_p = teacher()
    fits = fit(log_p, 600 if settings.quick else settings.steps)
    table = [decide(name, fits[name]["std"]) for name in fits]
    print_table(list(table[0]), [list(row.values()) for row in table])
    picture = out / "divergences.png"
    draw(log_p, fits, picture)
    return finish(
        claims(fits),
        out=out,
        settings=dataclasses.asdict(settings),
        pictures=[picture],
        seconds=time.monotonic() - began,
        table=table,
        fits=fits,
    )


def teacher() -> Array:
    """Log-law on the grid of .6 N(-1.5, .6^2) + .4 N(1.5, .6^2)."""
    weights, means = jnp.array([[0.6], [0.4]]), jnp.array([[-1.5], [1.5]])
    modes = jnp.log(weights) + norm.logpdf(GRID, means, 0.6)
    return jax.nn.log_softmax(jax.nn.logsumexp(modes, 0))


def student(params: Array) -> Array:
    """Log-law on the grid of a Gaussian, from its mean and log-deviation."""
    mean, log_std = params[..., :1], params[..., 1:]
    return jax.nn.log_softmax(norm.logpdf(GRID, mean, jnp.exp(log_std)))


def fit(log_p: Array, steps: int) -> dict[str, dict[str, float]]:
    """The best student of each divergence over the starts, narrowest first."""

    def losses(params: Array) -> Array:
        values = [
            divergence.f_divergence(log_p, log_q, name)
            for name, log_q in zip(GUIDE, student(params), strict=True)
        ]
        return jnp.stack(values)

    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))

    @jax.jit
    def descend(params: Array) -> tuple[Array, Array]:
        def step(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            gradient = jax.grad(lambda x: losses(x).sum())(params)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(params, updates), state), None

        carry = (params, optimizer.init(params))
        (params, _), _ = jax.lax.scan(step, carry, length=steps)
        return params, losses(params)

    starts = jnp.array([(mean, math.log(std)) for mean, std in STARTS])
    params, values = descend(jnp.broadcast_to(starts, (len(GUIDE), *starts.shape)))
    found = {}
    for name, ends, value in zip(GUIDE, params.tolist(), values.tolist(), strict=True):
        mean, log_std = ends[int(np.argmin(value))]
        found[name] = {
            "mean": mean,
            "std": math.exp(log_std),
            "value": min(value),
            "std from N(0, 1)": math.exp(ends[0][1]),
        }
    return dict(sorted(found.items(), key=lambda item: item[1]["std"]))


def decide(name: str, std: float) -> dict[str, str]:
    """A row of the decision table: all but the last column follows from the record."""
    record = divergence.normalize(name)
    outside, missed = record.f_at_zero, record.f_prime_at_inf
    leaning = {
        (True, False): "seeks modes",
        (False, True): "covers mass",
        (True, True): "does both",
        (False, False): "neither",
    }[math.isinf(outside), math.isinf(missed)]
    h = np.exp(record.log_weight(jnp.array([-jnp.inf, jnp.inf])))
    return {
        "divergence": name,
        "leaning": leaning,
        "fitted std": f"{std:.3f}",
        "bound": f"{record.bound:.3g}",
        "q where p = 0": f"{outside:.3g}",
        "p where q = 0": f"{missed:.3g}",
        "h(0)": f"{h[0]:.3g}",
        "h(inf)": f"{h[1]:.3g}",
        "robust": "yes" if np.isfinite(h).all() else "no",
        "when to use": GUIDE[name][1],
    }


def force(record: FDivergence, log_ratio: Array) -> Array:
    """Minus the derivative of the divergence in log q, for each unit of q."""
    return jnp.exp(log_ratio) * record.f_prime(log_ratio) - record.f(log_ratio)


def claims(fits: Mapping[str, Mapping[str, float]]) -> list[Claim]:
    """Published values and fits, the force, the common curvature, and the order."""
    p, q = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05])), jnp.log(jnp.full(4, 0.25))
    near = jax.nn.log_softmax(p + jnp.array([2e-3, -3e-3, 1e-3, 4e-3]))
    half = divergence.pearson_chi2(near, p) / 2
    value, pull, curve = [], [], []
    for name, (published, _) in GUIDE.items():
        record = divergence.normalize(name)
        measured, slope = jax.value_and_grad(divergence.f_divergence, 1)(p, q, record)
        value.append(measured / published - 1)
        pull.append(slope / jnp.exp(q) + force(record, p - q))
        if name != "tv":  # the one without a curvature
            local = divergence.f_divergence(near, p, divergence.rescale(record))
            curve.append(local / half - 1)
    moved = [
        np.subtract((fits[name]["mean"], fits[name]["std"]), PUBLISHED[name])
        for name in PUBLISHED
    ]
    found = [
        ("values at p against uniform, relative error", value, 1e-6),
        ("gradient in log q is -q F, error", pull, 1e-5),
        ("rescaled divergences of near laws against chi2/2", curve, 0.01),
        ("fitted means and deviations, error", moved, 1e-3),
    ]
    lines = []
    for claim, errors, most in found:
        worst = float(np.max(np.abs(np.stack(errors))))
        lines.append(Claim(claim, worst, f"<= {most:g}", worst <= most))
    order = " < ".join(PUBLISHED)
    for column in ("std", "std from N(0, 1)"):
        stds = [fits[name][column] for name in PUBLISHED]
        rising = all(a < b for a, b in zip(stds, stds[1:], strict=False))
        text = " < ".join(f"{std:.3f}" for std in stds) if rising else str(stds)
        lines.append(Claim(f"fitted {column}", text, order, rising))
    return lines


def draw(
    log_p: Array, fits: Mapping[str, Mapping[str, float]], path: pathlib.Path
) -> None:
    """Generators, weights and forces above; the fits below, narrowest first."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    colors = colormaps["turbo"](np.linspace(0.05, 0.95, len(fits)))
    figure = Figure(figsize=(15, 9), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.1, 1])
    axes = upper.subplots(1, 3)
    ell = jnp.linspace(-4, 4, 401)
    for name, color in zip(fits, colors, strict=True):
        record = divergence.normalize(name)
        if name != "tv":
            record = divergence.rescale(record)
        style = {"color": color, "label": name, "linewidth": 1.8}
        style["linestyle"] = "--" if record.symmetric else "-"
        axes[0].plot(ell, record.f(ell), **style)
        axes[1].semilogy(ell, record.weight(ell), **style)
        axes[2].plot(ell, force(record, ell), **style)
    titles = (
        "Generator $f(t)$: what a ratio costs",
        "Weight $h(t) = t^2 f''(t)$: how much it counts",
        "Force $F(t) = t f'(t) - f(t)$ on the student's logit",
    )
    limits = ((-0.1, 5), (1e-2, 1e2), (-5, 5))
    for axis, title, limit in zip(axes, titles, limits, strict=True):
        axis.set(title=title, ylim=limit, xlim=(-4, 4))
        axis.set_xlabel(r"$\log\,t = \log\,p/q$")
        axis.axvline(0, color="0.8", linewidth=0.8, zorder=0)
        axis.grid(alpha=0.2)
    upper.legend(*axes[0].get_legend_handles_labels(), loc="outside right", fontsize=10)
    upper.suptitle("Ten f-divergences, rescaled to $f''(1) = 1$ (but tv)")

    density = 1 / float(GRID[1] - GRID[0])
    panels = lower.subplots(2, 5, sharex=True, sharey=True)
    for axis, (name, row), color in zip(panels.flat, fits.items(), colors, strict=True):
        log_q = student(jnp.array([row["mean"], math.log(row["std"])]))
        axis.fill_between(GRID, density * jnp.exp(log_p), color="0.85")
        axis.plot(GRID, density * jnp.exp(log_q), color=color, linewidth=2)
        axis.set_title(f"{name}: std {row['std']:.2f}", fontsize=10)
        axis.set(xlim=(-5, 5), ylim=(0, 0.7))
    lower.supxlabel("x")
    lower.supylabel("density")
    lower.suptitle("The Gaussian that each fits to a teacher of two modes (grey)")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Settings)))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. Nothing was saved; the whole run takes a minute.")
