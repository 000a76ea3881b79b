"""Nested sub-networks: what a step does, worked out by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from tiny_training import network, pruning, task, trained

from autoprune.tasks import Task
from autoprune.training import Pruning, TrainingSettings, finetune
from autoprune.training.methods import Nested
from search_spaces import trace


def test_a_step_by_hand():
    # y = a c + b d is the larger level (2 units), s = a c the smaller one; a, b, c, d = 1, 2, 3, 0.5; target 2.
    # y = 4, s = 3; loss (y - 2)^2 = 4, and of s, which learns y: (s - y)^2 = 1.
    # d/da = 2 (y - 2) c + 2 (s - y) c = 12 - 6 = 6    d/db = 2 (y - 2) d = 2
    # d/dc = 2 (y - 2) a + 2 (s - y) a =  4 - 2 = 2    d/dd = 2 (y - 2) b = 8
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [2.0]]))
        net[1].weight.copy_(torch.tensor([[3.0, 0.5]]))
    space = trace(net, torch.ones(1, 1))
    method = Nested(Pruning(space, (np.array([1.0, 0.0]),), levels={"two": (2,), "one": (1,)}))
    batch = (torch.ones(4, 1), torch.full((4, 1), 2.0))
    plain = TrainingSettings(lr=0.1, lr_schedule="constant", warmup=0, momentum=0, weight_decay=0, device="cpu")
    several = method.network(net)
    log = finetune(several, Task.of([batch], [batch], loss=nn.functional.mse_loss), plain, steps=1, method=method)
    assert log.losses == pytest.approx((5.0,))
    torch.testing.assert_close(several.largest[0].weight, torch.tensor([[0.4], [1.8]]))
    torch.testing.assert_close(several.largest[1].weight, torch.tensor([[2.8, -0.3]]))
    small = several.switch("one").network
    assert small[0].weight.tolist() == [[pytest.approx(0.4)]]
    assert small[1].weight.tolist() == [[pytest.approx(2.8)]]


def test_every_level_has_statistics_of_its_own_samples():
    method = Nested(pruning(network()))
    several = trained(method, network())
    images = torch.cat([x for x, _ in task().training(64, 0).between(0, 8)])
    for level in several.names:
        net = several.switch(level).network
        found = net.conv1(images)
        torch.testing.assert_close(net.bn1.running_mean, found.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_levels_between_are_drawn():
    base = pruning(network())
    widths = [base.space.clip(s * g.size for g in base.space.groups) for s in (1, 0.9, 0.8, 0.6, 0.4, 0.2)]
    levels = {str(i): w for i, w in enumerate(widths)}
    asked = []
    method = Nested(Pruning(base.space, base.scores, levels=levels))
    several = method.network(network())
    at = several.trained_at
    several.trained_at = lambda level: asked.append(level) or at(level)
    finetune(several, task(), TrainingSettings(device="cpu", lr=0.01), steps=6, method=method)
    steps = [asked[i : i + 3] for i in range(0, 18, 3)]
    assert all(step[2] == "5" and step[0] < step[1] < "5" for step in steps)
    assert len({tuple(s) for s in steps}) > 1


def test_needs_levels_and_its_network():
    with pytest.raises(ValueError, match=r"needs the widths of its levels; e\.g\. --budget"):
        Nested(Pruning(pruning(network()).space, ())).network(network())
    with pytest.raises(ValueError, match=r"give what its network\(net\) makes"):
        finetune(network(), task(), TrainingSettings(device="cpu"), steps=1, method=Nested(pruning(network())))
