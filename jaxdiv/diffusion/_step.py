"""The training step of one-step distillation: student, fake denoiser, discriminator."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiv import _check
from jaxdiv.diffusion._distill import (
    bin_normalise,
    f_distill_loss,
    f_distill_weight,
    gan_losses,
    generator_loss,
    over_heads,
    ratio_from_logits,
)
from jaxdiv.diffusion._expansion import uni_weights
from jaxdiv.diffusion._noise import add_noise, over_data, spaced_time
from jaxdiv.diffusion._precondition import dsm_error
from jaxdiv.diffusion._state import DistillConfig, DistillState, check_config
from jaxdiv.diffusion._uni_instruct import divisor, expanded_loss
from jaxdiv.typing import Array, Key, Params, PyTree

Metrics = dict[str, Array]


def _draw_noised(
    cfg: DistillConfig,
    key: Key,
    *clean: Array,
    log_time: tuple[float, float] | None = None,
) -> tuple[Array, tuple[Array, ...]]:
    """Times, and each of the clean batches noised with one and the same noise."""
    key_t, key_noise = jax.random.split(key)
    x0 = clean[0]
    if log_time is None:
        u = cfg.time_fraction * jax.random.uniform(key_t, x0.shape[:1], x0.dtype)
        t = spaced_time(cfg.law, u, cfg.rho)
    else:
        mean, std = log_time
        t = jnp.exp(mean + std * jax.random.normal(key_t, x0.shape[:1], x0.dtype))
        t = jnp.clip(t, cfg.law.t_min, cfg.law.t_max)
    noise = jax.random.normal(key_noise, x0.shape, x0.dtype)
    return t, tuple(add_noise(cfg.law, x, t, noise) for x in clean)


def _generate(cfg: DistillConfig, student: Params, key: Key, like: Array) -> Array:
    """The student's samples: noise at t_init, denoised once."""
    t = jnp.asarray(cfg.law.t_max if cfg.t_init is None else cfg.t_init, like.dtype)
    noise = cfg.law.sigma(t) * jax.random.normal(key, like.shape, like.dtype)
    (x0,) = _check.floating(student=cfg.denoise(student, noise, t))
    return x0


def _aux_loss(
    trained: tuple[Params, Params],
    cfg: DistillConfig,
    student: Params,
    real: Array,
    key: Key,
) -> tuple[Array, Metrics]:
    """Score matching on the student's samples, and real against fake at one level."""
    fake, head = trained
    key_x0, key_t = jax.random.split(key)
    x0 = _generate(cfg, student, key_x0, real)
    t, (noised, noised_real) = _draw_noised(
        cfg, key_t, x0, real, log_time=cfg.aux_log_time
    )
    denoised = cfg.denoise(fake, noised, t)
    fake_loss = dsm_error(cfg.law, denoised, x0, t, cfg.sigma_data).mean()
    features = fake if cfg.shared_encoder else jax.lax.stop_gradient(fake)
    discriminator_loss = gan_losses(
        cfg.discriminate(head, features, noised_real, t),
        cfg.discriminate(head, features, noised, t),
    ).discriminator.mean()
    metrics = {"fake_loss": fake_loss, "discriminator_loss": discriminator_loss}
    return fake_loss + discriminator_loss, metrics


def _denoised(
    cfg: DistillConfig, state: DistillState, noised: Array, t: Array
) -> tuple[Array, Array]:
    """What teacher and fake denoiser make of the student's noised samples."""
    nets = cfg.teacher_denoise or cfg.denoise, cfg.denoise
    if cfg.remat:
        nets = tuple(map(jax.checkpoint, nets))
    return nets[0](state.teacher, noised, t), nets[1](state.fake, noised, t)


def _after_warm_up(cfg: DistillConfig, state: DistillState, x: Array, y: Any) -> Array:
    """`x`, or `y` while the ratios do not count yet."""
    return jnp.where(state.step < cfg.ratio_after, y, x) if cfg.ratio_after else x


def _integral_loss(
    cfg: DistillConfig,
    state: DistillState,
    x0: Array,
    noised: Array,
    t: Array,
    ratio: Array,
) -> Array:
    # Nothing flows back through the two denoisers: no need to record them.
    frozen = jax.lax.stop_gradient(noised)
    weight = f_distill_weight(cfg.divergence, ratio)
    return f_distill_loss(
        x0,
        *_denoised(cfg, state, frozen, t),
        _after_warm_up(cfg, state, weight, 1.0),
        dmd_normalise=cfg.dmd_normalise,
    )


