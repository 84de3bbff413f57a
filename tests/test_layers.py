import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from jaxdiv.divergence import fenchel_young
from jaxdiv.implicit import layers

Y = np.array([0.9, 0.2, 1.1, -0.4])


def test_published_entmax(x64):
    want = [0.393749042873969, 0.077003062803298, 0.529247894322733, 0]
    np.testing.assert_allclose(layers.entmax(Y), want, atol=1e-14)
    J = jax.jacrev(layers.entmax)(Y)
    first = [0.386297811135936, -0.106663332596124, -0.279634478539812, 0]
    np.testing.assert_allclose(J[0], first, atol=1e-13)
    assert J[1, 1] == pytest.approx(0.230324961410069, rel=1e-12)
    np.testing.assert_allclose(jax.jacfwd(layers.entmax)(Y), J, atol=1e-14)


def test_the_ends_of_entmax(x64):
    np.testing.assert_allclose(layers.entmax(Y, 1.0), jax.nn.softmax(Y), rtol=1e-13)
    np.testing.assert_allclose(layers.entmax(Y, 2.0), layers.sparsemax(Y), atol=1e-14)
    columns = np.stack([Y, 2 * Y], 1)
    np.testing.assert_allclose(layers.entmax(columns, axis=0)[:, 0], layers.entmax(Y))


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_fenchel_young_loss(alpha, x64):
    q = np.array([0.1, 0.2, 0.3, 0.4])
    loss = lambda y: layers.fenchel_young_loss(y, q, alpha)
    gradient = jax.grad(loss)(Y)
    np.testing.assert_allclose(gradient, layers.entmax(Y, alpha) - q, atol=1e-13)
    np.testing.assert_allclose(loss(Y), fenchel_young(Y, q, regularizer=alpha))
    p = layers.entmax(Y, alpha)
    assert abs(layers.fenchel_young_loss(Y, p, alpha)) < 1e-15


def permutahedron_gap(y, r):
    """Greatest <y - r, x - r> over the orders x of 1, ..., n: 0 at the projection."""
    orders = itertools.permutations(range(1, len(y) + 1))
    return max((y - r) @ (np.array(x) - r) for x in orders)


@pytest.mark.parametrize("strength", [0.1, 0.5, 2.0, 50.0])
def test_soft_rank_is_a_projection(strength, x64):
    for seed in range(3):
        y = np.random.default_rng(seed).standard_normal(5)
        r = np.asarray(layers.soft_rank(y, strength))
        assert r.sum() == pytest.approx(15)
        assert permutahedron_gap(y / strength, r) < 1e-12


def test_soft_rank_is_exact_at_low_strength():
    y = np.random.default_rng(0).standard_normal(200)
    r = layers.soft_rank(jnp.asarray(y, jnp.float32), 1e-6)
    np.testing.assert_array_equal(r, scipy.stats.rankdata(y))
    ties = layers.soft_rank(jnp.array([1.0, 1.0, 0.0]), 1e-3)
    np.testing.assert_allclose(ties, [2.5, 2.5, 1])


@pytest.mark.slow
@pytest.mark.slow
def test_soft_rank_derivatives(x64):
    y = np.random.default_rng(1).standard_normal(6)
    f = lambda y: layers.soft_rank(y, 0.8)
    J = jax.jacrev(f)(y)
    np.testing.assert_allclose(J, jax.jacfwd(f)(y), atol=1e-14)
    step = 1e-6 * np.eye(6)
    expected = (jax.vmap(f)(y + step) - jax.vmap(f)(y - step)).T / 2e-6
    np.testing.assert_allclose(J, expected, atol=1e-8)
    assert jnp.isnan(f(y * np.nan)).all()


def one_hot(y):
    return jax.nn.one_hot(jnp.argmax(y), y.size, dtype=y.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [jax.jacfwd, jax.jacrev])
