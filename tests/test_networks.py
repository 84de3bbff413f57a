import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxdiv import diffusion, networks
from jaxdiv.networks._conv import conv
from jaxdiv.networks._song_unet import _Fourier
from tests import helpers

SMALL = {"model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1}
CIFAR = {"channel_mult": (2, 2, 2), "attn_resolutions": (16,), "dropout": 0.13}
NCSNPP = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": (1, 3, 3, 1),
}


# Compiles in less than half the time; for what is run once.
QUICK = {"xla_backend_optimization_level": 0}


def randomised(build, draw=None):
    """Pure form with every weight drawn by NumPy, none at its zero initial value."""
    # No draw by JAX, which compiles anew for each shape: half a second a weight.
    apply, shapes = networks.pure(nnx.eval_shape(build))
    rng = np.random.default_rng(0)

    def noise(path, leaf):
        scale = 0.1 if leaf.ndim == 1 else 1 / np.sqrt(np.prod(leaf.shape[:-1]))
        return rng.standard_normal(leaf.shape) * scale + (path[-1].key == "scale")

    params = jax.tree.map_with_path(draw or noise, shapes)
    # Compiled as a whole: operation by operation takes several times as long.
    return jax.jit(apply, static_argnames="features"), jax.tree.map(jnp.asarray, params)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (CIFAR | {"augment_dim": 9}, 55_733_891),
        (CIFAR | {"augment_dim": 9, "label_dim": 10}, 55_735_299),
        (CIFAR, 55_732_739),
        (CIFAR | {"label_dim": 10}, 55_734_147),
        (CIFAR | NCSNPP | {"augment_dim": 9}, 56_397_827),
        (CIFAR | NCSNPP | {"augment_dim": 9, "label_dim": 10}, 56_400_643),
        ({"img_resolution": 64, "augment_dim": 9}, 61_805_571),
        ({"img_resolution": 64, "label_dim": 1000, "adm": True}, 295_899_267),
    ],
)
def test_parameter_counts_of_edm(options, expected):
    options = {"img_resolution": 32, "adm": False} | options
    network = networks.DhariwalUNet if options.pop("adm") else networks.SongUNet

    def build():
        net = network(in_channels=3, **options, rngs=nnx.Rngs(0))
        return networks.pure(net)[1]

    shapes = jax.eval_shape(build)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == expected


def edm_name(path):
    """The name of a parameter in the original code."""
    *parts, last = (entry.key for entry in path)
    if "attention" in parts:
        parts.remove("attention")
        parts[-1] = parts[-1].replace("norm", "norm2")
    return ".".join([*parts, "bias" if last == "bias" else "weight"])


def edm_weight(path, leaf):
    """A weight that depends on its name only, drawn in the original's layout."""
    axes = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[leaf.ndim]
    shape = [leaf.shape[axis] for axis in axes]
    rng = np.random.default_rng(zlib.crc32(edm_name(path).encode()))
    scale = np.sqrt(np.prod(shape[1:]) if leaf.ndim > 1 else 10)
    return (rng.standard_normal(shape) / scale).transpose(np.argsort(axes))


@pytest.mark.slow
def test_the_unet_is_that_of_edm(x64):
    # Expected: `SongUNet` of NVlabs/edm at 008a4e5 in float64, with these weights.
    apply, params = randomised(
        lambda: networks.SongUNet(
            8,
            3,
            label_dim=5,
            augment_dim=9,
            **SMALL,
            attn_resolutions=(4,),
            rngs=nnx.Rngs(0),
        ),
        edm_weight,
    )
    i = jnp.arange(576.0).reshape(3, 8, 8, 3)
    out = apply(
        params,
        jnp.cos(i),
        jnp.array([-1.0, 0.2, 0.9]),
        jnp.eye(5)[jnp.array([1, 0, 4])],
        jnp.sin(jnp.arange(27.0)).reshape(3, 9),
    )
    expected = [
        [0.28756186, -0.18280831, -0.36966231],
        [0.03921963, -0.21646288, -0.43029031],
        [0.25652631, -0.20311103, -0.27853741],
    ]
    np.testing.assert_allclose(out[:, 3, 5], expected, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(out * jnp.sin(i)), -2.925695671, rtol=1e-6)


def lax_conv(x, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=layout
    )


IMAGES = np.random.default_rng(0).standard_normal((2, 4, 5, 3))
KERNEL = 0.3 * np.random.default_rng(1).standard_normal((3, 3, 3, 2))


