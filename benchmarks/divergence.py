"""Divergences side by side with optax, scipy, ott-jax and dcor, on this machine.

    python -m benchmarks.divergence

Four tables: who is right at the boundary, the time of elementwise divergences, the
memory of a distillation loss over a vocabulary, and distance covariance. Errors are
relative, against 50 digits. Times are the best of several interleaved runs, so that a
busy machine slows all alike; a ratio is the time, or memory, of jaxdiv over the peer's.
"""

import functools
import math
from collections.abc import Callable

import dcor
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import ott.math.utils
import scipy.special
from optax import losses

from examples._report import print_table
from examples._timing import best_of
from jaxdiv import discrepancy, divergence
from jaxdiv.typing import Array

Pair = tuple[Array, Array]
MIB = 2**20


def boundary_cases() -> dict[str, Pair]:
    """Pairs of float32 logits; `-inf` is a zero of the law."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(1000).astype(np.float32)
    y = rng.standard_normal(1000).astype(np.float32)
    near = x + 1e-4 * rng.standard_normal(1000).astype(np.float32)
    masked = rng.random(1000) < 0.3
    with np.errstate(divide="ignore"):
        cases = {
            "zero in p": (np.log([0.5, 0.5, 0.0]), np.log([0.4, 0.4, 0.2])),
            "zero in q": (np.log([0.4, 0.4, 0.2]), np.log([0.5, 0.5, 0.0])),
            "zero in both": (np.log([0.5, 0.5, 0.0]), np.log([0.7, 0.3, 0.0])),
        }
    cases |= {
        "-inf logits, 300 of 1000": (
            np.where(masked, -np.inf, x),
            np.where(masked, -np.inf, y),
        ),
        "q below float32": (np.array([0.0, 0.0]), np.array([0.0, -200.0])),
        "1e-4 apart": (x, near),
        "far apart": (3 * x, 3 * y),
    }
    return {
        name: (jnp.asarray(p, jnp.float32), jnp.asarray(q, jnp.float32))
        for name, (p, q) in cases.items()
    }


def exact_kl(logits: Pair) -> float:
    """KL of the softmax laws in 50 digits."""

    def law(x: Array) -> list:
        weights = [mpmath.exp(mpmath.mpf(float(v))) for v in x]
        total = mpmath.fsum(weights)
        return [w / total for w in weights]

    with mpmath.workdps(50):
        pairs = [(a, b) for a, b in zip(*map(law, logits), strict=True) if a > 0]
        if any(b == 0 for _, b in pairs):
            return math.inf
        return float(mpmath.fsum(a * mpmath.log(a / b) for a, b in pairs))


def unchanged(logits: Pair) -> Pair:
    return logits


def log_laws(logits: Pair) -> Pair:
    p, q = (jax.nn.log_softmax(x) for x in logits)
    return p, q


def laws(logits: Pair) -> Pair:
    p, q = (jax.nn.softmax(x) for x in logits)
    return p, q


def half_log_laws(logits: Pair) -> Pair:
    return jax.nn.softmax(logits[0]), jax.nn.log_softmax(logits[1])


# What it is given, and its KL(p || q).
KLS: dict[str, tuple[Callable[[Pair], Pair], Callable]] = {
    "jaxdiv kl": (log_laws, divergence.kl),
    "jaxdiv from_logits": (
        unchanged,
        functools.partial(divergence.from_logits, div="kl"),
    ),
    "optax log targets": (
        log_laws,
        lambda p, q: losses.kl_divergence_with_log_targets(q, p),
    ),
    "optax": (half_log_laws, lambda p, q: losses.kl_divergence(q, p)),
    "ott kl": (laws, ott.math.utils.kl),
    "ott gen_kl": (laws, ott.math.utils.gen_kl),
    "scipy rel_entr": (laws, lambda p, q: np.sum(scipy.special.rel_entr(p, q))),
    "scipy kl_div": (laws, lambda p, q: np.sum(scipy.special.kl_div(p, q))),
}


def error(value: float, exact: float) -> str:
    """Relative error, or the value itself where only one of the two is finite."""
    if math.isfinite(value) and math.isfinite(exact):
        return f"{abs(value - exact) / exact:.0e}"
    return "right" if value == exact else f"{value:.3g}!"


def slopes_finite(kl: Callable, inputs: Pair) -> bool:
    slopes = jax.jit(jax.grad(kl, (0, 1)))(*inputs)
    return all(bool(jnp.all(jnp.isfinite(s))) for s in slopes)


def boundary() -> None:
    rows = []
    for case, logits in boundary_cases().items():
        exact = exact_kl(logits)
        row = [case, f"{exact:.6g}"]
        for name, (form, kl) in KLS.items():
            inputs = form(logits)
            cell = error(float(kl(*inputs)), exact)
            if not name.startswith("scipy") and math.isfinite(exact):
                cell += ", yes" if slopes_finite(kl, inputs) else ", NO"
            row.append(cell)
        rows.append(row)
    print("KL in float32: relative error, and is the gradient in its inputs finite?")
    print("A value marked ! is wrong altogether.")
    print_table(("case", "exact", *KLS), rows)


def optax_kl(log_p: Array, log_q: Array) -> Array:
    return losses.kl_divergence_with_log_targets(log_q, log_p)


def naive_js(log_p: Array, log_q: Array) -> Array:
    log_m = jnp.logaddexp(log_p, log_q) - math.log(2)
    return (optax_kl(log_p, log_m) + optax_kl(log_q, log_m)) / 2


def after_softmax(kl: Callable, *logits: Array) -> Array:
    return kl(*(jax.nn.log_softmax(x) for x in logits))


# Optax's slope in log q is -p, jaxdiv's q - p: the same after log_softmax.
def slope_in_q(kl: Callable, p: Array, q: Array) -> tuple[Array, Array]:
    return jax.value_and_grad(lambda q: jnp.mean(kl(p, q)))(q)


def times() -> None:
    logits_kl = functools.partial(divergence.from_logits, div="kl")
    logits_peer = functools.partial(after_softmax, optax_kl)
    tasks = {
        "KL": (divergence.kl, optax_kl),
        "JS": (divergence.js, naive_js),
        "KL from logits": (logits_kl, logits_peer),
        "KL and gradient": tuple(
            functools.partial(slope_in_q, f) for f in (divergence.kl, optax_kl)
        ),
        "KL from logits and gradient": tuple(
            functools.partial(slope_in_q, f) for f in (logits_kl, logits_peer)
        ),
    }
    rows = []
    for shape in [(4096, 1000), (64, 128000), (100000, 10)]:
        logits = [jax.random.normal(jax.random.key(i), shape) for i in range(2)]
        inputs = [jax.nn.log_softmax(x) for x in logits]
        for task, rivals in tasks.items():
            given = logits if "logits" in task else inputs
            runs = {
                who: functools.partial(jax.jit(f), *given)
                for who, f in zip(("jaxdiv", "peer"), rivals, strict=True)
            }
            t = best_of(runs, rounds=9)
            rows.append([task, shape, *t.values(), t["jaxdiv"] / t["peer"]])
    print("Time, float32; the peer is optax's KL of log targets, for JS two of them:")
    print_table(("task", "shape", "jaxdiv ms", "peer ms", "ratio"), rows)


def heads(n: int, v: int, d: int) -> tuple[list[Array], list[Array]]:
    """Hidden states and output matrix of the student, and those of the teacher."""
    keys = jax.random.split(jax.random.key(0), 4)
    hidden_s, hidden_t = (jax.random.normal(k, (n, d)) for k in keys[:2])
    head_s, head_t = (jax.random.normal(k, (d, v)) / math.sqrt(d) for k in keys[2:])
    return [hidden_s, head_s], [hidden_t, head_t]


def chunked_loss(student: list[Array], teacher: list[Array], *, div: str) -> Array:
    n = len(student[0])
    weights = jnp.full(n, 1 / n)
    return divergence.linear_divergence(*student, *teacher, div, weights=weights)


def whole_loss(student: list[Array], teacher: list[Array], *, div: str) -> Array:
    p, q = teacher[0] @ teacher[1], student[0] @ student[1]
    return jnp.mean(divergence.from_logits(p, q, div))


def optax_loss(student: list[Array], teacher: list[Array], *, div: str) -> Array:
    p, q = teacher[0] @ teacher[1], student[0] @ student[1]
    formula = {"reverse_kl": lambda p, q: optax_kl(q, p), "js": naive_js}[div]
    return jnp.mean(after_softmax(formula, p, q))


def compiled_step(loss: Callable, div: str, models: tuple) -> tuple[Callable, float]:
    """A compiled value and gradient in the student, and its temporary bytes."""
    step = jax.jit(jax.value_and_grad(functools.partial(loss, div=div)))
    step = step.lower(*models).compile()
    return step, step.memory_analysis().temp_size_in_bytes


def gradient_gap(ours: tuple, peer: tuple) -> float:
    """Relative difference of the gradients, the larger of the two arrays'."""
    gaps = [
        jnp.linalg.norm(a - b) / jnp.linalg.norm(b)
        for a, b in zip(ours[1], peer[1], strict=True)
    ]
    return float(max(gaps))


