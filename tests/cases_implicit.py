import jax.numpy as jnp
import numpy as np

from jaxdiv import implicit
from tests.cases import Bad, Case

W = np.array([[0.3, -0.2], [0.1, 0.4]])
B = np.array([0.5, -0.3])
X = np.array([0.7, 0.2])


def T(x, W, b):
    return jnp.tanh(W @ x + b)


def F(x, W, b):
    return T(x, W, b) - x


def quadratic(x, b):
    return jnp.sum((x - b) ** 4) + jnp.sum(x**2)


def soft(y, threshold, stepsize):
    return jnp.sign(y) * jnp.maximum(jnp.abs(y) - stepsize * threshold, 0)


def solved(W, b):
    return implicit.newton(F, jnp.zeros_like(b), W, b, tol=1e-13).value


def tight(solver, *args, **options):
    # So near that differences of solutions show the derivative.
    def value(*theta):
        tol = 1e-13 if theta[-1].dtype == jnp.float64 else 1e-6
        return solver(*args, *theta, tol=tol, **options).value

    return value


def limits(solver, *args):
    return (
        Bad(lambda: solver(*args, tol=0.0), ValueError, ("tol is 0.0",)),
        Bad(lambda: solver(*args, maxiter=0), ValueError, ("maxiter is 0",)),
    )


def at_zero(solver):
    return lambda W, b: tight(solver, T, jnp.zeros_like(b))(W, b)


ZERO, ONE = jnp.zeros(2), jnp.ones(2)


def integer_start(solver, *args):
    return Bad(lambda: solver(*args, jnp.array([0, 1])), TypeError, ("init", "int32"))


def wrong_shape(solver):
    return Bad(lambda: solver(lambda x: x[:1], ZERO), TypeError, ("(1,)", "(2,)"))


