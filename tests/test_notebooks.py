"""Every notebook runs from top to bottom, at a size that CI can afford."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
QUICK = {
    "one_step_digits": "teacher_steps, student_steps = 60, 10",
    "ot_color_map": "pixels, steps = 256, 20",
}
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def tagged(notebook, tag):
    return [c for c in notebook.cells if tag in c.metadata.get("tags", ())]


def test_all_notebooks_are_known():
    assert {path.stem for path in NOTEBOOKS} == set(QUICK)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs_and_ready_for_colab(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert "colab-badge.svg" in notebook.cells[0].source
    assert f"notebooks/{path.name}" in notebook.cells[0].source
    (install,) = tagged(notebook, "install")
    assert "jaxdiv" in install.source
    assert path.stat().st_size < 200_000


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the client's own, not the notebook's
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path):
    notebook = nbformat.read(path, as_version=4)
    (install,) = tagged(notebook, "install")
    (parameters,) = tagged(notebook, "parameters")
    notebook.cells.remove(install)
    parameters.source = QUICK[path.stem]
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert shown, "no picture"