@pytest.mark.slow
def test_convolution_in_every_mode():
    f = lambda x, kernel: jnp.sin(conv(x, kernel))
    helpers.check_derivatives(f, (IMAGES, KERNEL), in_scan=True)
    helpers.check_transforms(conv, (IMAGES, KERNEL))
    helpers.check_dtypes(conv, (IMAGES, KERNEL))


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("batched", ["images", "kernels", "both"])
def test_convolution_and_its_gradients_are_those_of_lax(size, batched, x64):
    rng = np.random.default_rng(size)
    x, kernel = (
        rng.standard_normal(shape)
        for shape in [(4, *IMAGES.shape), (4, size, size, 3, 2)]
    )
    axes = {"images": (0, None), "kernels": (None, 0), "both": (0, 0)}[batched]
    args = tuple(
        jnp.asarray(a if axis == 0 else a[0])
        for a, axis in zip((x, kernel), axes, strict=True)
    )

    def of_grad(f):  # gradients of each member, and the gradient of all members
        loss = lambda x, kernel: jnp.sum(jnp.sin(f(x, kernel)))
        each = jax.vmap(jax.grad(loss, (0, 1)), axes)
        whole = lambda *a: jnp.sum(jax.vmap(loss, axes)(*a))
        return jax.jit(lambda *a: (each(*a), jax.grad(whole, (0, 1))(*a)))(*args)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    jax.tree.map(close, of_grad(conv), of_grad(lax_conv))


NETS = {
    "mlp": lambda: networks.ScoreMLP(64, width=32, depth=2, embed=16, rngs=nnx.Rngs(0)),
    "unet": lambda: networks.SongUNet(
        8, 1, **SMALL, attn_resolutions=(4,), rngs=nnx.Rngs(0)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_samples_do_not_see_each_other_and_the_level_is_seen(name):
    apply, params = randomised(NETS[name])
    x = jnp.cos(jnp.arange(192.0)).reshape(3, 8, 8, 1)
    level = jnp.array([-1.0, 0.0, 1.0])
    out, features = apply(params, x, level, features=True)
    assert out.shape == x.shape
    assert features.shape[0] == 3
    alone = apply(params, x[1:2], level[1])  # a scalar level, no features
    np.testing.assert_allclose(alone, out[1:2], atol=2e-5)
    other, _ = apply(params, x, level + 1, features=True)
    assert abs(other - out).max() > 1e-3


TINY = {
    "mlp": lambda: networks.ScoreMLP(16, width=8, depth=1, embed=8, rngs=nnx.Rngs(0)),
    "unet": lambda **options: networks.SongUNet(
        4,
        1,
        model_channels=4,
        channel_mult=(1,),
        num_blocks=1,
        rngs=nnx.Rngs(0),
        **options,
    ),
    "adm": lambda **options: networks.DhariwalUNet(
        4,
        1,
        model_channels=8,
        channel_mult=(1,),
        num_blocks=1,
        channels_per_head=4,
        rngs=nnx.Rngs(0),
        **options,
    ),
}
TINY_X, TINY_LEVEL = jnp.cos(jnp.arange(32.0)).reshape(2, 4, 4, 1), jnp.zeros(2)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_the_gradient_is_that_of_central_differences(name, x64):
    apply, params = randomised(TINY[name])
    x = jnp.asarray(TINY_X, jnp.float64)
    direction = jax.tree.map(
        lambda p: jnp.cos(jnp.arange(p.size)).reshape(p.shape), params
    )

    @jax.jit
    def loss(params):
        return (apply(params, x, jnp.float64(0.3)) ** 2).sum()

    def moved(step):
        return loss(jax.tree.map(lambda p, v: p + step * v, params, direction))

    gradient = jax.jit(jax.grad(loss))(params)
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(gradient))
    along = optax.tree.vdot(gradient, direction)
    np.testing.assert_allclose(along, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-6)


@pytest.mark.slow
def test_a_fresh_network_denoises_as_its_preconditioning_says():
    scales = diffusion.precondition(jnp.array(0.7), 0.5)
    for build in TINY.values():
        apply, params = networks.pure(networks.EDMPrecond(build(), 0.5))
        out = jax.jit(apply)(params, TINY_X, jnp.array(0.7))
        np.testing.assert_allclose(out, scales.c_skip * TINY_X, atol=1e-3)


def test_preconditioning_by_hand():
    apply, params = randomised(TINY["mlp"])
    whole, _ = randomised(lambda: networks.EDMPrecond(TINY["mlp"](), 0.5))
    sigma = jnp.array([0.2, 3.0])
    s = diffusion.precondition(sigma, 0.5)
    lift = lambda c: c[:, None, None, None]
    expected = lift(s.c_skip) * TINY_X + lift(s.c_out) * apply(
        params, lift(s.c_in) * TINY_X, s.c_noise
    )
    out = whole({"net": params}, TINY_X, sigma)
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.slow
def test_dropout_needs_a_key_and_changes_the_output():
    apply, params = randomised(lambda: TINY["unet"](dropout=0.5))
    quiet = apply(params, TINY_X, TINY_LEVEL)
    once, again, other = (
        apply(params, TINY_X, TINY_LEVEL, key=jax.random.key(i)) for i in (0, 0, 1)
    )
    np.testing.assert_array_equal(once, again)
    assert abs(once - quiet).max() > 1e-4
    assert abs(once - other).max() > 1e-4


def test_labels():
    apply, params = randomised(lambda: TINY["unet"](label_dim=3, augment_dim=2))
    same_x = jnp.ones_like(TINY_X)
    classes, others = jnp.eye(3)[:2], jnp.eye(3)[1:]
    augment, more = jnp.zeros((2, 2)), jnp.ones((2, 2))
    out = apply(params, same_x, TINY_LEVEL, classes, augment)
    assert abs(out[0] - out[1]).max() > 1e-4
    assert abs(apply(params, same_x, TINY_LEVEL, others, augment) - out).max() > 1e-4
    assert abs(apply(params, same_x, TINY_LEVEL, classes, more) - out).max() > 1e-4
    with pytest.raises(ValueError, match=r"class_labels has shape \(2, 2\)"):
        apply(params, same_x, TINY_LEVEL, more)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "adm"])
