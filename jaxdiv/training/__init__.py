"""Training: a step with a running average, the loop around it, checkpoints, devices.

`pip install "jaxdiv[train]"` brings orbax, which writes the checkpoints, and tqdm,
which draws the progress bar; each is imported when it is first needed.
"""

from jaxdiv.training._checkpoint import restore, save
from jaxdiv.training._fit import DivergedError, FitResult, InterruptedRunError, fit
from jaxdiv.training._sharding import data_mesh, shard_batch
from jaxdiv.training._step import (
    TrainState,
    ema_half_life,
    ema_update,
    init_state,
    make_train_step,
)

__all__ = [
    "DivergedError",
    "FitResult",
    "InterruptedRunError",
    "TrainState",
    "data_mesh",
    "ema_half_life",
    "ema_update",
    "fit",
    "init_state",
    "make_train_step",
    "restore",
    "save",
    "shard_batch",
]
