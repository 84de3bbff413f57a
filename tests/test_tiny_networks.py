import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxdiv import datasets, diffusion, networks
from tests import helpers
from tests.test_networks import randomised

DIT = {"patch": 2, "width": 8, "depth": 1, "heads": 2, "mlp_ratio": 1.5}
LANGUAGE = {"max_length": 16, "width": 8, "depth": 1, "heads": 2, "mlp_ratio": 1.5}
VOCAB = 7
IMAGES = np.cos(np.arange(96.0)).reshape(3, 4, 4, 2)
LEVEL = np.array([-1.0, 0.2, 0.9])
TOKENS = np.random.default_rng(0).integers(VOCAB, size=(3, 6))


def dit(resolution=4, channels=2, **options):
    options = DIT | options
    return lambda: networks.TinyDiT(resolution, channels, **options, rngs=nnx.Rngs(0))


def language(vocab=VOCAB, **options):
    options = LANGUAGE | options
    return lambda: networks.TinyTransformer(vocab, **options, rngs=nnx.Rngs(0))


def started(build):
    """Pure form with the initial weights, made in one program."""
    return networks.pure(nnx.jit(build)())


# Both networks in NumPy, one sequence and one head at a time.


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def norm(h, p=None):
    h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-6)
    return h if p is None else h * p["scale"] + p["bias"]


def dense(p, h):
    return h @ p["kernel"] + p.get("bias", 0.0)


def rotated(x, positions):
    half = x.shape[1] // 2
    speeds = np.array([10_000.0 ** (-i / half) for i in range(half)])
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * np.outer(positions, speeds))
    return np.concatenate([turned.real, turned.imag], axis=1)


def attention(p, h, heads, mask=None, positions=None):
    q, k, v = np.split(dense(p["qkv"], h), 3, axis=1)
    mixed = []
    for head in np.split(np.arange(h.shape[1]), heads):
        qh, kh = q[:, head], k[:, head]
        if positions is not None:
            qh, kh = rotated(qh, positions), rotated(kh, positions)
        weights = np.exp(qh @ kh.T / np.sqrt(len(head)))
        weights = weights if mask is None else weights * mask
        mixed.append(weights / weights.sum(1, keepdims=True) @ v[:, head])
    return dense(p["out"], np.concatenate(mixed, axis=1))


def feed_forward(p, h):
    return dense(p["dense1"], gelu(dense(p["dense0"], h)))


def language_in_numpy(p, tokens, mask, positions, heads=2):
    h = p["embedding"][tokens]
    for block in (p["blocks"][name] for name in sorted(p["blocks"])):
        h = h + attention(
            block["attention"], norm(h, block["norm0"]), heads, mask, positions
        )
        h = h + feed_forward(block["dense"], norm(h, block["norm1"]))
    hidden = norm(h, p["norm"])
    return hidden @ p["embedding"].T, hidden


def places(side, width):
    """Embedding of every patch, entry by entry."""
    quarter = width // 4
    out = np.zeros((side * side, width))
    for row, column, i in np.ndindex(side, side, quarter):
        speed = 10_000.0 ** (-i / quarter)
        for axis, place in enumerate((row, column)):
            entry = 2 * axis * quarter + i
            out[row * side + column, entry] = np.sin(place * speed)
            out[row * side + column, entry + quarter] = np.cos(place * speed)
    return out


def dit_in_numpy(p, image, level, label, patch=2, heads=2):
    side = image.shape[0] // patch
    corners = [(patch * i, patch * j) for i, j in np.ndindex(side, side)]
    tokens = [image[i : i + patch, j : j + patch].ravel() for i, j in corners]
    h = dense(p["first"], np.array(tokens))
    h = h + places(side, h.shape[1])
    angles = level * np.geomspace(0.5, 16.0, 16)
    e = silu(dense(p["embed0"], np.concatenate([np.sin(angles), np.cos(angles)])))
    condition = silu(dense(p["embed1"], e) + dense(p["label"], label))
    for block in (p["blocks"][name] for name in sorted(p["blocks"])):
        b0, a0, g0, b1, a1, g1 = np.split(dense(block["modulation"], condition), 6)
        mixed = attention(block["attention"], norm(h) * (1 + a0) + b0, heads)
        h = h + g0 * mixed
        h = h + g1 * feed_forward(block["dense"], norm(h) * (1 + a1) + b1)
    b, a = np.split(dense(p["modulation"], condition), 2)
    hidden = norm(h) * (1 + a) + b
    out = np.zeros_like(image)
    for (i, j), values in zip(corners, dense(p["last"], hidden), strict=True):
        out[i : i + patch, j : j + patch] = values.reshape(patch, patch, -1)
    return out, hidden.reshape(side, side, -1)