def distillation() -> None:
    rows = []
    n, v, d = 1024, 32000, 512
    models = heads(n, v, d)
    losses_of = {"chunked": chunked_loss, "whole": whole_loss, "optax": optax_loss}
    for div in ("reverse_kl", "js"):
        steps, sizes = {}, {}
        for who, loss in losses_of.items():
            step, sizes[who] = compiled_step(loss, div, models)
            steps[who] = functools.partial(step, *models)
        t = best_of(steps, rounds=3)
        results = {who: step() for who, step in steps.items()}
        for who in losses_of:
            gap = gradient_gap(results["chunked"], results[who])
            rows.append(
                [
                    *(div, who, n, v, sizes[who] / MIB, t[who]),
                    *(sizes[who] / sizes["chunked"], t["chunked"] / t[who], gap),
                ]
            )
    n, v = 512, 128000
    models = heads(n, v, d)
    for div in ("reverse_kl", "js"):
        step, size = compiled_step(chunked_loss, div, models)
        t = best_of({"chunked": functools.partial(step, *models)}, rounds=1)
        rows.append([div, "chunked", n, v, size / MIB, t["chunked"], "", "", ""])
    print(f"Value and gradient of a mean divergence of two heads, D = {d}, float32;")
    print("chunked: linear_divergence; whole: from_logits; optax: log_softmax, its KL.")
    print("The gradient, an array D x V, comes on top of the temporary memory in all.")
    print_table(
        (
            *("divergence", "form", "N", "V", "temp MiB", "ms"),
            *("memory x", "chunked/its time", "gradient differs"),
        ),
        rows,
    )


