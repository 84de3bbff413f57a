import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import implicit

RNG = np.random.default_rng(0)
A = RNG.standard_normal((5, 5)) + 3 * np.eye(5)
S = A @ A.T
B = RNG.standard_normal(5)
SYMMETRIC = ["cholesky", "cg"]
GENERAL = ["auto", "lu", "lstsq", "gmres", "bicgstab", "normal_cg"]


def solve(A, b, method, **options):
    x, _ = implicit.linear_solve(lambda v: A @ v, b, solve=method, **options)
    return x


FAST = {"cg", "lu"}


def marked(method, sign):
    slow = method not in FAST or sign < 0
    return pytest.param(method, sign, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(
    ("method", "sign"),
    [marked(method, sign) for method in SYMMETRIC + GENERAL for sign in (1, -1)],
)
def test_solution_and_derivatives(method, sign, x64):
    matrix = sign * (S if method in SYMMETRIC else A)
    inverse = np.linalg.inv(matrix)
    np.testing.assert_allclose(solve(matrix, B, method), inverse @ B, rtol=1e-7)
    for mode in (jax.jacfwd, jax.jacrev):
        slope = mode(lambda b: solve(matrix, b, method))(B)
        np.testing.assert_allclose(slope, inverse, rtol=1e-6, atol=1e-9)
    D = np.outer(B, B)  # a direction that keeps symmetry

    def moved(s):
        return solve(matrix + s * D, B, method, tol=1e-13).sum()

    first = -(inverse @ D @ inverse @ B).sum()
    second = 2 * (inverse @ D @ inverse @ D @ inverse @ B).sum()
    np.testing.assert_allclose(jax.grad(moved)(0.0), first, rtol=1e-7)
    np.testing.assert_allclose(jax.hessian(moved)(0.0), second, rtol=1e-7)


def test_singular_system_has_the_least_norm(x64):
    singular = np.diag([1.0, 2.0, 0.0])
    x, info = implicit.linear_solve(lambda v: singular @ v, np.ones(3), solve="lstsq")
    np.testing.assert_allclose(x, [1, 0.5, 0], atol=1e-14)
    assert not info.converged
    assert info.residual == pytest.approx(1 / np.sqrt(3))


def test_failure_is_told(x64):
    ill = np.diag(np.logspace(0, -6, 50))
    _, info = implicit.linear_solve(
        lambda v: ill @ v, np.ones(50), solve="normal_cg", maxiter=10
    )
    assert not info.converged
    _, info = implicit.linear_solve(lambda v: ill @ v, np.ones(50), solve="lu")
    assert info.converged


def test_preconditioner_spares_steps(x64):
    diagonal = np.logspace(0, 5, 100)
    matvec = lambda v: diagonal * v
    options = {"solve": "cg", "maxiter": 3}
    _, plain = implicit.linear_solve(matvec, np.ones(100), **options)
    _, good = implicit.linear_solve(
        matvec, np.ones(100), preconditioner=lambda v: v / diagonal, **options
    )
    assert good.converged
    assert not plain.converged


@pytest.mark.slow
def test_pytrees_ridge_and_mixed_dtypes(x64):
    b = {"u": jnp.ones(2, jnp.float32), "v": jnp.ones((2, 2), jnp.float64)}
    matvec = lambda t: jax.tree.map(lambda leaf: 3 * leaf, t)
    for method in ("lu", "gmres", "cg"):
        x, info = implicit.linear_solve(matvec, b, ridge=1.0, solve=method)
        assert info.converged
        assert [x["u"].dtype, x["v"].dtype] == [jnp.float32, jnp.float64]
        np.testing.assert_allclose(x["v"], np.full((2, 2), 0.25), rtol=1e-7)


@pytest.mark.parametrize("method", ["lu", "gmres", "normal_cg", "bicgstab"])
def test_complex(method, x64):
    matrix = A + 1j * A.T
    x = solve(matrix, B + 0j, method)
    np.testing.assert_allclose(x, np.linalg.solve(matrix, B), rtol=1e-7)


@pytest.mark.slow
def test_batches_of_systems(x64):
    matrices = np.stack([A, 2 * A, S])
    for method in ("lu", "gmres"):
        x = jax.vmap(lambda A, m=method: solve(A, B, m))(matrices)
        for one, matrix in zip(x, matrices, strict=True):
            np.testing.assert_allclose(one, np.linalg.solve(matrix, B), rtol=1e-7)


def test_bad_input():
    with pytest.raises(TypeError, match="int32"):
        implicit.linear_solve(lambda v: v, jnp.ones(2, jnp.int32))
    with pytest.raises(TypeError, match=r"expected those of b"):
        implicit.linear_solve(lambda v: v[:1], jnp.ones(2))


def test_diagnostics_of_a_null_space(x64):
    # Two points that repel: a common shift is free.
    def F(x, t):
        return jnp.stack([x[0] - x[1] + t, x[1] - x[0] - t])

    found = implicit.check(F, jnp.array([0.0, 1.0]), 1.0)
    assert found.min_singular < 1e-15
    assert found.condition > 1e15
    assert found.residual_norm == 0


def test_diagnostics_of_a_solver_that_stops_early(x64):
    ill = np.diag(np.logspace(0, -4, 30))
    F = lambda x, b: ill @ x - b
    x = np.ones(30)
    good = implicit.check(F, x, ill @ x)
    np.testing.assert_allclose(good.condition, 1e4, rtol=1e-8)
    assert good.solve_residual < 1e-10
    bad = implicit.check(F, x, ill @ x, solve="normal_cg", maxiter=20)
    assert bad.solve_residual > 1e-4


def test_diagnostics_estimate_the_distance(x64):
    found = implicit.check(lambda x, t: x**3 - t, 1.26, 2.0)
    assert found.newton_step_norm == pytest.approx(1.26 - 2 ** (1 / 3), rel=1e-3)


@pytest.mark.slow
def test_diagnostics_of_a_large_system(x64):
    size = 600
    values = np.concatenate([np.linspace(1, 2, size - 1), [100.0]])
    found = implicit.check(lambda x, b: values * x - b, np.zeros(size), np.ones(size))
    np.testing.assert_allclose(found.min_singular, 1, rtol=1e-3)
    np.testing.assert_allclose(found.condition, 100, rtol=1e-3)
