"""The error of the log-Bessel functions against stored values of 60 digits.

In units of eps: of max(1, |log f|, w) where rounding the inputs alone moves the result
by w eps ("conditioned"), of max(1, |f|) ("absolute") or of f itself ("relative").
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import special
from jaxdiv.typing import Array

ROOT = pathlib.Path(__file__).parents[1]
STORED = np.load(ROOT / "tests" / "data" / "bessel_references.npz")
DTYPES = ("float64", "float32")
Function = Callable[[Array, Array], Array]


def in_order(f: Function) -> Function:
    """The v-derivative of an elementwise f(v, x)."""
    return lambda v, x: jax.jvp(lambda v: f(v, x), (v,), (jnp.ones_like(v),))[1]


def in_argument(f: Function) -> Function:
    """The x-derivative."""
    return lambda v, x: jax.jvp(lambda x: f(v, x), (x,), (jnp.ones_like(x),))[1]


def log_0f1(v: Array, x: Array) -> Array:
    """Log 0F1 of v and x, as it stands in log I."""
    return special.log_hyp0f1(v + 1, x * x / 4)


# of (v, x), the unit of their error, and its bound in each dtype
FUNCTIONS = {
    "log_i": (special.log_bessel_i, "conditioned", 4, 4),
    "log_k": (special.log_bessel_k, "conditioned", 5, 4),
    "ratio": (special.bessel_i_ratio, "relative", 2, 2),
    "complement": (special.bessel_i_ratio_complement, "relative", 40, 12),
    "k_ratio": (special.bessel_k_ratio, "relative", 10, 6),
    "log_i_v": (in_order(special.log_bessel_i), "absolute", 8, 5),
    "log_k_v": (in_order(special.log_bessel_k), "absolute", 16, 6),
    "ratio_x": (in_argument(special.bessel_i_ratio), "relative", 20, 20),
    "log_hyp0f1": (log_0f1, "relative", 5, 5),
}


def errors(actual: Any, name: str, dtype: str, unit: str) -> np.ndarray:
    """Errors in units of eps, where the reference is in the range of the dtype."""
    exact = STORED[f"{dtype}/{name}"]
    info = np.finfo(dtype)
    points = STORED[f"{dtype}/points"].astype(np.float64)
    w = np.hypot(*points.T)
    scale = {
        "conditioned": np.maximum(np.maximum(1, np.abs(exact)), w),
        "absolute": np.maximum(1, np.abs(exact)),
        "relative": np.abs(exact),
    }[unit]
    rest = STORED[f"{dtype}/{name}/rest"]
    in_range = (exact == 0) | (np.abs(exact) > 100 * info.tiny)
    in_range &= np.abs(exact) < info.max
    error = np.abs(np.asarray(actual, np.float64) - exact - rest)
    return error[in_range] / np.where(scale == 0, 1, scale)[in_range] / info.eps