def test_gumbel_noise_gives_softmax_and_its_derivatives(mode, key, x64):
    y, sigma, samples = np.array([0.5, 0.0, -0.3]), 0.8, 400_000

    def p(y):
        return layers.perturbed_argmax(
            key, one_hot, y, sigma=sigma, samples=samples, noise="gumbel"
        )

    def exact(y):
        return jax.nn.softmax(y / sigma)

    np.testing.assert_allclose(p(y), exact(y), atol=0.004)
    np.testing.assert_allclose(mode(p)(y), jax.jacfwd(exact)(y), atol=0.015)
    second = mode(mode(p))(y)
    np.testing.assert_allclose(second, jax.hessian(exact)(y), atol=0.06)


def test_normal_noise_on_ranks(key, x64):
    # E argmax for two entries: the normal law of their difference.
    y = np.array([0.4, 0.0])

    def p(y):
        return layers.perturbed_argmax(key, one_hot, y, samples=200_000)[0]

    at = 0.4 / np.sqrt(2)
    assert p(y) == pytest.approx(scipy.stats.norm.cdf(at), abs=0.005)
    slope = scipy.stats.norm.pdf(at) / np.sqrt(2)
    np.testing.assert_allclose(jax.grad(p)(y), [slope, -slope], atol=0.01)


def test_scale_of_the_noise(key, x64):
    y = np.array([0.4, 0.0])

    def p(sigma):
        return layers.perturbed_argmax(key, one_hot, y, sigma=sigma, samples=200_000)[0]

    # E argmax = Phi(0.4 / (sqrt 2 sigma))
    at = 0.4 / np.sqrt(2)
    slope = jax.jit(jax.jacfwd(p))(1.0)
    assert slope == pytest.approx(-at * scipy.stats.norm.pdf(at), abs=0.01)
    assert jnp.isnan(jax.jit(p)(-1.0))


def by_optimiser(loss, gradient, start, **options):
    return scipy.optimize.minimize(
        loss,
        start,
        jac=gradient,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
        **options,
    ).x


def test_isotonic_optimisation(x64):
    y, w = np.random.default_rng(0).standard_normal((2, 6))
    rises = {
        "type": "ineq",
        "fun": np.diff,
        "jac": lambda v: np.diff(np.eye(6), axis=0),
    }
    losses = {
        "l2": (lambda v: ((v - y + w) ** 2).sum() / 2, lambda v: v - y + w),
        "kl": (
            lambda v: (np.exp(y - v) + np.exp(w) * v).sum(),
            lambda v: np.exp(w) - np.exp(y - v),
        ),
    }
    for name, (loss, gradient) in losses.items():
        v = layers.isotonic(y, w, regularizer=name)
        expected = by_optimiser(loss, gradient, np.zeros(6), constraints=[rises])
        np.testing.assert_allclose(v, expected, atol=1e-6)
        flipped = layers.isotonic(y[::-1], w[::-1], regularizer=name, falling=True)
        np.testing.assert_allclose(flipped, v[::-1], atol=1e-14)


def test_entropic_soft_rank(x64):
    y = np.random.default_rng(1).standard_normal(4)
    z = y / 0.7
    largest = {  # r is in the permutahedron: no subset is above the largest ranks
        "type": "ineq",
        "fun": lambda r: np.array(
            [
                sum(range(5 - k, 5)) - r[list(s)].sum()
                for k in (1, 2, 3)
                for s in itertools.combinations(range(4), k)
            ]
        ),
    }
    total = {"type": "eq", "fun": lambda r: r.sum() - 10}
    expected = by_optimiser(
        lambda r: (r * (np.log(r) - z) - r).sum(),
        lambda r: np.log(r) - z,
        np.full(4, 2.5),
        bounds=[(1e-3, 4)] * 4,
        constraints=[largest, total],
    )
    r = layers.soft_rank(y, 0.7, regularizer="kl")
    np.testing.assert_allclose(r, expected, atol=1e-5)
    exact = layers.soft_rank(y, 1e-3, regularizer="kl")
    np.testing.assert_allclose(exact, scipy.stats.rankdata(y), atol=1e-12)


def test_large_values_keep_their_ranks():
    y = jnp.array([1e6, 1e6 + 1, -1e6])
    for name in ("l2", "kl"):
        ranks = layers.soft_rank(y, 1e-2, regularizer=name)
        np.testing.assert_allclose(ranks, [2, 3, 1], atol=1e-5)
