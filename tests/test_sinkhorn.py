import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdiv import transport
from tests.helpers import check_derivatives

X = np.array([[0, 0], [1, 0], [0, 2], [1.5, 1]])
Y = np.array([[0.5, 0.5], [2, 0], [-1, 1]])
A = np.array([0.1, 0.2, 0.3, 0.4])
B = np.array([0.5, 0.25, 0.25])
TIGHT = {"threshold": 1e-13, "max_iterations": 20_000}


def clouds(n, m, d, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    y = 0.5 + 0.7 * rng.standard_normal((m, d))
    return x.astype(dtype), y.astype(dtype)


# eps: <P, C>, OT_eps, <P, C> - eps H, Sinkhorn divergence
PUBLISHED = {
    0.1: (1.276085448768, 1.338771931077, 1.106814431410, 1.222793928685),
    0.5: (1.316265309299, 1.553250261736, 0.393462763399, 0.995745230492),
    2.0: (1.628731712281, 2.044330488891, -2.594819504456, 0.611523104631),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kernel", "log"])
@pytest.mark.parametrize("eps", PUBLISHED)
def test_published_costs(eps, method, x64):
    result = transport.sinkhorn(X, Y, a=A, b=B, eps=eps, method=method, **TIGHT)
    primal, regularised, entropic, divergence = PUBLISHED[eps]
    np.testing.assert_allclose(result.primal_cost, primal, rtol=1e-11)
    np.testing.assert_allclose(result.reg_ot_cost, regularised, rtol=1e-11)
    np.testing.assert_allclose(result.ent_reg_cost, entropic, rtol=1e-11)
    np.testing.assert_allclose(
        transport.sinkhorn_divergence(X, Y, a=A, b=B, eps=eps, **TIGHT),
        divergence,
        rtol=1e-11,
    )
    assert result.converged
    P = transport.plan(result, X, Y)
    np.testing.assert_allclose(P.sum(1), A, rtol=1e-11)
    np.testing.assert_allclose(P.sum(0), B, rtol=1e-11)
    np.testing.assert_allclose(jnp.vdot(result.a, result.f), 0, atol=1e-14)


@pytest.mark.slow
def test_published_potentials_and_gradients(x64):
    def solve(x=X, a=A, eps=0.5):
        return transport.sinkhorn(x, Y, a=a, b=B, eps=eps, **TIGHT)

    result = solve()
    f = [-0.5190766725, -0.6342733981, 0.6905004153, -0.0709694443]
    np.testing.assert_allclose(result.f, f, rtol=1e-9)
    np.testing.assert_allclose(
        result.g, [1.3278371301, 1.6605432946, 1.8967834922], rtol=1e-10
    )
    slope = [
        [-0.0786421982, -0.1071192673],
        [0.0419933895, -0.1473311298],
        [0.4282645583, 0.6572451472],
        [0.2083842503, 0.5972052499],
    ]
    cost = lambda **change: solve(**change).reg_ot_cost
    np.testing.assert_allclose(jax.grad(lambda x: cost(x=x))(X), slope, atol=1e-10)
    np.testing.assert_allclose(
        jax.grad(lambda eps: cost(eps=eps))(0.5), 0.473969904874, rtol=1e-11
    )

    w, w2 = np.array([0.3, -1, 0.5, 0.7]), np.array([0.2, 0.1, -0.4])
    loss = lambda a: w @ solve(a=a).f + w2 @ solve(a=a).g
    gradient = jax.grad(loss)(A)
    np.testing.assert_allclose(
        gradient @ np.array([1.0, -1, 0, 0]), 0.5475921351, rtol=1e-9
    )
    np.testing.assert_allclose(
        gradient @ np.array([0.0, 1, 1, -2]), 5.4745219835, rtol=1e-9
    )

    def in_the_other_convention(x, eps):
        result = solve(x=x, eps=eps)
        F, G = result.f + eps * jnp.log(A), result.g + eps * jnp.log(B)
        return w @ (F - F.mean()) + w2 @ (G + F.mean())

    value, (dx, deps) = jax.value_and_grad(in_the_other_convention, (0, 1))(X, 0.5)
    np.testing.assert_allclose(value, 0.9557903784, rtol=1e-9)
    np.testing.assert_allclose(deps, -0.0355241314, rtol=1e-8)
    np.testing.assert_allclose(
        dx,
        [
            [-0.3806827928, -0.0731057357],
            [-0.3530826722, 0.8843608907],
            [-1.3180411312, 1.3726803771],
            [0.0018065961, 0.9160644680],
        ],
        atol=1e-9,
    )


def test_small_eps_reaches_the_linear_programme(x64):
    cost = ((X[:, None] - Y) ** 2).sum(-1)
    n, m = cost.shape
    marginals = np.concatenate(
        [np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))]
    )
    exact = scipy.optimize.linprog(
        cost.ravel(), A_eq=marginals, b_eq=np.concatenate([A, B])
    ).fun
    np.testing.assert_allclose(exact, 1.275, rtol=1e-9)
    gaps = []
    for eps in (0.2, 0.05, 0.02):
        result = transport.sinkhorn(X, Y, a=A, b=B, eps=eps, **TIGHT)
        gaps.append(result.primal_cost - exact)
        assert result.dual_cost - eps * 3 <= exact  # KL(P || ab) is below 3 here
    assert gaps[0] > gaps[1] > gaps[2] > 0
    np.testing.assert_allclose(gaps[2], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("mean", "variance", "eps", "expected"),
    [
        ((0.0, 1.0), (1.0, 2.0), 0.5, 1.865831230298),
        ((0.2, -0.4), (0.5, 0.3), 2.0, 1.019477248224),
    ],
)
def test_gaussians_by_quadrature(mean, variance, eps, expected, x64):
    grids, weights = [], []
    for m, v in zip(mean, variance, strict=True):
        grid = np.linspace(m - 8 * v**0.5, m + 8 * v**0.5, 400)
        density = np.exp(-((grid - m) ** 2) / (2 * v))
        grids.append(grid[:, None])
        weights.append(density / density.sum())
    a, b = weights
    value = transport.ot_cost(*grids, a=a, b=b, eps=eps, threshold=1e-11)
    np.testing.assert_allclose(value, expected, rtol=1e-9)


