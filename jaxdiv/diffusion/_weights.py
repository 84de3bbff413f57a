"""Weights of superposed models: a mixture of them (OR), or equal densities (AND)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.diffusion._increment import check_per_sample, flat, flat_drift, inner
from jaxdiv.typing import Array, ArrayLike


def or_weights(
    logq: ArrayLike, temperature: ArrayLike = 1.0, bias: ArrayLike = 0.0
) -> Array:
    r"""Weights of the models whose superposition samples their mixture.

    .. math:: \kappa = \mathrm{softmax}(T\,\log q + \ell)

    With T = 1 the score of :math:`\sum_j e^{\ell_j} q_j / \sum_j e^{\ell_j}` is
    :math:`\sum_j\kappa_j s_j`, exactly. Only differences of log q matter.

    Args:
      logq: log-densities, shape `(..., M)`, models last.
      temperature: T >= 0, which broadcasts to `logq`; `inf` takes the limit, the
        densest model alone, and models of equal density share by their bias.
      bias: log-weights of the models; broadcasts to `logq`.

    Returns:
      Weights of shape `(..., M)` that sum to 1; NaN where `logq` holds a NaN.

    Raises:
      TypeError: `logq` or `bias` is not of a floating dtype.
      ValueError: `logq` has no axis, the shapes do not fit, or T is negative.

    Differentiable in all arguments, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> bias = jnp.array([0.5, 0.0])
      >>> first, second = diffusion.or_weights(jnp.array([0.0, 2.0]), 1.0, bias)
      >>> print(f"{first:.4f} {second:.4f}")
      0.1824 0.8176

    References:
      Skreta et al., 2025, arXiv:2412.17762, algorithm 1.
    """
    logq, bias = _check.floating(logq=logq, bias=bias)
    _check.in_range(0.0, closed=True, temperature=temperature)
    if logq.ndim == 0:
        raise ValueError("logq is a scalar; expected shape (..., M), models last.")
    sharpness = jnp.asarray(temperature, logq.dtype)
    _check.broadcastable(logq=logq, bias=bias, temperature=sharpness)
    gap = logq - jax.lax.stop_gradient(jnp.max(logq, -1, keepdims=True))
    hard = jnp.isinf(sharpness)
    smooth = jnp.where(hard, 1, sharpness) * gap
    limit = jnp.where(gap == 0, 0, -jnp.inf)
    return jax.nn.softmax(jnp.where(hard, limit, smooth) + bias, -1)


def and_weights(
    scores: ArrayLike,
    eps: ArrayLike,
    dt: ArrayLike,
    g2: ArrayLike,
    drift: ArrayLike,
    div_drift: ArrayLike,
    offsets: ArrayLike | None = None,
) -> Array:
    r"""Weights under which a random step adds the same to every log-density.

    What it adds is `ito_log_density_increment`. With the noise drawn first,
    :math:`\kappa` and the common increment :math:`\lambda` solve, for i = 1, ..., M,

    .. math:: g^2 dt \sum_j \langle s_i, s_j\rangle\kappa_j - \lambda = b_i
              - g\sqrt{dt}\,\langle\varepsilon, s_i\rangle
              - dt\,(\nabla\!\cdot\! f - \tfrac12 g^2|s_i|^2), \qquad
              \sum_j\kappa_j = 1

    It is the least-norm solution, in least squares where there is none: M models in
    fewer than M - 1 dimensions. Scores that are equal up to rounding give 1/M. The
    weights are of order dt^(-1/2), of either sign, and must not be clipped; `and_step`
    takes the same step without them, and loses no digits.

    Args:
      scores: scores of the models, shape `(M, B, ...)`, or `(M, d)` for one sample.
      eps: the standard normal noise of the step, shaped as one score.
      dt: length of the step, positive; a scalar or `(B,)`.
      g2: squared diffusion coefficient, positive, a scalar or `(B,)`.
      drift: forward drift f, which broadcasts to `eps`; it cancels in the weights.
      div_drift: its divergence, a scalar or `(B,)`; it cancels too.
      offsets: b, what each log-density shall gain beyond the common increment;
        broadcasts to `(B, M)`. Only differences matter. None is 0.

    Returns:
      Weights of shape `(B, M)`, or `(M,)` for one sample.

    Raises:
      TypeError: an argument is not of a floating dtype.
      ValueError: the shapes do not fit, or `dt` or `g2` is not positive.

    Differentiable in all arguments, in every mode and order; where the differences of
    the scores are linearly dependent their directions count as constant.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> scores, eps = jnp.eye(2)[:, None], jnp.array([[0.3, -0.2]])
      >>> weights = diffusion.and_weights(scores, eps, 0.01, 2.0, 0.0, 0.0)
      >>> print(f"{weights[0, 0]:.4f} {weights[0, 1]:.4f}")
      -1.2678 2.2678

    References:
      Skreta et al., 2025, arXiv:2412.17762, algorithm 1.
    """
    step = _check_step(scores, eps, dt, g2, drift, div_drift, offsets)
    spread, scale = _spread(step.scores), (step.g2 * step.dt)[..., None]
    wanted = _wanted(step, spread, scale) / scale
    return 1 / len(step.scores) + _least_norm(spread, wanted)


def and_step(
    scores: ArrayLike,
    eps: ArrayLike,
    dt: ArrayLike,
    g2: ArrayLike,
    drift: ArrayLike,
    div_drift: ArrayLike,
    offsets: ArrayLike | None = None,
) -> Array:
    r"""The random step that adds the same to every log-density.

    It is the step of the averaged score, with the noise projected off the span of the
    differences of the scores, and one term within the span. For two models, with
    :math:`\Delta = s_1 - s_2` and :math:`b = b_1 - b_2`,

    .. math:: dx = \Bigl(-f + g^2\,\frac{s_1 + s_2}{2}\Bigr)dt + g\sqrt{dt}\,\Bigl(
              \varepsilon - \frac{\langle\Delta,\varepsilon\rangle}{|\Delta|^2}\Delta
              \Bigr) + \frac{b}{|\Delta|^2}\Delta

    This equals the step with the weights of `and_weights`, but divides by no root of
    dt. Where scores are equal up to rounding nothing is projected.

    The Ito estimator takes the noise for whole. With P the projection on the span, the
    part that is left out would have added
    :math:`\tfrac12 g^2 dt\,\mathrm{tr}(P\,\nabla s_i)`: the true log-densities move
    apart where their curvatures differ, unless these terms are given as offsets, which
    `sample_superposition` does.

    Args:
      scores: scores of the models, shape `(M, B, ...)`, or `(M, d)` for one sample.
      eps: the standard normal noise of the step, shaped as one score.
      dt: length of the step, positive; a scalar or `(B,)`.
      g2: squared diffusion coefficient, positive, a scalar or `(B,)`.
      drift: forward drift f; broadcasts to `eps`.
      div_drift: its divergence, a scalar or `(B,)`; it moves no sample.
      offsets: b, what each log-density shall gain beyond the common increment;
        broadcasts to `(B, M)`. None is 0.

    Returns:
      The step dx, shaped as `eps`.

    Raises:
      TypeError: an argument is not of a floating dtype.
      ValueError: the shapes do not fit, or `dt` or `g2` is not positive.

    Differentiable in all arguments, in every mode and order; where the differences of
    the scores are linearly dependent their directions count as constant.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import diffusion
      >>> scores, eps = jnp.eye(2)[:, None], jnp.array([[0.3, -0.2]])
      >>> dx = diffusion.and_step(scores, eps, 0.01, 2.0, 0.0, 0.0)
      >>> print(f"{dx[0, 0]:.5f} {dx[0, 1]:.5f}")
      0.01707 0.01707

    References:
      Skreta et al., 2025, arXiv:2412.17762, algorithm 1, rearranged.
    """
    step = _check_step(scores, eps, dt, g2, drift, div_drift, offsets)
    spread, scale = _spread(step.scores), (step.g2 * step.dt)[..., None]
    within = _least_norm(spread, _wanted(step, spread, scale))
    dx = scale * spread.mean - step.dt[..., None] * step.drift
    dx += jnp.sqrt(scale) * step.eps
    dx += jnp.einsum("...i,...id->...d", within, spread.parts, precision="highest")
    return dx.reshape(jnp.shape(eps))


def ode_and_weights(
    scores: Array, div_scores: Array, g2: Array, offsets: Array
) -> Array:
    """Weights under which the probability flow keeps all log-densities in step.

    Args:
      scores: scores, shape `(M, B, ...)`.
      div_scores: their divergences, `(B, M)`.
      g2: squared diffusion coefficient, a scalar.
      offsets: what each log-density shall gain in a unit of time, `(B, M)`.
    """
    spread = _spread(jax.vmap(flat)(scores))
    own = div_scores + jnp.sum(spread.parts**2, -1) + 2 * offsets / g2
    wanted = _centred(own, -1) + _project(spread.parts, spread.mean)
    return 1 / len(scores) + _least_norm(spread, wanted)


def span_curvature(scores: Array, push: Callable[[Array], Array]) -> Array:
    r"""Curvature of each log-density within the span that `and_step` keeps still.

    It is :math:`\mathrm{tr}(P\,\nabla s_i)`, with P the projection on the span.

    Args:
      scores: scores, shape `(M, B, ...)`, of two models or more.
      push: derivative of all scores along a direction of shape `(B, ...)`.

    Returns:
      Array of shape `(B, M)`.
    """
    spread = _spread(jax.vmap(flat)(scores))
    parts = jnp.moveaxis(spread.parts, -2, 0)
    rest = jax.vmap(push)(parts[1:].reshape(len(scores) - 1, *scores.shape[1:]))
    along = jnp.concatenate([-jnp.sum(rest, 0, keepdims=True), rest])
    along = along.reshape(len(scores), *parts.shape)  # part, model, sample, entry
    products = jnp.einsum("kmbd,jbd->mkbj", along, parts, precision="highest")
    solved = jax.vmap(jax.vmap(partial(_least_norm, spread)))(products)
    return jnp.einsum("mkbk->bm", solved)


class _Step(NamedTuple):
    """The arguments of `and_step` in one dtype, scores and samples flattened."""

    scores: Array
    eps: Array
    dt: Array
    g2: Array
    drift: Array
    offsets: Array


class _Spread(NamedTuple):
    """Scores as their mean and what each adds to it.

    Attributes:
      mean: shape `(..., D)`.
      parts: shape `(..., M, D)`; they sum to zero over M.
      gram: inner products of the parts, `(..., M, M)`.
      floor: what the rounding of the scores may leave in a Gram matrix, `(...)`.
    """

    mean: Array
    parts: Array
    gram: Array
    floor: Array


def _check_step(
    scores: ArrayLike,
    eps: ArrayLike,
    dt: ArrayLike,
    g2: ArrayLike,
    drift: ArrayLike,
    div_drift: ArrayLike,
    offsets: ArrayLike | None,
) -> _Step:
    scores, eps, dt, g2, drift, div_drift, b = _check.floating(
        scores=scores,
        eps=eps,
        dt=dt,
        g2=g2,
        drift=drift,
        div_drift=div_drift,
        offsets=0.0 if offsets is None else offsets,
    )
    if eps.ndim == 0 or scores.shape[1:] != eps.shape or not len(scores):
        raise ValueError(
            f"scores has shape {scores.shape} and eps {eps.shape}; expected "
            "(M, B, ...) and (B, ...) with one score or more."
        )
    _check.positive(dt=dt, g2=g2)
    samples = flat(eps)
    batch = samples.shape[:-1]
    check_per_sample(batch, dt=dt, g2=g2, div_drift=div_drift)
    try:
        b = jnp.broadcast_to(b, (*batch, len(scores)))
    except ValueError as error:
        raise ValueError(
            f"offsets has shape {b.shape}; expected one that broadcasts to "
            f"{(*batch, len(scores))}, models last."
        ) from error
    f = flat_drift(drift, eps.shape)
    return _Step(jax.vmap(flat)(scores), samples, dt, g2, f, b)


def _centred(x: Array, axis: int) -> Array:
    return x - jnp.mean(x, axis, keepdims=True)


def _spread(scores: Array) -> _Spread:
    # Differences first: of equal scores they are 0 without rounding.
    parts = jnp.moveaxis(_centred(scores - scores[:1], 0), 0, -2)
    gram = jnp.einsum("...id,...jd->...ij", parts, parts, precision="highest")
    rounding = 8 * jnp.finfo(scores.dtype).eps
    size = jnp.sum(jax.lax.stop_gradient(scores) ** 2, (0, -1))
    return _Spread(jnp.mean(scores, 0), parts, gram, rounding**2 * size)


def _project(parts: Array, x: Array) -> Array:
    """Inner products of `x`, shape `(..., D)`, with every part."""
    return inner(parts, x[..., None, :])


def _wanted(step: _Step, spread: _Spread, scale: Array) -> Array:
    """What a multiple of each part must bring to the products with all parts.

    `scale` is g^2 dt. The averaged step brings a noise of its own, and to a model far
    from the mean too little: its |s_i|^2 is larger.
    """
    squares = jnp.sum(spread.parts**2, -1)
    noise = jnp.sqrt(scale) * _project(spread.parts, step.eps)
    return _centred(step.offsets + scale / 2 * squares, -1) - noise


def _least_norm(spread: _Spread, b: Array) -> Array:
    """The smallest x with gram x = b, in least squares; both sum to zero."""
    gram = spread.gram
    if gram.shape[-1] == 2:  # the one eigenvalue that is not 0 is the trace
        trace = jnp.trace(gram, axis1=-2, axis2=-1)[..., None]
        known = ~(trace <= spread.floor[..., None])  # true of NaN, so that it stays
        return jnp.where(known, b / jnp.where(known, trace, 1), 0)
    return jax.lax.custom_linear_solve(
        lambda x: jnp.einsum("...ij,...j->...i", gram, x, precision="highest"),
        b,
        lambda _, b: _pseudo_solve(gram, spread.floor, b),
        symmetric=True,
    )


def _pseudo_solve(gram: Array, floor: Array, b: Array) -> Array:
    values, vectors = jnp.linalg.eigh(gram)
    rounding = gram.shape[-1] * jnp.finfo(gram.dtype).eps * values[..., -1:]
    known = ~(values <= jnp.maximum(rounding, floor[..., None]))
    inside = inner(jnp.swapaxes(vectors, -1, -2), b[..., None, :])
    inside = jnp.where(known, inside / jnp.where(known, values, 1), 0)
    return inner(vectors, inside[..., None, :])
