import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from sklearn.datasets import load_diabetes

from jaxdiv import implicit

ROOT, SLOPE = 1.2599210498948732, 0.20998684164914553


def cube(x, t):
    return x**3 - t


def attached(x=ROOT, **options):
    return lambda t: implicit.attach(cube, x, t, **options)


def test_the_value_is_untouched(x64):
    assert attached(1.3)(2.0) == 1.3


def test_refine_squares_the_error(x64):
    rough = ROOT + 1e-4
    plain = jax.grad(attached(rough))(2.0) - SLOPE
    refined = jax.grad(attached(rough, refine=1))(2.0) - SLOPE
    assert 1e-5 < abs(plain) < 1e-3
    assert abs(refined) < 1e-7
    assert attached(rough, refine=2)(2.0) == pytest.approx(ROOT, rel=1e-14)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_a_bad_solution_has_no_derivative(mode, x64):
    assert jnp.isnan(mode(attached(1.3, residual_tol=1e-3))(2.0))
    assert jnp.isfinite(mode(attached(1.3, residual_tol=1.0))(2.0))
    ignored = attached(1.3, residual_tol=1e-3, on_failure="ignore")
    assert jnp.isfinite(mode(ignored)(2.0))


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("x", [np.nan, np.inf])
def test_a_solution_that_is_not_finite_has_no_derivative(mode, x, x64):
    def linear(t):
        return implicit.attach(lambda x, t: 2 * x - t, x, t)

    np.testing.assert_equal(float(linear(1.0)), x)
    assert jnp.isnan(mode(linear)(1.0))


def test_an_error_where_checks_are_wanted(x64):
    def run(x):
        return attached(x, residual_tol=1e-3, on_failure="error")(2.0)

    error, _ = checkify.checkify(run)(1.3)
    with pytest.raises(checkify.JaxRuntimeError, match="above residual_tol"):
        error.throw()
    error, value = checkify.checkify(run)(ROOT)
    error.throw()
    assert value == ROOT


def test_a_linear_solve_that_fails_is_seen(x64):
    A = jnp.diag(jnp.logspace(0, -6, 40))
    ones = jnp.ones(40)

    def solution(b, **options):
        x = jax.lax.stop_gradient(b / jnp.diagonal(A))
        return implicit.attach(
            lambda x, b: A @ x - b, x, b, solve="normal_cg", maxiter=5, **options
        )

    def both_modes(**options):
        f = lambda b: solution(b, **options)
        forward = jax.jvp(f, (ones,), (ones,))[1]
        return forward, jax.grad(lambda b: f(b).sum())(ones)

    for slope in both_modes():
        assert jnp.isfinite(slope).all()
        assert jnp.abs(slope * jnp.diagonal(A) - 1).max() > 0.5  # and wrong
    for slope in both_modes(residual_tol=1e-6):
        assert jnp.isnan(slope).all()


def test_dead_unknowns(x64):
    # sqrt for the live ones; the dead equation would be singular.
    mask = np.array([True, False, True])
    x = jnp.array([2.0, 0.0, 3.0])

    def solution(t):
        return implicit.attach(lambda x, t: x**2 - t, x, t, mask=mask)

    slope = jax.jacrev(solution)(jnp.array([4.0, 5.0, 9.0]))
    np.testing.assert_allclose(slope, np.diag([1 / 4, 0, 1 / 6]), rtol=1e-14)


def test_ridge_bounds_a_singular_system(x64):
    def solution(b):
        return implicit.attach(lambda x, b: 0 * x + b, 1.0, b, ridge=0.5)

    assert jax.grad(solution)(1.0) == -2.0


W, B = np.array([[0.3, -0.2], [0.1, 0.4]]), np.array([0.5, -0.3])
NET = np.array([0.644657686010959, -0.363528366748491])
NET_SLOPE = np.array(
    [
        [0.695558067825641, -0.184920812367173],
        [0.092460406183587, 1.304716673403735],
    ]
)


def net_slope(solve, mode=jax.jacrev):
    def T(x, b):
        return jnp.tanh(W @ x + b)

    @implicit.fixed_point(T, solve=solve)
    def solution(init, b):
        return jax.lax.fori_loop(0, 200, lambda _, x: T(x, b), init)

    return mode(solution, 1)(jnp.zeros(2), B)


@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize(
    ("terms", "error"), [(1, 0.332), (2, 0.110), (5, 3.13e-3), (10, 3.87e-6)]
)
def test_neumann_series(terms, error, mode, x64):
    solve = "one_step" if terms == 1 else f"neumann:{terms}"
    slope = net_slope(solve, mode)
    off = np.linalg.norm(slope - NET_SLOPE) / np.linalg.norm(NET_SLOPE)
    assert off == pytest.approx(error, rel=5e-3)


