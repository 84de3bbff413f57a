"""The von Mises-Fisher and Power Spherical laws."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdiv import distributions as dist

# d, kappa_p, kappa_q, c, alpha: log C, -h, A, A', entropy, KL, KL to uniform, Renyi
PUBLISHED = {
    (2, 1.5, 0.5, -0.2, 0.5): (
        *(-2.336664434124962, -0.4987873677156162, 0.5961332388312907),
        *(0.2472030023396548, 1.442464575878026, 0.5165755335999302),
        *(0.3954124905313198, 0.2942505936374613),
    ),
    (3, 10.0, 20.0, 0.5, 2.0): (
        *(-9.535291971354146, -7.004267724384855, 0.9000000041223073),
        *(0.009999991755385476, 0.5352919301310736, 9.306852821501208),
        *(1.995732316838217, 18.61370564300242),
    ),
    (64, 30.0, 12.0, 0.9, 0.25): (
        *(34.33372513422713, -6.433994891347429, 0.3966586273896132),
        *(0.009678815799200233, -46.23348395591553, 2.288472711598318),
        *(5.465763930340967, 0.6326166603127548),
    ),
    (2048, 800.0, 1500.0, 0.7, 0.5): (
        *(4752.143552361695, -146.2403102924095, 0.3443433147944916),
        *(0.0003392248259363272, -5027.618204197289, 225.0541932159402),
        *(129.2343415431838, 103.0176719387238),
    ),
    (32768, 20000.0, 100.0, 0.0, 0.75): (
        *(118536.7195577222, -5310.727446814242, 0.4735092913818966),
        *(1.500343948384367e-5, -128006.9053853601, 4159.610968003825),
        *(4159.45838082369, 3345.012282812986),
    ),
}
CONCENTRATIONS = {
    (2, 0.5): 1.1593199207501384,
    (3, 0.9): 9.9999995877689518,
    (10, 0.01): 0.10000833422628349,
    (512, 0.8): 1136.0435600354806,
    (2048, 0.3): 675.11042818507443,
    (32768, 0.99): 1630117.5854020378,
}


def directions(dim, cosine, dtype=np.float64):
    mu_p, mu_q = np.zeros((2, dim))
    mu_p[0] = 1
    mu_q[0], mu_q[-1] = cosine, (1 - cosine**2) ** 0.5
    return mu_p.astype(dtype), mu_q.astype(dtype)


@pytest.mark.parametrize(
    "dtype", [pytest.param(np.float32, marks=pytest.mark.slow), np.float64]
)
@pytest.mark.parametrize("law", PUBLISHED)
def test_published_values(law, dtype, x64):
    dim, p, q, cosine, alpha = law
    mu_p, mu_q = directions(dim, cosine, dtype)
    p, q = dtype(p), dtype(q)
    values = {
        "log C": dist.vmf_log_normalizer(p, dim),
        "-h": dist.vmf_log_normalizer(p, dim, base="uniform"),
        "A": dist.vmf_mean_resultant_length(p, dim),
        "A'": dist.vmf_fisher_information(p, dim)[0],
        "entropy": dist.vmf_entropy(p, dim),
        "kl": dist.vmf_kl(mu_p, p, mu_q, q),
        "kl uniform": dist.vmf_kl_uniform(p, dim),
        "renyi": dist.vmf_renyi(mu_p, p, mu_q, q, dtype(alpha)),
    }
    rtol = 2e-12 if dtype == np.float64 else 2e-6
    for (name, value), expected in zip(values.items(), PUBLISHED[law], strict=True):
        assert value.dtype == dtype, name
        np.testing.assert_allclose(value, expected, rtol=rtol, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CONCENTRATIONS)
def test_published_concentrations(case, dtype, x64):
    dim, r = case
    expected = CONCENTRATIONS[case]
    eps = np.finfo(dtype).eps
    value = dist.vmf_concentration_from_resultant(dtype(r), dim)
    # float32(r) is another number: near 1 the solution has the digits of 1 - r.
    loss = abs(float(dtype(r)) - r) / (1 - r) + 8 * eps / (1 - r)
    np.testing.assert_allclose(value, expected, rtol=max(loss, 8 * eps))
    slope = jax.grad(lambda r: dist.vmf_concentration_from_resultant(r, dim))(dtype(r))
    spread = dist.vmf_fisher_information(value, dim)[0]
    np.testing.assert_allclose(slope, 1 / spread, rtol=30 * eps / (1 - r))


def many_digits(kappa, dim):
    """kappa - h, A and 1 - A, from the elementary recurrence of the ratio."""
    with mpmath.workdps(40):
        nu, x = mpmath.mpf(dim) / 2 - 1, mpmath.mpf(float(kappa))
        h = mpmath.log(mpmath.hyp0f1(nu + 1, x**2 / 4))
        A = mpmath.besseli(nu + 1, x) / mpmath.besseli(nu, x)
        return float(x - h), float(A), float(1 - A), float(x * A - h)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dim", [2, 3, 10, 100])
def test_digits_at_high_concentration(dim, dtype, x64):
    mu, _ = directions(dim, 0.0, dtype)
    for kappa in (1e-3, 0.5, 7.0, 300.0, 2e4):
        deficit, A, _, divergence = many_digits(dtype(kappa), dim)
        eps = np.finfo(dtype).eps
        at_mode = dist.vmf_log_prob(mu, mu, dtype(kappa), base="uniform")
        np.testing.assert_allclose(at_mode, deficit, rtol=20 * eps)
        value = dist.vmf_mean_resultant_length(dtype(kappa), dim)
        np.testing.assert_allclose(value, A, rtol=4 * eps)
        value = dist.vmf_kl_uniform(dtype(kappa), dim)
        atol = 4 * eps * min(kappa, 1) ** 2 * 10
        np.testing.assert_allclose(value, divergence, rtol=40 * eps, atol=atol)


def sphere_grid(n=80):
    """Nodes and weights of a quadrature over the sphere in three dimensions."""
    t, weights = np.polynomial.legendre.leggauss(n)
    angle = 2 * np.pi * np.arange(2 * n) / (2 * n)
    s = np.sqrt(1 - t**2)[:, None]
    x = np.stack(
        np.broadcast_arrays(t[:, None], s * np.cos(angle), s * np.sin(angle)), -1
    )
    return x.reshape(-1, 3), np.repeat(weights, 2 * n) * np.pi / n


def test_densities_integrate_to_one(x64):
    x, w = sphere_grid()
    mu = np.array([0.6, 0.0, -0.8])
    for kappa in (0.0, 2.0, 30.0):
        for law in (dist.vmf_log_prob, dist.power_spherical_log_prob):
            np.testing.assert_allclose(w @ np.exp(law(x, mu, kappa)), 1, rtol=1e-10)


def test_scipy_agrees_in_low_dimensions(x64):
    rng = np.random.default_rng(0)
    for dim in (2, 3, 7):
        x = rng.standard_normal((5, dim))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        law = scipy.stats.vonmises_fisher(x[0], 3.0)
        np.testing.assert_allclose(
            dist.vmf_log_prob(x, x[0], 3.0), law.logpdf(x), rtol=1e-12
        )
        np.testing.assert_allclose(dist.vmf_entropy(3.0, dim), law.entropy())


@pytest.mark.parametrize("near", [False, True])
def test_divergences_by_quadrature(near, x64):
    x, w = sphere_grid()
    mu_p, mu_q = directions(3, 1 - 1e-6 if near else 0.3)
    p, q = 4.0, 4.001 if near else 2.5
    laws = (mu_p, p, mu_q, q)
    log_p = np.asarray(dist.vmf_log_prob(x, mu_p, p))
    log_q = np.asarray(dist.vmf_log_prob(x, mu_q, q))
    tolerance = {"rtol": 1e-7 if near else 1e-10, "atol": 1e-14}

    def check(value, expected):
        np.testing.assert_allclose(value, expected, **tolerance)

    check(dist.vmf_kl(*laws), w @ (np.exp(log_p) * (log_p - log_q)))
    for alpha in (0.2, 0.5, 0.99999, 1.00001, 2.0, 7.0):
        integral = w @ (np.exp(log_p) * np.expm1((1 - alpha) * (log_q - log_p)))
        expected = np.log1p(integral) / (alpha - 1)
        if abs(alpha - 1) < 0.1:  # the quadrature cancels, the kernel does not
            np.testing.assert_allclose(
                dist.vmf_renyi(*laws, alpha), expected, rtol=1e-6, atol=1e-13
            )
        else:
            check(dist.vmf_renyi(*laws, alpha), expected)
    check(dist.vmf_renyi(*laws, 1.0), dist.vmf_kl(*laws))
    overlap = w @ np.exp((log_p + log_q) / 2)
    check(dist.vmf_bhattacharyya(*laws), overlap)
    squared = w @ (np.exp(log_p / 2) - np.exp(log_q / 2)) ** 2 / 2
    check(dist.vmf_hellinger(*laws) ** 2, squared)
    check(
        dist.vmf_jeffreys(*laws),
        w @ ((np.exp(log_p) - np.exp(log_q)) * (log_p - log_q)),
    )
    if not near:
        log_g = 0.7 * log_p + 0.3 * log_q
        log_g -= np.log(w @ np.exp(log_g))
        expected = 0.7 * w @ (np.exp(log_p) * (log_p - log_g))
        expected += 0.3 * w @ (np.exp(log_q) * (log_q - log_g))
        check(dist.vmf_geometric_js(*laws, alpha=0.3), expected)


def test_published_js_pair(x64):
    mu_p, mu_q = directions(3, 0.3)
    np.testing.assert_allclose(
        dist.vmf_kl(mu_p, 4.0, mu_q, 2.5), 1.40325963751, rtol=1e-11
    )
    np.testing.assert_allclose(
        dist.vmf_renyi(mu_p, 4.0, mu_q, 2.5, 0.5), 0.83990292493, rtol=1e-10
    )


@pytest.mark.parametrize("dim", [3, 64])
def test_jeffreys_on_all_sides_of_its_borders(dim, x64):
    p = np.array([0.5, 2.0, 18.0, 84.0, 70.0, 974.0, 20.0])
    q = np.array([0.5001, 30.0, 16.0, 75.9, 71.0, 1050.0, 4000.0])
    mu_p, mu_q = (np.asarray(mu) for mu in directions(dim, np.cos(1e-3)))
    pairs = zip(mu_p, mu_q, strict=True)
    with mpmath.workdps(40):
        apart = mpmath.fsum((mpmath.mpf(a) - mpmath.mpf(b)) ** 2 / 2 for a, b in pairs)

        def exact(p, q):
            v, p, q = mpmath.mpf(dim) / 2, mpmath.mpf(p), mpmath.mpf(q)
            a, b = (mpmath.besseli(v, k) / mpmath.besseli(v - 1, k) for k in (p, q))
            return float((p - q) * (a - b) + (q * a + p * b) * apart)

        expected = [exact(*pair) for pair in zip(p, q, strict=True)]
    actual = jax.jit(jax.vmap(dist.vmf_jeffreys, (None, 0, None, 0)))(mu_p, p, mu_q, q)
    np.testing.assert_allclose(actual, expected, rtol=5e-14)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 3, 64, 4096])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_laws_are_at_distance_zero(dim, dtype, x64):
    rng = np.random.default_rng(dim)
    mu = rng.standard_normal(dim).astype(dtype)
    mu /= np.linalg.norm(mu)
    for kappa in (0.0, 1e-6, 1.0, 50.0 * dim):
        laws = (mu, dtype(kappa), mu, dtype(kappa))
        for divergence in (dist.vmf_kl, dist.vmf_jeffreys, dist.vmf_hellinger):
            assert divergence(*laws) == 0
            gradient = jax.grad(divergence, (1, 3))(*laws)
            assert jnp.isfinite(jnp.stack(gradient)).all()
        assert dist.vmf_renyi(*laws, dtype(0.3)) == 0
        assert dist.vmf_bhattacharyya(*laws) == 1


@jax.jit
def all_divergences(mu_p, p, mu_q, q, alpha):
    laws = mu_p, p, mu_q, q
    return (
        dist.vmf_kl(*laws),
        dist.vmf_kl(mu_q, q, mu_p, p),
        dist.vmf_renyi(*laws, alpha),
        dist.vmf_renyi(*laws, 0.5),
        dist.vmf_geometric_js(*laws),
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([2, 3, 64, 2048]),
    st.floats(-6, 6),
    st.floats(-6, 6),
    st.floats(-1, 1),
    st.floats(0.05, 4),
)
def test_divergences_are_ordered(dim, log_p, log_q, cosine, alpha):
    with jax.enable_x64(True):  # noqa: FBT003
        mu_p, mu_q = directions(dim, cosine)
        laws = (mu_p, np.exp(log_p), mu_q, np.exp(log_q))
        kl, back, renyi, half, js = all_divergences(*laws, alpha)
        slack = 1e-9 * (1 + abs(kl)) + 1e-12 * (laws[1] + laws[3])
        assert min(kl, renyi, half, js) >= -slack
        assert renyi <= kl + slack if alpha <= 1 else renyi >= kl - slack
        assert js <= (kl + back) / 4 + slack


@pytest.mark.slow
def test_moments_by_their_definition(x64):
    x, w = sphere_grid()
    mu = np.array([0.6, 0.0, 0.8])
    for kappa in (0.0, 0.5, 12.0):
        p = w * np.exp(dist.vmf_log_prob(x, mu, kappa))
        mean = p @ x
        A = dist.vmf_mean_resultant_length(kappa, 3)
        np.testing.assert_allclose(mean, A * mu, atol=1e-12)
        expected = (x * p[:, None]).T @ x - np.outer(mean, mean)
        np.testing.assert_allclose(dist.vmf_covariance(mu, kappa), expected, atol=1e-12)
    information = dist.vmf_fisher_information(5.0, 4)
    spread = jax.grad(lambda k: dist.vmf_mean_resultant_length(k, 4))(5.0)
    np.testing.assert_allclose(information[0], spread, rtol=1e-12)
    A = dist.vmf_mean_resultant_length(5.0, 4)
    np.testing.assert_allclose(information[1], 5 * A, rtol=1e-12)


def test_limits(x64):
    mu = np.array([0.0, 1.0, 0.0])
    x = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    log_prob = dist.vmf_log_prob(x, mu, np.inf)
    np.testing.assert_array_equal(log_prob, [np.inf, -np.inf])
    assert dist.vmf_entropy(np.inf, 3) == -np.inf
    assert dist.vmf_mean_resultant_length(np.inf, 3) == 1
    np.testing.assert_allclose(dist.vmf_entropy(0.0, 3), np.log(4 * np.pi), rtol=1e-14)
    for function in (dist.vmf_entropy, dist.vmf_log_normalizer, dist.vmf_kl_uniform):
        assert jax.grad(function)(0.0, 3) == 0
        for bad in (-1.0, np.nan):
            assert jnp.isnan(function(bad, 3))
    assert dist.vmf_concentration_from_resultant(0.0, 5) == 0
    assert dist.vmf_concentration_from_resultant(1.0, 5) == np.inf
    assert jnp.isnan(dist.vmf_concentration_from_resultant(1.1, 5))
    complement = dist.vmf_concentration_from_resultant(
        1.0, 3, complement=np.float64(1e-20)
    )
    np.testing.assert_allclose(complement, 1e20, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dim", [2, 3, 64, 2048])
def test_draws_follow_the_marginal_law(dim, dtype, x64):
    keys = jax.random.split(jax.random.key(dim), 20)
    draw = jax.jit(dist.vmf_sample, static_argnums=3)
    for i, kappa in enumerate((1e-2, 1.0, 30.0, 1e3, 1e6)):
        for j, mu in enumerate((1.0, -1.0)):
            direction = np.eye(dim, dtype=dtype)[0] * dtype(mu)
            x = draw(keys[2 * i + j], direction, dtype(kappa), (2000,))
            np.testing.assert_allclose(jnp.linalg.norm(x, axis=1), 1, rtol=1e-5)
            # By the distance to the mean: the cosine has lost its digits near 1.
            t = 1 - np.sum((np.asarray(x, np.float64) - direction) ** 2, 1) / 2
            cdf = dist.vmf_marginal_cdf(np.clip(t, -1, 1), kappa, dim)
            assert scipy.stats.kstest(np.asarray(cdf), "uniform").pvalue > 1e-4, kappa


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 3, 5, 128, 32768])
def test_moments_of_draws(dim, x64):
    mu = np.random.default_rng(0).standard_normal(dim)
    mu /= np.linalg.norm(mu)
    n = 20_000 if dim < 1000 else 500
    for share in (0.01, 1.0, 100.0):
        kappa = share * dim
        x = dist.vmf_sample(jax.random.key(1), mu, kappa, (n,))
        t = x @ mu
        A = dist.vmf_mean_resultant_length(kappa, dim)
        spread = dist.vmf_fisher_information(kappa, dim)[0]
        assert abs(t.mean() - A) < 4 * np.sqrt(spread / n)
        fourth = jnp.mean((t - A) ** 4) / spread**2
        assert abs(t.var() / spread - 1) < 4 * np.sqrt((fourth - 1) / n)
        across = x - t[:, None] * mu
        assert jnp.linalg.norm(across.mean(0)) < 4 * np.sqrt((1 - A**2) / n)


@pytest.mark.slow
def test_the_marginal_law_by_quadrature(x64):
    for dim in (2, 3, 8, 64):
        for kappa in (0.0, 0.5, 20.0, 900.0):

            def g(angle, kappa=kappa, dim=dim):
                half = np.sin(angle / 2) ** 2
                return np.exp(-2 * kappa * half) * np.sin(angle) ** (dim - 2)

            grid = np.linspace(0, np.pi, 11)
            parts = [
                scipy.integrate.quad(g, a, b, epsabs=0, epsrel=1e-12, limit=200)[0]
                for a, b in zip(grid, grid[1:], strict=False)
            ]
            beyond = np.cumsum(parts[::-1])[::-1] / np.sum(parts)
            value = dist.vmf_marginal_cdf(np.cos(grid[1:-1]), kappa, dim)
            np.testing.assert_allclose(value, beyond[1:], rtol=1e-9, atol=1e-14)
    assert dist.vmf_marginal_cdf(1.0, 2.0, 3) == 1
    assert dist.vmf_marginal_cdf(-1.0, 2.0, 3) == 0


@pytest.mark.slow
def test_the_derivative_of_draws_is_unbiased(x64):
    # A' of d = 5, kappa = 2; through the accepted proposal one gets 0.1276.
    mu, _ = directions(5, 0.0)
    n = 100_000

    def cosines(kappa):
        return dist.vmf_sample(jax.random.key(0), mu, kappa, (n,)) @ mu

    slopes = jax.jvp(cosines, (2.0,), (1.0,))[1]
    spread = slopes.std() / np.sqrt(n)
    assert spread < 5e-4
    assert abs(slopes.mean() - 0.14738868676) < 4 * spread
    # in three dimensions the law has an inverse in closed form
    mu, _ = directions(3, 0.0)
    t, slope = jax.jvp(
        lambda k: dist.vmf_sample(jax.random.key(0), mu, k, (100,)) @ mu, (4.0,), (1.0,)
    )
    rank = (np.exp(4 * (t - 1)) - np.exp(-8)) / -np.expm1(-8)

    def inverse(kappa):
        return 1 + jnp.log(rank + (1 - rank) * jnp.exp(-2 * kappa)) / kappa

    np.testing.assert_allclose(slope, jax.jvp(inverse, (4.0,), (1.0,))[1], rtol=1e-9)


@pytest.mark.slow
def test_draws_at_the_ends(x64):
    mu, _ = directions(4, 0.0)
    x = dist.vmf_sample(jax.random.key(0), mu, np.inf, (5,))
    np.testing.assert_allclose(x, np.broadcast_to(mu, (5, 4)), atol=1e-15)
    assert jnp.isnan(dist.vmf_sample(jax.random.key(0), mu, -1.0)).all()
    uniform = dist.vmf_sample(jax.random.key(0), mu, 0.0, (4000,))
    assert jnp.linalg.norm(uniform.mean(0)) < 0.05
    mus = jnp.stack([mu, -mu])
    x = dist.vmf_sample(jax.random.key(1), mus, jnp.array([50.0, 60.0]), (3,))
    assert x.shape == (3, 2, 4)
    assert (jnp.sum(x * mus, -1) > 0.5).all()


@pytest.mark.slow
def test_fit_recovers_and_ignores_the_scale_of_weights(x64):
    rng = np.random.default_rng(0)
    for dim, kappa in ((2, 3.0), (10, 40.0), (1000, 3000.0)):
        mu = rng.standard_normal(dim)
        mu /= np.linalg.norm(mu)
        x = dist.vmf_sample(jax.random.key(dim), mu, kappa, (4000,))
        direction, found = dist.vmf_fit(x)
        assert direction @ mu > 0.99
        np.testing.assert_allclose(found, kappa, rtol=0.05)
        loss = lambda k, x=x, m=direction: dist.vmf_log_prob(x, m, k).mean()
        assert abs(jax.grad(loss)(found)) < 1e-10
        weights = rng.uniform(size=4000)
        one, other = (dist.vmf_fit(x, w) for w in (weights, 7 * weights))
        np.testing.assert_allclose(one[1], other[1], rtol=1e-12)
        kept = weights < 0.5
        some = dist.vmf_fit(x, kept.astype(float))
        np.testing.assert_allclose(some[1], dist.vmf_fit(x[kept])[1], rtol=1e-11)


def test_fit_of_nothing(x64):
    x = np.array([[1.0, 0.0], [-1.0, 0.0]])
    direction, kappa = dist.vmf_fit(x)
    assert kappa == 0
    np.testing.assert_array_equal(direction, [1, 0])
    assert jnp.isnan(dist.vmf_fit(x, np.zeros(2))[1])
    one = dist.vmf_fit(x[:1])
    assert one[1] == np.inf


def test_fit_keeps_its_digits_at_high_concentration():
    # Points a millionth apart: 1 - r is below the spacing of float32 at 1.
    angle = 1e-4 * np.random.default_rng(0).standard_normal(1000)
    x = np.stack([np.cos(angle), np.sin(angle)], 1)
    with jax.enable_x64(True):  # noqa: FBT003
        expected = dist.vmf_fit(x)[1]
    value = dist.vmf_fit(x.astype(np.float32))[1]
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.slow
def test_mixture_finds_its_components(x64):
    mus = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, -1.0]])
    kappas = np.array([80.0, 30.0, 10.0])
    x = dist.vmf_sample(jax.random.key(0), mus, kappas, (2000,)).reshape(-1, 3)
    for shared in (False, True):
        mixture = dist.vmf_mixture_fit(
            jax.random.key(1), x, 3, restarts=3, shared_concentration=shared
        )
        order = jnp.argmax(mixture.mean_directions @ mus.T, 0)
        found = mixture.mean_directions[order]
        assert (jnp.sum(found * mus, -1) > 0.99).all()
        history = mixture.history[: mixture.n_iters]
        assert (jnp.diff(history) > -1e-12).all() or shared
        assert mixture.converged
        log_prob = dist.vmf_mixture_log_prob(x, *mixture[:3], base="uniform")
        np.testing.assert_allclose(log_prob.mean(), mixture.log_likelihood)
        if not shared:
            np.testing.assert_allclose(mixture.concentrations[order], kappas, rtol=0.15)
    hard = dist.vmf_mixture_fit(jax.random.key(1), x, 3, assignment="hard", restarts=3)
    assert (hard.mean_directions @ mus.T).max(0).min() > 0.99


@pytest.mark.slow
def test_mixture_with_more_components_than_points(x64):
    x = np.eye(3)
    mixture = dist.vmf_mixture_fit(jax.random.key(0), x, 5)
    assert jnp.isfinite(mixture.mean_directions).all()
    assert jnp.isfinite(mixture.concentrations).all()
    np.testing.assert_allclose(jnp.exp(mixture.log_weights).sum(), 1, rtol=1e-6)


@pytest.mark.slow
def test_power_spherical(x64):
    # published: d = 6, kappa = 7.3
    np.testing.assert_allclose(
        dist.power_spherical_entropy(7.3, 6), 2.17886587874, rtol=1e-11
    )
    mu, _ = directions(6, 0.0)
    n = 40_000
    x = dist.power_spherical_sample(jax.random.key(0), mu, 7.3, (n,))
    t = x @ mu
    assert abs(t.mean() - 0.59349593496) < 4 * t.std() / np.sqrt(n)
    log_prob = dist.power_spherical_log_prob(x, mu, 7.3)
    assert abs(log_prob.mean() + 2.17886587874) < 4 * log_prob.std() / np.sqrt(n)
    b, a = 2.5, 2.5 + 7.3
    cdf = scipy.special.betainc(a, b, (1 + np.asarray(t)) / 2)
    assert scipy.stats.kstest(cdf, "uniform").pvalue > 1e-4
    slope = jax.jvp(
        lambda k: dist.power_spherical_sample(jax.random.key(0), mu, k, (n,)) @ mu,
        (7.3,),
        (1.0,),
    )[1]
    expected = 5 / (5 + 7.3) ** 2
    assert abs(slope.mean() - expected) < 4 * slope.std() / np.sqrt(n)
    mu_p, mu_q = directions(3, 0.4)
    y, w = sphere_grid()
    log_p = np.asarray(dist.power_spherical_log_prob(y, mu_p, 5.0))
    log_q = np.asarray(dist.vmf_log_prob(y, mu_q, 2.0))
    np.testing.assert_allclose(
        dist.power_spherical_kl_vmf(mu_p, 5.0, mu_q, 2.0),
        w @ (np.exp(log_p) * (log_p - log_q)),
        rtol=1e-9,
    )


@pytest.mark.parametrize("dim", [2, 17, 18, 4096])
def test_power_spherical_normaliser(dim, x64):
    mu, _ = directions(dim, 0.0)
    for kappa in (0.0, 1e-3, 1.0, 100.0, 1e5):
        with mpmath.workdps(40):
            b, k = mpmath.mpf(dim - 1) / 2, mpmath.mpf(kappa)
            mean = k * mpmath.log(2) + mpmath.log(
                mpmath.beta(b + k, b) / mpmath.beta(b, b)
            )
            expected = float(k * mpmath.log(2) - mean)
            entropy = float(
                k
                * mpmath.diff(
                    lambda k, b=b: (
                        k * mpmath.log(2)
                        + mpmath.loggamma(b + k)
                        - mpmath.loggamma(2 * b + k)
                    ),
                    k,
                )
                - mean
            )
        value = dist.power_spherical_log_prob(mu, mu, kappa, base="uniform")
        np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-13 * kappa)
        np.testing.assert_allclose(
            dist.power_spherical_kl_uniform(kappa, dim),
            entropy,
            rtol=1e-10,
            atol=1e-13 * max(kappa, 1e-2),
        )
