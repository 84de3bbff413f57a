"""What `one_step_digits` needs beside its story: recipes, features, pictures."""

import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from examples._report import Claim, print_table
from jaxdiv import datasets, diffusion, metrics, networks
from jaxdiv.typing import Apply, Array, Key, Params

ASSETS = pathlib.Path(__file__).parent / "assets"
NEIGHBOURS = 5
COLUMNS = ("NFE", "FDfeat", "FDpix", "P", "R", "D", "C", "s per 1000")

Layers = Sequence[tuple[np.ndarray, np.ndarray]]


class Recipe(NamedTuple):
    """The settings of one data set.

    Attributes:
      network: makes the network inside the preconditioning.
      features: channels of the features that the discriminator reads.
      sigma_data: standard deviation of the pixels.
      log_sigma: mean and standard deviation of the teacher's log noise level.
      teacher_steps: length of the teacher's training.
      teacher_rate: its learning rate, decayed by a cosine.
      teacher_ema: decay of its running average.
      student_steps: length of the distillation.
      student_rate: learning rate of the student.
      aux_rate: learning rate of the fake denoiser and of the discriminator.
      student_ema: decay of the student's running average.
      gan_weight: weight of the GAN loss.
      t_init: noise level that the student starts from, five standard deviations.
      batch: batch size of both.
      chunk: steps a dispatch, about a second.
      checkpoint_every: steps between two checkpoints.
      sample_batch: samples drawn at a time.
      samples: samples that are judged.
    """

    network: Callable[[nnx.Rngs], nnx.Module]
    features: int
    sigma_data: float
    log_sigma: tuple[float, float] = (-0.8, 1.4)
    teacher_steps: int = 4000
    teacher_rate: float = 2e-3
    teacher_ema: float = 0.998
    student_steps: int = 500
    student_rate: float = 2e-4
    aux_rate: float = 5e-4
    student_ema: float = 0.995
    gan_weight: float = 0.1
    t_init: float = 3.76
    batch: int = 256
    chunk: int = 50
    checkpoint_every: int = 500
    sample_batch: int = 500
    samples: int = 1797


class Bars(NamedTuple):
    """What the recipe's figures must reach.

    Attributes:
      teacher: largest Frechet distance of the teacher, in features.
      student: largest of the student.
      recall: smallest recall of the student.
      undistilled: smallest Frechet distance of the teacher's own single step.
      seconds: longest training of the teacher on two free cores.
    """

    teacher: float
    student: float
    recall: float
    undistilled: float
    seconds: float


class PixelGains(nnx.Module):
    """Adds to a network's output every pixel, times a gain that is learned.

    The gain depends on the pixel and on the noise level: enough to clean the pixels
    that are the same in nearly all images, which would take much of a dense network.
    """

    def __init__(self, net: nnx.Module, size: int, *, rngs: nnx.Rngs) -> None:
        zeros = nnx.initializers.zeros_init()
        self.net = net
        self.level = nnx.Linear(1, 64, rngs=rngs)
        self.gain = nnx.Linear(64, size, kernel_init=zeros, rngs=rngs)

    def __call__(self, x: Array, c_noise: Array, *, features: bool = False) -> Any:
        out, inner = self.net(x, c_noise, features=True)
        level = 4 * jnp.atleast_1d(c_noise)[:, None]  # log sigma
        gain = self.gain(jax.nn.silu(self.level(level)))
        out = out + gain.reshape(-1, *x.shape[1:]) * x
        return (out, inner) if features else out


def _wide(rngs: nnx.Rngs) -> nnx.Module:
    net = networks.ScoreMLP(784, width=1024, depth=3, rngs=rngs)
    return PixelGains(net, 784, rngs=rngs)


def make_head(features: int) -> nnx.Module:
    """The discriminator's own layers: one logit for each place of the features."""
    zeros = nnx.initializers.zeros_init()
    return nnx.Sequential(
        nnx.Linear(features, 128, rngs=nnx.Rngs(0)),
        jax.nn.silu,
        nnx.Linear(128, 1, kernel_init=zeros, rngs=nnx.Rngs(1)),
    )


RECIPES = {
    "digits": Recipe(
        network=lambda rngs: networks.ScoreMLP(64, width=256, depth=3, rngs=rngs),
        features=256,
        sigma_data=0.752,
    ),
    "mnist5k": Recipe(
        network=_wide,
        features=1024,
        sigma_data=0.617,
        log_sigma=(-0.6, 1.3),
        teacher_steps=1500,
        teacher_rate=1e-3,
        student_steps=250,
        student_ema=0.99,
        t_init=3.08,
        chunk=10,
        checkpoint_every=100,
        sample_batch=100,
        samples=1000,
    ),
}
BARS = {
    "digits": Bars(1.3, 1.6, 0.75, 20.0, 150.0),
    "mnist5k": Bars(5.0, 10.0, 0.5, 20.0, 600.0),
}


