"""How good a transport map is, with the map known or with samples only."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.discrepancy import mmd
from jaxdiv.transport import exact_monge_gap, gaussian_map, sinkhorn_divergence
from jaxdiv.typing import Array, ArrayLike


class MapScores(NamedTuple):
    """Scores of one map in `map_report`; None where they do not apply.

    Attributes:
      l2_uvp: error against the known map, in percent of the variance of the target.
      cosine: cosine of the displacements of both maps.
      sinkhorn_divergence: divergence between the image and the target.
      mmd: squared maximum mean discrepancy between the image and the target.
      monge_gap: exact Monge gap of the map for the squared Euclidean cost.
    """

    l2_uvp: Array | None = None
    cosine: Array | None = None
    sinkhorn_divergence: Array | None = None
    mmd: Array | None = None
    monge_gap: Array | None = None


class MapReport(NamedTuple):
    """Result of `map_report`: the scores of a map and of three that need no training.

    Attributes:
      map: scores of the map itself.
      identity: those of x -> x.
      constant: those of the map to the mean of the target.
      linear: those of the optimal map between the Gaussians of equal moments.
    """

    map: MapScores
    identity: MapScores
    constant: MapScores
    linear: MapScores


def l2_uvp(t: ArrayLike, t_star: ArrayLike, var: ArrayLike) -> Array:
    r"""Unexplained variance percentage of a map against the optimal one.

    .. math:: 100\; \mathbb E|T(X) - T^*(X)|^2 / \operatorname{Var}(\nu)

    Args:
      t: images T(x_i), shape `[..., n, d]`.
      t_star: images of the same points under the optimal map, shape `[..., n, d]`.
      var: variance of the target law (not of the images), the sum of those of its
        coordinates; shape `[...]`.

    Returns:
      Array of shape `[...]`, in percent: 0 for the optimal map, 100 for the constant
      map to the mean. For a traced `var`, inf where it is 0 and NaN where negative.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, or a concrete `var` is not positive.

    Differentiable in all arguments, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import metrics
      >>> t = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(f"{metrics.l2_uvp(t, 1.1 * t, 0.5):.2f}")
      2.00

    References:
      Korotin et al., 2021, arXiv:2106.01954, section 5.1.
    """
    t, t_star, var = _check.floating(t=t, t_star=t_star, var=var)
    _paired(t=t, t_star=t_star)
    _check.positive(var=var)
    error = _mean_dot(t - t_star, t - t_star)
    positive = var > 0
    ratio = 100 * error / jnp.where(positive, var, 1)
    return jnp.where(positive, ratio, jnp.where(var == 0, jnp.inf, jnp.nan))


def cosine_similarity_maps(t: ArrayLike, t_star: ArrayLike, x: ArrayLike) -> Array:
    r"""Cosine between the displacements of a map and of the optimal one.

    .. math:: \frac{\langle T - Id,\, T^* - Id\rangle_{L^2(\mu)}}
                   {\|T - Id\|\, \|T^* - Id\|}

    Args:
      t: images T(x_i), shape `[..., n, d]`.
      t_star: images of the same points under the optimal map, shape `[..., n, d]`.
      x: the points, samples of mu, shape `[..., n, d]`.

    Returns:
      Array of shape `[...]`, in [-1, 1] up to rounding; 0 where one of the maps is the
      identity.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit.

    Differentiable in all arguments, in every mode and order; at the identity, where
    the cosine jumps, derivatives are zero.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import metrics
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> print(f"{metrics.cosine_similarity_maps(x + 1, 2 * x, x):.4f}")
      0.7071

    References:
      Korotin et al., 2021, arXiv:2106.01954, section 5.1.
    """
    t, t_star, x = _check.floating(t=t, t_star=t_star, x=x)
    _paired(t=t, t_star=t_star, x=x)
    move, best = t - x, t_star - x
    squared = _mean_dot(move, move), _mean_dot(best, best)
    apart = (squared[0] != 0) & (squared[1] != 0)
    norms = (jnp.sqrt(jnp.where(apart, q, 1)) for q in squared)
    return jnp.where(apart, _mean_dot(move, best) / next(norms) / next(norms), 0)


def map_report(
    map_fn: Callable[[Array], ArrayLike],
    x: ArrayLike,
    y: ArrayLike,
    t_star: Callable[[Array], ArrayLike] | None = None,
    *,
    eps: ArrayLike | None = None,
    points: int = 512,
) -> MapReport:
    r"""Scores of a map from mu to nu, beside three maps that need no training.

    The rows are the map, the identity, the constant map to the mean of y, and the
    linear one, the optimal map between Gaussians with the moments of x and y. With a
    known optimal map the scores are `l2_uvp` and `cosine_similarity_maps` on all of x.
    Without it they are, on the first `points` of x and y, the Sinkhorn divergence and
    the MMD (Gaussian kernel, bandwidth the root of the mean squared distance between
    two points of y) of image and target, and the exact Monge gap. Use points that no
    map has been fitted to.

    Args:
      map_fn: function from points `(n, d)` to points `(n, d)`.
      x: samples of mu, shape `(n, d)`.
      y: samples of nu, shape `(m, d)`.
      t_star: the optimal map, a function as `map_fn`, or None.
      eps: regularisation of the Sinkhorn divergence; None is 0.05 times the mean
        squared distance between two points of y. It is wise to look at more than one.
      points: points of each cloud that the scores without `t_star` are taken on.

    Returns:
      `MapReport` of four `MapScores`, whose fields are scalars, or None where they do
      not apply.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, there are fewer than two points, or `points`
        is less than 2; with `t_star`, the concrete y has no variance.

    Differentiable in `x`, `y` and what the maps close over, once where the Monge gap
    is among the scores.

    Example:
      >>> import jax
      >>> from jaxdiv import metrics
      >>> x = jax.random.normal(jax.random.key(0), (500, 2))
      >>> report = metrics.map_report(lambda x: 2 * x, x, 2 * x, lambda x: 2 * x)
      >>> for name, scores in report._asdict().items():
      ...     print(f"{name:9}{scores.l2_uvp:6.1f}{scores.cosine:6.2f}")
      map         0.0  1.00
      identity   25.0  0.00
      constant  100.0 -1.00
      linear      0.0  1.00

    References:
      Korotin et al., 2021, arXiv:2106.01954, section 5.1; Uscidda and Cuturi, 2023,
      arXiv:2302.04953.
    """
    x, y = _check.floating(x=x, y=y)
    _check.rank(2, x=x, y=y)
    if x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"x has shape {x.shape} and y {y.shape}; expected (n, d) and (m, d) with "
            "at least two points each."
        )
    _check.in_range(2, closed=True, points=points)
    (mean_x, cov_x), (mean_y, cov_y) = _moments(x), _moments(y)
    linear = gaussian_map(mean_x, cov_x, mean_y, cov_y)
    var = jnp.trace(cov_y)
    eps = 0.1 * var if eps is None else eps
    if t_star is None:
        x, y = x[:points], y[:points]

        def scores(t: Array) -> MapScores:
            return MapScores(
                sinkhorn_divergence=sinkhorn_divergence(t, y, eps=eps),
                mmd=mmd(t, y, bandwidth=jnp.sqrt(2 * var)),
                monge_gap=exact_monge_gap(x, t),
            )
    else:
        best = t_star(x)

        def scores(t: Array) -> MapScores:
            return MapScores(l2_uvp(t, best, var), cosine_similarity_maps(t, best, x))

    image = jnp.asarray(map_fn(x))
    _check.same_shape(**{"x": x, "map_fn(x)": image})
    constant = jnp.broadcast_to(mean_y, x.shape)
    table = jax.vmap(scores)(jnp.stack([image, x, constant, linear(x)]))
    return MapReport(*(jax.tree.map(lambda s, i=i: s[i], table) for i in range(4)))


def _moments(x: Array) -> tuple[Array, Array]:
    mean = jnp.mean(x, 0)
    return mean, jnp.matmul((x - mean).T, x - mean, precision="highest") / len(x)


def _mean_dot(u: Array, v: Array) -> Array:
    """The inner product of two fields in L2 of the sample."""
    return jnp.mean(jnp.sum(u * v, -1), -1)


def _paired(**clouds: Array) -> None:
    _check.same_shape(**clouds)
    for name, x in clouds.items():
        if x.ndim < 2 or not x.shape[-2]:
            raise ValueError(
                f"{name} has shape {x.shape}; expected [..., n, d], n at least 1."
            )
