"""Diffusion: noise laws, samplers, densities, superposition, one-step distillation.

A network is always the caller's function. Where a docstring says `t`, it is the time
of the noise law, a scalar or one value per sample.
"""

from jaxdiv.diffusion._density import log_likelihood
from jaxdiv.diffusion._distill import (
    GanLosses,
    bin_normalise,
    f_distill_loss,
    f_distill_weight,
    gan_losses,
    ratio_from_logits,
)
from jaxdiv.diffusion._expansion import UniWeights, diffusion_expansion, uni_weights
from jaxdiv.diffusion._import_edm import load_edm_safetensors
from jaxdiv.diffusion._increment import (
    ito_log_density_increment,
    ode_log_density_increment,
)
from jaxdiv.diffusion._named_losses import (
    diff_instruct_loss,
    dmd_loss,
    sds_loss,
    sid_loss,
    sim_loss,
    vsd_loss,
)
from jaxdiv.diffusion._noise import NoiseLaw, convert, edm, flow, ve, vp
from jaxdiv.diffusion._precondition import Preconditioning, dsm_loss, precondition
from jaxdiv.diffusion._sample import sample
from jaxdiv.diffusion._state import DistillConfig, DistillState, distill_state
from jaxdiv.diffusion._step import make_step
from jaxdiv.diffusion._superpose import (
    Superposition,
    SuperpositionPath,
    sample_superposition,
)
from jaxdiv.diffusion._uni_instruct import uni_instruct_loss
from jaxdiv.diffusion._weights import and_step, and_weights, or_weights

__all__ = [
    "DistillConfig",
    "DistillState",
    "GanLosses",
    "NoiseLaw",
    "Preconditioning",
    "Superposition",
    "SuperpositionPath",
    "UniWeights",
    "and_step",
    "and_weights",
    "bin_normalise",
    "convert",
    "diff_instruct_loss",
    "diffusion_expansion",
    "distill_state",
    "dmd_loss",
    "dsm_loss",
    "edm",
    "f_distill_loss",
    "f_distill_weight",
    "flow",
    "gan_losses",
    "ito_log_density_increment",
    "load_edm_safetensors",
    "log_likelihood",
    "make_step",
    "ode_log_density_increment",
    "or_weights",
    "precondition",
    "ratio_from_logits",
    "sample",
    "sample_superposition",
    "sds_loss",
    "sid_loss",
    "sim_loss",
    "uni_instruct_loss",
    "uni_weights",
    "ve",
    "vp",
    "vsd_loss",
]
