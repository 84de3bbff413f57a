"""One step of stochastic gradient descent, with a running average of the weights."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiv import _check
from jaxdiv.typing import Array, ArrayLike, Key, Params, PyTree

Loss = Callable[[Params, PyTree, Key], Array]
Metrics = dict[str, Array]


class TrainState(NamedTuple):
    """What training carries from step to step.

    Attributes:
      step: number of updates done, an int32 scalar.
      params: parameters.
      ema: their running average, the ones to sample with.
      opt_state: state of the optimizer.
    """

    step: Array
    params: Params
    ema: Params
    opt_state: PyTree


def _copy(tree: PyTree) -> PyTree:
    return jax.tree.map(jnp.array, tree)


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; the average starts at the parameters.

    Args:
      params: pytree of arrays.
      optimizer: what will update them.

    Returns:
      `TrainState` of new arrays, none of which is another's alias, so that the state
      may be donated.

    Not differentiable.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxdiv import training
      >>> state = training.init_state({"w": jnp.ones(2)}, optax.adam(1e-3))
      >>> print(state.step, state.ema["w"] is state.params["w"])
      0 False
    """
    params = _copy(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=_copy(params),
        opt_state=_copy(optimizer.init(params)),
    )


def ema_update(ema: Params, params: Params, decay: ArrayLike) -> Params:
    r"""Exponential moving average, leaf by leaf.

    .. math:: \bar\theta \leftarrow \beta\,\bar\theta + (1 - \beta)\,\theta

    Args:
      ema: the average so far; its dtypes are kept.
      params: the new value, a pytree of the same structure.
      decay: beta in [0, 1].

    Returns:
      The new average.

    Raises:
      ValueError: `decay` is outside [0, 1], or the structures differ.

    Linear in `ema` and `params`, and differentiable in all three arguments.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import training
      >>> print(training.ema_update({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, 0.9)["w"])
      [0.1 0.1]
    """
    _check.in_range(0.0, 1.0, closed=True, decay=decay)
    return jax.tree.map(
        lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype),
        ema,
        params,
    )


def ema_half_life(
    half_life: float, *, batch_size: int, ramp_up: float | None = 0.05
) -> Callable[[Array], Array]:
    r"""EDM's decay of the average: a half-life in samples that grows with the run.

    .. math:: \beta_k = 2^{-B / \min(h,\; \rho k B)}

    At step k the average has a memory of at most the fraction rho of the samples seen
    so far, so that it forgets the initial weights.

    Args:
      half_life: h, in samples (EDM: 500,000).
      batch_size: B, samples a step.
      ramp_up: rho; None keeps h from the start.

    Returns:
      A function of the number of steps done, for `make_train_step`.

    Raises:
      ValueError: an argument is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import training
      >>> decay = training.ema_half_life(500_000, batch_size=512)
      >>> print(decay(jnp.array([0, 20, 10**6])).round(4))
      [0.     0.5    0.9993]

    References:
      Karras et al., 2022, arXiv:2206.00364, appendix F.2 and the authors' code.
    """
    _check.positive(half_life=half_life, batch_size=batch_size)
    if ramp_up is None:
        return lambda step: jnp.full(jnp.shape(step), 0.5 ** (batch_size / half_life))
    _check.positive(ramp_up=ramp_up)

    def decay(step: Array) -> Array:
        memory = jnp.minimum(half_life / batch_size, ramp_up * step)  # in steps
        return jnp.where(memory > 0, 0.5 ** (1 / jnp.where(memory > 0, memory, 1)), 0)

    return decay


def _without_nonfinite(grads: Params) -> tuple[Params, Array]:
    """Gradients as EDM has them, NaN as 0 and infinities clipped, and their number."""
    bad = [jnp.sum(~jnp.isfinite(leaf)) for leaf in jax.tree.leaves(grads)]
    grads = jax.tree.map(
        lambda leaf: jnp.nan_to_num(leaf, nan=0.0, posinf=1e5, neginf=-1e5), grads
    )
    return grads, jnp.asarray(sum(bad), jnp.float32)


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float | Callable[[Array], Array] = 0.999,
    skip_nonfinite: bool = False,
) -> Callable[[TrainState, PyTree, Key], tuple[TrainState, Metrics]]:
    """A step of gradient descent on the mean of a loss over a batch.

    Args:
      loss: function of `(params, batch, key)` that gives one value per sample, shape
        `(B,)`, or their mean.
      optimizer: any optax transformation.
      ema_decay: decay of the running average, or a function of the number of steps
        done, such as `ema_half_life` returns.
      skip_nonfinite: put 0 for NaN and 1e5 for infinity in the gradient, as EDM's code
        does for its half precision. By default a NaN shows in the metrics, and `fit`
        stops at it.

    Returns:
      A pure function `step(state, batch, key) -> (state, metrics)`, to be jitted or
      scanned; the state may be donated. The metrics are the scalars `loss` and
      `grad_norm`. With `skip_nonfinite` they also hold `nonfinite`, the number of
      entries replaced, and `loss` is averaged over the finite samples, 0 if there is
      none. Under `jax.jit` with a batch sharded over devices the mean is over the
      whole batch.

    Raises:
      ValueError: `ema_decay` is a number outside [0, 1].

    Not meant to be differentiated.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxdiv import training
      >>> sgd = optax.sgd(0.25)
      >>> step = training.make_train_step(
      ...     lambda w, batch, key: (w - batch) ** 2, sgd, ema_decay=0.5
      ... )
      >>> state = training.init_state(jnp.array(0.0), sgd)
      >>> state, metrics = step(state, jnp.array([1.0, 3.0]), jax.random.key(0))
      >>> print(state.params, state.ema, metrics["loss"])
      1.0 0.5 5.0

    References:
      Karras et al., 2022, arXiv:2206.00364, appendix F.
    """
    if not callable(ema_decay):
        _check.in_range(0.0, 1.0, closed=True, ema_decay=ema_decay)

    def mean_loss(params: Params, batch: PyTree, key: Key) -> tuple[Array, Array]:
        per_sample = loss(params, batch, key)
        return jnp.mean(per_sample), per_sample

    def step(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
        (value, per_sample), grads = jax.value_and_grad(mean_loss, has_aux=True)(
            state.params, batch, key
        )
        metrics = {"loss": value}
        if skip_nonfinite:
            finite = jnp.isfinite(per_sample)
            total = jnp.sum(jnp.where(finite, per_sample, 0))
            metrics["loss"] = total / jnp.maximum(jnp.sum(finite), 1)
            grads, metrics["nonfinite"] = _without_nonfinite(grads)
        metrics["grad_norm"] = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay(state.step) if callable(ema_decay) else ema_decay
        ema = ema_update(state.ema, params, decay)
        return TrainState(state.step + 1, params, ema, opt_state), metrics

    return step
