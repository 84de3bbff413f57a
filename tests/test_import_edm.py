"""Weights under the original's names give the original's outputs, and no file harms."""

import json
import struct

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from jaxdiv import diffusion, networks
from tests import edm_in_numpy
from tests.edm_in_numpy import ADM, DDPMPP, NCSNPP, Size
from tests.test_networks import NCSNPP as NCSNPP_OPTIONS
from tests.test_networks import QUICK


def build(kind, size, **options):
    """The network of that size in its preconditioning, without weights."""
    options |= {
        "label_dim": size.labels,
        "augment_dim": size.augment,
        "model_channels": size.channels,
        "channel_mult": size.mult,
        "num_blocks": size.blocks,
        "attn_resolutions": size.attention,
    }
    if kind.adm:
        network, options = (
            networks.DhariwalUNet,
            options | {"channels_per_head": size.head},
        )
    else:
        network = networks.SongUNet
        options |= NCSNPP_OPTIONS if kind.ncsnpp else {}
    return nnx.eval_shape(
        lambda: networks.EDMPrecond(
            network(size.resolution, 3, **options, rngs=nnx.Rngs(0))
        )
    )


def by_hand(path, tensors, *, dtype="F32", **changes):
    """Writes the format from its description."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, x in tensors.items():
        raw = np.asarray(x).tobytes()
        span = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(x.shape), "data_offsets": span}
        header[name] |= changes
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def save(path, weights, dtype=np.float32):
    save_file({k: np.ascontiguousarray(w, dtype) for k, w in weights.items()}, path)
    return path


MODELS = {
    "ddpmpp": (DDPMPP, Size(8, 8, (1, 2), 1, (4,), labels=5, augment=9)),
    "ncsnpp": (NCSNPP, Size(8, 8, (1, 2), 1, (4,), labels=5, augment=9)),
    "adm": (ADM, Size(8, 8, (1, 2), 1, (4,), labels=5, augment=9, head=8)),
    # Three resolutions: the image joins twice, once with the channels of the first.
    "ncsnpp, three levels": (NCSNPP, Size(8, 4, (2, 1, 2), 1, (8,))),
    # Every block of the decoder attends at 8; channels go down on the way down.
    "adm, three levels": (ADM, Size(8, 8, (2, 1, 2), 1, (8, 2), head=4)),
}
X = np.cos(np.arange(576.0)).reshape(3, 8, 8, 3)
SIGMA = np.array([0.05, 0.7, 9.0])
CLASSES = np.eye(5)[[1, 0, 4]]
AUGMENT = np.sin(np.arange(27.0)).reshape(3, 9)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_numpy(name, tmp_path, x64):
    kind, size = MODELS[name]
    weights = edm_in_numpy.draw(kind, size)
    labels = (CLASSES, AUGMENT) if size.labels else (None, None)
    expected = edm_in_numpy.Model(kind, size, weights).denoise(X, SIGMA, *labels)

    net = build(kind, size)
    path = save(tmp_path / "weights.safetensors", weights, np.float64)
    params = diffusion.load_edm_safetensors(path, net)
    apply, _ = networks.pure(net)
    run = jax.jit(apply, compiler_options=QUICK)
    out = run(params, *map(jnp.asarray, (X, SIGMA)), *labels)
    np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-9)


# `SongUNet` and `DhariwalUNet` of NVlabs/edm at 008a4e5 in float64, with these weights.
ORIGINAL = {
    "ddpmpp": (*MODELS["ddpmpp"], [0.9591225, 0.7072185, 0.5920691], -40.198183),
    "ncsnpp": (*MODELS["ncsnpp"], [-0.2536651, -1.6699242, -1.6003797], -4.697799),
    "adm": (
        ADM,
        Size(8, 64, (2, 1), 1, (4,), labels=5, augment=9),
        [-0.0308198, 0.1389707, 0.5481545],
        71.121572,
    ),
}


@pytest.mark.parametrize("name", ORIGINAL)
def test_numpy_is_the_original(name):
    kind, size, pixels, total = ORIGINAL[name]
    model = edm_in_numpy.Model(kind, size, edm_in_numpy.draw(kind, size))
    out = model(X, np.log(SIGMA) / 4, CLASSES, AUGMENT)
    np.testing.assert_allclose(out[:, 3, 5, 1], pixels, atol=2e-7)
    tilted = np.sum(out * np.sin(np.arange(576.0).reshape(out.shape)))
    np.testing.assert_allclose(tilted, total, atol=1e-5)


CIFAR = Size(32, 128, (2, 2, 2), 4, (16,), augment=9)
IMAGENET = Size(64, 192, (1, 2, 3, 4), 3, (32, 16, 8), labels=1000)


@pytest.mark.parametrize(
    ("kind", "size", "tensors", "count"),
    [
        (DDPMPP, CIFAR, 425, 55_733_891),
        (NCSNPP, CIFAR, 432, 56_397_827),
        (ADM, IMAGENET, 553, 295_899_267),
    ],
)
def test_the_published_models_have_the_names_and_shapes_expected(
    kind, size, tensors, count, monkeypatch
):
    shapes = edm_in_numpy.state_shapes(kind, size)
    assert len(shapes) == tensors
    # No file of 1.2 GB: zeros that take no memory, and nothing copied out of them.
    module = "jaxdiv.diffusion._import_edm"
    zeros = {k: np.broadcast_to(np.float32(0), shape) for k, shape in shapes.items()}
    monkeypatch.setattr(f"{module}.read_safetensors", lambda _: zeros)
    monkeypatch.setattr(f"{module}._to_ours", lambda x: x)
    params = diffusion.load_edm_safetensors("none", build(kind, size))
    freqs = params["net"].get("map_noise", {"freqs": np.zeros(0)})["freqs"]
    assert sum(x.size for x in jax.tree.leaves(params)) - freqs.size == count


class Layer(nnx.Module):
    def __init__(self):
        self.map_layer0 = nnx.Linear(2, 3, rngs=nnx.Rngs(0))


KERNEL = np.array([[1.5, -2.0], [0.25, 3.0], [-0.5, 8.0]])
TENSORS = {"model.map_layer0.weight": KERNEL, "model.map_layer0.bias": np.ones(3)}


@pytest.mark.parametrize("writer", ["package", "hand"])
@pytest.mark.parametrize(
    ("code", "dtype"),
    [
        ("F16", np.float16),
        ("BF16", ml_dtypes.bfloat16),
        ("F32", np.float32),
        ("F64", np.float64),
    ],
)
def test_every_floating_dtype_becomes_float32(code, dtype, writer, tmp_path):
    tensors = {name: x.astype(dtype) for name, x in TENSORS.items()}
    path = tmp_path / "layer.safetensors"
    if writer == "package":
        save_file(tensors, path)
    else:
        by_hand(path, tensors, dtype=code)
    layer = diffusion.load_edm_safetensors(path, Layer())["map_layer0"]
    assert {x.dtype for x in layer.values()} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(layer["kernel"], KERNEL.T)
    np.testing.assert_array_equal(layer["bias"], np.ones(3))


def test_the_params_outlive_the_file(tmp_path):
    path = save(tmp_path / "layer.safetensors", TENSORS)
    params = diffusion.load_edm_safetensors(path, Layer())
    path.write_bytes(bytes(path.stat().st_size))
    np.testing.assert_array_equal(params["map_layer0"]["bias"], np.ones(3))


def refuse(path, *words, net=None):
    with pytest.raises(ValueError, match=path.name) as raised:
        diffusion.load_edm_safetensors(path, Layer() if net is None else net)
    missing = [word for word in words if word not in str(raised.value)]
    assert not missing, raised.value


def test_names_and_shapes_that_do_not_fit(tmp_path):
    path = tmp_path / "layer.safetensors"
    renamed = {"model.map_layer0.w": KERNEL, "model.map_layer0.bias": np.ones(3)}
    save(path, renamed)
    refuse(path, "1 missing: model.map_layer0.weight", "model.map_layer0.w.")
    save(path, TENSORS | {"model.map_layer0.weight": KERNEL.T})
    refuse(path, "1 of another shape", "model.map_layer0.weight (2, 3) for (3, 2)")
    save(path, {f"a{i}": np.ones(1) for i in range(30)})
    refuse(path, "30 unexpected", "2 missing", "...")


ONE = {"model.map_layer0.bias": np.ones(3, np.float32)}
HEADERS = {
    "not an object": b"[1, 2]",
    "no JSON": b"{'a': 1}",
    "no text": b"\xff\xfe\xfd\xfc",
    "bottomless": b'{"a":' * 100_000,
    "huge number": b'{"a": {"dtype": "F32", "shape": [' + b"9" * 9_000 + b"]}}",
    "name twice": b'{"__metadata__": {}, "__metadata__": {}}',
    "tensor is a list": b'{"a": [1]}',
    "nothing said": b'{"a": {}}',
}
CHANGES = {
    "unknown dtype": {"dtype": "F8_E4M3"},
    "dtype is a list": {"dtype": []},
    "integers": {"dtype": "I32"},
    "negative size": {"shape": [-3]},
    "true for a size": {"shape": [True]},
    "fraction for a size": {"shape": [3.0]},
    "shape is a number": {"shape": 3},
    "thousand axes": {"shape": [1] * 1000},
    "shape and data differ": {"shape": [4]},
    "enormous": {"shape": [2**62, 2**62]},
    "beyond the file": {"shape": [1000], "data_offsets": [0, 4000]},
    "negative offset": {"data_offsets": [-12, 0]},
    "backwards": {"data_offsets": [12, 0]},
    "three offsets": {"data_offsets": [0, 12, 12]},
    "gap": {"shape": [2], "data_offsets": [4, 12]},
    "rest": {"shape": [2], "data_offsets": [0, 8]},
}


@pytest.mark.parametrize("name", HEADERS)
def test_header_that_is_none(name, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", len(HEADERS[name])) + HEADERS[name])
    refuse(path, "no safetensors file")


@pytest.mark.parametrize("name", CHANGES)
def test_tensor_that_cannot_be(name, tmp_path):
    path = by_hand(tmp_path / "bad.safetensors", ONE, **CHANGES[name])
    refuse(path, "no safetensors file")


def test_tensors_that_overlap(tmp_path):
    path = tmp_path / "bad.safetensors"
    both = ONE | {"model.map_layer0.weight": np.ones(3, np.float32)}
    by_hand(path, both, data_offsets=[0, 12])
    refuse(path, "overlap")


@pytest.mark.parametrize("length", [0, 5, 8, 40, -1])
def test_file_cut_short(length, tmp_path):
    path = by_hand(tmp_path / "bad.safetensors", ONE)
    path.write_bytes(path.read_bytes()[:length])
    refuse(path, "no safetensors file")


@pytest.mark.parametrize("length", [2**63, 10**9, 2**64 - 1])
def test_header_longer_than_the_file(length, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    refuse(path, "header", str(length))


def test_pickles_are_not_run(tmp_path):
    path = tmp_path / "network.pkl"
    ran = tmp_path / "ran"
    path.write_bytes(b"cos\nmkdir\n(V" + str(ran).encode() + b"\ntR.")
    refuse(path, "no safetensors file")
    assert not ran.exists()
