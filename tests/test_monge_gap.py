import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import transport

X = np.array(
    [
        [2.04, -2.56],
        [0.42, -0.57],
        [-0.45, -0.22],
        [-2.02, -0.23],
        [-0.87, 3.32],
        [0.23, -0.35],
    ]
)
TIGHT = {"threshold": 1e-9, "max_iterations": 20_000}
KINDS = ("entropy", "kl", "sharp", "debiased")
# map: exact gap, then the four kinds at eps = 0.1 and at eps = 1
PUBLISHED = {
    "x": (
        X,
        0,
        (0.191322, -0.167029, -0.009570, 0),
        (2.227198, -1.356321, -0.167442, 0),
    ),
    "x + c": (
        X + [1, -2],
        0,
        (0.191322, -0.167029, -0.009570, 0),
        (2.227198, -1.356321, -0.167442, 0),
    ),
    "2x": (
        2 * X,
        0,
        (0.184823, -0.173529, -0.008795, -0.000985),
        (2.115532, -1.467987, -0.156672, -0.004870),
    ),
    "x/2": (
        X / 2,
        0,
        (0.198554, -0.159798, -0.011929, -0.001158),
        (2.359773, -1.223746, -0.229757, -0.035701),
    ),
    "-x": (
        -X,
        16.530333,
        (16.713136, 16.354784, 16.519401, 16.521814),
        (18.854472, 15.270954, 16.321856, 16.627275),
    ),
    "rotation": (
        np.stack([-X[:, 1], X[:, 0]], 1),
        5.739133,
        (5.942554, 5.584202, 5.718288, 5.751232),
        (8.060681, 4.477163, 5.621837, 5.833484),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name, x64):
    y, exact, *rows = PUBLISHED[name]
    np.testing.assert_allclose(transport.exact_monge_gap(X, y), exact, atol=1e-6)
    for eps, row in zip((0.1, 1.0), rows, strict=True):
        for kind, expected in zip(KINDS, row, strict=True):
            gap = transport.monge_gap_from_samples(X, y, eps=eps, kind=kind, **TIGHT)
            # nearly a permutation: no first-order solver fixes the sharp gap further
            np.testing.assert_allclose(gap, expected, atol=1e-5)


LINEAR = X @ np.array([[0.8, 0.3], [-0.2, 1.1]]) + 0.1
GRADIENTS = {
    "entropy": [
        [0, 0],
        [-0.0404051, 0.0350615],
        [0.0555005, -0.0150363],
        [0.0006390, 0.0000040],
        [0, 0],
        [-0.0157344, -0.0200292],
    ],
    "debiased": [
        [0, 0],
        [0.0057779, 0.0082315],
        [-0.0007180, -0.0150487],
        [-0.0002316, -0.0003304],
        [0, 0],
        [-0.0048283, 0.0071476],
    ],
}


def test_published_gap_of_a_linear_map(x64):
    expected = (0.62020014, -0.45485554, -0.04629161, 0.00117246)
    for kind, value in zip(KINDS, expected, strict=True):
        gap = transport.monge_gap_from_samples(X, LINEAR, eps=0.3, kind=kind, **TIGHT)
        np.testing.assert_allclose(gap, value, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("kind", GRADIENTS)
def test_published_gradients(kind, x64):
    options = {"eps": 0.3, "kind": kind, **TIGHT}
    gradient = transport.monge_gap_gradient(X, LINEAR, **options)
    np.testing.assert_allclose(gradient, GRADIENTS[kind], atol=2e-7)
    by_autodiff = jax.grad(lambda y: transport.monge_gap_from_samples(X, y, **options))(
        LINEAR
    )
    np.testing.assert_allclose(gradient, by_autodiff, atol=1e-8)


def on_the_sphere(x, y):
    return jnp.arccos(jnp.clip(jnp.dot(x, y), -1 + 1e-7, 1 - 1e-7))


def p_norm(x, y):
    return jnp.sum(jnp.abs(x - y) ** 3)


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["euclidean", p_norm, on_the_sphere])
@pytest.mark.parametrize("kind", ["entropy", "kl", "debiased"])
def test_closed_form_is_the_derivative_for_any_cost(cost, kind, x64):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 8, 3))
    if cost is on_the_sphere:
        x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
        if kind == "debiased":
            return  # not zero between equal points once clipped
    options = {"eps": 0.4, "cost": cost, "kind": kind, "threshold": 1e-12}
    gap = lambda y: transport.monge_gap_from_samples(x, y, **options)
    gradient = transport.monge_gap_gradient(x, y, **options)
    np.testing.assert_allclose(gradient, jax.grad(gap)(y), atol=1e-6)
    direction = rng.standard_normal(y.shape)
    slope = (gap(y + 1e-5 * direction) - gap(y - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose(np.vdot(gradient, direction), slope, rtol=1e-6)


@pytest.mark.slow
def test_weights(x64):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 5, 2))
    doubled = np.array([0, 0, 1, 2, 3, 4])  # the first pair counts twice
    weights = np.bincount(doubled) / 6
    options = {"eps": 0.5, "threshold": 1e-12}
    for kind in ("kl", "sharp", "debiased"):
        np.testing.assert_allclose(
            transport.monge_gap_from_samples(
                x, y, weights=weights, kind=kind, **options
            ),
            transport.monge_gap_from_samples(
                x[doubled], y[doubled], kind=kind, **options
            ),
            rtol=1e-9,
        )


def test_offset_bounds_the_exact_gap_and_tends_to_it(x64):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((32, 2))
    y = np.sin(3 * x) + 0.2 * x[:, ::-1]
    exact = transport.exact_monge_gap(x, y)
    for eps in (1.0, 0.1, 0.02):
        gap = transport.monge_gap_from_samples(x, y, eps=eps, offset=True, **TIGHT)
        assert -1e-8 <= gap - exact <= eps * math.log(32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_point_has_no_gap(kind):
    x = np.array([[1.0, 2.0]], np.float32)
    for options in ({}, {"eps": 0.5}):
        gap = transport.monge_gap_from_samples(x, x + 3, kind=kind, **options)
        np.testing.assert_allclose(gap, 0, atol=1e-5)


def test_nan_in_nan_out():
    y = jnp.asarray(X, jnp.float32).at[0, 0].set(jnp.nan)
    assert jnp.isnan(transport.monge_gap_from_samples(X.astype(np.float32), y, eps=0.1))
    assert jnp.isnan(transport.exact_monge_gap(X.astype(np.float32), y))


def test_of_a_map_and_its_result(x64):
    turn = lambda x: jnp.stack([-x[:, 1], x[:, 0]], 1)
    gap, result = transport.monge_gap(turn, X, eps=1.0, return_result=True, **TIGHT)
    np.testing.assert_allclose(gap, 8.060681, atol=1e-6)
    assert result.converged
    jitted = jax.jit(lambda x: transport.exact_monge_gap(x, -x))
    np.testing.assert_allclose(jitted(X), 16.530333, atol=1e-6)


def test_relative_eps_is_a_share_of_the_mean_cost(x64):
    y = -X
    mean = ((X[:, None] - y) ** 2).sum(-1).mean()
    np.testing.assert_allclose(
        transport.monge_gap_from_samples(X, y, relative_eps=0.1),
        transport.monge_gap_from_samples(X, y, eps=0.1 * mean),
        rtol=1e-12,
    )
