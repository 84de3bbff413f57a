import jax.numpy as jnp
import numpy as np

from jaxdiv import diffusion
from tests.cases import Bad, Case
from tests.cases_diffusion import bad_config

X0 = np.array([[0.3, -1.0], [0.5, 0.2], [-0.4, 1.1], [0.9, 0.0]])
XT = X0 + np.array([[0.4, 0.1], [-0.3, 0.2], [0.5, -0.6], [-0.1, 0.7]])
SIGMA = np.array([0.5, 0.4, 1.2, 0.9])
TEACHER, FAKE = 0.7 * XT + 0.2, 0.5 * XT - 0.1
LOG_RATIO = np.array([-1.2, 0.1, 0.6, 1.9])
WEIGHT = np.array([0.2, 0.9, 1.3, 6.0])
ARGS = (X0, XT, SIGMA, TEACHER, FAKE)
X = jnp.asarray(X0, jnp.float32)
ONES = jnp.ones(4)


def gaussians(mean):
    """The expansion of two Gaussians of variance 1, at 0 and at a distance."""

    def score(mean):
        return lambda x, sigma: (mean - x) / (1 + sigma**2)

    return diffusion.diffusion_expansion(
        lambda x, sigma: (mean * x - mean**2 / 2).sum(-1) / (1 + sigma**2),
        score(mean),
        score(0 * mean),
        lambda sigma: jnp.sqrt(1 + sigma**2) * jnp.asarray(X0, mean.dtype),
        jnp.geomspace(0.1, 3.0, 5, dtype=mean.dtype),
        "js",
    )


def expansion(sigmas, f="kl"):
    score = lambda x, sigma: -x
    return diffusion.diffusion_expansion(
        lambda x, sigma: x[:, 0], score, score, lambda sigma: X, sigmas, f
    )


def uni(*args, f="js", **options):
    args = args or (X, X, ONES, X, X, ONES)
    return lambda: diffusion.uni_instruct_loss(*args, f=f, **options)


def cases_of(name, loss):
    """A loss of the integral family: value and gradient go different ways."""
    arrays = 2 if name == "sds_loss" else 3
    return Case(
        f"jaxdiv.diffusion.{name}",
        loss,
        (*(X0, TEACHER, FAKE)[:arrays], WEIGHT),
        order=0,
        bad=(
            Bad(
                lambda: loss(*[X] * arrays, jnp.ones(3)),
                ValueError,
                ("weight", "(3,)", "(4,)"),
            ),
            Bad(
                lambda: loss(X, *[X[:2]] * (arrays - 1)),
                ValueError,
                ("d_teacher", "(2, 2)", "(4, 2)"),
            ),
            Bad(lambda: loss(*[jnp.ones(2, int)] * arrays), TypeError, ("int",)),
        ),
    )


