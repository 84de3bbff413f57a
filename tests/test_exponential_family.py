from functools import cache, partial

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdiv.divergence import _exponential_family as ef
from tests import helpers
from tests import test_von_mises_fisher as sphere
from tests.cases_exponential_family import CASES

CHECKED = (0.3, 0.5, 0.999999, 1.0, 2.0)  # against the densities
ORDERS = (0.0, 0.3, 0.5, 0.999999, 1.2, 2.0, 1 - 1e-7, 1.0, 1 + 1e-7)
P, Q = np.array([0.2, 0.5, 0.3]), np.array([0.4, 0.1, 0.5])
# name: ordinary parameters of both laws, and the law of scipy.
LAWS = {
    "bernoulli": ((0.3,), (0.6,), scipy.stats.bernoulli),
    "beta": ((2.0, 3.0), (1.5, 1.5), scipy.stats.beta),
    "categorical": (
        (P,),
        (Q,),
        lambda p: scipy.stats.rv_discrete(values=(range(3), p)),
    ),
    "dirichlet": (
        (np.array([2.0, 3.0]),),
        (np.array([2.5, 1.5]),),
        lambda alpha: scipy.stats.beta(*alpha),
    ),
    "exponential": ((2.0,), (1.5,), lambda rate: scipy.stats.expon(scale=1 / rate)),
    "gamma": (
        (2.0, 3.0),
        (3.0, 2.5),
        lambda a, b: scipy.stats.gamma(a, scale=1 / b),
    ),
    "gaussian": (
        (np.array([0.3]), np.array([[0.9]])),
        (np.array([-0.2]), np.array([[1.6]])),
        lambda mean, cov: scipy.stats.norm(mean[0], np.sqrt(cov[0, 0])),
    ),
    "geometric": ((0.3,), (0.2,), lambda p: scipy.stats.geom(p, loc=-1)),
    "inverse_gamma": (
        (2.0, 3.0),
        (3.0, 2.5),
        lambda a, b: scipy.stats.invgamma(a, scale=b),
    ),
    "laplace": ((0.4, 1.0), (-0.2, 1.3), scipy.stats.laplace),
    "poisson": ((4.0,), (2.5,), scipy.stats.poisson),
}
NATURAL = {
    "bernoulli": 0.4,
    "beta": np.array([0.7, 2.3]),
    "dirichlet": np.array([0.7, -0.4]),
    "exponential": -1.3,
    "gamma": np.array([1.7, -2.3]),
    "geometric": -0.7,
    "inverse_gamma": np.array([-3.7, -2.3]),
    "poisson": 1.2,
}
FACTORS = (1.0, 1 - 1e-9, 1 + 1e-7, 1 - 1e-4, 1 + 1e-2, 0.8, 3.0)
DISCRETE = {"bernoulli": 2, "categorical": 3, "geometric": 400, "poisson": 100}


def test_every_family_is_here():
    assert set(LAWS) <= set(ef.families())


def by_density(name, a):
    """Renyi divergence by quadrature or summation of the densities."""
    first, second, law = LAWS[name]
    p, q = law(*first), law(*second)
    if name in DISCRETE:
        x = np.arange(DISCRETE[name])
        log_p, log_q = p.logpmf(x), q.logpmf(x)
        if a == 1:
            return np.sum(np.exp(log_p) * (log_p - log_q))
        missing = np.sum(np.exp(log_p) * np.expm1((a - 1) * (log_p - log_q)))
        return np.log1p(missing) / (a - 1)

    def integrand(x):
        log_p, log_q = p.logpdf(x), q.logpdf(x)
        if log_p < -600 or log_q < -600:
            return 0.0
        ratio = log_p - log_q
        return np.exp(log_p) * (ratio if a == 1 else np.expm1((a - 1) * ratio))

    low, high = p.support()
    cuts = [low, *p.ppf([0.001, 0.3, 0.7, 0.999]), high]
    if name == "laplace":  # its kinks
        cuts = [-np.inf, -0.2, 0.4, np.inf]
    total = sum(
        scipy.integrate.quad(integrand, x, y, epsabs=1e-14, epsrel=1e-12, limit=200)[0]
        for x, y in zip(cuts, cuts[1:], strict=False)
    )
    return total if a == 1 else np.log1p(total) / (a - 1)


