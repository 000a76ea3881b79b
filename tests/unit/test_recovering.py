"""The winner's weights: fine-tuned, or those from before where the fine-tune did harm."""

import copy
import itertools
import json
import math
import os
import shutil
import signal

import pytest
import torch
from rich.console import Console
from torch import nn

import autoprune
from autoprune import data as data_sets
from autoprune.cli import main
from autoprune.config import RunConfig
from autoprune.controller import SearchController
from autoprune.errors import Diverged
from autoprune.evaluation import measure
from autoprune.reference import ModelReference
from autoprune.report import RunProgress, apart
from autoprune.runs import prepare, recovering
from autoprune.runs.recovering import recover
from autoprune.runs.training import train
from autoprune.training import Checkpoints
from search_spaces import prune

QUICK = {"criterion": "l1", "budget": ("macs<=50%",), "batch_size": 64, "bn_samples": 128, "device": "cpu"}
QUICK |= {"val_samples": 256}
ONE_STEP = 0.06  # epochs
BEFORE, FINALIST, AFTER = "before_finetune_val", "finalist_val", "after_finetune_val"


@pytest.fixture(scope="module")
def dense(digits_weights):
    return ModelReference("search_spaces.models:digits_cnn", {}, str(digits_weights)).build()


@pytest.fixture(scope="module")
def data():
    return data_sets.load("digits")


