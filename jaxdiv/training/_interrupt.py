"""Ctrl-C between two chunks of a run instead of inside one."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C has been pressed; a second one interrupts at once.

    The state is donated to the running chunk: an exception inside it would lose it.
    """
    seen = []

    def handler(signum: int, frame: FrameType | None) -> None:
        if seen:
            signal.default_int_handler(signum, frame)
        seen.append(signum)

    # Other threads get no signals, and a handler of the application stays its own.
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: bool(seen)
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
