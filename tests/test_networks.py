import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiv import diffusion, networks

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
    return apply, tree.unflatten(noisy)


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


NETS = {
    "mlp": lambda: networks.ScoreMLP(64, width=32, depth=2, embed=16, rngs=nnx.Rngs(0)),
    "unet": small_unet,
}


@pytest.mark.parametrize("name", NETS)
def test_pure_networks_transform(name):
    apply, params = randomised(NETS[name]())
    x = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    level = jnp.array([-1.0, 0.0, 1.0])
    out = apply(params, x, level)
    assert out.shape == x.shape
    np.testing.assert_allclose(jax.jit(apply)(params, x, level), out, atol=2e-5)
    # samples do not see each other, and a scalar level is the same for all
    alone = apply(params, x[1:2], level[1])
    np.testing.assert_allclose(alone, out[1:2], atol=2e-5)
    assert abs(apply(params, x, level + 1) - out).max() > 1e-3
    values, features = apply(params, x, level, features=True)
    np.testing.assert_allclose(values, out, atol=2e-5)
    assert features.shape[0] == 3
    gradient = jax.grad(lambda p: (apply(p, x, level) ** 2).sum())(params)
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", NETS)
def test_the_gradient_is_that_of_central_differences(name, x64):
    apply, params = randomised(NETS[name]())
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), params)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1), jnp.float64)
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
        out = apply(params, x, jnp.array(0.7))
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
