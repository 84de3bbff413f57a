import json

import pytest

from examples import _plane, f_distill


@pytest.mark.slow
def test_quick_run(tmp_path, capsys):
    settings = f_distill.Settings(out=tmp_path / "run", quick=True)
    assert f_distill.main(settings) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    promised = [claim for claim in result["claims"] if claim["promised"]]
    assert len(promised) == 4
    assert all(claim["holds"] for claim in promised)
    rows = {row["divergence"]: row for row in result["table"]}
    assert rows.keys() == {"js", "reverse_kl"}
    for row in rows.values():
        assert (row["case"], row["steps"]) == ("imb8", _plane.CHUNK)
        assert all(len(row[name]) == 2 for name in _plane.FIGURES)  # two seeds
        assert row["JS"][0] != row["JS"][1]
    printed = capsys.readouterr().out
    for name in ("gaussian.png", "samples.png"):
        picture = tmp_path / "run" / name
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert str(picture) in printed


def row(name, js, tv, case="imb8"):
    figures = dict.fromkeys(_plane.FIGURES, [8.0, 8.0])
    return (
        {"case": case, "steps": 3000, "divergence": name}
        | figures
        | {
            "JS": js,
            "weight TV": tv,
        }
    )


def test_claims_are_about_means_over_the_seeds():
    table = [
        row("js", [0.01, 0.05], [0.02, 0.02]),
        row("kl", [0.09, 0.09], [0.05, 0.02]),
        row("reverse_kl", [0.04, 0.04], [0.03, 0.03]),
        row("js", [0.0, 0.0], [0.0, 0.0], case="grid25"),
    ]
    holds = {c.claim: c.holds for c in f_distill.trained_claims(table)}
    assert holds["imb8, 3000 steps: JS of js < reverse_kl"]
    assert holds["imb8, 3000 steps: weight TV of js < reverse_kl"]
    assert not holds["imb8, 3000 steps: weight TV of kl < reverse_kl"]
    assert holds["imb8, js, 3000 steps: modes"]
    assert not holds["grid25, js, 3000 steps: modes"]
    assert not any(c.promised for c in f_distill.trained_claims(table))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"divergences": ("wasserstein",)}, "--divergences.*wasserstein"),
        ({"divergences": ("tv",)}, "--divergences.*'tv'"),
        ({"cases": ("spiral",)}, "spiral.*imb8, ring8, grid25, hard"),
        ({"seeds": 0}, "at least 1 seed"),
    ],
)
def test_bad_options_end_in_a_sentence(options, words):
    with pytest.raises(SystemExit, match=words):
        f_distill.main(f_distill.Settings(**options))
