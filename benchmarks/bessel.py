"""log-Bessel functions side by side with SciPy, TFP and the paper's expansions.

    python -m benchmarks.bessel

Process time per element, best of 7, of arrays of 2e5 elements in one process: SciPy
runs on one core, and what XLA spreads over several is counted in full. Errors are in
units of eps max(1, abs(log f), w), against 60 digits; "lost" is the share of a log grid
where a peer is not finite.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from benchmarks._bessel_accuracy import DTYPES, STORED, errors
from benchmarks._bessel_accuracy import FUNCTIONS as ACCURACY
from examples._report import print_table
from examples._timing import compiled
from jaxdiv import special

N = 200_000
ROUNDS = 7
BOXES = ((0.0, 150.0), (150.0, 1e4))


def scipy_log_i(v: Any, x: Any) -> Any:
    return np.log(scipy.special.ive(v, x)) + x


def scipy_log_k(v: Any, x: Any) -> Any:
    return np.log(scipy.special.kve(v, x)) - x


def scipy_ratio(v: Any, x: Any) -> Any:
    return scipy.special.ive(v + 1, x) / scipy.special.ive(v, x)


def plesner(f: Callable) -> Callable:
    return lambda v, x: f(v, x, method="plesner2024")


FUNCTIONS = {
    "log I": (special.log_bessel_i, scipy_log_i),
    "log K": (special.log_bessel_k, scipy_log_k),
    "ratio": (special.bessel_i_ratio, scipy_ratio),
}


def tfp_functions() -> dict[str, Callable]:
    """TFP's functions of the same names; none where it does not import."""
    try:
        from tensorflow_probability.substrates import jax as tfp

        return {
            "log I": lambda v, x: jnp.log(tfp.math.bessel_ive(v, x)) + x,
            "log K": tfp.math.log_bessel_kve,
            "ratio": tfp.math.bessel_iv_ratio,
        }
    except Exception as error:  # whatever an installation that does not fit raises
        print(f"TFP does not import here: {type(error).__name__}: {error}\n")
        return {}


def nanoseconds(run: Callable, *arguments: Any, rounds: int = ROUNDS) -> float:
    """Least process time per element."""
    jax.block_until_ready(run(*arguments))
    best = np.inf
    for _ in range(rounds):
        began = time.process_time()
        jax.block_until_ready(run(*arguments))
        best = min(best, time.process_time() - began)
    return 1e9 * best / arguments[-1].size


def speed(tfp: dict[str, Callable]) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for box in BOXES:
        v, x = rng.uniform(*box, (2, N))
        for name, (ours, theirs) in FUNCTIONS.items():
            with np.errstate(all="ignore"):
                whole = np.isfinite(theirs(v, x))  # it returns sooner where it fails
                scipy_time = nanoseconds(theirs, v[whole], x[whole], rounds=3)
            for dtype in (jnp.float64, jnp.float32):
                a, b = jnp.asarray(v, dtype), jnp.asarray(x, dtype)
                run, _ = compiled(ours, a, b)
                static, _ = compiled(lambda x, f=ours: f(150, x), b)
                t, fast = nanoseconds(run, a, b), nanoseconds(static, b)
                peer = "-"
                if name in tfp:
                    peer = nanoseconds(jax.jit(tfp[name]), a, b, rounds=3) / t
                row = [name, f"[{box[0]:g}, {box[1]:g}]^2", jnp.dtype(dtype).name]
                row += [t, scipy_time / t, fast, scipy_time / fast, peer]
                rows.append(row)
    header = ("function", "box", "dtype", "ns", "SciPy / ours", "order 150 ns")
    print("Process time per element; the others' over ours.")
    print_table((*header, "SciPy / that", "TFP / ours"), rows)


def derivatives() -> None:
    rows, v, x = [], jnp.float64(2.25), jnp.float64(3.75)
    for name, (f, _) in {
        **FUNCTIONS,
        "K ratio": (special.bessel_k_ratio, None),
    }.items():
        value = compiled(f, v, x)[1]
        gradient = compiled(jax.value_and_grad(f, (0, 1)), v, x)[1]
        hessian = compiled(jax.hessian(f, (0, 1)), v, x)[1]
        rows.append([name, value, gradient, hessian])
    print("\nSeconds to compile a value, value and gradient, and a hessian, in (v, x).")
    print_table(("function", "value", "gradient", "hessian"), rows)


def grid() -> tuple[np.ndarray, ...]:
    v = np.concatenate([[0.0], np.geomspace(1e-3, 1e5, 40)])
    return tuple(c.ravel() for c in np.meshgrid(v, np.geomspace(1e-10, 1e6, 41)))


def accuracy(tfp: dict[str, Callable]) -> None:
    v, x = grid()
    at = STORED["float64/points"].T
    rows = []
    for name, key in (("log I", "log_i"), ("log K", "log_k")):
        ours, theirs = FUNCTIONS[name]
        rivals = {"jaxdiv": ours, "plesner2024": plesner(ours), "SciPy": theirs}
        if name in tfp:
            rivals["TFP"] = tfp[name]
        for who, f in rivals.items():
            with np.errstate(all="ignore"):
                lost = 1 - np.isfinite(f(v, x)).mean()
                error = errors(f(*at), key, "float64", "conditioned")
            rows.append([name, who, f"{lost:.1%}", np.max(error[np.isfinite(error)])])
    print(
        "\nPoints lost of the grid 0 <= v <= 1e5, 1e-10 <= x <= 1e6; the largest error"
    )
    print("in conditioned units of eps at the points of the tests, where not lost.")
    print_table(("function", "who", "lost", "error"), rows)


def own_accuracy() -> None:
    rows = []
    for name, (f, unit, *_) in ACCURACY.items():
        row = [name, unit]
        for dtype in DTYPES:
            v, x = (jnp.asarray(column) for column in STORED[f"{dtype}/points"].T)
            row.append(float(errors(jax.jit(f)(v, x), name, dtype, unit).max()))
        rows.append(row)
    print("\nLargest error of ours at the points of the tests, in eps of its unit;")
    print("_v and _x are derivatives.")
    print_table(("function", "unit", *DTYPES), rows)


def main() -> None:
    with jax.enable_x64(True):  # noqa: FBT003
        tfp = tfp_functions()
        speed(tfp)
        derivatives()
        accuracy(tfp)
        own_accuracy()


if __name__ == "__main__":
    main()
