"""From a module with state to a pure function of a pytree."""

import contextlib
from typing import Any

from flax import nnx

from jaxdiv.typing import Apply, Params


def pure(module: nnx.Module) -> tuple[Apply, Params]:
    """Splits a flax module into a pure function and its parameters.

    Args:
      module: any `nnx.Module` whose call takes its randomness as an argument.

    Returns:
      `(apply, params)`: `apply(params, *args, **kwargs)` is the module's call with
      these parameters, to be jitted, differentiated and vmapped; `params` are nested
      dicts of arrays with strings for keys, which optax, orbax and `jax.tree` take as
      they are. Variables that are not `nnx.Param` are constants of `apply`, unless the
      dicts that it is given have values under their names too.

    Raises:
      ValueError: the module holds a random stream or batch statistics, which a pure
        function cannot advance.

    Differentiable as the module is.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxdiv import networks
      >>> apply, params = networks.pure(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
      >>> print(sorted(params), apply(params, jnp.ones((5, 2))).shape)
      ['bias', 'kernel'] (5, 3)
    """
    graph, weights, rest = nnx.split(module, nnx.Param, ...)
    for path, variable in nnx.to_flat_state(rest):
        if isinstance(variable, nnx.RngState | nnx.BatchStat):
            name = ".".join(map(str, path))
            raise ValueError(
                f"The module holds {name}, a {type(variable).__name__}, which a pure "
                "function cannot advance; pass keys as arguments of the call, and use "
                "LayerNorm or GroupNorm."
            )
    flat = nnx.to_flat_state(weights)
    constants = nnx.to_flat_state(rest)

    def apply(params: Params, *args: Any, **kwargs: Any) -> Any:
        leaves = [
            (path, variable.replace(_at(params, path))) for path, variable in flat
        ]
        for path, variable in constants:
            with contextlib.suppress(KeyError):
                variable = variable.replace(_at(params, path))
            leaves.append((path, variable))
        return nnx.merge(graph, nnx.from_flat_state(leaves))(*args, **kwargs)

    params: Params = {}
    for path, variable in flat:
        node = params
        for part in path[:-1]:
            node = node.setdefault(str(part), {})
        node[str(path[-1])] = variable.get_value()
    return apply, params


def _at(params: Params, path: tuple) -> Any:
    for part in path:
        params = params[str(part)]
    return params
