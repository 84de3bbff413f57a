"""Published distillation losses under their names: corners of the two families."""

import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.diffusion._distill import f_distill_loss
from jaxdiv.diffusion._expansion import uni_weights
from jaxdiv.diffusion._uni_instruct import expanded_loss
from jaxdiv.typing import Array, ArrayLike


def sid_loss(
    x0: ArrayLike,
    xt: ArrayLike,
    sigma: ArrayLike,
    d_teacher: ArrayLike,
    d_fake: ArrayLike,
    *,
    alpha: float = 1.0,
    omega: str | None = "abs",
) -> Array:
    r"""Score identity distillation (SiD), the expanded `reverse_kl` with a knob.

    .. math:: L_\alpha = \frac1B\sum_i \frac{1}{\omega_i}\left[
              (D_p - D_q)^\top (D_p - x_0) - \alpha\,\|D_p - D_q\|^2\right]

    Half of `uni_instruct_loss` with `reverse_kl`: at alpha = 1 with the term `sim`, at
    alpha = 1/2, where the gradient is exact, with `sim` and `fgm`. Published are 1 and
    1.2. SiDA is this plus a weighted ``gan_losses(...).generator``.

    Args:
      x0: the student's samples, shape `(B, ...)`.
      xt: the same noised; only its shape matters here, the denoisers have seen it.
      sigma: noise levels, shape `(B,)` or a scalar.
      d_teacher: D_p, the teacher's denoised x_t, with the graph open to x_0.
      d_fake: D_q, the same of the fake denoiser.
      alpha: any finite number.
      omega: the divisor of a sample, `"abs"`, `"sigma4"` or None; see
        `uni_instruct_loss`.

    Returns:
      A scalar.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, `omega` is unknown, `alpha` is not finite, or
        `sigma` not positive.

    Differentiable in `x0`, `d_teacher` and `d_fake`; the divisor `"abs"` is a constant.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> x = jnp.zeros((1, 2))
      >>> print(diffusion.sid_loss(x, x, 1.0, x + 1, x + 3, alpha=1.2, omega=None))
      -13.6

    References:
      Zhou et al., 2024, arXiv:2404.04057, eq. (23); arXiv:2410.14919 for SiDA.
    """
    _check.in_range(alpha=alpha)
    double = expanded_loss(
        x0,
        xt,
        sigma,
        d_teacher,
        d_fake,
        uni_weights("reverse_kl", 0.0),
        terms=("sim",),
        omega=omega,
        sid_alpha=alpha,
    )
    return double / 2


def sim_loss(
    x0: ArrayLike,
    xt: ArrayLike,
    sigma: ArrayLike,
    d_teacher: ArrayLike,
    d_fake: ArrayLike,
    *,
    distance: str = "l2",
    omega: str | None = "abs",
    huber_c: float | None = None,
) -> Array:
    r"""Score implicit matching (SIM): any distance of the two denoisers.

    .. math:: L = \frac1B\sum_i \frac{1}{\omega_i}\,
              \nabla\ell(D_p - D_q)^\top (D_q - x_0), \qquad
              \ell_2(y) = \|y\|^2, \quad \ell_H(y) = \sqrt{\|y\|^2 + c^2} - c

    Its gradient is that of :math:`E[\ell(D_p - D_q)/\omega]` through the student's
    score alone, the points being held. With `"l2"` it is `uni_instruct_loss` of
    `reverse_kl` with the term `sim`, twice `sid_loss` at alpha = 1. The pseudo-Huber
    distance weighs a sample by its own error; take ``omega=None`` with it.

    Args:
      x0: the student's samples, shape `(B, ...)`.
      xt: the same noised; only its shape matters here, the denoisers have seen it.
      sigma: noise levels, shape `(B,)` or a scalar.
      d_teacher: D_p, the teacher's denoised x_t, with the graph open to x_0.
      d_fake: D_q, the same of the fake denoiser.
      distance: `"l2"` or `"pseudo_huber"`.
      omega: the divisor of a sample, `"abs"`, `"sigma4"` or None; see
        `uni_instruct_loss`.
      huber_c: the constant c; None is 0.00054 times the root of a sample's number of
        entries, as in consistency training.

    Returns:
      A scalar.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, `distance` or `omega` is unknown, or `sigma`
        or `huber_c` not positive.

    Differentiable in `x0`, `d_teacher` and `d_fake`; the divisor `"abs"` is a constant.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> x = jnp.zeros((1, 2))
      >>> args = x, x, 1.0, x + 1, x + 3
      >>> print(diffusion.sim_loss(*args, omega=None))
      -24.0
      >>> print(diffusion.sim_loss(*args, distance="pseudo_huber", omega=None).round(2))
      -4.24

    References:
      Luo et al., 2024, arXiv:2410.16794; Song and Dhariwal, 2023, arXiv:2310.14189,
      for the constant.
    """
    if huber_c is not None:
        _check.positive(huber_c=huber_c)
    return expanded_loss(
        x0,
        xt,
        sigma,
        d_teacher,
        d_fake,
        uni_weights("reverse_kl", 0.0),
        terms=("sim",),
        omega=omega,
        distance=distance,
        huber_c=huber_c,
    )


