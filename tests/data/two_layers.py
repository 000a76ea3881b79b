"""A network of two layers, on which golden numbers of methods are worked out by hand."""

import torch
from torch import nn

from autoprune.compute import Compute
from autoprune.problem import Problem
from autoprune.training import TrainingSettings
from autoprune.training.methods import METHODS, Plan, Pruning, Step
from autoprune.training.units import units_of
from objectives import parse
from search_spaces import trace

W = [[1.0, 1.0], [2.0, -2.0], [4.0, 4.0]]  # what makes the three units; mean |w| 1, 2, 4


def network(rows=W, norm=None):
    """Linear(2, C), perhaps a batch-norm of these scales, ReLU, Linear(C, 2)."""
    size = len(rows)
    parts = [nn.Linear(len(rows[0]), size), nn.ReLU(), nn.Linear(size, 2)]
    if norm:
        parts.insert(1, nn.BatchNorm1d(size))
        parts[1].weight.data = torch.tensor(norm)
    parts[0].weight.data = torch.tensor(rows)
    net = nn.Sequential(*parts)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    return net


def begun(name, net, steps, kept=None, budget="macs<=67%", per_epoch=1, lr=1e-3, **own):
    """The method at its first step."""
    space = trace(net.eval(), torch.zeros(1, net[0].in_features))
    scores = (units_of(net, space)[0].rows().abs().sum(1).detach().double().numpy(),)
    problem = Problem(space, (parse(budget),), scores)
    pruning = Pruning(space, scores, None if kept is None else (kept,), problem.project, problem)
    method = METHODS[name](pruning, **own)
    compute = Compute(torch.device("cpu"), amp=False)
    settings = TrainingSettings(lr=lr, lr_schedule="constant", warmup=0, device="cpu")
    method.begin(net.train(), Plan(None, settings, compute, steps, per_epoch, 1))
    return method


def gradients(method, net, number):
    """Of the first layer's weight after a step's backward pass that gave none."""
    for p in net.parameters():
        p.grad.zero_()
    method.after_backward(net, Step(number, ()))
    return net[0].weight.grad


def loss(method, net, number):
    """What it adds to the loss of a step."""
    return float(method.penalty(net, Step(number, ())).detach())
