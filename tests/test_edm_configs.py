"""The settings of CIFAR-10 and ImageNet-64 build in full and step when small."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples import edm_configs
from jaxdiv import diffusion, networks
from tests.test_networks import QUICK

CONFIGS = edm_configs.DISTILLATIONS
COUNTS = {
    "cifar10": 55_733_891,
    "cifar10_cond_ncsnpp": 56_400_643,
    "imagenet64": 295_899_267,
}


@pytest.mark.parametrize("name", COUNTS)
def test_networks_are_those_of_edm(name):
    net = edm_configs.build(edm_configs.NETWORKS[name])
    shapes = jax.tree.leaves(networks.pure(net)[1])
    assert sum(x.size for x in shapes) == COUNTS[name]


def assemble(config, apply):
    discriminate, head = edm_configs.discriminator(config, apply)
    return head, diffusion.DistillConfig(
        apply,
        discriminate,
        *edm_configs.optimizers(config),
        **edm_configs.distill_options(config),
    )


@pytest.mark.parametrize(
    ("name", "steps", "logits"),
    [
        # 100,000 and 600,000 iterations, each fifth the student's; three heads and one.
        ("f_distill_cifar10", 20_000, (2, 3)),
        ("f_distill_imagenet64", 120_000, (2, 1)),
        # 300 million images; a logit for each of 8 x 8 places.
        ("uni_instruct_cifar10", 1_171_875, (2, 64)),
        pytest.param(
            *("uni_instruct_imagenet64", 36_621, (2, 64)), marks=pytest.mark.slow
        ),
    ],
)
def test_settings_in_full_size(name, steps, logits):
    config = CONFIGS[name]
    assert config.steps == steps
    apply, params = networks.pure(edm_configs.build(config.network))

    def judge(fake, x, t):
        head, cfg = assemble(config, apply)
        return cfg.discriminate(head, fake, x, t)

    x = jnp.zeros((2, *2 * (config.network.resolution,), 3))
    assert jax.eval_shape(judge, params, x, jnp.ones(2)).shape == logits


@pytest.mark.slow
@pytest.mark.parametrize("name", ["f_distill_cifar10", "uni_instruct_imagenet64"])
def test_two_small_steps_on_random_weights(name):
    config = CONFIGS[name]
    network = dataclasses.replace(
        config.network,
        resolution=4,
        label_dim=min(config.network.label_dim, 3),
        model_channels=8,
        channel_mult=(1,),
        num_blocks=1,
        attn_resolutions=(),
        channels_per_head=4,
    )
    config = dataclasses.replace(
        config,
        network=network,
        head_resolutions=config.head_resolutions and (4,),
        student_after=0,
        ratio_after=0,
        aux_updates=1,
    )
    net = edm_configs.build(network, rngs=nnx.Rngs(0))
    apply, params = networks.pure(net)
    head, cfg = assemble(config, apply)
    state = diffusion.distill_state(cfg, params, head)
    step = jax.jit(diffusion.make_step(cfg), compiler_options=QUICK)
    batch = jnp.cos(jnp.arange(96.0)).reshape(2, 4, 4, 3)
    if network.label_dim:
        batch = batch, jnp.eye(network.label_dim)[jnp.array([2, 0])]
    for i in range(2):
        state, metrics = step(state, batch, jax.random.key(i))
    assert all(np.isfinite(x) for x in metrics.values())
    moved = jax.tree.map(lambda a, b: abs(a - b).max(), state.student, params)
    assert max(jax.tree.leaves(moved)) > 0


@pytest.mark.slow
def test_heads_of_f_distill():
    heads = edm_configs.EncoderHeads({32: 64, 16: 40, 8: 8}, rngs=nnx.Rngs(0))
    judge, params = networks.pure(heads)
    levels = [jnp.ones((2, size, size, c)) for size, c in ((32, 64), (16, 40), (8, 8))]
    assert jax.eval_shape(judge, params, levels).shape == (2, 3)
    # 4 x 4 convolutions: 32 -> 16 -> 8 -> 4 -> 1, 16 -> 8 -> 4 -> 1, 8 -> 4 -> 1.
    kernels = [x for x in jax.tree.leaves(params) if x.ndim == 4]
    expected = [(4, 4, c, c) for c, n in ((64, 4), (40, 3), (8, 2)) for _ in range(n)]
    assert sorted(x.shape for x in kernels if x.shape[0] == 4) == sorted(expected)


def test_logits_of_uni_instruct():
    last = np.random.default_rng(0).standard_normal((2, 4, 4, 6)).astype(np.float32)
    logits = edm_configs.mean_logits([jnp.zeros((2, 8, 8, 3)), jnp.asarray(last)])
    np.testing.assert_allclose(logits, last.reshape(2, 16, 6).mean(2), rtol=1e-5)
