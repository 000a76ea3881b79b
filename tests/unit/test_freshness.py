"""The page and the table show the run as it is: whoever changes it renews them, and what a kill left is told."""

import json
import re
import shutil
import sys

import pytest

import autoprune
from autoprune.cli import main
from autoprune.report import stale
from autoprune.report.page import document
from autoprune.runs import RunDirectory

pytest.importorskip("matplotlib")
QUICK = ["--criterion=l1", "--device=cpu", "--trials=2", "--finalists=0", "--epochs=0.1", "--bn-samples=64"]
QUICK += ["--warm-starts=none", "--val-samples=64", "--fidelity=proxy", "--no-reconstruct", "--lr=0.001"]
QUICK += ["--batch-size=64"]


@pytest.fixture(scope="module", autouse=True)
def _words_only():
    """Pages without charts, which take seconds to draw."""
    with pytest.MonkeyPatch.context() as patch:
        parts = ("search", "network", "ranking", "classes", "latency")
        patch.setattr(document, "grouped", lambda _: dict.fromkeys(parts, ()))
        yield


@pytest.fixture(scope="module")
def finished(digits_weights, tmp_path_factory):
    """The directory of a whole run of two trials, with its page."""
    path = tmp_path_factory.mktemp("run") / "whole"
    problem = ["--model=search_spaces.models:digits_cnn", f"--weights={digits_weights}", "--data=digits"]
    assert main(["search", *problem, *QUICK, f"--name={path}"]) == 0
    assert main(["report", str(path)]) == 0
    return path


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "run")
    return RunDirectory.open(tmp_path / "run")


def shown(run):
    """How many trials the page shows, and how many rows the table has."""
    page = (run.path / "report.html").read_text(encoding="utf-8")
    rows = (run.path / "trials.csv").read_text(encoding="utf-8").splitlines()
    return int(re.search(r"(\d+) candidates? evaluated in", page)[1]), len(rows) - 1


def test_an_export_says_how_long_the_whole_run_was_at_work(run):
    written = json.loads((run.best / "architecture.json").read_text(encoding="utf-8"))["provenance"]
    evaluations = sum(t.seconds for t in run.record().trials)
    assert written["run_seconds"] >= evaluations + written["finetune_seconds"] - 0.1  # each is rounded
    assert repr(autoprune.report(run.path, html=False)).count(" in all, ") == 1


def test_more_trials_are_on_the_page_and_in_the_table(run, capsys):
    assert (shown(run), stale(run)) == ((2, 2), [])
    assert main(["resume", str(run.path), "--trials=3"]) == 0
    assert f"page: {run.path / 'report.html'}, written anew" in capsys.readouterr().out
    assert (shown(run), stale(run)) == ((3, 3), [])


def test_a_page_that_nobody_asked_for_is_not_made(run):
    (run.path / "report.html").unlink()
    autoprune.resume(run.path, trials=3)
    assert not (run.path / "report.html").exists()
    assert stale(run) == []


def test_what_an_export_changes_is_on_the_page(run):
    (run.best / "model.pt2").write_bytes(b"of other weights")
    assert len(stale(run)) == 1
    autoprune.export(run.path)
    assert "model.pt2" in (run.path / "report.html").read_text(encoding="utf-8")
    assert stale(run) == []


def test_what_a_kill_left_is_told_by_status_and_report_and_mended_by_resume(run, capsys):
    """As after kill -9 between a trial's end and the end of the search: two files of two trials, a ledger of three."""
    before = [(run.path / name).read_bytes() for name in ("report.html", "trials.csv")]
    autoprune.resume(run.path, trials=3)
    for name, old in zip(("report.html", "trials.csv"), before, strict=True):
        (run.path / name).write_bytes(old)
    told = [
        f"{name} is older than the run (2 trials there, 3 trials now): `autoprune report {run.path}` writes it anew"
        for name in ("report.html", "trials.csv")
    ]
    assert stale(run) == told
    capsys.readouterr()
    assert main(["status", str(run.path)]) == 0
    said = re.sub(r"\s+", "", capsys.readouterr().out)
    assert [line for line in told if re.sub(r"\s+", "", line) not in said] == []
    assert main(["report", str(run.path), "--no-html"]) == 0  # the table is written by any report
    assert told[0] in capsys.readouterr().out.splitlines()
    assert stale(run) == told[:1]
    (run.path / "trials.csv").write_bytes(before[1])
    autoprune.resume(run.path)
    assert (shown(run), stale(run)) == ((3, 3), [])


def test_a_page_of_another_release_is_older(run):
    (run.path / "report.html").write_text("<html>of long ago")
    assert [line.partition(":")[0] for line in stale(run)] == [
        "report.html is older than the run (other trials there, 2 trials now)"
    ]


def test_without_matplotlib_the_old_page_is_told(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["resume", str(run.path), "--trials=3"]) == 0
    said = capsys.readouterr().out
    assert "report.html is older than the run, and could not be written anew: the report page needs matplotlib" in said
    assert len(stale(run)) == 1


def test_an_interrupted_search_renews_its_page_too(run, monkeypatch):
    from autoprune.evaluation import Evaluator

    monkeypatch.setattr(Evaluator, "__call__", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["resume", str(run.path), "--trials=3"]) == 130
    assert stale(run) == []
    assert shown(run) == (2, 3)  # the third one was interrupted: a row of the table, not evaluated
