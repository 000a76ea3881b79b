"""A candidate in training is taken over where its worker was killed, and ends as if nobody had died."""

import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.data import load
from autoprune.errors import CandidateFailed
from autoprune.evaluation import EvaluationSettings, Evaluator, evaluator
from search_spaces import trace

FIDELITY = "short:60"


def make(folder, **changes):
    """With batch-norm and dropout, so that every kind of state is in play."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 8, 3), nn.Flatten(),
            nn.Linear(128, 10),
        ).eval()  # fmt: skip
    data = load("digits", test=False, val_images=300)
    space = trace(model, data.example)
    scores = tuple(np.arange(g.size) / 9 for g in space.groups)
    settings = {"batch_size": 32, "val_samples": 300, "reconstruct": True, "abandon": False, "checkpoint_every": 10}
    settings = EvaluationSettings(**settings, checkpoints=str(folder) if folder else "", **changes)
    return Evaluator(model, data, space, scores, settings)


@pytest.fixture(scope="module")
def plain():
    """Never stopped, no checkpoints."""
    found = make(None)((4, 4)[: len(make(None).space.groups)], FIDELITY)
    assert "resumed_from" not in found
    return found


def widths(evaluate):
    return (4, 4)[: len(evaluate.space.groups)]


def stopped(monkeypatch, number):
    """A signal comes after step 25."""
    original = evaluator.finetune

    def listener(step, steps, loss):
        if step == 25:
            signal.raise_signal(number)

    monkeypatch.setattr(
        evaluator, "finetune", lambda *args, **settings: original(*args, **{**settings, "listener": listener})
    )


def same(found, plain):
    return all(found[key] == plain[key] for key in ("loss", "top1", "batch_losses", "samples"))


def evaluate_until_killed(directory):
    stopped(pytest.MonkeyPatch(), signal.SIGKILL)
    evaluate = make(directory)
    evaluate(widths(evaluate), FIDELITY)


@pytest.mark.slow
def test_killed_in_the_middle_it_ends_as_never_stopped_with_fewer_steps(tmp_path, plain, start):
    assert start(tmp_path, f"{__file__}:evaluate_until_killed", tmp_path).end().code == -signal.SIGKILL
    evaluate = make(tmp_path)
    found = evaluate(widths(evaluate), FIDELITY)
    assert same(found, plain)
    assert found["resumed_from"] == 20
    assert not list(tmp_path.glob("*.pt"))
    assert "resumed_from" not in evaluate(widths(evaluate), FIDELITY)  # once more is from the start


def test_ctrl_c_keeps_the_state(tmp_path, plain, monkeypatch):
    evaluate = make(tmp_path)
    with monkeypatch.context() as patch:
        stopped(patch, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            evaluate(widths(evaluate), FIDELITY)
    assert len(os.listdir(tmp_path)) == 1
    for other, fidelity in (((3, 3), FIDELITY), ((4, 4), "short:50")):  # what another training left is not touched
        assert "resumed_from" not in evaluate(other[: len(widths(evaluate))], fidelity)
    found = evaluate(widths(evaluate), FIDELITY)
    assert found["resumed_from"] == 20
    assert same(found, plain)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("damage", ["torn", "other", "folder"])
def test_a_file_that_is_no_use_costs_nothing_but_the_steps(tmp_path, plain, monkeypatch, damage):
    evaluate = make(tmp_path)
    with monkeypatch.context() as patch:
        stopped(patch, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            evaluate(widths(evaluate), FIDELITY)
    (path,) = tmp_path.iterdir()
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "other":  # another network under the same name
        state = torch.load(path, weights_only=True)
        state["model"] = {name: torch.zeros(3) for name in state["model"]}
        torch.save(state, path)
    else:
        path.unlink()
        path.mkdir()  # it can neither be read nor written
    found = evaluate(widths(evaluate), FIDELITY)
    assert "resumed_from" not in found
    assert same(found, plain)


def test_a_short_training_writes_nothing_and_a_failed_one_leaves_nothing(tmp_path, monkeypatch):
    evaluate = make(tmp_path / "short")
    evaluate(widths(evaluate), "short:10")
    assert not (tmp_path / "short").exists()
    broken = make(tmp_path / "broken")

    def diverge(*args, **settings):
        if settings["checkpoints"]:  # not one of those that only choose a start
            settings["checkpoints"].path.parent.mkdir()
            settings["checkpoints"].path.touch()
        raise evaluator.Diverged("diverged")

    monkeypatch.setattr(evaluator, "finetune", diverge)
    with pytest.raises(CandidateFailed, match="diverged"):
        broken(widths(broken), FIDELITY)
    assert os.listdir(tmp_path / "broken") == []
