"""f-divergences: one record for all; exact, sampled, variational and closed values."""

from jaxdiv.divergence._bregman import bregman, fenchel_young
from jaxdiv.divergence._categorical import f_divergence, from_logits
from jaxdiv.divergence._combine import dual, mixture, normalize, rescale
from jaxdiv.divergence._estimate import mc_estimate, sequence_kl
from jaxdiv.divergence._exponential_family import (
    expfam_bhattacharyya,
    expfam_chernoff,
    expfam_kl,
    expfam_renyi,
    expfam_squared_hellinger,
    families,
    family,
    register_family,
)
from jaxdiv.divergence._families import ExponentialFamily
from jaxdiv.divergence._generators import FDivergence, get, names
from jaxdiv.divergence._linear import linear_divergence
from jaxdiv.divergence._named import (
    generalized_js,
    jeffreys,
    js,
    kl,
    le_cam,
    neyman_chi2,
    pearson_chi2,
    reverse_kl,
    skew_kl,
    skew_rkl,
    softened_rkl,
    squared_hellinger,
    total_variation,
    vincze_le_cam,
)
from jaxdiv.divergence._neighbours import knn_kl
from jaxdiv.divergence._power import (
    alpha,
    bhattacharyya,
    chernoff,
    chernoff_information,
    renyi,
    tsallis,
)
from jaxdiv.divergence._variational import donsker_varadhan, nwj

__all__ = [
    "ExponentialFamily",
    "FDivergence",
    "alpha",
    "bhattacharyya",
    "bregman",
    "chernoff",
    "chernoff_information",
    "donsker_varadhan",
    "dual",
    "expfam_bhattacharyya",
    "expfam_chernoff",
    "expfam_kl",
    "expfam_renyi",
    "expfam_squared_hellinger",
    "f_divergence",
    "families",
    "family",
    "fenchel_young",
    "from_logits",
    "generalized_js",
    "get",
    "jeffreys",
    "js",
    "kl",
    "knn_kl",
    "le_cam",
    "linear_divergence",
    "mc_estimate",
    "mixture",
    "names",
    "neyman_chi2",
    "normalize",
    "nwj",
    "pearson_chi2",
    "register_family",
    "renyi",
    "rescale",
    "reverse_kl",
    "sequence_kl",
    "skew_kl",
    "skew_rkl",
    "softened_rkl",
    "squared_hellinger",
    "total_variation",
    "tsallis",
    "vincze_le_cam",
]
