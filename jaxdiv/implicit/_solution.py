"""What every solver with an implicit derivative returns."""

from typing import Any, NamedTuple

from jaxdiv.typing import Array, PyTree


class Solution(NamedTuple):
    """A solution and how it was come by.

    Attributes:
      value: the solution, which carries its own derivative; always usable.
      aux: what else the solver has to say, or None.
      residual: how far the conditions of the solution are from being met.
      iterations: iterations taken, an integer array.
      converged: whether `residual` came below the tolerance, a boolean array.
    """

    value: PyTree
    aux: Any
    residual: Array
    iterations: Array
    converged: Array
