"""Metrics that need no download: features in, numbers out."""

from jaxdiv.metrics._kernel import kid
from jaxdiv.metrics._maps import (
    MapReport,
    MapScores,
    cosine_similarity_maps,
    l2_uvp,
    map_report,
)
from jaxdiv.metrics._mixture_2d import (
    ModeCoverage,
    SmoothedDivergences,
    mode_coverage,
    smoothed_divergences_2d,
)
from jaxdiv.metrics._sample_quality import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    frechet_distance,
    precision_recall,
)

__all__ = [
    "DensityCoverage",
    "MapReport",
    "MapScores",
    "ModeCoverage",
    "PrecisionRecall",
    "SmoothedDivergences",
    "cosine_similarity_maps",
    "density_coverage",
    "frechet_distance",
    "kid",
    "l2_uvp",
    "map_report",
    "mode_coverage",
    "precision_recall",
    "smoothed_divergences_2d",
]
