import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import diffusion
from jaxdiv.distributions import GaussianMixture
from tests.cases import Bad, Case

TIMES = np.array([0.01, 0.4, 0.9])
X = np.array([[0.3, -1.0], [0.5, 0.2], [-0.4, 1.1]])
KEY = jax.random.key(0)
KINDS = ("denoised", "eps", "score", "velocity")
WEIGHTS, MEANS = np.array([0.4, 0.6]), np.array([[1.0, 0.0], [-1.0, 0.5]])
VARIANCES = np.array([[0.5, 0.3], [0.2, 0.7]])


def law_of(make):
    def call(t):
        law = make()
        return jnp.stack([law.alpha(t), law.sigma(t), law.dlog_alpha(t), law.g2(t)])

    return call


def every_conversion(pred, x, t):
    """Each kind once as what there is and once as what is wanted."""
    ring = zip(KINDS, KINDS[1:] + KINDS[:1], strict=True)
    return tuple(diffusion.convert(pred, *pair, x, t, diffusion.vp()) for pair in ring)


def converted(*args):
    return lambda: diffusion.convert(*args, jnp.ones(()), diffusion.flow())


def drawn(sampler):
    def call(mean):
        return diffusion.sample(
            diffusion.edm(t_max=5.0),
            lambda x, t: (mean - x) / (0.3 + t**2),
            KEY,
            (2, 3),
            sampler,
            steps=4,
            dtype=mean.dtype,
        )

    return call


def sampled(*args, **options):
    law, score = diffusion.edm(), lambda x, t: -x
    return lambda: diffusion.sample(law, score, KEY, (2, 1), *args, **options)


def likelihood(**options):
    def call(x, mean):
        score = lambda x, t: jnp.tanh(mean - x) / (0.3 + t**2)
        law = diffusion.edm(0.1, 5.0)
        return diffusion.log_likelihood(law, score, x, n_steps=3, **options)

    return call


def bad_likelihood(words, x=X, **options):
    def call():
        score = lambda x, t: -x
        return diffusion.log_likelihood(diffusion.edm(), score, x, **options)

    return Bad(call, ValueError, words)


def mixture(weights, means, covs, x, sigma):
    law = GaussianMixture(weights, means, covs)
    methods = law.log_prob, law.score, law.denoise, law.div_score
    return tuple(method(x, 0.9, sigma) for method in methods)


def bad_mixture(words, error=ValueError, x=X, sigma=0.0, **fields):
    law = GaussianMixture(WEIGHTS, MEANS, VARIANCES)._replace(**fields)
    return Bad(lambda: law.score(x, 1.0, sigma), error, words)


