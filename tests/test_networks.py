import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiv import diffusion, networks
from jaxdiv.networks._conv import conv
from tests import helpers

SMALL = {"model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1}
CIFAR = {"channel_mult": (2, 2, 2), "attn_resolutions": (16,), "dropout": 0.13}


def small_unet(**options):
    settings = SMALL | {"attn_resolutions": (4,)} | options
    return networks.SongUNet(8, 1, **settings, rngs=nnx.Rngs(0))


def randomised(module, seed=0):
    """Pure form with no weight left at its zero initial value."""
    apply, params = networks.pure(module)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noisy = [
        x + 0.1 * jax.random.normal(k, x.shape)
        for x, k in zip(leaves, keys, strict=True)
    ]
    # Compiled as a whole: operation by operation takes several times as long.
    return jax.jit(apply, static_argnames="features"), tree.unflatten(noisy)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (CIFAR | {"augment_dim": 9}, 55_733_891),
        (CIFAR | {"augment_dim": 9, "label_dim": 10}, 55_735_299),
        (CIFAR, 55_732_739),
        (CIFAR | {"label_dim": 10}, 55_734_147),
        ({"img_resolution": 64, "augment_dim": 9}, 61_805_571),
    ],
)
def test_parameter_counts_of_edm(options, expected):
    resolution = options.get("img_resolution", 32)
    options = {k: v for k, v in options.items() if k != "img_resolution"}

    def build():
        net = networks.SongUNet(resolution, 3, **options, rngs=nnx.Rngs(0))
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
    return jnp.asarray((rng.standard_normal(shape) / scale).transpose(np.argsort(axes)))


def test_the_unet_is_that_of_edm(x64):
    # Expected: `SongUNet` of NVlabs/edm at 008a4e5 in float64, with these weights.
    net = networks.SongUNet(
        8,
        3,
        label_dim=5,
        augment_dim=9,
        model_channels=16,
        channel_mult=(1, 2),
        num_blocks=2,
        attn_resolutions=(4,),
        rngs=nnx.Rngs(0),
    )
    apply, params = networks.pure(net)
    params = jax.tree.map_with_path(edm_weight, params)
    i = jnp.arange(576.0).reshape(3, 8, 8, 3)
    out = jax.jit(apply)(
        params,
        jnp.cos(i),
        jnp.array([-1.0, 0.2, 0.9]),
        jnp.eye(5)[jnp.array([1, 0, 4])],
        jnp.sin(jnp.arange(27.0)).reshape(3, 9),
    )
    expected = [
        [-0.06325925, -0.14396703, -0.68282632],
        [-0.21324235, -0.46844534, -0.64160829],
        [-0.08224085, -0.07500236, -0.75225794],
    ]
    np.testing.assert_allclose(out[:, 3, 5], expected, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(out * jnp.sin(i)), -7.999596898, rtol=1e-6)


def lax_conv(x, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=layout
    )


IMAGES = np.random.default_rng(0).standard_normal((2, 4, 5, 3))
KERNEL = 0.3 * np.random.default_rng(1).standard_normal((3, 3, 3, 2))


def test_convolution_in_every_mode():
    f = lambda x, kernel: jnp.sin(conv(x, kernel))
    helpers.check_derivatives(f, (IMAGES, KERNEL), in_scan=True)
    helpers.check_transforms(conv, (IMAGES, KERNEL))
    helpers.check_dtypes(conv, (IMAGES, KERNEL))


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
    "unet": small_unet,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_pure_networks_transform(name):
    apply, params = randomised(NETS[name]())
    x = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    level = jnp.array([-1.0, 0.0, 1.0])
    out = apply(params, x, level)
    assert out.shape == x.shape
    # samples do not see each other, and a scalar level is the same for all
    alone = apply(params, x[1:2], level[1])
    np.testing.assert_allclose(alone, out[1:2], atol=2e-5)
    assert abs(apply(params, x, level + 1) - out).max() > 1e-3
    values, features = apply(params, x, level, features=True)
    np.testing.assert_allclose(values, out, atol=2e-5)
    assert features.shape[0] == 3
    gradient = jax.grad(lambda p: (apply(p, x, level) ** 2).sum())(params)
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(gradient))


TINY = {
    "mlp": lambda: networks.ScoreMLP(16, width=8, depth=1, embed=8, rngs=nnx.Rngs(0)),
    "unet": lambda: networks.SongUNet(
        4, 1, model_channels=4, channel_mult=(1,), num_blocks=1, rngs=nnx.Rngs(0)
    ),
}


@pytest.mark.parametrize("name", TINY)
def test_the_gradient_is_that_of_central_differences(name, x64):
    apply, params = randomised(TINY[name]())
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), params)
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 1), jnp.float64)
    direction = jax.tree.map(
        lambda p: jnp.cos(jnp.arange(p.size)).reshape(p.shape), params
    )

    def f(t):
        moved = jax.tree.map(lambda p, v: p + t * v, params, direction)
        return (apply(moved, x, jnp.float64(0.3)) ** 2).sum()

    f = jax.jit(f)
    expected = (f(1e-5) - f(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(f)(0.0), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(f, (0.0,), (1.0,))[1], expected, rtol=1e-6)


def test_a_fresh_network_denoises_as_its_preconditioning_says():
    scales = diffusion.precondition(jnp.array(0.7), 0.5)
    for net in (NETS["mlp"](), small_unet()):
        apply, params = networks.pure(networks.EDMPrecond(net, 0.5))
        x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
        out = jax.jit(apply)(params, x, jnp.array(0.7))
        np.testing.assert_allclose(out, scales.c_skip * x, atol=1e-3)


def test_preconditioning_by_hand():
    apply, params = randomised(NETS["mlp"]())
    net = networks.EDMPrecond(NETS["mlp"](), 0.5)
    whole, _ = networks.pure(net)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    sigma = jnp.array([0.2, 3.0])
    s = diffusion.precondition(sigma, 0.5)
    lift = lambda c: c[:, None, None, None]
    expected = lift(s.c_skip) * x + lift(s.c_out) * apply(
        params, lift(s.c_in) * x, s.c_noise
    )
    np.testing.assert_allclose(whole({"net": params}, x, sigma), expected, atol=1e-5)


def test_dropout_needs_a_key_and_changes_the_output():
    apply, params = randomised(small_unet(dropout=0.5))
    x, level = jnp.ones((2, 8, 8, 1)), jnp.zeros(2)
    quiet = apply(params, x, level)
    dropped = [apply(params, x, level, key=jax.random.key(i)) for i in (0, 0, 1)]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert abs(dropped[0] - quiet).max() > 1e-4
    assert abs(dropped[0] - dropped[2]).max() > 1e-4


def test_labels():
    apply, params = randomised(small_unet(label_dim=3, augment_dim=2))
    x, level = jnp.ones((2, 8, 8, 1)), jnp.zeros(2)
    one_hot = jnp.eye(3)[:2]
    out = apply(params, x, level, class_labels=one_hot)
    assert abs(out[0] - out[1]).max() > 1e-4
    augmented = apply(
        params, x, level, class_labels=one_hot, augment_labels=jnp.ones((2, 2))
    )
    assert abs(augmented - out).max() > 1e-4


@pytest.mark.parametrize("name", NETS)
def test_shapes_that_do_not_fit(name):
    apply, params = networks.pure(NETS[name]())
    with pytest.raises(ValueError, match=r"x has shape"):
        apply(params, jnp.ones((2, 5, 5, 1)), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"c_noise has shape \(3,\)"):
        apply(params, jnp.ones((2, 8, 8, 1)), jnp.zeros(3))
