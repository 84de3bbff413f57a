"""Von Mises-Fisher laws of image features in thousands of dimensions.

    python -m examples.vmf_features --out out/vmf_features

Random convolution features of digits and of patches of two photographs, normalised to
unit length, in 2048, 8192 and 32768 dimensions.

- How near is the fitted concentration to one computed with 40 digits, in float64 and in
  float32, and what do SciPy and mpmath make of the same data?
- A law for each class of digits: do their densities classify digits, and tell patches
  of photographs from digits?
- A mixture of ten laws, without the labels: how near does it come to the classes?

Plesner, Sorensen and Hauberg, 2024, arXiv:2409.08729; Banerjee et al., 2005.
"""

import dataclasses
import functools
import math
import pathlib
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import scipy.stats
import tyro
from sklearn.metrics import (
    adjusted_rand_score,
    normalized_mutual_info_score,
    roc_auc_score,
)

from examples._report import Claim, finish, open_folder, print_table
from jaxdiv import datasets, distributions
from jaxdiv.typing import Array

FILTER, POOLED = 5, 2  # side of a filter, and of the grid that its answers are put on


@dataclasses.dataclass(frozen=True)
class Settings:
    """Fit von Mises-Fisher laws to image features in thousands of dimensions."""

    out: pathlib.Path = pathlib.Path("out/vmf_features")
    """Folder for the picture and the figures."""
    dims: tuple[int, ...] = (2048, 8192, 32768)
    """Dimensions of the features."""
    components: tuple[int, ...] = (1, 10, 20, 40, 80, 160)
    """Numbers of laws in a mixture to choose from by held-out likelihood."""
    patches: int = 600
    """Patches of the photographs."""
    seed: int = 0
    """Seed of the filters, the patches and the halves."""
    quick: bool = False
    """Small dimensions and few patches only."""


def main(settings: Settings) -> int:
    """Fits, compares and draws; returns the exit status."""
    began = time.monotonic()
    out = open_folder(settings.out)
    if settings.quick:
        settings = dataclasses.replace(
            settings, dims=(512, 2048), components=(1, 10), patches=100
        )
    images, labels = datasets.digits()
    images = np.asarray(images, np.float64)[..., :1]
    images = (images - images.min()) / (images.max() - images.min())
    sets = {"digits": images, "patches": color_patches(settings, 16)}
    with jax.enable_x64(True):  # noqa: FBT003 - the order of 1e-12 is asked for
        fits = [
            fit_row(name, features(settings.seed, pictures, dim))
            for name, pictures in sets.items()
            for dim in settings.dims
        ]
        print_table(tuple(fits[0]), [tuple(row.values()) for row in fits])
        dim = min(settings.dims)
        inside = features(settings.seed, images, dim)
        grey = color_patches(settings, 8).mean(-1, keepdims=True)
        outside = features(settings.seed, grey, dim)
        classes = classify(settings.seed, inside, labels, outside)
        pixels = images.reshape(len(images), -1)
        clusters = cluster(settings.seed, pixels, labels)
        held_out = choose(settings, pixels)
    claims = fit_claims(fits) + class_claims(classes)
    claims += cluster_claims(clusters, held_out)
    picture = out / "scores.png"
    draw(classes, picture)
    return finish(
        claims,
        out=out,
        settings=dataclasses.asdict(settings),
        pictures=[picture],
        seconds=time.monotonic() - began,
        fits=fits,
        clusters=clusters,
        held_out=held_out,
    )


# Features


def color_patches(settings: Settings, side: int) -> np.ndarray:
    """Random patches of both photographs, `(n, side, side, 3)` in [0, 1]."""
    rng = np.random.default_rng(settings.seed)
    photographs = [np.asarray(p, np.float64) for p in datasets.color_images()]
    patches = []
    for i in range(settings.patches):
        photograph = photographs[i % 2]
        row, column = (rng.integers(n - side) for n in photograph.shape[:2])
        patches.append(photograph[row : row + side, column : column + side])
    patches = np.stack(patches)
    return (patches - patches.min()) / (patches.max() - patches.min())


