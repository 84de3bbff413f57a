"""Kernels against their `jnp` expressions, and Sinkhorn's iteration by one of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdiv import transport
from jaxdiv.kernels import _log_sum_exp as kernel
from tests import helpers

# jax 0.12 announces that Pallas will give up Triton for Mosaic on GPU.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The Pallas Triton backend is deprecated:DeprecationWarning"
)

FORMS = {"triton": kernel.by_triton, "mosaic": kernel.by_mosaic}
EPS = 0.3
TIGHT = {"threshold": 1e-11, "max_iterations": 5000}
CALLS = {"cuda": "triton", "rocm": "triton", "tpu": "tpu_custom_call"}
KINDS = {"cuda": "NVIDIA H100 80GB HBM3", "rocm": "gfx942", "tpu": "TPU v5 lite"}


def inputs(n, m, d, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    sizes = ((n, d), (m, d), (m,))
    return tuple(rng.standard_normal(size).astype(dtype) for size in sizes)


def interpreted(form, *args):
    return FORMS[form](*args, interpret=True)


def close(actual, expected, rtol=None):
    rtol = rtol or 100 * float(jnp.finfo(expected.dtype).eps)
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("size", [(1, 1, 1), (65, 130, 3), (200, 63, 64)])
@pytest.mark.parametrize("form", FORMS)
def test_kernel_is_its_reference(form, size, x64):
    x, y, h = inputs(*size, np.float64)
    close(interpreted(form, x, y, h), kernel.reference(x, y, h))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [(9, 600, 70), (300, 1100, 600)])
@pytest.mark.parametrize("form", FORMS)
def test_features_in_parts(form, size, dtype, x64):
    x, y, h = inputs(*size, dtype)
    close(interpreted(form, x, y, h), kernel.reference(x, y, h))


@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(FORMS)),
    st.tuples(st.integers(1, 150), st.integers(1, 150), st.integers(1, 20)),
)
def test_sizes_of_any_kind(form, size):
    x, y, h = inputs(*size)
    close(interpreted(form, x, y, h), kernel.reference(x, y, h))


@pytest.mark.parametrize("form", FORMS)
def test_extreme_biases(form):
    run = jax.jit(lambda h: interpreted(form, x, y, h))
    x, y, h = inputs(70, 600, 3)
    dead = h.copy()
    dead[:512] = dead[560:] = -np.inf  # whole blocks of columns among them
    close(run(dead), kernel.reference(x, y[512:560], h[512:560]))
    close(run(np.full_like(h, -np.inf)), np.full(70, -np.inf, np.float32))
    one = np.where(np.arange(600) == 599, h, -np.inf).astype(np.float32)
    close(run(one), x @ y[599] + h[599])
    for shift in (-1e30, 1e30):
        close(run(h + np.float32(shift)), np.full(70, shift, np.float32))
    steep = np.linspace(-3e4, 3e4, 600, dtype=np.float32)  # maxima ever anew
    close(run(steep), kernel.reference(x, y, steep))
    close(run(steep[::-1]), kernel.reference(x, y, steep[::-1]))
    assert np.isnan(run(np.where(h > 0, h, np.nan).astype(np.float32))).all()


@pytest.mark.parametrize("form", FORMS)
def test_kernel_under_vmap(form):
    batch = zip(*(inputs(70, 9, 3, seed=k) for k in (0, 1)), strict=True)
    x, y, h = (np.stack(z) for z in batch)
    each = jax.vmap(kernel.reference)(x, y, h)
    close(jax.vmap(lambda *z: interpreted(form, *z))(x, y, h), each)


def problem(dtype=np.float64, n=23, m=17):
    x, y, h = inputs(n, m, 2, dtype)
    a, b = np.linspace(0.5, 1.5, n, dtype=dtype), np.exp(h / 2)
    a[3] = b[m - 1] = 0
    return x, y, a / a.sum(), b / b.sum()


def solve(method, x, y, a, b, eps=EPS, **options):
    options = TIGHT | options
    return transport.sinkhorn(x, y, a=a, b=b, eps=eps, method=method, **options)


def same_solution(pallas, log):
    assert pallas.converged
    for name in ("f", "g", "reg_ot_cost", "primal_cost", "ent_reg_cost", "n_iters"):
        one, other = getattr(log, name), getattr(pallas, name)
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
def test_solves_the_problem_of_log_under_vmap(x64):
    eps = jnp.array([0.2, 1.0])
    both = jax.jit(jax.vmap(lambda eps: solve("pallas", *problem(), eps)))(eps)
    for k, e in enumerate(eps):
        lane = jax.tree.map(lambda z, k=k: z[k], both)
        same_solution(lane, solve("log", *problem(), e))


@pytest.mark.slow
@pytest.mark.parametrize("rhos", [(np.inf, np.inf), (1.0, 2.0), (np.inf, 2.0)])
def test_soft_marginals(rhos, x64):
    soft = {"rho_a": rhos[0], "rho_b": rhos[1]}
    log, pallas = (solve(m, *problem(), **soft) for m in ("log", "pallas"))
    same_solution(pallas, log)


@pytest.mark.slow
def test_in_single_precision():
    x, y, a, b = problem(np.float32)
    here, far = (
        solve("pallas", x + shift, y + shift, a, b, 0.05, threshold=1e-3)
        for shift in (0, 100)  # centred before anything is squared
    )
    assert here.converged
    assert far.converged
    assert here.f.dtype == jnp.float32
    np.testing.assert_allclose(far.f, here.f, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(far.primal_cost, here.primal_cost, rtol=1e-3)
    exact = plain_cost(x, y, a, b, 0.05)
    np.testing.assert_allclose(here.reg_ot_cost, exact, rtol=1e-4)


def plain_cost(x, y, a, b, eps):
    """The regularised cost by 2,000 iterations of NumPy."""
    x, y, a, b = (z.astype(np.float64) for z in (x, y, a, b))
    C, g = np.sum((x[:, None] - y) ** 2, -1), np.zeros(len(b))
    for _ in range(2000):
        f = -eps * np.log(np.exp((g - C) / eps) @ b)
        g = -eps * np.log(a @ np.exp((f[:, None] - C) / eps))
    return a @ f + b @ g


def test_low_precision_is_computed_in_single():
    x = jax.ShapeDtypeStruct((9, 2), jnp.bfloat16)
    low = jax.eval_shape(lambda x: transport.ot_cost(x, x, eps=EPS, method="pallas"), x)
    assert low.dtype == jnp.float32


def loss(method, x, b, eps, whole=True):
    _, y, a, _ = problem(n=7, m=5)
    result = solve(method, x, y, a, b, eps)
    if not whole:
        return result.reg_ot_cost
    return jnp.sin(result.f).sum() + result.primal_cost + 2 * result.reg_ot_cost


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_derivatives_are_those_of_log(whole, x64):
    x, _, _, b = problem(n=7, m=5)
    args = x, b, np.float64(EPS)
    along = tuple(np.cos(np.arange(np.size(z))).reshape(np.shape(z)) for z in args)
    along = (along[0], along[1] - along[1].mean(), along[2])  # b keeps its sum

    @jax.jit
    def slopes(*args):
        def of(method):
            gradient = jax.grad(lambda *z: loss(method, *z, whole=whole), (0, 1, 2))
            return jax.jvp(gradient, args, along)

        return of("log"), of("pallas")

    for one, other in zip(*map(jax.tree.leaves, slopes(*args)), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_derivatives_are_right(x64):
    x, _, _, b = problem(n=7, m=5)
    of = lambda x, z, eps: loss("pallas", x, jnp.exp(z) / jnp.exp(z).sum(), eps)
    logits = np.log(np.where(b == 0, 0.1, b))
    helpers.check_derivatives(of, (x, logits, np.float64(EPS)))


@pytest.mark.slow
def test_divergence(x64):
    x, y, a, b = problem()
    options = {"a": a, "b": b, "eps": EPS, **TIGHT}
    log, pallas = (
        transport.sinkhorn_divergence(x, y, method=method, **options)
        for method in ("log", "pallas")
    )
    np.testing.assert_allclose(pallas, log, rtol=1e-9)


def test_cost_that_the_kernel_does_not_know():
    x, y, *_ = problem()
    for solver in (
        transport.sinkhorn,
        transport.ot_cost,
        transport.sinkhorn_divergence,
    ):
        helpers.check_bad_input(
            lambda solver=solver: solver(
                x, y, eps=EPS, cost="euclidean", method="pallas"
            ),
            ValueError,
            "'euclidean'",
            "'sqeuclidean'",
        )
    helpers.check_bad_input(
        lambda: transport.sinkhorn_from_cost(
            jnp.ones((3, 3)), eps=1.0, method="pallas"
        ),
        ValueError,
        "method",
        "'pallas'",
    )
    mesh = jax.make_mesh((1,), ("rows",))
    helpers.check_bad_input(
        lambda: transport.sharded_sinkhorn(
            mesh, "rows", x, y, eps=1.0, method="pallas"
        ),
        ValueError,
        "method",
        "'pallas'",
    )


def lowered(f, platform, *args):
    """The program of another platform, from a machine that need not have it."""
    device = jax.sharding.AbstractDevice(
        platform="tpu" if platform == "tpu" else "gpu",
        device_kind=KINDS[platform],
        num_cores=1,
    )
    mesh = jax.sharding.AbstractMesh((1,), ("i",), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.jit(f).trace(*args).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", CALLS)
@pytest.mark.parametrize("d", [3, 70])
def test_lowers_for_devices(platform, d):
    args = inputs(100, 300, d)
    assert CALLS[platform] in lowered(kernel.log_sum_exp, platform, *args)
    batch = tuple(np.stack([z, z]) for z in args)
    assert CALLS[platform] in lowered(jax.vmap(kernel.log_sum_exp), platform, *batch)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_solve_lowers_for_devices(platform):
    x, y, *_ = problem(np.float32)
    of = jax.value_and_grad(
        lambda x: transport.ot_cost(x, y, eps=EPS, method="pallas", block_size=8)
    )
    assert CALLS[platform] in lowered(of, platform, x)


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_what_auto_takes(backend, monkeypatch):
    monkeypatch.setattr("jax.default_backend", lambda: backend)
    x = jax.ShapeDtypeStruct((23, 2), jnp.float32)

    def takes_kernel(cost):
        program = jax.make_jaxpr(lambda x: transport.ot_cost(x, x, eps=EPS, cost=cost))
        return "pallas_call" in str(program(x))

    assert not takes_kernel("sqeuclidean")  # few enough to be held
    monkeypatch.setattr("jaxdiv.transport._blocks._HELD_BYTES", 0)
    assert takes_kernel("sqeuclidean") == (backend != "cpu")
    assert not takes_kernel("euclidean")
