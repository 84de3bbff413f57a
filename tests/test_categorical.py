"""Exact categorical divergences: values, zeros, derivatives, inequalities."""

import math

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdiv import divergence

mp.mp.dps = 40

# Independent definitions, sums over probabilities in 40 digits. `entr` is x log(x/y).
INF = mp.inf


def entr(x, y):
    return mp.mpf(0) if x == 0 else (INF if y == 0 else x * mp.log(x / y))


def quotient(x, y):
    return mp.mpf(0) if x == 0 else (INF if y == 0 else x / y)


def total(term):
    return lambda p, q, *a: mp.fsum(term(x, y, *a) for x, y in zip(p, q, strict=True))


def power(x, y, a):  # x^a y^(1 - a)
    if x == 0:
        return mp.mpf(0)
    if y == 0:
        return INF if a > 1 else (x if a == 1 else mp.mpf(0))
    return x**a * y ** (1 - a)


def mix(w, x, y):
    w = mp.mpf(w)  # else 1 - w rounds, and the weights do not sum to 1
    return w * x + (1 - w) * y


def alpha(p, q, a):
    a = mp.mpf(a)
    if a == 1:
        return total(entr)(p, q)
    if a == 0:
        return total(entr)(q, p)
    if a < 0:
        return alpha(q, p, 1 - a)
    return (total(power)(p, q, a) - 1) / (a * (a - 1))


def renyi(p, q, a):
    a = mp.mpf(a)
    if a == 1:
        return total(entr)(p, q)
    s = total(power)(p, q, a)
    return INF if s == 0 else mp.log(s) / (a - 1)


REFERENCE = {
    "kl": total(entr),
    "reverse_kl": total(lambda x, y: entr(y, x)),
    "jeffreys": total(lambda x, y: entr(x, y) + entr(y, x)),
    "js": total(lambda x, y: (entr(x, (x + y) / 2) + entr(y, (x + y) / 2)) / 2),
    "softened_rkl": total(lambda x, y: 2 * entr((x + y) / 2, x)),
    "squared_hellinger": total(lambda x, y: (mp.sqrt(x) - mp.sqrt(y)) ** 2 / 2),
    "total_variation": total(lambda x, y: abs(x - y) / 2),
    "pearson_chi2": total(lambda x, y: quotient((x - y) ** 2, y)),
    "neyman_chi2": total(lambda x, y: quotient((x - y) ** 2, x)),
    "le_cam": total(lambda x, y: quotient((x - y) ** 2, 2 * (x + y))),
    "vincze_le_cam": total(lambda x, y: quotient((x - y) ** 2, x + y)),
    "bhattacharyya": lambda p, q: renyi(p, q, mp.mpf(1) / 2) / 2,
}
WITH_PARAMETER = {
    "generalized_js": (
        lambda p, q, w: total(
            lambda x, y: (
                w * entr(x, mix(w, x, y)) + (1 - mp.mpf(w)) * entr(y, mix(w, x, y))
            )
        )(p, q),
        (0.1, 0.9),
    ),
    "skew_kl": (
        lambda p, q, w: total(lambda x, y: entr(x, mix(w, x, y)))(p, q),
        (0.1, 0.9),
    ),
    "skew_rkl": (
        lambda p, q, w: total(lambda x, y: entr(y, mix(w, y, x)))(p, q),
        (0.1, 0.9),
    ),
    "alpha": (alpha, (-1.0, 0.0, 0.3, 0.5, 1.0, 2.0, 3.0)),
    "renyi": (renyi, (0.3, 0.5, 1.0, 2.0, 3.0)),
    "chernoff": (lambda p, q, a: (1 - mp.mpf(a)) * renyi(p, q, a), (0.3, 0.5)),
    "tsallis": (lambda p, q, a: mp.mpf(a) * alpha(p, q, a), (0.3, 1.0, 2.0)),
}
CASES = [(name, reference, ()) for name, reference in REFERENCE.items()] + [
    (name, reference, (value,))
    for name, (reference, values) in WITH_PARAMETER.items()
    for value in values
]
each = pytest.mark.parametrize(
    ("name", "reference", "parameter"),
    CASES,
    ids=["-".join([name, *map(str, parameter)]) for name, _, parameter in CASES],
)
NAMED = [(name, parameter) for name, _, parameter in CASES]

