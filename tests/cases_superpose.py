import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import diffusion
from tests.cases import Bad, Case

KEY = jax.random.key(0)
LAW = diffusion.vp(t_min=0.2)
SCORES = np.array(
    [
        [[1.0, 0.2, -0.3], [0.4, -0.5, 0.9]],
        [[-0.4, 1.1, 0.6], [0.0, 0.8, -0.2]],
        [[0.5, -0.7, 0.1], [-1.2, 0.3, 0.4]],
    ]
)
EPS = np.array([[0.3, -0.2, 1.1], [-0.6, 0.5, 0.2]])
DT, G2, DIV = np.array([0.6, 0.3]), np.array([2.0, 0.7]), np.array([-3.0, -1.5])
DRIFT, OFFSETS = 0.1 * EPS[::-1], np.array([[0.1, 0.0, -0.2], [0.0, 0.3, 0.1]])
S, E = jnp.asarray(SCORES, jnp.float32), jnp.asarray(EPS, jnp.float32)


def score_at(mean):
    return lambda x, t: (LAW.alpha(t) * mean - x) / (1 + t)


PAIR = score_at(0.0), score_at(1.0)


def sampled(score_fns=PAIR, law=LAW, n_steps=2, **options):
    shape = options.pop("shape", (2, 1))
    return lambda: diffusion.sample_superposition(
        score_fns, law, KEY, shape, n_steps, **options
    )


def drawn(**options):
    def call(means):
        scores = lambda x, t: jnp.stack([score_at(mean)(x, t) for mean in means])
        draw = sampled(scores, dtype=means.dtype, **options)()
        return draw.x, draw.logq

    return call