def choose(name: str, student_steps: int | None, *, quick: bool) -> Recipe:
    """The recipe of a data set, shortened for a quick run."""
    found = RECIPES[name]
    if quick:
        found = found._replace(
            teacher_steps=300,
            teacher_ema=0.98,
            student_steps=found.chunk,  # one program to compile
            student_ema=0.9,
            samples=400,
        )
    if student_steps is None:
        return found
    if student_steps < 1:
        sys.exit(f"--steps is {student_steps}; expected at least 1.")
    return found._replace(student_steps=student_steps)


class Dataset(NamedTuple):
    """Images and the space in which samples are compared with them.

    Attributes:
      images: `(n, height, width, 1)` in [-1, 1].
      features: function from images to the classifier's last hidden units.
    """

    images: np.ndarray
    features: Callable[[np.ndarray], np.ndarray]


def load(name: str) -> Dataset:
    """The images and their features: stored ones for digits, else trained here."""
    if name == "digits":
        stored = np.load(ASSETS / "digits_features.npz", allow_pickle=False)
        layers = [(stored[f"weights{i}"], stored[f"bias{i}"]) for i in range(2)]
        images = datasets.digits().images
    else:
        images, labels = datasets.mnist5k()
        layers, _ = train_features(images, labels, size=4000)
    return Dataset(images, lambda x: hidden_units(layers, x))


def train_features(
    images: np.ndarray, labels: np.ndarray, *, size: int
) -> tuple[Layers, float]:
    """Hidden layers of a classifier of `size` images, and its accuracy on the rest."""
    from sklearn.neural_network import MLPClassifier

    order = np.random.default_rng(0).permutation(len(images))
    pixels = images.reshape(len(images), -1)[order]
    train, test = slice(size), slice(size, None)
    model = MLPClassifier((128, 64), random_state=0)
    model.fit(pixels[train], labels[order][train])
    layers = list(zip(model.coefs_, model.intercepts_, strict=True))[:-1]
    return layers, model.score(pixels[test], labels[order][test])


