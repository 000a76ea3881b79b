"""What the methods have in common that find the units that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.allocation import global_ranking
from autoprune.problem import Problem
from autoprune.training.gating import Gating
from autoprune.training.methods.acting import ActingMethod
from autoprune.training.methods.method import Plan
from autoprune.training.units import lowest
from search_spaces import Widths


class FindingUnits(ActingMethod):
    """Finds the units that stay, so many that every budget holds.

    Its phase has the run's schedule of the learning rate; GReg-2, IncReg, GaP and MorphNet publish a constant one.

    Attributes:
        reads_scales: Whether it chooses by `scales`, which say nothing about groups without normalisation.
        problem: Budgets and costs.
        gating: Gates that it has hung on the network.
    """

    finds: ClassVar[bool] = True
    reads_scales: ClassVar[bool] = False
    longer: ClassVar[str] = "--method-epochs {} or more"
    problem: Problem
    gating: Gating | None = None

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `ActingMethod`.

        Raises:
            ValueError: If there are no budgets, nothing to prune, or as `ActingMethod`.
        """
        super().begin(net, plan)
        if self.pruning is None or self.pruning.problem is None:
            raise ValueError(f"method '{self.name}': finds the units that stay under budgets, and none are given; "
                             "e.g. --budget macs<=50%")  # fmt: skip
        if not self.prunable:
            raise ValueError(f"method '{self.name}': this network has no group of channels that can be pruned; "
                             "autoprune profile says why")  # fmt: skip
        self.problem = self.pruning.problem
        self.check([torch.full((g.size,), g.floor < g.size) for g in self.space.groups])

    def caveat(self) -> str:
        """See `Method`."""
        names = [units.name for units in self.prunable if self.reads_scales and not units.of("scale")]
        if not names:
            return ""
        shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
        return (f"method '{self.name}': weighs the scales of normalisations, and {len(names)} of {len(self.prunable)} "
                f"groups have none ({shown}), so it decides nothing about these; greg2 or reweighted weigh every "
                "group")  # fmt: skip

    def let_go(self) -> None:
        """No gates are left."""
        if self.gating is not None:
            self.gating.remove()

    def end(self, net: nn.Module) -> None:
        """See `Method`; a training that had ended before has hung gates on the network once more."""
        self.let_go()

    def ranked(
        self, scores: Sequence[Tensor], normaliser: str = "none", problem: Problem | None = None
    ) -> tuple[Tensor, ...]:
        """Per group [C] what goes by one threshold through all scores [C], so that every budget is held and used up.

        Args:
            scores: Per group [C], higher = keep.
            normaliser: See `allocation.global_ranking`.
            problem: Whose budgets; None: those of the method.
        """
        arrays = tuple(s.detach().double().cpu().numpy() for s in scores)
        found = global_ranking(replace(problem or self.problem, scores=arrays), normaliser=normaliser)
        return self.cut(found, scores)

    def projected(self, alive: Sequence[Tensor], scores: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Per group [C] what goes if as many stay as are alive, brought to the budgets."""
        arrays = tuple(s.detach().double().cpu().numpy() for s in scores)
        counts = tuple(int(a.sum()) for a in alive)
        return self.cut(replace(self.problem, scores=arrays).project(counts), scores)

    def cut(self, widths: Widths, scores: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Per group [C] what goes for as many to stay as the widths say: the lowest scores, of equal ones the norms."""
        pairs = zip(scores, self.units, strict=True)
        untied = (s if len(s.unique()) == len(s) else ranks(s, units.norms()) for s, units in pairs)
        return tuple(lowest(s, len(s) - w) for s, w in zip(untied, widths, strict=True))

    def left(self) -> list[int]:
        """[G] how many units would stay now."""
        return [int((~gone).sum()) for gone in self.pruned]

    @torch.no_grad()
    def norms(self) -> list[Tensor]:
        """See `Units.norms`, per group."""
        return [units.norms() for units in self.units]

    def loads(self, widths: Tensor) -> Tensor:
        """[K] what widths [G] cost of each budget's limit; the gradient is that of one unit more or less."""
        feasibility, full = self.problem.feasibility, np.array(self.space.full)
        at = np.clip(np.round(widths.detach().cpu().numpy()).astype(np.int64), 0, full)
        steps = np.where(at < full, 1, -1)
        table = np.concatenate([at[None], at + np.diag(steps)]).astype(np.float64)
        found = []
        for name, limit in feasibility.limits.items():
            prices = np.asarray(feasibility.costs[name](table)) / limit
            slopes = torch.from_numpy((prices[1:] - prices[0]) / steps).to(widths.dtype)
            found.append(float(prices[0]) + (slopes * (widths - torch.from_numpy(at))).sum())
        return torch.stack(found)

    def scales(self) -> tuple[Tensor, ...]:
        """Per group [C] the sum of |gamma| over the normalisations behind a unit, as `criteria.BatchNormScale`.

        Groups without one have more than all others, in the order of their filters' norms: their units go last.

        Raises:
            ValueError: If no group that may lose units has one.
        """
        with torch.no_grad():
            found = [u.rows("scale").abs().sum(1) if u.of("scale") else None for u in self.units]
            there = [f for f in found if f is not None]
            if not any(units.of("scale") for units in self.prunable):
                raise ValueError(f"method '{self.name}': looks at the scales of batch-norms, and no group of this "
                                 "network has one; use a method of the weights, e.g. greg2 or reweighted")  # fmt: skip
            top = max(float(f.max()) for f in there)
            return tuple(
                u.norms() / u.rows().norm().clamp(min=1e-30) + top if f is None else f
                for u, f in zip(self.units, found, strict=True)
            )

    def check_scales(self) -> None:
        """Refuse to drive scales where there are none that train.

        Raises:
            ValueError: If so.
        """
        self.scales()
        if not any(part.tensor.requires_grad for units in self.prunable for part in units.of("scale")):
            raise ValueError(f"method '{self.name}': drives the scales of normalisations, and those of this network "
                             "require no gradient; requires_grad_(True), or a method of the weights, e.g. greg2 or "
                             "reweighted")  # fmt: skip


def ranks(*keys: Tensor) -> Tensor:
    """[C] from 0 for the lowest: by the first of the keys [C], equal ones by the next."""
    order = np.lexsort([key.detach().double().cpu().numpy() for key in reversed(keys)])
    found = torch.empty(len(order))
    found[torch.from_numpy(order)] = torch.arange(len(order), dtype=found.dtype)
    return found


def share_of(gone: Sequence[Tensor]) -> float:
    """The share of all units that go."""
    return float(np.sum([int(g.sum()) for g in gone]) / np.sum([len(g) for g in gone]))
