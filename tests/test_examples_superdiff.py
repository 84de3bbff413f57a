import json

import pytest

from examples import _superdiff, superdiff


@pytest.mark.slow
def test_quick_run(tmp_path, capsys):
    settings = superdiff.Settings(out=tmp_path / "run", quick=True)
    assert superdiff.main(settings) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(result["claims"]) == 21
    promised = [claim for claim in result["claims"] if claim["promised"]]
    assert len(promised) == 18
    assert all(claim["holds"] for claim in promised)
    tables = result["tables"]
    assert set(tables["exact scores"]) == {"OR", "AVG", "AND", "AND, flow"}
    assert set(tables["digits, one seed"]) == {"A", "B", "OR", "AVG", "AND"}
    printed = capsys.readouterr().out
    for name in ("superdiff.png", "digits.png"):
        picture = tmp_path / "run" / name
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert str(picture) in printed


def test_orders_that_are_off_are_told():
    good = {100: (0.4, 1.2), 400: (0.1, 0.6), 1600: (0.025, 0.3)}
    table = {
        f"d = 2: Ito, {n} steps": [{"mean": mean, "std": std}]
        for n, (mean, std) in good.items()
    }
    table["d = 2: flow, exact divergence"] = [{"mean": 0.0, "std": 1e-4}]
    table["d = 2: flow, Hutchinson"] = [{"mean": 0.1, "std": 0.5}]
    claims = _superdiff.estimator_claims(table, (2,), 1000)
    assert [claim.holds for claim in claims] == [True, True, True, False]
    table["d = 2: Ito, 1600 steps"] = [{"mean": 0.1, "std": 0.6}]
    claims = _superdiff.estimator_claims(table, (2,), 1000)
    assert not any(claim.holds for claim in claims[:2])
