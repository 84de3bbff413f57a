"""What a distillation is made of, and what it carries from step to step."""

from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiv import _check
from jaxdiv.diffusion._distill import weighted_record
from jaxdiv.diffusion._noise import NoiseLaw, edm
from jaxdiv.diffusion._uni_instruct import check_switches
from jaxdiv.divergence import FDivergence
from jaxdiv.typing import Apply, Array, Params, PyTree


class DistillConfig(NamedTuple):
    """What a distillation is made of.

    The defaults are those of f-distill on ImageNet-64; small data want a larger
    `gan_weight` and a smaller `ema_decay`. Uni-Instruct has ``family="expanded"``,
    ``divergence="kl"``, ``aux_updates=1``, ``time_fraction=0.8``, `t_init` 2.5 and
    ``aux_log_time=(-1.2, 1.2)``. What concerns gradients alone, such as
    `optax.zero_nans`, `optax.clip` or a scale, belongs in the optimizers.

    Where the batches of the step are pairs of samples and condition, `denoise`,
    `discriminate` and `teacher_denoise` take the condition as their last argument.

    Attributes:
      denoise: `(params, x, t) -> denoised`, the one function of teacher, student and
        fake denoiser; x is `(B, ...)`, t a scalar or `(B,)`. The student is called
        with the scalar t_init, the others with `(B,)`.
      discriminate: `(head_params, fake_params, x, t) -> logits`, `(B,)` or
        `(B, heads)`. It may read features of the fake denoiser, whose forward pass
        XLA then shares; the fake denoiser does not learn from it, unless
        `shared_encoder`.
      student_optimizer: of the one-step generator; Adam with b1 = 0 keeps the race of
        three nets stable.
      fake_optimizer: of the fake denoiser.
      head_optimizer: of the discriminator's own parameters.
      law: noise law; the losses see the times between its t_min and t_max.
      t_init: time from which the student denoises in one step; None is `law.t_max`.
      sigma_data: standard deviation of the data.
      divergence: key or record of the f-divergence D_f(teacher || student).
      gan_weight: weight of the generator's GAN loss, against the distillation loss
        averaged over the entries of a sample.
      aux_updates: updates of fake denoiser and discriminator before each update of
        the student.
      ema_decay: of the running average of the student.
      ratio_clip: smallest and largest density ratio.
      bins: number of time bins in which the ratio is normalised.
      bin_rate: what a bin keeps of its old mean at an update.
      rho: times are uniform in t^(1/rho).
      time_fraction: how much of that range is used, from t_min up.
      dmd_normalise: divide a sample's gradient by its mean error, as DMD does.
      teacher_denoise: the same of the teacher alone, such as the denoiser of an
        analytic law or one with guidance; None is `denoise`.
      family: `"integral"` is f-distill, with `f_distill_loss`; `"expanded"` is
        Uni-Instruct, with `uni_instruct_loss` and the fields below down to `remat`.
      terms: terms of the expanded loss, see `uni_instruct_loss`.
      omega: divisor of the expanded loss; `dmd_normalise` is that of the integral.
      gan_omega: divide a sample's GAN loss by it too, as Uni-Instruct's code does.
      h_through: let the expanded gradient flow through the discriminator's logit.
      sid_alpha: alpha of `sid_loss`, in the term `sim` of any divergence; 1 leaves the
        term as it is.
      distance: distance of `sim_loss`, in the term `sim`.
      remat: run teacher and fake denoiser again in the student's backward pass, not
        to store what is inside them; their forward costs twice, memory less.
      student_after: steps that the student waits, while the other nets learn.
      ratio_after: steps for which all density ratios count as those of `reverse_kl`,
        until the discriminator has learned.
      shared_encoder: let the discriminator's loss train the fake denoiser too, as in
        Uni-Instruct, whose discriminator is its encoder and has no parameters.
      aux_log_time: mean and standard deviation of log t in the auxiliary updates, as
        EDM trains; None draws t there as for the student.
    """

    denoise: Apply
    discriminate: Apply
    student_optimizer: optax.GradientTransformation
    fake_optimizer: optax.GradientTransformation
    head_optimizer: optax.GradientTransformation
    law: NoiseLaw = edm()
    t_init: float | None = None
    sigma_data: float = 0.5
    divergence: str | FDivergence = "js"
    gan_weight: float = 3e-3
    aux_updates: int = 4
    ema_decay: float = 0.9999
    ratio_clip: tuple[float, float] = (0.1, 20.0)
    bins: int = 10
    bin_rate: float = 0.5
    rho: float = 7.0
    time_fraction: float = 1.0
    dmd_normalise: bool = True
    teacher_denoise: Apply | None = None
    family: str = "integral"
    terms: Collection[str] = ("sim",)
    omega: str | None = "abs"
    gan_omega: bool = False
    h_through: bool = False
    sid_alpha: float = 1.0
    distance: str = "l2"
    remat: bool = False
    student_after: int = 0
    ratio_after: int = 0
    shared_encoder: bool = False
    aux_log_time: tuple[float, float] | None = None