@pytest.mark.slow
def test_limits(x64):
    far = transport.sinkhorn(X, Y, a=A, b=B, eps=1e6, **TIGHT)
    np.testing.assert_allclose(
        transport.plan(far, X, Y), np.outer(A, B), rtol=1e-5, atol=1e-9
    )
    one = transport.sinkhorn(X[:1], Y[:1], eps=0.3)
    np.testing.assert_allclose(one.reg_ot_cost, 0.5, rtol=1e-12)
    same = transport.sinkhorn_divergence(X, X, a=A, b=A, eps=1.0, **TIGHT)
    assert abs(same) < 1e-12


@pytest.mark.slow
def test_zero_weights_change_nothing(x64):
    pad = lambda z, w: (np.vstack([z, [[5.0, 5.0]]]), np.append(w, 0.0))
    (x, a), (y, b) = pad(X, A), pad(Y, B)

    def solve(x, y, a, b):
        return transport.sinkhorn(x, y, a=a, b=b, eps=0.5, **TIGHT)

    plain, padded = solve(X, Y, A, B), solve(x, y, a, b)
    for field in ("reg_ot_cost", "primal_cost", "ent_reg_cost"):
        np.testing.assert_allclose(
            getattr(plain, field), getattr(padded, field), rtol=1e-12
        )
    np.testing.assert_allclose(padded.f[:-1], plain.f, atol=1e-12)
    loss = lambda *args: solve(*args).f[:4].sum() + solve(*args).primal_cost
    dx, dy, da, _ = jax.grad(loss, (0, 1, 2, 3))(x, y, a, b)
    expected = jax.grad(loss, (0, 1))(X, Y, A, B)
    np.testing.assert_allclose(dx[:-1], expected[0], atol=1e-10)
    np.testing.assert_allclose(dy[:-1], expected[1], atol=1e-10)
    np.testing.assert_allclose(dx[-1], 0, atol=1e-12)
    assert jnp.isfinite(da).all()
    # Danskin: the slope in the weight of an atom without mass is its potential.
    slope = jax.grad(lambda a: solve(x, y, a, b).reg_ot_cost)(a)
    np.testing.assert_allclose(slope - padded.f, (slope - padded.f)[0], atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["jvp of grad", "grad of jvp", "grad of grad"])
