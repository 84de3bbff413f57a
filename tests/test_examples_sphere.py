import json

import numpy as np
import pytest

from examples import matern_smoothness, vmf_features


def run(example, folder, capsys):
    assert example.main(example.Settings(out=folder, quick=True)) == 0
    printed = capsys.readouterr().out
    for picture in folder.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert str(picture) in printed
    return json.loads((folder / "result.json").read_text())


@pytest.mark.slow
def test_vmf_features(tmp_path, capsys):
    result = run(vmf_features, tmp_path / "run", capsys)
    assert [row["d"] for row in result["fits"]] == [512, 2048] * 2
    assert all(row["error 64"] < 1e-13 for row in result["fits"])


@pytest.mark.slow
def test_matern_smoothness(tmp_path, capsys):
    result = run(matern_smoothness, tmp_path / "run", capsys)
    for row in result["fits"]:
        assert abs(np.log(row["learned"] / row["nu"])) < 0.5
        assert row["log-likelihood"] > row["best half-integer"] - 1


def test_many_digits_of_the_ratio():
    # I_{d/2} / I_{d/2-1} in three dimensions is coth - 1/kappa.
    for kappa in (0.5, 30.0):
        expected = 1 / np.tanh(kappa) - 1 / kappa
        value = float(vmf_features.ratio(3, vmf_features.mpmath.mpf(kappa)))
        assert value == pytest.approx(expected, rel=1e-14)
