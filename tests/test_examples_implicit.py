import json

import pytest

from examples import (
    implicit_accuracy,
    implicit_dictionary,
    implicit_distillation,
    implicit_molecules,
    implicit_svm,
)

EXAMPLES = {
    "accuracy": implicit_accuracy,
    "dictionary": implicit_dictionary,
    "distillation": implicit_distillation,
    "molecules": implicit_molecules,
    "svm": implicit_svm,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, tmp_path, x64):
    example = EXAMPLES[name]
    assert example.main(example.Settings(out=tmp_path, quick=True)) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert all(claim["holds"] for claim in result["claims"] if claim["promised"])
    assert list(tmp_path.glob("*.png"))
