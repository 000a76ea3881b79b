"""What all methods have in common that act on the units of a network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoprune.training.methods.method import Method, Plan, Step
from autoprune.training.units import Units, kept_of, units_of
from search_spaces import Kept, SearchSpace

STABILISE = 1 / 11  # of a phase: GReg and TPP publish 10k of 110k iterations on CIFAR


class ActingMethod(Method):
    """Acts on the units of a network; at the end of the phase those that it prunes are zero, all members of each.

    So the cut that follows removes what has no effect. The published lengths are scaled to the phase: what is said in
    iterations becomes the same share of its steps.

    Attributes:
        NOTHING: Settings with which it does nothing, if nothing has to be pruned either.
        space: What may be pruned.
        units: Per group, on the network.
        pruned: Per group [C], which units it would prune now.
        steps: Of the phase.
        done: Steps that have been done.
        seed: Of what is drawn.
    """

    NOTHING: ClassVar[Mapping[str, float]] = {}
    space: SearchSpace
    units: tuple[Units, ...]
    pruned: tuple[Tensor, ...]

    def settings(self) -> dict[str, Any]:
        """The arguments it was made with: attributes of the same names."""
        names = inspect.signature(type(self).__init__).parameters.keys() - {"self", "pruning"}
        return {name: getattr(self, name) for name in sorted(names)}

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `Method`.

        Raises:
            ValueError: If it is not told what may be pruned, cannot prune that, or has too few steps.
        """
        if self.pruning is None:
            raise ValueError(f"method '{self.name}': needs to be told what it may prune; {self.name}(Pruning(...))")
        self.space, self.units = self.pruning.space, units_of(net, self.pruning.space)
        self.steps, self.per_epoch, self.done = plan.steps, plan.per_epoch, 0
        self.seed, self.rate = plan.settings.seed, plan.settings.lr
        self.pruned = tuple(torch.zeros(g.size, dtype=torch.bool) for g in self.space.groups)
        if self.steps < (least := self.least()):
            raise ValueError(f"method '{self.name}': its schedule needs at least {least} steps, and {self.steps} are "
                             "planned; train longer (--epochs, --prune-epochs), or cut at once (cut)")  # fmt: skip

    def least(self) -> int:
        """The fewest steps that its schedule fits in."""
        return 1

    def check(self, pruned: Sequence[Tensor]) -> None:
        """Refuse to prune what does not train.

        Raises:
            ValueError: Naming the group.
        """
        for units, gone in zip(self.units, pruned, strict=True):
            if gone.any() and not all(p.tensor.requires_grad for p in units.filters):
                raise ValueError(f"method '{self.name}': group '{units.name}' has weights that require no gradient, so "
                                 "they cannot be driven out; requires_grad_(True), or freeze the group")  # fmt: skip

    def after_step(self, net: nn.Module, step: Step) -> None:
        """Count, and at the last step set to zero what goes."""
        self.done = step.number + 1
        if self.done == self.steps:
            self.leave()

    def leave(self) -> None:
        """Nothing is left of the units that go."""
        for units, pruned in zip(self.units, self.pruned, strict=True):
            units.zero_(pruned)

    def gone(self) -> tuple[Tensor, ...]:
        """See `Method`."""
        return self.pruned if self.done >= self.steps else tuple(torch.zeros_like(p) for p in self.pruned)

    def kept(self) -> Kept:
        """See `Method`."""
        return kept_of(self.pruned)

    def state(self) -> dict[str, Any]:
        """See `Method`."""
        return {"done": self.done, "pruned": list(self.pruned)}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Method`."""
        self.done, self.pruned = int(state["done"]), tuple(p.cpu() for p in state["pruned"])
