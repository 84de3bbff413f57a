r"""The student's loss of the expanded family (Uni-Instruct), term by term.

All in the coordinates :math:`x_t = x_0 + \sigma\varepsilon`: for a law with another
alpha pass :math:`x_t/\alpha` and :math:`\sigma/\alpha`.
"""

from collections.abc import Collection

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.diffusion._distill import check_batch, weighted_record
from jaxdiv.diffusion._expansion import UniWeights, uni_weights
from jaxdiv.diffusion._noise import over_data
from jaxdiv.divergence import FDivergence
from jaxdiv.typing import Array, ArrayLike

TERMS = ("sim", "fgm", "di")
_SMALLEST_ERROR = 1e-5  # of the published code: keeps x_0 = D_teacher finite


def check_switches(
    terms: Collection[str], omega: str | None, distance: str = "l2"
) -> None:
    """Raises ValueError where a switch of the loss is unknown."""
    if not terms:
        raise ValueError(f"terms is empty; expected some of {', '.join(TERMS)}.")
    for term in terms:
        _check.one_of("terms", term, TERMS)
    if omega is not None:
        _check.one_of("omega", omega, ("abs", "sigma4"))
    _check.one_of("distance", distance, ("l2", "pseudo_huber"))


def _dot(x: Array, y: Array) -> Array:
    """The inner product of two samples, one value each."""
    return jnp.sum(x * y, range(1, x.ndim))


def divisor(omega: str | None, sigma: Array, x0: Array, d_teacher: Array) -> Array:
    """What the loss of a sample is divided by."""
    if omega == "abs":
        error = jnp.abs(x0 - d_teacher).mean(range(1, x0.ndim))
        return jax.lax.stop_gradient(jnp.maximum(error, _SMALLEST_ERROR))
    return sigma**4 if omega == "sigma4" else jnp.ones_like(sigma)


def _slope(gap: Array, distance: str, huber_c: float | None) -> Array:
    """The derivative of the distance at the difference of the denoisers."""
    if distance == "l2":
        return 2 * gap
    size = gap[0].size
    c = 0.00054 * size**0.5 if huber_c is None else huber_c
    return gap / over_data(jnp.sqrt(_dot(gap, gap) + c**2), gap)


def expanded_loss(
    x0: ArrayLike,
    xt: ArrayLike,
    sigma: ArrayLike,
    d_teacher: ArrayLike,
    d_fake: ArrayLike,
    weights: UniWeights,
    *,
    terms: Collection[str],
    omega: str | None,
    sid_alpha: float = 1.0,
    distance: str = "l2",
    huber_c: float | None = None,
) -> Array:
    """`uni_instruct_loss` with given weights, SiD's alpha and SIM's distance."""
    check_switches(terms, omega, distance)
    x0, xt, sigma, d_teacher, d_fake = _check.floating(
        x0=x0, xt=xt, sigma=sigma, d_teacher=d_teacher, d_fake=d_fake
    )
    _check.same_shape(x0=x0, xt=xt, d_teacher=d_teacher, d_fake=d_fake)
    check_batch(x0=x0)
    _check.positive(sigma=sigma)
    if sigma.shape not in ((), x0.shape[:1]):
        raise ValueError(
            f"sigma has shape {sigma.shape}; expected a scalar or {x0.shape[:1]}, one "
            "value for each of the samples."
        )
    sigma = jnp.where(sigma > 0, sigma, jnp.nan)
    weights = jax.tree.map(lambda w: w.astype(x0.dtype), weights)
    gap, constant = d_teacher - d_fake, jax.lax.stop_gradient
    loss = jnp.zeros(x0.shape[:1], x0.dtype)
    if "sim" in terms:
        loss += weights.h * _dot(_slope(gap, distance, huber_c), d_fake - x0)
        if sid_alpha != 1:
            loss += 2 * (1 - sid_alpha) * weights.h * _dot(gap, gap)
    if "fgm" in terms:
        loss += constant(weights.c_fgm) * _dot(gap, gap)
    if "di" in terms:
        push = constant(over_data(_dot(gap, gap) / sigma**2, gap) * gap)
        loss += constant(weights.c_di) * _dot(push, xt)
    return jnp.mean(loss / divisor(omega, sigma, x0, d_teacher))


