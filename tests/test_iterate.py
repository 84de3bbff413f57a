import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import implicit

W, B = np.array([[0.3, -0.2], [0.1, 0.4]]), np.array([0.5, -0.3])
X = [0.644657686010959, -0.363528366748491]
HARD = 0.9 * np.random.default_rng(0).standard_normal((30, 30)) / np.sqrt(30)


def T(x, b):
    return jnp.tanh(W @ x + b)


@pytest.mark.parametrize("solver", [implicit.picard, implicit.anderson])
def test_fixed_point(solver, x64):
    found = solver(T, jnp.zeros(2), B, tol=1e-13)
    assert found.converged
    np.testing.assert_allclose(found.value, X, rtol=1e-12)
    short = solver(T, jnp.zeros(2), B, maxiter=2)
    assert not short.converged
    assert short.iterations == 2
    assert float(short.residual) == pytest.approx(
        float(jnp.linalg.norm(T(short.value, B) - short.value))
    )


def test_anderson_needs_far_fewer_steps(x64):
    hard = lambda x, b: jnp.tanh(HARD @ x + b)
    start, b = jnp.zeros(30), jnp.full(30, 0.1)
    plain = implicit.picard(hard, start, b)
    fast = implicit.anderson(hard, start, b)
    assert fast.converged
    assert fast.iterations < plain.iterations / 3
    np.testing.assert_allclose(fast.value, plain.value, atol=1e-8)


@pytest.mark.slow
def test_pytrees(x64):
    init = {"a": jnp.array(0.0), "c": jnp.zeros((2, 1))}

    def tree(x, b):
        c = jnp.full((2, 1), jnp.sin(x["a"]) / 2)
        return {"a": jnp.cos(x["c"]).sum() * b, "c": c}

    for solver in (implicit.picard, implicit.anderson):
        assert solver(tree, init, 0.3).converged
        a = lambda b, s=solver: s(tree, init, b, tol=1e-13).value["a"]
        slope, ends = jax.grad(a)(0.3), (a(0.3001), a(0.2999))
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-4, rtol=1e-6)


def test_newton_from_afar_is_damped(x64):
    # Plain Newton diverges on arctan from |x| > 1.39.
    found = implicit.newton(lambda x, t: jnp.arctan(x) - t, 20.0, 0.0)
    assert found.converged
    np.testing.assert_allclose(found.value, 0, atol=1e-10)


def test_newton_without_a_root_says_so(x64):
    found = implicit.newton(lambda x: x**2 + 1, 0.7, maxiter=30)
    assert not found.converged
    assert found.residual >= 1


def test_nan_ends_at_once_and_is_not_converged():
    for found in (
        implicit.picard(lambda x: x * jnp.nan, 1.0),
        implicit.anderson(lambda x: x * jnp.nan, 1.0),
        implicit.newton(lambda x: x * jnp.nan, 1.0),
    ):
        assert not found.converged
        assert found.iterations <= 1


@pytest.mark.slow
def test_fista_solves_the_published_quadratic_program(x64):
    Q = np.array([[4.0, 1, 0], [1, 3, -1], [0, -1, 2]])

    def solve(c):
        return implicit.projected_fista(
            lambda z, c: z @ Q @ z / 2 + c @ z,
            implicit.projection.simplex,
            jnp.ones(3) / 3,
            c,
            stepsize=0.2,
            tol=1e-13,
        )

    c = jnp.array([1.0, -2.0, 0.5])
    assert solve(c).converged
    np.testing.assert_allclose(solve(c).value, [0, 11 / 14, 3 / 14], atol=1e-12)
    slope = np.array([[0, 0, 0], [0, -1, 1], [0, 1, -1]]) / 7
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(mode(lambda c: solve(c).value)(c), slope, atol=1e-10)


def test_bisection(x64):
    t, want = jnp.array([8.0, 1e-9, -27.0, 0.0]), [2, 1e-3, -3, 0]
    wide = implicit.bisect(lambda x, t: x**3 - t, -1e10 * jnp.ones(4), 1e10, t)
    assert wide.converged
    np.testing.assert_allclose(
        wide.value, want, rtol=1e-14, atol=1e-100
    )  # cubes below it are 0


def test_bisection_without_a_change_of_sign():
    found = implicit.bisect(lambda x: x**2 + 1, jnp.array([0.0, 1.0]), 2.0)
    assert not found.converged
    assert jnp.isnan(found.value).all()


def test_bisection_is_elementwise_in_memory(x64):
    # A hundred thousand roots: a dense derivative would be 80 GB.
    t = jnp.linspace(0.1, 7, 100_000)
    f = lambda t: implicit.bisect(lambda x, t: x**3 - t, 0 * t, 2.0, t).value.sum()
    np.testing.assert_allclose(jax.grad(f)(t), t ** (-2 / 3) / 3, rtol=1e-9)


@pytest.mark.slow
def test_lanes_of_a_batch_stop_alone(x64):
    b = jnp.stack([B, 3 * B, -B])
    run = lambda b: implicit.newton(lambda x, b: T(x, b) - x, jnp.zeros(2), b)
    together = jax.vmap(run)(b)
    for i in range(3):
        alone = run(b[i])
        assert together.iterations[i] == alone.iterations
        np.testing.assert_allclose(together.value[i], alone.value, rtol=1e-13)
