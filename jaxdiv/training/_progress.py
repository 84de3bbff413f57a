"""What a run shows while it runs: a bar on a terminal, a line now and then in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from jaxdiv.training import _extra

_LOG_SECONDS = 10.0  # the least time between two lines in a log

Report = Callable[[int, dict[str, float]], None]


@contextlib.contextmanager
def reporter(label: str | None, start: int, steps: int) -> Iterator[Report]:
    """A function to call with the number of steps done and numbers to show."""
    if label is None:
        yield lambda done, numbers: None
    elif sys.stderr.isatty():
        tqdm = _extra.load("tqdm").tqdm
        with tqdm(total=steps, initial=start, desc=label, unit="step") as bar:
            yield lambda done, numbers: _advance(bar, done, numbers)
    else:
        yield _log(label, start, steps)


def _advance(bar, done: int, numbers: dict[str, float]) -> None:  # noqa: ANN001
    bar.set_postfix({name: f"{x:.4g}" for name, x in numbers.items()}, refresh=False)
    bar.update(done - bar.n)


def _log(label: str, start: int, steps: int) -> Report:
    began = last = time.monotonic()

    def report(done: int, numbers: dict[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _LOG_SECONDS and done < steps:
            return
        last = now
        rate = (done - start) / max(now - began, 1e-9)
        shown = "".join(f", {name} {x:.4g}" for name, x in numbers.items())
        sys.stderr.write(f"{label}: {done}/{steps} steps{shown}, {rate:.3g} steps/s\n")
        sys.stderr.flush()

    return report
