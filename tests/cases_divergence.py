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
FIELDS = ("f", "f_prime", "f_second", "weight", "log_weight")

PLAIN = (
    "bhattacharyya", "chernoff_information", "jeffreys", "js", "kl", "le_cam",
    "neyman_chi2", "pearson_chi2", "reverse_kl", "softened_rkl", "squared_hellinger",
    "total_variation", "vincze_le_cam",
)  # fmt: skip
WEIGHTED = ("generalized_js", "skew_kl", "skew_rkl")
ORDERED = {"alpha": (-0.5, 1.0, 2.0), "chernoff": (0.4,), "renyi": (0.4, 1.0, 2.0),
           "tsallis": (0.4, 1.0)}  # fmt: skip
FAMILIES = {"alpha": "a", "gjs": "w", "skew_kl": "w", "skew_rkl": "w"}
FIXED = [name for name in divergence.names() if name not in FAMILIES]


def from_logits(named, *parameters):
    return lambda x, y, *more: named(
        jax.nn.log_softmax(x), jax.nn.log_softmax(y), *parameters, *more
    )


def fields(record):
    return lambda ell: jnp.stack([getattr(record, field)(ell) for field in FIELDS])


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


def bad_parameter(named, value, words):
    log_p = jnp.log(jnp.array([0.5, 0.5]))
    return (Bad(lambda: named(log_p, log_p, value), ValueError, words),)


def named(name):
    return getattr(divergence, name)


KL = divergence.get("kl")
MINE = KL._replace(terms=None)
LAWS = (np.array([0.3, -1.2, 2.0]), np.array([1.0, 0.2, -0.4]))
CASES = [
    *(
        Case(
            f"jaxdiv.divergence.{name}",
            from_logits(named(name)),
            LOGITS,
            bad=bad_logs(named(name)),
        )
        for name in PLAIN
    ),
    *(
        Case(
            f"jaxdiv.divergence.{name}",
            from_logits(named(name)),
            (*LAWS, np.array(0.2)),
            bad=bad_parameter(named(name), 1.0, ("w", "1.0")),
        )
        for name in WEIGHTED
    ),
    *(
        Case(
            f"jaxdiv.divergence.{name}",
            from_logits(named(name)),
            (*LAWS, np.array(a)),
            bad=bad_parameter(named(name), float("nan"), ("a", "nan")),
        )
        for name, orders in ORDERED.items()
        for a in orders
    ),
    Case(
        "jaxdiv.divergence.renyi",
        from_logits(divergence.renyi, jnp.inf),
        LAWS,
        order=1,
        bad=bad_parameter(divergence.renyi, -0.1, ("a", "-0.1")),
    ),
    *(
        Case(
            "jaxdiv.divergence.f_divergence",
            from_logits(divergence.f_divergence, div),
            LAWS,
            bad=(
                Bad(
                    lambda: divergence.f_divergence(LAWS[0], LAWS[0], 3),
                    TypeError,
                    ("div", "int"),
                ),
            ),
        )
        for div in (MINE, divergence.mixture(["kl", "js"], [0.5, 2.0]))
    ),
    Case(
        "jaxdiv.divergence.from_logits",
        lambda x, y, t: divergence.from_logits(x, y, "js", temperature=t),
        (*LAWS, np.array(1.3)),
        bad=(
            Bad(
                lambda: divergence.from_logits(LAWS[0], LAWS[1], "js", temperature=0.0),
                ValueError,
                ("temperature", "0.0"),
            ),
        ),
    ),
    *(
        Case("jaxdiv.divergence.get", fields(divergence.get(name)), (LOG_RATIO,))
        for name in FIXED
        if name != "tv"
    ),
    Case("jaxdiv.divergence.get", divergence.get("tv").f, (LOG_RATIO,)),
    *(
        Case(
            "jaxdiv.divergence.get",
            fields(divergence.get(name, **{parameter: value})),
            (LOG_RATIO,),
        )
        for name, parameter in FAMILIES.items()
        for value in ((-0.5, 0.9999, 2.5) if parameter == "a" else (0.2,))
    ),
    *(
        Case("jaxdiv.divergence.get", divergence.get(name).conjugate, (DUAL,))
        for name in FIXED
        if name not in ("softened_rkl", "tv")
    ),
    Case(
        "jaxdiv.divergence.get",
        divergence.get("js").f,
        (LOG_RATIO,),
        bad=(
            Bad(lambda: divergence.get("jeffry"), ValueError, ("'jeffry'", "jeffreys")),
            Bad(lambda: divergence.get("alpha"), ValueError, ("a", "none")),
            Bad(lambda: divergence.get("alpha", a=float("nan")), ValueError, ("nan",)),
            Bad(lambda: divergence.get("gjs", w=1.0), ValueError, ("w", "1.0")),
            Bad(lambda: divergence.get("kl", a=1.0), ValueError, ("kl", "a")),
            Bad(lambda: divergence.get("kl").f(jnp.array([1])), TypeError, ("int32",)),
        ),
    ),
    Case(
        "jaxdiv.divergence.dual",
        fields(divergence.dual("softened_rkl")),
        (LOG_RATIO,),
        bad=(Bad(lambda: divergence.dual(KL.f), TypeError, ("div", "function")),),
    ),
    Case("jaxdiv.divergence.normalize", fields(divergence.normalize("kl")), (DUAL,)),
    Case(
        "jaxdiv.divergence.rescale",
        fields(divergence.rescale("jeffreys")),
        (LOG_RATIO,),
        bad=(Bad(lambda: divergence.rescale("tv"), ValueError, ("tv", "inf")),),
    ),
    Case(
        "jaxdiv.divergence.mixture",
        fields(divergence.mixture(["kl", "js"], [0.5, 2.0])),
        (LOG_RATIO,),
        bad=(
            Bad(lambda: divergence.mixture(["kl"], []), ValueError, ("1", "0")),
            Bad(lambda: divergence.mixture(["kl"], [-1.0]), ValueError, ("weights",)),
            Bad(lambda: divergence.mixture(["kl"], [0.0]), ValueError, ("weights",)),
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
    Case("jaxdiv.divergence.FDivergence", KL.f, (LOG_RATIO,)),
]
