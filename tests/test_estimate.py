import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial

from jaxdiv import divergence

FIXED = [
    name
    for name in divergence.names()
    if name not in ("alpha", "gjs", "skew_kl", "skew_rkl")
]
RECORDS = [divergence.get(name) for name in FIXED] + [
    divergence.get("alpha", a=0.3),
    divergence.get("gjs", w=0.2),
    divergence.get("skew_kl", w=0.1),
    divergence.get("skew_rkl", w=0.1),
]
each = pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)

X = np.array([0.3, -1.0, 0.8, 0.1])  # logits of q
Y = np.array([0.0, 0.5, -0.7, 0.4])  # logits of p


def laws(x, y):
    return jax.nn.log_softmax(y), jax.nn.log_softmax(x)


@each
def test_mean_over_a_law_is_exact(record, x64):
    log_p, log_q = laws(X, Y)
    exact = divergence.f_divergence(log_p, log_q, record)
    ratio, law = log_p - log_q, jnp.exp(log_q)
    for kind in ("kf", "k1", "k3"):
        terms = divergence.mc_estimate(ratio, record, kind=kind)
        np.testing.assert_allclose(law @ terms, exact, rtol=1e-12)
        if kind != "k1":
            assert (terms >= 0).all()
    # samples of p, with the dual; samples of a third law, with weights
    from_p = divergence.mc_estimate(-ratio, divergence.dual(record))
    np.testing.assert_allclose(jnp.exp(log_p) @ from_p, exact, rtol=1e-12)
    weighted = divergence.mc_estimate(ratio, record, log_weight=log_q - math.log(0.25))
    np.testing.assert_allclose(weighted.mean(), exact, rtol=1e-12)


@pytest.mark.slow
@each
def test_gradients_in_the_mean(record, x64):
    law = jnp.exp(jax.nn.log_softmax(X))
    exact = lambda x, y: divergence.f_divergence(*laws(x, y), record)

    def mean(kind, surrogate, x, y, on_policy=False):
        log_p, log_q = laws(x, y)
        weight = log_q - jax.lax.stop_gradient(log_q) if on_policy else None
        terms = divergence.mc_estimate(
            log_p - log_q, record, kind=kind, surrogate=surrogate, log_weight=weight
        )
        return law @ terms

    @jax.jit
    def gradients(x, y):
        plain, score = {}, {}
        for kind in ("kf", "k1"):
            in_p = jax.grad(mean, 3)(kind, None, x, y)  # a learner of p
            both = jax.grad(mean, (2, 3))(kind, None, x, y, on_policy=True)
            plain[kind] = in_p, both
        for kind in ("kf", "k1") if record.name == "tv" else ("kf", "k1", "k2"):
            score[kind] = jax.value_and_grad(mean, 2)(kind, "score", x, y)
        values = {kind: mean(kind, None, x, y) for kind in score}
        return jax.grad(exact, (0, 1))(x, y), plain, score, values

    (in_q, in_p), plain, score, values = gradients(X, Y)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-14)
    for alone, both in plain.values():
        close(alone, in_p)
        close(both[0], in_q)
        close(both[1], in_p)
    for kind, (value, grad) in score.items():
        close(grad, in_q)
        close(value, values[kind])


def test_schulman(x64):
    log_p, log_q = laws(X, Y)
    d, law = log_p - log_q, jnp.exp(log_q)

    def plain(kind):
        return jax.grad(
            lambda x: (
                law
                @ divergence.mc_estimate(
                    log_p - jax.nn.log_softmax(x), "reverse_kl", kind=kind
                )
            )
        )(X)

    wanted = jax.grad(lambda x: divergence.kl(jax.nn.log_softmax(x), log_p))(X)
    other = jax.grad(lambda x: divergence.kl(log_p, jax.nn.log_softmax(x)))(X)
    np.testing.assert_allclose(plain("k2"), wanted, atol=1e-14)
    np.testing.assert_allclose(plain("k3"), other, atol=1e-14)
    np.testing.assert_allclose(plain("k1"), 0, atol=1e-14)
    k3 = divergence.mc_estimate(jnp.array([1e-9]), "reverse_kl", kind="k3")
    np.testing.assert_allclose(k3, 5e-19, rtol=1e-8)
    np.testing.assert_allclose(
        divergence.mc_estimate(d, "reverse_kl", kind="k2"), d**2 / 2
    )


