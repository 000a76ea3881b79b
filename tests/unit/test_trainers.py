"""A trainer of the user's in place of the loop: what it is given, what is made of what it gives back."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import autoprune
from autoprune.reference import ModelReference
from autoprune.runs import RunDirectory, TrainerRun
from autoprune.runs.trainer import trained_by
from autoprune.settings import TrainingSettings
from autoprune.tasks import as_task
from objectives import named

QUICK = {"criterion": "l1", "trials": 1, "finalists": 0, "warm_starts": "none", "strategy": "random", "batch_size": 64,
         "device": "cpu", "progress": False, "score_samples": 64, "reconstruct": False}  # fmt: skip


@pytest.fixture(scope="module")
def dense(digits_weights):
    return ModelReference("search_spaces.models:digits_cnn", {}, str(digits_weights)).build()


@pytest.fixture
def run(dense, tmp_path):
    from autoprune import data

    task = as_task(data.load("digits")).without("test")
    return TrainerRun(task, TrainingSettings(batch_size=64), tmp_path / "folder", dense, task.example())


def attempt(network, run):
    return network


def in_parallel(network, run):
    return nn.DataParallel(network)


def its_weights(network, run):
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    return network.state_dict()


def nothing(network, run):
    pass


def a_number(network, run):
    return 3.0


def diverged(network, run):
    nn.init.constant_(next(network.parameters()), math.nan)
    return network


def another(network, run):
    return nn.Linear(3, 3)


class Changed(nn.Module):
    """The same weights under the same names, and another answer."""

    def __init__(self, network):
        super().__init__()
        self.__dict__ |= copy.deepcopy(network).__dict__
        self.kind = type(network)

    def forward(self, x):
        return 2 * self.kind.forward(self, x)


def changed(network, run):
    return Changed(network)


def failing(network, run):
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        (nothing, "gave nothing back; it must return the network"),
        (a_number, "must return the network, or its state dict, got float"),
        (diverged, "NaN or infinite"),
        (another, "must give back the network that it was given, trained "),
        (changed, "no longer has the architecture"),
        (failing, r"failed while it trained the network with OSError: the disk is gone"),
        ("math:pi", "must be a function of"),
        ("nowhere:train", "trainer 'nowhere:train': expected package.module:Name that can be imported"),
    ],
)
def test_what_is_not_this_network_trained_is_refused(dense, run, trainer, words):
    before = copy.deepcopy(dense.state_dict())
    with pytest.raises(ValueError, match=words) as caught:
        trained_by(trainer if isinstance(trainer, str) else named(trainer, {}), dense, run)
    assert "trainer '" in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in dense.state_dict().items())


def test_the_network_its_wrapper_or_its_weights_are_taken(dense, run):
    for trainer in (attempt, in_parallel):
        found = trained_by(named(trainer, {}), dense, run)
        assert all(torch.equal(a, b) for a, b in zip(found.parameters(), dense.parameters(), strict=True))
        assert not found.training
    found = trained_by(named(its_weights, {}), dense, run)
    assert torch.equal(next(found.parameters()), next(dense.parameters()) + 1)
    assert run.folder.is_dir()


def test_it_is_given_the_batches_of_the_run(run):
    first, again, other = (list(run.batches("train", epoch)) for epoch in (0, 0, 1))
    assert len(first) == run.task.count("train") // 64
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], other[0][0])
    assert sum(len(labels) for _, labels in run.batches("val")) == run.task.count("val")
    assert not run.task.has("test")


seen = []


def train_a_little(network, run):
    """A few steps of plain torch."""
    seen.append(run)
    (run.folder / "mine.txt").write_text("kept")
    optimizer = torch.optim.SGD(network.parameters(), lr=run.settings.lr)
    network.train()
    for batch in run.batches("train"):
        optimizer.zero_grad()
        run.task.evaluate(network, batch)[1].mean().backward()
        optimizer.step()
    return network


def test_a_search_delivers_what_the_trainer_gave(dense, here):
    result = autoprune.search(dense, "digits", name="r", trainer=train_a_little, epochs=1, lr=0.05, **QUICK)
    said = json.loads((result.run_dir / "best/architecture.json").read_text())
    assert said["provenance"]["finetune"]["trainer"] == RunDirectory.open(result.run_dir).config.trainer
    assert result.metrics["after_finetune_val"]["delivered"]
    assert result.metrics["after_finetune_val"]["loss"] < result.metrics["before_finetune_val"]["loss"]
    assert "training" not in result.metrics  # whose curve nobody knows
    assert (seen[-1].settings.epochs, seen[-1].settings.lr) == (1.0, 0.05)
    assert isinstance(seen[-1].folder, Path)
    again = autoprune.load(autoprune.finetune(result.run_dir, dense, trainer="", epochs=0.1, progress=False), dense)
    assert again is not None  # the run's own loop


def test_a_trainer_that_does_harm_is_said(dense, here, capsys):
    from rich.console import Console

    with autoprune.RunProgress(Console(width=300)) as progress:
        result = autoprune.search(
            dense, "digits", name="r", trainer=its_weights, epochs=1, **QUICK | {"progress": progress}
        )
    assert "the network from before it is delivered" in capsys.readouterr().out
    assert not result.metrics["after_finetune_val"]["delivered"]


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("library", ["lightning", "accelerate"])
def test_the_examples_train(library, dense, run, monkeypatch):
    pytest.importorskip(library)
    monkeypatch.syspath_prepend(str(EXAMPLES / f"{library}_trainer"))
    small = replace(run, settings=TrainingSettings(batch_size=64, epochs=0.3, lr=0.01, device="cpu"))
    found = trained_by(f"{library}_trainer:train", dense, small)
    assert not torch.equal(next(found.parameters()), next(dense.parameters()))
    if library == "lightning":
        assert (small.folder / "last.ckpt").is_file()
