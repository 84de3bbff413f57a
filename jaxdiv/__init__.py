"""Divergences between distributions in JAX.

`import jaxdiv as jd`, then `jd.divergence.js(log_p, log_q)`,
`jd.transport.sinkhorn(x, y, eps=0.05)`, `jd.diffusion.sample(...)`. A subpackage is
imported when it is first asked for; what `jaxdiv` itself imports is JAX and NumPy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdiv import (
        datasets,
        diffusion,
        discrepancy,
        distributions,
        divergence,
        implicit,
        loop,
        metrics,
        networks,
        special,
        training,
        transport,
        typing,
    )

__version__ = "0.1.0"
__all__ = [
    "datasets",
    "diffusion",
    "discrepancy",
    "distributions",
    "divergence",
    "implicit",
    "loop",
    "metrics",
    "networks",
    "special",
    "training",
    "transport",
    "typing",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"jaxdiv.{name}")
    raise AttributeError(f"module 'jaxdiv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