def test_second_derivatives_at_a_zero_weight(order, x64):
    # The weight cannot become negative: differences of the slope from the right.
    x, y = np.vstack([X, [[1.0, 1.0]]]), np.vstack([Y, [[0.5, -1.0]]])
    shift = np.array([-0.5, 0.2, -0.3, -0.4, 1.0])  # mass moves to the empty atoms
    shift_b = np.array([-0.3, -0.4, -0.3, 1.0])

    def loss(t):
        a, b = np.append(A, 0.0) + t * shift, np.append(B, 0.0) + t * shift_b
        result = transport.sinkhorn(x, y, a=a, b=b, eps=0.5, **TIGHT)
        return jnp.cos(jnp.arange(5.0)) @ result.f + result.g[3] + result.g[0] ** 2

    second = {
        "jvp of grad": lambda t: jax.jvp(jax.grad(loss), (t,), (1.0,))[1],
        "grad of jvp": jax.grad(lambda t: jax.jvp(loss, (t,), (1.0,))[1]),
        "grad of grad": jax.grad(jax.grad(loss)),
    }[order]
    slope, h = jax.jit(jax.grad(loss)), 1e-4
    expected = (-3 * slope(0.0) + 4 * slope(h) - slope(2 * h)) / (2 * h)
    np.testing.assert_allclose(second(0.0), expected, rtol=1e-4)


@pytest.mark.slow
def test_forbidden_pairs(x64):
    C = jnp.array([[0.0, jnp.inf, 0.3], [1.0, 0.5, 0.2], [0.4, 0.1, 0.6]])
    costly = jnp.where(jnp.isinf(C), 50.0, C)
    solve = lambda C: transport.sinkhorn_from_cost(C, eps=0.3, **TIGHT)
    assert solve(C).converged
    P = transport.plan(solve(C))
    assert P[0, 1] == 0
    np.testing.assert_allclose(P, transport.plan(solve(costly)), atol=1e-12)
    for field in ("reg_ot_cost", "primal_cost"):
        gradients = [
            jax.grad(lambda C, field=field: getattr(solve(C), field))(matrix)
            for matrix in (C, costly)
        ]
        np.testing.assert_allclose(*gradients, atol=1e-10)
    alone = transport.sinkhorn_from_cost(C.at[0].set(jnp.inf), eps=0.3)
    assert alone.reg_ot_cost == jnp.inf
    assert not alone.converged


@pytest.mark.slow
def test_traced_bad_weights_give_nan():
    solve = jax.jit(
        lambda a: transport.sinkhorn(X[:2], Y[:2], a=a, eps=0.5)._replace(cost=None)
    )
    for a in ([-0.5, 1.5], [1.0, 1.0], [np.nan, 1.0]):
        result = solve(jnp.array(a))
        assert jnp.isnan(result.reg_ot_cost), a
        assert not result.converged


@pytest.mark.slow
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_points_end_at_once(bad):
    x = jnp.asarray(X, jnp.float32).at[0, 0].set(bad)
    result = transport.sinkhorn(x, Y.astype(np.float32), eps=0.5)
    assert not jnp.isfinite(result.reg_ot_cost)
    assert not result.converged
    assert result.n_iters <= 10


