"""A run that meets what should not be: foreign files in its places, full disks, a directory that vanishes, signals."""

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch

import autoprune
from autoprune.cli import main
from autoprune.files import DiskError
from autoprune.reference import ModelReference
from autoprune.report import RunProgress, ending, resuming
from autoprune.runs import RunDirectory, afterwards, winner
from search_spaces.models import digits_cnn

QUICK = ["--criterion=l1", "--device=cpu", "--trials=2", "--finalists=0", "--epochs=0.1", "--bn-samples=64"]
QUICK += ["--warm-starts=none", "--val-samples=64", "--fidelity=proxy", "--no-reconstruct", "--lr=0.001"]
QUICK += ["--batch-size=64"]


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
    monkeypatch.setattr(importlib.import_module("autoprune.search"), "reopen", lambda *_: pytest.fail("work was done"))
    for more in ([], ["--workers=1"], ["--cluster=local"], ["--trials=9"]):
        assert main(["resume", str(run), *more]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert re.search(said, error), error
    assert sorted(p.relative_to(run) for p in run.rglob("*")) == before


def test_what_comes_in_the_middle_is_seen_before_the_fine_tune(run, monkeypatch, capsys):
    ended = importlib.import_module("autoprune.search")._candidates

    def meanwhile(*given):
        controller = ended(*given)
        spoil(run, "best", "foreign")
        return controller

    monkeypatch.setattr(importlib.import_module("autoprune.search"), "_candidates", meanwhile)
    monkeypatch.setattr(winner, "deliver", lambda *_, **__: pytest.fail("work was done"))
    shutil.rmtree(run / "best")
    (run / "best").mkdir()
    assert main(["resume", str(run), "--trials=3"]) == 2
    assert "best': expected a new or empty directory" in capsys.readouterr().err
    assert len(RunDirectory.open(run).record().trials) == 3
    assert (run / "best/notes.txt").read_text() == "mine"


def after_a_trial(monkeypatch, act):
    """`act` when the first trial has finished."""
    told = RunProgress.on_told

    def on_told(self, trial):
        told(self, trial)
        if trial.number == 0:
            act()

    monkeypatch.setattr(RunProgress, "on_told", on_told)


def test_a_closed_terminal_leaves_a_resumable_run(flags, finished, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        after_a_trial(patch, lambda: signal.raise_signal(signal.SIGHUP))
        assert main(["search", *flags, f"--name={tmp_path / 'run'}"]) == 129
    said = capsys.readouterr()
    where = tmp_path / "run"
    assert said.err == f"autoprune: hung up; the run is in {where}; go on with: autoprune resume {where}\n"
    assert f"stopped; all finished trials are safe: autoprune resume {tmp_path / 'run'}" in said.out
    assert (tmp_path / "run/trials.csv").read_text().count("\n") >= 2
    assert main(["resume", str(tmp_path / "run")]) == 0
    first, second = (run / "best/weights.safetensors" for run in (finished, tmp_path / "run"))
    assert first.read_bytes() == second.read_bytes()


def test_a_stopped_run_of_objects_says_which_call_goes_on(digits_weights, tmp_path, monkeypatch, capsys):
    dense = ModelReference("search_spaces.models:digits_cnn", {}, str(digits_weights)).build()
    after_a_trial(monkeypatch, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as stop:
        autoprune.search(dense, "digits", criterion="l1", device="cpu", trials=3, name=str(tmp_path / "run"))
    call = f"autoprune.resume({str(tmp_path / 'run')!r}, model=...)"
    assert f"stopped; all finished trials are safe: {call}" in capsys.readouterr().out.replace("\n", "")
    assert stop.traceback[-1].name == "_run"  # not where in the arithmetic the signal came
    run = RunDirectory.open(tmp_path / "run")
    assert ending(run, run.record()).more == f"{call} goes on"
    assert resuming(run, trials=6) == call.replace(", model", ", trials=6, model")


def test_a_table_that_cannot_be_written_costs_nothing_else(flags, tmp_path, monkeypatch, capsys):
    def full(path, *_):
        raise DiskError(f"'{path}': cannot be written (No space left on device); free some space")

    monkeypatch.setattr(importlib.import_module("autoprune.runs.table"), "write_csv", full)
    assert main(["search", *flags, f"--name={tmp_path / 'run'}"]) == 0
    said = capsys.readouterr().out
    assert "trials.csv': cannot be written (No space left on device); free some space; `autoprune report" in said
    assert (tmp_path / "run/best/architecture.json").exists()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DiskError("'7.pt': cannot be written (No space left on device); free some space"), 2, "'7.pt': cannot be wr"),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nmore"), 1, "the device is lost to this"),
        (RuntimeError("CUDA error: out of memory"), 1, "out of memory (CUDA error: out of memory); free some, or"),
        (MemoryError(), 1, "out of memory (MemoryError); free some, or choose another --device; all finished"),
    ],
)
def test_what_befalls_the_last_training_leaves_a_resumable_run(run, monkeypatch, capsys, error, code, said):
    shutil.rmtree(run / "best")
    with monkeypatch.context() as patch:
        patch.setattr(winner, "deliver", lambda *_, **__: (_ for _ in ()).throw(error))
        assert main(["resume", str(run)]) == code
    text = capsys.readouterr().err
    assert text.startswith(f"autoprune: {said}")
    assert text.endswith(f"all finished trials are safe: then `autoprune resume {run}`\n")
    assert main(["resume", str(run)]) == 0


