"""The U-Nets and the import of their weights: host functions."""

import pathlib

from flax import nnx

from jaxdiv import diffusion, networks
from tests.cases import Bad
from tests.cases_floor4 import MISSING, host

NET = nnx.eval_shape(lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0)))


def adm(*args, **options):
    return lambda: networks.DhariwalUNet(*args, **options, rngs=nnx.Rngs(0))


def song(**options):
    return lambda: networks.SongUNet(32, 3, **options, rngs=nnx.Rngs(0))


CASES = [
    host(
        "diffusion.load_edm_safetensors",
        Bad(lambda: diffusion.load_edm_safetensors(MISSING, NET), OSError),
        Bad(
            lambda: diffusion.load_edm_safetensors(__file__, NET),
            ValueError,
            (pathlib.Path(__file__).name, "no safetensors file", "header"),
        ),
    ),
    host(
        "networks.pure",
        Bad(adm(12, 3), ValueError, ("img_resolution is 12", "2^3")),
        Bad(
            adm(8, 3, model_channels=8, channel_mult=(1,)),
            ValueError,
            ("8 channels", "channels_per_head"),
        ),
        Bad(adm(8, 3, dtype="int32"), TypeError, ("dtype is int32", "floating")),
        Bad(adm(8, 3, channels_per_head=0), ValueError, ("channels_per_head is 0",)),
        Bad(song(embedding_type="sine"), ValueError, ("embedding_type", "'fourier'")),
        Bad(song(encoder_type="skip"), ValueError, ("encoder_type", "'residual'")),
        Bad(song(resample_filter=(1, 2, 1)), ValueError, ("resample_filter", "even")),
        Bad(song(channel_mult_noise=0), ValueError, ("channel_mult_noise is 0",)),
    ),
]
