"""The training loop: batches, chunks, progress, checkpoints, Ctrl-C, divergence."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdiv import loop
from jaxdiv.training import _progress, _sharding
from jaxdiv.training._interrupt import deferred_interrupt
from jaxdiv.training._run_folder import History, RunFolder
from jaxdiv.typing import Array, Key, PyTree

Step = Callable[[PyTree, PyTree, Key], tuple[PyTree, dict[str, Array]]]


class FitResult(NamedTuple):
    """What a run has come to.

    Attributes:
      state: state after the last step.
      history: every metric as an array with one entry a step, from step 0, also of
        the steps done before the run was resumed.
      start: number of steps that this run found done in its checkpoint, else 0.
    """

    state: PyTree
    history: History
    start: int


class DivergedError(FloatingPointError):
    """A step gave a metric that is not finite; it was undone and the run ended.

    Attributes:
      result: `FitResult` up to the last finite step.
    """

    def __init__(self, message: str, result: FitResult) -> None:
        super().__init__(message)
        self.result = result


class InterruptedRunError(KeyboardInterrupt):
    """A run was ended by Ctrl-C, between two steps.

    Attributes:
      result: `FitResult` up to the last step done.
    """

    def __init__(self, message: str, result: FitResult) -> None:
        super().__init__(message)
        self.result = result


def _with_batch(step: Step, batch_size: int | None, mesh: Mesh | None) -> Callable:
    """The step as `loop.chunks` calls it: it draws its own batch from the data."""

    def numbered(state: PyTree, i: Array, context: tuple) -> tuple:
        data, key = context
        key_batch, key_step = jax.random.split(jax.random.fold_in(key, i))
        if batch_size is not None:
            size = jax.tree.leaves(data)[0].shape[0]
            index = jax.random.randint(key_batch, (batch_size,), 0, size)
            data = jax.tree.map(lambda x: x[index], data)
        if mesh is None:
            return step(state, data, key_step)
        data = jax.lax.with_sharding_constraint(data, _sharding.split(mesh))
        state, metrics = step(state, data, key_step)
        # Left to itself the compiler may split the state over the devices.
        whole = jax.lax.with_sharding_constraint(state, _sharding.replicated(mesh))
        return whole, metrics

    return numbered


def _check_arguments(
    data: PyTree, steps: int, batch_size: int | None, mesh: Mesh | None
) -> None:
    if steps < 0:
        raise ValueError(f"steps is {steps}; expected at least 0.")
    if (data is None) != (batch_size is None):
        raise ValueError(
            "data and batch_size go together: give both, or neither for a step that "
            "makes its own batch from its key."
        )
    if batch_size is not None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
        _sharding.leading_size(data=data)
        if mesh is not None:
            _sharding.check_divides(mesh, batch_size)


def _joined(parts: list[History]) -> History:
    names = parts[0] if parts else ()
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _mean_loss(metrics: History) -> dict[str, float]:
    """What the progress bar shows of a chunk."""
    loss = metrics.get("loss", np.empty(0))
    return {"loss": float(loss.mean())} if loss.size else {}


def _fingerprint(context: tuple, batch_size: int | None) -> dict[str, Any]:
    """What must be the same for a resumed run to go on as it would have."""
    data, key = context
    return {
        "batch_size": batch_size,
        "data": [[*x.shape, x.dtype.name] for x in jax.tree.leaves(data)],
        "key": jax.random.key_data(key).tolist(),
    }


def _nonfinite(step: Callable, state: PyTree, i: int, context: PyTree) -> str:
    """The names of the metrics that are not finite at step `i`."""
    _, metrics = jax.jit(step)(state, jnp.int32(i), context)
    bad = [name for name, x in metrics.items() if not np.isfinite(x).all()]
    return ", ".join(bad) or "metric"


def _diverged(done: int, names: str, folder: RunFolder) -> str:
    where = folder.where(done)
    saved = f" The state before it is saved in {where}." if where else ""
    return (
        f"Step {done} gave a value that is not finite ({names}) and was undone.{saved} "
        "The same run fails again at this step: change the learning rate or the loss, "
        "or clip the gradient."
    )


def _interrupted(done: int, steps: int, folder: RunFolder) -> str:
    where = folder.where(done)
    saved = (
        f"They are saved in {where}; go on with resume=True."
        if where
        else "Nothing was saved: give a checkpoint_dir."
    )
    return f"Interrupted: {done} of {steps} steps are done. {saved}"


def fit(
    step: Step,
    state: PyTree,
    data: PyTree,
    key: Key,
    *,
    steps: int,
    batch_size: int | None = None,
    chunk: int = 100,
    checkpoint_dir: str | os.PathLike | None = None,
    checkpoint_every: int = 1000,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    progress: str | None = None,
    mesh: Mesh | None = None,
) -> FitResult:
    """Runs `state, metrics = step(state, batch, key)` until `steps` steps are done.

    The batch of step i is `batch_size` indices drawn with replacement from
    `fold_in(key, i)`, inside the compiled program: a run depends on the state, the
    data and the key, not on where it was interrupted, and on `chunk` only by rounding.

    A step with a metric that is not finite is undone and ends the run. The first
    Ctrl-C ends it after the running chunk, a second one at once. Either way a
    checkpoint of the last good state is written first.

    Args:
      step: pure function, as `make_train_step` and `jaxdiv.diffusion.make_step` return;
        its metrics are a dict of scalars.
      state: any pytree of arrays; it is copied.
      data: pytree of arrays with a common leading axis, held on the device; None for
        a step that needs no batch.
      key: key of the run.
      steps: number of steps, those of a resumed checkpoint included.
      batch_size: rows of `data` a step; None without data.
      chunk: steps a dispatch. A second's worth hides the cost of dispatch and keeps
        Ctrl-C quick.
      checkpoint_dir: folder of the run's checkpoints, state and history, of which the
        last two are kept; None writes none.
      checkpoint_every: steps between two checkpoints, rounded up to whole chunks; one
        more is written at the end.
      resume: go on from the last checkpoint, bit for bit, or start if there is none.
      settings: numbers and strings of the run that are stored with its checkpoints
        (learning rate, length of a schedule); a resumed run must have the same, and
        the same key, batch size and shapes of the data.
      progress: label of a progress bar on stderr, or, where that is not a terminal,
        of one line in ten seconds; None shows nothing.
      mesh: devices to divide every batch over, from `data_mesh`; state and data are
        then held on each.

    Returns:
      `FitResult`.

    Raises:
      DivergedError: a metric was not finite; the message names it, the step and the
        checkpoint.
      ImportError: orbax (checkpoints) or tqdm (progress) is not installed.
      InterruptedRunError: Ctrl-C; the message says how to go on.
      ValueError: an argument is out of range; the folder holds another run, or this
        one and `resume` is False.

    Not differentiable.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxdiv import training
      >>> sgd = optax.sgd(0.1)
      >>> step = training.make_train_step(lambda w, batch, key: (w - batch) ** 2, sgd)
      >>> state = training.init_state(jnp.array(0.0), sgd)
      >>> result = training.fit(
      ...     step, state, jnp.ones(10), jax.random.key(0), steps=50, batch_size=4
      ... )
      >>> print(f"{result.state.params:.4f} {result.history['loss'].shape}")
      1.0000 (50,)
    """
    _check_arguments(data, steps, batch_size, mesh)
    numbered = _with_batch(step, batch_size, mesh)
    context = (jax.tree.map(jnp.asarray, data), key)
    if mesh is not None:
        state, context = jax.device_put((state, context), _sharding.replicated(mesh))
    folder = RunFolder(
        checkpoint_dir,
        every=checkpoint_every,
        settings=_fingerprint(context, batch_size) | dict(settings or {}),
    )
    start, state, history = folder.load(
        state,
        lambda: jax.eval_shape(numbered, state, jnp.int32(0), context)[1],
        resume=resume,
        steps=steps,
    )
    done, finite = start, True
    with (
        deferred_interrupt() as interrupted,
        _progress.reporter(progress, start, steps) as report,
    ):
        for part in loop.chunks(
            numbered, state, steps=steps, start=start, size=chunk, context=context
        ):
            done, state, metrics, finite = part
            history.append(jax.tree.map(np.asarray, metrics))
            report(done, _mean_loss(history[-1]))
            ends = interrupted() or not finite or done == steps
            if ends or folder.due(done):
                folder.save(done, state, _joined(history))
            if ends:
                break
    result = FitResult(state, _joined(history), start)
    if not finite:
        names = _nonfinite(numbered, state, done, context)
        raise DivergedError(_diverged(done, names, folder), result)
    if interrupted():
        raise InterruptedRunError(_interrupted(done, steps, folder), result)
    return result
