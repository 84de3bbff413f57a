"""The folder of a run: its last two checkpoints, each with the history up to it."""

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxdiv.training import _checkpoint
from jaxdiv.typing import PyTree

_KEPT = 2
_UNFINISHED = "*.orbax-checkpoint-tmp*"  # what a killed process leaves

History = dict[str, np.ndarray]


class RunFolder:
    """Checkpoints `<folder>/<number of steps>` of one run; without a path, nothing."""

    def __init__(
        self,
        path: str | os.PathLike | None,
        *,
        every: int,
        settings: Mapping[str, Any],
    ) -> None:
        self._path = None if path is None else pathlib.Path(path).expanduser()
        self._every = every
        self._settings = json.loads(json.dumps(settings))  # as it will be read back
        self._last = 0

    def _steps(self) -> list[int]:
        if self._path is None or not self._path.is_dir():
            return []
        return sorted(int(p.name) for p in self._path.iterdir() if p.name.isdigit())

    def _at(self, step: int) -> pathlib.Path:
        assert self._path is not None
        return self._path / f"{step:08d}"

    def load(
        self, state: PyTree, metrics: Callable[[], PyTree], *, resume: bool, steps: int
    ) -> tuple[int, PyTree, list[History]]:
        """Steps done, state and history so far; `metrics` gives those of one step."""
        found = self._steps()
        if not found:
            return 0, state, []
        last = found[-1]
        if not resume:
            raise ValueError(
                f"{self._path} holds a run of {last} steps: go on with it by "
                "resume=True, or choose another checkpoint_dir, or delete it."
            )
        if last > steps:
            raise ValueError(
                f"{self._path} holds a run of {last} steps; expected at most "
                f"steps = {steps}."
            )
        self._check_settings(last)
        history = {
            name: np.empty((last, *x.shape), x.dtype) for name, x in metrics().items()
        }
        like = {"state": state, "history": history}
        saved = _checkpoint.restore(self._at(last), like)
        self._last = last
        return last, saved["state"], [saved["history"]]

    def _check_settings(self, step: int) -> None:
        _, saved = _checkpoint.read_metadata(self._at(step))
        differences = [
            f"{name}: saved {saved.get(name)}, now {self._settings.get(name)}"
            for name in sorted(saved.keys() | self._settings.keys())
            if saved.get(name) != self._settings.get(name)
        ]
        if differences:
            raise ValueError(
                f"{self._path} holds a run with other settings:\n  "
                + "\n  ".join(differences)
                + "\nResume with the saved ones, or choose another checkpoint_dir."
            )

    def due(self, done: int) -> bool:
        """Whether a multiple of `every` lies between the last checkpoint and here."""
        return (
            self._path is not None and done // self._every > self._last // self._every
        )

    def save(self, done: int, state: PyTree, history: History) -> None:
        """Writes a checkpoint unless there is one of this step; drops the oldest."""
        if self._path is None or done == self._last:
            return
        if jax.process_index() == 0:
            for unfinished in self._path.glob(_UNFINISHED):
                shutil.rmtree(unfinished, ignore_errors=True)
        tree = {"state": state, "history": history}
        _checkpoint.write(self._at(done), tree, self._settings)
        self._last = done
        if jax.process_index() == 0:
            for old in self._steps()[:-_KEPT]:
                shutil.rmtree(self._at(old))

    def where(self, done: int) -> pathlib.Path | None:
        """The checkpoint after `done` steps, if it has been written."""
        return self._at(done) if done and done == self._last else None