P = np.array([0.5, 0.3, 0.15, 0.05])
U = np.full(4, 0.25)
A = np.array([0.6, 0.4, 0.0, 0.0])
B = np.array([0.3, 0.0, 0.7, 0.0])
NEAR = np.array([0.5 + 1e-6, 0.3 - 1e-6, 0.15, 0.05])
# rows of every pattern: interior, equal, near, zeros in p, in q, in both, disjoint
ROWS = [
    (P, U),
    (P, P),
    (P, NEAR),
    (A, U),
    (U, A),
    (A, B),
    (B, A),
    (A, A),
    (np.array([1.0, 0, 0, 0]), np.array([0, 0.5, 0.5, 0])),
    (np.array([1 - 1e-30, 1e-30, 0, 0]), np.array([1e-30, 1 - 1e-30, 0, 0])),
]


def logs(p):
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(p))


def exact_law(log_p):
    """The law that these logs, as they are rounded, stand for."""
    return [mp.mpf(0) if x == -math.inf else mp.exp(mp.mpf(float(x))) for x in log_p]


def normalised(p):
    return [x / mp.fsum(p) for x in p]


@each
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_values_against_high_precision(name, reference, parameter, dtype, x64):
    p, q = (jnp.stack([logs(row) for row in laws]) for laws in zip(*ROWS, strict=True))
    p, q = p.astype(dtype), q.astype(dtype)
    actual = getattr(divergence, name)(p, q, *parameter)
    assert actual.dtype == dtype
    tolerance = 1e-12 if dtype == jnp.float64 else 1e-5
    eps = float(jnp.finfo(dtype).eps)
    for i, value in enumerate(actual):
        exact = reference(exact_law(p[i]), exact_law(q[i]), *parameter)
        if exact > float(jnp.finfo(dtype).max):
            exact = INF
        # The rounded logs are off the simplex by eps, and on it there is no saying
        # what the divergence of such rows is to better than that.
        np.testing.assert_allclose(
            float(value), float(exact), rtol=tolerance, atol=8 * eps, err_msg=str(i)
        )
        assert value >= 0


@each
def test_near_laws_keep_their_digits(name, reference, parameter, x64):
    z = np.linspace(-2, 2, 16)
    x, y = z, z + 1e-5 * np.cos(np.arange(16.0))
    laws = [normalised([mp.exp(mp.mpf(v)) for v in row]) for row in (x, y)]
    expected = float(reference(*laws, *parameter))
    p, q = jax.nn.log_softmax(jnp.array(x)), jax.nn.log_softmax(jnp.array(y))
    value = getattr(divergence, name)(p, q, *parameter)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    assert getattr(divergence, name)(p, p, *parameter) == 0


@pytest.mark.parametrize("name", ["kl", "js", "squared_hellinger"])
def test_near_logits_keep_their_digits(name):
    z = np.linspace(-2, 2, 64)
    x = np.float32(z)
    y = np.float32(z + 1e-4 * np.cos(np.arange(64.0)))
    laws = [normalised([mp.exp(mp.mpf(float(v))) for v in row]) for row in (x, y)]
    expected = float(REFERENCE[name](*laws))
    value = divergence.from_logits(x, y, name)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_published_values(x64):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12)
    p, u, a, b = map(logs, (P, U, A, B))
    close(divergence.kl(p, u), 0.244174318131555)
    close(divergence.softened_rkl(p, u), 0.181038703898013)
    close(divergence.softened_rkl(u, p), 0.114014322318021)
    close(divergence.generalized_js(a, b, 0.1), 0.168617000082362)
    close(divergence.skew_kl(a, b, 0.1), 1.27973623765099)
    close(divergence.alpha(a, b, 0.3), 3.00312702855488)
    close(divergence.renyi(a, b, 0.5), 1.71479842809193)
    close(divergence.renyi(p, u, 3.0), 0.455739587438467)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 1000, 128_000])