def test_not_converged_is_said():
    x, y = clouds(64, 64, 2)
    result = transport.sinkhorn(x, y, eps=0.01, max_iterations=5)
    assert not result.converged
    assert result.marginal_error > 1e-3
    assert result.n_iters == 5
    P = transport.plan(result, x, y)
    error = abs(P.sum(1) - 1 / 64).sum() + abs(P.sum(0) - 1 / 64).sum()
    np.testing.assert_allclose(result.marginal_error, error, rtol=1e-2)
    longer = transport.sinkhorn(x, y, eps=0.01, threshold=1e-4)
    assert result.dual_cost < longer.dual_cost
    start = transport.sinkhorn(x, y, eps=0.01, init=(longer.f, longer.g))
    assert start.n_iters < longer.n_iters


@pytest.mark.slow
def test_over_relaxation_halves_the_iterations():
    x, y = clouds(512, 512, 2)
    eps = 0.01 * float(((x[:, None] - y) ** 2).sum(-1).mean())
    plain, relaxed = (
        transport.sinkhorn(x, y, eps=eps, threshold=1e-4, momentum=momentum)
        for momentum in (1.0, "auto")
    )
    assert plain.converged
    assert relaxed.converged
    assert relaxed.n_iters <= 0.5 * plain.n_iters


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("share", [1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("trouble", ["outliers", "duplicates", "weights", "identity"])
@pytest.mark.parametrize("form", ["held", "soft", "streamed"])
def test_adversarial_clouds(form, trouble, share, dtype, x64):
    x, y = clouds(40, 30, 2, dtype)
    a, b = np.full(40, 1 / 40, dtype), np.full(30, 1 / 30, dtype)
    if trouble == "outliers":
        x[:2], y[:1] = 1e3, -1e3
    elif trouble == "duplicates":
        x[10:], y[5:] = x[0], y[0]
    elif trouble == "weights":
        a = np.geomspace(1e-12, 1, 40).astype(dtype)
        a, b = a / a.sum(), np.r_[np.zeros(10), np.full(20, 0.05)].astype(dtype)
    else:
        y, b = x + dtype(1e-4), a
    scale = ((x[:, None] - y) ** 2).sum(-1).mean()
    options = {"eps": share * scale, "a": a, "b": b}
    rho_a = rho_b = np.inf
    if form == "soft":
        rho_a, rho_b = 0.1 * scale, 3 * scale
        options |= {"rho_a": rho_a, "rho_b": rho_b, "b": 2 * b}
    elif form == "streamed":
        options |= {"method": "stream", "block_size": 7}
    solve = lambda x: transport.sinkhorn(x, y, **options)
    result = solve(x)
    for field in ("f", "g", "reg_ot_cost", "primal_cost", "marginal_error"):
        assert jnp.isfinite(getattr(result, field)).all(), field
    assert result.converged == (result.marginal_error <= 1e-3)
    P = np.asarray(transport.plan(result, x, y), np.float64)
    error = abs(P.sum(1) - result.a * np.exp(-result.f / rho_a)).sum()
    error += abs(P.sum(0) - result.b * np.exp(-result.g / rho_b)).sum()
    assert abs(error - result.marginal_error) < 1e-3
    assert jnp.isfinite(jax.grad(lambda x: solve(x).reg_ot_cost)(x)).all()


@pytest.mark.slow
def test_lanes_of_a_batch_do_not_disturb_each_other(x64):
    batch = [clouds(20, 20, 2, np.float64, seed=seed) for seed in range(3)]
    eps = jnp.array([1.0, 0.1, 0.02])
    x, y = (jnp.stack(z) for z in zip(*batch, strict=True))
    solve = lambda x, y, eps: transport.sinkhorn(x, y, eps=eps)[:9]
    together = jax.vmap(solve)(x, y, eps)
    for i in range(3):
        for one, many in zip(solve(x[i], y[i], eps[i]), together, strict=True):
            np.testing.assert_allclose(one, many[i], rtol=1e-7, atol=1e-12)


def test_costs_by_name_and_by_function(x64):
    x, y = clouds(12, 9, 3, np.float64)
    by_function = {
        "sqeuclidean": lambda x, y: jnp.sum((x - y) ** 2),
        "euclidean": lambda x, y: jnp.sqrt(jnp.sum((x - y) ** 2)),
    }
    for name, function in by_function.items():
        named, called = (
            jax.value_and_grad(
                lambda x, cost=cost: transport.ot_cost(x, y, eps=0.3, cost=cost)
            )(x)
            for cost in (name, function)
        )
        np.testing.assert_allclose(named[0], called[0], rtol=1e-12)
        np.testing.assert_allclose(named[1], called[1], rtol=1e-9, atol=1e-12)


def test_far_from_the_origin_in_float32():
    x, y = clouds(64, 64, 3)
    near = transport.ot_cost(x, y, eps=0.5, threshold=1e-4)
    away = transport.ot_cost(x + 100, y + 100, eps=0.5, threshold=1e-4)
    np.testing.assert_allclose(near, away, rtol=1e-3)


def test_low_precision_is_computed_in_float32():
    x, y = (jnp.asarray(z, jnp.bfloat16) for z in clouds(16, 16, 2))
    result = transport.sinkhorn(x, y, eps=0.5)
    assert result.f.dtype == result.reg_ot_cost.dtype == jnp.float32
    assert result.converged


@pytest.mark.slow
def test_the_first_derivative_of_the_cost_solves_no_linear_system():
    x, y = clouds(16, 16, 2)
    cost = lambda x: transport.ot_cost(x, y, eps=0.5)
    potential = lambda x: transport.sinkhorn(x, y, eps=0.5).f[0]
    loops = [
        jax.jit(jax.grad(f)).lower(x).compile().as_text().count(" while(")
        for f in (cost, potential)
    ]
    plain = jax.jit(cost).lower(x).compile().as_text().count(" while(")
    assert loops[0] == plain < loops[1]


def test_apply_plan_and_entropic_map(x64):
    result = transport.sinkhorn(X, Y, a=A, b=B, eps=0.5, **TIGHT)
    P = transport.plan(result, X, Y)
    rows = transport.apply_plan(result, X, Y, Y, axis=1)
    columns = transport.apply_plan(result, X, Y, X[:, 0], axis=0)
    np.testing.assert_allclose(rows, P @ Y, rtol=1e-12)
    np.testing.assert_allclose(columns, P.T @ X[:, 0], rtol=1e-12)
    # at the points of the problem the map is the barycentre of the plan
    image = transport.entropic_map(result, Y, X)
    np.testing.assert_allclose(image, rows / A[:, None], rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean"])
def test_second_derivatives_with_weights_and_eps(cost, x64):
    def loss(x, z, eps):
        a = jnp.exp(z) / jnp.exp(z).sum()
        return transport.ot_cost(x, Y, a=a, b=B, eps=eps, cost=cost, **TIGHT)

    check_derivatives(loss, (X, np.log(A), np.float64(0.6)))


points = st.lists(
    st.tuples(st.floats(-3, 3, width=32), st.floats(-3, 3, width=32)),
    min_size=2,
    max_size=6,
).map(lambda rows: np.array(rows, np.float32))


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(points, st.integers(0, 5))
def test_invariants(x, seed):
    size = 6
    x = np.resize(x, (size, 2))  # one shape, one compilation
    y = np.random.default_rng(seed).standard_normal((5, 2)).astype(np.float32)
    eps, tolerance = 0.5, {"atol": 5e-3, "rtol": 5e-3}
    divergence = transport.sinkhorn_divergence(x, y, eps=eps)
    assert divergence >= -5e-3
    np.testing.assert_allclose(
        divergence, transport.sinkhorn_divergence(y, x, eps=eps), **tolerance
    )
    assert abs(transport.sinkhorn_divergence(x, x[::-1], eps=eps)) < 5e-3
    cost = transport.ot_cost(x, y, eps=eps)
    np.testing.assert_allclose(
        cost, transport.ot_cost(x[::-1], y, eps=eps), **tolerance
    )
    np.testing.assert_allclose(
        cost, transport.ot_cost(x + 2, y + 2, eps=eps), **tolerance
    )
