"""Networks and settings of one-step distillation on CIFAR-10 and ImageNet-64.

What the authors of f-distill and Uni-Instruct ran on GPUs, ready for data and weights:

    config = edm_configs.DISTILLATIONS["f_distill_cifar10"]
    apply, _ = networks.pure(net := edm_configs.build(config.network))
    teacher = diffusion.load_edm_safetensors("cifar10-cond-vp.safetensors", net)
    discriminate, head = edm_configs.discriminator(config, apply)
    cfg = diffusion.DistillConfig(
        apply,
        discriminate,
        *edm_configs.optimizers(config),
        **edm_configs.distill_options(config),
    )

    state = diffusion.distill_state(cfg, teacher, head)
    step = diffusion.make_step(cfg)
    state, metrics = step(state, (images, one_hot_labels), key)

Without classes the batch is the images alone.
Xu, Nie and Vahdat, 2025, arXiv:2502.15681 (settings of NVlabs/FastGen);
Wang et al., 2025, arXiv:2505.20755 (settings of a-little-hoof/Uni_Instruct).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxdiv import diffusion, networks
from jaxdiv.typing import Apply, Array, Params

ARCHITECTURES: Mapping[str, Callable[..., nnx.Module]] = {
    "ddpmpp": networks.SongUNet,
    "ncsnpp": networks.SongUNet,
    "adm": networks.DhariwalUNet,
}
NCSNPP: Mapping[str, Any] = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": (1, 3, 3, 1),
}


@dataclasses.dataclass(frozen=True)
class Network:
    """One of EDM's networks, for images of 3 channels; the default is CIFAR-10's."""

    arch: str = "ddpmpp"
    """ddpmpp, ncsnpp or adm."""
    resolution: int = 32
    label_dim: int = 0
    augment_dim: int = 9
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (2, 2, 2)
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.13
    channels_per_head: int = 64
    """Of adm's attention."""
    dtype: str | None = None
    """Of the computation; None is float32."""
    remat: bool = False
    """Compute the insides of blocks again in the backward pass, to save memory."""
    sigma_data: float = 0.5


_IMAGENET64 = Network(
    arch="adm",
    resolution=64,
    label_dim=1000,
    augment_dim=0,
    model_channels=192,
    channel_mult=(1, 2, 3, 4),
    num_blocks=3,
    attn_resolutions=(32, 16, 8),
    dropout=0.1,
    dtype="bfloat16",
    remat=True,
)
NETWORKS: Mapping[str, Network] = {
    "cifar10": Network(),
    "cifar10_cond": Network(label_dim=10),
    "cifar10_ncsnpp": Network(arch="ncsnpp"),
    "cifar10_cond_ncsnpp": Network(arch="ncsnpp", label_dim=10),
    "imagenet64": _IMAGENET64,
}


def build(network: Network, *, rngs: nnx.Rngs | None = None) -> networks.EDMPrecond:
    """The network in its preconditioning.

    Args:
      network: its options.
      rngs: streams of the initial weights; None leaves the weights out, for a module
        whose params come from a file.
    """
    options = dataclasses.asdict(network)
    arch, resolution = options.pop("arch"), options.pop("resolution")
    sigma_data = options.pop("sigma_data")
    if arch != "adm":
        del options["channels_per_head"]
    if arch == "ncsnpp":
        options |= NCSNPP

    def made(rngs: nnx.Rngs) -> networks.EDMPrecond:
        net = ARCHITECTURES[arch](resolution, 3, rngs=rngs, **options)
        return networks.EDMPrecond(net, sigma_data)

    return nnx.eval_shape(lambda: made(nnx.Rngs(0))) if rngs is None else made(rngs)


