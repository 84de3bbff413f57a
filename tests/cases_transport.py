import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiv import transport
from tests.cases import Bad, Case

RNG = np.random.default_rng(3)
X, Y, IMAGE = (RNG.standard_normal((n, 2)) for n in (5, 4, 5))
COST = np.abs(RNG.standard_normal((5, 4)))
EPS = np.float64(0.7)
TIGHT = {"threshold": 1e-13, "max_iterations": 5000}
LOOSE = {"threshold": 1e-5}
LOGITS = RNG.standard_normal(5), RNG.standard_normal(4)


def softmax(z):
    return jnp.exp(z) / jnp.exp(z).sum()


def tight(x):
    """The strictest threshold that the dtype can reach."""
    return TIGHT if x.dtype == jnp.float64 else LOOSE


def potentials(x, y, z, w, eps):
    result = transport.sinkhorn(x, y, a=softmax(z), b=softmax(w), eps=eps, **tight(x))
    return result.f, result.g, result.primal_cost


def costs(C, eps):
    result = transport.sinkhorn_from_cost(C, eps=eps, **tight(C))
    return result.reg_ot_cost, result.primal_cost, result.ent_reg_cost


def solved(x, y, eps=0.7):
    return transport.sinkhorn(x, y, eps=eps, **tight(x))


def bad_solve(solve):
    x = jnp.ones((3, 2))
    return (
        Bad(lambda: solve(x, x, eps=0.0), ValueError, ("eps", "0.0")),
        Bad(lambda: solve(x, x, eps=float("nan")), ValueError, ("eps", "nan")),
        Bad(lambda: solve(x, x[:, :1], eps=1.0), ValueError, ("(3, 2)", "(3, 1)")),
        Bad(lambda: solve(x[0], x, eps=1.0), ValueError, ("x", "2 axes")),
        Bad(lambda: solve(x[:0], x, eps=1.0), ValueError, ("(0, 2)",)),
        Bad(lambda: solve(x.astype(int), x, eps=1.0), TypeError, ("x", "int32")),
        Bad(lambda: solve(x, x, eps=1.0, cost="l3"), ValueError, ("l3", "euclidean")),
        Bad(lambda: solve(x, x, eps=1.0, threshold=0.0), ValueError, ("threshold",)),
        Bad(lambda: solve(x, x, eps=1.0, max_iterations=0), ValueError, ("max_iter",)),
    )


def bad_weights(solve):
    x = jnp.ones((2, 2))

    def of(*a):
        return lambda: solve(x, x, eps=1.0, a=jnp.array(a))

    return (
        Bad(of(-0.5, 1.5), ValueError, ("a has a negative",)),
        Bad(of(float("nan"), 1.0), ValueError, ("a has", "non-finite")),
        Bad(of(1.0, 1.0), ValueError, ("sums to", "2.0", "1.0")),
        Bad(of(1.0, 0.0, 0.0), ValueError, ("a has shape (3,)", "(2,)")),
    )


def bad_options(solve):
    x = jnp.ones((2, 2))
    return (
        Bad(
            lambda: solve(x, x, eps=1.0, method="fast"), ValueError, ("fast", "kernel")
        ),
        Bad(lambda: solve(x, x, eps=1.0, momentum=2.0), ValueError, ("momentum", "2")),
        Bad(lambda: solve(x, x, eps=1.0, momentum="no"), ValueError, ("'no'", "auto")),
    )


def bad_forms(solve):
    x = jnp.ones((2, 2))
    return (
        Bad(lambda: solve(x, x, eps=1.0, rho_a=0.0), ValueError, ("rho_a", "0.0")),
        Bad(lambda: solve(x, x, eps=1.0, rho_b=-1.0), ValueError, ("rho_b", "-1.0")),
        Bad(
            lambda: solve(x, x, eps=1.0, method="stream", block_size=0),
            ValueError,
            ("block_size", "0"),
        ),
    )


def bad_gap(gap):
    x = jnp.ones((3, 2))
    return (
        Bad(lambda: gap(x, x[:2]), ValueError, ("(3, 2)", "(2, 2)")),
        Bad(lambda: gap(x, x, eps=-1.0), ValueError, ("eps", "-1.0")),
        Bad(lambda: gap(x, x, relative_eps=0.0), ValueError, ("relative_eps",)),
        Bad(lambda: gap(x, x, eps=1.0, relative_eps=1.0), ValueError, ("both",)),
        Bad(lambda: gap(x, x, kind="hard"), ValueError, ("hard", "entropy")),
        Bad(lambda: gap(x, x, cost="l3"), ValueError, ("l3", "euclidean")),
    )