def test_cosine_of_the_one_step_gradient(x64):
    one, exact = net_slope("one_step"), NET_SLOPE
    cosine = np.vdot(one, exact) / np.linalg.norm(one) / np.linalg.norm(exact)
    assert cosine == pytest.approx(0.98513, abs=5e-6)


@pytest.mark.slow
def test_methods_agree(x64):
    import lineax

    def by_inverse(matvec, b):
        leaves, tree = jax.tree.flatten(b)
        A = jax.jacfwd(lambda v: jax.tree.leaves(matvec(tree.unflatten([v])))[0])
        return tree.unflatten([jnp.linalg.inv(A(leaves[0])) @ leaves[0]])

    solvers = ["lu", "lstsq", "gmres", "bicgstab", "normal_cg", "neumann:60"]
    for solve in [*solvers, by_inverse, lineax.GMRES(1e-12, 1e-12)]:
        np.testing.assert_allclose(net_slope(solve), NET_SLOPE, rtol=1e-8)


def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return (X / X.std(0)), (y / y.std())


@pytest.mark.slow
def test_ridge_regression(x64):
    X, y = diabetes()

    @implicit.argmin(lambda w, t: jnp.sum((X @ w - y) ** 2) / 2 + t * w @ w / 2)
    def solve(init, t):
        return jnp.linalg.solve(X.T @ X + t * jnp.eye(10), X.T @ y)

    def w(t):
        return solve(jnp.zeros(10), t)

    for want in (
        [-0.003349737065709, -0.14202000838273, 0.319457907810182],
        [1.64553385386e-4, 4.74220922835e-4, -4.47433044069e-4],
        [-7.123146500897e-6, -8.788831381025e-6, -1.450977172684e-5],
    ):
        np.testing.assert_allclose(w(10.0)[:3], want, rtol=1e-9)
        w = jax.jacfwd(w)


@pytest.mark.slow
def test_lasso(x64):
    X, y = diabetes()
    step = 1 / np.linalg.norm(X, 2) ** 2

    def soft(y, threshold, stepsize):
        return jnp.sign(y) * jnp.maximum(jnp.abs(y) - stepsize * threshold, 0)

    def squares(w, _):
        return jnp.sum((X @ w - y) ** 2) / 2

    T = implicit.proximal_gradient(squares, soft, step)

    def w(lam):
        return implicit.anderson(T, jnp.zeros(10), None, lam, tol=1e-12).value

    support = [2, 3, 6, 8]
    value = w(44.2)
    assert list(np.flatnonzero(value)) == support
    want = [0.304858091813424, 0.106320753279445, -0.058438158379647, 0.264740936849178]
    np.testing.assert_allclose(value[np.array(support)], want, rtol=1e-9)
    slope = [
        -8.62698438567e-4,
        -1.363154284161e-3,
        1.388308283473e-3,
        -7.87822635282e-4,
    ]
    for mode in (jax.jacfwd, jax.jacrev):
        got = mode(w)(44.2)
        np.testing.assert_allclose(got[np.array(support)], slope, rtol=1e-9)
        assert np.count_nonzero(got) == 4


def test_jvp_and_vjp_by_hand(x64):
    F = lambda x, W, b: jnp.tanh(W @ x + b) - x
    dW, db = np.ones((2, 2)), np.array([1.0, -2.0])
    moved = implicit.root_jvp(F, NET, (W, B), (dW, db))
    still = implicit.root_jvp(F, NET, (W, B), (None, db))
    np.testing.assert_allclose(still, NET_SLOPE @ db, rtol=1e-9)
    g = np.array([0.3, 0.8])
    pulled = implicit.root_vjp(F, NET, (W, B), g)
    np.testing.assert_allclose(pulled[1], g @ NET_SLOPE, rtol=1e-9)
    whole = np.vdot(pulled[0], dW) + pulled[1] @ db
    np.testing.assert_allclose(whole, g @ moved, rtol=1e-12)


def test_by_hand_what_cannot_move_has_none():
    def F(x, theta):
        return x - theta["scale"] * theta["n"]

    theta = {"scale": jnp.array(2.0), "n": jnp.array(3), "name": "linear"}
    (pulled,) = implicit.root_vjp(F, 6.0, (theta,), 1.0)
    assert pulled["scale"] == 3.0
    assert pulled["n"] is None
    assert pulled["name"] is None
    with pytest.raises(ValueError, match="0 tangents"):
        implicit.root_jvp(F, 6.0, (theta,), ())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_low_precision(dtype):
    x = jnp.array([1.26, 1.44], dtype)
    slope = jax.jacrev(lambda t: implicit.attach(cube, x, t))(jnp.array([2, 3], dtype))
    assert slope.dtype == dtype
    error = slope.astype(jnp.float32) - jnp.diag(1 / (3 * jnp.array([1.26, 1.44]) ** 2))
    assert jnp.abs(error).max() < 0.01


