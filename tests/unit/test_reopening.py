"""A run is opened again: named where it was of objects, refused where its ledger is gone or its versions are others."""

import importlib
import json
import shlex
import shutil
import sys

import pytest
import torch
from safetensors.torch import save_file

import autoprune
from autoprune import data
from autoprune.cli import main
from autoprune.errors import LedgerMismatch
from autoprune.runs.directory import RunDirectory
from search_spaces.models import digits_cnn

MODEL = "search_spaces.models:digits_cnn"
NAMED = {"model": MODEL, "weights": "w.safetensors", "data": "digits"}
FLAGS = [f"--{name}={value}" for name, value in NAMED.items()]
QUICK = {"trials": 3, "finalists": 0, "epochs": 0.0, "criterion": "l1", "fidelity": "raw", "warm_starts": "none",
         "strategy": "random", "val_samples": 50, "device": "cpu", "reconstruct": False}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of an nn.Module object and of an ImageData object, and the weights of the module."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(1)
    model = digits_cnn()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "w.safetensors")
    autoprune.search(model, data.load("digits"), "macs<=50%", name=str(folder / "run"), **QUICK)
    return folder


@pytest.fixture
def run(made, here):
    """A copy of the run, in the working directory with the weights."""
    shutil.copytree(made, here, dirs_exist_ok=True)
    return here / "run"


def told(capsys):
    """What was printed, on one line."""
    out, err = capsys.readouterr()
    return " ".join((out + err).split())


@pytest.mark.parametrize(
    ("verb", "function", "more"),
    [
        ("resume", "resume", ["--trials=4"]),
        ("finetune", "finetune", []),
        ("export", "export", ["--budget=macs<=40%"]),
        ("export", "export", ["--trial=1"]),
    ],
)
def test_a_run_of_objects_says_how_this_verb_is_given_them_and_takes_their_names(run, capsys, verb, function, more):
    assert main([verb, str(run), *more]) == 2
    said = told(capsys)
    typed = f"autoprune {verb} {run} {shlex.join(more)}".strip()
    assert f"next: {typed} --model package.module:factory --weights FILE --data SPEC (a task: --task " in said
    assert f"in Python: give model=..., data=... to autoprune.{function}, too" in said
    assert hasattr(autoprune, function)
    for given, lacks in (
        (FLAGS[:2], "--data SPEC"),
        (FLAGS[1:2], "--model package.module:factory --data SPEC"),
        (FLAGS[2:], "--model package.module:factory --weights FILE"),
    ):
        assert main([verb, str(run), *more, *given]) == 2
        assert f"next: {typed} {shlex.join(given)} {lacks}" in told(capsys)  # nothing that was given is to be retyped
    assert main([verb, str(run), *more, FLAGS[0], FLAGS[2]]) == 2  # new weights: another network
    assert "another problem: weights is" in told(capsys)
    assert main([verb, str(run), *more, *FLAGS, "--data-args=seed=3"]) == 2
    assert "another problem: data is" in told(capsys)
    assert main([verb, str(run), *more, *FLAGS]) == 0


def test_the_export_of_a_run_of_objects_learns_how_its_network_is_built(run, here, capsys):
    assert main(["export", str(run), "--to=copied"]) == 0  # nothing has to be built
    assert main(["export", str(run), "--to=again", "--pt2"]) == 2
    assert f"next: autoprune export {run} --to=again --pt2 --model package.module:factory --weights" in told(capsys)
    assert main(["export", str(run), "--to=again", FLAGS[0]]) == 0
    images = torch.rand(2, 1, 8, 8)
    expected = autoprune.load(run / "best", model=digits_cnn())(images)
    torch.testing.assert_close(autoprune.load("again")(images), expected)


def test_a_resumed_run_remembers_the_names(run, here):
    autoprune.resume(run, trials=4, **NAMED)
    assert autoprune.resume(run, trials=5).trial
    assert len(RunDirectory.open(run).record().trials) == 5


@pytest.mark.parametrize("damage", ["unlink", "empty", "torn"])
def test_a_run_whose_ledger_is_gone_does_not_begin_again_without_a_word(run, here, capsys, damage):
    ledger, before = run / "ledger.log", RunDirectory.open(run).record()
    first = ledger.read_bytes()
    {"unlink": ledger.unlink, "empty": lambda: ledger.write_text(""), "torn": lambda: ledger.write_bytes(first[:30])}[
        damage
    ]()
    assert main(["resume", str(run), *FLAGS]) == 2
    said = told(capsys)
    assert f"'{ledger}' holds no trial, but the run has been at work" in said
    assert f"`autoprune resume {run} --restart`, which keeps what there is in {run}/before-restart-1" in said
    assert sorted(p.name for p in run.iterdir() if p.name == "best")
    assert main(["resume", str(run), "--restart", *FLAGS]) == 0
    assert f"begins anew; what it had made is kept in {run}/before-restart-1 (best, " in told(capsys)
    assert (run / "before-restart-1" / "best" / "architecture.json").is_file()
    assert [t.widths for t in RunDirectory.open(run).record().trials] == [t.widths for t in before.trials]
    assert main(["resume", str(run), "--restart"]) == 0  # of a whole one: its ledger is kept, too
    assert (run / "before-restart-2" / "ledger.log").is_file()


