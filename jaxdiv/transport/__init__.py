"""Entropic optimal transport, the Monge gap, and maps fitted with it."""

from jaxdiv.transport._coupling import (
    round_plan,
    sample_plan,
)
from jaxdiv.transport._divergence import sinkhorn_divergence
from jaxdiv.transport._expectile import fit_expectile
from jaxdiv.transport._gaussian import (
    AffineMap,
    bures_wasserstein_sq,
    gaussian_map,
)
from jaxdiv.transport._geometry import (
    conservativity_penalty,
    sphere_exp,
    sphere_geodesic_cost,
    structured_map,
)
from jaxdiv.transport._icnn_dual import fit_icnn_dual
from jaxdiv.transport._maps import fit_monge_map
from jaxdiv.transport._monge_gap import (
    exact_monge_gap,
    monge_gap,
    monge_gap_from_samples,
    monge_gap_gradient,
)
from jaxdiv.transport._otcfm import fit_otcfm
from jaxdiv.transport._ott import from_ott_potentials, to_ott, to_ott_potentials
from jaxdiv.transport._pairs import (
    convex_potential_pair,
)
from jaxdiv.transport._plan import apply_plan, entropic_map, plan
from jaxdiv.transport._progressive import (
    progot_map,
)
from jaxdiv.transport._sharded import sharded_sinkhorn
from jaxdiv.transport._sinkhorn import (
    SinkhornResult,
    ot_cost,
    sinkhorn,
    sinkhorn_from_cost,
)

__all__ = [
    "AffineMap",
    "SinkhornResult",
    "apply_plan",
    "bures_wasserstein_sq",
    "conservativity_penalty",
    "convex_potential_pair",
    "entropic_map",
    "exact_monge_gap",
    "fit_expectile",
    "fit_icnn_dual",
    "fit_monge_map",
    "fit_otcfm",
    "from_ott_potentials",
    "gaussian_map",
    "monge_gap",
    "monge_gap_from_samples",
    "monge_gap_gradient",
    "ot_cost",
    "plan",
    "progot_map",
    "round_plan",
    "sample_plan",
    "sharded_sinkhorn",
    "sinkhorn",
    "sinkhorn_divergence",
    "sinkhorn_from_cost",
    "sphere_exp",
    "sphere_geodesic_cost",
    "structured_map",
    "to_ott",
    "to_ott_potentials",
]