CASES = [
    *(
        Case(
            "jaxdiv.diffusion.uni_weights",
            lambda log_ratio, name=name: tuple(diffusion.uni_weights(name, log_ratio)),
            (LOG_RATIO,),
            bad=()
            if name != "js"
            else (
                Bad(
                    lambda: diffusion.uni_weights("wasserstein", ONES),
                    ValueError,
                    ("wasserstein", "js", "reverse_kl"),
                ),
                Bad(
                    lambda: diffusion.uni_weights("tv", ONES),
                    ValueError,
                    ("'tv'", "'js'"),
                ),
                Bad(
                    lambda: diffusion.uni_weights("js", jnp.ones(2, int)),
                    TypeError,
                    ("log_ratio", "int"),
                ),
            ),
        )
        for name in ("js", "kl", "jeffreys", "softened_rkl", "neyman")
    ),
    Case(
        "jaxdiv.diffusion.diffusion_expansion",
        gaussians,
        (np.array([0.6, -0.3]),),
        bad=(
            Bad(lambda: expansion(jnp.ones(1)), ValueError, ("sigmas", "two")),
            Bad(lambda: expansion(jnp.array([2.0, 1.0])), ValueError, ("increasing",)),
            Bad(lambda: expansion(jnp.array([0.0, 1.0])), ValueError, ("sigmas", "0.")),
            Bad(lambda: expansion(jnp.ones((2, 2))), ValueError, ("sigmas", "(2, 2)")),
            Bad(lambda: expansion(jnp.array([1, 2])), TypeError, ("sigmas", "int")),
            Bad(lambda: expansion(ONES, "tv"), ValueError, ("'tv'", "'js'")),
        ),
    ),
    Case(  # this term alone is a function: its value and its gradient agree
        "jaxdiv.diffusion.uni_instruct_loss",
        lambda *args: diffusion.uni_instruct_loss(
            *args, f="js", terms=("sim",), omega="sigma4", h_through=True
        ),
        (*ARGS, LOG_RATIO),
        bad=(
            Bad(uni(terms=()), ValueError, ("terms", "empty", "fgm")),
            Bad(uni(terms=("sim", "gan")), ValueError, ("terms", "'gan'", "'di'")),
            Bad(uni(omega="sigma"), ValueError, ("omega", "'sigma4'")),
            Bad(uni(f="wasserstein"), ValueError, ("wasserstein", "js")),
            Bad(uni(X, X, ONES, X, X, None), ValueError, ("log_ratio", "reverse_kl")),
            Bad(uni(X, X, ONES, X, X, X), ValueError, ("log_ratio", "(4, 2)", "(4,)")),
            Bad(uni(X, X[:2], ONES, X, X, ONES), ValueError, ("xt", "(2, 2)")),
            Bad(uni(X, X, jnp.ones(3), X, X, ONES), ValueError, ("sigma", "(3,)")),
            Bad(uni(X, X, 0.0, X, X, ONES), ValueError, ("sigma", "0.0")),
            Bad(uni(*[jnp.ones(2, int)] * 6), TypeError, ("log_ratio", "int")),
        ),
    ),
    Case(
        "jaxdiv.diffusion.uni_instruct_loss",
        lambda *args: diffusion.uni_instruct_loss(*args, f="kl"),
        (*ARGS, LOG_RATIO),
        order=0,
    ),
    Case(
        "jaxdiv.diffusion.sid_loss",
        lambda *args: diffusion.sid_loss(*args, alpha=1.2, omega="sigma4"),
        ARGS,
        bad=(
            Bad(
                lambda: diffusion.sid_loss(X, X, 1.0, X, X, alpha=np.inf),
                ValueError,
                ("alpha", "inf"),
            ),
            Bad(
                lambda: diffusion.sid_loss(X, X, 1.0, X, X, omega="none"),
                ValueError,
                ("omega", "'abs'"),
            ),
        ),
    ),
    Case(
        "jaxdiv.diffusion.sim_loss",
        lambda *args: diffusion.sim_loss(
            *args, distance="pseudo_huber", omega=None, huber_c=0.5
        ),
        (X0, XT, SIGMA, TEACHER, FAKE),
        bad=(
            Bad(
                lambda: diffusion.sim_loss(X, X, 1.0, X, X, distance="l1"),
                ValueError,
                ("distance", "'l1'", "'pseudo_huber'"),
            ),
            Bad(
                lambda: diffusion.sim_loss(X, X, 1.0, X, X, huber_c=0.0),
                ValueError,
                ("huber_c", "0.0"),
            ),
        ),
    ),
    cases_of("diff_instruct_loss", diffusion.diff_instruct_loss),
    cases_of("dmd_loss", diffusion.dmd_loss),
    cases_of("vsd_loss", diffusion.vsd_loss),
    cases_of("sds_loss", diffusion.sds_loss),
    Case(
        "jaxdiv.diffusion.make_step",
        lambda x: x,  # the step itself is checked among its own cases
        (X0[:1],),
        order=0,
        bad=(
            bad_config(("family", "'expanded'"), family="contracted"),
            bad_config(("terms", "empty"), terms=()),
            bad_config(("terms", "'gan'"), terms=("gan",)),
            bad_config(("omega", "'abs'"), omega="relative"),
            bad_config(("distance", "'l2'"), distance="l1"),
            bad_config(("sid_alpha", "nan"), sid_alpha=np.nan),
            bad_config(("student_after", "-1"), student_after=-1),
            bad_config(("ratio_after", "-2"), ratio_after=-2),
            bad_config(("aux_log_time", "0.0"), aux_log_time=(-1.2, 0.0)),
        ),
    ),
]
