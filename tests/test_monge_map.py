import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiv import transport


def convex_pair(d, k, n, seed=0):
    """Source points and the gradient of a convex potential: the optimal map."""
    rng = np.random.default_rng(seed)
    W = 1.5 * rng.standard_normal((k, d)) / d**0.5
    b = rng.standard_normal(k)
    centres = 1.2 * rng.standard_normal((3, d))
    x = centres[rng.integers(3, size=n)] + 0.5 * rng.standard_normal((n, d))
    y = 0.3 * x + 1.5 / k**0.5 * np.tanh(x @ W.T + b) @ W
    return x.astype(np.float32), y.astype(np.float32)


def unexplained(apply, params, x, y):
    """L2-UVP in percent: 100 for the best constant, 0 for the optimal map."""
    return 100 * float(
        jnp.mean(jnp.sum((apply(params, x) - y) ** 2, -1)) / y.var(0).sum()
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["entropy", "debiased"])
def test_the_gap_finds_the_optimal_map(kind):
    x, y = convex_pair(2, 6, 5120)
    found = {}
    for lam in (0.0, 1.0):
        apply, params, history = transport.fit_monge_map(
            jax.random.key(0), x[:4096], y[::-1][:4096], lam=lam, kind=kind
        )
        assert history["status"] == "done"
        found[lam] = unexplained(apply, params, x[4096:], y[4096:])
    assert found[1.0] <= 1.5
    assert found[1.0] <= 0.5 * found[0.0]


def quick_fit(**options):
    x, y = convex_pair(2, 6, 256)
    settings = {"steps": 60, "batch_size": 64} | options
    return transport.fit_monge_map(jax.random.key(1), x, y, **settings)


@pytest.mark.slow
def test_history_callback_and_determinism():
    seen = []
    _, params, history = quick_fit(
        on_chunk=lambda done, last: seen.append((done, last))
    )
    assert [done for done, _ in seen] == [50, 60]
    assert set(seen[0][1]) == {"loss", "fit", "gap", "grad_norm"}
    for name in ("loss", "fit", "gap", "grad_norm"):
        assert history[name].shape == (60,)
        assert history[name][-1] == seen[-1][1][name]
    assert history["fit"][-10:].mean() < 0.5 * history["fit"][:10].mean()
    again = quick_fit()[1]
    jax.tree.map(np.testing.assert_array_equal, params, again)


@pytest.mark.slow
def test_a_network_of_the_callers_and_a_cost_of_the_callers():
    def init(key):
        del key
        return {"shift": jnp.zeros(2)}

    def apply(params, x):
        return x + params["shift"]

    x, y = convex_pair(2, 6, 256)
    back, params, history = transport.fit_monge_map(
        jax.random.key(0),
        x,
        x + np.float32([1, -2]),
        net=(init, apply),
        cost=lambda x, y: jnp.sum(jnp.abs(x - y)),
        lam=0.1,
        steps=150,
        batch_size=64,
        optimizer=optax.adam(3e-2),
    )
    assert back is apply
    assert history["status"] == "done"
    np.testing.assert_allclose(params["shift"], [1, -2], atol=0.3)


@pytest.mark.slow
def test_divergence_keeps_the_last_finite_parameters():
    _, params, history = quick_fit(optimizer=optax.sgd(1e30))
    assert history["status"] == "diverged"
    assert len(history["loss"]) < 60
    assert np.isfinite(history["loss"]).all()
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
