import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiv import training

ADAM = optax.adam(1e-2)
DATA = {"x": jnp.linspace(-1, 1, 64)[:, None], "y": jnp.sin(jnp.linspace(-1, 1, 64))}
KEY = jax.random.key(3)


def loss(params, batch, key):
    noise = 0.01 * jax.random.normal(key, batch["y"].shape)
    prediction = jnp.tanh(batch["x"] @ params["w"]) @ params["v"]
    return (prediction - batch["y"] + noise) ** 2


def initial():
    key_w, key_v = jax.random.split(jax.random.key(0))
    params = {"w": jax.random.normal(key_w, (1, 8)), "v": jax.random.normal(key_v, 8)}
    return training.init_state(params, ADAM)


STEP = training.make_train_step(loss, ADAM, ema_decay=0.9)


def fit(**options):
    settings = {"steps": 20, "batch_size": 16, "chunk": 5} | options
    return training.fit(STEP, initial(), DATA, KEY, **settings)


def same(x, y):
    jax.tree.map(np.testing.assert_array_equal, x, y)


def alike(x, y):
    """Equal up to the rounding by which two compiled programs may differ."""
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), x, y
    )


@pytest.mark.slow
def test_training_lowers_the_loss_and_averages_the_parameters():
    state, history, start = fit(steps=300)
    assert start == 0
    assert history["loss"].shape == history["grad_norm"].shape == (300,)
    assert history["loss"][-50:].mean() < 0.1 * history["loss"][:20].mean()
    assert state.step == 300
    gap = optax.tree.norm(jax.tree.map(jnp.subtract, state.ema, state.params))
    assert 0 < gap < 0.5


def test_one_step_by_hand():
    sgd = optax.sgd(0.5)
    step = training.make_train_step(
        lambda w, batch, key: w * batch, sgd, ema_decay=0.25
    )
    state = training.init_state(jnp.array(1.0), sgd)
    state, metrics = jax.jit(step)(state, jnp.array([2.0, 4.0]), KEY)
    assert metrics["loss"] == 3
    assert metrics["grad_norm"] == 3
    assert state.params == 1 - 0.5 * 3
    np.testing.assert_allclose(state.ema, 0.25 * 1 + 0.75 * -0.5)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [1, 7, 20])
def test_the_chunk_does_not_change_the_run(chunk):
    alike(fit(chunk=chunk).state, fit().state)


def test_ten_and_ten_are_twenty(tmp_path):
    straight = fit()
    first = fit(steps=10, checkpoint_dir=tmp_path / "run")
    assert first.state.step == 10
    resumed = fit(checkpoint_dir=tmp_path / "run", resume=True)
    assert resumed.start == 10
    same(resumed.state, straight.state)
    same(resumed.history, straight.history)
    again = fit(checkpoint_dir=tmp_path / "run", resume=True)
    assert again.start == 20
    same(again.state, straight.state)


def test_resume_with_nothing_saved_starts(tmp_path):
    result = fit(checkpoint_dir=tmp_path / "run", resume=True)
    assert result.start == 0
    same(result.state, fit().state)


def test_the_last_two_checkpoints_are_kept(tmp_path):
    fit(checkpoint_dir=tmp_path / "run", checkpoint_every=5)
    steps = sorted(int(path.name) for path in (tmp_path / "run").iterdir())
    assert steps == [15, 20]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resume": False}, "resume=True"),
        ({"steps": 5}, "20 steps"),
        ({"batch_size": 8}, "batch_size"),
        ({"settings": {"rate": 1.0}}, "rate"),
    ],
)
def test_another_run_is_not_continued(change, words, tmp_path):
    fit(checkpoint_dir=tmp_path / "run")
    with pytest.raises(ValueError, match=words):
        fit(**{"checkpoint_dir": tmp_path / "run", "resume": True} | change)


def test_save_and_restore_bit_for_bit(tmp_path):
    state = {"key": jax.random.key(5), "x": jnp.arange(3.0), "n": jnp.int32(7)}
    training.save(tmp_path / "a", state)
    like = {"key": jax.random.key(0), "x": jnp.zeros(3), "n": jnp.int32(0)}
    restored = training.restore(tmp_path / "a", like)
    same(restored["x"], state["x"])
    assert restored["n"] == 7
    same(jax.random.key_data(restored["key"]), jax.random.key_data(state["key"]))


def test_a_checkpoint_of_another_structure_lists_the_paths(tmp_path):
    training.save(tmp_path / "a", {"w": jnp.ones(3), "old": jnp.ones(1)})
    like = {"w": jnp.ones(4), "new": jnp.ones(1)}
    with pytest.raises(ValueError, match="w: saved") as raised:
        training.restore(tmp_path / "a", like)
    for words in ("old: saved, but not expected", "new: expected, but not saved"):
        assert words in str(raised.value)


