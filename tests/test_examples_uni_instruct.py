import json

import pytest

from examples import uni_instruct


@pytest.mark.slow
def test_quick_run(tmp_path, capsys):
    settings = uni_instruct.Settings(out=tmp_path / "run", quick=True)
    assert uni_instruct.main(settings) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(result["claims"]) == 8
    assert all(claim["promised"] and claim["holds"] for claim in result["claims"])
    assert list(result["table"]) == ["uni kl + GAN"]
    assert list(result["particles"]) == ["SDS", "kl"]
    picture = tmp_path / "run" / "samples.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in capsys.readouterr().out


def test_particles_that_lose_their_modes_are_told():
    scores = {"SDS": {"modes": [2.0]}, "VSD": {"modes": [8.0]}, "kl": {"modes": [3.0]}}
    claims = uni_instruct.particle_claims(scores)
    assert [claim.holds for claim in claims] == [True, False]
    assert all(claim.promised for claim in claims)


def test_settings_that_cannot_be():
    with pytest.raises(SystemExit, match="--steps 30, --seeds 3"):
        uni_instruct.main(uni_instruct.Settings(steps=30))


def test_a_folder_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SystemExit, match="Cannot write to .*--out"):
        uni_instruct.main(uni_instruct.Settings(out=file / "run"))
