"""What the methods have in common that are given the kept units and drive the rest out before the cut."""

from __future__ import annotations

from torch import nn

from autoprune.training.methods.acting import ActingMethod
from autoprune.training.methods.method import Plan
from autoprune.training.units import gone_of


class GivenUnits(ActingMethod):
    """Drives the units out that are not kept.

    Attributes:
        counts: Per group how many go.
    """

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `ActingMethod`.

        Raises:
            ValueError: If no kept units are given, or they are none of this space.
        """
        super().begin(net, plan)
        if self.pruning is None or self.pruning.kept is None:
            raise ValueError(f"method '{self.name}': is given the units that stay and finds none; use it as the "
                             "--recovery of a search, or a method that finds them, e.g. slimming")  # fmt: skip
        for group, indices in zip(self.space.groups, self.pruning.kept, strict=True):
            if len(indices) < group.floor:
                why = "is frozen" if group.floor == group.size else f"keeps at least {group.floor} units"
                raise ValueError(f"method '{self.name}': group '{group.name}' {why}, but {len(indices)} of its "
                                 f"{group.size} are planned; leave it out of --freeze, or keep them")  # fmt: skip
        self.pruned = gone_of(self.space, self.pruning.kept)
        self.check(self.pruned)
        self.counts = tuple(int(p.sum()) for p in self.pruned)
