import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import divergence
from tests.cases import Bad, Case

LOGITS = (
    np.array([[0.3, -1.2, 2.0, 0.1], [0.0, 1.0, -0.5, 0.7]]),
    np.array([1.0, 0.2, -0.4, 0.6]),
)
LOG_RATIO = np.array([-3.0, -0.7, -0.01, 0.02, 0.4, 2.5])
DUAL = np.array([-1.4, -0.9, -0.75])  # inside every conjugate's domain


def from_logits(named):
    return lambda x, y: named(jax.nn.log_softmax(x), jax.nn.log_softmax(y))


def record(name, **parameters):
    div = divergence.get(name, **parameters)
    fields = (div.f, div.f_prime, div.f_second, div.weight, div.log_weight)
    return lambda ell: jnp.stack([field(ell) for field in fields])


def bad_logs(named):
    log_p = jnp.log(jnp.array([0.5, 0.5]))
    return (
        Bad(
            lambda: named(log_p, jnp.zeros((3,))), ValueError, ("log_p", "(2,)", "(3,)")
        ),
        Bad(lambda: named(jnp.array([1, 2]), log_p), TypeError, ("log_p", "int32")),
        Bad(lambda: named(jnp.float32(0), log_p), ValueError, ("scalar",)),
        Bad(lambda: named(log_p[:1], log_p), ValueError, ("1", "2", "categories")),
    )


NAMED = ("kl", "reverse_kl", "js")
CASES = [
    *(
        Case(
            f"jaxdiv.divergence.{name}",
            from_logits(getattr(divergence, name)),
            LOGITS,
            bad=bad_logs(getattr(divergence, name)),
        )
        for name in NAMED
    ),
    *(
        Case("jaxdiv.divergence.get", record(name), (LOG_RATIO,))
        for name in divergence.names()
        if name != "alpha"
    ),
    *(
        Case("jaxdiv.divergence.get", record("alpha", a=a), (LOG_RATIO,))
        for a in (-0.5, 0.3, 0.5, 0.9999, 2.0, 2.5)
    ),
    *(
        Case("jaxdiv.divergence.get", divergence.get(name).conjugate, (DUAL,))
        for name in divergence.names()
        if name not in ("alpha", "softened_rkl")
    ),
    Case(
        "jaxdiv.divergence.get",
        divergence.get("js").f,
        (LOG_RATIO,),
        bad=(
            Bad(lambda: divergence.get("jeffry"), ValueError, ("'jeffry'", "jeffreys")),
            Bad(lambda: divergence.get("alpha"), ValueError, ("a", "none")),
            Bad(lambda: divergence.get("alpha", a=float("nan")), ValueError, ("nan",)),
            Bad(lambda: divergence.get("kl", a=1.0), ValueError, ("kl", "a")),
            Bad(lambda: divergence.get("kl").f(jnp.array([1])), TypeError, ("int32",)),
        ),
    ),
    Case(
        "jaxdiv.divergence.names",
        divergence.names,
        (),
        order=0,
        transforms=False,
        dtypes=False,
    ),
    Case(
        "jaxdiv.divergence.FDivergence",
        divergence.get("kl").f,
        (LOG_RATIO,),
    ),
]
