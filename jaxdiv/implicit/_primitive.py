"""A differentiable identity: the one derivative rule of the library.

`jax.custom_jvp` around a solver whose derivative is stopped is not enough: the partial
evaluation of `scan`, `fori_loop` and `map` may inline the function and with it lose
the rule, and the second derivatives inside a loop are then silently wrong (jax 0.10).
A primitive is opaque to it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxdiv.typing import Array, PyTree

_Leaves = tuple[Array, ...]
_Tangents = tuple[Array | None, ...]  # None: nothing moves, or nothing can
_LeafRule = Callable[[_Leaves, _Leaves, _Tangents], _Leaves]

_identity_p = Primitive("implicit_identity")
_identity_p.multiple_results = True


def implicit_identity(
    rule: Callable[[PyTree, PyTree, PyTree], PyTree], x: PyTree, theta: PyTree
) -> PyTree:
    r"""Returns `x` with the derivative in `theta` that `rule` gives.

    For the solution of :math:`F(x, \theta) = 0` the rule solves
    :math:`\partial_x F\, dx = -\partial_\theta F\, d\theta`. It is applied again to the
    returned `x` when a derivative is differentiated, so that every mode and order
    follows from it.

    Args:
      rule: `rule(x, theta, dtheta) -> dx`, linear in `dtheta`, transposable where
        reverse mode is wanted, and itself differentiable in `x` and `theta` where
        higher orders are. It must close over no traced value.
      x: pytree of floating arrays, however found; its own derivative is dropped.
      theta: pytree of floating arrays that `x` depends on.

    Returns:
      `x`, unchanged in value.

    Raises:
      TypeError: a leaf of `x` or `theta` is not of a floating or complex dtype.
    """
    x_leaves, x_tree = jax.tree.flatten(jax.tree.map(jnp.asarray, x))
    theta_leaves, theta_tree = jax.tree.flatten(jax.tree.map(jnp.asarray, theta))
    for leaf in (*x_leaves, *theta_leaves):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(f"A leaf has dtype {leaf.dtype}; expected a floating one.")

    def on_leaves(x: _Leaves, theta: _Leaves, dtheta: _Tangents) -> _Leaves:
        moves = [
            jnp.zeros_like(leaf) if tangent is None else tangent
            for leaf, tangent in zip(theta, dtheta, strict=True)
        ]
        dx = rule(
            x_tree.unflatten(x),
            theta_tree.unflatten(theta),
            theta_tree.unflatten(moves),
        )
        return tuple(x_tree.flatten_up_to(dx))

    return x_tree.unflatten(identity_of_leaves(on_leaves, x_leaves, theta_leaves))


def identity_of_leaves(
    rule: _LeafRule, x: Sequence[Array], theta: Sequence[Array]
) -> list[Array]:
    """As `implicit_identity`, for leaves; those of `theta` may be of any dtype.

    The rule gets None as the tangent of a leaf that does not move: an integer, a key,
    or an argument that nobody differentiates, for which it need do no work.
    """
    # Stopped before the bind: the rule never reads the tangent of x.
    x = [jax.lax.stop_gradient(leaf) for leaf in x]
    return _identity_p.bind(*x, *theta, rule=rule, size=len(x))


@_identity_p.def_impl
@_identity_p.def_abstract_eval
def _first(*leaves: Any, rule: _LeafRule, size: int) -> list[Any]:
    return list(leaves[:size])


mlir.register_lowering(_identity_p, lambda _, *leaves, rule, size: leaves[:size])


def _jvp(
    primals: _Leaves, tangents: tuple[Any, ...], *, rule: _LeafRule, size: int
) -> tuple[list[Array], list[Array]]:
    x = _identity_p.bind(*primals, rule=rule, size=size)  # the recursion: dx, d2x, ...
    dtheta = tuple(None if _still(t) else t for t in tangents[size:])
    if all(t is None for t in dtheta):
        return x, [jnp.zeros_like(leaf) for leaf in x]
    return x, list(rule(tuple(x), tuple(primals[size:]), dtheta))


def _still(tangent: Any) -> bool:
    return isinstance(tangent, ad.Zero) or tangent.dtype == jax.dtypes.float0


ad.primitive_jvps[_identity_p] = _jvp


def _batch(
    leaves: _Leaves, axes: tuple[int | None, ...], *, rule: _LeafRule, size: int
) -> tuple[list[Array], list[int]]:
    """Every x leaf gets the batch axis; the theta leaves keep what they have."""
    length = next(
        leaf.shape[axis]
        for leaf, axis in zip(leaves, axes, strict=True)
        if axis is not None
    )
    x = [
        jnp.broadcast_to(leaf, (length, *leaf.shape))
        if axis is None
        else jnp.moveaxis(leaf, axis, 0)
        for leaf, axis in zip(leaves[:size], axes[:size], strict=True)
    ]
    theta_axes = axes[size:]
    batched = jax.vmap(rule, in_axes=(0, theta_axes, theta_axes))
    out = _identity_p.bind(*x, *leaves[size:], rule=batched, size=size)
    return out, [0] * size


batching.primitive_batchers[_identity_p] = _batch
