"""Three nets on a mixture in the plane whose ideal teacher is known.

The seeds of a run train side by side, in one program.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from examples._timing import compiled
from jaxdiv import datasets, diffusion, metrics, networks
from jaxdiv.distributions import GaussianMixture
from jaxdiv.typing import Array, Key, Params

WIDTH, BLOCKS, HEAD, BATCH, CHUNK, SAMPLES = 128, 1, 32, 512, 50, 20_000
SIGMA_DATA = 2.84  # of a coordinate, in all of the mixtures
BLUR = 0.25
LEVELS = (0.05, 0.2, 0.6, 2.0, 5.0)  # noise levels at which the logits are shown
FIGURES = ("JS", "KL", "reverse KL", "modes", "good", "weight TV")


class Program(NamedTuple):
    """What the runs with one configuration share.

    Attributes:
      cfg: the distillation.
      nets: initial parameters of the student and of the head, one a seed.
      run: `(state, keys, first) -> (state, metrics)`, CHUNK steps of all seeds.
    """

    cfg: diffusion.DistillConfig
    nets: tuple[Params, Params]
    run: Callable


def _nets(seed: int) -> tuple[nnx.Module, nnx.Module]:
    rngs, zeros = nnx.Rngs(seed), nnx.initializers.zeros_init()
    net = networks.ScoreMLP(2, width=WIDTH, depth=BLOCKS, embed=32, rngs=rngs)
    head = nnx.Sequential(  # the discriminator's own layers
        nnx.Linear(WIDTH, HEAD, rngs=rngs),
        jax.nn.silu,
        nnx.Linear(HEAD, 1, kernel_init=zeros, rngs=rngs),
    )
    return networks.EDMPrecond(net, SIGMA_DATA), head


def program(seeds: int, **options: Any) -> Program:
    """Compiles the training of all seeds; `options` are fields of `DistillConfig`."""
    (denoise, _), (judge, _) = map(networks.pure, _nets(0))
    params = [tuple(networks.pure(m)[1] for m in _nets(seed)) for seed in range(seeds)]
    nets = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)

    def discriminate(head: Params, fake: Params, x: Array, t: Array) -> Array:
        _, features = denoise(fake, x, t, features=True)
        return judge(head, features)

    adam = optax.adam(1e-3, b1=0.0)
    cfg = diffusion.DistillConfig(
        denoise,
        discriminate,
        *(adam, adam, adam),
        law=diffusion.edm(0.03, 6.0),
        sigma_data=SIGMA_DATA,
        gan_weight=0.0,
        aux_updates=2,
        ema_decay=0.995,
        teacher_denoise=lambda mixture, x, t: mixture.denoise(x, sigma=t),
    )._replace(**options)
    step = diffusion.make_step(cfg)

    def one(state: diffusion.DistillState, key: Key) -> tuple:
        key_real, key_step = jax.random.split(key)
        return step(state, state.teacher.sample(key_real, (BATCH,)), key_step)

    def run(state: diffusion.DistillState, keys: Key, first: Array) -> tuple:
        def body(state: diffusion.DistillState, i: Array) -> tuple:
            fold = jax.vmap(jax.random.fold_in, (0, None))
            return jax.vmap(one)(state, fold(keys, i))

        return jax.lax.scan(body, state, first + jnp.arange(CHUNK))

    state = _initial(cfg, nets, datasets.gaussian_mixture_2d("ring8"))
    keys = jax.random.split(jax.random.key(0), seeds)
    return Program(cfg, nets, compiled(run, state, keys, 0)[0])


def _initial(
    cfg: diffusion.DistillConfig, nets: tuple[Params, Params], mixture: GaussianMixture
) -> diffusion.DistillState:
    """The states of all seeds, one teacher for all."""
    # Components of weight 0 give every mixture the same shapes, hence one program.
    more = 25 - len(mixture.weights)
    teacher = GaussianMixture(
        jnp.pad(mixture.weights, (0, more)),
        jnp.pad(mixture.means, ((0, more), (0, 0))),
        jnp.pad(mixture.covs, (0, more), constant_values=1.0),
    )

    def start(student: Params, head: Params) -> diffusion.DistillState:
        return diffusion.distill_state(cfg, teacher, head, student_params=student)

    return jax.vmap(start)(*nets)


def train(
    prog: Program, mixture: GaussianMixture, at: Sequence[int]
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """One student a seed.

    Args:
      prog: from `program`.
      mixture: what is to be learned.
      at: numbers of steps, multiples of CHUNK, after which it is judged.

    Returns:
      The figures at each of them, lists over the seeds, and the last samples.
    """
    state = _initial(prog.cfg, prog.nets, mixture)
    keys = jax.random.split(jax.random.key(0), len(state.step))
    rows, samples, seconds = [], np.empty(0), 0.0
    for done in range(CHUNK, max(at) + 1, CHUNK):
        began = time.perf_counter()
        state, history = jax.block_until_ready(prog.run(state, keys, done - CHUNK))
        seconds += time.perf_counter() - began
        if not np.isfinite(history["loss"]).all():
            raise FloatingPointError(f"A loss is not finite by step {done}.")
        if done in at:
            samples, figures = judge(prog.cfg, state, mixture)
            pace = {"steps": done, "steps/s": done * len(keys) / seconds}
            rows.append(pace | figures)
    return rows, samples


def side_by_side(run: Callable, arguments: Sequence[tuple]) -> Iterator[Any]:
    """The results of `run(*each)`, two runs at a time: one net fills but one core."""
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(lambda each: run(*each), arguments)


@partial(jax.jit, static_argnums=0)
def _drawn(cfg: diffusion.DistillConfig, state: diffusion.DistillState) -> tuple:
    """Samples of each seed, and its mean |logit| at the levels."""
    keys = jax.random.split(jax.random.key(7), 2)
    z, noise = (jax.random.normal(key, (SAMPLES, 2)) for key in keys)
    levels = jnp.repeat(jnp.array(LEVELS), SAMPLES // len(LEVELS))
    start = jnp.asarray(cfg.law.t_max if cfg.t_init is None else cfg.t_init)

    def of_seed(state: diffusion.DistillState) -> tuple[Array, Array]:
        x0 = cfg.denoise(state.ema, start * z, start)
        noised = x0 + levels[:, None] * noise
        logits = cfg.discriminate(state.head, state.fake, noised, levels)
        return x0, jnp.abs(logits).reshape(len(LEVELS), -1).mean(1)

    return jax.vmap(of_seed)(state)


def judge(
    cfg: diffusion.DistillConfig,
    state: diffusion.DistillState,
    mixture: GaussianMixture,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Samples of all seeds, and their figures as one list each."""
    samples, logits = _drawn(cfg, state)
    found = []
    for x in samples:
        blurred = metrics.smoothed_divergences_2d(x, mixture, BLUR)
        found.append((blurred.js, blurred.kl, blurred.reverse_kl, *modes(x, mixture)))
    figures = np.array(found, float).T.tolist()
    return np.asarray(samples), {
        **dict(zip(FIGURES, figures, strict=True)),
        "|logit|": np.asarray(logits).mean(0).tolist(),
    }


def modes(x: Array, mixture: GaussianMixture) -> metrics.ModeCoverage:
    """Modes covered, share of good samples, and distance of the modes' shares."""
    stds = jnp.sqrt(mixture.covs)
    return metrics.mode_coverage(x, mixture.means, stds, mixture.weights)


def cells(row: Mapping[str, Any], columns: Sequence[str]) -> list[Any]:
    """A line of a table; a list over the seeds as mean and half of its range."""

    def cell(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return f"{np.mean(value):.3g} +- {np.ptp(value) / 2:.2g}"

    return [cell(row[column]) for column in columns]