SKEW = np.array([[[1.0, 0.5], [0.0, 1.0]]] * 2)
CASES = [
    Case(
        "jaxdiv.diffusion.vp",
        law_of(diffusion.vp),
        (TIMES,),
        bad=(
            Bad(lambda: diffusion.vp(-0.1), ValueError, ("beta_min", "-0.1")),
            Bad(lambda: diffusion.vp(2.0, 1.0), ValueError, ("beta_max", "1.0", "2.0")),
            Bad(lambda: diffusion.vp(t_min=0.0), ValueError, ("t_min", "0.0")),
            Bad(lambda: diffusion.vp(t_min=2.0), ValueError, ("t_max", "1.0", "2.0")),
        ),
    ),
    Case(
        "jaxdiv.diffusion.ve",
        law_of(lambda: diffusion.ve(0.1, 10.0)),
        (TIMES,),
        bad=(
            Bad(lambda: diffusion.ve(0.0), ValueError, ("sigma_min", "0.0")),
            Bad(lambda: diffusion.ve(2.0, 2.0), ValueError, ("sigma_max", "2.0")),
            Bad(lambda: diffusion.ve(t_max=-1.0), ValueError, ("t_max", "-1.0")),
        ),
    ),
    Case(
        "jaxdiv.diffusion.flow",
        law_of(diffusion.flow),
        (TIMES,),
        bad=(
            Bad(lambda: diffusion.flow(0.0), ValueError, ("t_min", "0.0")),
            Bad(lambda: diffusion.flow(t_max=1.0), ValueError, ("t_max", "1.0")),
        ),
    ),
    Case(
        "jaxdiv.diffusion.convert",
        every_conversion,
        (X * 0.7, X, TIMES + 0.1),
        bad=(
            Bad(
                converted(X, "noise", "score", X),
                ValueError,
                ("from_", "'noise'", "'eps'"),
            ),
            Bad(converted(X, "eps", "x0", X), ValueError, ("to", "'x0'", "'denoised'")),
            Bad(
                converted(X[:2], "eps", "score", X),
                ValueError,
                ("pred", "(2, 2)", "(3, 2)"),
            ),
            Bad(converted(X, "eps", "score", X > 0), TypeError, ("x", "bool")),
            Bad(
                lambda: diffusion.convert(
                    X, "eps", "score", X, jnp.ones(2), diffusion.vp()
                ),
                ValueError,
                ("t", "(2,)", "(3, 2)"),
            ),
        ),
    ),
    *(
        Case(
            "jaxdiv.diffusion.sample",
            drawn(sampler),
            (np.array([0.2, -0.5, 1.0]),),
            order=1,
            slow=True,
            dtypes=False,  # the noise of a key depends on the dtype
        )
        for sampler in ("ddim", "dpmpp_2m", "euler_maruyama")
    ),
    Case(
        "jaxdiv.diffusion.sample",
        drawn("euler"),
        (np.array([0.2, -0.5, 1.0]),),
        order=1,
        slow=True,
        dtypes=False,
        bad=(
            Bad(sampled("leapfrog"), ValueError, ("sampler", "'ddim'", "'heun'")),
            Bad(sampled("euler", steps=1), ValueError, ("steps", "1", "2")),
            Bad(sampled("dpmpp_2m", rho=0.0), ValueError, ("rho", "0.0")),
            Bad(sampled("heun", s_churn=1.0), TypeError, ("s_churn",)),
        ),
    ),
    Case(
        "jaxdiv.diffusion.log_likelihood",
        likelihood(),
        (X, np.array([0.2, -0.5])),
        bad=(
            bad_likelihood(("method", "'euler'", "'hutchinson'"), method="euler"),
            bad_likelihood(("257", "256", "hutchinson"), x=np.ones((1, 257))),
            bad_likelihood(("key", "hutchinson"), method="hutchinson"),
            bad_likelihood(("n_probes", "0"), n_probes=0),
            bad_likelihood(("n_steps", "0"), n_steps=0),
            bad_likelihood(("rho", "-1.0"), rho=-1.0),
            bad_likelihood(("x", "batch"), x=1.0),
            bad_likelihood(("x", "int"), x=np.ones((1, 2), int))._replace(
                error=TypeError
            ),
        ),
    ),
    Case(
        "jaxdiv.diffusion.log_likelihood",
        likelihood(method="hutchinson", key=KEY, n_probes=2),
        (X, np.array([0.2, -0.5])),
        order=1,
        dtypes=False,  # the signs of a key depend on the dtype
    ),
    Case(
        "jaxdiv.distributions.GaussianMixture",
        mixture,
        (WEIGHTS, MEANS, VARIANCES, X, np.array([0.3, 0.1, 1.0])),
        bad=(
            bad_mixture(("weights", "-0.2"), weights=np.array([1.2, -0.2])),
            bad_mixture(("weights", "1.1"), weights=np.array([0.6, 0.5])),
            bad_mixture(("weights", "(3,)", "(k,)"), weights=np.ones(3) / 3),
            bad_mixture(("means", "(2,)"), means=np.ones(2)),
            bad_mixture(("covs", "(2, 3)", "(k, d)"), covs=np.ones((2, 3))),
            bad_mixture(("covs", "0.0"), covs=np.array([1.0, 0.0])),
            bad_mixture(("covs", "symmetric"), covs=SKEW),
            bad_mixture(("covs", "definite"), covs=-np.stack([np.eye(2)] * 2)),
            bad_mixture(("x", "(3,)", "2"), x=np.ones(3)),
            bad_mixture(("sigma", "-1.0"), sigma=-1.0),
            bad_mixture(("sigma", "(2,)"), sigma=np.ones(2)),
            bad_mixture(("x", "int"), TypeError, x=np.ones(2, int)),
        ),
    ),
    Case(
        "jaxdiv.distributions.GaussianMixture",
        lambda means, covs, sigma: GaussianMixture(
            jnp.asarray(WEIGHTS, means.dtype), means, covs
        ).sample(KEY, (2, 3), 0.9, sigma),
        (MEANS, VARIANCES, np.array([0.3, 0.1, 1.0])),
        dtypes=False,  # the noise of a key depends on the dtype
        bad=(
            Bad(
                lambda: GaussianMixture(WEIGHTS, MEANS, VARIANCES).sample(
                    KEY, (2,), 1.0, np.ones((3, 2))
                ),
                ValueError,
                ("sigma", "(3, 2)", "shape=(2,)"),
            ),
        ),
    ),
]
