import jax
import numpy as np
import pytest

from examples import _digits, paper_table
from examples.paper_table import Settings


def figures(fd, recall):
    return [
        {"FDfeat": a, "R": b} | dict.fromkeys(("FDpix", "P", "D", "C", "seconds"), 1.0)
        for a, b in zip(fd, recall, strict=True)
    ]


def test_claims_compare_seed_by_seed():
    table = {
        "teacher": figures([0.3, 0.3], [1.0, 1.0]),
        "DI": figures([2.0, 1.5], [0.8, 0.7]),
        "SIM": figures([1.0, 1.6], [0.9, 0.8]),
    }
    claims = {c.claim: c for c in paper_table.digits_claims("digits", table)}
    best = claims.pop("digits: FDfeat of the best student, SIM")
    assert best.measured == pytest.approx(1.3)
    assert not best.holds
    assert claims["digits: R of SIM above DI"].holds
    assert not claims["digits: FDfeat of SIM below DI"].holds
    assert claims["digits: FDfeat of SIM below DI"].measured == "1.300, 1.750: 1 of 2"
    assert len(claims) == 2
    assert not any(c.promised for c in claims.values())


def test_spread_over_the_seeds():
    runs = figures([1.0, 2.0], [0.5, 0.5])
    assert paper_table.spread(runs)["FDfeat"] == "1.5 +- 0.71"
    assert paper_table.spread(runs[:1])["FDfeat"] == "1"


def test_programs_are_kept_while_rows_run():
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        with paper_table.compiled_once():
            assert jax.config.jax_compilation_cache_dir
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.slow
def test_a_row_of_digits_has_every_seed(tmp_path, capsys):
    recipe = _digits.RECIPES["digits"]._replace(
        teacher_steps=20, student_steps=10, batch=32, chunk=10, samples=100
    )
    recipe = recipe._replace(sample_batch=50)
    row = paper_table.digits_row("digits", recipe, ["DI"], 2, tmp_path)
    assert list(row.figures) == ["teacher", "DI"]
    for of_seeds in row.figures.values():
        one, other = of_seeds
        assert one["FDfeat"] != other["FDfeat"]
        assert all(np.isfinite(x) for x in one.values())
    assert row.pictures[0].read_bytes().startswith(b"\x89PNG")
    assert "digits, 2 seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [({"rows": (1, 9)}, r"\[9\].*1, 2, 3, 4, 5, 6"), ({"seeds": 0}, "at least 1 seed")],
)
def test_bad_options_end_in_a_sentence(options, words, tmp_path):
    with pytest.raises(SystemExit, match=words):
        paper_table.main(Settings(out=tmp_path, **options))