@each
def test_a_million_samples(record):
    # p = N(0.3, 1), q = N(0, 1); the exact value by quadrature on a grid
    grid = np.linspace(-12, 12, 200_001)
    width = grid[1] - grid[0]
    log_p = -((grid - 0.3) ** 2) / 2 - math.log(2 * math.pi) / 2 + math.log(width)
    log_q = -(grid**2) / 2 - math.log(2 * math.pi) / 2 + math.log(width)
    with jax.enable_x64(True):
        exact = divergence.f_divergence(log_p, log_q, record)
    x = jax.random.normal(jax.random.key(0), (1_000_000,))
    terms = divergence.mc_estimate(0.3 * x - 0.045, record)
    error = abs(terms.mean() - float(exact))
    assert error < 4 * terms.std() / 1e3


def test_k3_varies_less_than_k1():
    x = jax.random.normal(jax.random.key(1), (100_000,))
    for shift in (0.01, 0.1, 0.5):
        d = shift * x - shift**2 / 2
        k1, k3 = (
            divergence.mc_estimate(d, "reverse_kl", kind=kind) for kind in ("k1", "k3")
        )
        assert k3.var() < k1.var()


@pytest.mark.slow
def test_infinities_clip_and_self_normalisation():
    ratio = jnp.array([-jnp.inf, 0.0, 30.0, jnp.nan])
    for record in RECORDS:
        terms = divergence.mc_estimate(ratio, record)
        slope = record.f_prime(0.0)
        np.testing.assert_allclose(terms[0], record.f_at_zero + slope, rtol=1e-6)
        assert terms[1] == 0
        assert jnp.isnan(terms[3])
        grad = jax.grad(lambda d, r=record: divergence.mc_estimate(d, r)[1:3].sum())
        assert jnp.isfinite(grad(ratio)[:3]).all()
    clipped = divergence.mc_estimate(ratio, "reverse_kl", kind="k3", clip=10.0)
    np.testing.assert_allclose(clipped[2], math.exp(10) - 11, rtol=1e-6)
    weights = jnp.array([[0.0, 1.0], [2.0, -1.0]])
    d = jnp.array([[0.1, 0.2], [0.3, -0.4]])
    value = divergence.mc_estimate(d, "js", log_weight=weights, self_normalize_axis=0)
    share = jax.nn.softmax(weights, 0) * 2
    np.testing.assert_allclose(
        value, share * divergence.mc_estimate(d, "js"), rtol=1e-5
    )


def test_sequence_kl_is_rao_blackwellised_k1(x64):
    # Two steps over three tokens; the second step depends on the first token.
    rng = np.random.default_rng(0)
    first = rng.normal(size=(2, 3))
    second = rng.normal(size=(2, 3, 3))
    log_first = jax.nn.log_softmax(first)
    log_second = jax.nn.log_softmax(second)
    joint = np.asarray(log_first[:, :, None] + log_second)  # (law, token 1, token 2)
    exact = divergence.kl(joint[0].ravel(), joint[1].ravel())
    k1, blackwell, law = [], [], []
    for a, b in itertools.product(range(3), range(3)):
        logits = [jnp.stack([first[i], second[i, a]]) for i in (0, 1)]
        blackwell.append(float(divergence.sequence_kl(*logits)))
        k1.append(joint[0, a, b] - joint[1, a, b])
        law.append(math.exp(joint[0, a, b]))
    k1, blackwell, law = map(np.array, (k1, blackwell, law))
    np.testing.assert_allclose(law @ k1, exact, rtol=1e-12)
    np.testing.assert_allclose(law @ blackwell, exact, rtol=1e-12)
    variance = lambda z: law @ (z - exact) ** 2
    assert variance(blackwell) <= variance(k1)


