"""Implicit differentiation: solutions that know their own derivative.

Solve with anything, then `attach` the optimality condition that the solution meets: its
derivative follows in every mode and order, inside jit, vmap and loops, and no iteration
is differentiated. `root`, `fixed_point` and `argmin` do so for a solver of yours;
`picard`, `anderson`, `newton`, `projected_fista` and `bisect` come with it, and
`projection` and `layers` hold projections, and optimisation problems as layers.
"""

from jaxdiv.implicit import layers, projection
from jaxdiv.implicit._attach import (
    argmin,
    attach,
    fixed_point,
    root,
    root_jvp,
    root_vjp,
)
from jaxdiv.implicit._conditions import (
    block,
    kkt,
    mirror_descent,
    projected_gradient,
    proximal_gradient,
    stationarity,
)
from jaxdiv.implicit._diagnose import Diagnostics, check
from jaxdiv.implicit._iterate import (
    anderson,
    bisect,
    newton,
    picard,
    projected_fista,
)
from jaxdiv.implicit._linear_solve import LinearInfo, linear_solve
from jaxdiv.implicit._solution import Solution

__all__ = [
    "Diagnostics",
    "LinearInfo",
    "Solution",
    "anderson",
    "argmin",
    "attach",
    "bisect",
    "block",
    "check",
    "fixed_point",
    "kkt",
    "layers",
    "linear_solve",
    "mirror_descent",
    "newton",
    "picard",
    "projected_fista",
    "projected_gradient",
    "projection",
    "proximal_gradient",
    "root",
    "root_jvp",
    "root_vjp",
    "stationarity",
]
