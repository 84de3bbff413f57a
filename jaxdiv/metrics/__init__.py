"""Metrics that need no download: features in, numbers out."""

from jaxdiv.metrics._maps import (
    MapReport,
    MapScores,
    cosine_similarity_maps,
    l2_uvp,
    map_report,
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
    "PrecisionRecall",
    "cosine_similarity_maps",
    "density_coverage",
    "frechet_distance",
    "l2_uvp",
    "map_report",
    "precision_recall",
]
