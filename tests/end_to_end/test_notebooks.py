"""The notebooks of examples/ run from the first cell to the last, and what they show was shown by these cells."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["first_network", "reading_the_report"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_small_and_name_no_machine(path):
    cells = nbformat.read(path, as_version=4).cells
    shown = [cell for cell in cells if cell.cell_type == "code" and not cell.source.rstrip().endswith(".run_dir")]
    assert all(cell.outputs for cell in shown)
    counts = [cell.execution_count for cell in cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)]
    text = path.read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert not [word for word in ("/tmp/", "/home/", "/root/", "Traceback") if word in text]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        book, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    assert (tmp_path / "results").is_dir()
