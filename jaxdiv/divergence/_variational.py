r"""Variational lower bounds of divergences, from a critic's values at samples."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.divergence._categorical import parts
from jaxdiv.divergence._estimate import along_q, at_samples
from jaxdiv.divergence._generators import FDivergence, as_record
from jaxdiv.typing import Array, ArrayLike


def nwj(
    tp: ArrayLike,
    tq: ArrayLike,
    div: str | FDivergence,
    *,
    critic: Literal["dual", "log_ratio"] = "dual",
) -> Array:
    r"""Variational lower bound of an f-divergence (NWJ, f-GAN), from a critic's values.

    .. math:: D_f(p\|q) \ge E_p\,T - E_q f^*(T)

    with equality at :math:`T = f'(p/q)`. A critic v that estimates log p/q gives
    :math:`T = f'(e^v)`, which is in the domain of :math:`f^*` whatever v is, and
    :math:`f^*(T) = e^v f'(e^v) - f(e^v)`, for which no closed conjugate is needed.

    Args:
      tp: critic at samples of p, `[..., n]`.
      tq: critic at samples of q, `[..., m]`; the leading axes broadcast.
      div: a name that `get` knows without a parameter, or a record.
      critic: "dual" when `tp` and `tq` are values of T, "log_ratio" when they are
        values of v.

    Returns:
      The bound, `[...]`; `-inf` where a value of T leaves the domain of the conjugate.

    Raises:
      TypeError: an input is not of a floating dtype, or `div` is no divergence.
      ValueError: an input is a scalar, `critic` is unknown, or it is "dual" and the
        conjugate of `div` has no closed form.

    Differentiable in `tp` and `tq`, in every mode and order, where the value is finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> log_ratio = jnp.array([0.2, -0.1]), jnp.array([-0.3, 0.1])
      >>> print(f"{divergence.nwj(*log_ratio, 'js', critic='log_ratio'):.4f}")
      0.0328

    References:
      Nguyen, Wainwright and Jordan, 2010, arXiv:0809.0853; Nowozin et al., 2016,
      arXiv:1606.00709.
    """
    _check.one_of("critic", critic, ("dual", "log_ratio"))
    tp, tq = _samples(tp, tq)
    div = as_record(div)
    if critic == "log_ratio":
        return jnp.mean(div.f_prime(tp), -1) - jnp.mean(_conjugate_of(div, tq), -1)
    if div.conjugate is None:
        raise ValueError(
            f"critic is 'dual', but the conjugate of {div.name} has no closed form; "
            "expected 'log_ratio'."
        )
    return jnp.mean(tp, -1) - jnp.mean(div.conjugate(tq), -1)


def _conjugate_of(div: FDivergence, log_ratio: Array) -> Array:
    """f*(f'(r)) = r f'(r) - f(r)."""
    terms, (low, _) = parts(div)
    # The terms are homogeneous: scaling p and q by exp(-shift) keeps r f' - f finite
    # where f(r) is not.
    shift = jax.lax.stop_gradient(jnp.clip(log_ratio, 0, 80)) / 2
    slope = at_samples(along_q(terms), (-low, 0.0), log_ratio, -shift)
    return jnp.exp(shift) * slope + div.f_prime(jnp.zeros_like(log_ratio))


def donsker_varadhan(
    tp: ArrayLike, tq: ArrayLike, *, log_normalizer: ArrayLike | None = None
) -> Array:
    r"""Donsker-Varadhan lower bound of KL(p||q), from a critic's values.

    .. math:: D(p\|q) \ge E_p\,T - \log E_q e^T

    with equality at T = log p/q + constant. The logarithm of a sample mean makes both
    the value and its gradient biased. The gradient is mended by a running estimate of
    the mean, kept over many batches.

    Args:
      tp: critic at samples of p, `[..., n]`.
      tq: critic at samples of q, `[..., m]`; the leading axes broadcast.
      log_normalizer: a running log E_q exp(T), `[...]`. It leaves the value alone and
        makes the gradient of its second term that of mean(exp(tq - log_normalizer)),
        as MINE does. None: plain gradient.

    Returns:
      The bound, `[...]`, in nats.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: an input is a scalar, or the shapes do not broadcast.

    Differentiable in `tp` and `tq`, in every mode and order, and to first order with
    a `log_normalizer`, which itself is a constant.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> tp, tq = jnp.array([0.9, 1.1]), jnp.array([0.0, 0.4])
      >>> bound = divergence.donsker_varadhan(tp, tq)
      >>> print(f"{bound:.4f}")
      0.7801

    References:
      Donsker and Varadhan, 1983; Belghazi et al., 2018, arXiv:1801.04062, eq. (12).
    """
    tp, tq = _samples(tp, tq)
    second = jax.nn.logsumexp(tq, -1) - jnp.log(tq.shape[-1])
    if log_normalizer is not None:
        (running,) = _check.floating(log_normalizer=log_normalizer)
        running = running.astype(second.dtype)
        _check.broadcastable(log_normalizer=running, tq=second)
        scale = jax.lax.stop_gradient(jnp.exp(second - running))
        second += (scale - 1) * (second - jax.lax.stop_gradient(second))
    return jnp.mean(tp, -1) - second


def _samples(tp: ArrayLike, tq: ArrayLike) -> tuple[Array, Array]:
    tp, tq = _check.floating(tp=tp, tq=tq)
    for name, x in (("tp", tp), ("tq", tq)):
        if not x.ndim or not x.shape[-1]:
            raise ValueError(f"{name} has shape {x.shape}; expected samples, [..., n].")
    _check.broadcastable(tp=tp[..., 0], tq=tq[..., 0])
    return tp, tq
