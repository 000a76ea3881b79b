"""A run that meets what should not be: foreign files in its places, full disks, a directory that vanishes, signals."""

import re
import shutil
import sys

import pytest

from autoprune.cli import main
from autoprune.runs import RunDirectory

QUICK = ["--criterion=l1", "--device=cpu", "--trials=2", "--finalists=0", "--epochs=0.1", "--warm-starts=none"]
QUICK += ["--bn-images=64", "--val-images=64", "--fidelity=proxy", "--no-reconstruct", "--lr=0.001", "--batch-size=64"]


@pytest.fixture(scope="module")
def flags(digits_weights):
    """Of the shortest search there is."""
    return ["--model=search_spaces.models:digits_cnn", f"--weights={digits_weights}", "--data=digits", *QUICK]


@pytest.fixture(scope="module")
def finished(flags, tmp_path_factory):
    """The directory of a whole run."""
    folder = tmp_path_factory.mktemp("run")
    assert main(["search", *flags, f"--name={folder / 'whole'}"]) == 0
    return folder / "whole"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it, to be spoilt."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def spoil(run, place, what):
    """Put something of a user's where the run will write."""
    if what == "damaged":
        (run / place / "architecture.json").write_text("{")
    elif what == "foreign":
        (run / place / "notes.txt").write_text("mine")
    elif (run / place).is_dir():
        shutil.rmtree(run / place)
        (run / place).write_text("mine")
    else:
        (run / place).unlink(missing_ok=True)
        (run / place).mkdir()


@pytest.mark.parametrize(
    ("place", "what", "said"),
    [
        ("best", "foreign", "best': expected a new or empty directory or an older export, but found 'notes.txt'"),
        ("best", "damaged", "best': .* but found no export that can be read: .*architecture.json': damaged"),
        ("best", "other kind", "best': .* but found a file, which would be lost; remove it"),
        ("finetune", "other kind", "finetune': must be a directory of the run, but something else is there"),
        ("trials.csv", "other kind", "trials.csv': must be a file of the run, but a directory is there"),
    ],
)
def test_what_the_end_would_stumble_over_is_refused_first(run, monkeypatch, capsys, place, what, said):
    spoil(run, place, what)
    before = sorted(p.relative_to(run) for p in run.rglob("*"))
    monkeypatch.setattr(sys.modules["autoprune.search"], "reopen", lambda *_: pytest.fail("work was done"))
    for more in ([], ["--workers=1"], ["--cluster=local"], ["--trials=9"]):
        assert main(["resume", str(run), *more]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert re.search(said, error), error
    assert sorted(p.relative_to(run) for p in run.rglob("*")) == before


def test_what_comes_in_the_middle_is_seen_before_the_fine_tune(run, monkeypatch, capsys):
    ended = sys.modules["autoprune.search"]._candidates

    def meanwhile(*given):
        controller = ended(*given)
        spoil(run, "best", "foreign")
        return controller

    monkeypatch.setattr(sys.modules["autoprune.search"], "_candidates", meanwhile)
    monkeypatch.setattr(sys.modules["autoprune.search"], "deliver", lambda *_, **__: pytest.fail("work was done"))
    shutil.rmtree(run / "best")
    (run / "best").mkdir()
    assert main(["resume", str(run), "--trials=3"]) == 2
    assert "best': expected a new or empty directory" in capsys.readouterr().err
    assert len(RunDirectory.open(run).record().trials) == 3
    assert (run / "best/notes.txt").read_text() == "mine"
