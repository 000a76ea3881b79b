"""Channel exploration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoprune.training.methods.finding import FindingUnits, share_of
from autoprune.training.methods.method import Plan, Pruning, Step
from autoprune.training.regrowth import Snapshot, grown, leverage
from autoprune.training.units import lowest

EXPLORING = 180 / 250  # of the training, as published


class Chex(FindingUnits):
    """CHEX: channels are pruned and grown again while the network trains, across layers (Hou et al. 2022).

    Every `every` epochs each group's width is taken anew from one threshold through all |gamma| that holds the budgets;
    the units with the highest leverage scores stay; of the others, which get their last weights back first, some grow
    again, drawn by how far they lie outside the span of those that stay. How many grow falls along half a cosine to
    none (https://arxiv.org/abs/2203.15794, as in its code). Units that are out are zero, and so are the weights that
    read them; they come back with both, and their statistics. Coupled filters are laid end to end, coupled scales
    summed. No group is emptied (the published code has no floor).

    Args:
        growing: Share of the units that may go which is out of the budget in the beginning (published: 0.3).
        every: Epochs between (published: 2 of 250; the default is ours); 0: nothing is pruned before the last step.
    """

    name: ClassVar[str] = "chex"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"growing": (0, 1)}
    reads_scales: ClassVar[bool] = True

    def __init__(self, pruning: Pruning | None = None, *, growing: float = 0.3, every: int = 1) -> None:
        super().__init__(pruning)
        self.growing, self.every = growing, every

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`."""
        super().begin(net, plan)
        self.snapshot = Snapshot(net, self.space)
        first = max(0.0, share_of(self.of_prunable(self.ranked(self.scales()))) - self.growing)
        sizes = [units.rows().detach().abs().sum(1).cpu() for units in self.units]
        self.pruned = self.cut(self.space.clip(max(1, math.floor(len(s) * (1 - first) + 1e-9)) for s in sizes), sizes)
        self.mask()

    def least(self) -> int:
        """Two epochs."""
        return 2 * self.per_epoch

    def after_step(self, net: nn.Module, step: Step) -> None:
        """What is out stays out."""
        self.mask()
        super().after_step(net, step)

    def end_epoch(self, net: nn.Module, epoch: int) -> None:
        """Prune and grow, as long as it explores."""
        if self.every and (epoch + 1) % self.every == 0 and self.done <= EXPLORING * self.steps:
            self.explore(epoch, self.growing * (1 + math.cos(math.pi * self.done / (EXPLORING * self.steps))) / 2)

    def leave(self) -> None:
        """The last choice, without growing."""
        self.explore(-1, 0.0)
        super().leave()

    @torch.no_grad()
    def explore(self, epoch: int, growing: float) -> None:
        """One update: `growing` is the share of the units that may go which grows; no scale of 0 lets one grow."""
        fewest = self.ranked(scores := self.scales())
        falling = torch.cat(self.of_prunable(scores)).clamp(min=1e-30).sort(descending=True).values
        cut = falling[math.ceil(min(1.0, 1 - share_of(self.of_prunable(fewest)) + growing) * len(falling)) - 1]
        live = [leverage(u.rows(), int((~few).sum())).cpu() for u, few in zip(self.units, fewest, strict=True)]
        self.snapshot.restore_(self.pruned)
        self.snapshot.take()
        for i, (units, few, score) in enumerate(zip(self.units, fewest, scores, strict=True)):
            rows = units.rows().cpu()  # where more are to stay than are alive, the largest of the others come first
            back = -1 / (1 + rows.abs().sum(1))
            kept = ~lowest(torch.where(self.pruned[i], back, live[i]), int(few.sum()))
            count = max(0, int((score >= cut).sum()) - int(kept.sum())) if growing else 0
            self.pruned[i].copy_(~(kept | grown(rows, kept, count, [self.seed, epoch, i])))
        self.mask()

    def gone(self) -> tuple[Tensor, ...]:
        """See `Method`: what is out now."""
        return self.pruned

    def state(self) -> dict[str, Any]:
        """See `Method`."""
        return {**super().state(), "snapshot": dict(self.snapshot.values)}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Method`."""
        super().load(state)
        self.snapshot.values = dict(state["snapshot"])
