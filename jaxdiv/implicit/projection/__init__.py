"""Euclidean projections, with exact derivatives in every mode and order.

Each is taken along an axis; the other axes are a batch, and sizes and bounds broadcast
against it and are differentiable as well.
"""

from jaxdiv.implicit.projection._cone import isotonic, psd, soc
from jaxdiv.implicit.projection._linear import (
    affine,
    box_section,
    halfspace,
    hyperplane,
)
from jaxdiv.implicit.projection._simplex import (
    box,
    l1_ball,
    l1_sphere,
    l2_ball,
    l2_sphere,
    linf_ball,
    nonnegative,
    simplex,
)
from jaxdiv.implicit.projection._transport import birkhoff, transport

__all__ = [
    "affine",
    "birkhoff",
    "box",
    "box_section",
    "halfspace",
    "hyperplane",
    "isotonic",
    "l1_ball",
    "l1_sphere",
    "l2_ball",
    "l2_sphere",
    "linf_ball",
    "nonnegative",
    "psd",
    "simplex",
    "soc",
    "transport",
]
