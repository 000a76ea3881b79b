"""A network that was trained elsewhere: exported as it is, or delivered by the run, and never lost."""

import copy
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

import autoprune
from autoprune import data as data_sets
from autoprune.cli import main
from autoprune.errors import LedgerMismatch, RunIsLive
from autoprune.evaluation import measure
from autoprune.ledger.locks import FileLock
from autoprune.report import RunProgress
from autoprune.runs.directory import RunDirectory

FACTORY = "search_spaces.models:digits_cnn"
QUICK = {"criterion": "l1", "trials": 2, "finalists": 0, "epochs": 0, "batch_size": 64, "bn_samples": 64,
         "reconstruct": False, "fidelity": "proxy", "warm_starts": "none", "device": "cpu"}  # fmt: skip


@pytest.fixture(scope="module")
def finished(digits_weights, tmp_path_factory):
    """A finished run, and its result."""
    name = str(tmp_path_factory.mktemp("runs") / "r")
    return autoprune.search(FACTORY, "digits", "macs<=50%", weights=str(digits_weights), name=name, **QUICK)


@pytest.fixture
def run(finished, here):
    """A copy of it, results/r."""
    shutil.copytree(finished.run_dir, here / "results/r")
    return Path("results/r")


@pytest.fixture
def result(finished, run):
    """The result of that copy, with a network of its own."""
    from dataclasses import replace

    return replace(finished, run_dir=run, model=copy.deepcopy(finished.model))


def trained(network):
    """As after somebody's own training: other weights, other statistics."""
    with torch.no_grad():
        for value in network.state_dict().values():
            value.mul_(1.01) if value.is_floating_point() else value.add_(3)
    return network


def saved(network, path="mine.safetensors"):
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return Path(path)


def content(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir()}


def architecture(directory):
    return json.loads((directory / "architecture.json").read_text())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_an_export_of_the_result_holds_the_weights_that_the_result_holds(result, here):
    data = data_sets.load("digits")
    trained(result.model)
    there = result.export(here / "mine", pt2=True)
    assert same(autoprune.load(there).state_dict(), result.model.state_dict())
    x = torch.rand(3, 1, 8, 8)
    program = torch.export.load(str(there / "model.pt2")).module()
    torch.testing.assert_close(program(x), result.model(x))
    said = architecture(there)
    for split in ("val", "test"):
        found = measure(copy.deepcopy(result.model), data, split, device="cpu")
        assert said["metrics"][f"pruned_{split}"] == found != result.metrics[f"pruned_{split}"]
        assert said["metrics"][f"dense_{split}"] == result.metrics[f"dense_{split}"]
        assert said["metrics"][f"previous_{split}"] == result.metrics[f"pruned_{split}"]
    assert said["provenance"]["attached"]["from"] == "result.model"
    assert "finetune" not in said["provenance"]


def test_an_untouched_result_is_exported_with_what_was_measured(result, here):
    there = result.export(here / "again")
    assert content(there) == content(result.run_dir / "best")


def test_what_cannot_be_measured_is_left_out_with_a_word(result, here, monkeypatch):
    trained(result.model)
    monkeypatch.setattr(
        "autoprune.runs.result.load_task", lambda *_: (_ for _ in ()).throw(ValueError("data 'x': is gone"))
    )
    with pytest.warns(UserWarning, match="not measured: data 'x': is gone; its export says nothing of its accuracy"):
        there = result.export(here / "mine")
    assert {m for m in architecture(there)["metrics"] if m.startswith("pruned")} == set()
    assert same(autoprune.load(there).state_dict(), result.model.state_dict())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda net: setattr(net, "linear", nn.Linear(net.linear.in_features, 7)), r"'linear.weight' is \[7, "),
        (lambda net: setattr(net, "linear", nn.Sequential(net.linear)), "'linear.weight' is missing"),
        (lambda net: net.register_forward_hook(lambda *args: 2 * args[-1]), "no longer has the.*answers differ by"),
        (lambda net: setattr(net, "forward", lambda x: torch.zeros(1)), "no longer has the architecture.*in shape"),
        (lambda net: net.stem[0].weight.data.fill_(torch.nan), r"'stem.0.weight' holds \d+ numbers that are NaN"),
        (
            lambda net: [p.data.fill_(3e38) for p in net.linear.parameters()],
            "answers the example .* NaN",
        ),
    ],
)
def test_a_result_of_another_architecture_or_without_sense_is_refused(result, here, change, words):
    before = content(result.run_dir / "best")
    change(result.model)
    with pytest.raises(ValueError, match=words):
        result.export(here / "mine")
    with pytest.raises(ValueError, match=words):
        result.attach()
    assert not (here / "mine").exists()
    assert content(result.run_dir / "best") == before


