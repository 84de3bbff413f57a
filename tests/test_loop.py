import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import loop

KEY = jax.random.key(7)


def noisy(state, i, context):
    x = 0.9 * state["x"] + jax.random.normal(jax.random.fold_in(context, i), (3,))
    return {"x": x, "key": state["key"]}, {"norm": jnp.linalg.norm(x)}


def start():
    return {"x": jnp.ones(3), "key": jax.random.key(1)}


def run(**options):
    *_, last = done = list(loop.chunks(noisy, start(), context=KEY, **options))
    return last, np.concatenate([chunk.metrics["norm"] for chunk in done])


@pytest.mark.parametrize("size", [1, 4, 10, 64])
def test_values_do_not_depend_on_the_chunk_size(size):
    last, norms = run(steps=10, size=size)
    reference, expected = run(steps=10, size=3)
    assert last.done == 10
    assert last.finite
    # programs of other lengths may round otherwise
    np.testing.assert_allclose(last.state["x"], reference.state["x"], rtol=1e-5)
    np.testing.assert_allclose(norms, expected, rtol=1e-5)


def test_goes_on_from_where_it_stopped():
    first, _ = run(steps=4, size=2)
    *_, last = loop.chunks(
        noisy, first.state, context=KEY, start=first.done, steps=10, size=3
    )
    expected = run(steps=10)[0].state["x"]
    np.testing.assert_allclose(last.state["x"], expected, rtol=1e-5)


def test_a_step_that_is_not_finite_is_undone_and_ends_the_loop():
    def doubling(x, i, context):
        x = 2 * x
        return x, {"x": jnp.where(i == 3, jnp.nan, x), "i": i}

    done = list(loop.chunks(doubling, jnp.array(1.0), steps=100, size=2))
    assert [chunk.done for chunk in done] == [2, 3]
    assert done[-1].state == 8
    assert not done[-1].finite
    assert done[0].finite
    np.testing.assert_array_equal(done[-1].metrics["x"], [8.0])


def test_the_callers_arrays_are_not_donated():
    x = jnp.ones(3)
    list(loop.chunks(lambda x, i, c: (x + 1, {}), x, steps=5))
    np.testing.assert_array_equal(x, np.ones(3))


def test_nothing_to_do():
    assert list(loop.chunks(noisy, start(), steps=3, start=3)) == []