def close(actual, expected, atol=1e-12):
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=atol)


def test_the_diffusion_transformer_is_that_of_numpy(x64):
    apply, params = randomised(dit(depth=2, label_dim=3))
    labels = np.eye(3)[[1, 0, 2]]
    out, features = apply(params, IMAGES, LEVEL, labels, features=True)
    p = jax.tree.map(np.asarray, params)
    for i in range(3):
        expected = dit_in_numpy(p, IMAGES[i], LEVEL[i], labels[i])
        close(out[i], expected[0])
        close(features[i], expected[1])


def test_the_language_model_is_that_of_numpy(x64):
    apply, params = randomised(language(depth=2))
    rng = np.random.default_rng(1)
    mask = rng.random((3, 6, 6)) < 0.5
    positions = rng.integers(9, size=(3, 6))
    logits, hidden = apply(
        params, TOKENS, mask=mask, positions=positions, features=True
    )
    p = jax.tree.map(np.asarray, params)
    for i in range(3):
        seen = np.tril(mask[i]) | np.eye(6, dtype=bool)
        expected = language_in_numpy(p, TOKENS[i], seen, positions[i])
        close(logits[i], expected[0])
        close(hidden[i], expected[1])


def test_no_token_sees_a_later_one():
    apply, params = randomised(language(depth=2))
    changed = np.tile(TOKENS[0], (7, 1))  # the last row is the unchanged sequence
    changed[range(6), range(6)] = (TOKENS[0] + 1) % VOCAB
    logits = apply(params, changed)
    for t in range(6):
        np.testing.assert_array_equal(logits[t, :t], logits[6, :t])
        assert (abs(logits[t, t:] - logits[6, t:]).max(-1) > 1e-4).all()


def test_positions_are_relative_and_order_is_seen_through_them_alone(x64):
    apply, params = randomised(language())
    run = jax.jit(lambda tokens, positions: apply(params, tokens, positions=positions))
    tokens, positions = np.array([3, 1, 4, 0, 5]), np.arange(5)
    expected = run(tokens, positions)
    close(expected, apply(params, tokens))
    close(run(tokens, positions + 100), expected)
    order = np.array([2, 0, 3, 1, 4])  # one block's last token sees a set of the others
    close(run(tokens[order], positions[order])[-1], expected[-1])
    assert abs(run(tokens[order], positions)[-1] - expected[-1]).max() > 1e-3


def with_backspaces(actions, backspace, start):
    """Tokens, positions and mask of one pass, and what is left after each action."""
    stack, mask = [(start, 0)], np.eye(len(actions) + 1, dtype=bool)
    tokens, positions, left = [start], [0], [[start]]
    for row, action in enumerate(actions, 1):
        if action == backspace:
            stack = stack[:-1] or stack
            stack[-1] = (stack[-1][0], row)  # this row now stands for the last token
        else:
            stack = [*stack, (action, row)]
        mask[row, [where for _, where in stack]] = True
        tokens.append(stack[-1][0])
        positions.append(len(stack) - 1)
        left.append([token for token, _ in stack])
    return np.array(tokens), np.array(positions), mask, left


def test_one_pass_over_backspaces_is_the_pass_over_what_is_left(x64):
    apply, params = randomised(language(depth=2))
    actions = [0, 1, 9, 2, 3, 9, 9, 9, 9, 4, 5, 9, 1]
    tokens, positions, mask, left = with_backspaces(actions, 9, start=6)
    logits = apply(params, tokens, positions=positions, mask=mask)
    length = max(map(len, left))
    padded = np.array([row + [0] * (length - len(row)) for row in left])
    alone = apply(params, padded)
    for row, tokens in enumerate(left):
        close(logits[row], alone[row, len(tokens) - 1])
    assert left[-1] == [6, 4, 1]