def _expanded_loss(
    cfg: DistillConfig,
    state: DistillState,
    x0: Array,
    noised: Array,
    t: Array,
    ratio: Array,
    logits: Array,
) -> tuple[Array, Array]:
    """The loss, and what it divides each sample's by."""
    log_ratio = jnp.log(ratio)
    if cfg.h_through:  # its value, with the derivative of the clipped logit
        low, high = map(math.log, cfg.ratio_clip)
        logit = jnp.clip(over_heads(logits), low, high)
        log_ratio = logit + jax.lax.stop_gradient(log_ratio - logit)
    weights = uni_weights(cfg.divergence, log_ratio)
    mean = jax.lax.stop_gradient(weights.h.mean())
    weights = jax.tree.map(
        lambda w, early: _after_warm_up(cfg, state, w / mean, early),
        weights,
        uni_weights("reverse_kl", 0.0),
    )
    alpha = cfg.law.alpha(t)
    sigma = cfg.law.sigma(t) / alpha
    d_teacher, d_fake = _denoised(cfg, state, noised, t)
    loss = expanded_loss(
        x0,
        noised / over_data(alpha, x0),
        sigma,
        d_teacher,
        d_fake,
        weights,
        terms=cfg.terms,
        omega=cfg.omega,
        sid_alpha=cfg.sid_alpha,
        distance=cfg.distance,
    )
    return loss, divisor(cfg.omega, sigma, x0, d_teacher)


def _student_loss(
    student: Params, cfg: DistillConfig, state: DistillState, real: Array, key: Key
) -> tuple[Array, tuple[Metrics, Array]]:
    key_x0, key_t = jax.random.split(key)
    x0 = _generate(cfg, student, key_x0, real)
    t, (noised,) = _draw_noised(cfg, key_t, x0)
    (logits,) = _check.floating(
        logits=cfg.discriminate(state.head, state.fake, noised, t)
    )
    ratio = ratio_from_logits(logits, cfg.ratio_clip)
    limits = {"t_min": cfg.law.t_min, "t_max": cfg.law.t_max}
    normalised, bins = bin_normalise(
        ratio, t, state.ratio_bins, rate=cfg.bin_rate, **limits
    )
    per_sample = generator_loss(logits)
    if cfg.family == "integral":
        distill_loss = _integral_loss(cfg, state, x0, noised, t, normalised)
    else:
        distill_loss, omega = _expanded_loss(
            cfg, state, x0, noised, t, normalised, logits
        )
        if cfg.gan_omega:
            per_sample /= omega
    distill_loss /= x0.size / x0.shape[0]
    gan_loss = per_sample.mean()
    loss = distill_loss + cfg.gan_weight * gan_loss
    metrics = {
        "loss": loss,
        "distill_loss": distill_loss,
        "gan_loss": gan_loss,
        "ratio": ratio.mean(),
        "abs_logit": jnp.abs(logits).mean(),
    }
    return loss, (metrics, bins.astype(state.ratio_bins.dtype))


def _descend(
    optimizer: optax.GradientTransformation,
    grads: Params,
    opt_state: PyTree,
    params: Params,
) -> tuple[Params, PyTree]:
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def _aux_update(
    cfg: DistillConfig, state: DistillState, real: Array, key: Key
) -> tuple[DistillState, Metrics]:
    (fake_grads, head_grads), metrics = jax.grad(_aux_loss, has_aux=True)(
        (state.fake, state.head), cfg, state.student, real, key
    )
    fake, fake_opt = _descend(
        cfg.fake_optimizer, fake_grads, state.fake_opt, state.fake
    )
    head, head_opt = _descend(
        cfg.head_optimizer, head_grads, state.head_opt, state.head
    )
    metrics |= {
        "fake_grad_norm": optax.tree.norm(fake_grads),
        "head_grad_norm": optax.tree.norm(head_grads),
    }
    state = state._replace(fake=fake, head=head, fake_opt=fake_opt, head_opt=head_opt)
    return state, metrics


def _student_update(
    cfg: DistillConfig, state: DistillState, real: Array, key: Key
) -> tuple[DistillState, Metrics]:
    grads, (metrics, bins) = jax.grad(_student_loss, has_aux=True)(
        state.student, cfg, state, real, key
    )
    student, student_opt = _descend(
        cfg.student_optimizer, grads, state.student_opt, state.student
    )
    ema = jax.tree.map(
        lambda old, new: cfg.ema_decay * old + (1 - cfg.ema_decay) * new,
        state.ema,
        student,
    )
    state = state._replace(
        student=student, ema=ema, student_opt=student_opt, ratio_bins=bins
    )
    return state, metrics | {"student_grad_norm": optax.tree.norm(grads)}


def _student_turn(
    cfg: DistillConfig, state: DistillState, real: Array, key: Key
) -> tuple[DistillState, Metrics]:
    """An update of the student, or while it waits nothing and metrics of 0."""

    def update(state: DistillState) -> tuple[DistillState, Metrics]:
        return _student_update(cfg, state, real, key)

    if not cfg.student_after:
        return update(state)
    _, shapes = jax.eval_shape(update, state)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    waits = state.step < cfg.student_after
    return jax.lax.cond(waits, lambda state: (state, nothing), update, state)


