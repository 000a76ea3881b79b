"""Rescaled initialisation, by hand on a network of one weight, and in the loop."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from tiny_training import SETTINGS, equal, network, trained

from autoprune.tasks import Task
from autoprune.training.rescaling import rescale


class One(nn.Module):
    """One weight, which is 1."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.w * x


@pytest.mark.parametrize(
    ("here", "following", "factor"),
    [
        # loss (m - t)^2 at m = 1: g = 2 (1 - t), eta 0.1; Adam's first step is its rate of 0.001
        (0.75, 2.0, 1.001),  # |g| = 0.5: (0.8 m + 0.15 - 2)^2 falls with a larger m
        (0.75, 0.0, 0.999),  # (0.8 m + 0.15)^2 with a smaller one
        (0.0, 2.0, 0.999),  # |g| = 2 > 1: |2 m| falls with a smaller one, whatever comes after
    ],
)
def test_a_factor_by_hand(here, following, factor):
    pairs = [(torch.ones(1, 1), torch.full((1, 1), target)) for target in (here, following)]
    task = Task.of(pairs, pairs, loss=nn.functional.mse_loss)
    net = One().train()
    assert rescale(net, task, pairs) == {"w": pytest.approx(factor, abs=1e-6)}
    assert net.w.item() == pytest.approx(factor, abs=1e-6)


def test_names_that_the_network_does_not_take_are_left_out():
    class Named(One):
        def forward(self, row):
            return super().forward(row)

    batches = [{"row": torch.ones(1, 1), "number": torch.zeros(1), "y": torch.zeros(1, 1)}] * 2
    task = Task.of(batches, batches, loss=nn.functional.mse_loss)
    assert rescale(Named().train(), task, batches) == {"w": pytest.approx(0.999, abs=1e-6)}


def test_it_is_done_once_before_the_first_step(tmp_path):
    def die(_, done):
        if done == 7:
            raise InterruptedError

    settings = replace(SETTINGS, rescale=6)
    expected = trained(None, network(), steps=10, settings=settings)
    assert not equal(expected, trained(None, network(), steps=10))
    with pytest.raises(InterruptedError):
        trained(None, network(), steps=10, settings=settings, checkpoint=tmp_path / "a.pt", listener=die)
    assert equal(trained(None, network(), steps=10, settings=settings, checkpoint=tmp_path / "a.pt"), expected)


class Rough(torch.autograd.Function):
    """Can be differentiated once."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return slope * 2


def test_a_network_without_second_derivatives_is_told():
    class Net(One):
        def forward(self, x):
            return Rough.apply(self.w * x)

    pairs = [(torch.ones(1, 1), torch.zeros(1, 1))] * 2
    task = Task.of(pairs, pairs, loss=nn.functional.mse_loss)
    with pytest.raises(ValueError, match="rescale: the gradients of this network cannot be differentiated again"):
        rescale(Net().train(), task, pairs)
