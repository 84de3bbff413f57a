"""f-divergences: one record for all, and exact values between categorical laws."""

from jaxdiv.divergence._categorical import f_divergence, from_logits
from jaxdiv.divergence._combine import dual, mixture, normalize, rescale
from jaxdiv.divergence._generators import FDivergence, get, names
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
from jaxdiv.divergence._power import (
    alpha,
    bhattacharyya,
    chernoff,
    chernoff_information,
    renyi,
    tsallis,
)

__all__ = [
    "FDivergence",
    "alpha",
    "bhattacharyya",
    "chernoff",
    "chernoff_information",
    "dual",
    "f_divergence",
    "from_logits",
    "generalized_js",
    "get",
    "jeffreys",
    "js",
    "kl",
    "le_cam",
    "mixture",
    "names",
    "neyman_chi2",
    "normalize",
    "pearson_chi2",
    "renyi",
    "rescale",
    "reverse_kl",
    "skew_kl",
    "skew_rkl",
    "softened_rkl",
    "squared_hellinger",
    "total_variation",
    "tsallis",
    "vincze_le_cam",
]