def covariance() -> None:
    rows = []
    ours = functools.partial(
        discrepancy.distance_covariance_sqr, estimator="v", method="fast"
    )
    for n in (1000, 10_000, 100_000):
        rng = np.random.default_rng(0)
        x = rng.standard_normal(n)
        y = np.sin(2 * x) + rng.standard_normal(n)
        runs = {"jaxdiv": functools.partial(jax.jit(ours), jnp.asarray(x), y)} | {
            who: functools.partial(dcor.distance_covariance_sqr, x, y, method=who)
            for who in ("mergesort", "avl")
        }
        t = best_of(runs, rounds=5)
        value = float(runs["jaxdiv"]())
        for who in ("mergesort", "avl"):
            peer = float(runs[who]())
            rows.append(
                [
                    *(n, who, value, abs(value - peer) / peer),
                    *(t["jaxdiv"], t[who], t["jaxdiv"] / t[who]),
                ]
            )
    print("Squared distance covariance, one-dimensional, float64, against dcor:")
    print_table(
        ("n", "dcor method", "value", "differs", "jaxdiv ms", "dcor ms", "ratio"), rows
    )


def main() -> None:
    boundary()
    print(flush=True)
    times()
    print(flush=True)
    distillation()
    print(flush=True)
    with jax.enable_x64(True):  # noqa: FBT003
        covariance()


if __name__ == "__main__":
    main()
