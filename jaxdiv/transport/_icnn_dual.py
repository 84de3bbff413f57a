"""The dual of quadratic transport over convex networks, solved as a max-min."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxdiv import _check
from jaxdiv.transport._gaussian import gaussian_map
from jaxdiv.transport._trainer import (
    ApplyNet,
    Metrics,
    Net,
    OnChunk,
    adam,
    inputs,
    mlp,
    train,
)
from jaxdiv.typing import Array, ArrayLike, Key, Params

_WIDTH = 64  # of both hidden layers of the default potential


def fit_icnn_dual(
    key: Key,
    x: ArrayLike,
    y: ArrayLike,
    *,
    net: Net | None = None,
    refine: int = 5,
    steps: int = 1500,
    batch_size: int = 256,
    optimizer: optax.GradientTransformation | None = None,
    on_chunk: OnChunk | None = None,
) -> tuple[ApplyNet, Params, Metrics]:
    r"""Fits the optimal map for the squared distance as the gradient of a convex net.

    .. math:: \min_\varphi\; \mathbb E\,\varphi(x) + \mathbb E\,\varphi^*(y), \qquad
              \varphi^*(y) = \max_z\; \langle y, z\rangle - \varphi(z), \qquad
              T = \nabla\varphi

    over minibatches drawn with replacement. A second network predicts the maximiser z
    for each y; `refine` steps of Barzilai and Borwein towards
    :math:`\nabla\varphi(z) = y` correct it, and it learns from what they found. T is
    the gradient of a convex function, thus optimal onto its own image, at any time.

    Args:
      key: key of the initial weights and of the batches.
      x: source points, shape `(n, d)`.
      y: target points, shape `(m, d)`.
      net: pair of functions `init(key) -> params` and `apply(params, x) -> values`,
        one value of a convex function for each point; None is an input-convex network
        of two layers of 64 units, whose gradient starts near the optimal map between
        Gaussians of the moments of x and y.
      refine: steps from the predicted maximiser; 0 trusts the prediction.
      steps: gradient steps.
      batch_size: points of each cloud a step.
      optimizer: of both networks; None is Adam at 3e-2 with b1 = 0.5, decayed to 0 by
        a cosine.
      on_chunk: called as `on_chunk(steps_done, last_metrics)` about every 50 steps.

    Returns:
      `(apply, params, history)`: `apply(params, x)` is the map T, and `params` are
      those of the potential. The history holds an array with one entry a step for each
      of `"loss"` (of a max-min: its size says little), `"cost"` (the squared
      Wasserstein distance, by the dual), `"amortisation"` (mean squared error of the
      predicted maximisers) and `"grad_norm"`, and `"status"`: `"done"`, or
      `"diverged"` when a step was not finite; the parameters are then those before
      that step.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: a shape does not fit, or a number is out of range.

    Not differentiable.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> x = jax.random.normal(jax.random.key(0), (200, 1))
      >>> apply, params, history = transport.fit_icnn_dual(
      ...     jax.random.key(1), x, 3 * x + 2, steps=50, batch_size=64
      ... )
      >>> print(history["status"], apply(params, jnp.zeros((1, 1))).round())
      done [[2.]]

    References:
      Makkuva et al., 2020, arXiv:1908.10962, eq. (8); Amos, 2022, arXiv:2210.12153
      (amortisation); Bunne et al., 2022, arXiv:2202.08170 (the start).
    """
    x, y = inputs(x, y, steps=steps, batch_size=batch_size)
    _check.in_range(0, closed=True, refine=refine)
    init_potential, potential = net or gaussian_icnn(x, y)
    init_guess, guess = _gaussian_residual(y, x)
    scale_x, scale_y = _moments(x)[2], _moments(y)[2]

    def apply(params: Params, x: ArrayLike) -> Array:
        return jax.grad(lambda x: jnp.sum(potential(params, x)))(jnp.asarray(x))

    def init(key: Key) -> Params:
        key_potential, key_guess = jax.random.split(key)
        return {
            "potential": init_potential(key_potential),
            "guess": init_guess(key_guess),
        }

    def objective(params: Params, _: Key, x: Array, y: Array) -> tuple[Array, Metrics]:
        guessed = guess(params["guess"], y)
        fixed, start = jax.lax.stop_gradient((params["potential"], guessed))
        best = _solve(lambda z: apply(fixed, z), y, start, refine, scale_x / scale_y)
        values = potential(params["potential"], jnp.concatenate([x, best]))
        dual = jnp.mean(values[: len(x)] - values[len(x) :])
        dual += jnp.mean(jnp.sum(y * best, -1))
        amortisation = jnp.mean(jnp.sum((guessed - best) ** 2, -1))
        cost = jnp.mean(jnp.sum(x**2, -1) + jnp.sum(y**2, -1)) - 2 * dual
        loss = dual / (scale_x * scale_y) + amortisation / scale_x**2
        return loss, {"cost": cost, "amortisation": amortisation}

    params, history = train(
        objective,
        init,
        key,
        x,
        y,
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer or adam(3e-2, steps, b1=0.5),
        on_chunk=on_chunk,
    )
    return apply, params["potential"], history


def gaussian_icnn(x: Array, y: Array) -> Net:
    """A convex potential whose gradient starts near the Gaussian map from x to y."""
    dim, dtype = x.shape[1], x.dtype
    mean_x, cov_x, scale_x = _moments(x)
    mean_y, cov_y, scale_y = _moments(y)
    A = gaussian_map(mean_x, cov_x, mean_y, cov_y).A * scale_x / scale_y
    values, vectors = jnp.linalg.eigh(A)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))

    @jax.jit
    def init(key: Key) -> Params:
        keys = jax.random.split(key, 5)

        def normal(i: int, *shape: int) -> Array:
            return jax.random.normal(keys[i], shape, dtype)

        return {
            "first": {
                "kernel": normal(0, dim, _WIDTH) / dim**0.5,
                "bias": normal(1, _WIDTH),
            },
            "second": {
                "kernel": normal(2, dim, _WIDTH) / dim**0.5,
                "bias": normal(3, _WIDTH),
                "positive": normal(4, _WIDTH, _WIDTH),
            },
            "positive": jnp.full(_WIDTH, -3.0, dtype),  # its softplus is 0.05
            "root": root,
            "slope": jnp.zeros(dim, dtype),
        }

    def apply(params: Params, x: Array) -> Array:
        u = (x - mean_x) / scale_x
        first, second = params["first"], params["second"]
        z = jax.nn.softplus(u @ first["kernel"] + first["bias"])
        mixed = z @ jax.nn.softplus(second["positive"]) / _WIDTH
        z = jax.nn.softplus(mixed + u @ second["kernel"] + second["bias"])
        ridges = z @ jax.nn.softplus(params["positive"]) / _WIDTH**0.5
        square = jnp.sum((u @ params["root"]) ** 2, -1) / 2
        convex = ridges + square + u @ params["slope"]
        return scale_x * scale_y * convex + x @ mean_y

    return init, apply


def _gaussian_residual(x: Array, y: Array) -> Net:
    """The Gaussian map from x to y plus an MLP, which starts near 0."""
    mean_x, cov_x, scale_x = _moments(x)
    mean_y, cov_y, scale_y = _moments(y)
    linear = gaussian_map(mean_x, cov_x, mean_y, cov_y)
    init, residual = mlp(x.shape[1], 128, 128, x.shape[1], dtype=x.dtype, last=0.01)

    def apply(params: Params, x: Array) -> Array:
        return linear(x) + scale_y * residual(params, (x - mean_x) / scale_x)

    return init, apply


@jax.jit
def _moments(x: Array) -> tuple[Array, Array, Array]:
    """Mean, covariance and spread of a coordinate, 1 where all points are one."""
    mean = x.mean(0)
    covariance = jnp.matmul((x - mean).T, x - mean, precision="highest") / len(x)
    variance = jnp.mean(jnp.diag(covariance))
    return mean, covariance, jnp.where(variance > 0, variance, 1) ** 0.5


def _solve(
    slope: Callable[[Array], Array], y: Array, start: Array, steps: int, rate: Array
) -> Array:
    """Points where the slope of a convex function is y, or near: the best iterates.

    The step of Barzilai and Borwein, 1988, <dz, dr>/<dr, dr>, is between the inverses
    of the largest and the smallest curvature.
    """

    def dot(a: Array, b: Array) -> Array:
        return jnp.sum(a * b, -1, keepdims=True)

    def body(_: int, state: tuple) -> tuple:
        z, residual, rate, best, least = state
        moved = z - rate * residual
        left = slope(moved) - y
        turn = left - residual
        norm = dot(turn, turn)
        rate = dot(moved - z, turn) / jnp.where(norm > 0, norm, 1)
        better = dot(left, left) < least
        best = jnp.where(better, moved, best)
        return moved, left, rate, best, jnp.where(better, dot(left, left), least)

    residual = slope(start) - y
    state = start, residual, jnp.full_like(start[:, :1], rate), start
    return jax.lax.fori_loop(0, steps, body, (*state, dot(residual, residual)))[3]