class DistillState(NamedTuple):
    """All that a distillation carries from step to step.

    Attributes:
      teacher: parameters of the teacher, never changed.
      student: parameters of the one-step generator.
      ema: their running average, the ones to sample with.
      fake: parameters of the denoiser of the student's law.
      head: parameters of the discriminator.
      student_opt: state of the student's optimizer.
      fake_opt: state of the fake denoiser's optimizer.
      head_opt: state of the discriminator's optimizer.
      ratio_bins: running mean of the density ratio in each time bin.
      step: number of steps done, int32.
    """

    teacher: Params
    student: Params
    ema: Params
    fake: Params
    head: Params
    student_opt: PyTree
    fake_opt: PyTree
    head_opt: PyTree
    ratio_bins: Array
    step: Array


def distill_state(
    cfg: DistillConfig,
    teacher_params: Params,
    head_params: Params,
    *,
    student_params: Params | None = None,
    fake_params: Params | None = None,
) -> DistillState:
    """The state before the first step: student and fake denoiser are the teacher.

    Args:
      cfg: the distillation.
      teacher_params: parameters of the trained teacher.
      head_params: initial parameters of the discriminator.
      student_params: initial parameters of the student; None takes the teacher's.
      fake_params: initial parameters of the fake denoiser; None takes the student's.

    Returns:
      `DistillState`; every leaf is a new array, so that the state may be donated.

    Raises:
      ValueError: a field of `cfg` is outside its range.

    Not differentiable.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxdiv import diffusion
      >>> scale = lambda params, x, t: params * x
      >>> judge = lambda head, fake, x, t: head * x[:, 0]
      >>> adam = optax.adam(1e-3, b1=0.0)
      >>> cfg = diffusion.DistillConfig(scale, judge, adam, adam, adam)
      >>> state = diffusion.distill_state(cfg, jnp.float32(0.5), jnp.float32(0.0))
      >>> print(state.student, state.ratio_bins.shape)
      0.5 (10,)
    """
    check_config(cfg)

    def copy(params: Params) -> Params:
        return jax.tree.map(jnp.array, params)

    if student_params is None:
        student_params = teacher_params
    student, head = copy(student_params), copy(head_params)
    fake = copy(student_params if fake_params is None else fake_params)
    return DistillState(
        teacher=copy(teacher_params),
        student=student,
        ema=copy(student_params),
        fake=fake,
        head=head,
        student_opt=copy(cfg.student_optimizer.init(student)),
        fake_opt=copy(cfg.fake_optimizer.init(fake)),
        head_opt=copy(cfg.head_optimizer.init(head)),
        ratio_bins=jnp.ones(cfg.bins, jnp.float32),
        step=jnp.zeros((), jnp.int32),
    )


def check_config(cfg: DistillConfig) -> None:
    weighted_record(cfg.divergence)
    low, high = cfg.ratio_clip
    _check.positive(ratio_clip=low, rho=cfg.rho, sigma_data=cfg.sigma_data)
    _check.in_range(low, ratio_clip=high)
    _check.in_range(0.0, closed=True, gan_weight=cfg.gan_weight)
    _check.in_range(
        0.0, 1.0, closed=True, ema_decay=cfg.ema_decay, bin_rate=cfg.bin_rate
    )
    _check.in_range(1, closed=True, aux_updates=cfg.aux_updates, bins=cfg.bins)
    _check.positive(time_fraction=cfg.time_fraction)
    _check.in_range(high=1.0, closed=True, time_fraction=cfg.time_fraction)
    if cfg.t_init is not None:
        _check.positive(t_init=cfg.t_init)
    _check.one_of("family", cfg.family, ("expanded", "integral"))
    check_switches(cfg.terms, cfg.omega, cfg.distance)
    if cfg.gan_omega and cfg.family == "integral":
        raise ValueError("gan_omega is True; expected False for the integral family.")
    _check.in_range(sid_alpha=cfg.sid_alpha)
    _check.in_range(
        0, closed=True, student_after=cfg.student_after, ratio_after=cfg.ratio_after
    )
    if cfg.aux_log_time is not None:
        _check.positive(aux_log_time=cfg.aux_log_time[1])