def features(seed: int, images: np.ndarray, dim: int) -> Array:
    """Unit vectors: rectified answers of random filters, averaged in four places."""
    rng = np.random.default_rng(seed)
    channels = dim // POOLED**2
    fan_in = FILTER**2 * images.shape[-1]
    kernel = rng.standard_normal((fan_in, channels)) * (2 / fan_in) ** 0.5
    bias = 0.1 * rng.standard_normal(channels)
    windows = np.lib.stride_tricks.sliding_window_view(
        images, (FILTER, FILTER), axis=(1, 2)
    )
    places = windows.shape[1] // POOLED

    @jax.jit
    def one(windows: Array) -> Array:
        answers = jax.nn.relu(windows.reshape(-1, fan_in) @ kernel + bias)
        grid = (POOLED, places, POOLED, places, channels)
        x = answers.reshape(grid).mean((1, 3)).ravel()
        return x / jnp.linalg.norm(x)

    return jax.lax.map(one, jnp.asarray(windows), batch_size=8)


# Fits


def fit_row(name: str, x: Array) -> dict[str, Any]:
    """The concentration of the features, and what others make of them."""
    dim = x.shape[1]
    row: dict[str, Any] = {"features": name, "d": dim}
    for dtype in (jnp.float64, jnp.float32):
        rounded = jnp.asarray(x, dtype)
        began = time.perf_counter()
        direction, kappa = jax.block_until_ready(distributions.vmf_fit(rounded))
        seconds = time.perf_counter() - began
        exact = many_digits(np.asarray(rounded, np.float64))
        density = distributions.vmf_log_prob(rounded, direction, kappa, base="uniform")
        if dtype == jnp.float64:
            row["kappa"] = float(kappa)
        row[f"error {dtype.__name__[-2:]}"] = float(abs(float(kappa) / exact - 1))
        row[f"finite {dtype.__name__[-2:]}"] = bool(jnp.isfinite(density).all())
    row["seconds"] = seconds
    row["scipy"] = scipy_fit(np.asarray(x))
    try:
        mpmath.besseli(dim / 2 - 1, row["kappa"])
        row["mpmath"] = "a value"
    except (mpmath.libmp.NoConvergence, ValueError) as error:
        row["mpmath"] = type(error).__name__
    return row


def scipy_fit(x: np.ndarray) -> str:
    """SciPy's concentration and log-density, in a few words."""
    try:
        with np.errstate(all="ignore"):
            mu, kappa = scipy.stats.vonmises_fisher.fit(x)
            density = scipy.stats.vonmises_fisher(mu, kappa).logpdf(x[:10])
        return f"{kappa:.3g}, log p {density.mean():.3g}"
    except (ValueError, FloatingPointError, OverflowError) as error:
        return type(error).__name__


def many_digits(x: np.ndarray) -> mpmath.mpf:
    """The concentration with 40 digits: exact sums, then a continued fraction."""
    n, dim = x.shape
    total = [math.fsum(column) for column in x.T]
    with mpmath.workdps(50):
        r = mpmath.sqrt(mpmath.fsum(mpmath.mpf(t) ** 2 for t in total)) / n
        start = r * (dim - r**2) / (1 - r**2)
        return mpmath.findroot(lambda kappa: ratio(dim, kappa) - r, start)


def ratio(dim: int, kappa: mpmath.mpf) -> mpmath.mpf:
    """I_{d/2}(kappa) / I_{d/2-1}(kappa), from a high order down."""
    last = 3000
    order = mpmath.mpf(dim) / 2 + last
    value = kappa / (order + mpmath.sqrt(order**2 + kappa**2))
    for j in range(last, 0, -1):
        value = kappa / (dim + 2 * (j - 1) + kappa * value)
    return value


def fit_claims(fits: list[dict[str, Any]]) -> list[Claim]:
    """What the fits should show."""
    claims = []
    for bits, aim in (("64", 1e-12), ("32", 1e-6)):
        worst = max(row[f"error {bits}"] for row in fits)
        claim = f"kappa against 40 digits, float{bits}, relative error at most"
        claims.append(Claim(claim, worst, f"<= {aim:g}", worst <= aim))
        finite = all(row[f"finite {bits}"] for row in fits)
        claim = f"all log-densities finite, float{bits}"
        claims.append(Claim(claim, str(finite), "True", finite))
    return claims


# Classes