MEANS = np.array([-0.5, 0.8])
AND_BAD = (
    Bad(
        lambda: diffusion.and_step(S, E[:1], 0.1, 2.0, 0.0, 0.0),
        ValueError,
        ("scores", "(3, 2, 3)", "(1, 3)"),
    ),
    Bad(
        lambda: diffusion.and_step(S, E, 0.0, 2.0, 0.0, 0.0),
        ValueError,
        ("dt", "0.0"),
    ),
    Bad(
        lambda: diffusion.and_step(S, E, 0.1, -2.0, 0.0, 0.0),
        ValueError,
        ("g2", "-2.0"),
    ),
    Bad(
        lambda: diffusion.and_step(S, E, 0.1, jnp.ones(3), 0.0, 0.0),
        ValueError,
        ("g2", "(3,)", "(2,)"),
    ),
    Bad(
        lambda: diffusion.and_step(S, E, 0.1, 2.0, jnp.ones((5, 3)), 0.0),
        ValueError,
        ("drift", "(5, 3)", "(2, 3)"),
    ),
    Bad(
        lambda: diffusion.and_step(S, E, 0.1, 2.0, 0.0, 0.0, jnp.ones(2)),
        ValueError,
        ("offsets", "(2,)", "(2, 3)"),
    ),
    Bad(
        lambda: diffusion.and_step(jnp.ones((2, 1), int), E[0, :1], 0.1, 1.0, 0.0, 0.0),
        TypeError,
        ("scores", "int"),
    ),
)
CASES = [
    Case(
        "jaxdiv.diffusion.ito_log_density_increment",
        diffusion.ito_log_density_increment,
        (EPS, DT, SCORES[0], DRIFT, DIV, G2),
        bad=(
            Bad(
                lambda: diffusion.ito_log_density_increment(E, 0.1, S, 0.0, 0.0, 1.0),
                ValueError,
                ("score", "(3, 2, 3)"),
            ),
            Bad(
                lambda: diffusion.ito_log_density_increment(E, -0.1, E, 0.0, 0.0, 1.0),
                ValueError,
                ("dt", "-0.1"),
            ),
            Bad(
                lambda: diffusion.ito_log_density_increment(
                    0.0, 0.1, 0.0, 0.0, 0.0, 1.0
                ),
                ValueError,
                ("scalar",),
            ),
        ),
    ),
    Case(
        "jaxdiv.diffusion.ode_log_density_increment",
        diffusion.ode_log_density_increment,
        (EPS, SCORES[0], DIV, DRIFT, DIV, G2),
        bad=(
            Bad(
                lambda: diffusion.ode_log_density_increment(E, E, E, 0.0, 0.0, 1.0),
                ValueError,
                ("div_score", "(2, 3)", "(2,)"),
            ),
        ),
    ),
    Case(
        "jaxdiv.diffusion.or_weights",
        lambda logq, bias: diffusion.or_weights(logq, 1.7, bias),
        (np.array([[0.0, 2.0, -1.0], [3.0, 2.5, 2.0]]), np.array([0.5, 0.0, 0.1])),
        bad=(
            Bad(
                lambda: diffusion.or_weights(E, -1.0),
                ValueError,
                ("temperature", "-1.0"),
            ),
            Bad(lambda: diffusion.or_weights(0.0), ValueError, ("logq", "scalar")),
            Bad(
                lambda: diffusion.or_weights(E, 1.0, jnp.ones(2)),
                ValueError,
                ("bias", "(2,)", "(2, 3)"),
            ),
        ),
    ),
    Case(
        "jaxdiv.diffusion.and_weights",
        diffusion.and_weights,
        (SCORES, EPS, DT, G2, DRIFT, DIV, OFFSETS),
        in_scan=True,
    ),
    Case(
        "jaxdiv.diffusion.and_step",
        diffusion.and_step,
        (SCORES, EPS, DT, G2, DRIFT, DIV, OFFSETS),
        in_scan=True,
        bad=AND_BAD,
    ),
    Case(
        "jaxdiv.diffusion.sample_superposition",
        drawn(mode="or", bias=np.array([0.3, 0.0])),
        (MEANS,),
        order=1,
        dtypes=False,  # the noise of a key depends on the dtype
        bad=(
            Bad(
                sampled(law=(LAW, diffusion.ve(t_min=0.2))),
                ValueError,
                ("law 1", "alpha"),
            ),
            Bad(
                sampled(law=(LAW, diffusion.vp(t_min=0.1))),
                ValueError,
                ("law 1", "t_min"),
            ),
            Bad(sampled(law=(LAW,) * 3), ValueError, ("3 laws", "2 models")),
            Bad(sampled(law=()), ValueError, ("law is empty",)),
            Bad(sampled(law=LAW._replace(t_min=0.0)), ValueError, ("t_min", "0.0")),
            Bad(sampled(n_steps=0), ValueError, ("n_steps", "0")),
            Bad(sampled(mode="xor"), ValueError, ("mode", "xor", "'and'", "'or'")),
            Bad(sampled(gain=2.0), ValueError, ("gain", "2.0")),
            Bad(sampled(temperature=-1.0), ValueError, ("temperature", "-1.0")),
            Bad(sampled(rho=0.0), ValueError, ("rho", "0.0")),
            Bad(sampled(rho=60.0, n_steps=9), ValueError, ("rho", "length 0")),
            Bad(sampled(bias=np.zeros(3)), ValueError, ("bias", "(3,)", "(2,)")),
            Bad(sampled(shape=(4,)), ValueError, ("shape", "(4,)")),
            Bad(sampled(score_fns=()), TypeError, ("score_fns", "()")),
            Bad(sampled(score_fns=(1.0,)), TypeError, ("score_fns", "1.0")),
            Bad(
                sampled(score_fns=score_at(0.0)),
                ValueError,
                ("score_fns", "(2, 1)"),
            ),
            Bad(
                sampled(stochastic=False, divergence="trace"),
                ValueError,
                ("divergence", "trace", "'hutchinson'"),
            ),
            Bad(
                sampled(stochastic=False, shape=(1, 257)),
                ValueError,
                ("257", "256", "hutchinson"),
            ),
            Bad(
                sampled(stochastic=False, divergence="hutchinson", n_probes=0),
                ValueError,
                ("n_probes", "0"),
            ),
        ),
    ),
    Case(
        "jaxdiv.diffusion.sample_superposition",
        drawn(mode="and", stochastic=False),
        (MEANS,),
        order=1,
        dtypes=False,
        slow=True,
    ),
    Case(
        "jaxdiv.diffusion.sample_superposition",
        drawn(mode="and"),
        (MEANS,),
        order=1,
        dtypes=False,
        slow=True,
    ),
]
