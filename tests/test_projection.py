import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import isotonic_regression

from jaxdiv.implicit import projection

RNG = np.random.default_rng(0)
A = RNG.standard_normal((2, 5))
W = RNG.uniform(0.5, 1.5, 5)
LOW, HIGH = -RNG.uniform(0.1, 1, 5), RNG.uniform(0.1, 1, 5)
B3, B4 = np.array([0.2, 0.3, 0.5]), np.array([0.1, 0.4, 0.3, 0.2])


def random_member(name, rng):
    """A random feasible point of each set, by another way than projecting."""
    z = rng.standard_normal(5)
    if name == "simplex":
        return 2 * rng.dirichlet(np.ones(5))
    if name == "l1_ball":
        return rng.uniform() * rng.dirichlet(np.ones(5)) * np.sign(z)
    if name == "l2_ball":
        return rng.uniform() * z / np.linalg.norm(z)
    if name == "linf_ball":
        return rng.uniform(-1, 1, 5)
    if name == "nonnegative":
        return np.abs(z)
    if name == "box":
        return rng.uniform(LOW, HIGH)
    if name == "hyperplane":
        return z + W * (0.7 - W @ z) / (W @ W)
    if name == "halfspace":
        return z - W * (max(W @ z - 0.7, 0) + rng.uniform()) / (W @ W)
    if name == "affine":
        return z + np.linalg.lstsq(A, np.ones(2) - A @ z)[0]
    if name == "box_section":
        cost = rng.standard_normal(5)
        equality = {"A_eq": W[None], "b_eq": [0.1]}
        bounds = list(zip(LOW, HIGH, strict=True))
        return scipy.optimize.linprog(cost, bounds=bounds, **equality).x
    if name == "isotonic":
        return np.sort(z)
    if name == "soc":
        return np.append(z[:4], np.linalg.norm(z[:4]) + rng.uniform())
    raise AssertionError(name)


SETS = {
    "simplex": lambda y: projection.simplex(y, 2.0),
    "l1_ball": projection.l1_ball,
    "l2_ball": projection.l2_ball,
    "linf_ball": projection.linf_ball,
    "nonnegative": projection.nonnegative,
    "box": lambda y: projection.box(y, LOW, HIGH),
    "hyperplane": lambda y: projection.hyperplane(y, W, 0.7),
    "halfspace": lambda y: projection.halfspace(y, W, 0.7),
    "affine": lambda y: projection.affine(y, A, np.ones(2)),
    "box_section": lambda y: projection.box_section(y, LOW, HIGH, W, 0.1),
    "isotonic": projection.isotonic,
    "soc": projection.soc,
}


@pytest.mark.parametrize("name", SETS)
def test_no_member_is_nearer(name, x64):
    # <y - p, x - p> <= 0 for every member x characterises the projection p.
    rng = np.random.default_rng(1)
    project = jax.jit(SETS[name])
    for scale in (0.1, 1.0, 10.0):
        y = scale * rng.standard_normal(5)
        p = np.asarray(project(y))
        np.testing.assert_allclose(project(p), p, atol=1e-13)
        for _ in range(20):
            x = random_member(name, rng)
            np.testing.assert_allclose(project(x), x, atol=1e-12)
            assert (y - p) @ (x - p) <= 1e-12 * (1 + scale)


@pytest.mark.parametrize("name", SETS)
def test_jacobian_is_that_of_differences_in_both_modes(name, x64):
    y = 2 * np.random.default_rng(2).standard_normal(5)
    forward, reverse = (
        jax.jit(mode(SETS[name]))(y) for mode in (jax.jacfwd, jax.jacrev)
    )
    np.testing.assert_allclose(forward, reverse, atol=1e-13)
    step = 1e-6 * np.eye(5)
    project = jax.jit(jax.vmap(SETS[name]))
    expected = (project(y + step) - project(y - step)).T / 2e-6
    np.testing.assert_allclose(forward, expected, atol=1e-8)


