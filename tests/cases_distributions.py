"""The functions of `jaxdiv.distributions` for the common checks."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import distributions as dist
from tests.cases import Bad, Case

KEY = jax.random.key(0)
DIM = 5
_RNG = np.random.default_rng(0)
X = _RNG.standard_normal((4, DIM))
MU, OTHER = _RNG.standard_normal((2, DIM))
KAPPA, KAPPAS = np.array(2.5), np.array([0.7, 12.0])
LOGITS = np.array([0.3, -0.4])
UNIT = np.eye(3, dtype=np.float32)
BETWEEN = (MU, KAPPAS, OTHER, np.array(4.0))


def name(function):
    return f"jaxdiv.distributions.{function.__name__}"


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def of_kappa(function, **options):
    return Case(
        name(function),
        lambda kappa: function(kappa, DIM, **options),
        (KAPPAS,),
        slow=function is not dist.vmf_log_normalizer,
        bad=(
            Bad(lambda: function(1.0, 1), ValueError, ("dim", "1", "2")),
            Bad(lambda: function(jnp.arange(2), 3), TypeError, ("int32",)),
        ),
    )


def density(function):
    return Case(
        name(function),
        lambda x, mu, kappa: function(unit(x), unit(mu), kappa),
        (X, MU, KAPPA),
        bad=(
            Bad(
                lambda: function(UNIT, UNIT[:, :2], 1.0),
                ValueError,
                ("(3, 2)", "(3, 3)"),
            ),
            Bad(
                lambda: function(UNIT, UNIT[0], 1.0, base="area"),
                ValueError,
                ("'area'", "'surface'", "'uniform'"),
            ),
        ),
    )


def between(function, **options):
    return Case(
        name(function),
        lambda mu_p, p, mu_q, q: function(unit(mu_p), p, unit(mu_q), q, **options),
        BETWEEN,
        slow=True,
        bad=(
            Bad(
                lambda: function(UNIT[0], 1.0, UNIT[0, :2], 1.0, **options),
                ValueError,
                ("mu_q (2,)",),
            ),
        ),
    )


def sample(function):
    # In kappa the derivative is not that of the draw of a key, which jumps.
    return Case(
        name(function),
        lambda mu: function(KEY, unit(mu), KAPPA.astype(mu.dtype), (3,)),
        (MU,),
        dtypes=False,  # the noise of a key depends on the dtype
        rtol=1e-5,
        bad=(
            Bad(lambda: function(KEY, 1.0, 1.0), ValueError, ("mean_direction ()",)),
            Bad(
                lambda: function(KEY, UNIT, jnp.ones(2)), ValueError, ("concentration",)
            ),
        ),
    )


CASES = [
    *(
        of_kappa(function)
        for function in (
            dist.power_spherical_entropy,
            dist.power_spherical_kl_uniform,
            dist.vmf_entropy,
            dist.vmf_fisher_information,
            dist.vmf_kl_uniform,
            dist.vmf_log_normalizer,
            dist.vmf_mean_resultant_length,
        )
    ),
    *map(density, (dist.power_spherical_log_prob, dist.vmf_log_prob)),
    *map(
        between,
        (
            dist.power_spherical_kl_vmf,
            dist.vmf_bhattacharyya,
            dist.vmf_geometric_js,
            dist.vmf_hellinger,
            dist.vmf_jeffreys,
            dist.vmf_kl,
        ),
    ),
    Case(
        name(dist.vmf_renyi),
        lambda mu_p, p, mu_q, q, alpha: dist.vmf_renyi(
            unit(mu_p), p, unit(mu_q), q, alpha
        ),
        (*BETWEEN, np.array(1.7)),
        slow=True,
        bad=(
            Bad(
                lambda: dist.vmf_renyi(UNIT[0], 1.0, UNIT[1], 1.0, 0.0),
                ValueError,
                ("alpha", "0.0"),
            ),
        ),
    ),
    Case(
        name(dist.vmf_covariance),
        lambda mu, kappa: dist.vmf_covariance(unit(mu), kappa),
        (MU, KAPPAS),
    ),
    sample(dist.vmf_sample),
    sample(dist.power_spherical_sample),
    Case(
        name(dist.vmf_marginal_cdf),
        lambda t, kappa: dist.vmf_marginal_cdf(t, kappa, DIM),
        (np.array([-0.4, 0.8]), KAPPA),
        bad=(
            Bad(lambda: dist.vmf_marginal_cdf(0.0, 1.0, 1), ValueError, ("dim", "1")),
        ),
    ),
    Case(
        name(dist.spherical_uniform_sample),
        lambda x: x + dist.spherical_uniform_sample(KEY, 3, (2,), dtype=x.dtype),
        (np.zeros(3),),
        order=0,
        dtypes=False,
        bad=(
            Bad(
                lambda: dist.spherical_uniform_sample(KEY, 1), ValueError, ("dim", "1")
            ),
        ),
    ),
    Case(
        name(dist.vmf_concentration_from_resultant),
        lambda r: dist.vmf_concentration_from_resultant(r, DIM),
        (np.array([0.2, 0.9]),),
        rtol=1e-5,
        bad=(
            Bad(
                lambda: dist.vmf_concentration_from_resultant(0.5, 1),
                ValueError,
                ("dim", "1"),
            ),
        ),
    ),
    Case(
        name(dist.vmf_fit),
        lambda x, z: dist.vmf_fit(unit(x), jax.nn.softplus(z)),
        (X, np.array([0.3, -0.2, 1.0, 0.5])),
        rtol=1e-5,
        bad=(
            Bad(lambda: dist.vmf_fit(UNIT[0]), ValueError, ("(3,)", "[..., n, d]")),
            Bad(lambda: dist.vmf_fit(2 * UNIT), ValueError, ("unit", "2")),
            Bad(
                lambda: dist.vmf_fit(UNIT, jnp.ones(2)), ValueError, ("(2,)", "(3, 3)")
            ),
        ),
    ),
    Case(
        name(dist.vmf_mixture_log_prob),
        lambda x, z, mu, kappa: dist.vmf_mixture_log_prob(
            unit(x), jax.nn.log_softmax(z), unit(mu), kappa
        ),
        (X, LOGITS, np.stack([MU, OTHER]), KAPPAS),
        slow=True,
        bad=(
            Bad(
                lambda: dist.vmf_mixture_log_prob(
                    UNIT, jnp.zeros(2), UNIT, jnp.ones(3)
                ),
                ValueError,
                ("log_weights (2,)", "(k, d)"),
            ),
        ),
    ),
    Case(
        name(dist.vmf_mixture_fit),
        lambda x: dist.vmf_mixture_fit(KEY, unit(x), 2)[1:4],
        (X,),
        order=0,
        dtypes=False,
        bad=(
            Bad(lambda: dist.vmf_mixture_fit(KEY, UNIT, 0), ValueError, ("0",)),
            Bad(
                lambda: dist.vmf_mixture_fit(KEY, UNIT, 2, assignment="firm"),
                ValueError,
                ("'firm'", "'hard'", "'soft'"),
            ),
            Bad(lambda: dist.vmf_mixture_fit(KEY, 2 * UNIT, 2), ValueError, ("unit",)),
        ),
    ),
]
