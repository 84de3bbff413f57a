"""The pieces of f-distill: density ratio, weights, student loss, GAN losses.

In all of them p is the teacher and q the student, both noised to the level t, and
r = p/q: the discriminator's logits are trained with real = 1.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.diffusion._noise import over_data
from jaxdiv.divergence import FDivergence, get
from jaxdiv.typing import Array, ArrayLike

_TINY = 1e-6  # keeps quotients finite; small against any ratio inside the clip
_MAX_LOGIT = 10.0  # e^10 is far outside any clip in use, and far from overflow


def over_heads(logits: Array) -> Array:
    """The mean over whatever axes follow the batch axis."""
    return logits.reshape(logits.shape[0], -1).mean(1)


def check_batch(**arrays: Array) -> None:
    """Raises ValueError where an array is a scalar."""
    for name, x in arrays.items():
        if x.ndim == 0:
            raise ValueError(f"{name} is a scalar; expected a batch axis.")


def ratio_from_logits(
    logits: ArrayLike, clip: tuple[float, float] = (0.1, 20.0)
) -> Array:
    r"""Density ratio p/q from a discriminator trained with real = 1, fake = 0.

    .. math:: r = \mathrm{clip}(e^{\bar d}), \qquad
              \bar d = \mathrm{clip}(\text{mean of the heads' logits}, -10, 10)

    Args:
      logits: shape `(B,)` or `(B, heads)`.
      clip: smallest and largest ratio.

    Returns:
      Array of shape `(B,)`, at least float32; NaN where a logit is NaN.

    Raises:
      TypeError: `logits` is not of a floating dtype.
      ValueError: not 0 < clip[0] < clip[1], or `logits` has no batch axis.

    Not differentiable: the ratio is a constant for the student (stop_gradient).

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> print(diffusion.ratio_from_logits(jnp.array([-9.0, 0.0, 9.0])))
      [ 0.1  1.  20. ]

    References:
      Xu, Nie and Vahdat, 2025, arXiv:2502.15681, section 3.
    """
    (logits,) = _check.floating(logits=logits)
    check_batch(logits=logits)
    low, high = clip
    _check.positive(clip=low)
    if not low < high:
        raise ValueError(f"clip is {clip}; expected a lower end below the upper.")
    log_ratio = jnp.clip(over_heads(logits), -_MAX_LOGIT, _MAX_LOGIT)
    return jax.lax.stop_gradient(jnp.clip(jnp.exp(log_ratio), low, high))


def bin_normalise(
    ratio: ArrayLike,
    t: ArrayLike,
    state: ArrayLike,
    *,
    t_min: float = 0.002,
    t_max: float = 80.0,
    rate: float = 0.5,
) -> tuple[Array, Array]:
    r"""Divides ratios by their running mean in the bin of their time.

    Under the student :math:`E_q[r] = 1` at every t, so a mean that is not 1 is the
    discriminator's bias. With an exact ratio leave this step out.

    .. math:: m_b \leftarrow \rho\,m_b + (1 - \rho)\,\mathrm{mean}_{i \in b}\,r_i,
              \qquad r_i \leftarrow r_i / (m_{b(i)} + 10^{-6})

    Args:
      ratio: shape `(B,)`.
      t: times, shape `(B,)`; those outside [t_min, t_max] count in the end bins.
      state: running means, shape `(bins,)`; the bins divide [t_min, t_max] equally.
        Start from ones.
      t_min: lower end of the first bin.
      t_max: upper end of the last bin.
      rate: what is kept of the old mean, rho in [0, 1]. A bin without a sample keeps
        all of it.

    Returns:
      The normalised ratios `(B,)` and the new state `(bins,)`. Under `jax.jit` with a
      sharded batch the means are over the whole batch.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, t_min >= t_max, or `rate` is not in [0, 1].

    Differentiable in `ratio` and `state`; piecewise constant in `t`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> ratio, t = jnp.array([1.0, 3.0, 5.0]), jnp.array([0.1, 0.2, 0.9])
      >>> ratio, means = diffusion.bin_normalise(
      ...     ratio, t, jnp.ones(2), t_min=0.0, t_max=1.0, rate=0.0
      ... )
      >>> print(ratio.round(2), means)
      [0.5 1.5 1. ] [2. 5.]

    References:
      Xu, Nie and Vahdat, 2025, arXiv:2502.15681, and its code in NVlabs/FastGen.
    """
    ratio, t, state = _check.floating(ratio=ratio, t=t, state=state)
    _check.rank(1, ratio=ratio, t=t, state=state)
    _check.same_shape(ratio=ratio, t=t)
    _check.in_range(t_min, t_max=t_max)
    _check.in_range(0.0, 1.0, closed=True, rate=rate)
    bins = state.shape[0]
    position = jnp.floor((t - t_min) / (t_max - t_min) * bins)
    index = jnp.clip(position, 0, bins - 1).astype(jnp.int32)
    count = jnp.zeros_like(state).at[index].add(1)
    mean = jnp.zeros_like(state).at[index].add(ratio) / jnp.maximum(count, 1)
    state = jnp.where(count > 0, rate * state + (1 - rate) * mean, state)
    return ratio / (state[index] + _TINY), state


def weighted_record(name: str | FDivergence) -> FDivergence:
    """The record, whose weight must not be zero almost everywhere."""
    record = get(name) if isinstance(name, str) else name
    if math.isinf(record.curvature):
        raise ValueError(
            f"The weight of {record.name!r} is 0 almost everywhere; expected another "
            "divergence, such as 'js'."
        )
    return record


def f_distill_weight(
    name: str | FDivergence, ratio: ArrayLike, *, normalise: bool = True
) -> Array:
    r"""Weight of each sample in the gradient of a divergence along the student.

    .. math:: h(r) = r^2 f''(r), \qquad
              \nabla_\theta D_f(p_t\|q_t) = -E\left[h(r)\,(s_p - s_q)^\top
              \alpha_t \frac{\partial G_\theta}{\partial\theta}\right]

    It is 1 for `reverse_kl` (as in DMD, Diff-Instruct and VSD), bounded for `js` and
    `softened_rkl`, and grows with r for `kl`, `jeffreys` and `pearson_chi2`: the
    faster, the less mode-seeking the student and the noisier its gradient.

    Args:
      name: a key or alias of `jaxdiv.divergence.get`, or a record that it returned,
        such as `get("alpha", a=0.3)`.
      ratio: p/q at the noised samples, shape `(B,)`.
      normalise: divide by the mean over the batch; this cancels the scale of f.

    Returns:
      Array of shape `(B,)`, at least float32. Normalised, it has mean 1, without
      overflow; NaN where every h is 0 or one is infinite, which no clipped ratio
      gives.

    Raises:
      TypeError: `ratio` is not of a floating dtype.
      ValueError: the name is unknown (the message lists the names), or the divergence
        has no weight: f'' of total variation is an atom.

    Differentiable in `ratio`; `f_distill_loss` stops the gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> ratio = jnp.array([1.0, 3.0])
      >>> print(diffusion.f_distill_weight("js", ratio).round(3))
      [0.8 1.2]
      >>> print(diffusion.f_distill_weight("reverse_kl", ratio))
      [1. 1.]

    References:
      Xu, Nie and Vahdat, 2025, arXiv:2502.15681, theorem 1 and table 1.
    """
    record = weighted_record(name)
    (ratio,) = _check.floating(ratio=ratio)
    log_ratio = jnp.log(ratio)
    if not normalise:
        return record.weight(log_ratio)
    log_weight = record.log_weight(log_ratio)
    # Against the largest, so that nothing overflows and constant weights are exactly 1.
    weight = jnp.exp(log_weight - jax.lax.stop_gradient(log_weight.max()))
    return weight / weight.mean()


def f_distill_loss(
    x0: ArrayLike,
    d_teacher: ArrayLike,
    d_fake: ArrayLike,
    weight: ArrayLike,
    *,
    dmd_normalise: bool = True,
) -> Array:
    r"""Pseudo-loss whose gradient in the student's samples is that of the divergence.

    .. math:: L = \frac{1}{2B}\sum_i \|g_i\|^2, \qquad
              \nabla_{x_{0,i}} L = \frac{g_i}{B}, \qquad
              g_i = w_i\,(D_{fake} - D_{teacher})_i

    The denoisers stand for the scores,
    :math:`s_p - s_q = \alpha_t (D_{teacher} - D_{fake})/\sigma_t^2`; the factor
    :math:`\alpha_t^2/\sigma_t^2` is left to the weighting of times.

    Args:
      x0: the student's samples, shape `(B, ...)`.
      d_teacher: the teacher's denoised noised samples, shaped as `x0`.
      d_fake: the same of the fake denoiser, which has learned the student's law.
      weight: shape `(B,)`, from `f_distill_weight`.
      dmd_normalise: also divide g by the mean absolute difference of x0 and
        d_teacher over each sample's entries, which evens out the noise levels (DMD).

    Returns:
      A scalar, the mean over the batch of the sum over a sample's entries.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes of `x0`, `d_teacher`, `d_fake` differ, or `weight` is not
        of shape `(B,)`.

    Differentiable in `x0` only, once: all else is a constant (stop_gradient).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> x0, weight = jnp.zeros((2, 1)), jnp.array([1.0, 3.0])
      >>> loss = lambda x0: diffusion.f_distill_loss(
      ...     x0, x0 + 1, x0 + 3, weight, dmd_normalise=False
      ... )
      >>> print(jax.grad(loss)(x0).ravel())
      [1. 3.]

    References:
      Xu, Nie and Vahdat, 2025, arXiv:2502.15681; Yin et al., 2024, arXiv:2311.18828,
      eq. (8), for the normaliser.
    """
    x0, d_teacher, d_fake, weight = _check.floating(
        x0=x0, d_teacher=d_teacher, d_fake=d_fake, weight=weight
    )
    _check.same_shape(x0=x0, d_teacher=d_teacher, d_fake=d_fake)
    check_batch(x0=x0)
    if weight.shape != x0.shape[:1]:
        raise ValueError(
            f"weight has shape {weight.shape}; expected {x0.shape[:1]}, one value for "
            f"each of the samples of shape {x0.shape}."
        )
    constant = jax.lax.stop_gradient
    if dmd_normalise:
        error = jnp.abs(x0 - d_teacher).mean(range(1, x0.ndim))
        weight = weight / (error + _TINY)
    g = constant(over_data(weight, x0) * (d_fake - d_teacher))
    # (x0 - constant(x0)) is zero: it carries the gradient g and leaves the value.
    per_entry = g * (x0 - constant(x0)) + g**2 / 2
    return per_entry.sum() / x0.shape[0]


class GanLosses(NamedTuple):
    """The two sides of the non-saturating GAN loss.

    Attributes:
      discriminator: softplus(fake) + softplus(-real), shape `(B,)`; 2 log 2 at chance.
      generator: softplus(-fake), shape `(B,)`.
    """

    discriminator: Array
    generator: Array


def gan_losses(real_logits: ArrayLike, fake_logits: ArrayLike) -> GanLosses:
    r"""Logistic losses of a discriminator and of the generator that it judges.

    .. math:: L_d = \log(1 + e^{d(fake)}) + \log(1 + e^{-d(real)}), \qquad
              L_g = \log(1 + e^{-d(fake)})

    The minimiser of L_d is :math:`d = \log p/q`, real over fake.

    Args:
      real_logits: shape `(B,)` or `(B, heads)`.
      fake_logits: shaped as `real_logits`.

    Returns:
      `GanLosses`, averaged over the heads.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes differ, or there is no batch axis.

    Differentiable in both arguments, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> chance = diffusion.gan_losses(jnp.zeros(1), jnp.zeros(1))
      >>> print(chance.discriminator.round(4), chance.generator.round(4))
      [1.3863] [0.6931]

    References:
      Goodfellow et al., 2014, arXiv:1406.2661.
    """
    real, fake = _check.floating(real_logits=real_logits, fake_logits=fake_logits)
    _check.same_shape(real_logits=real, fake_logits=fake)
    check_batch(real_logits=real)
    softplus = jax.nn.softplus
    return GanLosses(over_heads(softplus(fake) + softplus(-real)), generator_loss(fake))


def generator_loss(fake_logits: Array) -> Array:
    """The generator's side alone, shape `(B,)`."""
    return over_heads(jax.nn.softplus(-fake_logits))
