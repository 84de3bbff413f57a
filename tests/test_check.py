import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import _check
from tests.helpers import check_bad_input


def test_floating_promotes_to_a_common_dtype(x64):
    x = np.ones(2, np.float32)
    (single,) = _check.floating(x=x)
    assert single.dtype == jnp.float32
    pair = _check.floating(x=x, y=np.ones(2, np.float64))
    assert {a.dtype for a in pair} == {jnp.dtype(jnp.float64)}
    low = _check.floating(x=jnp.ones(2, jnp.bfloat16), y=jnp.ones(2, jnp.float16))
    assert {a.dtype for a in low} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    "bad", [jnp.ones(2, int), jnp.ones(2, bool), jnp.ones(2, "c8")]
)
def test_floating_refuses_what_is_not_real(bad):
    check_bad_input(lambda: _check.floating(x=bad), TypeError, "x", str(bad.dtype))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_positive(value):
    check_bad_input(lambda: _check.positive(eps=value), ValueError, "eps", str(value))


def test_what_is_traced_is_not_checked():
    def doubled(eps):
        _check.positive(eps=eps)
        return 2 * eps

    assert jax.jit(doubled)(-1.0) == -2


def test_range_ends():
    _check.in_range(0.0, 1.0, closed=True, w=1.0)
    check_bad_input(
        lambda: _check.in_range(0.0, 1.0, w=1.0), ValueError, "w", "(0.0, 1.0)"
    )


def test_shapes():
    x, y = jnp.ones((2, 3)), jnp.ones((4, 3))
    check_bad_input(lambda: _check.same_shape(x=x, y=y), ValueError, "x (2, 3)", "y")
    check_bad_input(lambda: _check.broadcastable(x=x, y=y), ValueError, "(4, 3)")
    check_bad_input(lambda: _check.rank(1, x=x), ValueError, "x", "1 axes")
    assert _check.broadcastable(x=x, y=y[:1]) == (2, 3)


def test_one_of_lists_the_options():
    check_bad_input(
        lambda: _check.one_of("kind", "c", ["b", "a"]), ValueError, "'c'", "'a', 'b'"
    )
