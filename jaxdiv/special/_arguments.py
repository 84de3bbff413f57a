"""What the public functions do with their arguments before and after the work."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiv import _check
from jaxdiv.special._regions import settings
from jaxdiv.typing import Array, ArrayLike


class Arguments(NamedTuple):
    """Checked arguments in the precision of the work.

    Attributes:
      arrays: the arguments, float32 or float64, of shapes that broadcast.
      dtype: dtype of the result.
      region: "high" where a plain number shows that the Debye series holds for all
        elements, else "all".
    """

    arrays: tuple[Array, ...]
    dtype: np.dtype
    region: str


def real(order: str = "", **arguments: ArrayLike) -> Arguments:
    """The arguments by name; `order` is the one that may show the region.

    Raises:
      TypeError: an argument is complex, or no number.
      ValueError: the shapes do not broadcast.
    """
    for name, x in arguments.items():
        kind = jnp.result_type(x)
        if not (
            jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)
        ):
            raise TypeError(f"{name} has dtype {kind}; expected real numbers.")
    dtype = jnp.result_type(*arguments.values(), float)
    work = jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
    arrays = {name: jnp.asarray(x, work) for name, x in arguments.items()}
    _check.broadcastable(**arrays)
    region = "all"
    if order and isinstance(number := arguments[order], int | float):
        border = settings(arrays[order]).border
        region = "high" if border <= number < np.inf else "all"
    return Arguments(tuple(arrays.values()), dtype, region)
