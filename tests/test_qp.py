import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxdiv.implicit import layers

Q = np.array([[4.0, 1, 0], [1, 3, -1], [0, -1, 2]])
C = np.array([1.0, -2.0, 0.5])
E, D = np.ones((1, 3)), np.ones(1)
M, H = -np.eye(3), np.zeros(3)


def kkt_error(problem, value):
    Q, c, E, d, M, h = problem
    z, nu, lam = map(np.asarray, value)
    return max(
        np.abs(Q @ z + c + E.T @ nu + M.T @ lam).max(),
        np.abs(E @ z - d).max(initial=0),
        np.maximum(M @ z - h, 0).max(initial=0),
        np.maximum(-lam, 0).max(initial=0),
        np.abs(lam * (h - M @ z)).max(initial=0),
    )


def random_problem(n, m, k, rank, seed):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((n, rank))
    E, M = rng.standard_normal((m, n)), rng.standard_normal((k, n))
    z = rng.standard_normal(n)
    # Bounded below on the null space of Q: c lies in the cone of the multipliers.
    c = root @ rng.standard_normal(rank) - M.T @ rng.uniform(0, 1, k)
    return root @ root.T / n, c, E, E @ z, M, M @ z + rng.uniform(0, 1, k)


@pytest.mark.slow
def test_published_program(x64):
    found = layers.qp(Q, C, E, D, M, H)
    assert found.converged
    z, nu, lam = found.value
    np.testing.assert_allclose(z, [0, 11 / 14, 3 / 14], atol=1e-13)
    np.testing.assert_allclose(nu, [-1 / 7], rtol=1e-12)
    np.testing.assert_allclose(lam, [23 / 14, 0, 0], atol=1e-12)
    by_c = np.array([[0, 0, 0], [0, -1, 1], [0, 1, -1]]) / 7
    for mode in (jax.jacfwd, jax.jacrev):
        slopes = mode(lambda c, d: layers.qp(Q, c, E, d, M, H).value[0], (0, 1))(C, D)
        np.testing.assert_allclose(slopes[0], by_c, atol=1e-12)
        np.testing.assert_allclose(slopes[1][:, 0], [0, 3 / 7, 4 / 7], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "m", "k", "rank"), [(6, 2, 8, 6), (20, 8, 30, 20), (60, 20, 60, 60)]
)
def test_random_programs(n, m, k, rank, x64):
    for seed in range(3):
        problem = random_problem(n, m, k, rank, seed)
        found = layers.qp(*problem)
        assert found.converged
        assert kkt_error(problem, found.value) < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 3, 10])
def test_singular_quadratic_terms(rank, x64):
    problem = random_problem(20, 5, 40, rank, 7)
    found = layers.qp(*problem)
    assert found.converged
    assert kkt_error(problem, found.value) < 1e-7


def by_active_sets(Q, c, M, h):
    """The least value over all sets of active rows."""
    best, at = np.inf, None
    n, k = len(c), len(h)
    for count in range(n + 1):
        for rows in itertools.combinations(range(k), count):
            A = M[list(rows)]
            system = np.block([[Q, A.T], [A, np.zeros((count, count))]])
            try:
                x = np.linalg.solve(system, np.concatenate([-c, h[list(rows)]]))
            except np.linalg.LinAlgError:
                continue
            z = x[:n]
            value = z @ Q @ z / 2 + c @ z
            if (M @ z <= h + 1e-9).all() and value < best:
                best, at = value, z
    return at


def test_brute_force_over_active_sets(x64):
    for seed in range(3):
        Q, c, _, _, M, h = random_problem(3, 0, 5, 3, seed)
        z = layers.qp(Q, c, M=M, h=h).value[0]
        np.testing.assert_allclose(z, by_active_sets(Q, c, M, h), atol=1e-9)


@pytest.mark.slow
def test_linear_programs(x64):
    for seed in range(3):
        _, c, E, d, M, h = random_problem(8, 3, 20, 0, seed)
        found = layers.lp(c, E, d, M, h)
        want = scipy.optimize.linprog(c, M, h, E, d, bounds=(None, None))
        np.testing.assert_allclose(c @ found.value[0], want.fun, rtol=1e-9)
        # A vertex does not move with the costs, and its value moves by it.
        J = jax.jacrev(lambda c, p=(E, d, M, h): layers.lp(c, *p).value[0])(c)
        np.testing.assert_allclose(J, 0, atol=1e-9)


@pytest.mark.slow
def test_smoothed_linear_program_is_sparsemax(x64):
    y = np.array([0.9, 0.2, 1.1, -0.4])
    args = np.ones((1, 4)), np.ones(1), -np.eye(4), np.zeros(4)
    z = layers.lp(-y, *args, smoothing=1.0).value[0]
    np.testing.assert_allclose(z, layers.sparsemax(y), atol=1e-10)


@pytest.mark.slow
def test_every_derivative_by_differences(x64):
    problem = random_problem(6, 2, 8, 6, 3)
    rng = np.random.default_rng(0)
    shift = [rng.standard_normal(x.shape) for x in problem]
    shift[0] = shift[0] + shift[0].T

    def f(t):
        moved = [x + t * v for x, v in zip(problem, shift, strict=True)]
        return jnp.concatenate(layers.qp(*moved).value)

    f = jax.jit(f)
    first = (f(1e-6) - f(-1e-6)) / 2e-6
    np.testing.assert_allclose(jax.jacfwd(f)(0.0), first, atol=1e-6)
    np.testing.assert_allclose(jax.jacrev(f)(0.0), first, atol=1e-6)


