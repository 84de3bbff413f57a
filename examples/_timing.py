"""Rivals compiled and timed in turns, in one process."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def compiled(f: Callable, *arguments: Any) -> tuple[Callable, float]:
    """The program for these arguments, and the seconds that its compilation took."""
    lowered = jax.jit(f).lower(*arguments)
    began = time.perf_counter()
    return lowered.compile(), time.perf_counter() - began


def best_of(
    rivals: Mapping[str, Callable], *arguments: Any, rounds: int
) -> dict[str, float]:
    """Least wall time of each in milliseconds, its turns spread over the rounds."""
    for run in rivals.values():
        jax.block_until_ready(run(*arguments))
    times = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            began = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            times[name].append(1e3 * (time.perf_counter() - began))
    return {name: min(values) for name, values in times.items()}
