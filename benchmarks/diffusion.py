"""The distillation step and the samplers against the bare calls of their networks.

    python -m benchmarks.diffusion

A step of three networks cannot be faster than the forward and backward passes that it
is made of, nor a sampler faster than its network: how near are they? Step and passes
run in turns in one process; a step is one of a scan.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from examples._digits import RECIPES, make_head
from examples._report import print_table
from examples._timing import best_of, compiled
from jaxdiv import diffusion, networks
from jaxdiv.typing import Array, Params

AUX_UPDATES = 2


class Net(NamedTuple):
    """How a network is made, its data, how many steps a scan has, and the rounds."""

    make: Callable[[nnx.Rngs], nnx.Module]
    features: int
    batch: tuple[int, ...]
    scan: int
    rounds: int
    samplers: tuple[tuple[str, int, int], ...]


def u_net(rngs: nnx.Rngs) -> nnx.Module:
    """For images of 28 x 28 whose 2 x 2 pixels are the channels of one."""
    options = {"model_channels": 32, "channel_mult": (1, 2), "num_blocks": 1}
    options |= {"attn_resolutions": (), "dropout": 0.0}
    return networks.SongUNet(14, 4, rngs=rngs, **options)


def mlp(name: str, *row: Any) -> Net:
    """The dense network of a data set of digits."""
    recipe, size = RECIPES[name], {"digits": 8, "mnist5k": 28}[name]
    shape = (recipe.batch, size, size, 1)
    return Net(recipe.network, recipe.features, shape, *row)


HEUN = ("heun_edm", 18, 35)  # steps and evaluations
NETS = {
    "digits, MLP": mlp(
        "digits", 10, 7, (HEUN, ("euler", 35, 35), ("dpmpp_2m", 35, 35))
    ),
    "MNIST-5k, MLP": mlp("mnist5k", 2, 5, (HEUN,)),
    "14 x 14, U-Net": Net(u_net, 64, (64, 14, 14, 4), 2, 3, (HEUN,)),
}


def load(name: str) -> tuple[Callable, Callable, Params, Params, Array]:
    """Denoiser, discriminator, the parameters of both, and a batch of images."""
    made = NETS[name]
    denoise, params = networks.pure(networks.EDMPrecond(made.make(nnx.Rngs(0))))
    judge, head = networks.pure(make_head(made.features))
    images = jnp.tanh(jax.random.normal(jax.random.key(0), made.batch))

    def discriminate(head: Params, fake: Params, x: Array, t: Array) -> Array:
        return judge(head, denoise(fake, x, t, features=True)[1])

    return denoise, discriminate, params, head, images


def passes(denoise: Callable, family: str) -> dict[str, tuple[int, Callable]]:
    """How often each bare pass of a network is in one step, and the pass."""

    def squared(params: Params, x: Array) -> Array:
        denoised, _ = denoise(params, x, jnp.ones(len(x)), features=True)
        return jnp.mean(denoised**2)

    in_params = 1 + AUX_UPDATES  # the student's and the fake denoiser's
    # The integral family goes back through the fake net's features alone.
    in_x = 1 if family == "integral" else 2
    # Student and real images in an auxiliary update; the teacher in the student's.
    forward = 2 * AUX_UPDATES + (2 - in_x)
    return {
        "forward": (forward, squared),
        "gradient in params": (in_params, jax.grad(squared)),
        "gradient in x": (in_x, jax.grad(squared, 1)),
    }


def step_row(label: str, family: str) -> tuple:
    """Steps and sums of passes in a second."""
    scan, rounds = NETS[label].scan, NETS[label].rounds
    denoise, discriminate, params, head, real = load(label)
    adam = optax.adam(1e-4, b1=0.0)
    cfg = diffusion.DistillConfig(
        denoise,
        discriminate,
        adam,
        adam,
        adam,
        family=family,
        gan_weight=0.1,
        aux_updates=AUX_UPDATES,
    )
    step = diffusion.make_step(cfg)

    def steps(params: Params, real: Array) -> Array:
        state = diffusion.distill_state(cfg, params, head)
        keys = jax.random.split(jax.random.key(0), scan)
        return jax.lax.scan(lambda s, key: step(s, real, key), state, keys)[0].ema

    bare = passes(denoise, family)
    programs = {name: compiled(f, params, real) for name, (_, f) in bare.items()}
    programs["step"] = compiled(steps, params, real)
    times = best_of(
        {k: f for k, (f, _) in programs.items()}, params, real, rounds=rounds
    )
    total = sum(count * times[name] for name, (count, _) in bare.items())
    one = times["step"] / scan
    return label, family, 1e3 / one, 1e3 / total, total / one, programs["step"][1]


def sampler_row(label: str, sampler: str, steps: int, evaluations: int) -> tuple:
    """Milliseconds of a sampler and of as many bare calls of its network."""
    denoise, _, params, _, real = load(label)

    def call(params: Params, x: Array) -> Array:
        return denoise(params, x, jnp.float32(1.0))

    def draw(params: Params, x: Array) -> Array:
        def score(x: Array, t: Array) -> Array:
            return (denoise(params, x, t) - x) / t**2

        return diffusion.sample(
            diffusion.edm(), score, jax.random.key(0), x.shape, sampler, steps=steps
        )

    one_call = compiled(call, params, real)[0]
    programs = {
        "sampler": compiled(draw, params, real)[0],
        "calls": lambda *args: [one_call(*args) for _ in range(evaluations)],
    }
    times = best_of(programs, params, real, rounds=NETS[label].rounds)
    bare = times["calls"]
    return label, sampler, evaluations, times["sampler"], bare, times["sampler"] / bare


def main() -> None:
    step_columns = (
        "net",
        "family",
        "steps/s",
        "sums of passes/s",
        "ratio",
        "compile s",
    )
    sampler_columns = ("net", "sampler", "NFE", "ms", "ms of bare calls", "ratio")
    for label, net in NETS.items():
        rows = [step_row(label, family) for family in ("integral", "expanded")]
        print_table(step_columns, rows)
        print()
        print_table(sampler_columns, [sampler_row(label, *s) for s in net.samplers])
        print(flush=True)


if __name__ == "__main__":
    main()
