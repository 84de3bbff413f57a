"""Checkpoints of pytrees, written whole or not at all, by orbax."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.training import _extra
from jaxdiv.typing import PyTree

_LISTED = 20  # differences that an error message lists at most
_ROOT = "tree"  # orbax wants a dict at the root; a state may be anything


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _storable(tree: PyTree) -> PyTree:
    """The tree with arrays for leaves: typed keys as their bits."""

    def convert(leaf: Any) -> Any:
        if _is_key(leaf):
            return jax.random.key_data(leaf)
        return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)

    return {_ROOT: jax.tree.map(convert, tree)}


def _absolute(path: str | os.PathLike) -> pathlib.Path:
    return pathlib.Path(path).expanduser().absolute()


def write(
    path: str | os.PathLike, tree: PyTree, metadata: Mapping[str, Any] | None = None
) -> None:
    """As `save`, with a JSON object beside the arrays."""
    ocp = _extra.load("orbax.checkpoint")
    path = _absolute(path)
    if path.exists():
        raise ValueError(f"{path} exists; choose another path, or delete it.")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, _storable(tree), custom_metadata=dict(metadata or {}))


def save(path: str | os.PathLike, state: PyTree) -> None:
    """Writes a pytree to a new folder, whole or not at all.

    The folder has another name until it is complete: a process that is killed leaves
    no half of a checkpoint under `path`.

    Args:
      path: folder to make; its parents are made too.
      state: pytree of arrays, numbers and typed keys.

    Raises:
      ImportError: orbax is not installed.
      ValueError: `path` exists.

    Example:
      >>> import tempfile
      >>> import jax
      >>> from jaxdiv import training
      >>> state = {"x": jax.numpy.arange(3), "key": jax.random.key(1)}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     training.save(f"{folder}/0", state)
      ...     print(training.restore(f"{folder}/0", state)["x"])
      [0 1 2]
    """
    write(path, state)


def _signature(tree: PyTree, is_leaf: Any = None) -> dict[str, tuple]:
    """Path -> (shape, dtype) of every array."""
    leaves = jax.tree.leaves_with_path(tree[_ROOT], is_leaf=is_leaf)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): (
            tuple(leaf.shape),
            np.dtype(leaf.dtype).name,
        )
        for path, leaf in leaves
    }


def _check_same(path: pathlib.Path, saved: dict, expected: dict) -> None:
    lines = []
    for name in sorted(saved.keys() | expected.keys()):
        if name not in expected:
            lines.append(f"{name}: saved, but not expected")
        elif name not in saved:
            lines.append(f"{name}: expected, but not saved")
        elif saved[name] != expected[name]:
            lines.append(f"{name}: saved {saved[name]}, expected {expected[name]}")
    if lines:
        more = len(lines) - _LISTED
        listed = "\n  ".join(lines[:_LISTED]) + (
            f"\n  and {more} more" if more > 0 else ""
        )
        raise ValueError(
            f"The checkpoint {path} is of another structure, shape or dtype:\n"
            f"  {listed}\nRestore it with the settings that it was saved with."
        )


def _unreadable(path: pathlib.Path) -> str:
    return (
        f"{path} is not a checkpoint, or is damaged. Give the folder that "
        "`jaxdiv.training.save` wrote, or delete this one and start anew or from an "
        "earlier checkpoint."
    )


def read_metadata(path: str | os.PathLike) -> tuple[PyTree, dict[str, Any]]:
    """Shapes and dtypes of what a checkpoint holds, and its JSON object."""
    ocp = _extra.load("orbax.checkpoint")
    path = _absolute(path)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(path)
        return {_ROOT: metadata.item_metadata.tree[_ROOT]}, metadata.custom_metadata
    except Exception as error:  # orbax has no common type for what it cannot read
        raise ValueError(_unreadable(path)) from error


def _target(leaf: Any) -> Any:
    """What orbax is to restore in the place of `leaf`, on the same devices."""
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return leaf


def restore(path: str | os.PathLike, like: PyTree) -> PyTree:
    """Reads a pytree that `save` wrote; no code is loaded with it.

    Args:
      path: folder of the checkpoint.
      like: a state of the same structure, shapes and dtypes, such as the initial one.
        What comes back is on its devices.

    Returns:
      The saved pytree, bit for bit.

    Raises:
      ImportError: orbax is not installed.
      ValueError: the folder holds no readable checkpoint, or its structure, a shape or
        a dtype is another than that of `like`; the message lists the paths.

    Example:
      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> from jaxdiv import training
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     training.save(f"{folder}/0", {"w": jnp.ones(2)})
      ...     print(training.restore(f"{folder}/0", like={"w": jnp.zeros(2)})["w"])
      [1. 1.]
    """
    ocp = _extra.load("orbax.checkpoint")
    path = _absolute(path)
    target = _storable(like)
    saved, _ = read_metadata(path)
    _check_same(
        path, _signature(saved, lambda x: hasattr(x, "dtype")), _signature(target)
    )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(path, jax.tree.map(_target, target))[_ROOT]
    except Exception as error:  # as above
        raise ValueError(_unreadable(path)) from error
    return jax.tree.map(
        lambda old, new: (
            jax.random.wrap_key_data(new, impl=jax.random.key_impl(old))
            if _is_key(old)
            else new
        ),
        like,
        tree,
    )