def test_padding_is_not_seen(x64):
    apply, params = randomised(language())
    expected = apply(params, TOKENS[0])
    valid = np.zeros((2, 9), bool)
    valid[0, :6], valid[1, 3:] = True, True  # padded on the right and on the left
    tokens = np.full((2, 9), 2)
    tokens[valid] = np.tile(TOKENS[0], 2)

    def loss(params):
        logits = apply(params, tokens, mask=valid[:, None, :])
        return jnp.sum(logits**2), logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    close(logits[0, :6], expected)
    close(logits[1, 3:], expected)  # positions count from the padding: relative
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_leading_axes_are_sequences_apart():
    apply, params = randomised(language())
    tokens = np.stack([TOKENS, TOKENS[::-1]])  # (2, 3, 6)
    logits = apply(params, tokens)
    alone = jax.vmap(jax.vmap(lambda row: apply(params, row)))(tokens)
    np.testing.assert_allclose(logits, alone, atol=1e-5)


def test_tokens_out_of_range_under_jit_are_nan():
    apply, params = randomised(language())
    tokens = TOKENS.copy()
    tokens[0, 3], tokens[2, 1] = VOCAB, -1
    logits = apply(params, tokens)
    assert jnp.isnan(logits[jnp.array([0, 2])]).all()
    np.testing.assert_allclose(logits[1], apply(params, TOKENS)[1], atol=1e-6)


def test_images_do_not_see_each_other_and_the_level_is_seen():
    apply, params = randomised(dit())
    out = apply(params, IMAGES, LEVEL)
    alone = jax.vmap(lambda x, level: apply(params, x[None], level)[0])(IMAGES, LEVEL)
    np.testing.assert_allclose(out, alone, atol=1e-5)
    assert abs(apply(params, IMAGES, LEVEL + 1) - out).max() > 1e-3


def test_classes():
    apply, params = randomised(dit(label_dim=3))
    same = np.ones_like(IMAGES)
    out = apply(params, same, 0.0, jnp.eye(3))
    assert abs(out[0] - out[1]).max() > 1e-3
    none = apply(params, same, 0.0)
    np.testing.assert_allclose(none, apply(params, same, 0.0, jnp.zeros((3, 3))))


@pytest.mark.slow
def test_a_fresh_network_denoises_as_its_preconditioning_says():
    apply, params = started(lambda: networks.EDMPrecond(dit()(), 0.5))
    scales = diffusion.precondition(jnp.array(0.7), 0.5)
    out = jax.jit(apply)(params, IMAGES.astype(np.float32), jnp.array(0.7))
    np.testing.assert_allclose(out, scales.c_skip * IMAGES, rtol=1e-6)


def count(build):
    shapes = jax.eval_shape(lambda: networks.pure(build())[1])
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shapes))
    return sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize("patch", [1, 2])
def test_number_of_parameters_of_the_diffusion_transformer(patch):
    d, depth, labels = 64, 3, 10
    build = dit(28, 1, patch=patch, width=d, depth=depth, mlp_ratio=4, label_dim=labels)
    block = 6 * d * (d + 1) + 4 * d * (d + 1) + 8 * d * d + 5 * d
    embedding = 33 * d + d * (d + 1) + labels * d
    ends = (patch**2 + 1) * d + 2 * d * (d + 1) + (d + 1) * patch**2
    assert count(build) == embedding + depth * block + ends


def test_number_of_parameters_of_the_language_model():
    d, depth, vocab = 96, 2, 1024
    build = language(vocab, width=d, depth=depth, heads=3, mlp_ratio=4)
    block = 4 * d * (d + 1) + 8 * d * d + 5 * d + 4 * d
    assert count(build) == vocab * d + depth * block + 2 * d


@pytest.mark.slow
@pytest.mark.parametrize(("name", "order"), [("dit", 2), ("remat", 1), ("language", 2)])
def test_derivatives_in_the_weights(name, order, x64):
    if name == "language":
        (apply, params), args = randomised(language()), (TOKENS,)
    else:
        (apply, params), args = randomised(dit(remat=name == "remat")), (IMAGES, LEVEL)
    leaves, tree = jax.tree.flatten(params)

    def f(*leaves):
        # In tenths: a step along all the weights at once is a long one.
        return apply(jax.tree.unflatten(tree, [x / 10 for x in leaves]), *args)

    leaves = tuple(10 * x for x in leaves)
    gradient = jax.jit(jax.grad(lambda *a: jnp.sum(f(*a) ** 2), range(len(leaves))))
    assert all(jnp.abs(g).max() > 0 for g in gradient(*leaves))
    helpers.check_derivatives(f, leaves, order=order)


