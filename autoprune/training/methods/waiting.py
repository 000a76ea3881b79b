"""What the methods have in common that wait until what would be pruned has stopped changing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.training.methods.finding import FindingUnits
from autoprune.training.methods.method import Plan, Pruning


class WaitingUnits(FindingUnits):
    """Plain training until the choice has settled; then what is not chosen goes, and the training is over.

    After each epoch the units are chosen that the budgets would leave now; when the choices of the last epochs are
    alike enough, it is made for good, at the latest at the last step. The epochs that are left are for the network
    that is cut out, which trains faster.

    Attributes:
        last: Earlier epochs that are compared, or as many as a shorter training has before its last epoch.
        history: [all units] of the last epochs' choices, what would go.
        settled_after: Epochs that were trained until then; 0: it has not settled.
    """

    REMEMBERED: ClassVar[tuple[str, ...]] = ("history", "settled_after")

    def __init__(self, pruning: Pruning | None = None, *, last: int) -> None:
        super().__init__(pruning)
        self.last = last

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`.

        Raises:
            ValueError: As `FindingUnits`, or if it cannot choose in this network.
        """
        super().begin(net, plan)
        self.compared = min(self.last, (plan.steps - 1) // plan.per_epoch - 1)
        self.history: list[Tensor] = []
        self.settled_after = 0
        self.choose()  # refuses what it cannot choose from

    def least(self) -> int:
        """Two epochs, one of which is compared with the other, and a step."""
        return 2 * self.per_epoch + 1

    @abstractmethod
    def choose(self) -> tuple[Tensor, ...]:
        """Per group [C] what would go now."""

    @abstractmethod
    def is_settled(self) -> bool:
        """Whether the choices of the last epochs are alike."""

    @property
    def is_over(self) -> bool:
        """See `Method`."""
        return self.settled_after > 0

    def end_epoch(self, net: nn.Module, epoch: int) -> None:
        """Choose, and compare with the epochs before."""
        if self.done >= self.steps:
            return
        gone = self.choose()
        if self.settles(gone):
            self.pruned, self.settled_after = gone, epoch + 1
            self.mask()

    def settles(self, gone: Sequence[Tensor]) -> bool:
        """Whether with this choice [C] per group, after one more epoch, the last ones are alike."""
        self.history.append(torch.cat(list(gone)).cpu())
        return self.is_settled()

    def leave(self) -> None:
        """At the latest now."""
        self.pruned = self.choose()
        super().leave()

    def gone(self) -> tuple[Tensor, ...]:
        """See `Method`: what is out now."""
        return self.pruned

    def widths(self, choice: Tensor) -> Tensor:
        """[G] how many units stay in each group that may lose some, by what would go [all units]."""
        return torch.stack([(~part).sum() for part in self.parts(choice)])

    def parts(self, choice: Tensor) -> list[Tensor]:
        """Per group that may lose units [C] what would go, by what would go of all [all units]."""
        return self.of_prunable(choice.split([u.size for u in self.units]))


def alike(one: Tensor, other: Tensor) -> float:
    """1 - the mean over the groups of |a - b| / (a + b), of widths [G]."""
    a, b = one.double(), other.double()
    return float(1 - ((a - b).abs() / (a + b).clamp(min=1)).mean())


def stability(widths: Sequence[Tensor], last: int) -> list[float]:
    """For each epoch after the first: how alike its widths [G] are to those of up to `last` epochs before, a mean."""
    found = []
    for number in range(1, len(widths)):
        before = widths[max(0, number - last) : number]
        found.append(sum(alike(widths[number], w) for w in before) / len(before))
    return found
