import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import divergence

N, D_S, D_T, V = 21, 16, 12, 50


def inputs(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    return draw(N, D_S), draw(D_S, V) / 4, draw(N, D_T), draw(D_T, V) / 4


def plain(hidden_s, head_s, hidden_t, head_t, div, temperature=1.0):
    return divergence.from_logits(
        hidden_t @ head_t, hidden_s @ head_s, div, temperature=temperature
    )


FIXED = [
    name
    for name in divergence.names()
    if name not in ("alpha", "gjs", "skew_kl", "skew_rkl")
]


QUICK = ("kl", "js", "tv")


@pytest.mark.slow
@pytest.mark.parametrize(
    "div",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in FIXED
    ],
)
def test_values_and_gradients(div, x64):
    args = inputs(jnp.float64)
    weights = jnp.cos(jnp.arange(N))

    def ours(hidden, head):
        return weights @ divergence.linear_divergence(
            hidden, head, *args[2:], div, chunk=8, temperature=1.5
        )

    def along(hidden, head):
        return divergence.linear_divergence(
            hidden, head, *args[2:], div, chunk=8, temperature=1.5, weights=weights
        )

    def naive(hidden, head):
        return weights @ plain(hidden, head, *args[2:], div, temperature=1.5)

    expected, wanted = jax.jit(jax.value_and_grad(naive, (0, 1)))(*args[:2])
    for loss in (ours, along):
        value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(*args[:2])
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(jax.jit(loss)(*args[:2]), expected, rtol=1e-12)
        for a, b in zip(grads, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_gradient_against_central_differences(x64):
    args = inputs(jnp.float64)
    loss = jax.jit(
        lambda s: divergence.linear_divergence(s, *args[1:], "js", chunk=4).sum()
    )
    direction = jnp.cos(jnp.arange(N * D_S)).reshape(N, D_S)
    slope = jnp.vdot(jax.grad(loss)(args[0]), direction)
    high, low = loss(args[0] + 1e-5 * direction), loss(args[0] - 1e-5 * direction)
    np.testing.assert_allclose(slope, (high - low) / 2e-5, rtol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 9, 100, None])
def test_any_chunk(chunk):
    args = inputs()
    value = divergence.linear_divergence(*args, "kl", chunk=chunk)
    np.testing.assert_allclose(value, plain(*args, "kl"), rtol=2e-5)


def test_no_tokens():
    hidden_s, head_s, hidden_t, head_t = inputs()
    args = hidden_s[:0], head_s, hidden_t[:0], head_t
    assert divergence.linear_divergence(*args, "kl").shape == (0,)
    assert divergence.linear_divergence(*args, "kl", weights=jnp.ones(0)) == 0


@pytest.mark.slow
def test_masked_tokens_hold_anything():
    hidden_s, head_s, hidden_t, head_t = inputs()
    mask = jnp.arange(N) % 3 > 0
    junk = jnp.where(mask[:, None], hidden_s, jnp.nan)
    expected = jnp.where(mask, plain(hidden_s, head_s, hidden_t, head_t, "js"), 0)
    weights = mask / mask.sum()

    def total(hidden, head):
        return weights @ divergence.linear_divergence(
            hidden, head, hidden_t, head_t, "js", mask=mask
        )

    def along(hidden, head):
        return divergence.linear_divergence(
            hidden, head, hidden_t, head_t, "js", mask=mask, weights=weights
        )

    for loss in (total, along):
        value, (dh, dw) = jax.jit(jax.value_and_grad(loss, (0, 1)))(junk, head_s)
        np.testing.assert_allclose(value, weights @ expected, rtol=1e-5)
        assert (dh[~mask] == 0).all()
        assert jnp.isfinite(dh).all()
        assert jnp.isfinite(dw).all()


def test_the_teacher_is_a_constant():
    args = inputs()
    loss = lambda *args: divergence.linear_divergence(*args, "js").sum()
    for grad in jax.jit(jax.grad(loss, (2, 3)))(*args):
        assert (grad == 0).all()