def test_a_directory_that_is_removed_in_the_middle_is_named_and_not_made_again(flags, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    after_a_trial(monkeypatch, lambda: shutil.rmtree(run))
    assert main(["search", *flags, f"--name={run}"]) == 2
    assert "ledger.log': cannot be written (No such file or directory): it was removed" in capsys.readouterr().err
    assert not run.exists()


@pytest.fixture
def read_only(run):
    """The run on a disk that cannot be written."""
    command = ["mount", "--bind", run, run]
    if os.getuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    subprocess.run(["mount", "-o", "remount,ro,bind", run], check=True)
    yield run
    subprocess.run(["umount", "-l", run], check=True)


def test_a_run_on_a_read_only_disk_is_read_and_nothing_is_trained_for_nothing(read_only, monkeypatch, capsys):
    for module in ("search", "runs.afterwards"):
        monkeypatch.setattr(sys.modules[f"autoprune.{module}"], "reopen", lambda *_, **__: pytest.fail("work was done"))
    for verb, code in {"status": 0, "report": 0, "report --html": 2, "resume": 2, "finetune": 2, "export": 2}.items():
        assert main([*verb.split(), str(read_only)]) == code
        said = capsys.readouterr()
        assert ("cannot be written (Read-only file system); make it writable or" in said.err) == (code == 2)
        assert code == 2 or "2 complete" in said.out
        assert verb != "report" or "trials.csv': cannot be written (Read-only file system)" in said.out


class Branching(torch.nn.Module):
    """Can be pruned and trained, but its code asks the data: torch.export cannot say which way."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = torch.nn.Conv2d(1, 8, 3), torch.nn.Linear(8, 10)

    def forward(self, x):
        x = self.conv(x).relu()
        return self.linear((x if x.mean() < 1e9 else 2 * x).mean((2, 3)))


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_what_cannot_be_written_is_refused_before_the_search(tmp_path, kind, capfd):
    with pytest.raises(ValueError, match=f"^--{kind}: this network cannot be written .*; change its code, or leave"):
        autoprune.search(Branching(), "digits", name=str(tmp_path / "run"), progress=False, **{kind: True})
    assert not (tmp_path / "run").exists()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("words", [["finetune"], ["export", "--trial=0"], ["export", "--budget=macs<=70%"]])
def test_what_cannot_be_written_is_refused_before_a_fine_tune(run, monkeypatch, capsys, words):
    def broken(*_, **__):
        raise RuntimeError("no such operator\nand a page of trace")

    monkeypatch.setattr(torch.export, "export", broken)
    monkeypatch.setattr(afterwards, "deliver", lambda *_, **__: pytest.fail("work was done"))
    assert main([words[0], str(run), *words[1:], "--pt2"]) == 2
    assert "--pt2: this network cannot be written (RuntimeError: no such operator); change" in capsys.readouterr().err


def test_a_frozen_network_is_refused_before_the_search_that_would_train_it(tmp_path):
    def frozen(**settings):
        net, name = digits_cnn().requires_grad_(False), str(tmp_path / "run")
        return autoprune.search(net, "digits", name=name, trials=1, progress=False, **settings)

    for settings in ({}, {"epochs": 0}, {"finalists": 0}, {"epochs": 0, "finalists": 0, "fidelity": "short:5"}):
        with pytest.raises(ValueError, match=r"requires a gradient, .*; call model\.requires_grad_\(True\), or train"):
            frozen(**settings)
        assert not (tmp_path / "run").exists()
    frozen(epochs=0, finalists=0)
    assert (tmp_path / "run/best/weights.safetensors").exists()