def diff_instruct_loss(
    x0: ArrayLike,
    d_teacher: ArrayLike,
    d_fake: ArrayLike,
    weight: ArrayLike | None = None,
) -> Array:
    r"""Diff-Instruct: `f_distill_loss` of `reverse_kl`, the integral KL divergence.

    .. math:: \nabla_{x_{0,i}} L = \frac{w_i}{B}\,(D_{fake} - D_{teacher})_i

    The integral of KL(q||p) over noise levels is, up to the weighting of levels, the
    integral of squared score distances that `sim_loss` and `sid_loss` descend: with
    :math:`W(t) = \int_0^t w`,

    .. math:: \int_0^T w\,KL(q_t\|p_t)\,dt = \int_0^T \tfrac{g^2}{2} W\,
              E_{q_t}\|s_p - s_q\|^2\,dt + W(T)\,KL(q_T\|p_T)

    The two families differ as estimators: this one calls both denoisers without a
    gradient, and saves their backward passes.

    Args:
      x0: the student's samples, shape `(B, ...)`.
      d_teacher: the teacher's denoised noised samples, shaped as `x0`.
      d_fake: the same of the fake denoiser.
      weight: weighting of the noise levels, shape `(B,)`; None is 1.

    Returns:
      A scalar.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit.

    Differentiable in `x0` only, once: all else is a constant (stop_gradient).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> x0 = jnp.zeros((2, 1))
      >>> print(jax.grad(diffusion.diff_instruct_loss)(x0, x0 + 1, x0 + 3).ravel())
      [1. 1.]

    References:
      Luo et al., 2023, arXiv:2305.18455.
    """
    return _unit_weight_loss(x0, d_teacher, d_fake, weight, dmd_normalise=False)


def dmd_loss(
    x0: ArrayLike,
    d_teacher: ArrayLike,
    d_fake: ArrayLike,
    weight: ArrayLike | None = None,
) -> Array:
    r"""Distribution matching distillation: Diff-Instruct with a normaliser.

    .. math:: \nabla_{x_{0,i}} L = \frac{w_i}{B}\,
              \frac{(D_{fake} - D_{teacher})_i}{\mathrm{mean}|x_0 - D_{teacher}|_i}

    DMD adds a regression on the teacher's own samples, DMD2 a GAN loss (`gan_losses`).

    Args:
      x0: the student's samples, shape `(B, ...)`.
      d_teacher: the teacher's denoised noised samples, shaped as `x0`.
      d_fake: the same of the fake denoiser.
      weight: weighting of the noise levels, shape `(B,)`; None is 1.

    Returns:
      A scalar.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit.

    Differentiable in `x0` only, once: all else is a constant (stop_gradient).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> x0 = jnp.zeros((2, 1))
      >>> print(jax.grad(diffusion.dmd_loss)(x0, x0 + 4, x0 + 6).ravel())
      [0.24999994 0.24999994]

    References:
      Yin et al., 2024, arXiv:2311.18828, eqs. (7) and (8); arXiv:2405.14867 (DMD2).
    """
    return _unit_weight_loss(x0, d_teacher, d_fake, weight, dmd_normalise=True)


def vsd_loss(
    x0: ArrayLike,
    d_teacher: ArrayLike,
    d_fake: ArrayLike,
    weight: ArrayLike | None = None,
) -> Array:
    r"""Variational score distillation: Diff-Instruct on the views of particles.

    .. math:: \nabla_{\theta_i} L = \frac{w_i}{B}\,(D_{fake} - D_{teacher})_i^\top\,
              \frac{\partial g(\theta_i)}{\partial\theta_i}

    Here the samples :math:`x_0 = g(\theta_i)` are views (renders) of particles that
    are themselves optimised; the fake denoiser has learned the law of their views.

    Args:
      x0: the views, shape `(B, ...)`.
      d_teacher: the teacher's denoised noised views, shaped as `x0`.
      d_fake: the same of the fake denoiser.
      weight: weighting of the noise levels, shape `(B,)`; None is 1.

    Returns:
      A scalar, equal to `diff_instruct_loss`.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit.

    Differentiable in `x0` only, once: all else is a constant (stop_gradient).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> particle = jnp.array([0.5])
      >>> view = lambda particle: 2 * particle[None]
      >>> loss = lambda particle: diffusion.vsd_loss(
      ...     view(particle), jnp.ones((1, 1)), jnp.zeros((1, 1))
      ... )
      >>> print(jax.grad(loss)(particle))
      [-2.]

    References:
      Wang et al., 2023, arXiv:2305.16213.
    """
    return diff_instruct_loss(x0, d_teacher, d_fake, weight)


def sds_loss(
    x0: ArrayLike, d_teacher: ArrayLike, weight: ArrayLike | None = None
) -> Array:
    r"""Score distillation sampling: `vsd_loss` whose fake score is the noise itself.

    .. math:: \nabla_{x_{0,i}} L = \frac{w_i}{B}\,(x_0 - D_{teacher})_i

    The noise :math:`-\varepsilon/\sigma` is the score of a point mass, whose denoiser
    returns x_0. So every particle seeks a mode alone, and many end in the same one.

    Args:
      x0: the views, shape `(B, ...)`.
      d_teacher: the teacher's denoised noised views, shaped as `x0`.
      weight: weighting of the noise levels, shape `(B,)`; None is 1.

    Returns:
      A scalar.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit.

    Differentiable in `x0` only, once: all else is a constant (stop_gradient).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> x0 = jnp.zeros((2, 1))
      >>> print(jax.grad(diffusion.sds_loss)(x0, x0 + 3).ravel())
      [-1.5 -1.5]

    References:
      Poole et al., 2022, arXiv:2209.14988.
    """
    return vsd_loss(x0, d_teacher, x0, weight)


def _unit_weight_loss(
    x0: ArrayLike,
    d_teacher: ArrayLike,
    d_fake: ArrayLike,
    weight: ArrayLike | None,
    *,
    dmd_normalise: bool,
) -> Array:
    if weight is None:
        weight = jnp.ones(jnp.shape(x0)[:1], jnp.result_type(x0))
    return f_distill_loss(x0, d_teacher, d_fake, weight, dmd_normalise=dmd_normalise)
