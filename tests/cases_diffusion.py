import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiv import diffusion
from tests.cases import Bad, Case

TIMES = np.array([0.01, 0.7, 30.0])
RATIO = np.array([0.2, 0.9, 1.3, 6.0])
X0 = np.array([[0.3, -1.0], [0.5, 0.2], [-0.4, 1.1], [0.9, 0.0]])
KEY = jax.random.key(0)


def law_of_edm(t):
    law = diffusion.edm()
    return jnp.stack([law.alpha(t), law.sigma(t), law.dlog_alpha(t), law.g2(t)])


def dsm(x0, t):
    return diffusion.dsm_loss(KEY, lambda x, t: jnp.tanh(x) * t[:, None], x0, t)


def drawn(sampler, **options):
    def call(mean):
        return diffusion.sample(
            diffusion.edm(t_max=5.0),
            lambda x, t: (mean - x) / (0.3 + t**2),
            KEY,
            (2, 3),
            sampler,
            dtype=mean.dtype,
            **options,
        )

    return call


def sampled(*args, **options):
    law, score = diffusion.edm(), lambda x, t: -x
    return lambda: diffusion.sample(law, score, KEY, (2, 1), *args, **options)


def binned(ratio, state):
    t = jnp.array([0.1, 0.2, 5.0, 90.0], ratio.dtype)
    return diffusion.bin_normalise(ratio, t, state)


def toy_config(**options):
    adam = optax.adam(1e-2, b1=0.0)
    return diffusion.DistillConfig(
        lambda params, x, t: params * x,
        lambda head, fake, x, t: head * jnp.tanh(fake * x),
        adam,
        adam,
        adam,
        **options,
    )


@jax.jit
def toy_step(batch):
    cfg = toy_config(aux_updates=2)
    state = diffusion.distill_state(cfg, jnp.float32(0.5), jnp.float32(0.1))
    return diffusion.make_step(cfg)(state, batch, KEY)


def bad_config(words, **options):
    return Bad(lambda: diffusion.make_step(toy_config(**options)), ValueError, words)


