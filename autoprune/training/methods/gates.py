"""Gates that agree on one sub-network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoprune.training.gating import Gating
from autoprune.training.methods.finding import FindingUnits
from autoprune.training.methods.method import Plan, Pruning, Step

OPEN = 1.0  # logit of every gate in the beginning
REACH = 10.0  # how far a logit can go in a phase
MEMORY = 0.9  # of the mean logits


class Gates(FindingUnits):
    """Consensus sub-network: gates that depend on the input are polarised until all inputs agree (consensus, 2023).

    Each unit has a gate, 1 where a * x + b > 0, of its mean value x where it is read; the slope of a sigmoid s stands
    in for the step's (https://arxiv.org/abs/2302.10798, whose constants and gate network are not public: these are
    ours). Loss: polar * mean of m (1 - m), with m the mean of s over the samples and places of a unit, plus strength *
    sum over budgets of max(0, cost at widths of sum m / limit - 1)^2. In the end the units whose mean logit is above
    zero stay, brought to the budgets. Members of a unit share a and b, each place sees its own x.

    Args:
        strength: Of the loss on the budgets.
        polar: Of the polarising loss.
    """

    name: ClassVar[str] = "gates"
    by_samples = True
    REMEMBERED: ClassVar[tuple[str, ...]] = ("slopes", "shifts", "logits")
    NOTHING: ClassVar[Mapping[str, float]] = {"strength": 0.0, "polar": 0.0}

    def __init__(self, pruning: Pruning | None = None, *, strength: float = 10.0, polar: float = 0.1) -> None:
        super().__init__(pruning)
        self.strength, self.polar = strength, polar

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`."""
        super().begin(net, plan)
        self.slopes = [torch.zeros(u.size, device=u.device, requires_grad=True) for u in self.units]  # a
        self.shifts = [torch.full((u.size,), OPEN, device=u.device, requires_grad=True) for u in self.units]  # b
        self.logits = [torch.full((u.size,), OPEN, device=u.device) for u in self.units]  # mean so far
        self.seen: list[list[Tensor]] = [[] for _ in self.units]
        self.optimizer = torch.optim.Adam([*self.slopes, *self.shifts], lr=REACH / plan.steps)
        self.gating = Gating(net, self.space, self._gates) if self.strength or self.polar else None

    def _gates(self, number: int, values: Tensor) -> Tensor:
        x = (values / values.abs().mean().clamp(min=1e-6)).to(self.shifts[number])
        if torch.is_grad_enabled():
            self.seen[number].append(x)
        soft = torch.sigmoid(self._logit(number, x))
        return (soft > 0.5).to(soft) + soft - soft.detach()

    def _logit(self, number: int, x: Tensor) -> Tensor:
        return self.slopes[number] * x + self.shifts[number]

    def penalty(self, net: nn.Module, step: Step) -> Tensor | None:
        """See the class."""
        if self.gating is None:
            return None
        widths, even = torch.tensor([float(units.size) for units in self.units]), []
        for i in (i for i, units in enumerate(self.units) if units in self.prunable):
            seen = self.seen[i] or [torch.zeros_like(self.logits[i])[None]]  # no layer that reads them was called
            logit = self._logit(i, torch.cat(seen))
            self.logits[i] = MEMORY * self.logits[i] + (1 - MEMORY) * logit.detach().mean(0)
            means = torch.sigmoid(logit).mean(0)
            even.append(means * (1 - means))
            widths = widths.index_put((torch.tensor(i),), means.sum().to(widths))
        over = (self.loads(widths) - 1).clamp(min=0).square().sum()
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

    def state(self) -> dict[str, Any]:
        """See `Method`."""
        return {**super().state(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Method`."""
        super().load(state)
        self.optimizer.load_state_dict(state["optimizer"])