def test_bfloat16_is_close_and_its_gradient_float32(name):
    # A rounding to bfloat16 is at most 2^-8 off, 2^-9.8 in the mean square. The nets
    # round some 30 times on the way: 2^-9.8 sqrt(30) = 0.6 %, of which twice is near.
    def run(**options):
        apply, params = randomised(lambda: TINY[name](**options))

        def loss(params):
            out = apply(params, TINY_X, TINY_LEVEL)
            return (out**2).sum(), out

        both = jax.value_and_grad(loss, has_aux=True)
        (_, out), grads = jax.jit(both, compiler_options=QUICK)(params)
        leaves = jax.tree.leaves(grads)
        assert {x.dtype for x in (out, *leaves)} == {jnp.dtype("float32")}
        return out, jnp.concatenate([x.ravel() for x in leaves])

    for exact, rounded in zip(run(), run(dtype=jnp.bfloat16), strict=True):
        error = jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact)
        assert 1e-4 < error < 0.03  # not float32 in disguise


@pytest.mark.parametrize("name", ["unet", "adm"])
def test_remat_keeps_less_for_the_backward_pass(name):
    # What is kept, by its shapes: XLA's CPU compiler undoes jax.checkpoint.
    x = jnp.zeros((16, 4, 4, 1))

    def kept(**options):
        apply, params = networks.pure(nnx.eval_shape(lambda: TINY[name](**options)))
        backward = lambda p: jax.vjp(lambda p: apply(p, x, jnp.float32(0)), p)[1]
        shapes = jax.tree.leaves(jax.eval_shape(backward, params))
        return sum(leaf.size for leaf in shapes)

    assert kept(remat=True) < kept() / 4


@pytest.mark.slow
def test_remat_changes_no_value():
    def run(**options):
        apply, params = randomised(lambda: TINY["unet"](dropout=0.5, **options))

        def loss(params):
            out = apply(params, TINY_X, TINY_LEVEL, key=jax.random.key(0))
            return (out**2).sum()

        return jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)(params)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, run(remat=True), run())


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (networks.SongUNet, NCSNPP),
        (networks.DhariwalUNet, {"channels_per_head": 8}),
    ],
)
def test_features_of_the_encoder(network, options):
    size = {"model_channels": 8, "channel_mult": (2, 1, 4), "num_blocks": 1}

    def shapes(features):
        def call():
            net = network(8, 3, **size, **options, rngs=nnx.Rngs(0))
            x, sigma = jnp.ones((2, 8, 8, 3)), jnp.ones(2)
            return networks.EDMPrecond(net)(x, sigma, features=features)

        return jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(call))

    levels = ((2, 8, 8, 16), (2, 4, 4, 8), (2, 2, 2, 32))
    assert shapes("encoder") == ((2, 8, 8, 3), levels)
    assert shapes(True) == ((2, 8, 8, 3), levels[-1])
    with pytest.raises(ValueError, match="'decoder'; expected one of 'encoder'"):
        shapes("decoder")


class Shifted(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
        self.shift = nnx.Variable(jnp.ones(1))

    def __call__(self, x):
        return self.linear(x) + self.shift[...]


def test_a_constant_stays_unless_it_is_given():
    apply, params = networks.pure(Shifted())
    assert list(params) == ["linear"]
    x = jnp.ones((1, 1))
    apart = apply(params | {"shift": jnp.full(1, 3.0)}, x) - apply(params, x)
    np.testing.assert_allclose(apart, 2.0, rtol=1e-6)


def test_the_frequencies_have_no_gradient_and_come_from_the_seed():
    draw = lambda seed: _Fourier(1000, rngs=nnx.Rngs(seed))
    apply, _ = networks.pure(draw(0))
    freqs = draw(0).freqs[...]
    np.testing.assert_array_equal(draw(0).freqs[...], freqs)
    assert abs(freqs - draw(1).freqs[...]).min() > 0
    assert abs(freqs.std() - 16) < 16 * 4 / np.sqrt(2 * 500)  # 4 standard errors
    loss = lambda params: jnp.sum(apply(params, jnp.ones(1))[0])
    assert abs(jax.grad(loss)({"freqs": freqs})["freqs"]).max() == 0


@pytest.mark.parametrize("name", NETS)
def test_shapes_that_do_not_fit(name):
    apply, params = randomised(NETS[name])
    with pytest.raises(ValueError, match=r"x has shape"):
        apply(params, jnp.ones((2, 5, 5, 1)), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"c_noise has shape \(3,\)"):
        apply(params, jnp.ones((2, 8, 8, 1)), jnp.zeros(3))
