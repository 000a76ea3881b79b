"""Gates that agree on one sub-network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.training.gating import Gating
from autoprune.training.methods.finding import FindingUnits
from autoprune.training.methods.method import Plan, Pruning, Step
from autoprune.training.units import lowest

FALLING = 0.8  # share of the phase in which the limits come down
REACH = 10.0  # how far a logit can go in a phase
MEMORY = 0.9  # of the mean logits


class Gates(FindingUnits):
    """Consensus sub-network: gates that depend on the input are polarised until all inputs agree (consensus, 2023).

    Each unit has a gate, 1 where a * x + b > 0, of its mean value x where it is read; the slope of a sigmoid s stands
    in for the step's (https://arxiv.org/abs/2302.10798; constants and gates are not public: these are ours). a begins
    at 0, b at the norm of the unit's filters over its group's mean. Loss: polar * mean of m (1 - m), with m the mean of
    s over samples and places, plus strength * sum over budgets of max(0, cost of what is open / limit - 1)^2, whose
    gradient goes to m. Limits come down from the dense cost by one factor a step, in four fifths of the phase, or all
    gates would shut together; what must stay of a group is always open. In the end those of mean logit above 0 stay.

    Args:
        strength: Of the loss on the budgets.
        polar: Of the polarising loss.
    """

    name: ClassVar[str] = "gates"
    by_samples = True
    REMEMBERED: ClassVar[tuple[str, ...]] = ("slopes", "shifts", "logits", "optimizer")
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"strength": (0, 1e6), "polar": (0, 1e6)}
    NOTHING: ClassVar[Mapping[str, float]] = {"strength": 0.0, "polar": 0.0}

    def __init__(self, pruning: Pruning | None = None, *, strength: float = 10.0, polar: float = 0.1) -> None:
        super().__init__(pruning)
        self.strength, self.polar = strength, polar

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`."""
        super().begin(net, plan)
        begin = [(n / n.mean().clamp(min=1e-30)).clamp(min=0.1) for n in self.norms()]
        self.slopes, self.shifts = (
            [(b * 0).requires_grad_() for b in begin],
            [b.clone().requires_grad_() for b in begin],
        )
        self.logits = begin  # mean so far
        self.seen: list[list[Tensor]] = [[] for _ in self.units]
        self.dense = self.loads(torch.tensor(self.space.full, dtype=torch.float32))
        self.optimizer = torch.optim.Adam([*self.slopes, *self.shifts], lr=REACH / plan.steps)
        self.gating = Gating(net, self.space, self._gates) if self.strength or self.polar else None

    def _gates(self, number: int, values: Tensor) -> Tensor:
        x = (values / values.abs().mean().clamp(min=1e-6)).to(self.shifts[number])
        if torch.is_grad_enabled():
            self.seen[number].append(x)
        return self._gate(number, self.slopes[number] * x + self.shifts[number])

    def _gate(self, number: int, logit: Tensor) -> Tensor:
        soft, size = torch.sigmoid(logit), self.units[number].size
        may = lowest(self.logits[number], size - self.space.groups[number].floor).to(logit.device)
        return ((logit > 0) | ~may).to(soft) + soft - soft.detach()

    def penalty(self, net: nn.Module, step: Step) -> Tensor | None:
        """See the class."""
        if self.gating is None:
            return None
        widths, even = torch.tensor([float(units.size) for units in self.units]), []
        for i in (i for i, units in enumerate(self.units) if units in self.prunable):
            seen = self.seen[i] or [torch.zeros_like(self.logits[i])[None]]  # no layer that reads them was called
            logit = self.slopes[i] * torch.cat(seen) + self.shifts[i]
            self.logits[i] = torch.lerp(logit.detach().mean(0), self.logits[i], MEMORY)
            even.append((m := torch.sigmoid(logit).mean(0)) * (1 - m))
            widths = widths.index_put((torch.tensor(i),), self._gate(i, logit).mean(0).sum().to(widths))
        to_go = max(0.0, 1 - (step.number + 1) / (FALLING * self.steps))
        over = (self.loads(widths) / self.dense.clamp(min=1) ** to_go - 1).clamp(min=0).square().sum()
        return self.polar * torch.cat(even).mean() + self.strength * over.to(even[0].device)

    def after_backward(self, net: nn.Module, step: Step) -> float:
        """Train the gates."""
        if self.gating is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.seen = [[] for _ in self.units]
        return 0.0

    def leave(self) -> None:
        """What is open, and the budgets."""
        self.let_go()
        self.pruned = self.projected([logit > 0 for logit in self.logits], self.logits)
        super().leave()
