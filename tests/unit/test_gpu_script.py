"""The script that measures a GPU: rows are there as they come, and what is missing says why."""

import importlib
import sys
import time

import pytest


@pytest.fixture
def rows(script):
    return script("gpu_rows")


def table(path):
    lines = path.read_text().splitlines()
    return [tuple(line.strip("| ").split(" | ")) for line in lines if line.startswith("| ")]


def test_each_part_has_its_time_and_what_it_does_not_give_is_said(rows, tmp_path):
    path = tmp_path / "page.md"
    page = rows.Rows(path, ["# Page"], 100)

    def hangs(limit_s):
        page.row("first", "there")
        assert ("first", "there") in table(path)
        try:
            time.sleep(60)
        except Exception:
            raise AssertionError("caught") from None

    def fails(limit_s):
        assert limit_s > 90
        page.row("before", 1)
        raise ValueError("no | such\nthing")

    parts = [
        rows.Part("A", 0.0101, ["first", "second"], hangs),
        rows.Part("B", 0.99, ["before", "after"], fails),
    ]
    began = time.monotonic()
    page.run(parts)
    assert time.monotonic() - began < 30
    found = dict(table(path))
    assert found["second"] == "not measured: no time left"
    assert found["before"] == "1"
    assert found["after"].startswith("not measured: failed, ValueError: no / such thing (test_gpu_script.py:")


def test_without_a_gpu_all_rows_say_so_and_a_page_that_was_measured_stays(script, tmp_path, monkeypatch):
    gpu, path = script("gpu"), tmp_path / "gpu.md"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu.py", "--to", str(path)])
    gpu.main()
    found = [row for row in table(path) if row[0] != "what"]
    assert len(found) > 50
    assert {row[1] for row in found} == {"not measured: no GPU"}
    path.write_text("| GPU | one |\n")
    gpu.main()
    assert path.read_text() == "| GPU | one |\n"


def test_what_is_not_installed_is_imported_as_a_shell(script, monkeypatch):
    missing = script("missing")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    assert missing.stand_in(("torch", "autoprune_nowhere")) == ("autoprune_nowhere",)
    module = importlib.import_module("autoprune_nowhere.deep.down")
    assert sys.modules["autoprune_nowhere"].IS_MISSING

    class Mine(module.Base):
        pass

    assert {module.State.DONE: 1}[module.State.DONE] == 1
    assert not hasattr(module, "__version__")
    with pytest.raises(ImportError, match=r"autoprune_nowhere\.deep\.down\.make is not installed here"):
        module.make()
    for name in [name for name in sys.modules if name.startswith("autoprune_nowhere")]:
        monkeypatch.delitem(sys.modules, name)
