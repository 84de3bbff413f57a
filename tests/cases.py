"""The shape of an entry of the registry of public functions."""

from collections.abc import Callable
from typing import NamedTuple


class Bad(NamedTuple):
    """A call that must fail: the error and the words that its message must hold."""

    call: Callable
    error: type[Exception]
    words: tuple[str, ...] = ()


class Case(NamedTuple):
    """A public function with what the common checks need.

    Attributes:
      name: public name, such as "jaxdiv.divergence.kl"; a function may have several
        cases, and every public function has at least one.
      call: function of floating arrays only; options and keys are closed over.
      args: tuple of small float64 NumPy arrays.
      order: derivatives to check (0: not differentiable, 1, 2).
      in_scan: True for a custom rule or a solver inside; the second derivatives are
        then also taken inside a scan, in the four mode orders.
      transforms: whether jit, vmap and scan apply (False for host functions).
      dtypes: whether float32 and float64 in give the same dtype out.
      bad: calls that must fail.
      rtol: relative tolerance of the derivatives.
      slow: whether the common checks take long.
    """

    name: str
    call: Callable
    args: tuple
    order: int = 2
    in_scan: bool = False
    transforms: bool = True
    dtypes: bool = True
    bad: tuple[Bad, ...] = ()
    rtol: float = 1e-6
    slow: bool = False
