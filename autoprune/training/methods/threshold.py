"""Learnt thresholds with a loss on the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.training.gating import Gating
from autoprune.training.methods.finding import FindingUnits, share_of
from autoprune.training.methods.method import Plan, Pruning, Step

SHARPNESS = 5.0  # of the sigmoid whose slope stands in for that of a step


class Threshold(FindingUnits):
    """Adaptive sparsity loss: a threshold for each group, learnt with the weights under a loss on the budgets.

    A unit is closed while its norm |w| is below mu + r sigma of its group, with r learnt; taken as Gaussian, a share
    Phi(r) of the group is closed, so the loss strength * sum over budgets of (cost at these widths / limit - 1)^2 is a
    closed form (Retsinas et al. 2020, https://arxiv.org/abs/2006.02768, where single weights of both signs have
    |w - mu| < r sigma and a share erf(r / sqrt 2)). Gates at what reads a unit, filters of all members in its
    norm, and a sigmoid's slope for the step's are ours. In the end as many stay as are open, brought to the budgets.

    Args:
        strength: Of the loss on the budgets (published: 10).
    """

    name: ClassVar[str] = "threshold"
    by_samples = True
    REMEMBERED: ClassVar[tuple[str, ...]] = ("levels",)
    NOTHING: ClassVar[Mapping[str, float]] = {"strength": 0.0}

    def __init__(self, pruning: Pruning | None = None, *, strength: float = 10.0) -> None:
        super().__init__(pruning)
        self.strength = strength

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`."""
        super().begin(net, plan)
        goal = share_of(self.of_prunable(self.ranked(self.norms(), "mean")))
        share = min(0.99, max(0.01, 0.6 * goal))  # begins at 0.6 of it
        first = math.sqrt(2) * float(torch.erfinv(torch.tensor(2 * share - 1)))
        self.levels = torch.full((len(self.units),), first, requires_grad=True)  # r
        self._check_strength()
        self.gating = Gating(net, self.space, self._gates) if self.strength else None

    @torch.enable_grad()
    def _check_strength(self) -> None:
        """Refuse steps that overshoot where the budgets hold: a rate above 2 / (2 strength |d load / d r|^2)."""
        slopes = [torch.autograd.grad(load, self.levels, retain_graph=True)[0] for load in self._loads()]
        curvature = 2 * float(torch.stack(slopes).square().sum())
        if self.rate * self.strength * curvature > 2:
            raise ValueError(f"method 'threshold': with its strength of {self.strength:g} the thresholds would jump to "
                             f"and fro at the learning rate of {self.rate:g}; give a strength of at most "
                             f"{1 / (self.rate * curvature):.2g}, or lower the learning rate")  # fmt: skip

    def _gates(self, number: int, values: Tensor) -> Tensor:
        norm = self.units[number].norms()
        spread = norm.detach().std(unbiased=False).clamp(min=1e-12)
        above = (norm - norm.detach().mean()) / spread - self.levels[number].to(norm.device)
        soft = torch.sigmoid(SHARPNESS * above)
        gate: Tensor = (above > 0).to(soft) + soft - soft.detach()
        return gate

    def penalty(self, net: nn.Module, step: Step) -> Tensor | None:
        """See the class."""
        if not self.strength:
            return None
        return self.strength * (self._loads() - 1).square().sum()

    def _loads(self) -> Tensor:
        """[K] what the widths cost of each budget's limit, a share Phi(r) of each group closed."""
        sizes = torch.tensor([float(units.size) for units in self.units])
        may = torch.tensor([float(units in self.prunable) for units in self.units])
        closed = may * (1 + torch.erf(self.levels / math.sqrt(2))) / 2  # Phi(r)
        return self.loads(sizes * (1 - closed))

    def after_backward(self, net: nn.Module, step: Step) -> float:
        """Plain gradient descent of the thresholds, at the learning rate of the phase."""
        if self.levels.grad is not None:
            with torch.no_grad():
                self.levels.sub_(self.rate * self.levels.grad).clamp_(-3, 3)
            self.levels.grad = None
        return 0.0

    def leave(self) -> None:
        """What is open, and the budgets."""
        self.let_go()
        norms, levels = self.norms(), self.levels.tolist()
        alive = [n > n.mean() + r * n.std(unbiased=False) for n, r in zip(norms, levels, strict=True)]
        self.pruned = self.projected(alive if self.strength else [n >= 0 for n in norms], norms)
        super().leave()