@partial(jax.jit, static_argnums=0)
def values(name, t1, t2, orders):
    renyi = jax.vmap(lambda a: ef.expfam_renyi(name, t1, t2, a))(jnp.asarray(orders))
    return ef.expfam_kl(name, t1, t2), renyi


@cache
def table(name):
    """Both divergences of a family, of several pairs: the law's own, equal, near, far.

    One compilation serves all tests of a family.
    """
    first, second, _ = LAWS[name]
    t1, t2 = (ef.family(name).natural(*law) for law in (first, second))
    if name not in NATURAL:
        t1, t2 = (
            jax.tree.map(lambda *x: jnp.stack(x), *t) for t in ((t1, t1), (t2, t1))
        )
    else:
        near = np.asarray(NATURAL[name])
        bump = np.linspace(1.0, 0.6, near.size).reshape(near.shape)
        t1, t2 = (jnp.stack(t, -1) if isinstance(t, tuple) else t for t in (t1, t2))
        moved = [near * (1 + (factor - 1) * bump) for factor in FACTORS]
        t1 = jnp.stack([t1, *[near] * len(FACTORS)])
        t2 = jnp.stack([t2, *moved])
    return t1, t2, *values(name, t1, t2, np.array(ORDERS))


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_kl_and_renyi_against_the_densities(x64, name):
    _, _, kl, renyi = table(name)
    expected = [by_density(name, a) for a in CHECKED]
    found = [renyi[ORDERS.index(a), 0] for a in CHECKED]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    low, at, high = renyi[-3:]
    np.testing.assert_allclose(kl, at, rtol=1e-12)
    np.testing.assert_allclose((low + high) / 2, at, rtol=1e-12, atol=1e-26)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_equal_laws_and_order_zero_give_zero(x64, name):
    _, _, kl, renyi = table(name)
    assert kl[1] == 0
    assert (renyi[:, 1] == 0).all()
    assert (renyi[0] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gamma", "gaussian", "laplace"])
def test_the_derivative_in_the_order_is_continuous(x64, name):
    first, second, _ = LAWS[name]
    family = ef.family(name)
    t1, t2 = family.natural(*first), family.natural(*second)
    slope = jax.jit(jax.vmap(jax.grad(lambda a: ef.expfam_renyi(name, t1, t2, a))))
    orders = np.array([1 - 1e-5, 1 - 1e-9, 1.0, 1 + 1e-9, 1 + 1e-5])
    found = slope(jnp.asarray(orders))
    step = 1e-3  # by central differences of the densities
    expected = (by_density(name, 1 + step) - by_density(name, 1 - step)) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    np.testing.assert_allclose(found[1], found[3], rtol=1e-8)


def mp_log_partition(name):
    log_gamma = mp.loggamma
    return {
        "bernoulli": lambda t: mp.log1p(mp.exp(t)),
        "beta": lambda t: (
            log_gamma(t[0] + 1) + log_gamma(t[1] + 1) - log_gamma(t[0] + t[1] + 2)
        ),
        "dirichlet": lambda t: (
            sum(log_gamma(x + 1) for x in t) - log_gamma(sum(x + 1 for x in t))
        ),
        "exponential": lambda t: -mp.log(-t),
        "gamma": lambda t: log_gamma(t[0] + 1) - (t[0] + 1) * mp.log(-t[1]),
        "geometric": lambda t: -mp.log(1 - mp.exp(t)),
        "inverse_gamma": lambda t: log_gamma(-t[0] - 1) + (t[0] + 1) * mp.log(-t[1]),
        "poisson": mp.exp,
    }[name]


def mp_renyi(name, t1, t2, a):
    """The definition in 60 digits, from the same floating parameters."""
    with mp.workdps(60):
        A = mp_log_partition(name)
        t1, t2 = (
            [mp.mpf(float(x)) for x in np.ravel(t)]
            if np.size(t) > 1
            else mp.mpf(float(t))
            for t in (t1, t2)
        )

        def along(s):
            if isinstance(t1, list):
                return A([(1 - s) * x + s * y for x, y in zip(t1, t2, strict=True)])
            return A((1 - s) * t1 + s * t2)

        g0, g1 = along(mp.mpf(0)), along(mp.mpf(1))
        e = 1 - mp.mpf(float(a))
        slope = (
            mp.diff(along, 0, h=mp.mpf(10) ** -20) if e == 0 else (along(e) - g0) / e
        )
        return float(g1 - g0 - slope)


@pytest.mark.slow
@pytest.mark.parametrize("name", NATURAL)
def test_near_and_far_parameters_keep_their_digits(x64, name):
    t1, t2, kl, renyi = table(name)
    for order in (0.3, 0.999999, 1.0, 1.2):
        expected = [mp_renyi(name, x, y, order) for x, y in zip(t1, t2, strict=True)]
        found = renyi[ORDERS.index(order)]
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        assert (found >= 0).all()
        if order == 1:
            np.testing.assert_allclose(kl, expected, rtol=1e-9)


def mp_gaussian(t1, t2, a):
    with mp.workdps(60):
        S, m = [], []
        for shift, half in (t1, t2):
            S.append(mp.inverse(mp.matrix((-2 * np.asarray(half)).tolist())))
            m.append(S[-1] * mp.matrix(np.asarray(shift).tolist()))
        gap, d, a = m[0] - m[1], len(m[0]), mp.mpf(a)
        log_det = [mp.log(mp.det(s)) for s in S]
        if a == 1:
            inverse = mp.inverse(S[1])
            trace = sum((inverse * S[0])[i, i] for i in range(d))
            maha = (gap.T * inverse * gap)[0]
            return float((trace - d + maha + log_det[1] - log_det[0]) / 2)
        mixed = a * S[1] + (1 - a) * S[0]
        spread = mp.log(mp.det(mixed)) - (1 - a) * log_det[0] - a * log_det[1]
        return float(
            a * (gap.T * mp.inverse(mixed) * gap)[0] / 2 - spread / (a - 1) / 2
        )


def random_gaussians(d, seed):
    rng = np.random.default_rng(seed)
    covariances = [x @ x.T / d + np.eye(d) / 2 for x in rng.normal(size=(2, d, d))]
    return list(zip(rng.normal(size=(2, d)), covariances, strict=True))


@pytest.mark.parametrize("distance", [1e-8, 1e-5, 1e-3, 1e-2, 0.1, 1.0])
def test_gaussians_near_and_far(x64, distance):
    gaussian = ef.family("gaussian")
    t1, other = (gaussian.natural(*law) for law in random_gaussians(3, 0))
    t2 = jax.tree.map(lambda x, y: x + distance * (y - x), t1, other)
    t1, t2 = ((shift, (half + half.T) / 2) for shift, half in (t1, t2))
    orders = (0.3, 0.999999, 1.0, 1.4)
    kl, renyi = values("gaussian", t1, t2, orders)
    expected = [mp_gaussian(t1, t2, a) for a in orders]
    np.testing.assert_allclose(renyi, expected, rtol=1e-9)
    np.testing.assert_allclose(kl, expected[2], rtol=1e-9)


@pytest.mark.slow
def test_independent_gaussians_add_up(x64):
    gaussian = ef.family("gaussian")
    laws = random_gaussians(2, 1), random_gaussians(1, 2)

    def joined(i):
        mean = np.concatenate([law[i][0] for law in laws])
        covariance = np.zeros((3, 3))
        covariance[:2, :2], covariance[2:, 2:] = laws[0][i][1], laws[1][i][1]
        return gaussian.natural(mean, covariance)

    orders = (0.3, 1.0, 1.5)
    whole = values("gaussian", joined(0), joined(1), orders)[1]
    parts = [
        values("gaussian", *(gaussian.natural(*law) for law in pair), orders)[1]
        for pair in laws
    ]
    np.testing.assert_allclose(whole, parts[0] + parts[1], rtol=1e-12)


def mp_laplace(t1, t2, a):
    """The definition, by the closed integral of each piece, in 60 digits."""
    with mp.workdps(60):
        (x1, b1), (x2, b2) = ([mp.mpf(float(x)) for x in t] for t in (t1, t2))
        u = abs(x1 - x2)
        if a == 1:
            return float(mp.log(b2 / b1) + u / b2 + b1 / b2 * mp.exp(-u / b1) - 1)
        a = mp.mpf(float(a))
        p, q = a / b1, (1 - a) / b2
        middle = u * mp.exp(-p * u)
        if p != q:
            middle = (mp.exp(-q * u) - mp.exp(-p * u)) / (p - q)
        total = (mp.exp(-q * u) + mp.exp(-p * u)) / (p + q) + middle
        return float(mp.log(total / (2 * b1) ** a / (2 * b2) ** (1 - a)) / (a - 1))


def test_laplace_against_its_integral_in_many_digits(x64):
    pairs = [
        ((0.3, 1.1), (0.3 + u, 1.1 * r))
        for u in (0.0, 1e-9, 1e-5, -1e-3, 0.05, 0.12, 1.0, -20.0, 800.0)
        for r in (1.0, 1 + 1e-9, 1 - 1e-4, 1.03, 0.8, 7.0, 1e4)
    ]
    t1, t2 = (jnp.array(t) for t in zip(*pairs, strict=True))
    orders = (0.01, 0.5, 0.9, 0.999999, 1.0, 1.00001, 1.1)
    kl, renyi = values("laplace", t1, t2, orders)
    expected = np.array([[mp_laplace(*pair, a) for pair in pairs] for a in orders])
    np.testing.assert_allclose(renyi, expected, rtol=1e-9, atol=1e-30)
    np.testing.assert_allclose(kl, expected[4], rtol=1e-9, atol=1e-30)


def test_other_forms_of_the_order_one_half(x64):
    t1, t2 = jnp.array([0.5, -1.5]), jnp.array([1.5, -0.8])
    affinity = np.exp(-by_chernoff(t1, t2, 0.5))
    distance = ef.expfam_bhattacharyya("gamma", t1, t2)
    np.testing.assert_allclose(distance, -np.log(affinity), rtol=1e-12)
    np.testing.assert_allclose(
        ef.expfam_squared_hellinger("gamma", t1, t2), 1 - affinity, rtol=1e-12
    )
    for a in (0.2, 0.9):
        np.testing.assert_allclose(
            ef.expfam_chernoff("gamma", t1, t2, a), by_chernoff(t1, t2, a), rtol=1e-12
        )


def by_chernoff(t1, t2, a):
    A = ef.family("gamma").log_partition
    return a * A(t1) + (1 - a) * A(t2) - A(a * t1 + (1 - a) * t2)


def test_reference_values_of_gaussians(x64):
    gaussian = ef.family("gaussian")
    t1 = gaussian.natural(np.array([0.0]), np.array([[1.0]]))
    t2 = gaussian.natural(np.array([1.0]), np.array([[4.0]]))
    kl = np.log(2) + 2 / 8 - 1 / 2
    hellinger = 1 - np.sqrt(2 * 1 * 2 / 5) * np.exp(-1 / 4 / 5)
    np.testing.assert_allclose(ef.expfam_kl("gaussian", t1, t2), kl, rtol=1e-14)
    np.testing.assert_allclose(
        ef.expfam_squared_hellinger("gaussian", t1, t2), hellinger, rtol=1e-14
    )


def test_dirichlet_of_three_against_its_closed_form(x64):
    a, b = np.array([0.7, 2.3, 1.1]), np.array([[1.7, 0.3, 1.1], [90.0, 2.0, 0.01]])
    log_beta = scipy.special.gammaln(b).sum(-1) - scipy.special.gammaln(b.sum(-1))
    log_beta -= scipy.special.gammaln(a).sum() - scipy.special.gammaln(a.sum())
    mean_log = scipy.special.digamma(a) - scipy.special.digamma(a.sum())
    expected = log_beta + (a - b) @ mean_log
    natural = ef.family("dirichlet").natural
    found = ef.expfam_kl("dirichlet", natural(a), natural(b))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_near_logits_keep_their_digits_whatever_their_offset(offset):
    t1 = jnp.array([0.5, -1.25, 2.0]) + offset
    near, far = jnp.array([2.0**-13, 0, 0]), jnp.array([3.0, 0, -1.0])
    t2 = t1 + jnp.stack([near, far])
    with mp.workdps(40):

        def A(logits):
            return mp.log(sum(mp.exp(x) for x in logits))

        rows = [[mp.mpf(float(x)) for x in row] for row in (t1, *t2)]
        p = [mp.exp(x - A(rows[0])) for x in rows[0]]
        expected = [
            float(
                A(row)
                - A(rows[0])
                - sum(w * (y - x) for w, x, y in zip(p, rows[0], row, strict=True))
            )
            for row in rows[1:]
        ]
    kl, renyi = values("categorical", t1, t2, np.float32([1.0]))
    # The logits' own rounding moves the probabilities.
    rtol = 1e-6 + 2e-7 * offset / 4
    np.testing.assert_allclose(kl, expected, rtol=rtol)
    np.testing.assert_allclose(renyi[0], expected, rtol=rtol)


OUTSIDE = {  # the second pair of each leaves the domain at a = 2
    "exponential": (np.array([-2.0, -0.5]), np.array([-1.0, -1.5])),
    "gamma": (np.array([[1.0, -2.0], [1.0, -0.5]]), np.array([1.0, -1.5])),
    "laplace": (np.array([[0.0, 0.5], [0.0, 3.0]]), np.array([0.3, 1.0])),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTSIDE)
def test_out_of_the_domain_is_infinite(name):
    t1, t2 = (jnp.asarray(x, jnp.float32) for x in OUTSIDE[name])

    def total(t1, t2, a):
        value = ef.expfam_renyi(name, t1, t2, a)
        return jnp.sum(jnp.where(jnp.isinf(value), 0, value)), value

    grads, value = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(t1, t2, 2.0)
    assert np.isfinite(value[0])
    assert value[1] == np.inf
    for gradient in grads:
        assert np.isfinite(gradient).all()


@pytest.mark.slow
def test_wide_gaussian_against_narrow_is_infinite():
    gaussian = ef.family("gaussian")
    scales = np.array([0.5, 3.0], np.float32)
    t1 = gaussian.natural(
        np.zeros((2, 2), np.float32), scales[:, None, None] * np.eye(2)
    )
    t2 = gaussian.natural(np.ones(2, np.float32), np.eye(2, dtype=np.float32))

    def total(t1, t2):
        value = ef.expfam_renyi("gaussian", t1, t2, 2.0)
        return jnp.sum(jnp.where(jnp.isinf(value), 0, value)), value

    grads, value = jax.jit(jax.grad(total, (0, 1), has_aux=True))(t1, t2)
    assert np.isfinite(value[0])
    assert value[1] == np.inf
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_traced_parameters_out_of_the_domain_give_nan():
    kl = jax.jit(lambda x, y: ef.expfam_kl("exponential", x, y))
    found = kl(
        jnp.array([-1.0, 1.0, -1.0, jnp.nan]), jnp.array([-2.0, -2.0, 0.0, -1.0])
    )
    assert np.isfinite(found[0])
    assert np.isnan(found[1:]).all()
    assert np.isnan(ef.expfam_kl("exponential", jnp.nan, -1.0))
    renyi = jax.jit(lambda a: ef.expfam_renyi("exponential", -1.0, -2.0, a))
    assert np.isnan(renyi(-0.5))


def test_pairs_come_as_tuples_or_arrays():
    t1, t2 = jnp.array([[0.5, -1.5], [1.0, -2.0]]), jnp.array([1.5, -0.8])
    both = ef.expfam_kl("gamma", t1, t2)
    tuples = ef.expfam_kl("gamma", (t1[:, 0], t1[:, 1]), (t2[0], t2[1]))
    assert both.shape == (2,)
    np.testing.assert_array_equal(both, tuples)
    columns = ef.expfam_kl("gamma", (t1[:, :1], t1[:1, 1]), (t2[0], t2[1]))
    assert columns.shape == (2, 1)


def test_low_precision_is_computed_in_float32():
    found = ef.expfam_kl("poisson", jnp.bfloat16(1.0), jnp.bfloat16(0.5))
    assert found.dtype == jnp.float32


def test_log_partition_differentiates_to_the_mean(x64):
    gaussian = ef.family("gaussian")
    (mean, covariance), _ = random_gaussians(3, 3)
    shift, second = jax.grad(gaussian.log_partition)(gaussian.natural(mean, covariance))
    np.testing.assert_allclose(shift, mean, rtol=1e-12)
    np.testing.assert_allclose(
        second, covariance + np.outer(mean, mean), rtol=1e-12, atol=1e-12
    )


def test_a_family_of_your_own(x64, monkeypatch):
    monkeypatch.setattr(ef, "_REGISTRY", dict(ef._REGISTRY))
    r = 3.0
    negative_binomial = ef.ExponentialFamily(
        "negative_binomial",
        log_partition=lambda theta: -r * jnp.log(-jnp.expm1(theta)),
        natural=lambda p: jnp.log1p(-p),
        in_domain=lambda theta: ~(theta >= 0),
    )
    assert ef.register_family(negative_binomial) is negative_binomial
    assert "negative_binomial" in ef.families()
    x = np.arange(600)
    first, second = (scipy.stats.nbinom(r, p).logpmf(x) for p in (0.4, 0.3))
    expected = np.sum(np.exp(first) * (first - second))
    t1, t2 = (negative_binomial.natural(p) for p in (0.4, 0.3))
    for name in ("negative_binomial", negative_binomial):
        np.testing.assert_allclose(ef.expfam_kl(name, t1, t2), expected, rtol=1e-10)

    def at(p):
        return ef.expfam_kl(negative_binomial, negative_binomial.natural(p), t2)

    mean = -r / 0.4  # d/dp of r (1 - p)/p (t1 - t2) - A(t1)
    by_hand = mean / 0.4 * (np.log(0.6) - np.log(0.7))
    np.testing.assert_allclose(jax.grad(at)(0.4), by_hand, rtol=1e-10)


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.05, 50), st.floats(0.05, 50), st.floats(0.05, 50), st.floats(0.05, 50)
)
def test_renyi_grows_with_the_order(a1, b1, a2, b2):
    t1, t2 = jnp.array([a1 - 1, -b1]), jnp.array([a2 - 1, -b2])
    found = _renyi_orders(t1, t2)
    assert (found >= 0).all()
    assert (found[1:] >= found[:-1] * (1 - 1e-4) - 1e-5).all()


