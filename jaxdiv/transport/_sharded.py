"""Entropic transport with the rows of the first cloud spread over devices."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdiv.transport import _blocks
from jaxdiv.transport._cost import clouds
from jaxdiv.transport._sinkhorn import SinkhornResult, sinkhorn
from jaxdiv.typing import ArrayLike


def sharded_sinkhorn(
    mesh: Mesh,
    axis_name: str,
    x: ArrayLike,
    y: ArrayLike,
    *,
    a: ArrayLike | None = None,
    **options: Any,
) -> SinkhornResult:
    """`sinkhorn` on many devices: each holds the costs of its own rows.

    An iteration sums one array of m numbers, and the error, over the devices; f stays
    where it is.

    Args:
      mesh: the devices.
      axis_name: axis of the mesh that x is spread over.
      x: points, shape `(n, d)`; where n is no multiple of the number of devices, points
        of weight 0 fill it up and are taken off again.
      y: points, shape `(m, d)`, the same on all devices.
      a: weights of x; None is uniform.
      **options: of `sinkhorn`; `init` is not among them, nor the method `"pallas"`,
        whose kernel no compiler spreads over devices.

    Returns:
      `SinkhornResult`, the same as on one device up to rounding; `f` and `a` are
      sharded where n is a multiple of the number of devices.

    Raises:
      TypeError: as `sinkhorn`, or an unknown option.
      ValueError: as `sinkhorn`, or the mesh has no such axis.

    Differentiable as `sinkhorn`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import transport
      >>> mesh = jax.make_mesh((jax.device_count(),), ("rows",))
      >>> x = jnp.arange(8.0)[:, None]
      >>> result = transport.sharded_sinkhorn(mesh, "rows", x, x + 1, eps=0.1)
      >>> print(f"{result.primal_cost:.2f}")
      1.00
    """
    if axis_name not in mesh.axis_names:
        raise ValueError(
            f"axis_name is {axis_name!r}; expected one of {mesh.axis_names}."
        )
    if "init" in options:
        raise TypeError("init is no option here.")
    if options.get("method") == "pallas":
        raise ValueError("method is 'pallas'; expected another on many devices.")
    x, y = clouds(x, y)
    if options.get("method", "auto") == "auto":
        options["method"] = _blocks.xla_method(x, y)
    n = x.shape[0]
    fill = -n % mesh.shape[axis_name]
    a = jnp.full(n, 1 / n, x.dtype) if a is None else jnp.asarray(a)
    automatic = (AxisType.Auto,) * len(mesh.axis_names)  # the compiler places the sums
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=automatic)
    rows = NamedSharding(mesh, PartitionSpec(axis_name))
    everywhere = NamedSharding(mesh, PartitionSpec())
    x = jax.device_put(jnp.pad(x, [(0, fill), (0, 0)], mode="edge"), rows)
    a = jax.device_put(jnp.pad(a, (0, fill)), rows)
    result = sinkhorn(x, jax.device_put(y, everywhere), a=a, **options)
    if not fill:
        return result
    return result._replace(f=result.f[:n], a=result.a[:n])