@pytest.mark.slow
def test_sequence_kl_ignores_padding():
    logits = jax.random.normal(jax.random.key(0), (2, 2, 3, 5))
    mask = jnp.array([[True, True, False], [True, False, False]])
    junk = jnp.where(mask[..., None], logits, jnp.nan)
    value, grad = jax.value_and_grad(
        lambda p: divergence.sequence_kl(p, junk[1], mask).sum()
    )(junk[0])
    parts = divergence.from_logits(*logits, "kl")
    np.testing.assert_allclose(value, jnp.where(mask, parts, 0).sum(), rtol=1e-6)
    assert jnp.isfinite(grad).all()


@pytest.mark.slow
@each
def test_variational_bounds_are_tight(record, x64):
    log_p, log_q = laws(X, Y)
    p, q, ratio = jnp.exp(log_p), jnp.exp(log_q), log_p - log_q
    exact = divergence.f_divergence(log_p, log_q, record)

    @functools.partial(jax.jit, static_argnums=2)
    def under(tp, tq, critic):  # expectations as means of one sample each
        bound = lambda tp, tq: divergence.nwj(tp[None], tq[None], record, critic=critic)
        every = jax.vmap(jax.vmap(bound, (None, 0)), (0, None))(tp, tq)
        return p @ every @ q

    np.testing.assert_allclose(under(ratio, ratio, "log_ratio"), exact, atol=1e-12)
    assert under(ratio + 0.3, ratio + 0.3, "log_ratio") < exact + 1e-12
    if record.conjugate is not None:
        t = record.f_prime(ratio)
        np.testing.assert_allclose(under(t, t, "dual"), exact, atol=1e-12)
    far = jnp.full(4, 500.0)
    assert not jnp.isnan(under(far, -far, "log_ratio"))


def test_donsker_varadhan(x64):
    rng = np.random.default_rng(1)
    x = rng.normal(0.5, 1, 20_000)
    y = rng.normal(0, 1, 20_000)
    t = lambda z: 0.5 * z - 0.125 + 3  # log p/q and a constant
    bound = divergence.donsker_varadhan(t(x), t(y))
    np.testing.assert_allclose(bound, 0.125, atol=0.02)
    assert bound >= divergence.nwj(t(x) + 1, t(y) + 1, "kl") - 1e-12
    tq = jnp.array([0.3, -0.4])
    value = lambda tq, running=None: divergence.donsker_varadhan(
        jnp.zeros(3), tq, log_normalizer=running
    )
    assert value(tq, 0.7) == value(tq)
    np.testing.assert_allclose(jax.grad(value)(tq, 0.7), -jnp.exp(tq - 0.7) / 2)


@pytest.mark.slow
def test_knn_kl_against_a_tree(x64):
    rng = np.random.default_rng(2)
    x, y = 100 + rng.normal(size=(300, 3)), 100.5 + rng.normal(size=(400, 3))
    for k in (1, 4):
        rho = scipy.spatial.KDTree(x).query(x, k + 1)[0][:, k]
        nu = scipy.spatial.KDTree(y).query(x, [k])[0][:, 0]
        expected = 3 * np.mean(np.log(nu / rho)) + math.log(400 / 299)
        value = divergence.knn_kl(x, y, k=k, chunk=64)
        np.testing.assert_allclose(value, expected, rtol=1e-10)


@pytest.mark.slow
def test_knn_kl_finds_the_gaussian_value():
    x, y = jax.random.normal(jax.random.key(0), (2, 3000, 2))
    value = divergence.knn_kl(x, 1.5 * y + 0.5, k=5)
    exact = 0.5 * (2 / 2.25 + 0.5 / 2.25 - 2 + 2 * math.log(2.25))
    assert abs(value - exact) < 0.1
    twice = jnp.concatenate([x[:50], x[:50]])
    assert jax.jit(divergence.knn_kl)(twice, y) == jnp.inf
