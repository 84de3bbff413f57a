import json

import numpy as np
import pytest

from examples import monge_gap, ot_color_map, sinkhorn_speed


def run(example, folder, capsys, **settings):
    assert example.main(example.Settings(out=folder, **settings)) == 0
    printed = capsys.readouterr().out
    for picture in folder.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert str(picture) in printed
    return json.loads((folder / "result.json").read_text())


@pytest.mark.slow
def test_color_map(tmp_path, capsys):
    result = run(ot_color_map, tmp_path / "run", capsys, quick=True)
    assert len(result["claims"]) == 4
    assert not any(claim["promised"] for claim in result["claims"])
    assert result["table"]["identity"]["gap l2^2"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_monge_gap(tmp_path, capsys):
    result = run(monge_gap, tmp_path / "run", capsys, quick=True)
    assert not any(claim["promised"] for claim in result["claims"])
    for row in result["known"]:
        assert row["constant"] == pytest.approx(100, rel=0.1)
        if row["pair"].startswith("Gaussian"):
            assert row["linear"] < 1e-6
    assert result["sphere"]["Monge gap"]["off the sphere"] < 1e-6


@pytest.mark.slow
def test_sinkhorn_speed(tmp_path, capsys):
    result = run(sinkhorn_speed, tmp_path / "run", capsys, quick=True, rounds=1)
    assert [row["n"] for row in result["table"]] == [64, 128]


@pytest.mark.parametrize("example", [monge_gap, ot_color_map, sinkhorn_speed])
def test_a_folder_that_cannot_be_written(example, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SystemExit, match="Cannot write to .*--out"):
        example.main(example.Settings(out=file / "run"))


@pytest.mark.parametrize(
    ("start", "end", "count"),
    [
        ([[0, 0], [1, 0]], [[1, 1], [0, 1]], 1),
        ([[0, 0], [1, 0]], [[0, 1], [1, 1]], 0),
        ([[0, 0], [1, 0], [2, 0]], [[2, 1], [1, 1], [0, 1]], 3),
    ],
)
def test_crossings(start, end, count):

    offset = np.arange(len(start))[:, None] * 1e-3  # three never meet in one point
    start, end = np.asarray(start, float) + offset, np.asarray(end, float)
    assert monge_gap.crossings(start, end) == count