@jax.jit
def _renyi_orders(t1, t2):
    orders = jnp.array([0.0, 0.1, 0.5, 0.9, 1.0])
    return jax.vmap(lambda a: ef.expfam_renyi("gamma", t1, t2, a))(orders)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name.endswith("expfam_renyi") and c.order == 1]
)
def test_second_derivatives_of_renyi(case):
    helpers.check_derivatives(case.call, case.args, order=2)


@pytest.mark.slow
@pytest.mark.parametrize("law", sphere.PUBLISHED)
def test_von_mises_fisher(law, x64):
    dim, p, q, cosine, alpha = law
    mu_p, mu_q = sphere.directions(dim, cosine)
    vmf = ef.family("vmf")
    t1, t2 = vmf.natural(mu_p, p), vmf.natural(mu_q, q)
    _, h, *_, kl, _, renyi = sphere.PUBLISHED[law]
    np.testing.assert_allclose(vmf.log_partition(t1), -h, rtol=1e-13)
    np.testing.assert_allclose(ef.expfam_kl("vmf", t1, t2), kl, rtol=1e-13)
    value = ef.expfam_renyi("vmf", t1, t2, alpha)
    np.testing.assert_allclose(value, renyi, rtol=1e-13)
    assert ef.expfam_kl("vmf", t1, t1) == 0
    at_uniform = jax.grad(lambda t: ef.expfam_kl("vmf", t, t2))(0 * t1)
    np.testing.assert_allclose(at_uniform, -t2 / dim, rtol=1e-10)
