"""log-Bessel functions against 60-digit references, closed forms and SciPy.

The error unit is eps max(1, |log f|, w): rounding the inputs moves log f by w eps.
Ratios, 0F1 and slopes are measured relative to themselves.
"""

import functools
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.special

from benchmarks._bessel_accuracy import (
    DTYPES,
    FUNCTIONS,
    STORED,
    errors,
    in_argument,
    in_order,
    log_0f1,
)
from jaxdiv import special
from jaxdiv.special import _generate_tables, _tables

# v, x, log I, log K, d/dv log I, d/dv log K, I_{v+1}/I_v, log 0F1; of 60 digits.
TABLE = """
0 1 0.23591435850717865 -0.8650643989067881 -0.33254544304461291 0 0.44638996589653451 0.23591435850717865
0 1e-8 2.5e-17 2.9197478174224401e0 -18.536612259610778 0 4.9999999999999999e-9 2.5e-17
0.5 2 0.71600242968946804 -2.1207822376352452 -0.37011016439355194 0.20634564990105583 0.5373147207275481 0.59522019205422282
1 1e-3 -7.600902334542085 6.9077515171311469 -8.023686857140546 7.0237152226827485 0.00024999998958333398 1.2499999739583344e-7
2.25 3.75 1.4510546910807468 -3.6216249843226362 -0.63912638357815484 0.51855340514684204 0.47187050656287428 0.97248713848913038
7 40 36.621087094403158 -41.018133781687803 -0.17629819180293941 0.17204909082381216 0.82800364967504111 24.176122540590635
25 1 -75.322671063721446 71.409847422243159 -3.932259320928688 3.8923234223787643 0.01922392536598856 0.0096136732577061845
63 50 10.926458406448827 -16.007009433635054 -1.0587131291273459 1.0489746954591573 0.34476223411006175 9.1465978390337061
1023 500 -363.47801572007538 355.74726785726536 -1.4644145918661761 1.4636255622295642 0.23111185300426825 59.347878251297179
4095 9000 8078.0261096171888 -8087.9183159811219 -0.44062594691909363 0.44058406248751208 0.64360086803551112 3601.9015970638242
16383 12000 1991.9079573917132 -2002.519859987739 -1.1176365368125764 1.1175968110774456 0.32704380477301447 2071.1524389377002
16383 1e-3 -267128.97959615148 267118.5824494801 -17.304932469492752 17.304871430610984 3.0517578124999972e-8 1.5258789062499993e-11
300 198.8 -3.9035765513063758 -2.6753722110269032 -1.2009339803407359 1.1986177661664432 0.30049581204783684 31.256639295003107
"""  # noqa: E501


@pytest.fixture(autouse=True)
def _double(x64):
    del x64


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_accuracy(name, dtype):
    f, unit, *bounds = FUNCTIONS[name]
    v, x = (jnp.asarray(column) for column in STORED[f"{dtype}/points"].T)
    actual = jax.jit(f)(v, x)
    assert actual.dtype == dtype
    assert errors(actual, name, dtype, unit).max() <= bounds[DTYPES.index(dtype)]


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_where_float64_is_off(name):
    f, unit, _, bound = FUNCTIONS[name]
    with jax.enable_x64(False):  # noqa: FBT003
        v, x = (jnp.asarray(column) for column in STORED["float32/points"].T)
        actual = jax.jit(f)(v, x)
    assert actual.dtype == jnp.float32
    assert errors(actual, name, "float32", unit).max() <= bound


