import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from jaxdiv import metrics, transport

S1 = np.array([[2.0, 0.5], [0.5, 1.0]])
S2 = np.array([[1.0, -0.3], [-0.3, 1.5]])
M1, M2 = np.array([0.0, 0.0]), np.array([1.0, -1.0])
A = np.array([[0.7535411635, -0.2973508038], [-0.2973508038, 1.3085328820]])


def covariance(rng, d, rank=None):
    root = rng.standard_normal((d, rank or d))
    return root @ root.T


def test_gaussian_published_values(x64):
    T = transport.gaussian_map(M1, S1, M2, S2)
    np.testing.assert_allclose(T.A, A, atol=1e-9)
    np.testing.assert_allclose(T.b, M2, atol=1e-12)
    value = transport.bures_wasserstein_sq(M1, S1, M2, S2)
    np.testing.assert_allclose(value, 2.4634711896, atol=1e-9)


def test_gaussian_map_carries_one_law_onto_the_other(x64):
    rng = np.random.default_rng(0)
    (s1, s2), (m1, m2) = (covariance(rng, 6) for _ in "ab"), rng.standard_normal((2, 6))
    T = transport.gaussian_map(m1, s1, m2, s2)
    np.testing.assert_allclose(T.A @ s1 @ T.A.T, s2, atol=1e-10)
    np.testing.assert_allclose(T(m1), m2, atol=1e-12)
    by_scipy = scipy.linalg.inv(s1) @ scipy.linalg.sqrtm(s1 @ s2)
    np.testing.assert_allclose(T.A, by_scipy, atol=1e-9)
    assert np.linalg.eigvalsh(T.A).min() > 0
    # the cost of the map is the distance
    moved = T.A - np.eye(6)
    cost = np.trace(moved @ s1 @ moved.T) + np.sum((m1 - m2) ** 2)
    distance = transport.bures_wasserstein_sq(m1, s1, m2, s2)
    np.testing.assert_allclose(distance, cost, rtol=1e-12)


def test_gaussian_leading_axes_broadcast(x64):
    rng = np.random.default_rng(1)
    s1 = np.stack([covariance(rng, 3) for _ in range(4)])
    s2, m1, m2 = covariance(rng, 3), rng.standard_normal((2, 1, 3)), np.ones(3)
    T = transport.gaussian_map(m1, s1, m2, s2)
    value = transport.bures_wasserstein_sq(m1, s1, m2, s2)
    assert (T.A.shape, T.b.shape, value.shape) == ((2, 4, 3, 3), (2, 4, 3), (2, 4))
    alone = transport.gaussian_map(m1[1, 0], s1[2], m2, s2)
    np.testing.assert_allclose(T.A[1, 2], alone.A, atol=1e-12)
    np.testing.assert_allclose(T.b[1, 2], alone.b, atol=1e-12)
    np.testing.assert_allclose(T(m1), np.broadcast_to(m2, T.b.shape), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_singular_covariances(dtype, x64):
    rng = np.random.default_rng(2)
    d, rank = 5, 2
    s1, s2 = (covariance(rng, d, r).astype(dtype) for r in (rank, d))
    zero = np.zeros(d, dtype)
    T = transport.gaussian_map(zero, s1, zero, s2)
    assert T.A.dtype == dtype
    atol = 1e-3 if dtype == np.float32 else 1e-8
    basis = np.linalg.eigh(s1)[1][:, -rank:]
    # on the range of S1 the image has the law of the target there
    image = basis.T @ T.A @ s1 @ T.A @ basis
    np.testing.assert_allclose(image, basis.T @ s2 @ basis, atol=atol)
    off = np.eye(d) - basis @ basis.T
    np.testing.assert_allclose(T.A @ off, 0, atol=atol)
    point = transport.bures_wasserstein_sq(zero, 0 * s1, zero, s2)
    np.testing.assert_allclose(point, np.trace(s2), rtol=1e-6)
    reversed_ = transport.bures_wasserstein_sq(zero, s2, zero, s1)
    forward = transport.bures_wasserstein_sq(zero, s1, zero, s2)
    np.testing.assert_allclose(forward, reversed_, atol=10 * atol)


@pytest.mark.slow
def test_gaussian_derivative_where_the_rank_stays(x64):
    rng = np.random.default_rng(3)
    root, turn = rng.standard_normal((2, 4, 2))
    s2, zero, weight = covariance(rng, 4), np.zeros(4), rng.standard_normal((4, 4))

    def along(t):
        moved = root + t * turn
        s1 = moved @ moved.T
        distance = transport.bures_wasserstein_sq(zero, s1, zero, s2)
        return jnp.vdot(weight, transport.gaussian_map(zero, s1, zero, s2).A), distance

    slopes, step = jax.jacfwd(along)(0.0), 1e-3
    high, low = along(jnp.asarray(step)), along(jnp.asarray(-step))
    for slope, up, down in zip(slopes, high, low, strict=True):
        np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=2e-5)
    reverse = [jax.grad(lambda t, i=i: along(t)[i])(0.0) for i in range(2)]
    np.testing.assert_allclose(reverse, slopes, rtol=1e-6)