CASES = [
    Case(
        "jaxdiv.implicit.attach",
        lambda W, b: implicit.attach(F, solved(W, b), W, b),
        (W, B),
        in_scan=True,
        bad=(Bad(lambda: implicit.attach(F, 1, W, B), TypeError, ("int32",)),),
    ),
    Case(
        "jaxdiv.implicit.root",
        lambda W, b: implicit.root(F)(lambda init, W, b: solved(W, b))(b, W, b),
        (W, B),
        in_scan=True,
        bad=(Bad(lambda: implicit.root(F, solve="qr"), ValueError, ("'qr'", "lu")),),
    ),
    Case(
        "jaxdiv.implicit.fixed_point",
        lambda W, b: implicit.fixed_point(T)(lambda init, W, b: solved(W, b))(b, W, b),
        (W, B),
        in_scan=True,
        bad=(Bad(lambda: implicit.fixed_point(T, tol=-1.0), ValueError, ("tol",)),),
    ),
    Case(
        "jaxdiv.implicit.argmin",
        lambda b: implicit.argmin(quadratic)(
            lambda init, b: (
                (
                    implicit.newton(
                        implicit.stationarity(quadratic), init, b, tol=1e-13
                    )
                ).value
            )
        )(jnp.zeros_like(b), b),
        (B,),
        in_scan=True,
        bad=(
            Bad(lambda: implicit.argmin(quadratic, refine=-1), ValueError, ("refine",)),
        ),
    ),
    Case(
        "jaxdiv.implicit.root_jvp",
        lambda x, W, b: implicit.root_jvp(F, x, (W, b), (W, 2 * b)),
        (X, W, B),
        bad=(
            Bad(
                lambda: implicit.root_jvp(F, X, (W, B), (W,)),
                ValueError,
                ("1 tangents", "2"),
            ),
        ),
    ),
    Case(
        "jaxdiv.implicit.root_vjp",
        lambda x, W, b: implicit.root_vjp(F, x, (W, b), 2 * b),
        (X, W, B),
        bad=(Bad(lambda: implicit.root_vjp(F, 1, (W, B), X), TypeError, ("int32",)),),
    ),
    Case(
        "jaxdiv.implicit.linear_solve",
        lambda A, b: implicit.linear_solve(lambda v: A @ v, b)[0],
        (W + np.eye(2), B),
        in_scan=True,
        bad=(
            Bad(
                lambda: implicit.linear_solve(lambda v: v, ONE, solve="magic"),
                ValueError,
                ("'magic'", "gmres"),
            ),
        ),
    ),
    Case(
        "jaxdiv.implicit.check",
        lambda x, W, b: implicit.check(F, x, W, b),
        (X, W, B),
        order=0,
        bad=(Bad(lambda: implicit.check(F, 1, W, B), TypeError, ("int32",)),),
        # Its solve_residual is rounding.
        dtypes=False,
        transforms=False,
    ),
    Case(
        "jaxdiv.implicit.picard",
        at_zero(implicit.picard),
        (W, B),
        in_scan=True,
        bad=(
            *limits(implicit.picard, jnp.cos, ZERO),
            integer_start(implicit.picard, jnp.cos),
            wrong_shape(implicit.picard),
        ),
    ),
    Case(
        "jaxdiv.implicit.anderson",
        at_zero(implicit.anderson),
        (W, B),
        in_scan=True,
        bad=(
            *limits(implicit.anderson, jnp.cos, ZERO),
            integer_start(implicit.anderson, jnp.cos),
            wrong_shape(implicit.anderson),
            Bad(
                lambda: implicit.anderson(jnp.cos, ZERO, history=0),
                ValueError,
                ("history is 0",),
            ),
            Bad(
                lambda: implicit.anderson(jnp.cos, ZERO, mixing=2.0),
                ValueError,
                ("mixing", "2.0"),
            ),
        ),
    ),
    Case(
        "jaxdiv.implicit.newton",
        lambda W, b: tight(implicit.newton, F, jnp.zeros_like(b))(W, b),
        (W, B),
        in_scan=True,
        bad=(
            *limits(implicit.newton, jnp.cos, ZERO),
            integer_start(implicit.newton, jnp.cos),
            wrong_shape(implicit.newton),
        ),
    ),
    Case(
        "jaxdiv.implicit.projected_fista",
        lambda b: tight(
            implicit.projected_fista,
            quadratic,
            implicit.projection.simplex,
            jnp.ones_like(b) / 2,
            stepsize=0.05,
            maxiter=5000,
        )(b),
        (B,),
        in_scan=True,
        bad=(
            Bad(
                lambda: implicit.projected_fista(
                    quadratic, ONE, ZERO, ONE, stepsize=0.0
                ),
                ValueError,
                ("stepsize",),
            ),
        ),
    ),
    Case(
        "jaxdiv.implicit.bisect",
        lambda t: implicit.bisect(lambda x, t: x**3 + x - t, -2.0, 2 + 0 * t, t).value,
        (B,),
        in_scan=True,
        bad=(
            Bad(
                lambda: implicit.bisect(jnp.cos, 1.0, 0.0), ValueError, ("low", "high")
            ),
            Bad(lambda: implicit.bisect(jnp.cos, 1, 2.0), TypeError, ("low", "int")),
        ),
    ),
    Case(
        "jaxdiv.implicit.stationarity",
        lambda x, b: implicit.stationarity(quadratic)(x, b),
        (X, B),
    ),
    Case(
        "jaxdiv.implicit.proximal_gradient",
        lambda x, b, t: implicit.proximal_gradient(quadratic, soft, 0.1)(x, b, t),
        (X, B, np.array(0.3)),
    ),
    Case(
        "jaxdiv.implicit.projected_gradient",
        lambda x, b, s: implicit.projected_gradient(
            quadratic, implicit.projection.simplex, 0.1
        )(x, b, s),
        (X, B, np.array(1.5)),
    ),
    Case(
        "jaxdiv.implicit.mirror_descent",
        lambda x, b: implicit.mirror_descent(quadratic, 0.1)(x, b),
        (X, B),
    ),
    Case(
        "jaxdiv.implicit.kkt",
        lambda z, nu, lam, b: implicit.kkt(
            quadratic, eq=lambda z, b: z.sum() - 1, ineq=lambda z, b: -z * b
        )((z, nu, lam), b),
        (X, np.array(0.3), np.array([0.2, 0.5]), B),
    ),
    Case(
        "jaxdiv.implicit.block",
        lambda x, y, b: implicit.block(
            lambda pair, b: quadratic(pair[0] * pair[1], b), (soft, soft), (0.1, 0.2)
        )((x, y), b, (0.01, 0.02)),
        (X, X + 1, B),
        bad=(
            Bad(lambda: implicit.block(quadratic, (soft,), ()), ValueError, ("1", "0")),
            Bad(
                lambda: implicit.block(quadratic, (soft,), (1.0,))((X, X), B),
                ValueError,
                ("2 blocks", "1 prox"),
            ),
        ),
    ),
]
