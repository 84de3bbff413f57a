"""Entropic optimal transport, the Monge gap, and maps fitted with it."""

from jaxdiv.transport._divergence import sinkhorn_divergence
from jaxdiv.transport._maps import fit_monge_map
from jaxdiv.transport._monge_gap import (
    exact_monge_gap,
    monge_gap,
    monge_gap_from_samples,
    monge_gap_gradient,
)
from jaxdiv.transport._plan import apply_plan, entropic_map, plan
from jaxdiv.transport._sinkhorn import (
    SinkhornResult,
    ot_cost,
    sinkhorn,
    sinkhorn_from_cost,
)

__all__ = [
    "SinkhornResult",
    "apply_plan",
    "entropic_map",
    "exact_monge_gap",
    "fit_monge_map",
    "monge_gap",
    "monge_gap_from_samples",
    "monge_gap_gradient",
    "ot_cost",
    "plan",
    "sinkhorn",
    "sinkhorn_divergence",
    "sinkhorn_from_cost",
]
