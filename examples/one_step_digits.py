"""Distil a diffusion model of handwritten digits into a generator of one step.

    python -m examples.one_step_digits --divergence js --out out/one_step_digits

A teacher learns to denoise real digits (EDM) and draws samples with 35 evaluations of
its network. A student that starts from the teacher learns to do it with one, by
descending an f-divergence between the noised laws of the two (f-distill). A second
student with `reverse_kl`, whose gradient is that of DMD, is trained for comparison.

Karras et al., 2022, arXiv:2206.00364; Xu, Nie and Vahdat, 2025, arXiv:2502.15681.
"""

import dataclasses
import pathlib
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx

from examples import _digits
from examples._report import finish, open_folder
from jaxdiv import diffusion, divergence, networks, training
from jaxdiv.typing import Apply, Array, Key, Params, PyTree

BASELINE = "reverse_kl"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Distil a diffusion model of handwritten digits into one step."""

    data: Literal["digits", "mnist5k"] = "digits"
    """1,797 digits of 8 x 8 pixels, or 5,000 of 28 x 28."""
    divergence: str = "js"
    """What the student descends; an unknown name lists the known ones."""
    steps: int | None = None
    """Updates of the student; the recipe's number if left out."""
    seed: int = 0
    """Seed of all that is random."""
    out: pathlib.Path = pathlib.Path("out/one_step_digits")
    """Folder for pictures, figures and checkpoints."""
    quick: bool = False
    """Show the flow in less than a minute; the figures are then not promised."""
    resume: bool = False
    """Go on from the checkpoints in the folder; without it they are replaced."""


def main(settings: Settings) -> int:
    """Trains, distils and compares; returns the exit status."""
    began = time.monotonic()
    try:
        chosen = divergence.get(settings.divergence).name
        diffusion.f_distill_weight(chosen, jnp.ones(1))  # it has one
    except ValueError as error:
        sys.exit(f"--divergence: {error}")
    recipe = _digits.choose(settings.data, settings.steps, quick=settings.quick)
    out = open_folder(settings.out)
    if not settings.resume:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    data = _digits.load(settings.data)

    net = recipe.network(nnx.Rngs(settings.seed))
    denoise, params = networks.pure(networks.EDMPrecond(net, recipe.sigma_data))
    keys = jax.random.split(jax.random.key(settings.seed), 3)
    fit = partial(fit_phase, settings=settings, recipe=recipe, data=data)
    trained = time.monotonic()
    teacher = train_teacher(recipe, denoise, params, partial(fit, key=keys[0]))
    trained = time.monotonic() - trained
    ema = teacher.state.ema
    students = {  # the second for comparison
        name: distil(name, recipe, denoise, ema, partial(fit, key=keys[1]))
        for name in dict.fromkeys([chosen, BASELINE])
    }

    models = {"teacher": (ema, 35), "teacher, undistilled": (ema, 1)}
    models |= {f"student {k}": (run.state.ema, 1) for k, run in students.items()}
    sampler = _digits.Sampler(denoise, data.images.shape[1:], recipe)
    table, images = _digits.judge(models, sampler, data, keys[2])
    pictures = [out / "digits.png", out / "training.png"]
    _digits.draw_digits(images, pictures[0])
    histories = {name: run.history for name, run in students.items()}
    _digits.draw_training(teacher.history, histories, pictures[1])
    return finish(
        _digits.claims(
            _digits.BARS[settings.data],
            table,
            f"student {chosen}",
            seconds=None if teacher.start else trained,
            # The bars of digits are for js; those of mnist5k are aims.
            promised=(settings.data, chosen, settings.steps) == ("digits", "js", None)
            and not settings.quick,
        ),
        out=out,
        settings=dataclasses.asdict(settings),
        pictures=pictures,
        seconds=time.monotonic() - began,
        table=table,
    )


def train_teacher(
    recipe: _digits.Recipe, denoise: Apply, params: Params, fit: Callable
) -> training.FitResult:
    """Denoising score matching on the real digits."""
    mean, std = recipe.log_sigma

    def loss(params: Params, x0: Array, key: Key) -> Array:
        key_t, key_noise = jax.random.split(key)
        t = jnp.exp(mean + std * jax.random.normal(key_t, x0.shape[:1]))
        return diffusion.dsm_loss(
            key_noise, partial(denoise, params), x0, t, sigma_data=recipe.sigma_data
        )

    steps = recipe.teacher_steps
    adam = optax.adam(optax.cosine_decay_schedule(recipe.teacher_rate, steps))
    step = training.make_train_step(loss, adam, ema_decay=recipe.teacher_ema)
    return fit("teacher", step, training.init_state(params, adam), steps=steps)


def distil(
    name: str,
    recipe: _digits.Recipe,
    denoise: Apply,
    teacher: Params,
    fit: Callable,
    **changes: Any,
) -> training.FitResult:
    """One student; its fake denoiser lends its features to the discriminator.

    Args:
      name: the phase of the run, and its divergence unless `changes` has another.
      recipe: the settings of the data set.
      denoise: the network.
      teacher: its trained parameters.
      fit: function of the phase, the step, the state and `steps`.
      **changes: fields of the `DistillConfig` to set otherwise.

    Returns:
      The finished run.
    """
    steps, aux_updates = recipe.student_steps, 2
    judge, head_params = networks.pure(_digits.make_head(recipe.features))

    def discriminate(head: Params, fake: Params, x: Array, t: Array) -> Array:
        _, features = denoise(fake, x, t, features=True)
        return judge(head, features)

    def adam(rate: float, updates: int) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(rate, updates), b1=0.0)

    cfg = diffusion.DistillConfig(
        denoise,
        discriminate,
        student_optimizer=adam(recipe.student_rate, steps),
        fake_optimizer=adam(recipe.aux_rate, steps * aux_updates),
        head_optimizer=adam(recipe.aux_rate, steps * aux_updates),
        law=diffusion.edm(0.02, 20.0),
        t_init=recipe.t_init,
        sigma_data=recipe.sigma_data,
        gan_weight=recipe.gan_weight,
        aux_updates=aux_updates,
        ema_decay=recipe.student_ema,
        time_fraction=0.8,
    )
    cfg = cfg._replace(**{"divergence": name, **changes})
    state = diffusion.distill_state(cfg, teacher, head_params)
    return fit(name, diffusion.make_step(cfg), state, steps=steps)


def fit_phase(
    phase: str,
    step: Callable,
    state: PyTree,
    *,
    steps: int,
    key: Key,
    settings: Settings,
    recipe: _digits.Recipe,
    data: _digits.Dataset,
) -> training.FitResult:
    """Runs one phase, with its checkpoints in a folder of its name."""
    try:
        return training.fit(
            step,
            state,
            data.images,
            key,
            steps=steps,
            batch_size=recipe.batch,
            chunk=recipe.chunk,
            checkpoint_dir=settings.out / "checkpoints" / phase,
            checkpoint_every=recipe.checkpoint_every,
            resume=settings.resume,
            settings={"data": settings.data, "phase": phase, "steps": steps},
            progress=phase,
        )
    except ValueError as error:  # a checkpoint that is damaged or of another run
        sys.exit(f"Cannot go on with the phase {phase}. {error}")


def run(settings: Settings) -> int:
    """`main`, with the ends that are no fault of the program told in a sentence."""
    try:
        return main(settings)
    except (training.DivergedError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"\n{error} The same command with --resume goes on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run(tyro.cli(Settings)))