@dataclasses.dataclass(frozen=True)
class Distillation:
    """How a teacher is distilled; the names from `family` on are of `DistillConfig`."""

    network: Network
    batch: int
    steps: int
    """Steps of `make_step`, each with one update of the student."""
    student_rate: float
    fake_rate: float
    head_rate: float
    b1: float = 0.9
    """Of Adam, of all three; b2 is 0.999."""
    adam_eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    """Largest norm of the student's gradient."""
    clip_fake: float | None = None
    """Largest entry of the gradient of the fake denoiser."""
    loss_scales: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """Published factors of the losses: fake denoiser, student (a sum over pixels),
    discriminator, GAN loss of the student. The last by the second is in `gan_weight`,
    and Adam does not see the rest."""
    ema_decays: tuple[float, ...] = (0.9999,)
    """At a step; the first is the one that `DistillConfig` keeps."""
    head_resolutions: tuple[int, ...] = ()
    """Where the discriminator's heads read the encoder; without, it has no layers of
    its own: its logits are the means over channels at the lowest resolution."""
    family: str = "integral"
    divergence: str = "js"
    t_init: float | None = None
    gan_weight: float = 3e-3
    aux_updates: int = 4
    ratio_clip: tuple[float, float] = (0.1, 20.0)
    bins: int = 10
    bin_rate: float = 0.5
    rho: float = 7.0
    time_fraction: float = 1.0
    dmd_normalise: bool = True
    terms: tuple[str, ...] = ("sim",)
    omega: str | None = "abs"
    gan_omega: bool = False
    h_through: bool = False
    remat: bool = False
    student_after: int = 0
    ratio_after: int = 0
    shared_encoder: bool = False
    aux_log_time: tuple[float, float] | None = None


def _f_distill(*, iterations: int, **options: Any) -> Distillation:
    """An iteration updates the student or the other nets, and the averages anyhow."""
    return Distillation(
        steps=iterations // 5,
        aux_updates=4,
        weight_decay=0.01,
        clip_norm=10.0,
        ema_decays=(0.9999**5, 0.99995**5, 0.9996**5),
        **options,
    )


def _uni_instruct(*, ema_mimg: float, mimg: float, **options: Any) -> Distillation:
    """Settings in images, as published: 0.1 million before the student moves."""
    batch, resolution = options["batch"], options["network"].resolution
    return Distillation(
        family="expanded",
        divergence="kl",
        gan_omega=True,
        b1=0.0,
        clip_fake=1.0,
        loss_scales=(1.0, 100.0, 1.0, 0.01),
        gan_weight=0.01 / 100 / (3 * resolution**2),
        t_init=2.5,
        aux_updates=1,
        time_fraction=0.8,
        shared_encoder=True,
        aux_log_time=(-1.2, 1.2),
        remat=True,
        steps=int(mimg * 1e6 / batch),
        ema_decays=(0.5 ** (batch / (ema_mimg * 1e6)),),
        student_after=math.ceil(1e5 / batch),
        ratio_after=math.ceil(2e5 / batch),
        **options,
    )


DISTILLATIONS: Mapping[str, Distillation] = {
    "f_distill_cifar10": _f_distill(
        network=Network(label_dim=10, dropout=0.0),
        divergence="kl",
        batch=2048,
        iterations=100_000,
        student_rate=1e-4,
        fake_rate=1e-4,
        head_rate=1e-4,
        gan_weight=1e-3,
        bin_rate=0.0,
        head_resolutions=(32, 16, 8),
    ),
    "f_distill_imagenet64": _f_distill(
        network=dataclasses.replace(_IMAGENET64, dropout=0.0),
        divergence="js",
        batch=512,
        iterations=600_000,
        student_rate=2e-6,
        fake_rate=2e-6,
        head_rate=2e-6,
        gan_weight=3e-3,
        bin_rate=0.5,
        head_resolutions=(8,),
    ),
    "uni_instruct_cifar10": _uni_instruct(
        network=NETWORKS["cifar10"],
        batch=256,
        student_rate=1e-5,
        fake_rate=1e-5,
        head_rate=1e-5,
        ema_mimg=0.5,
        mimg=300,
    ),
    "uni_instruct_imagenet64": _uni_instruct(
        network=_IMAGENET64,
        batch=8192,
        student_rate=4e-6,
        fake_rate=4e-6,
        head_rate=4e-6,
        adam_eps=1e-6,
        ema_mimg=2,
        mimg=300,
    ),
}


