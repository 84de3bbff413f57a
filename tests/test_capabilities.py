"""The table of what implicit differentiation must do; peers run it in the benchmark."""

import jax
import pytest

from benchmarks._capabilities import CASES, verdict
from jaxdiv import implicit

FAST_PLACES = {"in scan", "in cond"}


def cases():
    for name in CASES:
        _, comma, place = name.partition(", ")
        inside = comma and place.startswith("in ") and place not in FAST_PLACES
        yield pytest.param(name, marks=[pytest.mark.slow] if inside else [])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(cases()))
def test_case(name, x64):
    assert verdict(CASES[name], implicit.root) == "ok"


# What each iterative solver can do; a loop of dynamic bound cannot be transposed, which
# `jax.lax.custom_linear_solve` does at once.
ITERATIVE = [name for name in CASES if "dynamic bound" not in name]


@pytest.mark.slow
@pytest.mark.parametrize("solve", ["gmres", "lstsq"])
@pytest.mark.parametrize("name", ITERATIVE)
def test_case_with_another_solver(name, solve, x64):
    def root(F, **options):
        return implicit.root(F, solve=solve, tol=1e-12, **options)

    assert verdict(CASES[name], root) == "ok"


def jet(F):
    """Two Newton steps with a stopped residual: derivatives right to the third order.

    An oracle without any rule of its own.
    """

    def solved(x, t):
        x = jax.lax.stop_gradient(x)
        for _ in range(2):
            slope = jax.grad(F)(x, t)
            x = x - (F(x, t) - jax.lax.stop_gradient(F(x, t))) / slope
        return x

    return solved


@pytest.mark.slow
@pytest.mark.parametrize("t", [0.3, 1.0, 4.0])
def test_three_derivatives_are_those_of_the_newton_jet(t, x64):
    def F(x, t):
        return x * jax.numpy.exp(x) - t

    oracle = jet(F)
    newton = implicit.newton(F, 0.5, t)
    assert newton.converged

    def attached(t):
        return implicit.attach(F, newton.value, t)

    def stepped(t):
        return oracle(newton.value, t)

    for _ in range(3):
        attached, stepped = jax.jacfwd(attached), jax.grad(stepped)
        assert float(attached(t)) == pytest.approx(float(stepped(t)), rel=1e-9)


def test_lambert_function(x64):
    # x e^x = t at t = 1, by mpmath.
    want = (
        0.56714329040978387,
        0.36189625663488922,
        -0.21454064628214371,
        0.27366852428160137,
    )

    def f(t):
        return implicit.newton(lambda x, t: x * jax.numpy.exp(x) - t, 0.5, t).value

    for value in want:
        assert f(1.0) == pytest.approx(value, rel=1e-10)
        f = jax.jacfwd(f)


def test_kepler(x64):
    def f(e, M):
        def F(E, e, M):
            return E - e * jax.numpy.sin(E) - M

        return implicit.newton(F, M, e, M).value

    assert f(0.5, 1.0) == pytest.approx(1.4987011335178483, rel=1e-12)
    slopes = jax.grad(f, (0, 1))(0.5, 1.0)
    assert slopes[0] == pytest.approx(1.03466723237346, rel=1e-12)
    assert slopes[1] == pytest.approx(1.03736202189365, rel=1e-12)
    second = jax.hessian(f, 1)(0.5, 1.0)
    assert second == pytest.approx(-0.556713032669, rel=1e-11)
