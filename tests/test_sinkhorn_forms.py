"""Soft marginals, streaming, the duality gap, ott-jax's types, many devices."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ott.geometry import costs as ott_costs
from ott.geometry import pointcloud
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn as ott_sinkhorn

from jaxdiv import transport
from jaxdiv.transport import _derivative
from tests import helpers

EPS = 0.3
RHOS = [(1.0, 2.0), (np.inf, 2.0), (1.0, np.inf), (50.0, 100.0), (0.05, 0.05)]
TIGHT = {"threshold": 1e-12, "max_iterations": 5000}


def problem(seed=0, n=7, m=5):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, 2)), 0.5 + rng.standard_normal((m, 2))
    return x, y, rng.uniform(0.1, 1, n), 2 * rng.uniform(0.1, 1, m)


def kl(p, q):
    return np.sum(p * np.log(p / q) - p + q)


def price(rho, marginal, weights):
    return 0 if np.isinf(rho) else rho * kl(marginal, weights)


def plain_iteration(x, y, a, b, rho_a, rho_b):
    """Potentials, plan and objective by 20,000 damped steps of NumPy."""
    C = np.sum((x[:, None] - y) ** 2, -1)
    damp_a, damp_b = (1 / (1 + EPS / rho) for rho in (rho_a, rho_b))
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(20_000):
        f = -damp_a * EPS * np.log(np.exp((g - C) / EPS) @ b)
        g = -damp_b * EPS * np.log(a @ np.exp((f[:, None] - C) / EPS))
    P = a[:, None] * b * np.exp((f[:, None] + g - C) / EPS)
    return f, g, P, objective(P, C, a, b, rho_a, rho_b)


def objective(P, C, a, b, rho_a, rho_b):
    prices = price(rho_a, P.sum(1), a) + price(rho_b, P.sum(0), b)
    return np.sum(P * C) + EPS * kl(P, a[:, None] * b) + prices


@pytest.mark.parametrize("method", ["kernel", "log", "stream"])
@pytest.mark.parametrize("rhos", RHOS)
def test_soft_marginals(rhos, method, x64):
    x, y, a, b = problem()
    f, g, P, value = plain_iteration(x, y, a, b, *rhos)
    block = 2 if method == "stream" else None
    result = transport.sinkhorn(
        x,
        y,
        a=a,
        b=b,
        eps=EPS,
        rho_a=rhos[0],
        rho_b=rhos[1],
        method=method,
        block_size=block,
        **TIGHT,
    )
    assert result.converged
    assert int(result.n_iters) <= 100  # of the 1/(1 - rate) that damping alone takes
    np.testing.assert_allclose(result.f, f, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(result.g, g, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(result.reg_ot_cost, value, rtol=1e-12)
    np.testing.assert_allclose(transport.plan(result, x, y), P, rtol=1e-9)
    entropic = value - EPS * kl(P, a[:, None] * b) + EPS * np.sum(P * np.log(P))
    np.testing.assert_allclose(result.ent_reg_cost, entropic, rtol=1e-11)
    assert 0 <= result.duality_gap < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("held", [False, True])
def test_derivatives_with_soft_marginals(held, x64):
    x, y, a, b = problem()

    def solved(x, log_a, log_b, eps, rho):
        result = transport.sinkhorn(
            x,
            y,
            a=jnp.exp(log_a),
            b=jnp.exp(log_b),
            eps=eps,
            rho_a=rho,
            rho_b=np.inf if held else 2.0,
            threshold=1e-13,
            max_iterations=5000,
        )
        return result.f, result.g, result.reg_ot_cost, result.ent_reg_cost

    args = (x, np.log(a), np.log(b), np.float64(EPS), np.float64(1.0))
    helpers.check_derivatives(solved, args, order=2)


@pytest.mark.slow
def test_soft_marginals_tend_to_held_ones(x64):
    x, y, a, b = problem()
    a, b = a / a.sum(), b / b.sum()
    held = transport.sinkhorn(x, y, a=a, b=b, eps=EPS, **TIGHT)
    soft = transport.sinkhorn(x, y, a=a, b=b, eps=EPS, rho_a=1e9, rho_b=1e9, **TIGHT)
    np.testing.assert_allclose(soft.reg_ot_cost, held.reg_ot_cost, rtol=1e-7)
    traced = jax.jit(
        lambda rho: transport.ot_cost(x, y, a=a, b=b, eps=EPS, rho_a=rho, rho_b=rho)
    )(np.inf)
    np.testing.assert_allclose(traced, held.reg_ot_cost, rtol=1e-5)


@pytest.mark.slow
def test_divergence_of_unequal_masses(x64):
    x, y, a, b = problem()

    def divergence(x, y, a, b):
        return transport.sinkhorn_divergence(x, y, a=a, b=b, eps=EPS, rho=1.0, **TIGHT)

    assert abs(divergence(x, x, a, a)) < 1e-10
    # far apart nothing is moved: rho for every unit of mass, eps for the product
    mass = a.sum()
    within = transport.ot_cost(x, x, a=a, b=a, eps=EPS, rho_a=1.0, rho_b=1.0, **TIGHT)
    expected = 2 * mass + EPS * mass**2 - within
    np.testing.assert_allclose(divergence(x, x + 100, a, a), expected, rtol=1e-8)
    assert divergence(x, y, a, b) > 0
    np.testing.assert_allclose(
        divergence(x, y, a, b), divergence(y, x, b, a), rtol=1e-10
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["stream", "log"])
def test_streaming_is_the_same_problem(method, x64):
    x, y, a, b = problem(n=23, m=17)
    a, b = a / a.sum(), b / b.sum()
    a[3] = b[16] = 0
    a, b = a / a.sum(), b / b.sum()

    def solved(x, y, method, block):
        return transport.sinkhorn(
            x,
            y,
            a=a,
            b=b,
            eps=EPS,
            cost="euclidean",
            method=method,
            block_size=block,
            **TIGHT,
        )

    def loss(x, y, method, block=None):
        result = solved(x, y, method, block)
        return jnp.sin(result.f).sum() + result.primal_cost + 2 * result.reg_ot_cost

    block = 5 if method == "stream" else None
    one, other = solved(x, y, "kernel", None), solved(x, y, method, block)
    for name in ("f", "g", "reg_ot_cost", "primal_cost", "n_iters"):
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-11
        )
    slopes = [
        jax.grad(loss, (0, 1))(x, y, *way) for way in (("kernel",), (method, block))
    ]
    for one, other in zip(*slopes, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9)


def temporary_bytes(f, *args):
    return jax.jit(f).lower(*args).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("quantity", ["value", "cost", "potentials", "plan"])
def test_streaming_never_holds_the_costs(quantity):
    n, block = 8192, 32
    x = jnp.zeros((n, 4))

    def solved(x):
        return transport.sinkhorn(x, x + 1, eps=0.1, method="stream", block_size=block)

    of = {
        "value": lambda x: solved(x).f,
        "cost": jax.grad(lambda x: solved(x).reg_ot_cost),
        "potentials": jax.grad(lambda x: solved(x).f @ x[:, 0]),
        "plan": jax.grad(lambda x: solved(x).primal_cost),
    }[quantity]
    assert temporary_bytes(of, x) < n * n * 4 / 10


def test_large_clouds_stream_by_themselves():
    x = jax.ShapeDtypeStruct((40_000, 2), jnp.float32)
    needed = temporary_bytes(lambda x: transport.ot_cost(x, x, eps=0.1), x)
    assert needed < 100 * 2**20


@pytest.mark.slow
def test_apply_plan_streams(monkeypatch, x64):
    x, y, a, b = problem(n=11, m=9)
    result = transport.sinkhorn(x, y, a=a / a.sum(), b=b / b.sum(), eps=EPS)
    P = transport.plan(result, x, y)
    monkeypatch.setattr("jaxdiv.transport._blocks._HELD_BYTES", 0)
    monkeypatch.setattr("jaxdiv.transport._blocks._BLOCK_ENTRIES", 44)
    for v, axis in ((y, 1), (x, 0), (y[:, 0], 1), (x[:, 0], 0)):
        got = transport.apply_plan(result, x, y, v, axis=axis)
        np.testing.assert_allclose(got, (P if axis else P.T) @ v, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.3, 1e-1, 1e-2, 1e-4])
def test_duality_gap_bounds_the_error(threshold, x64):
    x, y, a, b = problem(seed=1, n=9, m=6)
    a, b = a / a.sum(), b / b.sum()
    options = {"a": a, "b": b, "eps": 0.05}
    best = transport.sinkhorn(x, y, **options, **TIGHT).reg_ot_cost
    result = transport.sinkhorn(x, y, threshold=threshold, momentum=1.0, **options)
    below = best - result.dual_cost
    assert -1e-12 <= below <= result.duality_gap
    # the rounded plan is within it, and it is of the size of the marginal error
    P = np.asarray(transport.plan(result, x, y))
    rounded = np.asarray(transport.round_plan(P, a, b))
    C = np.sum((x[:, None] - y) ** 2, -1)
    value = np.sum(rounded * C) + 0.05 * kl(rounded, a[:, None] * b)
    assert best - 1e-12 <= value <= result.dual_cost + result.duality_gap + 1e-12
    assert result.duality_gap <= 10 * np.abs(P.sum(1) - a).sum() + 1e-12


def test_gap_is_infinite_where_there_is_no_plan(x64):
    C = jnp.array([[0.0, jnp.inf], [jnp.inf, 1.0]])
    weights = jnp.array([0.4, 0.6]), jnp.array([0.5, 0.5])
    result = transport.sinkhorn_from_cost(C, *weights, eps=0.1, max_iterations=50)
    assert not result.converged
    assert result.duality_gap == jnp.inf
    solvable = transport.sinkhorn_from_cost(C, eps=0.1)
    assert solvable.converged
    assert solvable.duality_gap < 1e-6


def test_an_inaccurate_linear_solve_is_nan(x64):
    # two far clusters: the plan falls apart, the system is singular but for rounding
    def matvec(z):
        return jnp.array([1.0, 0.0]) * z

    found = _derivative._conjugate_gradient(matvec, jnp.array([1.0, 1.0]))
    assert jnp.isnan(found).all()
    found = _derivative._conjugate_gradient(matvec, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(found, [1, 0])


@pytest.mark.parametrize("rho", [np.inf, 1.5])
def test_output_of_ott(rho, x64):
    x, y, a, b = problem()
    if np.isinf(rho):
        a, b = a / a.sum(), b / b.sum()
    result = transport.sinkhorn(x, y, a=a, b=b, eps=EPS, rho_a=rho, rho_b=rho, **TIGHT)
    output = transport.to_ott(result, x, y)
    tau = 1.0 if np.isinf(rho) else rho / (rho + EPS)
    geom = pointcloud.PointCloud(x, y, epsilon=EPS)
    assert output.ot_prob.tau_a == tau
    np.testing.assert_allclose(
        output.matrix, transport.plan(result, x, y), rtol=1e-9, atol=1e-12
    )
    if np.isinf(rho):  # their soft problem has another reference measure
        theirs = ott_sinkhorn.Sinkhorn(threshold=1e-10, max_iterations=20_000)(
            linear_problem.LinearProblem(geom, a, b)
        )
        np.testing.assert_allclose(output.matrix, theirs.matrix, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(result.reg_ot_cost, theirs.kl_reg_cost, rtol=1e-6)
    back = transport.from_ott_potentials(*output.potentials, a, b, EPS)
    np.testing.assert_allclose(back[0], result.f, rtol=1e-12)
    np.testing.assert_allclose(back[1], result.g, rtol=1e-12)
    # as a start, they leave nothing to do
    again = transport.sinkhorn(
        x, y, a=a, b=b, eps=EPS, rho_a=rho, rho_b=rho, init=back, threshold=1e-9
    )
    assert int(again.n_iters) == 0


def test_costs_of_ott(x64):
    x, y, _, _ = problem()
    for cost in (ott_costs.PNormP(1.5), ott_costs.SqEuclidean(), ott_costs.Cosine()):
        result = transport.sinkhorn(x, y, eps=EPS, cost=cost, **TIGHT)
        geom = pointcloud.PointCloud(x, y, cost_fn=cost, epsilon=EPS)
        C = geom.cost_matrix
        same = transport.sinkhorn_from_cost(C, eps=EPS, **TIGHT)
        np.testing.assert_allclose(result.reg_ot_cost, same.reg_ot_cost, rtol=1e-12)
        output = transport.to_ott(result, x, y)
        np.testing.assert_allclose(output.matrix, transport.plan(same), rtol=1e-9)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jaxdiv import transport
jax.config.update("jax_enable_x64", True)
mesh = jax.make_mesh((8,), ("rows",))
rng = np.random.default_rng(0)
options = {"eps": 0.3, "threshold": 1e-10}
for n in (64, 61):
    x, y = rng.standard_normal((n, 3)), rng.standard_normal((40, 3))
    a = rng.uniform(size=n)
    a /= a.sum()
    here = transport.sinkhorn(x, y, a=a, **options)
    there = transport.sharded_sinkhorn(mesh, "rows", x, y, a=a, **options)
    for name in ("f", "g", "a", "reg_ot_cost", "primal_cost"):
        one, other = getattr(here, name), getattr(there, name)
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)
    assert there.converged
assert len(transport.sharded_sinkhorn(mesh, "rows", x[:56], y, eps=0.3).f.devices()) > 1
loss = lambda x: transport.sharded_sinkhorn(mesh, "rows", x, y, **options).reg_ot_cost
same = lambda x: transport.sinkhorn(x, y, **options).reg_ot_cost
np.testing.assert_allclose(jax.grad(loss)(x), jax.grad(same)(x), rtol=1e-7, atol=1e-10)

# An iteration sums the m numbers of y and one for the error; nothing is gathered.
auto = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
on_rows = jax.device_put(x[:56], jax.NamedSharding(auto, jax.P("rows")))
solve = jax.jit(lambda x: transport.sinkhorn(x, y, eps=0.3)[:11])
program = solve.lower(on_rows).compile().as_text()
assert "all-gather" not in program and "all-to-all" not in program
sums = [line.split("= ")[1].split("{")[0] for line in program.splitlines()
        if " all-reduce(" in line and line.count("while/body") == 3]
assert len(sums) == 2 and sums[0] == "f64[40]" and sums[1].startswith("f64[] "), sums
print("equal")
"""


@pytest.mark.slow
def test_rows_on_eight_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    run = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=os.environ | flags,
        cwd=pathlib.Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip() == "equal", run.stderr