def optimizers(config: Distillation) -> tuple[optax.GradientTransformation, ...]:
    """Of the student, the fake denoiser and the discriminator."""

    def adam(rate: float, *before: optax.GradientTransformation) -> Any:
        steps = optax.adamw(
            rate, b1=config.b1, eps=config.adam_eps, weight_decay=config.weight_decay
        )
        return optax.chain(*before, steps)

    norm, entry = config.clip_norm, config.clip_fake
    return (
        adam(config.student_rate, *([optax.clip_by_global_norm(norm)] if norm else [])),
        adam(
            config.fake_rate, *([optax.zero_nans(), optax.clip(entry)] if entry else [])
        ),
        adam(config.head_rate),
    )


def distill_options(config: Distillation) -> dict[str, Any]:
    """The fields of `DistillConfig`, but for the functions and optimizers."""
    names = diffusion.DistillConfig._fields
    found = {name: x for name, x in vars(config).items() if name in names}
    return found | {
        "sigma_data": config.network.sigma_data,
        "ema_decay": config.ema_decays[0],
    }


class EncoderHeads(nnx.Module):
    """f-distill's discriminator: one head for each of some resolutions of the encoder.

    A head is strided convolutions of 4 x 4 down to one place, each with GroupNorm and
    SiLU, and a 1 x 1 convolution to a logit.

    Args:
      channels: of the encoder at each resolution that has a head.
      rngs: streams of the initial weights.
    """

    def __init__(self, channels: Mapping[int, int], *, rngs: nnx.Rngs) -> None:
        self.resolutions = tuple(channels)
        self.heads = nnx.List(
            [_head(size, width, rngs) for size, width in channels.items()]
        )

    def __call__(self, levels: Sequence[Array]) -> Array:
        """The logits `(B, heads)`, of what `features="encoder"` returns."""
        seen = {level.shape[1]: level.astype(jnp.float32) for level in levels}
        logits = [
            head(seen[size]).reshape(-1)
            for size, head in zip(self.resolutions, self.heads, strict=True)
        ]
        return jnp.stack(logits, axis=-1)


def _head(size: int, width: int, rngs: nnx.Rngs) -> nnx.Module:
    groups = max(n for n in range(1, 33) if width % n == 0 and n <= max(width // 4, 1))
    layers: list[Callable] = []
    while size > 1:
        last = size <= 4
        layers += [
            nnx.Conv(
                width,
                width,
                (4, 4),
                strides=4 if last else 2,
                padding="VALID" if last else 1,
                rngs=rngs,
            ),
            nnx.GroupNorm(width, num_groups=groups, rngs=rngs),
            jax.nn.silu,
        ]
        size //= 4 if last else 2
    return nnx.Sequential(*layers, nnx.Conv(width, 1, (1, 1), rngs=rngs))


def mean_logits(levels: Sequence[Array]) -> Array:
    """Uni-Instruct's logits `(B, places)`: the encoder's last means over channels."""
    last = levels[-1].astype(jnp.float32)
    return last.mean(-1).reshape(len(last), -1)


def discriminator(
    config: Distillation, apply: Apply, *, rngs: nnx.Rngs | None = None
) -> tuple[Apply, Params]:
    """The function `(head, fake, x, t[, labels]) -> logits`, and the initial head."""

    def levels(fake: Params, *x_t_labels: Array) -> Sequence[Array]:
        return apply(fake, *x_t_labels, features="encoder")[1]

    if not config.head_resolutions:
        return lambda head, *seen: mean_logits(levels(*seen)), {}
    net = config.network
    channels = {
        net.resolution >> level: net.model_channels * mult
        for level, mult in enumerate(net.channel_mult)
    }
    channels = {size: channels[size] for size in config.head_resolutions}
    heads = EncoderHeads(channels, rngs=nnx.Rngs(0) if rngs is None else rngs)
    judge, head = networks.pure(heads)
    return lambda head, *seen: judge(head, levels(*seen)), head
