"""Mixtures of von Mises-Fisher laws, fitted by expectation maximisation."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.distributions._vmf_fit import (
    check_points,
    vmf_concentration_from_resultant,
)
from jaxdiv.distributions._von_mises_fisher import (
    base_offset,
    log_partition,
    on_sphere,
    proper,
)
from jaxdiv.typing import Array, ArrayLike, Key

_ASSIGNMENTS = ("hard", "soft")
_LEAST_SHARE = 1e-8  # of the mass, below which a component is empty
_LEAST_SPREAD = 1e-6  # 1 - r of a component; one of a single point has no fit


class VmfMixture(NamedTuple):
    """A mixture, and the run that found it.

    Attributes:
      log_weights: log of the share of each component, shape `(k,)`.
      mean_directions: unit vectors, shape `(k, d)`.
      concentrations: shape `(k,)`.
      log_likelihood: mean log-density of the data against the uniform law, in nats.
      history: the same after each iteration, shape `(max_iterations,)`; NaN where none
        was made.
      n_iters: iterations made.
      converged: whether the last iteration raised it by no more than the tolerance.
    """

    log_weights: Array
    mean_directions: Array
    concentrations: Array
    log_likelihood: Array
    history: Array
    n_iters: Array
    converged: Array


def vmf_mixture_log_prob(
    x: ArrayLike,
    log_weights: ArrayLike,
    mean_directions: ArrayLike,
    concentrations: ArrayLike,
    *,
    base: str = "surface",
) -> Array:
    r"""Log-density of a mixture of von Mises-Fisher laws.

    .. math:: \log\sum_k \pi_k\, C_d(\kappa_k)\, e^{\kappa_k\langle\mu_k, x\rangle}

    Args:
      x: unit vectors, shape `[..., d]`.
      log_weights: log of the shares pi, shape `(k,)`.
      mean_directions: unit vectors mu, shape `(k, d)`.
      concentrations: kappa, shape `(k,)`, at least 0.
      base: measure that the density is against, `"surface"` or `"uniform"`.

    Returns:
      Array `[...]` in nats; NaN for a negative concentration.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, or the base is unknown.

    Differentiable in all four, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> mu = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
      >>> value = distributions.vmf_mixture_log_prob(
      ...     mu[0], jnp.log(jnp.full(2, 0.5)), mu, jnp.array([10.0, 5.0])
      ... )
      >>> print(f"{value:.4f}")
      -0.2251

    References:
      Banerjee et al., 2005, "Clustering on the unit hypersphere using von Mises-Fisher
      distributions".
    """
    x, log_weights, mu, kappa = _check.floating(
        x=x,
        log_weights=log_weights,
        mean_directions=mean_directions,
        concentrations=concentrations,
    )
    dim = on_sphere(x=x, mean_directions=mu)
    if mu.ndim != 2 or {log_weights.shape, kappa.shape} != {mu.shape[:1]}:
        raise ValueError(
            f"Got shapes log_weights {log_weights.shape}, mean_directions {mu.shape}, "
            f"concentrations {kappa.shape}; expected (k,), (k, d) and (k,)."
        )
    joint = _log_joint(x, log_weights, mu, proper(kappa))
    return jax.nn.logsumexp(joint, -1) - base_offset(base, dim)


def _log_joint(x: Array, log_weights: Array, mu: Array, kappa: Array) -> Array:
    """Log-density of each component times its weight, `[..., k]`, uniform base."""
    cosine = jnp.matmul(x, mu.T, precision="highest")
    return log_weights + kappa * cosine - log_partition(kappa, x.shape[-1])


def vmf_mixture_fit(
    key: Key,
    x: ArrayLike,
    n_components: int,
    *,
    weights: ArrayLike | None = None,
    assignment: str = "soft",
    shared_concentration: bool = False,
    restarts: int = 1,
    max_iterations: int = 100,
    tolerance: float = 1e-5,
) -> VmfMixture:
    r"""Fits a mixture of von Mises-Fisher laws by expectation maximisation.

    The means start at points drawn as by k-means++, each with a chance in proportion to
    its cosine distance to those before. A component that has lost its points keeps its
    mean. The mean resultant length of a component is held at 1 - 1e-6 or less: one of a
    single point would have an infinite concentration, and an infinite likelihood.

    Args:
      key: a key, of the starts.
      x: unit vectors, shape `(n, d)`.
      n_components: number k of components.
      weights: of the points, shape `(n,)`, non-negative; None is uniform.
      assignment: `"soft"` shares every point among the components, `"hard"` gives it to
        the most likely one.
      shared_concentration: one concentration for all components.
      restarts: starts, run side by side, of which the most likely end is returned.
      max_iterations: iterations at most.
      tolerance: rise of the mean log-likelihood, over its size, at which to stop.

    Returns:
      `VmfMixture`. Soft iterations never lower the likelihood, but for rounding.

    Raises:
      TypeError: an input is not of a floating dtype.
      ValueError: the shapes do not fit, a number is out of range, a name is unknown, or
        concrete points are not of length 1.

    Not differentiable. Under `jax.jit` all but key, x and weights are static.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import distributions
      >>> key, key_fit = jax.random.split(jax.random.key(0))
      >>> mu = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
      >>> x = distributions.vmf_sample(key, mu, jnp.array([50.0, 20.0]), (500,))
      >>> mixture = distributions.vmf_mixture_fit(key_fit, x.reshape(-1, 3), 2)
      >>> print(jnp.sort(mixture.concentrations).round(-1), mixture.converged)
      [20. 50.] True

    References:
      Banerjee et al., 2005, "Clustering on the unit hypersphere using von Mises-Fisher
      distributions"; Arthur and Vassilvitskii, 2007 (the start).
    """
    (x,) = _check.floating(x=x)
    _check.rank(2, x=x)
    check_points(x)
    _check.in_range(
        1,
        closed=True,
        n_components=n_components,
        restarts=restarts,
        max_iterations=max_iterations,
    )
    _check.one_of("assignment", assignment, _ASSIGNMENTS)
    _check.in_range(0.0, closed=True, tolerance=tolerance)
    share = jnp.ones(len(x), x.dtype)
    if weights is not None:
        x, share = _check.floating(x=x, weights=weights)
        if share.shape != x.shape[:1]:
            raise ValueError(f"weights has shape {share.shape}; expected ({len(x)},).")
    share = jax.lax.stop_gradient(share / jnp.sum(share))
    run = partial(
        _run,
        x=jax.lax.stop_gradient(x),
        share=share,
        n_components=n_components,
        hard=assignment == "hard",
        shared=shared_concentration,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )
    runs = jax.vmap(run)(jax.random.split(key, restarts))
    best = jnp.argmax(runs.log_likelihood)
    return jax.tree.map(lambda z: z[best], runs)


@partial(
    jax.jit,
    static_argnames=("n_components", "hard", "shared", "max_iterations", "tolerance"),
)
def _run(
    key: Key,
    *,
    x: Array,
    share: Array,
    n_components: int,
    hard: bool,
    shared: bool,
    max_iterations: int,
    tolerance: float,
) -> VmfMixture:
    def expected(model: tuple) -> tuple[Array, Array]:
        joint = _log_joint(x, *model)
        log_density = jax.nn.logsumexp(joint, -1)
        if hard:
            members = jax.nn.one_hot(jnp.argmax(joint, -1), n_components, dtype=x.dtype)
        else:
            members = jnp.exp(joint - log_density[:, None])
        return share[:, None] * members, share @ log_density

    def step(state: tuple) -> tuple:
        model, members, value, history, i, _ = state
        model = _maximised(x, members, model[1], shared=shared)
        members, new = expected(model)
        still = ~(new - value > tolerance * jnp.abs(new))
        return model, members, new, history.at[i].set(new), i + 1, still

    means = _seeds(key, x, share, n_components)
    nearest = jnp.argmax(jnp.matmul(x, means.T, precision="highest"), -1)
    members = share[:, None] * jax.nn.one_hot(nearest, n_components, dtype=x.dtype)
    model = _maximised(x, members, means, shared=shared)
    members, value = expected(model)
    history = jnp.full(max_iterations, jnp.nan, x.dtype)
    start = model, members, value, history, jnp.int32(0), jnp.zeros((), bool)
    model, _, value, history, n_iters, converged = jax.lax.while_loop(
        lambda state: ~state[-1] & (state[-2] < max_iterations), step, start
    )
    return VmfMixture(*model, value, history, n_iters, converged & jnp.isfinite(value))


def _maximised(
    x: Array, members: Array, means: Array, *, shared: bool
) -> tuple[Array, Array, Array]:
    """Weights, mean directions and concentrations of given shares of the points."""
    mass = jnp.sum(members, 0)
    empty = mass <= _LEAST_SHARE
    total = jnp.matmul(members.T, x, precision="highest")
    length = jnp.linalg.norm(total, axis=-1)
    kept = empty | (length == 0)
    means = jnp.where(kept[:, None], means, total / jnp.where(kept, 1, length)[:, None])
    r = jnp.where(kept, 0, length) / jnp.where(empty, 1, mass)
    if shared:
        r = jnp.full_like(r, jnp.sum(length))
    r = jnp.minimum(r, 1 - _LEAST_SPREAD)
    kappa = vmf_concentration_from_resultant(r, x.shape[-1])
    floor = jnp.maximum(mass, _LEAST_SHARE)
    return jnp.log(floor / jnp.sum(floor)), means, kappa


def _seeds(key: Key, x: Array, share: Array, n_components: int) -> Array:
    """Points far from each other, drawn one after the other."""

    def add(carry: tuple, key: Key) -> tuple[tuple, Array]:
        (closest,) = carry
        log_chance = jnp.log(share) + jnp.log(jnp.maximum(1 - closest, 1e-12))
        seed = x[jax.random.categorical(key, log_chance)]
        cosine = jnp.matmul(x, seed, precision="highest")
        return (jnp.maximum(closest, cosine),), seed

    start = (jnp.full(len(x), -1, x.dtype),)  # as far from all points
    return jax.lax.scan(add, start, jax.random.split(key, n_components))[1]
