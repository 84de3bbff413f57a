"""Optimisation as layers: programs, sparse maps, ranks, smoothed optimisers."""

from jaxdiv.implicit.layers._entmax import entmax, fenchel_young_loss, sparsemax
from jaxdiv.implicit.layers._perturbed import perturbed_argmax
from jaxdiv.implicit.layers._qp import lp, qp
from jaxdiv.implicit.layers._rank import isotonic, soft_rank

__all__ = [
    "entmax",
    "fenchel_young_loss",
    "isotonic",
    "lp",
    "perturbed_argmax",
    "qp",
    "soft_rank",
    "sparsemax",
]