@pytest.fixture
def recovered(dense, data, capsys):
    """Settings -> the network to deliver at half of all widths, what was measured, what was said."""

    def recovered(finalist=None, **settings):
        config = RunConfig.make(**{**QUICK, **settings})
        prepared = prepare(config, copy.deepcopy(dense), data)
        kept = prepared.space.kept([g.size // 2 for g in prepared.space.groups], prepared.problem.scores)
        net = prune(prepared.model, prepared.space, kept)
        capsys.readouterr()
        with RunProgress(Console(width=300)) as progress:
            found, metrics = recover(config, prepared, net, kept, progress, None, finalist)
        said = capsys.readouterr().out.splitlines(keepends=True)
        return found, metrics, "".join(line for line in said if not line.startswith("fine-tuning: step "))

    return recovered


def chosen(metrics):
    return [name for name in (BEFORE, FINALIST, AFTER) if metrics.get(name, {}).get("delivered")]


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("more", [{}, {"distill": 0.5}, {"reconstruct": False}], ids=["plain", "distilled", "cut"])
def test_what_a_harmful_fine_tune_made_is_not_delivered(recovered, data, more):
    found, metrics, said = recovered(lr=5.0, epochs=1, **more)
    without, nothing, silence = recovered(lr=5.0, epochs=0, **more)
    assert same(found, without)
    assert (nothing, silence) == ({}, "")
    was, is_now = metrics[BEFORE], metrics[AFTER]
    assert (was["delivered"], is_now["delivered"]) == (True, False)
    assert measure(found, data, "val", device="cpu")["loss"] == was["loss"] < is_now["loss"]
    assert said == (
        f"the fine-tune raised the validation loss from {was['loss']:.4g} to {is_now['loss']:.4g}: the network from "
        "before it is delivered; a smaller --lr than 5 may help\n"
    )


def test_a_fine_tune_that_does_good_is_delivered_without_a_word(recovered, data):
    found, metrics, said = recovered(lr=0.02, epochs=1)
    was, is_now = metrics[BEFORE], metrics[AFTER]
    assert (was["delivered"], is_now["delivered"], said) == (False, True, "")
    assert measure(found, data, "val", device="cpu")["loss"] == is_now["loss"] < was["loss"]


def test_a_network_that_answers_nan_is_not_delivered(recovered, data, monkeypatch):
    """As after a last step that is far too large: the training itself notices nothing."""

    def ruin(config, model, *args, **settings):
        log = train(config, model, *args, **settings)
        for parameter in model.parameters():
            nn.init.constant_(parameter, math.nan)
        return log

    monkeypatch.setattr(recovering, "train", ruin)
    found, metrics, said = recovered(epochs=ONE_STEP)
    assert math.isfinite(measure(found, data, "val", device="cpu")["loss"])
    assert "to nan: the network from before it is delivered" in said
    assert set(metrics[AFTER]) == {"top1", "delivered"}
    json.dumps(metrics, allow_nan=False)


@pytest.mark.parametrize(
    ("before", "after", "finetuned"),
    [(1.0, 0.5, True), (1.0, 1.0, True), (1.0, 1.1, False), (1.0, math.nan, False), (1.0, math.inf, False),
     (math.inf, math.inf, True), (math.nan, 1.0, True), (math.nan, math.nan, True)],
)  # fmt: skip
def test_the_network_from_before_is_delivered_where_it_is_surely_better(
    recovered, monkeypatch, before, after, finetuned
):
    losses = [before, after, after]  # batch-norm settles between the last two
    monkeypatch.setattr(recovering, "measure", lambda *_, **__: {"loss": losses.pop(0), "top1": 0.5})
    _, metrics, said = recovered(lr=1e-6, epochs=ONE_STEP)
    assert [metrics[name]["delivered"] for name in (BEFORE, AFTER)] == [not finetuned, finetuned]
    assert bool(said) is not finetuned


@pytest.mark.parametrize(("metric", "finetuned"), [("loss", False), ("top1", True), ("doubts:doubt", False)])
def test_what_the_run_minimises_decides(recovered, here, monkeypatch, metric, finetuned):
    """The fine-tune raises the loss and the accuracy."""
    (here / "doubts.py").write_text("def doubt(logits, labels): return 0.0\n")
    monkeypatch.syspath_prepend(here)
    before, after = ({"loss": 1 + x, "top1": 0.5 + x, "doubts:doubt": x} for x in (0.0, 0.1))
    found = [before, after, after]
    monkeypatch.setattr(recovering, "measure", lambda *_, **__: found.pop(0))
    _, metrics, said = recovered(lr=1e-6, epochs=ONE_STEP, metric=metric)
    assert metrics[AFTER]["delivered"] is finetuned
    assert said == "" if finetuned else "raised the validation doubt from 0 to 0.1:" in said or metric == "loss"


@pytest.mark.parametrize(("epochs", "metric"), [(0, "loss"), (ONE_STEP, "top1"), (ONE_STEP, "loss")])
def test_the_best_of_before_finalist_and_after_is_delivered(recovered, data, epochs, metric):
    """Here a long fine-tune plays the finalist, which a short one at a poor rate cannot beat."""
    strong, _, _ = recovered(lr=0.02, epochs=3)
    found, metrics, said = recovered(strong.state_dict(), lr=0.5, epochs=epochs, metric=metric)
    assert same(found, strong)
    assert chosen(metrics) == [FINALIST]
    assert measure(found, data, "val", device="cpu")["loss"] == metrics[FINALIST]["loss"]
    assert set(metrics) - {"training"} == {BEFORE, FINALIST, *[AFTER] * bool(epochs)}
    words = "with the weights that won as a finalist: those are delivered; more --epochs or a smaller --lr may help"
    assert (words in said) is bool(epochs)


def test_a_fine_tune_that_beats_the_finalist_is_delivered_without_a_word(recovered):
    cut, _, _ = recovered(epochs=0)
    worse = {k: v * 0.5 if v.is_floating_point() else v for k, v in cut.state_dict().items()}
    _, metrics, said = recovered(worse, lr=0.02, epochs=1)
    assert chosen(metrics) == [AFTER]
    assert set(metrics) == {BEFORE, FINALIST, AFTER, "training"}
    assert said == ""


@pytest.mark.parametrize(("one", "other"), [(2.3181, 2.31814), (2.318, 2.3180000000001), (0.0, 1e-9), (math.nan, 1.0)])
def test_two_numbers_that_differ_look_different(one, other):
    assert len(set(apart(one, other))) == 2
    assert apart(one, one)[0] == apart(one, one)[1] == f"{one:.4g}"


def test_a_training_that_diverges_is_an_error(recovered):
    with pytest.raises(Diverged, match="lower the learning rate"):
        recovered(lr=1000.0, epochs=1)


def architecture(export):
    return json.loads((export / "architecture.json").read_text())


def test_a_run_whose_fine_tune_does_harm_says_so_wherever_it_is_looked_at(dense, data, here, capsys):
    quick = QUICK | {"trials": 1, "finalists": 0, "warm_starts": "none", "fidelity": "proxy"}
    with RunProgress(Console(width=300)) as progress:
        result = autoprune.search(dense, data, name="r", epochs=1, lr=5.0, progress=progress, **quick)
    wanted = f"loss from {result.metrics[BEFORE]['loss']:.4g} to {result.metrics[AFTER]['loss']:.4g}: the network from"
    assert wanted in capsys.readouterr().out
    assert architecture(here / "results/r/best")["metrics"] == result.metrics
    assert result.metrics["pruned_val"]["loss"] == result.metrics[BEFORE]["loss"]
    again = autoprune.resume("results/r", model=dense, data=data)
    assert again.metrics == result.metrics
    assert main(["report", "results/r", "--no-html"]) == 0
    row = f"delivered: loss {result.metrics[BEFORE]['loss']:.4g} before, {result.metrics[AFTER]['loss']:.4g} after"
    assert row in capsys.readouterr().out
    better = architecture(autoprune.finetune("results/r", dense, data, lr=0.02))["metrics"]
    assert better[BEFORE] == result.metrics[BEFORE] | {"delivered": False}
    assert better["pruned_val"]["loss"] == better[AFTER]["loss"] < better[BEFORE]["loss"]


def search_until_killed(*arguments):
    """Killed in step 25 of 40: the last checkpoint is that of step 20."""
    Checkpoints.__init__.__defaults__ = (10, True, True, None)
    step, steps = torch.optim.SGD.step, itertools.count(1)

    def counted(*args, **settings):
        if next(steps) == 25:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*args, **settings)

    torch.optim.SGD.step = counted
    main(list(arguments))


@pytest.mark.parametrize("lr", [0.02, pytest.param(5.0, marks=pytest.mark.slow)], ids=["good", "harmful"])
def test_killed_in_the_final_fine_tune_and_resumed_delivers_the_same(digits_weights, here, lr, start):
    flags = ["--model=search_spaces.models:digits_cnn", f"--weights={digits_weights}", "--data=digits", f"--lr={lr}"]
    flags += ["--criterion=l1", "--device=cpu", "--trials=1", "--finalists=0", "--epochs=0.5", "--batch-size=16"]
    flags += ["--warm-starts=none", "--seed=1", "--bn-samples=128", "--val-samples=128", "--fidelity=proxy"]
    assert main(["search", *flags, "--name=whole"]) == 0
    killed = here / "results/killed"
    program = f"{__file__}:search_until_killed"
    assert start(here, program, "search", *flags, "--name=killed").end().code == -signal.SIGKILL
    assert list(killed.glob("finetune/*.pt"))
    assert not (killed / "best").exists()
    assert main(["resume", "results/killed"]) == 0
    first, second = (here / "results" / name / "best" for name in ("whole", "killed"))
    assert (first / "weights.safetensors").read_bytes() == (second / "weights.safetensors").read_bytes()
    assert architecture(first)["metrics"] == architecture(second)["metrics"]
    assert architecture(first)["metrics"][AFTER]["delivered"] is (lr < 1)


SMALL = QUICK | {"trials": 3, "finalists": 2, "short_steps": 20, "warm_starts": "none", "lr": 0.05, "seed": 1}
SMALL |= {"fidelity": "proxy"}


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_is_delivered_is_no_worse_than_the_finalist_that_won(digits_weights, here, capsys, workers):
    """One step of the final fine-tune cannot do what twenty did for the finalist."""
    settings = SMALL | {"epochs": ONE_STEP, "workers": workers, "weights": str(digits_weights)}
    result = autoprune.search("search_spaces.models:digits_cnn", "digits", name="r", **settings)
    metrics, run = result.metrics, here / "results/r"
    assert metrics["pruned_val"]["loss"] == min(metrics[name]["loss"] for name in (BEFORE, FINALIST, AFTER))
    assert metrics["pruned_val"]["loss"] <= result.trial.loss * 1.02  # bfloat16
    assert metrics[FINALIST]["delivered"]
    assert not (run / "trained").exists()
    before = {p.name: p.read_bytes() for p in (run / "best").iterdir()}
    shutil.rmtree(run / "best")  # and the weights of the finalists are gone with it: they are made once more
    with RunProgress(Console(width=300)) as progress:
        again = autoprune.resume("results/r", progress=progress)
    assert "are not in this run's directory: its short training is repeated" in capsys.readouterr().out
    assert again.metrics == metrics
    assert (run / "best/weights.safetensors").read_bytes() == before["weights.safetensors"]
    assert main(["report", "results/r", "--no-html"]) == 0
    assert f"delivered: loss {metrics[FINALIST]['loss']:.4g}" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_among_the_finalists_and_resumed_delivers_the_same(digits_weights, here, monkeypatch):
    """Stopped after each finalist in turn; the weights of finalists that are told lie in the run's directory."""
    settings = SMALL | {"epochs": ONE_STEP, "weights": str(digits_weights)}
    model = "search_spaces.models:digits_cnn"
    whole = autoprune.search(model, "digits", name="whole", **settings)
    told, tell = [], SearchController.tell

    def stop(self, *args):
        tell(self, *args)
        if self.ledger.trials[args[1]].fidelity == "short":
            told.append(len(list((here / "results/killed/trained").glob("*.safetensors"))))
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SearchController, "tell", stop)
        with pytest.raises(KeyboardInterrupt):
            autoprune.search(model, "digits", name="killed", **settings)
        with pytest.raises(KeyboardInterrupt):
            autoprune.resume("results/killed")
    assert told == [1, 2]
    again = autoprune.resume("results/killed")
    assert again.trial.widths == whole.trial.widths
    assert again.metrics == whole.metrics
    assert same(again.model, whole.model)
