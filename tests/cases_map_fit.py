"""Fits of maps are host functions: their refusals."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv import networks, transport
from tests.cases import Bad, Case


def host(name, *bad):
    return Case(
        f"jaxdiv.{name}",
        lambda: None,
        (),
        order=0,
        transforms=False,
        dtypes=False,
        bad=bad,
    )


def refusals(fit):
    x = jnp.ones((4, 2))
    call = lambda x=x, y=x, **options: lambda: fit(jax.random.key(0), x, y, **options)
    return (
        Bad(call(steps=0), ValueError, ("steps", "0")),
        Bad(call(batch_size=0), ValueError, ("batch_size", "0")),
        Bad(call(x[0]), ValueError, ("x", "(2,)", "2 axes")),
        Bad(call(y=x[:, :1]), ValueError, ("(4, 2)", "(4, 1)")),
        Bad(call(x[:0]), ValueError, ("(0, 2)",)),
        Bad(call(x.astype(int)), TypeError, ("x", "int32")),
    )


def refused(fit, *words, **options):
    x = jnp.ones((4, 2))
    return Bad(lambda: fit(jax.random.key(0), x, x, **options), ValueError, words)


def flow_refused(*words, **options):
    """A refusal of the map that `fit_otcfm` returns."""
    net = (lambda key: jnp.zeros(()), lambda params, x, t: x * params)

    def call():
        x = jnp.ones((4, 2))
        apply, params, _ = transport.fit_otcfm(
            jax.random.key(0), x, x, net=net, steps=1, pairing="independent"
        )
        apply(params, x, **options)

    return Bad(call, ValueError, words)


CASES = [
    host(
        "transport.fit_icnn_dual",
        *refusals(transport.fit_icnn_dual),
        refused(transport.fit_icnn_dual, "refine", "-1", refine=-1),
    ),
    host(
        "transport.fit_otcfm",
        *refusals(transport.fit_otcfm),
        refused(transport.fit_otcfm, "pairing", "best", "exact", pairing="best"),
        refused(transport.fit_otcfm, "eps", "0.0", eps=0.0),
        flow_refused("steps", "0", steps=0),
        flow_refused("method", "rk4", "heun", method="rk4"),
    ),
    host(
        "transport.fit_expectile",
        *refusals(transport.fit_expectile),
        refused(transport.fit_expectile, "expectile", "1.0", expectile=1.0),
        refused(transport.fit_expectile, "expectile", "0.5", expectile=0.5),
        refused(transport.fit_expectile, "weight", "-1.0", weight=-1.0),
        refused(transport.fit_expectile, "l3", "sqeuclidean", cost="l3"),
    ),
    host(
        "networks.ICNN",
        Bad(lambda: networks.ICNN(0, rngs=nnx.Rngs(0)), ValueError, ("size is 0",)),
        Bad(
            lambda: networks.ICNN(2, depth=0, rngs=nnx.Rngs(0)),
            ValueError,
            ("depth is 0",),
        ),
        Bad(
            lambda: networks.ICNN(2, rngs=nnx.Rngs(0))(jnp.ones((4, 3))),
            ValueError,
            ("(4, 3)", "2 entries"),
        ),
    ),
]