X = jnp.asarray(X0, jnp.float32)
ONES = jnp.ones(4)
TEACHER = X0 + np.array([0.5, -0.2])
CASES = [
    Case(
        "jaxdiv.diffusion.edm",
        law_of_edm,
        (TIMES,),
        bad=(
            Bad(lambda: diffusion.edm(-1.0), ValueError, ("t_min", "-1.0")),
            Bad(lambda: diffusion.edm(2.0, 1.0), ValueError, ("t_max", "1.0", "2.0")),
        ),
    ),
    Case(
        "jaxdiv.diffusion.precondition",
        lambda sigma: tuple(diffusion.precondition(sigma, 0.4)),
        (TIMES[1:],),
        bad=(
            Bad(lambda: diffusion.precondition(0.0), ValueError, ("sigma", "0.0")),
            Bad(lambda: diffusion.precondition(1), TypeError, ("sigma", "int")),
            Bad(
                lambda: diffusion.precondition(1.0, -0.5),
                ValueError,
                ("sigma_data", "-0.5"),
            ),
        ),
    ),
    Case(
        "jaxdiv.diffusion.dsm_loss",
        dsm,
        (X0, np.array([0.3, 0.8, 1.0, 2.0])),
        dtypes=False,  # the noise of a key depends on the dtype
        bad=(
            Bad(lambda: dsm(X, jnp.ones(3)), ValueError, ("t", "(3,)", "(4, 2)")),
            Bad(
                lambda: diffusion.dsm_loss(KEY, lambda x, t: x[:1], X, ONES),
                ValueError,
                ("denoised", "(1, 2)", "(4, 2)"),
            ),
            Bad(lambda: dsm(jnp.ones((4, 2), int), ONES), TypeError, ("x0", "int")),
        ),
    ),
    Case(
        "jaxdiv.diffusion.sample",
        drawn("heun_edm", steps=5, s_churn=2.0),
        (np.array([0.2, -0.5, 1.0]),),
        slow=True,
        dtypes=False,  # the noise of a key depends on the dtype
        bad=(
            Bad(sampled("rodeo"), ValueError, ("sampler", "'heun_edm'", "'one_step'")),
            Bad(sampled(steps=1), ValueError, ("steps", "1", "2")),
            Bad(sampled(s_churn=-1.0), ValueError, ("s_churn", "-1.0")),
            Bad(sampled("one_step", steps=3), TypeError, ("steps",)),
        ),
    ),
    Case(
        "jaxdiv.diffusion.sample",
        drawn("one_step"),
        (np.array([0.2, -0.5, 1.0]),),
        dtypes=False,
    ),
    Case(
        "jaxdiv.diffusion.ratio_from_logits",
        diffusion.ratio_from_logits,
        (np.array([[0.2, -0.4], [9.0, 8.0]]),),
        order=0,
        bad=(
            Bad(
                lambda: diffusion.ratio_from_logits(ONES, (0.0, 1.0)),
                ValueError,
                ("clip", "0.0"),
            ),
            Bad(
                lambda: diffusion.ratio_from_logits(ONES, (2.0, 2.0)),
                ValueError,
                ("clip", "(2.0, 2.0)"),
            ),
            Bad(
                lambda: diffusion.ratio_from_logits(0.0),
                ValueError,
                ("logits", "batch"),
            ),
        ),
    ),
    Case(
        "jaxdiv.diffusion.bin_normalise",
        binned,
        (RATIO, np.array([1.0, 0.7, 1.2])),
        bad=(
            Bad(lambda: binned(jnp.ones(3), ONES), ValueError, ("(3,)", "(4,)")),
            Bad(lambda: binned(ONES, jnp.float32(1)), ValueError, ("state", "()")),
            Bad(
                lambda: diffusion.bin_normalise(ONES, ONES, ONES, t_min=9.0, t_max=1.0),
                ValueError,
                ("t_max", "9.0"),
            ),
            Bad(
                lambda: diffusion.bin_normalise(ONES, ONES, ONES, rate=1.5),
                ValueError,
                ("rate", "1.5"),
            ),
        ),
    ),
    *(
        Case(
            "jaxdiv.diffusion.f_distill_weight",
            lambda ratio, name=name: diffusion.f_distill_weight(name, ratio),
            (RATIO,),
        )
        for name in ("js", "kl", "softened_rkl", "neyman")
    ),
    Case(
        "jaxdiv.diffusion.f_distill_weight",
        lambda ratio: diffusion.f_distill_weight("rkl", ratio, normalise=False),
        (RATIO,),
        bad=(
            Bad(
                lambda: diffusion.f_distill_weight("wasserstein", ONES),
                ValueError,
                ("wasserstein", "js", "reverse_kl"),
            ),
            Bad(
                lambda: diffusion.f_distill_weight("tv", ONES),
                ValueError,
                ("'tv'", "'js'"),
            ),
            Bad(
                lambda: diffusion.f_distill_weight("js", jnp.ones(2, int)),
                TypeError,
                ("ratio", "int"),
            ),
        ),
    ),
    Case(
        "jaxdiv.diffusion.f_distill_loss",
        diffusion.f_distill_loss,
        (X0, TEACHER, X0 * 0.9, RATIO),
        order=0,  # a pseudo-loss: its gradient is not that of its value
        bad=(
            Bad(
                lambda: diffusion.f_distill_loss(X, X, X, jnp.ones((4, 1))),
                ValueError,
                ("weight", "(4, 1)", "(4,)"),
            ),
            Bad(
                lambda: diffusion.f_distill_loss(X, X[:2], X, ONES),
                ValueError,
                ("d_teacher", "(2, 2)", "(4, 2)"),
            ),
        ),
    ),
    Case(
        "jaxdiv.diffusion.gan_losses",
        diffusion.gan_losses,
        (X0, TEACHER),
        bad=(
            Bad(
                lambda: diffusion.gan_losses(ONES, X),
                ValueError,
                ("real_logits", "(4,)", "(4, 2)"),
            ),
            Bad(lambda: diffusion.gan_losses(0.0, 0.0), ValueError, ("batch",)),
        ),
    ),
    Case(
        "jaxdiv.diffusion.distill_state",
        lambda teacher, head: diffusion.distill_state(toy_config(), teacher, head),
        (np.array([0.5]), np.array([0.1, 0.2])),
        order=0,
        dtypes=False,  # the means of the bins are float32 always
        bad=(
            Bad(
                lambda: diffusion.distill_state(toy_config(bins=0), 1.0, 1.0),
                ValueError,
                ("bins", "0"),
            ),
        ),
    ),
    Case(
        "jaxdiv.diffusion.make_step",
        toy_step,
        (X0,),
        order=0,
        dtypes=False,  # parameters keep their dtype, whatever the batch has
        bad=(
            bad_config(("wasserstein", "js"), divergence="wasserstein"),
            bad_config(("aux_updates", "0"), aux_updates=0),
            bad_config(("ratio_clip", "0.0"), ratio_clip=(0.0, 1.0)),
            bad_config(("ratio_clip", "0.5"), ratio_clip=(1.0, 0.5)),
            bad_config(("ema_decay", "1.5"), ema_decay=1.5),
            bad_config(("gan_weight", "-1.0"), gan_weight=-1.0),
            bad_config(("time_fraction", "2.0"), time_fraction=2.0),
            bad_config(("t_init", "-3.0"), t_init=-3.0),
        ),
    ),
]