def test_long_rows(size):
    rng = np.random.default_rng(size)
    x, y = (rng.normal(0, 2, (2, size)).astype(np.float32) for _ in range(2))
    p, q = (scipy.special.softmax(z.astype(np.float64), -1) for z in (x, y))
    m = (p + q) / 2
    expected = {
        "kl": scipy.special.rel_entr(p, q).sum(-1),
        "js": (scipy.special.rel_entr(p, m) + scipy.special.rel_entr(q, m)).sum(-1) / 2,
        "pearson_chi2": ((p - q) ** 2 / q).sum(-1),
        "tv": np.abs(p - q).sum(-1) / 2,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(
            divergence.from_logits(x, y, name), value, rtol=1e-5, err_msg=name
        )


@pytest.mark.parametrize(("name", "parameter"), NAMED)
def test_no_pair_of_logits_gives_nan(name, parameter):
    values = (-jnp.inf, -1e30, -200.0, 0.0, 1e-3, 90.0)
    rows = jnp.array([(a, b, 0.0) for a in values for b in values])
    p = jax.nn.log_softmax(rows)

    @jax.jit
    def every_pair(p, q):
        named = lambda p, q: getattr(divergence, name)(p, q, *parameter)
        return jax.vmap(lambda p: jax.vmap(lambda q: named(p, q))(q))(p)

    out = every_pair(p, p)
    assert not jnp.isnan(out).any()
    assert (out >= 0).all()
    assert (jnp.diagonal(out) == 0).all()


# Rows whose divergences are finite, with zeros where the name allows them.
IMPOSSIBLE = (np.array([1.0, 2.0, -np.inf]), np.array([0.0, 1.0, 3.0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [n for n in divergence.names() if n not in ("alpha", "gjs", "skew_kl", "skew_rkl")],
)
def test_gradients_at_impossible_categories(name, x64):
    for x, y in (IMPOSSIBLE, IMPOSSIBLE[::-1]):
        loss = lambda x, y: divergence.from_logits(x, y, name)
        value, (dx, dy) = jax.jit(jax.value_and_grad(loss, (0, 1)))(x, y)
        assert not jnp.isnan(value)
        if jnp.isinf(value):
            continue
        assert (dx[jnp.isneginf(x)] == 0).all()
        assert (dy[jnp.isneginf(y)] == 0).all()
        for i, (z, dz) in enumerate(((x, dx), (y, dy))):
            for k in range(3):
                if jnp.isneginf(z[k]):
                    continue
                step = jnp.zeros(3).at[k].set(1e-5)
                high, low = (
                    (x + s, y) if i == 0 else (x, y + s) for s in (step, -step)
                )
                difference = (loss(*high) - loss(*low)) / 2e-5
                np.testing.assert_allclose(dz[k], difference, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_gradients_of_the_power_family_at_zeros(x64):
    x, y = (jnp.where(z == -jnp.inf, -jnp.inf, z) for z in IMPOSSIBLE)
    for name, a in (("alpha", 0.3), ("renyi", 0.3), ("renyi", 2.0), ("tsallis", 0.5)):
        loss = lambda x, y, name=name, a=a: getattr(divergence, name)(
            jax.nn.log_softmax(x), jax.nn.log_softmax(y), a
        )
        dx, dy = jax.jit(jax.grad(loss, (0, 1)))(x, y)
        assert jnp.isfinite(dx).all()
        assert jnp.isfinite(dy).all()
        assert dx[2] == 0


CURVATURE = {
    "kl": 1.0, "reverse_kl": 1.0, "jeffreys": 2.0, "js": 0.25, "softened_rkl": 0.5,
    "squared_hellinger": 0.25, "pearson_chi2": 2.0, "neyman_chi2": 2.0, "le_cam": 0.5,
    "vincze_le_cam": 1.0,
}  # fmt: skip


@pytest.mark.slow
def test_hessian_where_the_laws_meet(x64):
    z = jnp.array([0.3, -1.0, 0.5])
    p = jax.nn.softmax(z)
    fisher = jnp.diag(p) - jnp.outer(p, p)

    def both(x):
        named = [divergence.from_logits(x, z, name) for name in CURVATURE]
        log_p, log_q = jax.nn.log_softmax(x), jax.nn.log_softmax(z)
        powers = [divergence.alpha(log_p, log_q, a) for a in (-1.0, 0.0, 0.5, 1.0, 2.0)]
        orders = [divergence.renyi(log_p, log_q, a) for a in (0.5, 1.0, 2.0)]
        best = divergence.chernoff_information(log_p, log_q)
        return jnp.stack([*named, *powers, *orders, best])

    expected = jnp.array([*CURVATURE.values(), *[1.0] * 5, 0.5, 1.0, 2.0, 0.25])
    hessians = jax.jacfwd(jax.jacrev(both))(z)  # not jitted: compiling takes longer
    np.testing.assert_allclose(hessians, expected[:, None, None] * fisher, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alpha", "renyi", "chernoff", "tsallis"])
def test_continuous_in_the_order(name, x64):
    p, q = logs(P), logs(U)
    laws = normalised(exact_law(p)), normalised(exact_law(q))
    named = jax.jit(lambda a: getattr(divergence, name)(p, q, a))
    slope, bend = jax.jit(jax.grad(named)), jax.jit(jax.grad(jax.grad(named)))
    orders = (0.0, 1e-7, 0.3, 0.5, 1 - 1e-7, 1.0, 1 + 1e-9, 1.5, 4.0)
    for a in orders:
        if name == "alpha" or a > 0:
            h = 1e-4
            high, low = named(a + h), named(max(a - h, 0) if name != "alpha" else a - h)
            if a >= h or name == "alpha":
                np.testing.assert_allclose(slope(a), (high - low) / (2 * h), rtol=1e-6)
                second = (slope(a + h) - slope(a - h)) / (2 * h)
                np.testing.assert_allclose(bend(a), second, rtol=1e-5)
        assert jnp.isfinite(slope(a))
        reference = WITH_PARAMETER[name][0](*laws, a)
        np.testing.assert_allclose(named(a), float(reference), rtol=1e-9, atol=1e-15)


def test_extreme_orders(x64):
    a, b, p, u = logs(A), logs(B), logs(P), logs(U)
    np.testing.assert_allclose(divergence.renyi(a, b, 0.0), -math.log(0.3))
    np.testing.assert_allclose(divergence.renyi(p, u, jnp.inf), math.log(2))
    assert divergence.renyi(a, b, jnp.inf) == jnp.inf
    np.testing.assert_allclose(divergence.tsallis(a, b, 0.0), 0.7)
    np.testing.assert_allclose(divergence.renyi(p, u, 500.0), math.log(2), rtol=3e-3)
    for named in (divergence.renyi, divergence.tsallis, divergence.chernoff):
        assert jnp.isnan(jax.jit(named)(p, u, -0.5))


@pytest.mark.slow
def test_chernoff_information(x64):
    rng = np.random.default_rng(0)
    orders = np.linspace(0, 1, 2001)
    for _ in range(3):
        p, q = rng.dirichlet(np.ones(6), 2)
        brute = -np.log(np.sum(p ** orders[:, None] * q ** (1 - orders[:, None]), 1))
        best = divergence.chernoff_information(logs(p), logs(q))
        np.testing.assert_allclose(best, brute.max(), rtol=1e-6)
    one, half = logs(np.array([1.0, 0])), logs(np.array([0.5, 0.5]))
    np.testing.assert_allclose(divergence.chernoff_information(one, half), math.log(2))
    np.testing.assert_allclose(divergence.chernoff_information(half, one), math.log(2))
    assert divergence.chernoff_information(one, one[::-1]) == jnp.inf


def laws_of(draws):
    x, y, z = (jax.nn.log_softmax(jnp.array(v, jnp.float32)) for v in np.array(draws).T)
    return x, y, z


triples = st.lists(st.tuples(*3 * [st.floats(-30, 30)]), min_size=4, max_size=4)


@jax.jit
def summary(p, q):
    values = {name: getattr(divergence, name)(p, q) for name in REFERENCE}
    return values | {"alpha": divergence.alpha(p, q, 0.3)}


@settings(deadline=None, max_examples=50)
@given(triples)
def test_inequalities(draws):
    p, q, _ = laws_of(draws)
    d = {name: float(value) for name, value in summary(p, q).items()}
    slack = 1e-5
    below = lambda a, b: a <= b * (1 + slack) + 1e-6
    assert below(d["js"], math.log(2))
    assert below(d["squared_hellinger"], d["total_variation"])
    assert below(d["total_variation"], math.sqrt(2 * d["squared_hellinger"]))
    assert below(d["total_variation"] ** 2, d["kl"] / 2)
    assert below(d["total_variation"], math.sqrt(-math.expm1(-d["kl"])))
    assert below(d["le_cam"] / 2, d["squared_hellinger"])
    assert below(d["squared_hellinger"], d["le_cam"])
    assert below(-math.log1p(-min(d["squared_hellinger"], 1 - 1e-7)), d["kl"])
    assert min(d.values()) >= 0
    swapped = summary(q, p)
    for name in ("jeffreys", "js", "total_variation", "squared_hellinger", "le_cam"):
        assert d[name] == pytest.approx(float(swapped[name]), rel=1e-4, abs=1e-6)
    for value in summary(p, p).values():
        assert value == 0


@settings(deadline=None, max_examples=25)
@given(triples, st.integers(0, 2**31), st.floats(0, 1))
def test_data_processing_and_joint_convexity(draws, seed, share):
    p, q, r = laws_of(draws)
    before = summary(p, q)
    channel = np.random.default_rng(seed).dirichlet(np.full(4, 0.3), 4).T
    through = lambda z: jnp.log(jnp.asarray(channel, jnp.float32) @ jnp.exp(z))
    after = summary(through(p), through(q))
    mixed = lambda x, y: jnp.log(share * jnp.exp(x) + (1 - share) * jnp.exp(y))
    between = summary(mixed(p, q), mixed(q, r))
    other = summary(q, r)
    for name, value in before.items():
        assert after[name] <= value * (1 + 1e-4) + 1e-5, name
        if name != "bhattacharyya":
            bound = share * value + (1 - share) * other[name]
            assert between[name] <= bound * (1 + 1e-4) + 1e-5 or share in (0, 1), name


@pytest.mark.slow
def test_axis_mask_batch_and_low_precision():
    x, y = jnp.log(jnp.array([P, U])), jnp.log(jnp.array([U, P]))
    padded = jnp.pad(x, ((0, 0), (0, 2))), jnp.pad(y, ((0, 0), (0, 2)))
    for name, parameter in NAMED:
        named = getattr(divergence, name)
        expected = named(x, y, *parameter)
        down = named(x.T, y.T, *parameter, axis=0)
        np.testing.assert_allclose(down, expected, rtol=1e-6, err_msg=name)
        masked = named(*padded, *parameter, where=jnp.arange(6) < 4)
        np.testing.assert_allclose(masked, expected, rtol=1e-6, err_msg=name)
    assert divergence.js(x[:, None], y[None]).shape == (2, 2)
    np.testing.assert_allclose(
        divergence.from_logits(*padded, "js", where=jnp.arange(6) < 4),
        divergence.js(x, y),
        rtol=1e-6,
    )
    low = divergence.kl(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16))
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, divergence.kl(x, y), rtol=0.05)


def test_temperature_and_empty_rows():
    x, y = jnp.array([1.0, 2.0, 0.0]), jnp.array([0.0, 1.0, 3.0])
    np.testing.assert_allclose(
        divergence.from_logits(x, y, "kl", temperature=2.0),
        divergence.from_logits(x / 2, y / 2, "kl"),
    )
    nothing = jnp.full(3, -jnp.inf)
    assert jnp.isnan(divergence.from_logits(nothing, y, "js"))


def test_records_of_your_own(x64):
    kl = divergence.get("kl")._replace(name="mine", terms=None)
    p, q = logs(P), logs(U)
    np.testing.assert_allclose(
        divergence.f_divergence(p, q, kl), divergence.kl(p, q), rtol=1e-12
    )
    mixed = divergence.mixture([kl, "js"], [0.5, 2.0])
    np.testing.assert_allclose(
        divergence.f_divergence(logs(A), logs(U), mixed),
        divergence.kl(logs(A), logs(U)) / 2 + 2 * divergence.js(logs(A), logs(U)),
        rtol=1e-12,
    )
