"""Diffusion: noise laws, training losses, samplers, and one-step distillation.

A network is always the caller's function. Where a docstring says `t`, it is the time
of the noise law, a scalar or one value per sample.
"""

from jaxdiv.diffusion._distill import (
    GanLosses,
    bin_normalise,
    f_distill_loss,
    f_distill_weight,
    gan_losses,
    ratio_from_logits,
)
from jaxdiv.diffusion._noise import NoiseLaw, convert, edm, flow, ve, vp
from jaxdiv.diffusion._precondition import Preconditioning, dsm_loss, precondition
from jaxdiv.diffusion._sample import sample
from jaxdiv.diffusion._state import DistillConfig, DistillState, distill_state
from jaxdiv.diffusion._step import make_step

__all__ = [
    "DistillConfig",
    "DistillState",
    "GanLosses",
    "NoiseLaw",
    "Preconditioning",
    "bin_normalise",
    "convert",
    "distill_state",
    "dsm_loss",
    "edm",
    "f_distill_loss",
    "f_distill_weight",
    "flow",
    "gan_losses",
    "make_step",
    "precondition",
    "ratio_from_logits",
    "sample",
    "ve",
    "vp",
]