@pytest.mark.slow
def test_large_systems_are_iterative(x64):
    # 600 unknowns: "auto" takes GMRES, and a symmetric system CG.
    rng = np.random.default_rng(0)
    A = np.eye(600) + rng.standard_normal((600, 600)) / 100
    b, g = rng.standard_normal((2, 600))

    def loss(b, A, **options):
        x = jax.lax.stop_gradient(jnp.linalg.solve(A, b))
        return g @ implicit.attach(lambda x, b: A @ x - b, x, b, **options)

    got = jax.grad(loss)(b, A)
    np.testing.assert_allclose(got, np.linalg.solve(A.T, g), rtol=1e-7, atol=1e-8)
    S = A @ A.T
    got = jax.grad(loss)(b, S, symmetric=True)
    np.testing.assert_allclose(got, np.linalg.solve(S, g), rtol=1e-7, atol=1e-8)


def test_solution_of_a_solver_keeps_its_fields(x64):
    @implicit.root(cube)
    def solve(init, t):
        return implicit.newton(cube, init, t)

    solution = solve(1.5, 2.0)
    assert isinstance(solution, implicit.Solution)
    assert solution.converged
    value, residual = (jax.grad(lambda t, i=i: solve(1.5, t)[i])(2.0) for i in (0, 2))
    assert value == pytest.approx(SLOPE, rel=1e-12)
    assert residual == 0


def test_numpy_solver_outside_jit(x64):
    @implicit.root(cube)
    def solve(init, t):
        return np.cbrt(np.asarray(t))

    assert jax.grad(solve, 1)(1.0, 2.0) == pytest.approx(SLOPE, rel=1e-13)


def test_only_what_is_differentiated_is_worked_for(x64):
    # A parameter at rest gets no tangent: its huge derivative is not formed.
    seen = []

    @jax.custom_jvp
    def heavy(t):
        return t

    @heavy.defjvp
    def _(primals, tangents):
        seen.append(1)
        return primals[0], tangents[0]

    def loss(a, b):
        return implicit.attach(lambda x, a, b: x - a * heavy(b), 6.0, a, b)

    assert jax.jacfwd(loss)(2.0, jnp.array(3.0)) == 3.0
    assert not seen


BAD = {
    "structure": (lambda x, t: (x,), 1.0, {}, TypeError, "structure"),
    "shape": (lambda x, t: jnp.ones(2), 1.0, {}, TypeError, r"\[2\]"),
    "narrow": (lambda x, t: x.astype(jnp.bfloat16), 1.0, {}, TypeError, "bfloat16"),
    "integer residual": (lambda x, t: 3, 1.0, {}, TypeError, "int32"),
    "integer x": (cube, 1, {}, TypeError, "Cast it first"),
    "boolean x": (cube, True, {}, TypeError, "bool"),
    "solver": (cube, 1.0, {"solve": "qr"}, ValueError, "'qr'.*bicgstab"),
    "terms": (cube, 1.0, {"solve": "neumann:0"}, ValueError, "neumann:k"),
    "solver type": (cube, 1.0, {"solve": 3}, TypeError, "int"),
    "tol": (cube, 1.0, {"tol": 0.0}, ValueError, "tol is 0.0"),
    "maxiter": (cube, 1.0, {"maxiter": 0}, ValueError, "maxiter is 0"),
    "refine": (cube, 1.0, {"refine": -1}, ValueError, "refine is -1"),
    "failure": (cube, 1.0, {"on_failure": "raise"}, ValueError, "'raise'"),
    "residual_tol": (cube, 1.0, {"residual_tol": -1.0}, ValueError, "residual_tol"),
    "mask": (cube, 1.0, {"mask": (True, False)}, TypeError, "mask"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    F, x, options, error, words = BAD[name]
    with pytest.raises(error, match=words):
        implicit.attach(F, x, 2.0, **options)


def test_unknown_option():
    with pytest.raises(TypeError, match="tolerance"):
        implicit.root(cube, tolerance=1e-3)


def test_parameters_without_a_floating_leaf(x64):
    x = implicit.attach(lambda x, n, name: x - n, 3.0, np.array(3), "name")
    assert x == 3.0
    solution = lambda n: implicit.attach(lambda x, n: x - n, 3.0, n)
    slopes = jax.grad(solution, allow_int=True)
    assert slopes(np.array(3)).dtype == jax.dtypes.float0
