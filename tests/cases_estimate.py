import jax.numpy as jnp
import numpy as np

from jaxdiv import divergence
from tests.cases import Bad, Case

RATIO = np.array([-2.0, -0.3, 0.02, 0.7, 1.9])
WEIGHT = np.array([0.1, -0.4, 0.3, 0.0, -1.0])
LOGITS = (
    np.array([[0.3, -1.2, 2.0], [0.0, 1.0, -0.5]]),
    np.array([[1.0, 0.2, -0.4], [0.6, 0.1, 0.9]]),
)
CRITIC = (np.array([0.1, -0.3]), np.array([-0.2, -0.4, 0.1]))
CLOUDS = (
    np.array([[0.3, 1.0], [-1.2, 0.4], [2.0, -0.3], [0.1, 0.2]]),
    np.array([[0.5, 0.1], [1.2, 0.7], [-0.6, 0.8], [0.0, 1.5], [0.3, -0.2]]),
)
HEADS = (
    np.array([[0.3, 1.0], [-1.2, 0.4], [2.0, -0.3]]),
    np.array([[0.5, 0.1, -0.6, 0.8], [0.0, 1.5, 0.3, -0.2]]),
)
TEACHER = (HEADS[0][::-1] * 0.7, HEADS[1] * 1.1)
ONES = jnp.ones((3,))


def linear(**options):
    return lambda hidden, head: divergence.linear_divergence(
        hidden, head, *(x.astype(hidden.dtype) for x in TEACHER), "js", **options
    )


CASES = [
    *(
        Case(
            "jaxdiv.divergence.mc_estimate",
            lambda d, w, div=div, kind=kind: divergence.mc_estimate(
                d, div, kind=kind, log_weight=w
            ),
            (RATIO, WEIGHT),
        )
        for div, kind in (("kl", "kf"), ("js", "kf"), ("reverse_kl", "k2"))
    ),
    Case(
        "jaxdiv.divergence.mc_estimate",
        lambda d: divergence.mc_estimate(d, "kl", kind="k1", clip=1.0),
        (RATIO,),
        bad=(
            Bad(
                lambda: divergence.mc_estimate(ONES, "kl", kind="k4"),
                ValueError,
                ("'k4'", "'k3'"),
            ),
            Bad(
                lambda: divergence.mc_estimate(ONES, "kl", surrogate="reinforce"),
                ValueError,
                ("'reinforce'", "'score'"),
            ),
            Bad(
                lambda: divergence.mc_estimate(ONES, "kl", clip=0.0),
                ValueError,
                ("clip", "0.0"),
            ),
            Bad(
                lambda: divergence.mc_estimate(ONES, "tv", kind="k2"),
                ValueError,
                ("k2", "tv"),
            ),
            Bad(
                lambda: divergence.mc_estimate(ONES, "kl", self_normalize_axis=0),
                ValueError,
                ("log_weight",),
            ),
            Bad(
                lambda: divergence.mc_estimate(ONES, "kl", log_weight=jnp.ones(2)),
                ValueError,
                ("(3,)", "(2,)"),
            ),
        ),
    ),
    Case(
        "jaxdiv.divergence.sequence_kl",
        lambda p, q: divergence.sequence_kl(p, q, jnp.array([True, False])),
        LOGITS,
        bad=(
            Bad(
                lambda: divergence.sequence_kl(ONES, ONES),
                ValueError,
                ("logits_p", "(3,)"),
            ),
        ),
    ),
    *(
        Case(
            "jaxdiv.divergence.nwj",
            lambda tp, tq, critic=critic: divergence.nwj(tp, tq, "js", critic=critic),
            CRITIC,
            bad=(
                Bad(
                    lambda: divergence.nwj(ONES, ONES, "softened_rkl"),
                    ValueError,
                    ("softened_rkl", "log_ratio"),
                ),
                Bad(
                    lambda: divergence.nwj(ONES, ONES, "kl", critic="logit"),
                    ValueError,
                    ("'logit'", "'dual'"),
                ),
            ),
        )
        for critic in ("dual", "log_ratio")
    ),
    Case(
        "jaxdiv.divergence.donsker_varadhan",
        divergence.donsker_varadhan,
        CRITIC,
        bad=(
            Bad(
                lambda: divergence.donsker_varadhan(jnp.float32(1), ONES),
                ValueError,
                ("tp", "()"),
            ),
        ),
    ),
    Case(
        "jaxdiv.divergence.knn_kl",
        divergence.knn_kl,
        CLOUDS,
        bad=(
            Bad(
                lambda: divergence.knn_kl(CLOUDS[0], CLOUDS[1], k=4),
                ValueError,
                ("k is 4", "k <= 3"),
            ),
            Bad(
                lambda: divergence.knn_kl(jnp.ones((3, 2)), CLOUDS[1]),
                ValueError,
                ("3 distances", "duplicates"),
            ),
            Bad(lambda: divergence.knn_kl(ONES, ONES), ValueError, ("x", "(3,)")),
        ),
    ),
    *(
        Case(
            "jaxdiv.divergence.linear_divergence",
            linear(weights=weights, chunk=2),
            HEADS,
            order=0,  # reverse mode only: see test_linear_divergence
        )
        for weights in (None, np.array([0.2, 0.5, 0.3], np.float32))
    ),
]