def hidden_units(layers: Layers, images: np.ndarray) -> np.ndarray:
    """The last hidden units of the classifier, in float64."""
    hidden = images.reshape(len(images), -1).astype(np.float64)
    for weights, bias in layers:
        hidden = np.maximum(hidden @ weights + bias, 0)
    return hidden


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance between the Gaussians with the moments of two samples."""
    moments = [
        f(z) for z in (x, y) for f in (lambda z: z.mean(0), lambda z: np.cov(z.T))
    ]
    return float(metrics.frechet_distance(*moments))


def compare(data: Dataset, real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    """Distances and the shares P, R, D, C of generated images against real ones."""
    pixels = [x.reshape(len(x), -1).astype(np.float64) for x in (real, fake)]
    features = [data.features(x) for x in (real, fake)]
    with jax.enable_x64(True):  # noqa: FBT003 - covariances of digits are singular
        precision, recall = metrics.precision_recall(*features, k=NEIGHBOURS)
        density, coverage = metrics.density_coverage(*features, k=NEIGHBOURS)
        distances = {"FDfeat": frechet(*features), "FDpix": frechet(*pixels)}
    shares = {"P": precision, "R": recall, "D": density, "C": coverage}
    return distances | {name: float(x) for name, x in shares.items()}


class Sampler:
    """Draws images by 35 evaluations of a network or by one."""

    def __init__(self, denoise: Apply, shape: tuple[int, ...], recipe: Recipe) -> None:
        self._recipe = recipe
        shape = (recipe.sample_batch, *shape)

        def draw(params: Params, key: Key, law: diffusion.NoiseLaw, how: str) -> Array:
            def score(x: Array, t: Array) -> Array:
                return (denoise(params, x, t) - x) / t**2

            return diffusion.sample(law, score, key, shape, how)

        student_law = diffusion.edm(t_max=recipe.t_init)
        self._draw = {
            35: jax.jit(partial(draw, law=diffusion.edm(), how="heun_edm")),
            1: jax.jit(partial(draw, law=student_law, how="one_step")),
        }

    def __call__(self, params: Params, key: Key, nfe: int) -> np.ndarray:
        """The recipe's number of samples."""
        n = self._recipe.samples
        keys = jax.random.split(key, -(-n // self._recipe.sample_batch))
        return np.concatenate([self._draw[nfe](params, k) for k in keys])[:n]

    def seconds(self, params: Params, nfe: int) -> float:
        """Seconds for 1,000 samples, the best of three runs of compiled code."""
        key, times = jax.random.key(0), []
        for _ in range(3):
            start = time.perf_counter()
            self._draw[nfe](params, key).block_until_ready()
            times.append(time.perf_counter() - start)
        return min(times) * 1000 / self._recipe.sample_batch


def draw_digits(rows: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
    """A picture with two lines of digits for each entry of `rows`."""
    import matplotlib.pyplot as plt

    shown, columns = 32, 16
    figure, axes = plt.subplots(
        len(rows), figsize=(10, 1.5 * len(rows)), layout="constrained"
    )
    for axis, (label, images) in zip(axes, rows.items(), strict=True):
        few = images[:: len(images) // shown][:shown, :, :, 0]
        few = np.pad(few, ((0, 0), (1, 1), (1, 1)), constant_values=-1)  # a margin
        few = np.pad(few, [(0, 0), (1, 1), (1, 1)], constant_values=-1)  # a margin
        lines = few.reshape(-1, columns, *few.shape[1:]).transpose(0, 2, 1, 3)
        picture = lines.reshape(lines.shape[0] * lines.shape[1], -1)
        axis.imshow(picture, cmap="gray_r", vmin=-1, vmax=1)
        axis.set_title(label, loc="left", fontsize=10)
        axis.axis("off")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_training(
    teacher: Mapping[str, np.ndarray],
    students: Mapping[str, Mapping[str, np.ndarray]],
    path: pathlib.Path,
) -> None:
    """Losses of all nets, the density ratio and the logits over the run."""
    import matplotlib.pyplot as plt

    of_student = (
        "fake_loss",
        "discriminator_loss",
        "distill_loss",
        "ratio",
        "abs_logit",
    )
    figure, axes = plt.subplots(2, 3, figsize=(11, 5), layout="constrained")
    for axis, name in zip(axes.flat, ("teacher loss", *of_student), strict=True):
        runs = students if name in of_student else {"teacher": teacher}
        for label, history in runs.items():
            axis.plot(_smooth(history[name.removeprefix("teacher ")]), label=label)
        axis.set_title(name.replace("_", " "), fontsize=10)
    axes.flat[0].set_yscale("log")
    axes.flat[1].legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _smooth(values: np.ndarray, window: int = 25) -> np.ndarray:
    window = min(window, len(values))
    return np.convolve(values, np.ones(window) / window, mode="valid")


def judge(
    models: Mapping[str, tuple[Params, int]], sampler: Sampler, data: Dataset, key: Key
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Draws from every model, given as parameters and NFE, and prints the table.

    The first line is the floor: one half of the real images against the other.

    Returns:
      The table by rows, and the images, the real ones first.
    """
    order = np.random.default_rng(0).permutation(len(data.images))
    halves = [data.images[half] for half in np.array_split(order, 2)]
    table: dict[str, dict[str, Any]] = {"real, halves": compare(data, *halves)}
    images = {"real": data.images}
    for label, (params, nfe) in models.items():
        samples = sampler(params, key, nfe)
        images[f"{label}, {nfe} NFE"] = samples
        pace = {"NFE": nfe, "s per 1000": sampler.seconds(params, nfe)}
        table[label] = compare(data, data.images, samples) | pace
    rows = [
        [label, *(row.get(c, "-") for c in COLUMNS)] for label, row in table.items()
    ]
    print_table(("model", *COLUMNS), rows)
    return table, images


def claims(
    bars: Bars,
    table: Mapping[str, Mapping[str, Any]],
    student: str,
    *,
    seconds: float | None,
    promised: bool,
) -> list[Claim]:
    """What the run is to show; times of training need two free cores."""

    def at_most(what: str, measured: float, bar: float) -> Claim:
        return Claim(what, measured, f"<= {bar:g}", measured <= bar, promised)

    def at_least(what: str, measured: float, bar: float) -> Claim:
        return Claim(what, measured, f">= {bar:g}", measured >= bar, promised)

    teacher, undistilled = table["teacher"], table["teacher, undistilled"]
    faster = teacher["s per 1000"] / table[student]["s per 1000"]
    found = [
        at_most("teacher, 35 NFE: FDfeat", teacher["FDfeat"], bars.teacher),
        at_least("undistilled, 1 NFE: FDfeat", undistilled["FDfeat"], bars.undistilled),
        at_most(f"{student}, 1 NFE: FDfeat", table[student]["FDfeat"], bars.student),
        at_least(f"{student}, 1 NFE: recall", table[student]["R"], bars.recall),
        at_least("one step: times as fast as 35 NFE", faster, 10),
    ]
    if seconds is not None:
        training = at_most("teacher: seconds of training", seconds, bars.seconds)
        found.append(training._replace(promised=False))
    return found
