"""Networks written with flax.nnx and used as pure functions.

`apply, params = pure(EDMPrecond(ScoreMLP(2, rngs=nnx.Rngs(0)), sigma_data=1.0))`, and
from there on `apply(params, x, sigma)` is the denoised x: the losses, samplers and
training loops of jaxdiv never see a module. `pip install "jaxdiv[train]"` brings flax.
"""

from jaxdiv.networks._dhariwal_unet import DhariwalUNet
from jaxdiv.networks._icnn import ICNN
from jaxdiv.networks._mlp import ScoreMLP
from jaxdiv.networks._precond import EDMPrecond
from jaxdiv.networks._pure import pure
from jaxdiv.networks._song_unet import SongUNet
from jaxdiv.networks._tiny_dit import TinyDiT
from jaxdiv.networks._tiny_transformer import TinyTransformer

__all__ = [
    "DhariwalUNet",
    "EDMPrecond",
    "ICNN",
    "ScoreMLP",
    "SongUNet",
    "TinyDiT",
    "TinyTransformer",
    "pure",
]
