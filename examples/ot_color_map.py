"""Recolour a photograph by an optimal-transport map learned with the Monge gap.

    python -m examples.ot_color_map --out out/ot_color_map

A map T is to carry the colours of one photograph onto those of another. Fitted by the
Sinkhorn divergence alone it is one of many; with the Monge gap of a cost c added it is
the one that moves colours the least in c. Both are residual networks, compared on
pixels that neither has seen: how near is T to the target, and how far from optimal?

Uscidda and Cuturi, 2023, arXiv:2302.04953.
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from examples._report import Claim, finish, open_folder, print_table
from jaxdiv import datasets, transport
from jaxdiv.typing import Array

# Weight of the gap for each cost: enough to remove it, little enough to still fit.
WEIGHTS = {"sqeuclidean": 0.3, "euclidean": 0.3}
PLAIN = "lambda = 0"
COLUMNS = ("S_eps", "gap l2^2", "gap l2", "moved l2^2", "moved l2")
Map = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Recolour a photograph by an optimal-transport map."""

    out: pathlib.Path = pathlib.Path("out/ot_color_map")
    """Folder for the picture and the figures."""
    steps: int = 500
    """Gradient steps of each map."""
    seed: int = 0
    """Seed of all that is random."""
    quick: bool = False
    """Show the flow in less than a minute; the figures are then not promised."""


def main(settings: Settings) -> int:
    """Fits the maps, compares them, recolours; returns the exit status."""
    began = time.monotonic()
    out = open_folder(settings.out)
    pixels, judged, steps = (512, 256, 50) if settings.quick else (4096, 1024, None)
    steps = settings.steps if steps is None else steps
    china, flower = datasets.color_images()
    rng = np.random.default_rng(settings.seed)
    x, held_x = draw_colors(rng, china, pixels)
    y, held_y = draw_colors(rng, flower, pixels)

    maps: dict[str, Map] = {"identity": lambda z: z}
    curves = {}
    for label, cost, lam in [
        (PLAIN, "sqeuclidean", 0.0),  # without the gap the cost has no part in it
        *((f"gap of {cost}", cost, lam) for cost, lam in WEIGHTS.items()),
    ]:
        maps[label], curves[label] = fit(settings, label, x, y, cost, lam, steps)

    table = {
        label: measure(transport_map, held_x, held_y, judged)
        for label, transport_map in maps.items()
    }
    print()
    print_table(
        ("map", *COLUMNS),
        [[label, *(row[c] for c in COLUMNS)] for label, row in table.items()],
    )
    picture = out / "recoloured.png"
    draw(china, flower, maps, table, curves, picture)
    return finish(
        claims(table, promised=not settings.quick),
        out=out,
        settings=dataclasses.asdict(settings),
        pictures=[picture],
        seconds=time.monotonic() - began,
        table=table,
    )


def draw_colors(
    rng: np.random.Generator, image: np.ndarray, pixels: int
) -> tuple[Array, Array]:
    """Two disjoint samples of an image's colours: to learn from, and to judge by."""
    colors = image.reshape(-1, 3)
    chosen = colors[rng.choice(len(colors), 2 * pixels, replace=False)]
    return jnp.asarray(chosen[:pixels]), jnp.asarray(chosen[pixels:])


def fit(
    settings: Settings,
    label: str,
    x: Array,
    y: Array,
    cost: str,
    lam: float,
    steps: int,
) -> tuple[Map, dict[str, Any]]:
    """A map for one cost and weight of the gap, with its training curves."""
    with tqdm(total=steps, desc=label) as bar:

        def show(done: int, metrics: Mapping[str, Any]) -> None:
            bar.set_postfix(fit=f"{metrics['fit']:.2e}", refresh=False)
            bar.update(done - bar.n)

        apply, params, history = transport.fit_monge_map(
            jax.random.key(settings.seed),
            x,
            y,
            cost=cost,
            lam=lam,
            kind="entropy",
            steps=steps,
            on_chunk=show,
        )
    if history["status"] != "done":
        sys.exit(f"{label}: a step of the training was not finite.")
    return jax.jit(lambda z: apply(params, z)), history


def measure(transport_map: Map, x: Array, y: Array, judged: int) -> dict[str, float]:
    """Distance to the target, exact gaps, and mean costs of the displacement."""
    image = transport_map(x)
    scale = jnp.mean(jnp.sum((x[:judged, None] - y[:judged]) ** 2, -1))
    few, moved = x[:judged], image[:judged]
    squared = jnp.sum((moved - few) ** 2, -1)
    gap = transport.exact_monge_gap
    row = {
        "S_eps": transport.sinkhorn_divergence(image, y, eps=0.05 * scale),
        "gap l2^2": gap(few, moved),
        "gap l2": gap(few, moved, cost="euclidean"),
        "moved l2^2": squared.mean(),
        "moved l2": jnp.sqrt(squared).mean(),
    }
    return {name: float(value) for name, value in row.items()}


def claims(table: Mapping[str, Mapping[str, float]], *, promised: bool) -> list[Claim]:
    """What the gap is to do: a smaller gap, at a like distance to the target."""
    found = []
    for cost, column in (("sqeuclidean", "gap l2^2"), ("euclidean", "gap l2")):
        plain, gapped = table[PLAIN], table[f"gap of {cost}"]
        factor = plain[column] / max(gapped[column], 1e-12)
        ratio = gapped["S_eps"] / plain["S_eps"]
        found += [
            Claim(f"{column} falls by", factor, ">= 5", factor >= 5, promised),
            Claim(
                f"S_eps with the {column}, against lambda = 0",
                ratio,
                "<= 1.5",
                ratio <= 1.5,
                promised,
            ),
        ]
    return found


def draw(
    china: np.ndarray,
    flower: np.ndarray,
    maps: Mapping[str, Map],
    table: Mapping[str, Mapping[str, float]],
    curves: Mapping[str, Mapping[str, Any]],
    path: pathlib.Path,
) -> None:
    """The two photographs, the first recoloured by each map, and the training."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(12, 6), layout="constrained")
    shown = {"photograph": china, "colours to match": flower}
    for label in curves:
        recoloured = np.asarray(maps[label](jnp.asarray(china.reshape(-1, 3))))
        row = table[label]
        title = (
            f"{label}: $S_\\varepsilon$ {row['S_eps']:.1e}, "
            f"gap $\\ell_2^2$ {row['gap l2^2']:.1e}, $\\ell_2$ {row['gap l2']:.1e}"
        )
        shown[title] = recoloured.clip(0, 1).reshape(china.shape)
    for axis, (title, image) in zip(axes.flat, shown.items(), strict=False):
        axis.imshow(image)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    for label, history in curves.items():
        axes.flat[-1].semilogy(history["fit"], label=label, linewidth=0.7)
    axes.flat[-1].set_title("Sinkhorn divergence of the batches", fontsize=9)
    axes.flat[-1].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Settings)))
    except KeyboardInterrupt:
        sys.exit(
            "\nInterrupted. Nothing was saved; the whole run takes a minute or two."
        )