def fit_with(**options):
    x = jnp.ones((4, 2))
    return lambda: transport.fit_monge_map(jnp.zeros(2, jnp.uint32), x, x, **options)


def gap_case(kind, cost="sqeuclidean", **options):
    def gap(x, y, eps):
        return transport.monge_gap_from_samples(
            x, y, cost=cost, eps=eps, kind=kind, **tight(x)
        )

    args = (X, IMAGE, EPS)
    return Case("jaxdiv.transport.monge_gap_from_samples", gap, args, **options)


def no_checks(name, bad):
    return Case(
        f"jaxdiv.transport.{name}",
        lambda: None,
        (),
        order=0,
        transforms=False,
        dtypes=False,
        bad=bad,
    )


MESH = jax.make_mesh((1,), ("rows",))
RESULT = solved(jnp.asarray(X), jnp.asarray(Y))
CASES = [
    Case(
        "jaxdiv.transport.sinkhorn",
        potentials,
        (X, Y, *LOGITS, EPS),
        in_scan=True,
        rtol=1e-5,
        bad=(
            *bad_solve(transport.sinkhorn),
            *bad_weights(transport.sinkhorn),
            *bad_options(transport.sinkhorn),
            *bad_forms(transport.sinkhorn),
            Bad(
                lambda: transport.sinkhorn(
                    X, X, eps=1.0, init=(jnp.zeros(5), jnp.zeros(3))
                ),
                ValueError,
                ("init", "(3,)", "(5,)"),
            ),
        ),
    ),
    Case(
        "jaxdiv.transport.sinkhorn_from_cost",
        costs,
        (COST, EPS),
        slow=True,
        rtol=1e-5,
        bad=(
            Bad(
                lambda: transport.sinkhorn_from_cost(jnp.ones(3), eps=1.0),
                ValueError,
                ("C", "(3,)"),
            ),
            Bad(
                lambda: transport.sinkhorn_from_cost(jnp.ones((0, 3)), eps=1.0),
                ValueError,
                ("(0, 3)",),
            ),
            Bad(
                lambda: transport.sinkhorn_from_cost(COST, eps=1.0, method="stream"),
                ValueError,
                ("method", "stream"),
            ),
        ),
    ),
    Case(
        "jaxdiv.transport.ot_cost",
        lambda x, y, eps: transport.ot_cost(x, y, eps=eps, **tight(x)),
        (X, Y, EPS),
        in_scan=True,
        bad=(
            *bad_solve(transport.ot_cost),
            *bad_weights(transport.ot_cost),
            *bad_options(transport.ot_cost),
            *bad_forms(transport.ot_cost),
        ),
    ),
    Case(
        "jaxdiv.transport.ot_cost",
        lambda x, y: transport.ot_cost(x, y, eps=0.5, cost="euclidean", **tight(x)),
        (X, Y),
    ),
    Case(
        "jaxdiv.transport.sinkhorn_divergence",
        lambda x, y: transport.sinkhorn_divergence(x, y, eps=0.7, **tight(x)),
        (X, Y),
        rtol=1e-5,
        bad=bad_solve(transport.sinkhorn_divergence),
        slow=True,
    ),
    Case(
        "jaxdiv.transport.plan",
        lambda x, y: transport.plan(solved(x, y), x, y),
        (X, Y),
        rtol=1e-5,
        bad=(
            Bad(lambda: transport.plan(RESULT), ValueError, ("x and y are missing",)),
            Bad(lambda: transport.plan(RESULT, X[:4], Y), ValueError, ("4", "5 and 4")),
        ),
        slow=True,
    ),
    Case(
        "jaxdiv.transport.apply_plan",
        lambda x, y, v: transport.apply_plan(solved(x, y), x, y, v, axis=1),
        (X, Y, Y),
        slow=True,
        rtol=1e-5,
        bad=(
            Bad(
                lambda: transport.apply_plan(RESULT, X, Y, Y, axis=2),
                ValueError,
                ("axis is 2", "0, 1"),
            ),
            Bad(
                lambda: transport.apply_plan(RESULT, X, Y, Y, axis=0),
                ValueError,
                ("v has shape (4, 2)", "5"),
            ),
        ),
    ),
    Case(
        "jaxdiv.transport.entropic_map",
        lambda x, y, z: transport.entropic_map(solved(x, y), y, z),
        (X, Y, X + 0.3),
        slow=True,
        rtol=1e-5,
        bad=(
            Bad(
                lambda: transport.entropic_map(
                    RESULT._replace(cost=jnp.asarray(COST)), Y, X
                ),
                ValueError,
                ("matrix", "sqeuclidean"),
            ),
            Bad(
                lambda: transport.entropic_map(RESULT, Y[:3], X),
                ValueError,
                ("3 points", "4"),
            ),
        ),
    ),
    Case(
        "jaxdiv.transport.sinkhorn",
        lambda x, y, eps: (
            transport.sinkhorn(
                x, y, eps=eps, rho_a=1.0, method="stream", block_size=3, **tight(x)
            ).f
        ),
        (X, Y, EPS),
        order=1,
        rtol=1e-5,
    ),
    Case(
        "jaxdiv.transport.to_ott_potentials",
        lambda f, g, z, w, eps: transport.to_ott_potentials(
            f, g, softmax(z), softmax(w), eps
        ),
        (*LOGITS, *LOGITS, EPS),
        bad=(
            Bad(
                lambda: transport.to_ott_potentials(*LOGITS, *LOGITS, 0.0),
                ValueError,
                ("eps", "0.0"),
            ),
            Bad(
                lambda: transport.to_ott_potentials(*LOGITS, *LOGITS[::-1], 1.0),
                ValueError,
                ("f (5,)", "a (4,)"),
            ),
        ),
    ),
    Case(
        "jaxdiv.transport.from_ott_potentials",
        lambda f, g, z, w, eps: transport.from_ott_potentials(
            f, g, softmax(z), softmax(w), eps
        ),
        (*LOGITS, *LOGITS, EPS),
        bad=(
            Bad(
                lambda: transport.from_ott_potentials(*LOGITS, *LOGITS[::-1], 1.0),
                ValueError,
                ("F (5,)", "a (4,)"),
            ),
        ),
    ),
    no_checks(
        "to_ott",
        (Bad(lambda: transport.to_ott(RESULT), ValueError, ("x and y are missing",)),),
    ),
    no_checks(
        "sharded_sinkhorn",
        (
            Bad(
                lambda: transport.sharded_sinkhorn(MESH, "columns", X, Y, eps=1.0),
                ValueError,
                ("columns", "rows"),
            ),
            Bad(
                lambda: transport.sharded_sinkhorn(
                    MESH, "rows", X, Y, eps=1.0, init=None
                ),
                TypeError,
                ("init",),
            ),
        ),
    ),
    gap_case("entropy", in_scan=True, bad=bad_gap(transport.monge_gap_from_samples)),
    gap_case("sharp", rtol=1e-5),
    gap_case("debiased", rtol=1e-5),
    gap_case("kl", cost="euclidean"),
    Case(
        "jaxdiv.transport.monge_gap",
        lambda x, angle: transport.monge_gap(
            lambda z: z * angle + jnp.sin(z), x, eps=0.5, offset=True, **tight(x)
        ),
        (X, np.float64(-0.4)),
        bad=(
            Bad(
                lambda: transport.monge_gap(lambda x: x, jnp.ones((3, 2), int)),
                TypeError,
                ("x", "int32"),
            ),
            Bad(
                lambda: transport.monge_gap(lambda x: x, X, kind="kl", offset=True),
                ValueError,
                ("offset", "'kl'"),
            ),
        ),
        slow=True,
    ),
    Case(
        "jaxdiv.transport.monge_gap_gradient",
        lambda x, y: transport.monge_gap_gradient(x, y, eps=0.7, **tight(x)),
        (X, IMAGE),
        order=1,
        rtol=1e-5,
        bad=(
            *bad_gap(transport.monge_gap_gradient),
            Bad(
                lambda: transport.monge_gap_gradient(X, X, kind="sharp"),
                ValueError,
                ("sharp", "jax.grad"),
            ),
        ),
        slow=True,
    ),
    Case(
        "jaxdiv.transport.exact_monge_gap",
        transport.exact_monge_gap,
        (X, IMAGE),
        order=1,
        bad=(
            Bad(
                lambda: transport.exact_monge_gap(X, X[:2]),
                ValueError,
                ("(5, 2)", "(2, 2)"),
            ),
            Bad(
                lambda: transport.exact_monge_gap(X, X, cost="l3"), ValueError, ("l3",)
            ),
        ),
    ),
    no_checks(
        "fit_monge_map",
        (
            Bad(fit_with(lam=-1.0), ValueError, ("lam", "-1.0")),
            Bad(fit_with(steps=0), ValueError, ("steps", "0")),
            Bad(fit_with(batch_size=0), ValueError, ("batch_size",)),
            Bad(fit_with(eps_fit=0.0), ValueError, ("eps_fit",)),
            Bad(fit_with(cost="l3"), ValueError, ("l3", "sqeuclidean")),
            Bad(fit_with(kind="hard", optimizer=optax.sgd(0.1)), ValueError, ("hard",)),
        ),
    ),
]