def test_recomputing_does_the_softmax_a_second_time():
    found = []
    for remat in (False, True):
        apply, params = randomised(dit(remat=remat))
        loss = lambda params, apply=apply: jnp.sum(apply(params, IMAGES, LEVEL) ** 2)
        program = jax.jit(jax.grad(loss)).lower(params).as_text()
        found.append(program.count("stablehlo.exponential"))
    assert found[1] == found[0] + 1


LOW = [
    (dit, (IMAGES.astype(np.float32), LEVEL.astype(np.float32))),
    (language, (TOKENS,)),
]


@pytest.mark.parametrize(("build", "args"), LOW)
def test_low_precision_is_in_the_products_only(build, args):
    apply, params = randomised(build())
    low, _ = randomised(build(dtype=jnp.bfloat16))
    expected, out = apply(params, *args), low(params, *args)
    assert out.dtype == jnp.float32
    assert 0 < abs(out - expected).max() < 0.03 * abs(expected).max()
    program = str(jax.make_jaxpr(low)(params, *args))
    results = lambda names: set(
        re.findall(rf":(\w+)\[[^=]*\] = (?:{names})\b", program)
    )
    assert results("exp|rsqrt|reduce_sum") == {"f32"}
    assert results("dot_general") == {"f32", "bf16"}


@pytest.mark.slow
@pytest.mark.parametrize(("build", "args"), LOW)
def test_gradients_in_low_precision(build, args):
    def gradient(**options):
        apply, params = randomised(build(**options))
        loss = lambda params: jnp.sum(jnp.sin(apply(params, *args)))
        leaves = jax.tree.leaves(jax.jit(jax.grad(loss))(params))
        return jnp.concatenate([x.ravel() for x in leaves])

    exact, low = gradient(), gradient(dtype=jnp.bfloat16)
    assert low.dtype == jnp.float32
    assert 0 < jnp.linalg.norm(low - exact) < 0.03 * jnp.linalg.norm(exact)


def test_float64_weights_are_not_taken_down(x64):
    for build, args in ((dit(), (IMAGES, LEVEL)), (language(), (TOKENS,))):
        apply, params = randomised(build)
        text = str(jax.make_jaxpr(apply)(params, *args))
        assert "f32" not in text


@pytest.mark.slow
def test_the_language_model_learns_to_copy():
    apply, params = started(language(8, width=32, depth=1, mlp_ratio=4))
    adam = optax.adam(1e-2)

    def loss(params, key):
        half = jax.random.randint(key, (64, 5), 0, 8)
        twice = jnp.concatenate([half, half], axis=1)
        logits = apply(params, twice[:, :-1])[:, 4:]
        return optax.softmax_cross_entropy_with_integer_labels(logits, half).mean()

    losses = train(loss, params, adam, 100)
    assert losses[0] > 0.9 * np.log(8)
    assert losses[-1] < 0.1


@pytest.mark.slow
def test_the_diffusion_transformer_learns_digits():
    images = jnp.asarray(datasets.digits().images[:256])
    net = dit(8, 1, width=32, depth=2, mlp_ratio=2)
    apply, params = started(lambda: networks.EDMPrecond(net(), 0.75))

    def loss(params, key):
        rows, noise, level = jax.random.split(key, 3)
        x0 = images[jax.random.randint(rows, (32,), 0, len(images))]
        sigma = jnp.exp(1.4 * jax.random.normal(level, (32,)) - 0.8)
        denoise = lambda x, sigma: apply(params, x, sigma)
        return diffusion.dsm_loss(noise, denoise, x0, sigma, sigma_data=0.75).mean()

    losses = train(loss, params, optax.adam(3e-3), 100)
    assert losses[-20:].mean() < 0.7 * losses[:5].mean()


def train(loss, params, optimiser, steps):
    def step(carry, key):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, key)
        updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    @jax.jit
    def run(params):
        keys = jax.random.split(jax.random.key(0), steps)
        return jax.lax.scan(step, (params, optimiser.init(params)), keys)[1]

    return np.asarray(run(params))