@pytest.mark.slow
def test_reference_table():
    rows = np.array([row.split() for row in TABLE.strip().splitlines()], float)
    v, x, log_i, log_k, log_i_v, log_k_v, ratio, log_f = rows.T
    w = np.hypot(v, x)
    for f, exact, scale in (
        (special.log_bessel_i, log_i, w),
        (special.log_bessel_k, log_k, w),
        (in_order(special.log_bessel_i), log_i_v, 0),
        (in_order(special.log_bessel_k), log_k_v, 0),
    ):
        scale = np.maximum(np.maximum(1, np.abs(exact)), scale)
        assert np.max(np.abs(f(v, x) - exact) / scale) < 2e-15
    np.testing.assert_allclose(special.bessel_i_ratio(v, x), ratio, rtol=1e-15)
    np.testing.assert_allclose(log_0f1(v, x), log_f, rtol=2e-15)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("f", "exact"),
    [
        (
            special.log_bessel_i,
            (-0.236508351931956, 0.1638700976904, -0.0747385179227859),
        ),
        pytest.param(
            special.log_bessel_k,
            (0.215643862505825, -0.117893849303974, 0.0970987634306873),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_second_derivatives_inside_loops(f, exact):
    # In all orders of the modes; the wrong kind of rule fails inside a loop only.
    vv, vx, xx = exact
    point = jnp.array([2.25, 3.75])

    def plain(p):
        return f(p[0], p[1])

    def in_scan(p):
        return jax.lax.scan(
            lambda c, s: (c + s * plain(s * p), None), 0.0, jnp.ones(1)
        )[0]

    def in_fori(p):
        return jax.lax.fori_loop(0, 1, lambda i, c: c + plain(p * (c + 1)), 0.0)

    def in_map(p):
        return jax.lax.map(plain, p[None])[0]

    modes = [(a, b) for a in (jax.jacfwd, jax.jacrev) for b in (jax.jacfwd, jax.jacrev)]

    @jax.jit
    def hessians(p):
        return [
            outer(inner(g))(p)
            for g, (outer, inner) in zip(
                (plain, in_scan, in_fori, in_map), modes, strict=True
            )
        ]

    for hessian in hessians(point):
        np.testing.assert_allclose(hessian, [[vv, vx], [vx, xx]], rtol=2e-13)


@functools.cache
def exact_derivative(name, v, x, order):
    with mp.workdps(60):
        f = {
            "i": lambda v, x: mp.log(mp.besseli(v, x)),
            "k": lambda v, x: mp.log(mp.besselk(v, x)),
            "r": lambda v, x: mp.besseli(v + 1, x) / mp.besseli(v, x),
            "s": lambda v, x: mp.besselk(v + 1, x) / mp.besselk(v, x),
            "f": lambda v, x: mp.log(mp.hyp0f1(v, x)),
        }[name]
        return float(mp.diff(f, (v, x), order))


SECOND = {
    "i": special.log_bessel_i,
    "k": special.log_bessel_k,
    "r": special.bessel_i_ratio,
    "s": special.bessel_k_ratio,
    "f": special.log_hyp0f1,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SECOND)
def test_second_derivatives(name):
    points = np.array([[0.3, 0.2], [1.5, 1.2], [6.2, 2.5], [3.0, 30.0], [40.0, 7.0]])
    hessian = jax.jit(jax.vmap(jax.hessian(lambda p: SECOND[name](p[0], p[1]))))(points)
    for point, H in zip(points, hessian, strict=True):
        for order, actual in (((2, 0), H[0, 0]), ((1, 1), H[0, 1]), ((0, 2), H[1, 1])):
            exact = exact_derivative(name, *point, order)
            np.testing.assert_allclose(actual, exact, rtol=2e-12, err_msg=str(point))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["i", "r"])
def test_third_derivatives(name):
    for point in ([1.5, 1.2], [20.0, 20.0]):
        third = jax.jit(jax.jacfwd(jax.hessian(lambda p: SECOND[name](p[0], p[1]))))
        T = third(jnp.array(point))
        for order, index in (((3, 0), (0, 0, 0)), ((1, 2), (0, 1, 1))):
            exact = exact_derivative(name, *point, order)
            np.testing.assert_allclose(T[index], exact, rtol=1e-10)


@hypothesis.settings(deadline=None, max_examples=200, derandomize=True)
@hypothesis.given(st.floats(0, 1e4), st.floats(1e-6, 1e5))
def test_wronskian(v, x):
    with jax.enable_x64(True):
        i, k = special.log_bessel_i(v, x), special.log_bessel_k(v, x)
        r, s = special.bessel_i_ratio(v, x), special.bessel_k_ratio(v, x)
        # I_v K_{v+1} + I_{v+1} K_v = 1/x
        log = i + k + jnp.log(s + r) + jnp.log(x)
    assert abs(log) < 20 * np.finfo(float).eps * max(1, abs(i), np.hypot(v, x))


@pytest.mark.slow
def test_half_integers():
    x = np.array([1e-6, 0.3, 1.5, 2.0, 9.0, 30.0, 1e4])
    log_k = 0.5 * np.log(np.pi / (2 * x)) - x
    np.testing.assert_allclose(special.log_bessel_k(0.5, x), log_k, rtol=1e-14)
    np.testing.assert_allclose(special.log_bessel_ke(0.5, x), log_k + x, atol=1e-12)
    log_i = 0.5 * np.log(2 / (np.pi * x)) + x + np.log(-np.expm1(-2 * x) / 2)
    np.testing.assert_allclose(special.log_bessel_i(0.5, x), log_i, rtol=1e-14)
    np.testing.assert_allclose(special.bessel_k_ratio(0.5, x), 1 + 1 / x, rtol=2e-15)
    slope = in_argument(special.log_bessel_k)(jnp.full_like(x, 0.5), jnp.asarray(x))
    np.testing.assert_allclose(slope, -1 - 1 / (2 * x), rtol=1e-14)


@pytest.mark.parametrize("x", [1e3, 1e5, 1e6])
def test_scaled_functions_lose_nothing_to_x(x):
    exact_i = float(mp.log(mp.besseli(2, x)) - mp.mpf(x)) if x < 1e4 else None
    u = 15 / (8 * x)  # large-x series of order 2
    series = np.log1p(-u + u * 7 / (16 * x) + u * 7 * -9 / (16 * 24 * x**2) * -1)
    expected = series - 0.5 * np.log(2 * np.pi * x)
    np.testing.assert_allclose(special.log_bessel_ie(2.0, x), expected, rtol=1e-12)
    if exact_i is not None:
        np.testing.assert_allclose(special.log_bessel_ie(2.0, x), exact_i, rtol=1e-13)
    total = special.log_bessel_ie(2.0, x) + special.log_bessel_ke(2.0, x)
    plain = special.log_bessel_i(2.0, x) + special.log_bessel_k(2.0, x)
    np.testing.assert_allclose(total, plain, atol=3e-16 * x + 1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits(dtype):
    zero, one, inf = (jnp.asarray(c, dtype) for c in (0.0, 1.0, jnp.inf))
    cases = [
        (special.log_bessel_i, (zero, zero), 0.0),
        (special.log_bessel_i, (one, zero), -np.inf),
        (special.log_bessel_i, (one, inf), np.inf),
        (special.log_bessel_i, (inf, one), -np.inf),
        (special.log_bessel_ie, (one, inf), -np.inf),
        (special.log_bessel_k, (one, zero), np.inf),
        (special.log_bessel_k, (zero, zero), np.inf),
        (special.log_bessel_k, (one, inf), -np.inf),
        (special.log_bessel_k, (inf, one), np.inf),
        (special.log_bessel_ke, (one, inf), -np.inf),
        (special.bessel_i_ratio, (one, zero), 0.0),
        (special.bessel_i_ratio, (one, inf), 1.0),
        (special.bessel_i_ratio, (inf, one), 0.0),
        (special.bessel_i_ratio_complement, (one, zero), 1.0),
        (special.bessel_i_ratio_complement, (one, inf), 0.0),
        (special.bessel_k_ratio, (one, zero), np.inf),
        (special.bessel_k_ratio, (one, inf), 1.0),
        (special.log_hyp0f1, (one, zero), 0.0),
        (special.log_hyp0f1, (one, inf), np.inf),
        (special.log_hyp0f1, (inf, one), 0.0),
        (special.bessel_i_ratio_inverse, (one, zero), 0.0),
        (special.bessel_i_ratio_inverse, (one, one), np.inf),
        (special.matern_kernel, (zero, one, one), 1.0),
        (special.matern_kernel, (inf, one, one), 0.0),
    ]
    for f, arguments, expected in cases:
        out = f(*arguments)
        assert out.dtype == dtype
        assert out == expected, (f.__name__, arguments, out)


@pytest.mark.parametrize("f", [*SECOND.values(), special.log_bessel_ie])
def test_nan_for_what_has_no_value(f):
    nan = jnp.nan
    v = jnp.array([1.0, 30.0, nan, 1.0, -0.75, jnp.inf])
    x = jnp.array([-1.0, -2.0, 1.0, nan, nan, jnp.inf])
    out = jax.jit(f)(v, x)
    assert np.isnan(out).all(), out


@pytest.mark.slow
def test_negative_orders():
    v, x = jnp.array([-3.0, -30.0]), jnp.array([2.0, 5.0])
    np.testing.assert_array_equal(
        special.log_bessel_i(v, x), special.log_bessel_i(-v, x)
    )
    assert np.isnan(special.log_bessel_i(-0.5, 2.0))
    assert np.isnan(special.bessel_i_ratio(-1.0, 2.0))
    assert np.isnan(special.bessel_k_ratio(-0.25, 2.0))
    v = jnp.array([-0.3, -2.0, -40.0])
    np.testing.assert_array_equal(
        special.log_bessel_k(v, 2.0), special.log_bessel_k(-v, 2.0)
    )
    slope = in_order(special.log_bessel_k)
    x = jnp.full(3, 2.0)
    np.testing.assert_array_equal(slope(v, x), -slope(-v, x))
    assert np.isnan(in_order(special.log_bessel_i)(jnp.array(-3.0), jnp.array(2.0)))
    # 0F1 knows parameters below 1.
    exact = float(mp.log(mp.hyp0f1(0.25, 3)))
    np.testing.assert_allclose(special.log_hyp0f1(0.25, 3.0), exact, rtol=1e-14)


@pytest.mark.slow
def test_k_is_smooth_and_even_at_order_zero():
    for x in (0.5, 5.0, 40.0):
        slope = jax.grad(special.log_bessel_k)
        assert slope(0.0, x) == 0
        curvature = jax.grad(slope)(0.0, x)
        difference = slope(1e-4, x) / 1e-4
        np.testing.assert_allclose(curvature, difference, rtol=1e-6)


SLOW_DOUBLE = [pytest.param("float64", marks=pytest.mark.slow), "float32"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", SLOW_DOUBLE)
def test_gradients_are_finite_where_the_value_is(dtype):
    points = STORED[f"{dtype}/points"]
    v, x = (jnp.asarray(column) for column in points.T)
    for f in (
        special.log_bessel_i,
        special.log_bessel_k,
        special.bessel_i_ratio,
        log_0f1,
    ):
        value = f(v, x)
        slopes = jax.grad(lambda v, x, f=f: jnp.sum(f(v, x)), (0, 1))(v, x)
        for slope in slopes:
            assert slope.dtype == dtype
            assert np.isfinite(slope[np.isfinite(value)]).all(), f


@pytest.mark.slow
def test_gradients_at_zero():
    assert jax.grad(special.log_bessel_i, 1)(0.0, 0.0) == 0
    assert jax.grad(special.log_bessel_i, 1)(2.0, 0.0) == jnp.inf
    assert jax.grad(special.log_hyp0f1, 0)(1.5, 0.0) == 0
    assert jax.grad(special.bessel_i_ratio, 0)(1.0, 0.0) == 0
    for v in (0.0, 3.0, 40.0):
        b = v + 1
        close = functools.partial(np.testing.assert_allclose, rtol=1e-15)
        close(jax.grad(special.log_hyp0f1, 1)(b, 0.0), 1 / b)
        close(jax.grad(special.bessel_i_ratio, 1)(v, 0.0), 1 / (2 * b))
        close(
            jax.grad(jax.grad(special.log_hyp0f1, 1), 1)(b, 0.0), -1 / (b * b * (b + 1))
        )
    x = jax.grad(lambda x: log_0f1(1.5, x))  # of kappa itself, as the vMF law has it
    assert x(0.0) == 0
    np.testing.assert_allclose(jax.grad(x)(0.0), 1 / 5, rtol=1e-15)


def test_dtypes():
    half = jnp.array([1.0, 2.5], jnp.bfloat16)
    out = special.log_bessel_i(half, half)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        out.astype(float), special.log_bessel_i(*[half.astype(float)] * 2), rtol=4e-3
    )
    assert special.log_bessel_k(jnp.arange(3), 2).dtype == jnp.float64
    assert special.log_bessel_k(3, jnp.float32(2)).dtype == jnp.float32
    with jax.enable_x64(False):
        jaxpr = jax.make_jaxpr(jax.hessian(lambda v, x: special.log_bessel_k(v, x)))
        assert "f64" not in str(jaxpr(1.0, 2.0))
        assert special.log_bessel_i(np.array([1, 2]), 2).dtype == jnp.float32
    with pytest.raises(TypeError, match="bool"):
        special.log_bessel_i(True, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", SLOW_DOUBLE)
def test_a_plain_large_order_has_a_program_of_its_own(dtype):
    x = jnp.geomspace(1e-3, 1e5, 50).astype(dtype)
    for f in (special.log_bessel_i, special.log_bessel_k, special.bessel_i_ratio):
        fast, slow = jax.jit(lambda x, f=f: f(63, x)), jax.jit(f)
        text = str(jax.make_jaxpr(lambda x, f=f: f(63, x))(x))
        assert "high" in text
        tolerance = 4 * jnp.finfo(dtype).eps
        np.testing.assert_allclose(
            fast(x), slow(jnp.full_like(x, 63), x), rtol=tolerance
        )
        slope = jax.vmap(jax.grad(lambda x, f=f: f(63, x)))(x)
        other = in_argument(f)(jnp.full_like(x, 63), x)
        np.testing.assert_allclose(slope, other, rtol=tolerance)


def test_broadcast_and_vmap():
    f = special.bessel_i_ratio
    v, x = jnp.array([[0.5], [3.0], [30.0]]), jnp.array([0.1, 4.0, 50.0, 200.0])
    full = f(v, x)
    assert full.shape == (3, 4)
    over_x = jax.vmap(f, (None, 0), 1)(v[:, 0], x)
    np.testing.assert_allclose(over_x, full, rtol=1e-15)
    grid = jax.vmap(jax.vmap(f, (None, 0)), (0, None))(v[:, 0], x)
    np.testing.assert_allclose(grid, full, rtol=1e-15)
    assert f(jnp.zeros((0, 1)), x).shape == (0, 4)


@pytest.mark.slow
def test_gradients_of_broadcast_arguments():
    def total(v, x):
        return jnp.sum(special.log_bessel_i(v, x))

    v, x = jnp.array([[0.5], [3.0], [30.0]]), jnp.array([0.1, 4.0, 50.0, 200.0])
    slopes = jax.vmap(jax.grad(total, (0, 1)), (0, None))
    of_v, of_x = slopes(v[:, 0], x)
    assert of_v.shape == (3,)
    assert of_x.shape == (3, 4)
    sums = jax.grad(total, (0, 1))(v, x)
    np.testing.assert_allclose(sums[0][:, 0], of_v, rtol=1e-14)
    np.testing.assert_allclose(sums[1], of_x.sum(0), rtol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_inverse_of_the_ratio(dtype):
    v = jnp.array([[0.0], [0.5], [3.0], [24.0], [100.0], [1e5]], dtype)
    x = jnp.array([[1e-6, 0.3, 1.0, 7.0, 24.0, 30.0, 1e3, 1e6]], dtype)
    r = special.bessel_i_ratio(v, x)
    c = special.bessel_i_ratio_complement(v, x)
    found = special.bessel_i_ratio_inverse(v, r, complement=c)
    np.testing.assert_allclose(
        found / x, np.ones(found.shape), rtol=80 * jnp.finfo(dtype).eps
    )
    assert np.isnan(special.bessel_i_ratio_inverse(1.5, jnp.array([-0.1, 1.1]))).all()


@pytest.mark.slow
def test_derivatives_of_the_inverse():
    inverse = special.bessel_i_ratio_inverse
    for v, x in ((1.5, 0.7), (1.5, 20.0), (40.0, 90.0)):
        r = special.bessel_i_ratio(v, x)
        r_v, r_x = jax.grad(special.bessel_i_ratio, (0, 1))(v, x)
        x_v, x_r = jax.grad(inverse, (0, 1))(v, r)
        np.testing.assert_allclose([x_v, x_r], [-r_v / r_x, 1 / r_x], rtol=1e-11)
        second = jax.grad(jax.grad(inverse, 1), 1)(v, r)
        r_xx = jax.grad(jax.grad(special.bessel_i_ratio, 1), 1)(v, x)
        np.testing.assert_allclose(second, -r_xx / r_x**3, rtol=1e-9)


MATERN = {0.5: lambda z: 1.0, 1.5: lambda z: 1 + z, 2.5: lambda z: 1 + z + z * z / 3}


@pytest.mark.slow
@pytest.mark.parametrize("nu", MATERN)
def test_matern_closed_forms(nu):
    d = jnp.array([1e-9, 1e-3, 0.4, 1.0, 6.0, 40.0])

    def closed(d):
        z = np.sqrt(2 * nu) * d / 0.7
        return MATERN[nu](z) * jnp.exp(-z)

    def ours(d):
        return special.matern_kernel(d, 0.7, nu)

    np.testing.assert_allclose(ours(d), closed(d), rtol=1e-13)
    slopes, exact = (jax.vmap(jax.grad(f))(d) for f in (ours, closed))
    np.testing.assert_allclose(slopes, exact, rtol=1e-12, atol=3e-16)
    # A kernel with a kink has its second derivative to eps / d only.
    d = d[1:]
    seconds, exact = (jax.vmap(jax.grad(jax.grad(f)))(d) for f in (ours, closed))
    np.testing.assert_allclose(seconds, exact, rtol=1e-12)
    assert ours(0.0) == 1
    if nu > 1:
        assert jax.grad(ours)(0.0) == 0
        curvature = -nu / (nu - 1) / 0.7**2
        np.testing.assert_allclose(jax.grad(jax.grad(ours))(0.0), curvature, rtol=1e-12)


@pytest.mark.slow
def test_matern_in_smoothness():
    for nu, d in ((0.3, 0.5), (2.3, 1e-3), (2.3, 1.5), (7.0, 30.0), (60.0, 1.0)):

        def exact(nu, d=d):
            z = mp.sqrt(2 * nu) * d
            return 2 ** (1 - nu) / mp.gamma(nu) * z**nu * mp.besselk(nu, z)

        for order in (1, 2):
            f = lambda nu, d=d: special.matern_kernel(d, 1.0, nu)
            for _ in range(order):
                f = jax.grad(f)
            with mp.workdps(60):
                expected = float(mp.diff(exact, nu, order))
            np.testing.assert_allclose(f(nu), expected, rtol=1e-9, atol=1e-13)
    # The limit of smoothness, without cancellation: 1e5 log(1e5) is a million.
    d = jnp.linspace(0, 3, 7)
    np.testing.assert_allclose(
        special.matern_kernel(d, 1.0, 1e7), jnp.exp(-d * d / 2), rtol=1e-5
    )
    wide = special.matern_kernel(d.astype(jnp.float32), 1.0, jnp.float32(3e4))
    np.testing.assert_allclose(wide, jnp.exp(-d * d / 2), rtol=3e-3)


@pytest.mark.slow
def test_the_expansions_of_the_paper():
    # Far from its borders; on them it is up to thousands of units off.
    v = jnp.array([0.5, 5.0, 3.0, 200.0, 70.0, 30.0, 14.0])
    x = jnp.array([3.0, 4.0, 200.0, 50.0, 60.0, 40.0, 12.0])
    for f, tolerance in ((special.log_bessel_i, 1e-12), (special.log_bessel_k, 1e-9)):
        ours, theirs = f(v, x), f(v, x, method="plesner2024")
        np.testing.assert_allclose(theirs, ours, rtol=tolerance)
        slopes = [
            jax.grad(lambda x, m=m, f=f: jnp.sum(f(v, x, method=m)))(x)
            for m in ("debye", "plesner2024")
        ]
        np.testing.assert_array_equal(*slopes)


def test_against_scipy():
    rng = np.random.default_rng(0)
    v, x = rng.uniform(0, 100, (2, 1000))
    with np.errstate(all="ignore"):
        log_i = np.log(scipy.special.ive(v, x)) + x
        log_k = np.log(scipy.special.kve(v, x)) - x
    for ours, theirs in ((special.log_bessel_i, log_i), (special.log_bessel_k, log_k)):
        finite = np.isfinite(theirs)
        assert finite.mean() > 0.9
        np.testing.assert_allclose(
            ours(v, x)[finite], theirs[finite], rtol=1e-12, atol=1e-11
        )


def test_debye_coefficients_are_the_generated_ones():
    rows = _generate_tables.debye_log(_generate_tables.DEBYE_TERMS)
    assert tuple(tuple(map(float, row)) for row in rows) == _tables.DEBYE
    first = [[str(c) for c in row] for row in rows[:2]]
    assert first == [["1/8", "-5/24"], ["1/16", "-3/8", "5/16"]]


def test_reciprocal_gamma_series():
    with mp.workdps(40):
        series = _generate_tables.reciprocal_gamma(40)
        for mu in (-0.5, 0.3, 0.5):
            value = mp.fsum(c * mp.mpf(mu) ** k for k, c in enumerate(series))
            assert abs(value - 1 / mp.gamma(1 + mp.mpf(mu))) < 1e-30


@pytest.mark.slow
def test_all_tables_are_the_generated_ones():
    for name, table in _generate_tables.tables().items():
        assert getattr(_tables, name) == table, name


@pytest.mark.slow
def test_rows_of_two_elements_compile():
    # LLVM took all memory over them; in a process that may not.
    code = """
import resource
import jax, jax.numpy as jnp
from jaxdiv import special
resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
jax.config.update("jax_enable_x64", True)
slope = jax.vmap(jax.grad(jax.grad(lambda x: special.bessel_i_ratio(1.5, x))))
x = jnp.array([[0.7, 12.0], [30.0, 3.0]])
flat = jax.jit(slope)(x.ravel())
for shape in ((2, 2), (4, 1)):
    there = jax.jit(jax.vmap(slope))(x.reshape(shape)).ravel()
    assert (abs(there - flat) < 1e-14).all()
print(jax.jit(slope)(x[0]) - flat[:2])
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert run.stdout.strip() == "[0. 0.]", run.stderr[-2000:]
