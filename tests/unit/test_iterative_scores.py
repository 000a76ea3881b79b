"""Scores in rounds: of two units that do the same one goes, not both; values stay the dense ones, the order changes."""

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.allocation import iterative_scores
from autoprune.allocation.iterative import cut
from autoprune.problem import Problem
from objectives import parse
from search_spaces import trace


class Twins(nn.Module):
    """Four hidden units: 0 and 1 are equal and matter together, 2 matters a little, 3 less."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(2, 4, bias=False), nn.Linear(4, 2, bias=False)
        with torch.no_grad():
            self.up.weight.copy_(torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]))
            self.down.weight.copy_(torch.tensor([[2.0, 2, 0, 0], [0, 0, 0.6, 0.5]]))

    def forward(self, x):
        return self.down(torch.relu(self.up(x)))


def alone(net: nn.Module) -> tuple[np.ndarray, ...]:
    """What each unit of the one group adds that no other unit of the network adds as well: twins are worth nothing."""
    up, down = net.up.weight.detach(), net.down.weight.detach()
    alive = down.abs().sum(0) > 0
    worth = []
    for unit in range(4):
        twin = any(alive[o] and o != unit and torch.equal(up[o], up[unit]) and down[:, o].norm() == down[:, unit].norm()
                   for o in range(4))  # fmt: skip
        worth.append(0.1 if twin else float(down[:, unit].norm()) if alive[unit] else 0.0)
    return (np.array(worth),)


@pytest.fixture
def problem():
    net = Twins().eval()
    space = trace(net, torch.zeros(1, 2))
    return net, Problem(space, (parse("params<=50%"),), alone(net))


def test_twins_do_not_go_together(problem):
    net, problem = problem
    once = iterative_scores(problem, net, 1, alone, lambda small: None)[0]
    assert {0, 1} == set(np.argsort(once)[:2])  # taken alone, either can be spared, and both go
    rounds = iterative_scores(problem, net, 4, alone, lambda small: None)[0]
    assert set(np.argsort(-rounds)[:2]) == {1, 2} or set(np.argsort(-rounds)[:2]) == {0, 2}
    assert np.allclose(np.sort(rounds), np.sort(alone(net)[0]), atol=1e-7)  # how wide is told by the dense scores


def test_order_follows_the_rounds_and_dense_weights_stay(problem):
    net, problem = problem
    before = {n: t.clone() for n, t in net.state_dict().items()}
    seen = []

    def train(small):
        seen.append(small.up.out_features)
        with torch.no_grad():
            small.down.weight.mul_(10)

    scores = iterative_scores(problem, net, 3, alone, train)[0]
    assert seen == [3, 3] or seen == [3, 2]
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert len(set(scores)) == 4  # a strict order, even among equals
    last = problem.space.kept((2,), (scores,))[0]
    wider = problem.space.kept((3,), (scores,))[0]
    assert set(last) < set(wider)


def test_schedule_is_geometric(problem):
    _, problem = problem
    full = problem.feasibility.price(problem.space.full)["params"]
    assert full == 16
    sizes = [len(cut(problem, problem.scores, share)[0]) for share in (0.0, 0.5, 1.0)]
    assert sizes == [4, 2, 2]  # 16, 16 / sqrt(2) = 11.3 -> 8, and 8 parameters
