"""EDM's public weights, read from safetensors files without running their code."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiv.typing import Array, Params

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_LONGEST_HEADER = 100_000_000  # bytes, as in the reference implementation
_MOST_AXES = 16
_NAMES_SHOWN = 10


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _header(raw: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    """The descriptions of the tensors, and the bytes after them."""
    if raw.size < 8:
        raise ValueError(f"it has {raw.size} bytes")
    length = int(raw[:8].view("<u8")[0])
    if length > min(raw.size - 8, _LONGEST_HEADER):
        raise ValueError(f"its header is said to have {length} bytes")
    try:
        text = raw[8 : 8 + length].tobytes().decode()
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header cannot be read ({error})") from error
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop("__metadata__", None)
    return header, raw[8 + length :]


def _is_size(x: Any) -> bool:
    return type(x) is int and x >= 0


def _tensor(entry: Any, data: np.ndarray) -> tuple[int, int, np.ndarray]:
    """Where a tensor begins and ends in the data, and the tensor."""
    if not isinstance(entry, dict):
        raise ValueError("it is not described by an object")
    dtype, shape, span = (entry.get(k) for k in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"its dtype is {dtype!r}; expected one of {[*_DTYPES]}")
    if not (isinstance(shape, list) and len(shape) <= _MOST_AXES):
        raise ValueError("its shape is no list of few numbers")
    if not (isinstance(span, list) and len(span) == 2):
        raise ValueError("its data_offsets are no pair")
    if not all(map(_is_size, [*shape, *span])):
        raise ValueError("its shape or data_offsets are no sizes")
    (begin, end), kind = span, np.dtype(_DTYPES[dtype])
    if not begin <= end <= data.size or end - begin != math.prod(shape) * kind.itemsize:
        raise ValueError(
            f"its shape is {shape}, its data bytes {begin} to {end} of {data.size}"
        )
    x = data[begin:end].view(kind).reshape(shape)
    if dtype == "BF16":  # the upper half of a float32
        x = (x.astype(np.uint32) << 16).view(np.float32)
    return begin, end, x


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file, mapped into memory where the dtype allows."""
    try:
        if os.path.getsize(path) == 0:
            raise ValueError("it is empty")
        header, data = _header(np.memmap(path, np.uint8, mode="r"))
        spans, tensors = [], {}
        for name, entry in header.items():
            try:
                begin, end, tensors[name] = _tensor(entry, data)
            except ValueError as error:
                raise ValueError(f"of {name!r}: {error}") from error
            spans.append((begin, end))
        last = 0
        for begin, end in sorted(spans):
            if begin != last:
                raise ValueError(f"its tensors overlap or leave a gap at byte {begin}")
            last = end
        if last != data.size:
            raise ValueError(f"{data.size - last} bytes belong to no tensor")
    except ValueError as error:
        raise ValueError(f"{path} is no safetensors file: {error}.") from error
    return tensors


def _edm_name(path: tuple) -> str:
    """The original's name of the variable of an `EDMPrecond`, or of its network."""
    *parts, last = map(str, path)
    if parts[:1] == ["net"]:
        parts = parts[1:]
    if "attention" in parts:  # in the original its layers are the block's own
        parts.remove("attention")
        parts[-1] = parts[-1].replace("norm", "norm2")
    last = {"kernel": "weight", "scale": "weight"}.get(last, last)
    return ".".join(["model", *parts, last])


_AXES = {2: (1, 0), 4: (3, 2, 0, 1)}  # of ours, in the original's order


def _to_ours(x: np.ndarray) -> Array:
    if x.ndim in _AXES:
        x = x.transpose(np.argsort(_AXES[x.ndim]))
    return jnp.array(x.astype(np.promote_types(x.dtype, np.float32), copy=False))


def _shape_there(shape: tuple[int, ...]) -> tuple[int, ...]:
    axes = _AXES.get(len(shape), range(len(shape)))
    return tuple(shape[axis] for axis in axes)


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = ", ..." if len(names) > _NAMES_SHOWN else ""
    return [f"{len(names)} {what}: {', '.join(sorted(names)[:_NAMES_SHOWN])}{more}"]


def _check_fit(
    path: str | os.PathLike,
    tensors: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
) -> None:
    """Raises ValueError unless the file has the network's tensors, and no others."""
    shapes = [
        f"{name} {tensors[name].shape} for {shape}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    problems = [
        *_listed("missing", [name for name in expected if name not in tensors]),
        *_listed("unexpected", [name for name in tensors if name not in expected]),
        *_listed("of another shape", shapes),
    ]
    if problems:
        raise ValueError(f"{path} does not fit the network; {'; '.join(problems)}.")


def load_edm_safetensors(path: str | os.PathLike, net: Any) -> Params:
    """Parameters of an EDM network from a safetensors file of the original's weights.

    The file holds `ema.state_dict()` of the original project under its own names, such
    as `model.enc.32x32_block0.conv0.weight`; docs/convert_edm_to_safetensors.md tells
    how to make one from a published pickle. The file is data: nothing in it is run.
    Kernels are brought from OIHW to HWIO, matrices transposed, half precision becomes
    float32, and the filters of the resampling, which the network has, are passed over.

    Args:
      path: the file; it is mapped, not read at once.
      net: the `EDMPrecond`, or the `SongUNet` or `DhariwalUNet` in it, that the weights
        are for. Its own weights are not looked at: it may come from `nnx.eval_shape`.

    Returns:
      What the `apply` of `jaxdiv.networks.pure(net)` takes as `params`, in float32, or
      float64 where the file and jax have it. For an NCSN++ they hold the frequencies
      of its embedding too, at `map_noise/freqs`, one leaf more than the params that
      `pure` returns: their gradient is 0, but keep weight decay from them.

    Raises:
      ValueError: the file is no sound safetensors file of floating tensors, or its
        names or shapes are not those of the network, which it lists.
      OSError: there is no such file.

    Not differentiable.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from flax import nnx
      >>> from safetensors.numpy import save_file
      >>> from jaxdiv import diffusion
      >>> net = nnx.Dict(map_layer0=nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
      >>> tensors = {"model.map_layer0.weight": np.ones((3, 2), np.float16)}
      >>> tensors |= {"model.map_layer0.bias": np.zeros(3, np.float16)}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save_file(tensors, path := pathlib.Path(folder) / "one_layer.safetensors")
      ...     params = diffusion.load_edm_safetensors(path, net)
      >>> kernel = params["map_layer0"]["kernel"]
      >>> print(kernel.shape, kernel.dtype)
      (2, 3) float32

    References:
      Karras et al., 2022, arXiv:2206.00364, and the authors' code; the safetensors
      format, https://github.com/huggingface/safetensors.
    """
    from flax import nnx

    variables = {
        _edm_name(where): (where, variable.get_value().shape)
        for where, variable in nnx.to_flat_state(nnx.state(net))
    }
    tensors = {
        name: x
        for name, x in read_safetensors(path).items()
        if not name.endswith(".resample_filter")
    }
    expected = {name: _shape_there(shape) for name, (_, shape) in variables.items()}
    _check_fit(path, tensors, expected)
    params: Params = {}
    for name, (where, _) in variables.items():
        node = params
        for part in where[:-1]:
            node = node.setdefault(str(part), {})
        node[str(where[-1])] = _to_ours(tensors[name])
    return params
