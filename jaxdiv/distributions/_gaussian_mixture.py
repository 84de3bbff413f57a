"""Mixtures of Gaussians under Gaussian noise: density, score and denoiser."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import _check
from jaxdiv.typing import Array, ArrayLike, Key

_SLACK = 1e-3  # of a sum that should be 1, and of the symmetry of a matrix
_MAX_EXPONENT = 80.0  # e^80 is finite in float32; meets components of weight 0 only


class GaussianMixture(NamedTuple):
    r"""A mixture of Gaussians, and all that is known of it after noising.

    .. math:: x_0 \sim \sum_k w_k N(m_k, C_k), \qquad x = \alpha x_0 + \sigma\varepsilon
              \sim \sum_k w_k N(\alpha m_k, \alpha^2 C_k + \sigma^2 I)

    Its methods are those of an ideal teacher: `score` and `denoise` are what a network
    would learn of it. They take `x` of shape `[..., d]` and the scales `alpha`
    (default 1) and `sigma` (default 0), scalars or arrays that broadcast against the
    leading axes of `x`; without them the law is that of x_0. Full covariances are
    factored once per noise level, whatever the number of points.

    All arrays share one floating dtype, at least float32; else TypeError. Shapes that
    do not fit, a negative weight or sigma, weights whose sum is off 1 by more than
    1e-3, a variance that is not positive, a matrix that is not symmetric positive
    definite: ValueError where concrete, NaN where traced.

    Differentiable in all fields, x, alpha and sigma, in every mode and order; each
    weight is a variable of its own, and a component of weight 0 has the derivative that
    it would have if it grew.

    Attributes:
      weights: shares w of the components, shape `(k,)`; they sum to 1 and may be 0.
      means: shape `(k, d)`.
      covs: covariances C: variances of isotropic components `(k,)`, the diagonals
        `(k, d)`, or full matrices `(k, d, d)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> mixture = distributions.GaussianMixture(
      ...     jnp.array([0.3, 0.7]), jnp.array([[-1.5], [1.0]]), jnp.array([0.25, 0.49])
      ... )
      >>> x = jnp.array([0.3])
      >>> print(f"{mixture.log_prob(x, sigma=0.6):.4f}", mixture.denoise(x, 1.0, 0.6))
      -1.4363 [0.53496677]
    """

    weights: Array
    means: Array
    covs: Array

    def log_prob(
        self, x: ArrayLike, alpha: ArrayLike = 1.0, sigma: ArrayLike = 0.0
    ) -> Array:
        r"""Log-density in nats, shape `[...]`; -inf where it underflows even so."""
        return _posterior(*_proper(self, x, alpha, sigma)).log_prob

    def score(
        self, x: ArrayLike, alpha: ArrayLike = 1.0, sigma: ArrayLike = 0.0
    ) -> Array:
        r"""Gradient of the log-density in x, shape `[..., d]`.

        .. math:: s = \sum_k r_k g_k, \qquad
                  g_k = -(\alpha^2 C_k + \sigma^2 I)^{-1}(x - \alpha m_k)

        with r the posterior probabilities of the components.
        """
        return _posterior(*_proper(self, x, alpha, sigma)).score

    def denoise(
        self, x: ArrayLike, alpha: ArrayLike = 1.0, sigma: ArrayLike = 0.0
    ) -> Array:
        r"""Posterior mean of the clean sample, shape `[..., d]`.

        .. math:: E[x_0 | x] = \sum_k r_k\,(m_k - \alpha C_k g_k)

        It divides by neither scale: right at sigma = 0, and at alpha = 0.
        """
        mixture, x, alpha, sigma = _proper(self, x, alpha, sigma)
        at_x = _posterior(mixture, x, alpha, sigma)
        pull = _product(mixture.covs)(mixture.covs, at_x.grads)
        return _mean(at_x.shares, mixture.means - alpha[..., None, None] * pull)

    def div_score(
        self, x: ArrayLike, alpha: ArrayLike = 1.0, sigma: ArrayLike = 0.0
    ) -> Array:
        r"""Divergence of the score, the Laplacian of the log-density, shape `[...]`.

        .. math:: \nabla\!\cdot s = \sum_k r_k \left(\|g_k - s\|^2
                  - \mathrm{tr}\,(\alpha^2 C_k + \sigma^2 I)^{-1}\right)
        """
        at_x = _posterior(*_proper(self, x, alpha, sigma))
        # About s, and not about 0 less |s|^2, which cancels in the tails.
        spread = jnp.sum((at_x.grads - at_x.score[..., None, :]) ** 2, -1)
        return jnp.sum(at_x.shares * (spread - at_x.traces), -1)

    def sample(
        self,
        key: Key,
        shape: tuple[int, ...] = (),
        alpha: ArrayLike = 1.0,
        sigma: ArrayLike = 0.0,
    ) -> Array:
        """Draws samples, shape `shape + (d,)`.

        The scales broadcast against `shape`. One key gives one x_0 at all noise levels.
        Differentiable in all but the weights.
        """
        dim = jnp.shape(self.means)[-1:]
        x = jnp.zeros((*shape, *dim), jnp.result_type(self.means))
        mixture, x, alpha, sigma = _proper(self, x, alpha, sigma)
        if jnp.broadcast_shapes(alpha.shape, sigma.shape, tuple(shape)) != x.shape[:-1]:
            raise ValueError(
                f"alpha has shape {alpha.shape} and sigma {sigma.shape}; expected "
                f"scales that broadcast to shape={tuple(shape)}."
            )
        key_label, key_clean, key_noise = jax.random.split(key, 3)
        log_weights = jnp.log(jax.lax.stop_gradient(mixture.weights))
        label = jax.random.categorical(key_label, log_weights, shape=x.shape[:-1])
        white = jax.random.normal(key_clean, x.shape, x.dtype)
        if mixture.covs.ndim == 3:
            roots = jnp.linalg.cholesky(mixture.covs)
        else:
            roots = jnp.sqrt(mixture.covs)
        spread = _product(roots)(roots[label], white)
        noise = jax.random.normal(key_noise, x.shape, x.dtype)
        clean = mixture.means[label] + spread
        return alpha[..., None] * clean + sigma[..., None] * noise


class _Posterior(NamedTuple):
    """What x tells of the components."""

    log_prob: Array  # [...]
    shares: Array  # [..., k] posterior probabilities
    grads: Array  # [..., k, d] gradients of the components' log-densities
    traces: Array  # [..., k] of their inverse covariances

    @property
    def score(self) -> Array:
        return _mean(self.shares, self.grads)


@jax.jit
def _posterior(
    mixture: GaussianMixture, x: Array, alpha: Array, sigma: Array
) -> _Posterior:
    weights, means, covs = mixture
    residual = x[..., None, :] - alpha[..., None, None] * means
    components = _full if covs.ndim == 3 else _diagonal
    log_density, grads, traces = components(covs, alpha, sigma, residual)
    # A logsumexp over the components of positive weight, without log 0.
    top = jnp.max(log_density, -1, keepdims=True, initial=-jnp.inf, where=weights > 0)
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))
    parts = weights * jnp.exp(jnp.minimum(log_density - top, _MAX_EXPONENT))
    total = jnp.sum(parts, -1, keepdims=True)
    log_prob = (jnp.log(total) + top)[..., 0]
    return _Posterior(log_prob, parts / total, grads, traces)


def _diagonal(
    covs: Array, alpha: Array, sigma: Array, residual: Array
) -> tuple[Array, Array, Array]:
    """Log-densities, their gradients and the traces of the inverse covariances."""
    variance = alpha[..., None, None] ** 2 * covs + sigma[..., None, None] ** 2
    grads = -residual / variance
    log_density = (residual * grads - jnp.log(2 * math.pi * variance)) / 2
    return jnp.sum(log_density, -1), grads, jnp.sum(1 / variance, -1)


def _full(
    covs: Array, alpha: Array, sigma: Array, residual: Array
) -> tuple[Array, Array, Array]:
    """As `_diagonal`, with one factorisation for each component and noise level."""
    eye = jnp.eye(covs.shape[-1], dtype=covs.dtype)
    scale, noise = alpha[..., None, None, None], sigma[..., None, None, None]
    # Not eigh, though it would serve all noise levels at once: its derivative is NaN
    # where eigenvalues meet, as those of the identity do.
    root = jnp.linalg.cholesky(scale**2 * covs + noise**2 * eye)
    inverse = jax.scipy.linalg.solve_triangular(
        root, jnp.broadcast_to(eye, root.shape), lower=True
    )
    white = _matvec(inverse, residual)
    log_root = jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1))
    log_density = -(white**2) / 2 - log_root - math.log(2 * math.pi) / 2
    traces = jnp.sum(inverse**2, (-2, -1))
    return jnp.sum(log_density, -1), -_matvec(inverse.mT, white), traces


def _matvec(matrices: Array, vectors: Array) -> Array:
    return jnp.einsum("...ij,...j->...i", matrices, vectors, precision="highest")


def _product(covs: Array) -> Callable[[Array, Array], Array]:
    """How matrices stored as `covs` are, whole or by their diagonal, act on vectors."""
    return _matvec if covs.ndim == 3 else jnp.multiply


def _mean(shares: Array, vectors: Array) -> Array:
    return jnp.sum(shares[..., None] * vectors, -2)


def _proper(
    mixture: GaussianMixture, x: ArrayLike, alpha: ArrayLike, sigma: ArrayLike
) -> tuple[GaussianMixture, Array, Array, Array]:
    """All in one dtype, isotropic as diagonal; NaN for what is traced and not a law."""
    weights, means, covs, x, alpha, sigma = _check.floating(
        **mixture._asdict(), x=x, alpha=alpha, sigma=sigma
    )
    _check_shapes(weights, means, covs, x, alpha, sigma)
    _check_values(weights, covs, sigma)
    if covs.ndim == 1:
        covs = jnp.broadcast_to(covs[:, None], means.shape)
    fair = jnp.all(weights >= 0) & (jnp.abs(jnp.sum(weights) - 1) <= _SLACK)
    weights = jnp.where(fair, weights, jnp.nan)
    definite = _definite(jax.lax.stop_gradient(covs))
    covs = jnp.where(definite, covs, jnp.nan)
    sigma = jnp.where(sigma >= 0, sigma, jnp.nan)
    return GaussianMixture(weights, means, covs), x, alpha, sigma


def _definite(covs: Array) -> Array:
    """Whether each variance or matrix is positive definite, to broadcast with them."""
    if covs.ndim < 3:
        return covs > 0
    size = jnp.max(jnp.abs(covs), (-2, -1))
    skew = jnp.max(jnp.abs(covs - covs.mT), (-2, -1))
    finite = jnp.isfinite(jnp.linalg.cholesky(covs)).all((-2, -1))
    return (finite & (skew <= _SLACK * size))[:, None, None]


def _check_shapes(
    weights: Array, means: Array, covs: Array, x: Array, alpha: Array, sigma: Array
) -> None:
    _check.rank(1, weights=weights)
    _check.rank(2, means=means)
    k, d = means.shape
    if weights.shape != (k,) or covs.shape not in {(k,), (k, d), (k, d, d)}:
        raise ValueError(
            f"Got shapes weights {weights.shape}, means {means.shape}, covs "
            f"{covs.shape}; expected (k,), (k, d) and (k,), (k, d) or (k, d, d)."
        )
    if x.shape[-1:] != (d,):
        raise ValueError(f"x has shape {x.shape}; expected [..., {d}].")
    _check.broadcastable(x_without_last_axis=x[..., 0], alpha=alpha, sigma=sigma)


def _check_values(weights: Array, covs: Array, sigma: Array) -> None:
    _check.in_range(0.0, 1.0 + _SLACK, closed=True, weights=weights)
    _check.in_range(0.0, closed=True, sigma=sigma)
    shares, matrices = _check.concrete(weights), _check.concrete(covs)
    if shares is not None and abs(shares.sum() - 1) > _SLACK:
        raise ValueError(f"weights sum to {shares.sum():.6g}; expected 1.")
    if covs.ndim < 3:
        _check.positive(covs=covs)
    elif matrices is not None:
        with jax.ensure_compile_time_eval():
            definite = np.asarray(_definite(covs)).all()
        if not definite:
            raise ValueError(
                f"covs is {matrices}; expected symmetric positive definite matrices."
            )