def classify(
    seed: int, x: Array, labels: np.ndarray, outside: Array
) -> dict[str, np.ndarray]:
    """Log-densities and cosines of the second half under laws of the first."""
    order = np.random.default_rng(seed).permutation(len(labels))
    train, test = np.split(order, [len(order) // 2])
    members = jnp.asarray(labels[train] == np.arange(10)[:, None], x.dtype)
    fit = jax.vmap(functools.partial(distributions.vmf_fit, x[train]))
    directions, kappas = fit(members)

    @jax.vmap
    def scores(z: Array) -> tuple[Array, Array]:
        density = distributions.vmf_log_prob(z, directions, kappas, base="uniform")
        return density, directions @ z

    (density, cosine), (far, far_cosine) = scores(x[test]), scores(outside)
    return {
        "labels": np.asarray(labels[test]),
        "density": np.asarray(density),
        "cosine": np.asarray(cosine),
        "outside density": np.asarray(far),
        "outside cosine": np.asarray(far_cosine),
        "kappas": np.asarray(kappas),
    }


def class_claims(classes: dict[str, np.ndarray]) -> list[Claim]:
    """How well the densities classify, and tell what is no digit."""
    accuracy, separation = {}, {}
    for score in ("density", "cosine"):
        found = classes[score].argmax(1)
        accuracy[score] = float(np.mean(found == classes["labels"]))
        inside, outside = (classes[key].max(1) for key in (score, f"outside {score}"))
        known = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
        separation[score] = float(roc_auc_score(known, np.r_[inside, outside]))
    low, high = classes["kappas"].min(), classes["kappas"].max()
    print(f"\nkappa of the classes: {low:.0f} to {high:.0f}")
    return [
        Claim(
            "accuracy of the class of highest density",
            accuracy["density"],
            f"nearest mean direction: {accuracy['cosine']:.4g}",
            accuracy["density"] >= accuracy["cosine"],
            promised=False,
        ),
        Claim(
            "area under the curve, digits against patches",
            separation["density"],
            f"cosine: {separation['cosine']:.4g}; >= 0.9",
            separation["density"] >= 0.9,
        ),
    ]


def unit(x: np.ndarray) -> Array:
    """The rows at length 1."""
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def cluster(seed: int, x: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """Mixtures of ten laws of the pixels themselves, from three starts."""
    x = unit(x)
    rows = []
    for key in jax.random.split(jax.random.key(seed), 3):
        mixture = distributions.vmf_mixture_fit(key, x, 10)
        history = np.asarray(mixture.history[: int(mixture.n_iters)])
        joint = mixture.log_weights + jax.vmap(
            lambda z, m=mixture: distributions.vmf_log_prob(
                z, m.mean_directions, m.concentrations
            )
        )(x)
        found = np.asarray(joint.argmax(1))
        rows.append(
            {
                "log-likelihood": float(mixture.log_likelihood),
                "largest fall": float(max(0, -np.diff(history).min())),
                "ARI": float(adjusted_rand_score(labels, found)),
                "NMI": float(normalized_mutual_info_score(labels, found)),
                "least kappa": float(mixture.concentrations.min()),
                "largest kappa": float(mixture.concentrations.max()),
            }
        )
    print("\nMixtures of ten laws of the pixels")
    print_table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    return rows


def choose(settings: Settings, x: np.ndarray) -> dict[int, float]:
    """Held-out log-likelihood of mixtures of more and more laws."""
    order = np.random.default_rng(settings.seed).permutation(len(x))
    train, test = (unit(x[half]) for half in np.split(order, [len(order) // 2]))
    found = {}
    for k in settings.components:
        mixture = distributions.vmf_mixture_fit(
            jax.random.key(settings.seed), train, k, restarts=3
        )
        log_prob = distributions.vmf_mixture_log_prob(
            test, *mixture[:3], base="uniform"
        )
        found[k] = float(log_prob.mean())
    print("\nMean log-density of the other half, by the number of laws")
    print_table(tuple(found), [tuple(found.values())])
    return found


def cluster_claims(
    clusters: list[dict[str, float]], held_out: dict[int, float]
) -> list[Claim]:
    """What the mixtures should show."""
    fall = max(row["largest fall"] for row in clusters)
    nmi = min(row["NMI"] for row in clusters)
    return [
        Claim("EM: largest fall of the likelihood", fall, "<= 1e-9", fall <= 1e-9),
        Claim("EM: NMI with the classes, worst start", nmi, ">= 0.65", nmi >= 0.65),
        Claim(
            "EM: number of laws that held-out likelihood selects",
            float(max(held_out, key=held_out.__getitem__)),
            "more than 1",
            max(held_out, key=held_out.__getitem__) > 1,
        ),
    ]


def draw(classes: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Histograms of the best log-density, of digits and of what is none."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    inside, outside = (classes[key].max(1) for key in ("density", "outside density"))
    low, high = np.percentile(np.r_[inside, outside], [1, 100])
    bins = np.linspace(low, high, 60)
    axes.hist(inside, bins, alpha=0.7, label="digits, held out")
    axes.hist(outside, bins, alpha=0.7, label="patches of photographs")
    axes.set(xlabel="largest log-density of a class, nats", ylabel="images")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
