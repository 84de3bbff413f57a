"""Data parallelism: parameters on every device, a share of the batch on each."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdiv import _check
from jaxdiv.typing import PyTree

AXIS = "data"


def data_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh of one axis, `"data"`, over the devices of all processes.

    Args:
      num_devices: take the first so many; None takes all.

    Returns:
      The mesh, for `fit` and `shard_batch`.

    Raises:
      ValueError: there are fewer devices.

    Example:
      >>> from jaxdiv import training
      >>> print(dict(training.data_mesh(1).shape))
      {'data': 1}
    """
    devices = jax.devices()
    count = len(devices) if num_devices is None else num_devices
    if not 1 <= count <= len(devices):
        raise ValueError(
            f"num_devices is {count}; expected at least 1 and at most "
            f"{len(devices)}, the number of devices."
        )
    return jax.make_mesh(
        (count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count]
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The leading axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def check_divides(mesh: Mesh, batch_size: int) -> None:
    if AXIS not in mesh.shape:
        raise ValueError(f"mesh has the axes {mesh.axis_names}; expected {AXIS!r}.")
    if batch_size % mesh.shape[AXIS]:
        raise ValueError(
            f"A batch of {batch_size} does not divide over {mesh.shape[AXIS]} devices."
        )


def shard_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Places equal shares of a batch on the devices of a mesh.

    A jitted function of it and of replicated parameters is then data parallel as it
    stands: its means are over the whole batch.

    Args:
      batch: pytree of arrays with a common leading axis.
      mesh: from `data_mesh`.

    Returns:
      The batch, sharded along its leading axis.

    Raises:
      ValueError: the batch does not divide over the devices, or an array has no or
        another leading axis.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import training
      >>> batch = training.shard_batch(jnp.ones((8, 2)), training.data_mesh(1))
      >>> print(*batch.sharding.spec)
      data
    """
    check_divides(mesh, leading_size(batch=batch))
    return jax.device_put(batch, split(mesh))


def leading_size(**trees: PyTree) -> int:
    """The length of the leading axis that all arrays of a pytree share."""
    ((name, tree),) = trees.items()
    shapes = {
        jax.tree_util.keystr(path): jax.numpy.shape(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
    if not all(shapes.values()) or len({shape[0] for shape in shapes.values()}) != 1:
        raise ValueError(
            f"{name} has arrays of the shapes {shapes}; expected one common leading "
            "axis."
        )
    size = next(iter(shapes.values()))[0]
    _check.in_range(1, closed=True, **{f"size of {name}": size})
    return size