@pytest.mark.slow
def test_forward_mode_raises_and_vmap_works():
    args = inputs()
    loss = lambda hidden: divergence.linear_divergence(hidden, *args[1:], "kl").sum()
    with pytest.raises(TypeError):
        jax.jvp(loss, (args[0],), (args[0],))
    pair = jnp.stack([args[0], -args[0]])
    grad = jax.grad(loss)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(grad))(pair)[1], jax.jit(grad)(pair[1]), rtol=1e-4, atol=1e-6
    )


@pytest.mark.slow
def test_reverse_mode_twice(x64):
    hidden, *rest = inputs(jnp.float64)
    weights, direction = jnp.cos(jnp.arange(N)), jnp.ones_like(hidden)
    losses = (
        lambda h: weights @ plain(h, *rest, "js"),
        lambda h: weights @ divergence.linear_divergence(h, *rest, "js"),
        lambda h: divergence.linear_divergence(h, *rest, "js", weights=weights),
    )
    expected, *ours = (
        jax.jit(jax.grad(lambda h, f=f: jnp.vdot(jax.grad(f)(h), direction)))(hidden)
        for f in losses
    )
    for second in ours:
        np.testing.assert_allclose(second, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.slow
def test_weights_get_their_gradient():
    args = inputs()
    loss = lambda w: divergence.linear_divergence(*args, "kl", weights=w)
    np.testing.assert_allclose(
        jax.grad(loss)(jnp.ones(N)), plain(*args, "kl"), rtol=2e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_accumulates_in_float32(dtype):
    args = inputs(dtype)
    wide = [x.astype(jnp.float32) for x in args]
    weights = jnp.full(N, 1e-4)  # small slopes, which float16 would lose
    loss = lambda *args: divergence.linear_divergence(*args, "kl", weights=weights)
    value, grad = jax.jit(jax.value_and_grad(loss))(*args)
    exact, wanted = jax.value_and_grad(lambda *a: weights @ plain(*a, "kl"))(*wide)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, exact, rtol=1e-4)
    assert grad.dtype == dtype
    np.testing.assert_allclose(
        grad.astype(jnp.float32), wanted, atol=0.01 * jnp.abs(wanted).max()
    )


@pytest.mark.slow
def test_mixed_dtypes(x64):
    student, teacher = inputs(jnp.float32)[:2], inputs(jnp.float64)[2:]
    weights = jnp.ones(N, jnp.float32)
    loss = lambda s, w: divergence.linear_divergence(*s, *teacher, "js", weights=w)
    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(student, weights)
    np.testing.assert_allclose(value, plain(*student, *teacher, "js").sum(), rtol=1e-5)
    assert value.dtype == jnp.float64
    assert {x.dtype for x in jax.tree.leaves(grads)} == {jnp.dtype(jnp.float32)}


@pytest.mark.slow
def test_no_array_of_tokens_times_vocabulary():
    n, d, v = 512, 64, 4000
    shapes = [(n, d), (d, v)] * 2
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def temporary(loss):
        step = jax.jit(jax.value_and_grad(loss, (0, 1)))
        return step.lower(*args).compile().memory_analysis().temp_size_in_bytes

    weights = jnp.full(n, 1 / n)
    along = lambda *args: divergence.linear_divergence(
        *args, "js", chunk=16, weights=weights
    )
    each = lambda *args: divergence.linear_divergence(*args, "js", chunk=16).mean()
    naive = temporary(lambda *args: plain(*args, "js").mean())
    assert temporary(along) < naive / 8
    assert temporary(each) < naive / 8
    assert temporary(along) < 4 * n * v


def bad(words, **change):
    args = dict(
        zip(("hidden_s", "head_s", "hidden_t", "head_t"), inputs(), strict=True)
    )
    with pytest.raises((ValueError, TypeError), match=words):
        divergence.linear_divergence(**{**args, "div": "kl", **change})


def test_bad_input():
    bad("hidden_s", hidden_s=jnp.ones((N + 1, D_S)))
    bad("head_t", head_t=jnp.ones((D_T, V + 1)))
    bad("hidden_s", hidden_s=jnp.ones((N, D_S), int))
    bad("axes", hidden_s=jnp.ones(N))
    bad("mask", mask=jnp.ones(N + 1, bool))
    bad("weights", weights=jnp.ones(N - 1))
    bad("chunk", chunk=0)
    bad("temperature", temperature=0.0)
    bad("jefreys", div="jefreys")