def test_nothing_is_set_aside_for_a_restart_that_is_refused(run, here):
    with pytest.raises(ValueError, match="was started from a model object"):
        autoprune.resume(run, restart=True)
    assert (run / "ledger.log").is_file()
    assert not (run / "before-restart-1").exists()


def test_a_run_that_was_killed_before_it_began_begins(run, here, capsys):
    for name in ("ledger.log", "trials.csv", ".begun"):
        (run / name).unlink()
    shutil.rmtree(run / "best")
    assert main(["resume", str(run), *FLAGS]) == 0
    assert "was stopped before its first trial; it begins" in told(capsys)


def test_a_study_that_is_gone_from_its_database_is_missed(here, capsys):
    save_file({k: v.contiguous() for k, v in digits_cnn().state_dict().items()}, here / "w.safetensors")
    url = f"sqlite:///{here}/book.db"
    autoprune.search(**NAMED, ledger=url, name="kept", **QUICK)
    with pytest.raises(ValueError, match=r"the study 'kept' is in the database .* and stays there"):
        autoprune.resume("results/kept", restart=True)
    (here / "book.db").unlink()
    assert main(["resume", "results/kept"]) == 2
    assert "holds no study 'kept', but the run has been at work" in told(capsys)
    assert not (here / "book.db").exists()
    assert main(["resume", "results/kept", "--restart"]) == 0


def test_other_versions_are_refused_or_allowed_and_recorded(run, here, capsys, monkeypatch):
    began = torch.__version__
    monkeypatch.setattr("autoprune.ledger.versions.torch.__version__", "9.9.9")
    with pytest.raises(
        LedgerMismatch, match=rf"made with torch {began[:4]}.*here is torch 9\.9\.9.*--allow-version-ch"
    ):
        autoprune.resume(run, trials=4, **NAMED)
    assert main(["resume", str(run), "--trials=4", "--allow-version-change", *FLAGS]) == 0
    record = RunDirectory.open(run).record()
    assert record.fingerprint["versions"]["torch"] == began  # what it was begun with stays
    assert [note["from_trial"] for note in record.notes["versions"]] == [3]
    assert record.notes["versions"][0]["versions"]["torch"] == "9.9.9"
    provenance = json.loads((run / "best" / "architecture.json").read_text())["provenance"]
    capsys.readouterr()
    assert main(["report", str(run), "--no-html"]) == 0
    assert f"versions: from trial 3 on torch 9.9.9 (before: torch {began})" in told(capsys)
    assert main(["resume", str(run), "--trials=5"]) == 0  # allowed before
    assert len(RunDirectory.open(run).record().notes["versions"]) == 1
    assert main(["export", str(run), "--trial=1"]) == 0
    provenance = json.loads((run / "trial-1" / "architecture.json").read_text())["provenance"]
    assert (provenance["versions"]["torch"], provenance["begun_with"]["torch"]) == ("9.9.9", began)


@pytest.mark.parametrize("verb", ["resume", "finetune", "export"])
@pytest.mark.parametrize("fault", ["device", "onnx", "place", "disk"])
def test_what_the_end_needs_is_refused_before_anything_is_done(run, here, capsys, monkeypatch, verb, fault):
    def work(*_):
        raise AssertionError("work was done")

    more = {"resume": ["--trials=9"], "finetune": [], "export": ["--budget=macs<=30%"]}[verb]
    if fault == "device":  # as another machine wrote it
        text = (run / "config.toml").read_text()
        (run / "config.toml").write_text(text.replace('device = "cpu"', 'device = "cuda:7"'))
    if fault == "onnx":
        more.append("--onnx")
        monkeypatch.setattr(sys.modules["autoprune.runs.prepare"], "find_spec", lambda name: name != "onnxscript")
    if fault == "place":
        taken = run / {"resume": "best", "finetune": "finetuned", "export": "macs-30pct"}[verb]
        shutil.rmtree(taken, ignore_errors=True)
        taken.write_text("mine")
    if fault == "disk":
        monkeypatch.setattr("autoprune.files.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 1000))
        monkeypatch.setattr(importlib.import_module("autoprune.search"), "_run", work)
    else:
        monkeypatch.setattr("autoprune.runs.reopening.prepare", work)
    monkeypatch.setattr("autoprune.runs.afterwards.deliver", work)
    before = (run / "ledger.log").read_bytes()
    assert main([verb, str(run), *more, *FLAGS]) == 2
    words = {
        "device": "device 'cuda:7': not usable here",
        "onnx": "--onnx: needs onnxscript; pip install",
        "place": "but found a file, which would be lost",
        "disk": "MB are needed for networks, 0.0 MB are free; free some space",
    }[fault]
    assert words in told(capsys)
    assert (run / "ledger.log").read_bytes() == before