def _with_condition(
    cfg: DistillConfig, batch: Array | tuple[Array, PyTree]
) -> tuple[DistillConfig, Array]:
    """The samples of a batch, and the functions with its condition as last argument."""
    if not isinstance(batch, tuple):
        (real,) = _check.floating(batch=batch)
        return cfg, real
    if len(batch) != 2:
        raise ValueError(
            f"batch is a tuple of {len(batch)}; expected samples, or the pair of "
            "samples and condition."
        )
    (real,), condition = _check.floating(batch=batch[0]), batch[1]
    for leaf in jax.tree.leaves(condition):
        if jnp.shape(leaf)[:1] != real.shape[:1]:
            raise ValueError(
                f"The condition has an array of shape {jnp.shape(leaf)}; expected "
                f"{real.shape[0]} rows, one for each of the samples of the batch."
            )

    def conditioned(function: Callable) -> Callable:
        return lambda *arguments: function(*arguments, condition)

    teacher = cfg.teacher_denoise
    cfg = cfg._replace(
        denoise=conditioned(cfg.denoise),
        discriminate=conditioned(cfg.discriminate),
        teacher_denoise=None if teacher is None else conditioned(teacher),
    )
    return cfg, real


def make_step(
    cfg: DistillConfig,
) -> Callable[[DistillState, Any, Key], tuple[DistillState, Metrics]]:
    r"""The training step of student, fake denoiser and discriminator.

    One step is `aux_updates` updates of the fake denoiser (score matching on the
    student's samples) and of the discriminator (real against fake, noised to one
    level), then one update of the student with

    .. math:: L = \frac{1}{d}\,L_{distill} + \lambda_{GAN}\,L_g

    where :math:`L_{distill}` is `f_distill_loss` or `uni_instruct_loss`, as the family
    of `cfg` says, with the weights of the divergence at the discriminator's ratio,
    clipped, normalised in its time bin and over the batch, and :math:`L_g` is the
    generator's of `gan_losses`; and last the running average of the student. The
    expanded family sends the gradient through teacher and fake denoiser, which takes
    their backward passes too.

    Args:
      cfg: the distillation.

    Returns:
      A pure function `step(state, batch, key) -> (state, metrics)` of a
      `DistillState`, real samples `(B, ...)` and a key, to be jitted or scanned; the
      state may be donated. The batch may be the pair `(samples, condition)`: class
      labels, or any pytree of arrays with B rows. It is then the last argument of the
      functions of `cfg`, and the student makes samples of these same conditions.
      Under `jax.jit` with a batch sharded over devices all means are over the whole
      batch. The metrics are scalars: `loss` with its parts
      `distill_loss` and `gan_loss`, `fake_loss` and `discriminator_loss` (means over
      the auxiliary updates; 2 log 2 is a discriminator at chance), the norms
      `student_grad_norm`, `fake_grad_norm`, `head_grad_norm`, the mean `ratio` and
      `abs_logit`. A NaN in any net shows in one of them.

    Raises:
      ValueError: a field of `cfg` is outside its range; an unknown divergence lists
        the names. The step: the condition has not B rows.

    Not meant to be differentiated.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxdiv import diffusion
      >>> scale = lambda params, x, t: params * x
      >>> judge = lambda head, fake, x, t: head * x[:, 0]
      >>> adam = optax.adam(1e-3, b1=0.0)
      >>> cfg = diffusion.DistillConfig(scale, judge, adam, adam, adam)
      >>> state = diffusion.distill_state(cfg, jnp.float32(0.5), jnp.float32(0.0))
      >>> step = jax.jit(diffusion.make_step(cfg), donate_argnums=0)
      >>> state, metrics = step(state, jnp.ones((8, 2)), jax.random.key(0))
      >>> print(bool(state.student < state.teacher), sorted(metrics)[:2])
      True ['abs_logit', 'discriminator_loss']

    References:
      Xu, Nie and Vahdat, 2025, arXiv:2502.15681, algorithm 1; Wang et al., 2025,
      arXiv:2505.20755; Yin et al., 2024, arXiv:2405.14867 (DMD2), for the two time
      scales.
    """
    check_config(cfg)

    def step(
        state: DistillState, batch: Array | tuple[Array, PyTree], key: Key
    ) -> tuple[DistillState, Metrics]:
        seen, real = _with_condition(cfg, batch)
        key_aux, key_student = jax.random.split(key)
        state, aux = jax.lax.scan(
            lambda state, key: _aux_update(seen, state, real, key),
            state,
            jax.random.split(key_aux, cfg.aux_updates),
        )
        state, metrics = _student_turn(seen, state, real, key_student)
        state = state._replace(step=state.step + 1)
        return state, metrics | jax.tree.map(jnp.mean, aux)

    return step