@pytest.mark.slow
def test_gaussian_derivatives_at_equal_and_zero_eigenvalues(x64):
    zero, eye = np.zeros(3), jnp.eye(3)
    s2 = covariance(np.random.default_rng(4), 3)
    # A = (S2 / S1)^(1/2) where S1 is a multiple of the identity
    slope = jax.jacrev(lambda t: transport.gaussian_map(zero, t * eye, zero, s2).A)(4.0)
    np.testing.assert_allclose(slope, -scipy.linalg.sqrtm(s2) / 16, atol=1e-12)
    for singular in (jnp.diag(jnp.array([1.0, 1.0, 0.0])), 0 * eye):
        for function in (transport.gaussian_map, transport.bures_wasserstein_sq):
            for at in ((singular, eye), (eye, singular), (singular, singular)):
                derivatives = jax.jacrev(
                    lambda s1, s2, f=function: f(zero, s1, zero, s2), (0, 1)
                )(*at)
                for leaf in jax.tree.leaves(derivatives):
                    assert jnp.isfinite(leaf).all()


def test_traced_covariances_that_are_none_give_nan():
    bad, eye, zero = np.diag([1.0, -0.1]), np.eye(2), np.zeros(2)
    bad, eye, zero = (jnp.asarray(z, jnp.float32) for z in (bad, eye, zero))
    for args in ((zero, bad, zero, eye), (zero, eye, zero, bad)):
        assert jnp.isnan(jax.jit(transport.bures_wasserstein_sq)(*args))
        assert jnp.isnan(jax.jit(transport.gaussian_map)(*args).A).all()
    rounded = jnp.diag(jnp.array([1.0, -1e-7]))  # no more than rounding
    assert jnp.isfinite(transport.bures_wasserstein_sq(zero, rounded, zero, eye))
    nan = eye.at[0, 0].set(jnp.nan)
    assert jnp.isnan(transport.bures_wasserstein_sq(zero, nan, zero, eye))


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(
    hnp.arrays(np.float64, (2, 3, 3), elements=st.floats(-2, 2)),
    hnp.arrays(np.float64, (2, 3), elements=st.floats(-2, 2)),
)
def test_bures_is_a_distance(roots, means):
    with jax.enable_x64(True):
        c1, c2 = (r @ r.T for r in roots)
        distance = jax.jit(transport.bures_wasserstein_sq)
        there = distance(means[0], c1, means[1], c2)
        back = distance(means[1], c2, means[0], c1)
        np.testing.assert_allclose(there, back, atol=1e-6)
        assert there >= np.sum((means[0] - means[1]) ** 2) - 1e-6
        same = distance(means[0], c1, means[0], c1)
        np.testing.assert_allclose(same, 0, atol=1e-6)


