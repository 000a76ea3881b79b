"""The scores of a run: once on the dense network, or in rounds of pruning and training."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autoprune import criteria
from autoprune.config import RunConfig
from autoprune.errors import Diverged
from autoprune.problem import Problem
from autoprune.report.pace import Samples
from autoprune.runs import scoring
from autoprune.tasks import Task
from objectives import parse
from search_spaces import trace


class Encoder(nn.Module):
    """A residual stream behind layer-norms, an MLP, an attention by an adapter."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head((x + self.down(torch.relu(self.up(self.norm(x))))).mean(1))


class Convolutions(nn.Module):
    """Two convolutions with batch-norms."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(6, 8, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8), nn.ReLU()
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.body(x.mT).mean(2))


@pytest.fixture(params=[Encoder, Convolutions])
def posed(request):
    """Arguments of `scored`, but for the settings."""
    x = torch.randn(64, 3, 6)
    pairs = DataLoader(TensorDataset(x, x.mean(1)[:, :2]), batch_size=16)
    task = Task.of(train=pairs, val=pairs, loss=F.mse_loss)
    net = request.param().eval()
    space = trace(net, x[:1])
    problem = Problem(space, (parse("macs<=40%"),), ())
    return net, problem, lambda: task.draw("calibration", 32, 0).batches(16), task


def settings(**given):
    return RunConfig.make(
        **{"lr": 0.01, "batch_size": 16, "device": "cpu", "short_steps": 20, "budget": "macs<=40%"} | given
    )


def test_rounds_train_copies_and_give_a_strict_order(posed):
    net, problem, batches, task = posed
    before, said = copy.deepcopy(net.state_dict()), []
    found = scoring.scored(settings(), net, problem, batches, task, said.append)
    once = criteria.score_all("group_fisher", net, problem.space, batches(), 0, task)
    again = scoring.scored(settings(), net, problem, batches, task, None)
    for scores, other, plain in zip(found, again, once, strict=True):
        assert np.array_equal(scores, other)  # seeded
        assert np.isfinite(scores).all()
        assert len(set(scores)) == len(scores)
        assert not np.array_equal(scores, plain)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert said == ["scoring in 4 rounds, 4 training steps between them"]


@pytest.mark.parametrize(
    "given", [{"score_rounds": 1}, {"criterion": "l1"}, {"method": "slimming"}, {"epochs": 0, "finalists": 0}]
)
def test_one_round_is_the_criterion_itself(posed, given):
    net, problem, batches, task = posed
    config = settings(**given)
    found = scoring.scored(config, net, problem, batches, task, pytest.fail)
    plain = criteria.score_all(config.criterion, net, problem.space, batches(), 0, task)
    assert all(np.array_equal(a, b) for a, b in zip(found, plain, strict=True))


def diverge(*_, **__):
    raise Diverged("the loss is nan at step 1")


def blow_up(net, *_, **__):
    """The loss was a number at every step, and no longer is for the network that they lead to."""
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1e30)


@pytest.mark.parametrize(
    ("training", "told"),
    [(diverge, "(the loss is nan at step 1)"), (blow_up, "(task")],
    ids=["on the way", "at the end"],
)
def test_a_training_that_diverges_leaves_the_dense_scores(posed, monkeypatch, training, told):
    net, problem, batches, task = posed
    monkeypatch.setattr(scoring, "finetune", training)
    said = []
    found = scoring.scored(settings(), net, problem, batches, task, said.append)
    plain = criteria.score_all("group_fisher", net, problem.space, batches(), 0, task)
    assert all(np.array_equal(a, b) for a, b in zip(found, plain, strict=True))
    assert f"training between rounds diverged {told}" in said[-1]


@pytest.mark.parametrize(
    ("given", "steps"),
    [({}, 4), ({"score_steps": 7}, 7), ({"score_steps": 0}, 0)],
    ids=["share", "count", "none"],
)
def test_steps_between_rounds(posed, monkeypatch, given, steps):
    net, problem, batches, task = posed
    trained = []
    monkeypatch.setattr(scoring, "finetune", lambda *_, steps, **__: trained.append(steps))
    scoring.scored(settings(**given), net, problem, batches, task, None)
    assert trained == [steps] * 3 * bool(steps)


def test_what_the_scores_cost():
    """Four rounds of 32 samples there and back, 4 steps of 16 after each but the last; l1 needs nothing."""
    config = settings(score_samples=32, batch_size=16)
    assert scoring.scoring_passes(config, Samples(train=640, val=64)) == 3 * (4 * 32 + 3 * 4 * 16)
    assert scoring.scoring_passes(config, Samples(train=20, val=64)) == 3 * (4 * 20 + 3 * 4 * 10)  # two batches
    assert scoring.scoring_passes(replace(config, epochs=0.0, finalists=0), Samples(640, 64)) == 3 * 32
    assert scoring.scoring_passes(replace(config, criterion="l1"), Samples(640, 64)) == 0


def test_a_front_is_scored_near_its_smallest_network(posed):
    net, problem, batches, task = posed
    front = Problem(problem.space, (parse("macs<=100%"),), (), front=("macs",))
    found = scoring.scored(settings(score_steps=0), net, front, batches, task, None)
    plain = criteria.score_all("group_fisher", net, problem.space, batches(), 0, task)
    assert any(not np.array_equal(a, b) for a, b in zip(found, plain, strict=True))
