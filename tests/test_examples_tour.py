import json

import pytest

from examples import divergence_tour


@pytest.mark.slow
def test_quick_run(tmp_path, capsys):
    settings = divergence_tour.Settings(out=tmp_path / "run", quick=True)
    assert divergence_tour.main(settings) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(result["claims"]) == 6
    assert all(claim["promised"] and claim["holds"] for claim in result["claims"])
    rows = {row["divergence"]: row for row in result["table"]}
    assert rows.keys() == divergence_tour.GUIDE.keys()
    assert {name for name, row in rows.items() if row["bound"] != "inf"} == {
        *("js", "squared_hellinger", "tv", "le_cam")
    }
    picture = tmp_path / "run" / "divergences.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "leaning", "bounded"),
    [
        ("kl", "covers mass", "no"),
        ("reverse_kl", "seeks modes", "yes"),
        ("jeffreys", "does both", "no"),
        ("js", "neither", "yes"),
        ("tv", "neither", "atom at 1"),
    ],
)
def test_the_decision_follows_from_the_record(name, leaning, bounded):
    found = {"std": 1.0, "std from N(0, 1)": 1.0}
    row = divergence_tour.decide(name, found)
    row = dict(zip(divergence_tour.COLUMNS, row, strict=True))
    assert (row["leaning"], row["h bounded"]) == (leaning, bounded)


def test_a_broken_order_is_told():
    found = {"mean": 0.0, "std": 1.0, "std from N(0, 1)": 1.0}
    claims = divergence_tour.claims(dict.fromkeys(divergence_tour.GUIDE, found))
    assert [claim.holds for claim in claims] == [True] * 3 + [False] * 3
    assert all(claim.promised for claim in claims)


def test_a_folder_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SystemExit, match="Cannot write to .*--out"):
        divergence_tour.main(divergence_tour.Settings(out=file / "run"))
