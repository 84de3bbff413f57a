"""What `superdiff` shows: its tables, its claims and its pictures."""

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from examples import _digits
from examples._report import Claim, print_table
from jaxdiv.distributions import GaussianMixture

STEPS = (100, 400, 1600)  # of the estimators, a factor apart

Figures = dict[str, float]
Table = Mapping[str, Sequence[Figures]]  # by line, then by seed


def report(title: str, table: Table) -> None:
    """Prints mean and standard deviation over the seeds."""
    columns = list(next(iter(table.values()))[0])
    rows = []
    for line, runs in table.items():
        values = np.array([[run[c] for c in columns] for run in runs])
        cells = [f"{mean:.3g}" for mean in values.mean(0)]
        if len(runs) > 1:
            spread = values.std(0, ddof=1)
            cells = [f"{c} +- {s:.1g}" for c, s in zip(cells, spread, strict=True)]
        rows.append([line, *cells])
    print_table((title, *columns), rows)
    print()


def class_of(
    data: _digits.Dataset, labels: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """A function from features to the digit of the nearest class mean."""
    features = data.features(data.images)
    means = np.stack([features[labels == k].mean(0) for k in range(10)])

    def classify(features: np.ndarray) -> np.ndarray:
        return ((features[:, None] - means) ** 2).sum(-1).argmin(1)

    return classify


def exact_claims(exact: Table, unequal: Table, mixed: Table, n: int) -> list[Claim]:
    """What exact scores give in n samples, at the worst seed."""
    found = [
        _at_least("OR: share within 3 std of a mode", exact["OR"], "in modes", 0.97),
        _share("OR: largest share of a mode", exact["OR"], "largest share", 0.25, n),
        _at_most("AVG: share within 3 std of a mode", exact["AVG"], "in modes", 0.45),
        _at_least("AVG: true difference, median", exact["AVG"], "true", 3),
    ]
    for line in ("AND", "AND, flow"):
        found += [
            _at_most(f"{line}: estimated, most", exact[line], "estimated", 1e-9),
            _at_most(f"{line}: true difference, median", exact[line], "true", 0.03),
            _at_most(f"{line}, unequal widths: true", unequal[line], "true", 0.06),
        ]
    published, first = unequal["AND, published"], "share of the first"
    weighted, three = mixed["OR of .8 and .2"], mixed["OR of three"]
    return [
        *found,
        _at_least("published AND, unequal widths: true", published, "true", 0.5),
        _share("OR of .8 and .2: share of the first", weighted, first, 0.8, n),
        _share("OR of three: share of the first", three, first, 1 / 3, n),
        _at_most("AND of three: true difference", mixed["AND of three"], "true", 0.05),
    ]


def estimator_claims(tracked: Table, dims: Sequence[int], n: int) -> list[Claim]:
    """Orders of the Ito estimator and errors of the flow, n paths a seed."""
    found = []
    for dim in dims:
        for column, order, within in (("mean", -1, 0.2), ("std", -0.5, 0.1)):
            runs = [tracked[f"d = {dim}: Ito, {steps} steps"] for steps in STEPS]
            values = [np.mean([run[column] for run in seeds]) for seeds in runs]
            slope = float(np.polyfit(np.log(STEPS), np.log(values), 1)[0])
            text = f"d = {dim}: order of the {column} of Ito's error"
            holds = abs(slope - order) <= within
            found.append(Claim(text, slope, f"{order} +- {within}", holds))
        flow = tracked[f"d = {dim}: flow, exact divergence"]
        found.append(_at_most(f"d = {dim}: error of the flow, std", flow, "std", 5e-4))
        probes = tracked[f"d = {dim}: flow, Hutchinson"]
        errors = [{"z": abs(r["mean"]) / r["std"] * math.sqrt(n)} for r in probes]
        text = f"d = {dim}: Hutchinson's bias in standard errors"
        found.append(_at_most(text, errors, "z", 4))
    return found


def learned_claims(learned: Table, digits: Table, *, promised: bool) -> list[Claim]:
    """What nets give, at the worst seed."""
    single = min(digits[k][0]["FDfeat"] for k in "AB")
    gap = "|log q_A - log q_B|"
    ratios = {
        "FDfeat": single / digits["OR"][0]["FDfeat"],
        gap: digits["AND"][0][gap] / digits["AVG"][0][gap],
    }
    least = "least share of a class"
    found = []
    if learned:
        found = [
            _at_least("learned OR: share in modes", learned["OR"], "in modes", 0.95),
            _at_most("learned AND: true difference", learned["AND"], "true", 0.5),
        ]
    found += [
        _at_least("digits, OR: least share of a class", digits["OR"], least, 0.03),
        _at_least("digits: FDfeat, better model / OR", [ratios], "FDfeat", 3),
        _at_most("digits: |log q_A - log q_B|, AND / AVG", [ratios], gap, 1e-3),
    ]
    return [claim._replace(promised=promised) for claim in found]


def _at_most(text: str, runs: Sequence[Figures], column: str, bar: float) -> Claim:
    worst = max(abs(run[column]) for run in runs)
    return Claim(text, worst, f"<= {bar:g}", worst <= bar)


def _at_least(text: str, runs: Sequence[Figures], column: str, bar: float) -> Claim:
    worst = min(run[column] for run in runs)
    return Claim(text, worst, f">= {bar:g}", worst >= bar)


def _share(
    text: str, runs: Sequence[Figures], column: str, share: float, n: int
) -> Claim:
    """A share of n samples, within four standard errors."""
    within = 4 * math.sqrt(share * (1 - share) / n)
    worst = max((run[column] for run in runs), key=lambda x: abs(x - share))
    holds = abs(worst - share) <= within
    return Claim(text, worst, f"{share:.3g} +- {within:.2g}", holds)


def draw(
    samples: Mapping[str, np.ndarray],
    models: Sequence[GaussianMixture],
    path: pathlib.Path,
) -> None:
    """Samples over the contours of both models; exact scores above, nets below."""
    rows = ("", ", learned") if "OR, learned" in samples else ("",)
    figure = Figure(figsize=(14, 0.2 + 3.6 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 4, sharex=True, sharey=True, squeeze=False)
    axis = np.linspace(-3, 3, 121)
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1))
    for row, suffix in zip(panels, rows, strict=True):
        for panel, name in zip(row, ("OR", "AVG", "AND", "AND, flow"), strict=True):
            for model, color in zip(models, ("tab:blue", "tab:orange"), strict=True):
                density = np.exp(model.log_prob(grid))
                panel.contour(axis, axis, density, 4, colors=color, linewidths=0.8)
            panel.plot(*samples[name + suffix].T, ".k", markersize=1.5, alpha=0.5)
            panel.set(title=name + suffix, aspect="equal", xlim=(-3, 3), ylim=(-3, 3))
    figure.suptitle("Two models (contours) sampled as one")
    figure.savefig(path, dpi=120)
