"""Transport between Gaussian laws, in closed form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import _check
from jaxdiv.implicit._primitive import implicit_identity
from jaxdiv.implicit._psd_sqrt import psd_sqrt
from jaxdiv.typing import Array, ArrayLike

_NEGATIVE = 1e-6  # what rounding may leave below zero, as a share of the largest


class AffineMap(NamedTuple):
    """The map x -> A x + b; call it on points of shape `[..., d]`.

    Attributes:
      A: linear part, shape `[..., d, d]`.
      b: offset, shape `[..., d]`.
    """

    A: Array
    b: Array

    def __call__(self, x: ArrayLike) -> Array:
        """The images of x; leading axes broadcast against those of the map."""
        return _apply(self.A, jnp.asarray(x)) + self.b


def gaussian_map(
    m1: ArrayLike, S1: ArrayLike, m2: ArrayLike, S2: ArrayLike
) -> AffineMap:
    r"""Optimal map between two Gaussians for the squared Euclidean cost.

    .. math:: T(x) = m_2 + A (x - m_1), \qquad
              A = S_1^{-1/2} (S_1^{1/2} S_2 S_1^{1/2})^{1/2} S_1^{-1/2}

    On samples it is the best affine map. Where S1 is singular, its root is inverted on
    its range and A is zero on the null space, where the first law has no mass; the
    image then has the second law as far as an image of the first can.

    Args:
      m1: mean of the source, shape `[..., d]`.
      S1: its covariance, symmetric, shape `[..., d, d]`.
      m2: mean of the target, shape `[..., d]`.
      S2: its covariance, shape `[..., d, d]`.

    Returns:
      `AffineMap(A, b)`, A symmetric positive semidefinite, to be unpacked or called;
      leading axes broadcast. NaN where an input is, or a traced covariance is not
      positive semidefinite.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes are not as above, or a concrete covariance has an
        eigenvalue below -1e-6 times the largest.

    Differentiable in all arguments, in every mode and order, equal eigenvalues
    included. At a singular covariance A is smooth only along changes that keep the
    rank, and the derivative is right along those; along the others it stays finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> A, b = transport.gaussian_map(
      ...     jnp.zeros(2), jnp.eye(2), jnp.ones(2), jnp.diag(jnp.array([4.0, 9.0]))
      ... )
      >>> print(A, b)
      [[2. 0.]
       [0. 3.]] [1. 1.]

    References:
      Dowson and Landau, 1982; Peyre and Cuturi, 2019, arXiv:1803.00567, remark 2.31.
    """
    law = _gaussians(m1, S1, m2, S2)
    return AffineMap(*jnp.vectorize(_map, signature=f"{_LAWS}->(d,d),(d)")(*law))


def bures_wasserstein_sq(
    m1: ArrayLike, S1: ArrayLike, m2: ArrayLike, S2: ArrayLike
) -> Array:
    r"""Squared Wasserstein-2 distance between two Gaussians.

    .. math:: |m_1 - m_2|^2 + \operatorname{tr}\left(S_1 + S_2
              - 2 (S_1^{1/2} S_2 S_1^{1/2})^{1/2}\right)

    A rounding error e in the null space of a covariance enters as sqrt(e).

    Args:
      m1: mean of the first law, shape `[..., d]`.
      S1: its covariance, symmetric, shape `[..., d, d]`; it may be singular.
      m2: mean of the second law, shape `[..., d]`.
      S2: its covariance, shape `[..., d, d]`.

    Returns:
      Array of the broadcast leading shape; zero between equal laws up to rounding. NaN
      where an input is, or a traced covariance is not positive semidefinite.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes are not as above, or a concrete covariance has an
        eigenvalue below -1e-6 times the largest.

    Differentiable in all arguments, in every mode and order, equal eigenvalues
    included; in the null space of a singular covariance, where the derivative may be
    infinite, the overlap term is taken as constant.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> mean, cov = jnp.zeros(2), jnp.eye(2)
      >>> print(f"{transport.bures_wasserstein_sq(mean, cov, mean + 1, 4 * cov):.4f}")
      4.0000

    References:
      Dowson and Landau, 1982; Peyre and Cuturi, 2019, arXiv:1803.00567, eq. (2.41).
    """
    law = _gaussians(m1, S1, m2, S2)
    return jnp.vectorize(_distance, signature=f"{_LAWS}->()")(*law)


_LAWS = "(d),(d,d),(d),(d,d)"


def _map(m1: Array, S1: Array, m2: Array, S2: Array) -> tuple[Array, Array]:
    root = psd_sqrt(S1)
    inverse = _pseudo_inverse(root)
    A = inverse @ psd_sqrt(root @ S2 @ root) @ inverse
    A = (A + A.T) / 2
    return A, m2 - _apply(A, m1)


def _distance(m1: Array, S1: Array, m2: Array, S2: Array) -> Array:
    root = psd_sqrt(S1)
    overlap = jnp.trace(psd_sqrt(root @ S2 @ root))
    return jnp.sum((m1 - m2) ** 2) + jnp.trace(S1) + jnp.trace(S2) - 2 * overlap


def _apply(A: Array, x: Array) -> Array:
    return jnp.einsum("...ij,...j->...i", A, x, precision="highest")


def _pseudo_inverse(root: Array) -> Array:
    """The inverse of a symmetric semidefinite root on its range, zero off it."""
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(root))
    # A rounding error e in the covariance is one of sqrt(e) in its root.
    noise = (10 * len(values) * jnp.finfo(root.dtype).eps) ** 0.5 * jnp.max(values)
    live = values > noise
    inverse = jnp.where(live, 1 / jnp.where(live, values, 1), 0)
    return implicit_identity(_rule, (vectors * inverse) @ vectors.T, root)


def _rule(inverse: Array, root: Array, tangent: Array) -> Array:
    """Golub and Pereyra, 1973, for a symmetric matrix whose rank stays."""
    off_range = jnp.eye(len(root), dtype=root.dtype) - inverse @ root
    turned = inverse @ inverse @ tangent @ off_range
    return turned + turned.T - inverse @ tangent @ inverse


def _gaussians(
    m1: ArrayLike, S1: ArrayLike, m2: ArrayLike, S2: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    m1, S1, m2, S2 = _check.floating(m1=m1, S1=S1, m2=m2, S2=S2)
    d = m1.shape[-1:]
    if not d or m2.shape[-1:] != d or not S1.shape[-2:] == S2.shape[-2:] == 2 * d:
        raise ValueError(
            f"m1, S1, m2, S2 have shapes {m1.shape}, {S1.shape}, {m2.shape}, "
            f"{S2.shape}; expected [..., d], [..., d, d], [..., d], [..., d, d]."
        )
    return m1, _semidefinite("S1", S1), m2, _semidefinite("S2", S2)


def _semidefinite(name: str, S: Array) -> Array:
    """S where it is positive semidefinite; else an error, or NaN where traced."""
    values = _check.concrete(S)
    if values is not None:
        if np.isfinite(values).all():
            spectrum = np.linalg.eigvalsh((values + values.mT) / 2)
            low, high = spectrum[..., 0], spectrum[..., -1]
            if (low < -_NEGATIVE * high).any():
                raise ValueError(
                    f"{name} has the eigenvalue {low.min()}; expected a positive "
                    "semidefinite matrix."
                )
        return S
    spectrum = jnp.linalg.eigvalsh(jax.lax.stop_gradient(S + S.mT))
    valid = spectrum[..., 0] >= -_NEGATIVE * spectrum[..., -1]
    return jnp.where(valid[..., None, None], S, jnp.nan)