@pytest.mark.slow
def test_second_derivatives_by_differences(x64):
    problem = random_problem(4, 1, 5, 4, 3)
    v = np.random.default_rng(0).standard_normal((4, 4))

    def f(t):
        return layers.qp(problem[0] + t * (v + v.T), *problem[1:]).value[0].sum()

    slope = jax.jit(jax.grad(f))
    want = (slope(1e-5) - slope(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.hessian(f)(0.0), want, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(jax.grad(slope)(0.0), want, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_constraints_given_twice(x64):
    twice = np.concatenate([M, M]), np.concatenate([H, H])
    z, _, lam = layers.qp(Q, C, E, D, *twice).value
    np.testing.assert_allclose(z, [0, 11 / 14, 3 / 14], atol=1e-9)
    np.testing.assert_allclose(lam[0] + lam[3], 23 / 14, rtol=1e-9)
    slope = jax.jacrev(lambda c: layers.qp(Q, c, E, D, *twice).value[0])(C)
    want = np.array([[0, 0, 0], [0, -1, 1], [0, 1, -1]]) / 7
    np.testing.assert_allclose(slope, want, atol=1e-9)


@pytest.mark.slow
def test_without_inequalities_and_without_any(x64):
    z, nu, lam = layers.qp(Q, C, E, D).value
    system = np.block([[Q, E.T], [E, np.zeros((1, 1))]])
    want = np.linalg.solve(system, np.concatenate([-C, D]))
    np.testing.assert_allclose(np.concatenate([z, nu]), want, rtol=1e-12)
    assert lam.shape == (0,)
    np.testing.assert_allclose(layers.qp(Q, C).value[0], -np.linalg.solve(Q, C))


@pytest.mark.slow
def test_a_batch_and_float32():
    c = jnp.stack([jnp.asarray(C), jnp.asarray(10 * C), jnp.zeros(3)]).astype("float32")
    found = layers.qp(Q, c, E, D, M, H)
    assert found.value[0].dtype == jnp.float32
    assert found.converged.all()
    for i in range(3):
        one = layers.qp(Q, c[i], E, D, M, H)
        np.testing.assert_allclose(found.value[0][i], one.value[0], atol=1e-6)


def scaled_batch(kind, dtype):
    """Sixteen programs: plain, of very different scales, redundant or infeasible."""
    rng = np.random.default_rng(1)
    several = [random_problem(12, 4, 18, 12, seed) for seed in range(16)]
    Q, c, E, d, M, h = (np.stack(x) for x in zip(*several, strict=True))
    if kind == "badly scaled":
        columns = 10 ** rng.uniform(-3, 3, (16, 12))
        rows = 10 ** rng.uniform(-3, 3, (16, 18))
        Q = columns[:, :, None] * Q * columns[:, None]
        c, E = c * columns, E * columns[:, None]
        M, h = M * rows[..., None] * columns[:, None], h * rows
    if kind == "redundant":
        E, d = np.concatenate([E, E[:, :1]], 1), np.concatenate([d, d[:, :1]], 1)
        M, h = np.concatenate([M, M], 1), np.concatenate([h, h], 1)
    if kind == "infeasible":
        M[:, 1], h[:, 1] = -M[:, 0], -h[:, 0] - 0.3
    return tuple(x.astype(dtype) for x in (Q, c, E, d, M, h))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_batches_of_hard_programs(dtype, x64):
    solve = jax.jit(layers.qp)
    for kind in ("plain", "badly scaled", "redundant"):
        problem = scaled_batch(kind, dtype)
        found = solve(*problem)
        assert found.converged.all(), kind
        assert found.residual.max() < (1e-5 if dtype == np.float32 else 1e-10)
    found = solve(*scaled_batch("infeasible", dtype))
    assert not found.converged.any()
    assert jnp.isnan(found.value[0]).all()


@pytest.mark.slow
def test_assignment(x64):
    # Redundant equalities and a degenerate vertex; the costs do not move it.
    k = 5
    rng = np.random.default_rng(0)
    costs = rng.uniform(size=(k, k))
    one, eye = np.ones((1, k)), np.eye(k)
    marginals = np.concatenate([np.kron(eye, one), np.kron(one, eye)])
    args = marginals, np.ones(2 * k), -np.eye(k * k), np.zeros(k * k)
    found = layers.lp(costs.ravel(), *args)
    assert found.converged
    at = scipy.optimize.linear_sum_assignment(costs)
    np.testing.assert_allclose(found.value[0].reshape(k, k)[at], 1, rtol=1e-12)
    slope = jax.jacrev(lambda c: layers.lp(c, *args).value[0])(costs.ravel())
    np.testing.assert_allclose(slope, 0, atol=1e-12)


INFEASIBLE = {"M": np.array([[1.0], [-1.0]]), "h": np.array([0.0, -1.0])}


@pytest.mark.slow
def test_no_solution(x64):
    one = np.ones((1, 1)), np.ones(1)
    with pytest.raises(ValueError, match="infeasible"):
        layers.qp(*one, **INFEASIBLE)
    traced = jax.jit(lambda h: layers.qp(*one, M=INFEASIBLE["M"], h=h))
    found = traced(INFEASIBLE["h"])
    assert not found.converged
    assert jnp.isnan(found.value[0]).all()
    with pytest.raises(ValueError, match="unbounded"):
        layers.lp(np.ones(2), M=-np.eye(2)[:1], h=np.zeros(1))


@pytest.mark.slow
def test_out_of_iterations_is_not_converged(x64):
    problem = random_problem(20, 8, 30, 20, 0)
    found = layers.qp(*problem, maxiter=1)
    assert jnp.isfinite(found.value[0]).all()
    assert bool(found.converged) == (kkt_error(problem, found.value) < 1e-8)
