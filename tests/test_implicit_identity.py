import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.implicit._primitive import implicit_identity
from jaxdiv.implicit._psd_sqrt import psd_sqrt

# x^3 = t at t = 2: value and three derivatives.
ROOT = 1.2599210498948732
DERIVATIVES = (0.20998684164914553, -0.069995613883048509, 0.058329678235873758)


def cube_root(t):
    x = jax.lax.stop_gradient(t) ** (1 / 3)  # found anyhow; no derivative of its own
    return implicit_identity(lambda x, t, dt: dt / (3 * x**2), x, t)


def inside(wrap):
    return lambda t: wrap(cube_root, t)


WRAPPED = {
    "plain": cube_root,
    "jit": jax.jit(cube_root),
    "scan": inside(
        lambda f, t: jax.lax.scan(lambda c, _: (c, f(t)), 0.0, None, 3)[1][2]
    ),
    "fori_loop": inside(
        lambda f, t: jax.lax.fori_loop(0, 3, lambda i, c: c + f(t) / 3, 0.0)
    ),
    "map": inside(lambda f, t: jax.lax.map(f, jnp.stack([t, t]))[1]),
    "cond": inside(lambda f, t: jax.lax.cond(t > 0, f, lambda t: t, t)),
    "checkpoint": jax.checkpoint(cube_root),
    "scan of checkpoint": inside(
        lambda f, t: jax.lax.scan(lambda c, _: (c, jax.checkpoint(f)(t)), 0.0, None, 2)[
            1
        ][1]
    ),
}
SECOND = {
    "forward over reverse": lambda f: jax.jacfwd(jax.jacrev(f)),
    "reverse over reverse": lambda f: jax.jacrev(jax.jacrev(f)),
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f)),
}


@pytest.mark.parametrize("mode", SECOND)
@pytest.mark.parametrize("name", WRAPPED)
def test_derivatives_in_every_mode_and_place(name, mode, x64):
    f = WRAPPED[name]
    np.testing.assert_allclose(f(2.0), ROOT, rtol=1e-14)
    for first in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(first(f)(2.0), DERIVATIVES[0], rtol=1e-13)
    np.testing.assert_allclose(SECOND[mode](f)(2.0), DERIVATIVES[1], rtol=1e-13)


@pytest.mark.parametrize("name", ["plain", "scan"])
def test_third_derivative(name, x64):
    third = jax.grad(jax.jacfwd(jax.jacrev(WRAPPED[name])))(2.0)
    np.testing.assert_allclose(third, DERIVATIVES[2], rtol=1e-13)


def test_vmap_and_its_hessian(x64):
    t = jnp.array([0.5, 2.0, 8.0])
    np.testing.assert_allclose(jax.vmap(cube_root)(t), t ** (1 / 3), rtol=1e-14)
    second = jax.vmap(jax.hessian(cube_root))(t)
    np.testing.assert_allclose(second, -2 / 9 * t ** (-5 / 3), rtol=1e-13)
    total = jax.hessian(lambda t: jax.vmap(cube_root)(t).sum())(t)
    np.testing.assert_allclose(total, jnp.diag(second), rtol=1e-13)


def test_linearize_and_unused_argument(x64):
    _, push = jax.linearize(lambda t, unused: cube_root(t), 2.0, 5.0)
    np.testing.assert_allclose(push(1.0, 1.0), DERIVATIVES[0], rtol=1e-13)
    gradient = jax.grad(lambda t, unused: cube_root(t), 1)(2.0, 5.0)
    assert gradient == 0


def fixed_point(W, b):
    """x = tanh(W x + b), by iteration; an unknown that is a dict."""

    def residual(x, W, b):
        return {"x": jnp.tanh(W @ x["x"] + b) - x["x"]}

    def rule(x, theta, dtheta):
        right = jax.jvp(lambda *theta: residual(x, *theta), theta, dtheta)[1]["x"]
        slope = jax.jacobian(lambda z: residual({"x": z}, *theta)["x"])(x["x"])
        return {"x": -jnp.linalg.solve(slope, right)}

    x = jnp.zeros_like(b)
    for _ in range(200):
        x = jnp.tanh(jax.lax.stop_gradient(W) @ x + jax.lax.stop_gradient(b))
    return implicit_identity(rule, {"x": x}, (W, b))["x"]


@pytest.mark.slow
def test_a_system_with_two_arguments(x64):
    W = jnp.array([[0.3, -0.2], [0.1, 0.4]])
    b = jnp.array([0.5, -0.3])
    x = [0.644657686010959, -0.363528366748491]
    slope = [
        [0.695558067825641, -0.184920812367173],
        [0.092460406183587, 1.304716673403735],
    ]
    np.testing.assert_allclose(fixed_point(W, b), x, rtol=1e-13)
    for jacobian in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jacobian(fixed_point, 1)(W, b), slope, rtol=1e-12)
    step = 1e-5
    shift = jnp.array([0.7, -0.4])
    hessian = jax.jacrev(jax.jacfwd(fixed_point, 1), 1)(W, b) @ shift
    around = [
        jax.jacfwd(fixed_point, 1)(W, b + sign * step * shift) for sign in (1, -1)
    ]
    np.testing.assert_allclose(hessian, (around[0] - around[1]) / (2 * step), rtol=1e-7)


def test_refuses_integers():
    with pytest.raises(TypeError, match="int32"):
        implicit_identity(lambda x, t, dt: dt, jnp.array(1), jnp.array(1.0))


@pytest.mark.slow
def test_psd_sqrt_of_equal_and_of_zero_eigenvalues(x64):
    np.testing.assert_allclose(psd_sqrt(4 * jnp.eye(3)), 2 * np.eye(3), atol=1e-14)
    slope = jax.jacrev(lambda t: psd_sqrt(t * jnp.eye(3)))(4.0)
    np.testing.assert_allclose(slope, np.eye(3) / 4, atol=1e-14)
    a = jax.random.normal(jax.random.key(0), (4, 2))
    low_rank = a @ a.T
    root = psd_sqrt(low_rank)
    np.testing.assert_allclose(root @ root, low_rank, atol=1e-12)
    assert jnp.isfinite(jax.jacrev(psd_sqrt)(low_rank)).all()