@pytest.mark.parametrize("damage", ["empty", "foreign", "truncated"])
def test_a_folder_that_is_no_checkpoint(damage, tmp_path):
    path = tmp_path / "a"
    if damage == "truncated":
        training.save(path, {"w": jnp.ones(3)})
        for file in path.rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[:7])
    else:
        path.mkdir()
        if damage == "foreign":
            (path / "notes.txt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"not a checkpoint, or is damaged"):
        training.restore(path, {"w": jnp.ones(3)})


@pytest.mark.slow
def test_a_step_that_is_not_finite_ends_the_run(tmp_path):
    def poisoned(state, batch, key):
        state, metrics = STEP(state, batch, key)
        bad = state.step == 13
        return state, metrics | {"loss": jnp.where(bad, jnp.nan, metrics["loss"])}

    with pytest.raises(training.DivergedError, match=r"Step 12 .*loss") as raised:
        training.fit(
            poisoned,
            initial(),
            DATA,
            KEY,
            steps=20,
            batch_size=16,
            chunk=5,
            checkpoint_dir=tmp_path / "run",
        )
    result = raised.value.result
    alike(result.state, fit(steps=12).state)
    assert len(result.history["loss"]) == 12
    assert (tmp_path / "run" / "00000012").is_dir()


def test_nonfinite_gradients_can_be_skipped():
    def sometimes(params, batch, key):
        bad = jax.random.bernoulli(key, 0.3)
        return loss(params, batch, key) + jnp.where(bad, jnp.nan, 0) * params["w"].sum()

    step = training.make_train_step(sometimes, ADAM, skip_nonfinite=True)
    result = training.fit(step, initial(), DATA, KEY, steps=30, batch_size=8)
    assert result.history["nonfinite"].max() > 0
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(result.state))


@pytest.fixture
def keyboard():
    """Ctrl-C as a terminal gives it; a job in the background is started without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, keyboard):
    def pressed(state, batch, key):
        def press(step):
            if step == 7:
                os.kill(os.getpid(), signal.SIGINT)

        jax.debug.callback(press, state.step, ordered=False)
        return STEP(state, batch, key)

    with pytest.raises(training.InterruptedRunError, match="resume=True") as raised:
        training.fit(
            pressed,
            initial(),
            DATA,
            KEY,
            steps=1000,
            batch_size=16,
            chunk=5,
            checkpoint_dir=tmp_path / "run",
        )
    done = len(raised.value.result.history["loss"])
    assert 7 < done < 1000
    alike(raised.value.result.state, fit(steps=done).state)
    resumed = fit(steps=done + 5, checkpoint_dir=tmp_path / "run", resume=True)
    alike(resumed.state, fit(steps=done + 5).state)


def test_progress_goes_to_stderr_and_does_not_flood(capfd):
    fit(steps=200, progress="teacher")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "teacher" in captured.err
    assert captured.err.count("\n") <= 5


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    fit(steps=20, progress="teacher")
    last = sys.stderr.getvalue().rsplit("\r", maxsplit=1)[-1]
    for words in ("teacher: 100%", "20/20", "loss="):
        assert words in last


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"jaxdiv\[train\]"):
        training.save(tmp_path / "a", {"w": jnp.ones(1)})


def checkpoints(folder):
    return [int(p.name) for p in folder.glob("*") if p.name.isdigit()]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.013, 0.031])
def test_a_killed_run_goes_on(delay, tmp_path):
    code = """
        import sys
        from tests import test_training as t
        t.fit(steps=10**6, checkpoint_every=5, checkpoint_dir=sys.argv[1])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "run")]
    with subprocess.Popen(command) as run:
        # A checkpoint takes longer than five steps: most moments are inside one.
        while len(checkpoints(tmp_path / "run")) < 2 and run.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        run.kill()
    done = max(checkpoints(tmp_path / "run"))
    options = {"steps": done + 5, "checkpoint_every": 5}
    resumed = fit(checkpoint_dir=tmp_path / "run", resume=True, **options)
    assert resumed.start == done
    alike(resumed.state, fit(steps=done + 5).state)
    assert [p for p in (tmp_path / "run").iterdir() if not p.name.isdigit()] == []


def test_ema_half_life():
    decay = training.ema_half_life(1000.0, batch_size=10, ramp_up=None)
    np.testing.assert_allclose(decay(jnp.int32(5)) ** 100, 0.5, rtol=1e-4)


ON_DEVICES = """
    import json, sys
    import jax, jax.numpy as jnp
    from jaxdiv import training
    from tests import test_training as t

    assert jax.device_count() == 8
    batch = jax.tree.map(lambda x: x[:32], t.DATA)
    sharded = training.shard_batch(batch, training.data_mesh())
    step = jax.jit(t.STEP)
    one = step(t.initial(), batch, t.KEY)[1]
    eight = step(t.initial(), sharded, t.KEY)[1]
    runs = [t.fit(mesh=mesh).history for mesh in (None, training.data_mesh())]
    try:
        t.fit(batch_size=12, mesh=training.data_mesh())
    except ValueError as error:
        message = str(error)
    print(json.dumps({
        "one": {k: float(v) for k, v in one.items()},
        "eight": {k: float(v) for k, v in eight.items()},
        "runs": [r["loss"].tolist() for r in runs],
        "message": message,
    }))
"""


@pytest.mark.slow
def test_eight_devices_are_as_one():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ON_DEVICES)],
        env=os.environ | flags | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    for name, value in found["one"].items():
        np.testing.assert_allclose(found["eight"][name], value, rtol=1e-5)
    np.testing.assert_allclose(*found["runs"], rtol=1e-4)
    assert "12" in found["message"]
    assert "8 devices" in found["message"]