def unit(rng, *shape):
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("length", [0.0, 1e-9, 0.3, 1.0, 3.0, 20.0])
def test_sphere_exp(length, x64):
    rng = np.random.default_rng(5)
    x, v = unit(rng, 10, 3), rng.standard_normal((10, 3))
    v -= np.sum(v * x, -1, keepdims=True) * x
    v *= length / np.linalg.norm(v, axis=-1, keepdims=True)
    image = transport.sphere_exp(x, v)
    expected = np.cos(length) * x + np.sinc(length / np.pi) * v
    np.testing.assert_allclose(image, expected, atol=1e-14)
    around = transport.sphere_exp(x, v + 2 * x)  # only the tangent part counts
    np.testing.assert_allclose(around, expected, atol=1e-14)
    gone = transport.sphere_geodesic_cost(x, image)
    expected = abs((length + np.pi) % (2 * np.pi) - np.pi)
    np.testing.assert_allclose(gone, expected, rtol=1e-12, atol=1e-15)
    in_single = transport.sphere_exp(x.astype(np.float32), v.astype(np.float32))
    np.testing.assert_allclose(np.linalg.norm(in_single, axis=-1), 1, atol=1e-6)


@pytest.mark.slow
def test_sphere_exp_derivatives_at_rest(x64):
    x = jnp.array([0.6, 0.8, 0.0])
    tangent = jnp.array([[-0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    f = lambda t: transport.sphere_exp(x, t @ tangent)
    slope, second = jax.jacrev(f)(jnp.zeros(2)), jax.hessian(f)(jnp.zeros(2))
    np.testing.assert_allclose(slope, tangent.T, atol=1e-15)
    expected = -np.einsum("i,jk->ijk", x, np.eye(2))  # cos t = 1 - t^2 / 2
    np.testing.assert_allclose(second, expected, atol=1e-15)


def clipped(x, y):
    return jnp.arccos(jnp.clip(x @ y, -1 + 1e-7, 1 - 1e-7))


@pytest.mark.parametrize("angle", [1e-6, 1e-3, 1.0, math.pi - 1e-3])
def test_geodesic_cost_keeps_its_digits(angle):
    x = jnp.array([1.0, 0.0, 0.0])
    y = jnp.array([math.cos(angle), math.sin(angle), 0.0], jnp.float32)
    # what the angle is once y is rounded to float32
    exact = math.atan2(float(y[1]), float(y[0]))
    cost = transport.sphere_geodesic_cost(x, y)
    np.testing.assert_allclose(cost, exact, rtol=3e-7)
    if angle < 1e-2:
        assert abs(clipped(x, y) - exact) > 1e3 * abs(cost - exact)
    gradient = jax.grad(transport.sphere_geodesic_cost, 1)(x, y)
    atol = 1e-6 + 1e-7 / min(angle, math.pi - angle)  # of x - y, or of x + y
    np.testing.assert_allclose(gradient, [-y[1], y[0], 0], atol=atol)


def test_geodesic_cost_at_its_kinks_and_off_the_sphere(x64):
    x = jnp.array([0.6, 0.8])
    cost = transport.sphere_geodesic_cost
    for y, value in ((x, 0), (-x, math.pi), (0 * x, math.pi / 2)):
        np.testing.assert_allclose(cost(x, y), value, atol=1e-15)
        assert jnp.isfinite(jax.hessian(cost, 1)(x, y)).all()
    assert cost(0 * x, 0 * x) == 0
    assert (jax.grad(cost)(0 * x, 0 * x) == 0).all()
    y = jnp.array([-1.0, 3.0])
    dot = jnp.vdot(x, y)
    np.testing.assert_allclose(cost(x, y), jnp.arccos(2 * dot / 11), rtol=1e-14)
    expected = jnp.arccos(dot / jnp.sqrt(10.0))
    np.testing.assert_allclose(cost(3 * x, y, normalize=True), expected, rtol=1e-14)


@pytest.mark.slow
def test_geodesic_cost_as_a_ground_cost(x64):
    rng = np.random.default_rng(6)
    x, y = unit(rng, 6, 3), unit(rng, 5, 3)
    cost = transport.sphere_geodesic_cost
    result = transport.sinkhorn(x, y, eps=0.2, cost=cost)
    matrix = np.arccos(x @ y.T)
    by_matrix = transport.sinkhorn_from_cost(matrix, eps=0.2)
    np.testing.assert_allclose(result.reg_ot_cost, by_matrix.reg_ot_cost, rtol=1e-9)
    pull = jax.grad(lambda x: transport.ot_cost(x, y, eps=0.2, cost=cost))(x)
    np.testing.assert_allclose(jnp.sum(pull * x, -1), 0, atol=1e-12)


def test_structured_map_of_a_p_norm_is_optimal(x64):
    rng = np.random.default_rng(7)
    x, p = rng.standard_normal((40, 2)), 3.0
    matrix = covariance(rng, 2) / 4
    gradient_of_convex = lambda x: x @ matrix
    conjugate = lambda z: jnp.sign(z) * jnp.abs(z / p) ** (1 / (p - 1))
    cost = lambda x, y: jnp.sum(jnp.abs(x - y) ** p)
    # the potential has to be c-concave; a small share of it is
    T = transport.structured_map(lambda x: 0.02 * gradient_of_convex(x), conjugate)
    turned = transport.structured_map(lambda x: x[..., ::-1] * [2, -2], conjugate)
    gap = lambda T: transport.exact_monge_gap(x, T(x), cost=cost)
    assert gap(turned) > 0.1
    assert abs(gap(T)) < gap(turned) / 10


@pytest.mark.slow
@pytest.mark.parametrize("probes", [1, 5])
def test_conservativity_penalty(probes, x64):
    rng = np.random.default_rng(8)
    matrix, x = rng.standard_normal((3, 3)), rng.standard_normal((20_000, 3))
    field = lambda x: jnp.tanh(x @ matrix.T)
    jacobian = jax.vmap(jax.jacobian(field))(x)
    expected = jnp.mean(jnp.sum((jacobian - jacobian.mT) ** 2, (1, 2)))
    key = jax.random.key(0)
    penalty = transport.conservativity_penalty(field, x, key, probes)
    np.testing.assert_allclose(penalty, expected, rtol=0.03)
    potential = lambda x: jnp.sum(jnp.sin(x @ matrix.T) ** 2)
    gradient = jax.grad(potential)
    assert transport.conservativity_penalty(gradient, x, key, probes) < 1e-24


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(
    hnp.arrays(np.float64, (4, 3), elements=st.floats(0, 1)),
    hnp.arrays(np.float64, 4, elements=st.floats(0, 1)),
    hnp.arrays(np.float64, 3, elements=st.floats(0, 1)),
)
def test_round_plan_is_a_near_coupling(P, a, b):
    hypothesis.assume(a.sum() > 1e-3 and b.sum() > 1e-3)
    a, b = a / a.sum(), b / b.sum()
    with jax.enable_x64(True):
        Q = np.asarray(jax.jit(transport.round_plan)(P, a, b))
    assert (Q >= 0).all()
    np.testing.assert_allclose(Q.sum(1), a, atol=1e-14)
    np.testing.assert_allclose(Q.sum(0), b, atol=1e-14)
    error = np.abs(P.sum(1) - a).sum() + np.abs(P.sum(0) - b).sum()
    assert np.abs(Q - P).sum() <= 2 * error + 1e-12  # lemma 7 of the paper


def test_round_plan_by_the_algorithm_of_the_paper(x64):
    rng = np.random.default_rng(9)
    P, a, b = rng.uniform(size=(5, 4)) / 20, rng.uniform(size=5), rng.uniform(size=4)
    a, b = a / a.sum(), b / b.sum()
    Q = np.diag(np.minimum(a / P.sum(1), 1)) @ P
    Q = Q @ np.diag(np.minimum(b / Q.sum(0), 1))
    row, column = a - Q.sum(1), b - Q.sum(0)
    Q += np.outer(row, column) / np.abs(row).sum()
    np.testing.assert_allclose(transport.round_plan(P, a, b), Q, atol=1e-16)
    many = transport.round_plan(np.stack([P, 2 * P]), a, b)
    np.testing.assert_allclose(many[0], Q, atol=1e-16)
    np.testing.assert_allclose(many[1].sum(0), b, atol=1e-15)


@pytest.mark.slow
def test_round_plan_at_zero_weights_and_at_a_coupling(x64):
    a, b = jnp.array([0.0, 0.5, 0.5]), jnp.array([0.5, 0.0, 0.5])
    exact = a[:, None] * b
    for P in (exact, jnp.zeros((3, 3)), jnp.ones((3, 3)), exact.at[1].set(0)):
        Q = transport.round_plan(P, a, b)
        np.testing.assert_allclose(Q.sum(1), a, atol=1e-16)
        assert (Q[0] == 0).all()
        assert (Q[:, 1] == 0).all()
        value = lambda *args: jnp.sum(transport.round_plan(*args) ** 2)
        for gradient in jax.grad(value, (0, 1, 2))(P, a, b):
            assert jnp.isfinite(gradient).all()
    bad = jax.jit(transport.round_plan)(exact, a, 2 * b)
    assert jnp.isnan(bad).all()
    assert jnp.isnan(jax.jit(transport.round_plan)(-exact, a, b)).all()


@pytest.mark.slow
def test_rounding_a_rough_plan_costs_little(x64):
    rng = np.random.default_rng(10)
    x, y = rng.standard_normal((2, 30, 2))
    result = transport.sinkhorn(x, y, eps=0.1, threshold=0.1)
    P = transport.plan(result, x, y)
    Q = transport.round_plan(P, result.a, result.b)
    np.testing.assert_allclose(Q.sum(0), 1 / 30, rtol=1e-12)
    np.testing.assert_allclose(Q.sum(1), 1 / 30, rtol=1e-12)
    assert np.abs(Q - P).sum() <= 2 * result.marginal_error


def chi_square(i, j, P):
    """p-value of the pairs (i, j) as draws from the normalised P."""
    P = np.asarray(P, np.float64)
    counts = np.zeros(P.shape)
    np.add.at(counts, (np.asarray(i), np.asarray(j)), 1)
    assert (counts[P == 0] == 0).all()
    live = P > 0
    expected = P[live] / P.sum() * len(i)
    return scipy.stats.chisquare(counts[live], expected).pvalue


@pytest.mark.slow
@pytest.mark.parametrize("from_matrix", [False, True])
def test_samples_follow_the_plan(from_matrix, key):
    rng = np.random.default_rng(11)
    x, y = rng.standard_normal((4, 2)), rng.standard_normal((3, 2))
    x, y = x.astype(np.float32), y.astype(np.float32)
    a, b = np.float32([0.1, 0.0, 0.6, 0.3]), np.float32([0.5, 0.5, 0.0])
    C = ((x[:, None] - y) ** 2).sum(-1)
    # stopped at once: the pairs are those of the plan at hand, not of its limit
    options = {"eps": 2.0, "threshold": 1.0, "max_iterations": 1}
    if from_matrix:
        result, x, y = transport.sinkhorn_from_cost(C, a, b, **options), None, None
    else:
        result = transport.sinkhorn(x, y, a=a, b=b, **options)
    i, j = jax.jit(transport.sample_plan, static_argnums=4)(key, result, x, y, 20_000)
    assert i.shape == j.shape == (20_000,)
    P = transport.plan(result, x, y)
    assert chi_square(i, j, P) > 1e-3
    assert chi_square(i, j, np.outer(a, b)) < 1e-6  # it is not the product


def test_sampling_holds_no_plan(key):
    n = 8192
    x = jax.ShapeDtypeStruct((n, 2), jnp.float32)

    def draw(x, y):
        cost = transport.sinkhorn(x[:2], y[:2], eps=1.0).cost
        weights = jnp.full(n, 1 / n)
        values = dict.fromkeys(transport.SinkhornResult._fields, weights)
        values |= {"f": x[:, 0], "g": y[:, 0], "eps": jnp.ones(()), "cost": cost}
        result = transport.SinkhornResult(**values)
        return transport.sample_plan(key, result, x, y, 512)

    compiled = jax.jit(draw).lower(x, x).compile()
    # the plan would be 256 MiB
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**20


def known_pair(seed, d=2, k=6, n=512):
    _, best, sampler = transport.convex_potential_pair(jax.random.key(seed), d, k)
    keys = jax.random.split(jax.random.key(seed + 100), 3)
    x, y, new = (sampler(key, n) for key in keys)
    return x, best(y), new, best


def mean_cost(x, y):
    return float(jnp.mean(jnp.sum((x[:, None] - y) ** 2, -1)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_progot_forgives_a_large_eps(seed):
    x, y, new, best = known_pair(seed)
    var = jnp.var(best(new), 0).sum()
    for share, factor in ((0.4, 0.4), (0.1, 0.9)):
        result = transport.sinkhorn(x, y, eps=share * mean_cost(x, y))
        one_step = metrics.l2_uvp(
            transport.entropic_map(result, y, new), best(new), var
        )
        T = transport.progot_map(x, y, relative_eps=share)
        assert T.keywords["results"].converged.all()
        assert metrics.l2_uvp(T(new), best(new), var) < factor * one_step


@pytest.mark.slow
def test_progot_by_hand(x64):
    rng = np.random.default_rng(12)
    x, y, new = (
        rng.standard_normal((6, 2)),
        rng.standard_normal((5, 2)),
        np.ones((2, 2)),
    )
    a = rng.uniform(size=6)
    a /= a.sum()
    alphas, eps = np.array([0.3, 0.6, 0.2]), np.array([2.0, 1.0, 0.5])
    T = transport.progot_map(x, y, (alphas, eps), a=a)
    cloud, points = x, new
    for alpha, e in zip((0.3, 0.6, 1.0), eps, strict=True):
        result = transport.sinkhorn(cloud, y, eps=e, a=a)
        cloud, points = (
            (1 - alpha) * z + alpha * transport.entropic_map(result, y, z)
            for z in (cloud, points)
        )
    np.testing.assert_allclose(T(new), points, atol=1e-10)
    jitted = jax.jit(lambda x: transport.progot_map(x, y, (alphas, eps), a=a))(x)
    np.testing.assert_allclose(jax.jit(jitted)(new), points, atol=1e-10)
    once = transport.progot_map(x, y, 1)
    result = transport.sinkhorn(x, y, eps=0.1 * mean_cost(x, y))
    expected = transport.entropic_map(result, y, new)
    np.testing.assert_allclose(once(new), expected, atol=1e-12)


@pytest.mark.slow
def test_convex_potential_pair(x64):
    d, k = 3, 10
    phi, best, sampler = transport.convex_potential_pair(jax.random.key(0), d, k)
    x = sampler(jax.random.key(1), 200)
    np.testing.assert_allclose(jax.vmap(jax.grad(phi))(x), best(x), atol=1e-13)
    curvature = jnp.linalg.eigvalsh(jax.vmap(jax.hessian(phi))(x))
    assert curvature.min() >= 0.3 - 1e-12
    np.testing.assert_allclose(transport.exact_monge_gap(x, best(x)), 0, atol=1e-12)
    far = jnp.full((d,), 1e4)
    assert jnp.isfinite(phi(far))
    assert best(x.astype(np.float32)).dtype == jnp.float32
    # constants of the definition, seen from outside
    many_phi, many_best, _ = transport.convex_potential_pair(jax.random.key(2), 2, 4096)
    shift = jnp.array([1.0, -2.0])
    bound = many_best(1e6 * shift) - 0.3e6 * shift  # scale * sum of sign(w.x) w
    spread = 1.5 / 64 * 4096 * 1.5 / 2**0.5 * (2 / np.pi) ** 0.5
    np.testing.assert_allclose(bound, spread * shift / 5**0.5, atol=0.05 * spread)


@pytest.mark.slow
def test_the_law_of_the_pair_is_three_gaussians(key):
    _, _, sampler = transport.convex_potential_pair(key, 2, 6)
    x = np.asarray(sampler(jax.random.key(1), 30_000), np.float64)
    rng = np.random.default_rng(0)
    centres = x[rng.choice(len(x), 3, replace=False)]
    best, least = centres, np.inf
    for _ in range(10):  # k-means finds them
        centres = x[rng.choice(len(x), 3, replace=False)]
        for _ in range(30):
            nearest = ((x[:, None] - centres) ** 2).sum(-1).argmin(1)
            centres = np.stack([x[nearest == i].mean(0) for i in range(3)])
        spread = ((x[:, None] - centres) ** 2).sum(-1).min(1).mean()
        if spread < least:
            best, least = centres, spread
    for axis in range(2):
        law = lambda z, axis=axis: np.mean(
            [scipy.stats.norm.cdf(z, c, 0.5) for c in best[:, axis]], 0
        )
        assert scipy.stats.ks_1samp(x[:, axis], law).statistic < 0.02


def test_map_metrics_identities(x64):
    rng = np.random.default_rng(13)
    x = rng.standard_normal((50, 3))
    best = np.sinh(x)
    var = best.var(0).sum()
    assert metrics.l2_uvp(best, best, var) == 0
    constant = np.broadcast_to(best.mean(0), best.shape)
    np.testing.assert_allclose(metrics.l2_uvp(constant, best, var), 100, rtol=1e-12)
    cosine = metrics.cosine_similarity_maps
    np.testing.assert_allclose(cosine(best, best, x), 1, rtol=1e-14)
    np.testing.assert_allclose(cosine(2 * x - best, best, x), -1, rtol=1e-14)
    assert cosine(x, best, x) == 0
    assert cosine(best, x, x) == 0
    assert (jax.grad(cosine)(x, best, x) == 0).all()
    batched = metrics.l2_uvp(np.stack([best, constant]), np.stack([best] * 2), var)
    np.testing.assert_allclose(batched, [0, 100], atol=1e-12)
    for value, expected in ((0.0, np.inf), (-1.0, np.nan)):
        np.testing.assert_equal(
            np.asarray(jax.jit(metrics.l2_uvp)(x, best, value)), expected
        )
    assert jnp.isposinf(jax.jit(metrics.l2_uvp)(x, x, 0.0))


@pytest.mark.slow
def test_report_of_a_known_map():
    x, y, new, best = known_pair(0)
    report = metrics.map_report(lambda x: best(x) + 0.1, new, y, best)
    var = jnp.var(y, 0).sum()
    np.testing.assert_allclose(report.map.l2_uvp, 100 * 2 * 0.01 / var, rtol=1e-4)
    identity = metrics.l2_uvp(new, best(new), var)
    np.testing.assert_allclose(report.identity.l2_uvp, identity, rtol=1e-6)
    assert report.identity.cosine == 0
    assert 90 < report.constant.l2_uvp < 115
    assert report.map.l2_uvp < report.linear.l2_uvp < report.identity.l2_uvp
    assert report.map.monge_gap is None
    jitted = jax.jit(lambda x, y: metrics.map_report(best, x, y, best))(new, y)
    assert jitted.map.l2_uvp == 0


@pytest.mark.slow
def test_report_of_samples(x64):
    rng = np.random.default_rng(14)
    x = rng.standard_normal((60, 2))
    y = rng.standard_normal((80, 2)) @ np.diag([1.0, 0.3]) + 1
    turn = lambda x: jnp.stack([-x[..., 1], 0.3 * x[..., 0]], -1) + 1
    report = metrics.map_report(turn, x, y, points=40)
    few_x, few_y, t = x[:40], y[:40], turn(x[:40])
    gap = transport.exact_monge_gap(few_x, t)
    np.testing.assert_allclose(report.map.monge_gap, gap, rtol=1e-12)
    assert gap > 0.1  # it turns, which no optimal map does
    for scores in report[1:]:
        np.testing.assert_allclose(scores.monge_gap, 0, atol=1e-12)
    eps = 0.1 * y.var(0).sum()
    divergence = transport.sinkhorn_divergence(t, few_y, eps=eps)
    np.testing.assert_allclose(report.map.sinkhorn_divergence, divergence, rtol=1e-9)
    for name in ("sinkhorn_divergence", "mmd"):
        linear, identity, constant = (
            getattr(scores, name)
            for scores in (report.linear, report.identity, report.constant)
        )
        assert linear < min(identity, constant) / 3
    assert report.map.l2_uvp is None