def test_a_trained_result_is_not_exported_over_what_the_run_delivers(result):
    before = content(result.run_dir / "best")
    trained(result.model)
    with pytest.raises(ValueError, match=r"best': is what the run delivers.*result.attach\(\) delivers it"):
        result.export(result.run_dir / "best")
    assert content(result.run_dir / "best") == before


def test_attached_weights_become_what_the_run_delivers(run, finished, capsys):
    old = content(run / "best")
    assert main(["report", "results/r", "--html"]) == 0
    net = trained(autoprune.load(run / "best"))
    saved(net)
    assert main(["attach", "results/r", "--weights=mine.safetensors", "--device=cpu", "--pt2"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert same(autoprune.load(run / "best").state_dict(), net.state_dict())
    assert content(run / "best-replaced-1") == old
    assert {p.name for p in (run / "best").iterdir()} == {"architecture.json", "weights.safetensors", "model.pt2"}
    metrics, provenance = (architecture(run / "best")[name] for name in ("metrics", "provenance"))
    page = (run / "report.html").read_text()
    assert "trained elsewhere, attached from mine.safetensors" in page.replace("<wbr>", "")
    assert "top-1 of what was delivered before" in page
    new = measure(net, data_sets.load("digits"), "test", device="cpu")
    assert metrics["pruned_test"] == new
    assert metrics["previous_test"] == finished.metrics["pruned_test"]
    assert provenance["attached"]["from"] == "mine.safetensors"
    assert provenance["attached"]["replaced"] == "best-replaced-1"
    assert provenance["trial"] == finished.trial.number
    assert "'results/r/best': holds the network from mine.safetensors now, validation loss " in said
    assert "kept in results/r/best-replaced-1" in said
    words = "trained elsewhere, attached from mine.safetensors ("
    for verb in (["status"], ["report", "--no-html"], ["export"]):
        assert main([verb[0], "results/r", *verb[1:]]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert words in out, verb
    assert f"{new['top1']:.4f}" in out
    assert f"top-1 of what was delivered before │ │ {finished.metrics['pruned_test']['top1']:.4f}" in out


def test_resume_leaves_an_attached_network_where_it_is(run, digits_weights):
    net = trained(autoprune.load(run / "best"))
    autoprune.attach(run, net)
    before = content(run / "best")
    again = autoprune.resume(run)
    assert content(run / "best") == before
    assert same(again.model.state_dict(), net.state_dict())
    assert again.metrics == architecture(run / "best")["metrics"]


def test_a_new_winner_takes_its_place_aloud_and_leaves_it_beside(run, capsys):
    autoprune.attach(run, trained(autoprune.load(run / "best")))
    attached = content(run / "best")
    winner = architecture(run / "best")["provenance"]["trial"]
    with RunProgress(Console(width=300)) as progress:
        for trials in (12, 40):
            again = autoprune.resume(run, trials=trials, progress=progress)
            if again.trial.number != winner:
                break
    assert again.trial.number != winner, "no better trial was found, so this shows nothing"
    assert content(run / "best-replaced-2") == attached
    words = "best': the network attached from a DigitsCNN object is kept in results/r/best-replaced-2"
    assert words.partition("DigitsCNN")[0] in capsys.readouterr().out


def test_the_same_weights_twice_are_attached_once(run, capsys):
    net = trained(autoprune.load(run / "best"))
    autoprune.attach(run, net)
    before = content(run / "best")
    with RunProgress(Console(width=300)) as progress:
        autoprune.attach(run, saved(net), progress=progress)
    assert "holds these very weights already" in capsys.readouterr().out
    assert content(run / "best") == before
    assert not (run / "best-replaced-2").exists()
    autoprune.attach(run, trained(net))
    assert content(run / "best-replaced-2") == before


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, torch.compile, torch.optim.swa_utils.AveragedModel, lambda net: net.half().train(),
             lambda net: {f"module._orig_mod.{k}": v for k, v in net.state_dict().items()}],
    ids=["parallel", "compiled", "averaged", "half", "prefixes"],
)  # fmt: skip
def test_a_network_in_a_wrapper_is_attached(run, wrap):
    net = trained(autoprune.load(run / "best"))
    expected = {k: v.half().float() if wrap.__name__ == "<lambda>" and v.is_floating_point() else v
                for k, v in net.state_dict().items()}  # fmt: skip
    autoprune.attach(run, wrap(net))
    found = autoprune.load(run / "best").state_dict()
    assert all(torch.allclose(found[k], expected[k], rtol=1e-3, atol=1e-6) for k in expected)


def test_a_run_of_objects_takes_them_again(digits_weights, here):
    from autoprune.reference import ModelReference

    dense, data = ModelReference(FACTORY, {}, str(digits_weights)).build(), data_sets.load("digits")
    result = autoprune.search(dense, data, name="r", **QUICK)
    saved(trained(result.model))
    for given, words in (
        ({}, r"was started from a model object.*give model=... to autoprune.attach, too"),
        ({"model": dense}, r"was started from a data object.*give data=... to autoprune.attach, too"),
    ):
        with pytest.raises(ValueError, match=words):
            autoprune.attach("results/r", "mine.safetensors", **given)
    other = data_sets.load("digits", val_images=100)
    with pytest.raises(LedgerMismatch, match=r"run 'results/r': was begun with another problem: data is"):
        autoprune.attach("results/r", "mine.safetensors", dense, other)
    result = result.attach("mine.safetensors")
    assert same(result.model.state_dict(), load_file("mine.safetensors"))
    assert result.metrics["pruned_test"] == measure(result.model, data, "test", device="cpu")
    assert content(result.export(here / "x")) == content(here / "results/r/best")


def of_another_trial(run):
    trials = RunDirectory.open(run).record().trials
    best = tuple(architecture(run / "best")["widths"])
    number = next(t.number for t in trials if t.widths != best)
    return autoprune.load(autoprune.export(run, trial=number, to="other")).state_dict()


def of_another_budget(run):
    export = autoprune.export(run, budget="macs<=20%", epochs=0)
    return autoprune.load(export).state_dict()


def broken(state, name="linear.bias", value=torch.nan):
    return {k: v.clone().fill_(value) if k == name else v for k, v in state.items()}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda run, state, dense: dense, r"are those of the dense network.*train what autoprune.load\('results/r/"),
        (lambda run, state, dense: of_another_trial(run),
         r"are those of trial \d+, and 'results/r/best' holds trial \d+; .*export results/r --trial (\d+)`.*trial-\1"),
        (lambda run, state, dense: of_another_budget(run),
         r"are those of 'results/r/macs-20pct', and 'results/r/best' .*attach them --to results/r/macs-20pct"),
        (lambda run, state, dense: broken(state), "'linear.bias' holds 10 numbers that are NaN or infinite"),
        (lambda run, state, dense: broken(state, value=torch.inf), "'linear.bias' holds 10 numbers that are NaN"),
        (lambda run, state, dense: broken(state, "stem.1.running_var"), "'stem.1.running_var' holds .* are NaN"),
        (lambda run, state, dense: {**state, "more": torch.zeros(1)}, "1 key does not fit.*'more' is not in the model"),
        (lambda run, state, dense: {k: v for k, v in state.items() if k != "linear.bias"}, "'linear.bias' is missing"),
        (lambda run, state, dense: {}, "expected a network, its state dict or a file of it, got dict"),
        (lambda run, state, dense: [1], "expected a network, its state dict or a file of it, got list"),
        (lambda run, state, dense: "gone.pt", "'gone.pt': no such file"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused_and_nothing_is_touched(run, digits_weights, spoil, words):
    before = content(run / "best")
    state = autoprune.load(run / "best").state_dict()
    with pytest.raises(ValueError, match=words):
        autoprune.attach(run, spoil(run, state, load_file(digits_weights)))
    assert content(run / "best") == before
    assert not list(run.glob("*replaced*"))


KILLED = """
import os, pathlib, sys
import autoprune
from autoprune.exporting import read_architecture
from autoprune.reference import read_weights

moves = 0


def hook(event, arguments):
    global moves
    if event in ("os.rename", "shutil.rmtree") or (event == "ctypes.dlsym" and arguments[1] == "renameat2"):
        moves += 1
        if moves == limit:
            os.kill(os.getpid(), 9)


sys.addaudithook(hook)
autoprune.load("results/r/best")
limit = 0
while True:  # each attempt in a child that is killed one move later than the last one
    limit += 1
    child = os.fork()
    if not child:
        autoprune.attach("results/r", "mine.safetensors", progress=False)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
    held = autoprune.load("results/r/best").state_dict()
    files = map(read_weights, ("old.safetensors", "mine.safetensors"))
    which = [all((held[k] == w[k]).all() for k in w) for w in files]
    told = read_architecture(pathlib.Path("results/r/best"))["provenance"]
    assert which == [not told.get("attached"), bool(told.get("attached"))], (limit, which)
    print(limit, "old" if which[0] else "new", sorted(os.listdir("results/r")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_a_kill_at_any_moment_leaves_the_old_network_or_the_new_one(run):
    old = content(run / "best")
    Path("old.safetensors").write_bytes(old["weights.safetensors"])
    saved(trained(autoprune.load(run / "best")))
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {line.split()[1] for line in done.stdout.splitlines()} == {"old", "new"}
    assert content(run / "best-replaced-1") == old
    assert sorted(p.name for p in run.iterdir() if "best" in p.name) == ["best", "best-replaced-1"]


def test_a_pickle_is_refused(run, capsys):
    Path("bad.pt").write_bytes(pickle.dumps({"linear.weight": print}))
    assert main(["attach", "results/r", "--weights=bad.pt"]) == 2
    assert "not a safetensors file or a plain torch state dict" in capsys.readouterr().err


def test_a_run_without_a_winner_or_with_a_writer_is_refused(run):
    weights = saved(trained(autoprune.load(run / "best")))
    lock = FileLock(run / ".lock", "r")
    with pytest.raises(RunIsLive, match=r"run 'results/r': is being written by another controller \(process"):
        autoprune.attach(run, weights)
    lock.release()
    shutil.rmtree(run / "best")
    with pytest.raises(ValueError, match=r"has no winner yet.*`autoprune resume results/r` first"):
        autoprune.attach(run, weights)


def test_another_export_of_the_run_can_have_its_own(run, here):
    there = autoprune.export(run, budget="macs<=30%")
    net = trained(autoprune.load(there))
    assert autoprune.attach(run, net, to=there) == there
    assert same(autoprune.load(there).state_dict(), net.state_dict())
    attached = content(there)
    autoprune.export(run, budget="macs<=30%")
    assert attached in [content(p) for p in run.glob("macs-30pct-replaced-*")]
    other = shutil.copytree(there, here / "other")
    said = architecture(other)
    said["space"]["groups"][0]["name"] = "of another network"
    (other / "architecture.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match="is not an export of the run"):
        autoprune.attach(run, net, to=other)
