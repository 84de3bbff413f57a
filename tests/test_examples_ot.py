import json

import pytest

from examples import ot_color_map


@pytest.mark.slow
def test_quick_run(tmp_path, capsys):
    settings = ot_color_map.Settings(out=tmp_path / "run", quick=True)
    assert ot_color_map.main(settings) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(result["claims"]) == 4
    assert not any(claim["promised"] for claim in result["claims"])
    assert result["table"]["identity"]["gap l2^2"] == pytest.approx(0, abs=1e-6)
    picture = tmp_path / "run" / "recoloured.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SystemExit, match="Cannot write to .*--out"):
        ot_color_map.main(ot_color_map.Settings(out=file / "run"))
