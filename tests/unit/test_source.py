"""Two checkouts of the same version are told apart, by whoever joins a search."""

from types import SimpleNamespace

import pytest

from autoprune import source
from autoprune.config import RunConfig
from autoprune.errors import LedgerMismatch
from autoprune.runs import agree_on_plan, joining
from autoprune.source import code


def test_two_checkouts_are_told_apart(tmp_path):
    def checkout(name, **more):
        root = tmp_path / name / "autoprune"
        (root / "__pycache__").mkdir(parents=True)
        (root / "__pycache__" / "a.pyc").write_text(name)
        for file, text in {"a": "x = 1\n", "b": "y = 2\n", **more}.items():
            (root / f"{file}.py").write_text(text)
        return source._digest(root)

    first = checkout("one")
    assert checkout("two") == first  # wherever it lies, whatever was compiled
    others = {checkout("three", a="x = 2\n"), checkout("four", c=""), checkout("five", a="y = 2\n", b="x = 1\n")}
    assert len({first, *others}) == 4
    assert len(first) == 8


def test_who_joins_runs_the_code_of_who_leads(monkeypatch, tmp_path):
    notes = {}
    ledger = SimpleNamespace(me="a", note=notes.__setitem__, fresh_note=notes.get)
    joins = RunConfig(join=True)
    agree_on_plan(ledger, joins, tmp_path)  # an older one leads, which says nothing
    agree_on_plan(ledger, RunConfig(), tmp_path)
    assert notes["code"] == code()
    agree_on_plan(ledger, joins, tmp_path)
    monkeypatch.setattr(joining, "code", lambda: "0.1.0 (code 1a2b3c4d)")
    with pytest.raises(
        LedgerMismatch, match=r"this machine has autoprune .*1a2b3c4d\) instead of .*; install the same"
    ):
        agree_on_plan(ledger, joins, tmp_path)
    agree_on_plan(ledger, RunConfig(), tmp_path)  # a plain resume may bring another one,
    agree_on_plan(ledger, joins, tmp_path)  # which is then the one to have