def uni_instruct_loss(
    x0: ArrayLike,
    xt: ArrayLike,
    sigma: ArrayLike,
    d_teacher: ArrayLike,
    d_fake: ArrayLike,
    log_ratio: ArrayLike | None,
    *,
    f: str | FDivergence,
    terms: Collection[str] = TERMS,
    omega: str | None = "abs",
    h_through: bool = False,
) -> Array:
    r"""Pseudo-loss of the expanded f-divergence, in up to three terms.

    .. math::
      L = \frac1B \sum_i \frac{1}{\omega_i}\Big[
          \underbrace{2 h\,(D_p - D_q)^\top (D_q - x_0)}_{sim}
        + \underbrace{c_{fgm}\,\|D_p - D_q\|^2}_{fgm}
        + \underbrace{c_{di}\,\|D_p - D_q\|^2 (D_p - D_q)^\top x_t/\sigma^2}_{di}
        \Big]

    with the weights of `uni_weights`. With all terms, `h_through` and
    ``omega="sigma4"`` its gradient along the student's samples is that of
    :math:`E_{q_\sigma}[h(r)\,\|s_p - s_q\|^2]`, whose integral over
    :math:`\sigma\,d\sigma` is the divergence (see `diffusion_expansion`). What others
    publish are corners: `sid_loss`, `sim_loss`, and SiDA, which is `sid_loss` with a
    GAN loss added (`gan_losses`).

    The denoisers must be called at x_t with the graph left open: the gradient flows
    from x_0 through x_t into both. Their parameters, and those of the log-ratio, are
    constants for the student.

    Args:
      x0: the student's samples, shape `(B, ...)`.
      xt: the same noised, :math:`x_0 + \sigma\varepsilon`.
      sigma: noise levels, shape `(B,)` or a scalar.
      d_teacher: D_p, the teacher's denoised x_t.
      d_fake: D_q, the same of the denoiser of the student's law.
      log_ratio: log p/q at x_t, shape `(B,)`; None for `reverse_kl`, which needs none.
      f: a key or alias of `jaxdiv.divergence.get`, or a record that it returned.
      terms: which of the terms, some of `"sim"`, `"fgm"`, `"di"`. Published are
        `("sim",)`; `"di"` has a high variance.
      omega: the divisor of a sample. `"abs"` is its mean absolute error
        :math:`|x_0 - D_p|`, at least 1e-5, a constant; `"sigma4"` is sigma^4, that of
        scores; None is 1.
      h_through: let the gradient flow into `log_ratio` and on through x_t, in the
        term `sim`. False is published; where the student does more than move its
        samples by a constant, it biases all but `reverse_kl`.

    Returns:
      A scalar, the mean over the batch of the sum over a sample's entries; NaN where
      a log-ratio is NaN or a traced sigma not positive.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, a switch or the divergence is unknown, `terms`
        is empty, `sigma` is not positive, or `log_ratio` is None for another
        divergence than `reverse_kl`.

    Differentiable once in `x0`, `d_teacher`, `d_fake`, in `xt` where `"di"` is among
    the terms, in `log_ratio` with `h_through`; the weights of `fgm`, all but x_t in
    `di`, and `"abs"` are constants (stop_gradient).

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> eps = jax.random.normal(jax.random.key(0), (4, 2))
      >>> def loss(mean):  # teacher N(0, 1), student N(mean, 1), its fake at mean 0.5
      ...     x0 = mean + jnp.zeros((4, 2))
      ...     xt = x0 + eps
      ...     return diffusion.uni_instruct_loss(
      ...         x0, xt, 1.0, xt / 2, (xt + 0.5) / 2, None, f="reverse_kl"
      ...     )
      >>> print(bool(jax.grad(loss)(0.5) > 0))
      True

    References:
      Wang et al., 2025, arXiv:2505.20755.
    """
    record = weighted_record(f)
    if log_ratio is not None:
        (log_ratio,) = _check.floating(log_ratio=log_ratio)
        if log_ratio.shape != jnp.shape(x0)[:1]:
            raise ValueError(
                f"log_ratio has shape {log_ratio.shape}; expected "
                f"{jnp.shape(x0)[:1]}, one value for each of the samples."
            )
        if not h_through:
            log_ratio = jax.lax.stop_gradient(log_ratio)
    elif record.name != "reverse_kl":
        raise ValueError(
            f"log_ratio is None; expected an array: the weights of {record.name!r} "
            "depend on it, only those of 'reverse_kl' do not."
        )
    weights = uni_weights(record, 0.0 if log_ratio is None else log_ratio)
    return expanded_loss(
        x0, xt, sigma, d_teacher, d_fake, weights, terms=terms, omega=omega
    )
