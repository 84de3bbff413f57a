"""Metrics that need no download: features in, numbers out."""

from jaxdiv.metrics._sample_quality import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    frechet_distance,
    precision_recall,
)

__all__ = [
    "DensityCoverage",
    "PrecisionRecall",
    "density_coverage",
    "frechet_distance",
    "precision_recall",
]