def test_published_sparsemax(x64):
    y = jnp.array([0.9, 0.2, 1.1, -0.4])
    np.testing.assert_allclose(projection.simplex(y), [0.4, 0, 0.6, 0], atol=1e-15)
    J = np.zeros((4, 4))
    J[np.ix_([0, 2], [0, 2])] = [[0.5, -0.5], [-0.5, 0.5]]
    np.testing.assert_allclose(jax.jacrev(projection.simplex)(y), J, atol=1e-15)
    by_scale = jax.jacfwd(lambda s: projection.simplex(y, s))(1.0)
    np.testing.assert_allclose(by_scale, [0.5, 0, 0.5, 0], atol=1e-15)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30))
def test_isotonic_regression(values):
    y = np.asarray(values)
    with jax.enable_x64(True):
        p = projection.isotonic(jnp.asarray(y))
    np.testing.assert_allclose(p, isotonic_regression(y), atol=1e-9)


def test_isotonic_in_float32_and_long():
    y = np.random.default_rng(0).standard_normal(3000) + np.linspace(0, 3, 3000)
    p = projection.isotonic(jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(p, isotonic_regression(y), atol=2e-5)


def by_interior_point(M, a, b):
    """The projection on the transport polytope by SLSQP."""
    n, m = M.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    equations = np.concatenate([rows, columns])[:-1]
    right = np.concatenate([a, b])[:-1]
    return scipy.optimize.minimize(
        lambda p: ((p - M.ravel()) ** 2).sum() / 2,
        np.outer(a, b).ravel(),
        jac=lambda p: p - M.ravel(),
        bounds=[(0, None)] * (n * m),
        constraints={
            "type": "eq",
            "fun": lambda p: equations @ p - right,
            "jac": lambda p: equations,
        },
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    ).x.reshape(n, m)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_transport(scale, x64):
    M = scale * np.random.default_rng(3).standard_normal((3, 4))
    P = projection.transport(M, B3, B4)
    np.testing.assert_allclose(P.sum(1), B3, atol=1e-14)
    np.testing.assert_allclose(P, by_interior_point(M, B3, B4), atol=1e-6)
    V = np.random.default_rng(4).standard_normal((3, 4))
    f = jax.jit(lambda t: projection.transport(M + t * V, B3, B4))
    expected = (f(1e-6) - f(-1e-6)) / 2e-6
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(mode(f)(0.0), expected, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("n", [5, 30, 100])
def test_birkhoff(n, dtype, x64):
    M = jnp.asarray(np.random.default_rng(n).standard_normal((n, n)), dtype)
    P = projection.birkhoff(M)
    assert P.dtype == dtype
    tolerance = 20 * n * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(P.sum(0), 1, atol=tolerance)
    np.testing.assert_allclose(P.sum(1), 1, atol=tolerance)
    # No vertex, a permutation, is nearer.
    gap = np.asarray(M - P)
    rows, columns = scipy.optimize.linear_sum_assignment(-gap)
    assert gap[rows, columns].sum() - np.vdot(gap, P) < 100 * tolerance


@pytest.mark.slow
def test_psd(x64):
    Y = np.random.default_rng(5).standard_normal((4, 4))
    Y = Y + Y.T
    values, U = np.linalg.eigh(Y)
    np.testing.assert_allclose(
        projection.psd(Y), (U * np.maximum(values, 0)) @ U.T, atol=1e-14
    )
    D = np.random.default_rng(6).standard_normal((4, 4))
    f = jax.jit(lambda t: projection.psd(Y + t * (D + D.T)))
    first = (f(1e-5) - f(-1e-5)) / 2e-5
    second = (jax.jacfwd(f)(1e-5) - jax.jacfwd(f)(-1e-5)) / 2e-5
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(mode(f)(0.0), first, atol=1e-8)
    np.testing.assert_allclose(jax.jacrev(jax.jacfwd(f))(0.0), second, atol=1e-7)
    # Equal eigenvalues, where differentiating eigh gives NaN.
    slope = jax.jacrev(lambda t: projection.psd(t * np.diag([1.0, 1, -1])))(2.0)
    np.testing.assert_allclose(slope, np.diag([1.0, 1, 0]), atol=1e-14)


def test_spheres(x64):
    y = np.array([3.0, -4.0])
    np.testing.assert_allclose(projection.l2_sphere(y, 2.0), [1.2, -1.6])
    np.testing.assert_allclose(projection.l1_sphere(y), [0, -1], atol=1e-15)
    assert jnp.isnan(projection.l2_sphere(jnp.zeros(2))).all()
    huge = projection.l2_sphere(jnp.array([3e200, 4e200]))
    np.testing.assert_allclose(huge, [0.6, 0.8])
    slope = jax.jacrev(projection.l2_ball)(jnp.zeros(2))
    np.testing.assert_allclose(slope, np.eye(2))


@pytest.mark.slow
def test_axis_and_batch(x64):
    y = np.random.default_rng(7).standard_normal((3, 5, 2))
    sizes = np.array([[0.5, 1.0], [1.5, 2.0], [2.5, 3.0]])
    for name in (
        "simplex",
        "l1_ball",
        "l2_ball",
        "linf_ball",
        "l1_sphere",
        "l2_sphere",
    ):
        project = getattr(projection, name)
        whole = project(y, sizes, axis=1)
        for i, j in np.ndindex(3, 2):
            one = project(y[i, :, j], sizes[i, j])
            np.testing.assert_allclose(whole[i, :, j], one, atol=1e-14)
    moved = projection.isotonic(y, axis=1)
    np.testing.assert_allclose(moved[0, :, 1], projection.isotonic(y[0, :, 1]))


@pytest.mark.parametrize("name", SETS)
def test_nan_in_nan_out(name):
    y = jnp.array([1.0, jnp.nan, 0.5, 0.2, -1.0])
    p = SETS[name](y)
    assert jnp.isnan(p[1])
    entrywise = name in ("box", "linf_ball", "nonnegative")
    assert entrywise or jnp.isnan(p).all()


def test_traced_arguments_without_a_member_give_nan():
    y = jnp.ones(3)
    assert jnp.isnan(jax.jit(projection.simplex)(y, -1.0)).all()
    assert jnp.isnan(jax.jit(projection.box)(y, 1.0, 0.0)).all()
    cut = jax.jit(projection.box_section)
    assert jnp.isnan(cut(y, 0.0, 1.0, jnp.ones(3), 4.0)).all()
    unequal = jax.jit(projection.transport)(jnp.ones((2, 2)), jnp.ones(2), y[:2] * 2)
    assert jnp.isnan(unequal).all()


def test_rank_deficient_equations(x64):
    twice = np.stack([W, 2 * W])
    p = projection.affine(np.zeros(5), twice, np.array([0.7, 1.4]))
    np.testing.assert_allclose(
        p, projection.hyperplane(np.zeros(5), W, 0.7), atol=1e-14
    )


def test_contradictory_equations(x64):
    twice, b = np.stack([W, 2 * W]), np.array([0.7, 1.5])
    with pytest.raises(ValueError, match="no solution"):
        projection.affine(np.zeros(5), twice, b)
    assert jnp.isnan(jax.jit(projection.affine)(np.zeros(5), twice, b)).all()


def test_a_batch_of_equations(x64):
    rng = np.random.default_rng(8)
    y, A, b = (rng.standard_normal(s) for s in ((3, 5), (3, 2, 5), (3, 2)))
    p = projection.affine(y, A, b)
    np.testing.assert_allclose(np.einsum("kmn,kn->km", A, p), b, atol=1e-14)
    np.testing.assert_allclose(p[1], projection.affine(y[1], A[1], b[1]), atol=1e-14)


@pytest.mark.slow
def test_sections_of_unbounded_boxes(x64):
    y = np.random.default_rng(9).standard_normal((4, 5))
    sizes = np.array([0.5, 1.0, 2.0, 4.0])
    ones = np.ones(5)
    cut = projection.box_section(y, 0.0, np.inf, ones, sizes)
    np.testing.assert_allclose(cut, projection.simplex(y, sizes), atol=1e-14)
    signed = W * [1, -1, 1, -1, 1]
    cut = projection.box_section(y, -np.inf, np.inf, signed, sizes)
    np.testing.assert_allclose(cut, projection.hyperplane(y, signed, sizes), atol=1e-14)
    some = projection.box_section(y[0], LOW, HIGH, W * (ones - np.eye(5)[2]), 0.1)
    np.testing.assert_allclose(some[2], np.clip(y[0, 2], LOW[2], HIGH[2]))
    with pytest.raises(ValueError, match=r"c is 9\.0"):
        projection.box_section(y, -np.inf, 1.0, ones, 9.0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_section_of_entries_of_many_sizes(dtype, x64):
    y = np.random.default_rng(10).standard_normal(1000) * np.logspace(-6, 6, 1000)
    p = projection.box_section(y.astype(dtype), -1.0, 1.0, jnp.ones(1000, dtype), 0.3)
    assert abs(p.sum() - 0.3) < 2000 * jnp.finfo(dtype).eps
    shift = (np.asarray(p) - y)[(p > -1) & (p < 1)]
    assert np.ptp(shift) < 10 * jnp.finfo(dtype).eps


def test_jacobian_of_a_section(x64):
    y = 0.4 * np.random.default_rng(2).standard_normal(5)
    project = SETS["box_section"]
    p = project(y)
    f = (p > LOW) & (p < HIGH)
    assert 2 <= f.sum() <= 4
    fw = f * W
    expected = np.diag(f) - np.outer(fw, fw) / (fw @ fw)
    np.testing.assert_allclose(jax.jacrev(project)(y), expected, atol=1e-14)


def test_common_parts_and_scales_cost_no_digits():
    y = (1e6 + np.random.default_rng(0).standard_normal(1000)).astype(np.float32)
    exact = np.sort(y.astype(float))[::-1]
    excess = (np.cumsum(exact) - 1) / np.arange(1, 1001)
    tau = excess[np.sum(exact > excess) - 1]
    expected = np.maximum(y.astype(float) - tau, 0)
    np.testing.assert_allclose(projection.simplex(y), expected, atol=1e-6)
    masked = projection.simplex(jnp.array([1.0, -jnp.inf, 0.5]))
    np.testing.assert_allclose(masked, [0.75, 0, 0.25])
    huge = projection.hyperplane(jnp.zeros(2), jnp.array([1e30, 1e30]), 1e30)
    np.testing.assert_allclose(huge, [0.5, 0.5])


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_transport_far_from_the_polytope(scale, x64):
    rng = np.random.default_rng(0)
    a, b = rng.dirichlet(np.ones(30)), rng.dirichlet(np.ones(40))
    M = scale * rng.standard_normal((30, 40)) + 1e3 * scale
    P = np.asarray(projection.transport(M, a, b))
    np.testing.assert_allclose(P.sum(1), a, atol=1e-10)
    np.testing.assert_allclose(P.sum(0), b, atol=1e-10)
    M = M - M.mean()
    rows = np.kron(np.eye(30), np.ones(40))
    columns = np.kron(np.ones(30), np.eye(40))
    best = scipy.optimize.linprog(
        (P - M).ravel(),
        A_eq=np.concatenate([rows, columns]),
        b_eq=np.concatenate([a, b]),
    )
    assert -best.fun - np.vdot(M - P, P) < 1e-9 * scale


@pytest.mark.slow
def test_jacobian_of_birkhoff_projects(x64):
    M = np.random.default_rng(11).standard_normal((4, 3, 3))
    together = jax.vmap(projection.birkhoff)(M)
    np.testing.assert_allclose(together, projection.birkhoff(M), atol=1e-14)
    J = jax.jacrev(projection.birkhoff)(M[0]).reshape(9, 9)
    np.testing.assert_allclose(J @ J, J, atol=1e-14)
    np.testing.assert_allclose(J, J.T, atol=1e-14)
    P = projection.birkhoff(M[0])
    np.testing.assert_allclose(projection.birkhoff(P), P, atol=1e-14)


@pytest.mark.parametrize("name", ["l1_ball", "l2_ball", "linf_ball", "isotonic"])
def test_empty_points(name):
    assert getattr(projection, name)(jnp.ones((2, 0))).shape == (2, 0)
    assert getattr(projection, name)(jnp.ones((0, 2))).shape == (0, 2)


@pytest.mark.parametrize("name", ["simplex", "l1_sphere", "l2_sphere"])
def test_sets_without_points(name):
    with pytest.raises(ValueError, match="empty"):
        getattr(projection, name)(jnp.ones((2, 0)))
