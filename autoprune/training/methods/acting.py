"""What all methods have in common that act on the units of a network."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from autoprune.training.methods.limits import check_settings
from autoprune.training.methods.method import Method, Plan, Step
from autoprune.training.schedules import in_cycles
from autoprune.training.units import Units, kept_of, units_of
from search_spaces import Kept, SearchSpace

T = TypeVar("T")
STABILISE = 1 / 11  # of a phase: GReg and TPP publish 10k of 110k iterations on CIFAR


class ActingMethod(Method):
    """Acts on the units of a network; at the end of the phase those that it prunes are zero, all members of each.

    So the cut that follows removes what has no effect. The published lengths are scaled to the phase: what is said in
    iterations becomes the same share of its steps.

    Attributes:
        REMEMBERED: Attributes that go into a checkpoint: numbers, tensors, lists and dictionaries of them.
        NOTHING: Settings with which it does nothing, if nothing has to be pruned either.
        space: What may be pruned.
        units: Per group, on the network.
        prunable: Of these, the groups that may lose units; frozen ones are left alone.
        pruned: Per group [C], which units it would prune now.
        longer: What to give for a longer phase, of so many epochs.
        steps: Of the phase.
        done: Steps that have been done.
        seed: Of what is drawn.
        rate: The peak learning rate.
    """

    REMEMBERED: ClassVar[tuple[str, ...]] = ()
    NOTHING: ClassVar[Mapping[str, float]] = {}
    longer: ClassVar[str] = "--epochs times --prune-share must be {} or more; or --recovery cut"
    space: SearchSpace
    units: tuple[Units, ...]
    prunable: tuple[Units, ...]
    pruned: tuple[Tensor, ...]

    def settings(self) -> dict[str, Any]:
        """The arguments it was made with: attributes of the same names."""
        names = inspect.signature(type(self).__init__).parameters.keys() - {"self", "pruning"}
        return {name: getattr(self, name) for name in sorted(names)}

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `Method`.

        Raises:
            ValueError: If it is not told what may be pruned, cannot prune that, has too few steps, or a setting is out
                of its range.
        """
        check_settings(type(self), self.settings())
        if self.pruning is None:
            raise ValueError(f"method '{self.name}': needs to be told what it may prune; {self.name}(Pruning(...))")
        if plan.settings.ema:  # what is delivered would have half of the units that are gone
            raise ValueError(f"method '{self.name}': drives units out, and an average of weights would bring them "
                             "back; leave ema at 0 here, and average in the training after the cut")  # fmt: skip
        self.space, self.units = self.pruning.space, units_of(net, self.pruning.space)
        self.prunable = tuple(u for g, u in zip(self.space.groups, self.units, strict=True) if g.floor < g.size)
        self.steps, self.per_epoch, self.done = plan.steps, plan.per_epoch, 0
        self.seed, self.rate = plan.settings.seed, plan.settings.lr
        self.pruned = tuple(torch.zeros(g.size, dtype=torch.bool) for g in self.space.groups)
        if self.steps < (least := self.least()):
            epochs, many = math.ceil(100 * least / plan.per_epoch) / 100, f"step{'s'[: least - 1]}"
            raise ValueError(
                f"method '{self.name}': its schedule needs at least {least} {many}, and {self.steps} are "
                f"planned; train longer ({self.longer.format(f'{epochs:g}')})"
            )

    def of_prunable(self, per_group: Iterable[T]) -> list[T]:
        """Of what each group has, that of those that may lose units."""
        return [value for value, units in zip(per_group, self.units, strict=True) if units in self.prunable]

    def reach(self, plan: Plan) -> float:
        """The learning rate summed over the steps: what a constant gradient of 1 moves a weight by, at no momentum."""
        factor = in_cycles(plan.settings, plan.steps, plan.per_epoch, self.cycles())
        return self.rate * sum(factor(step, plan.steps) for step in range(plan.steps))

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
        """At the last step: nothing is left of the units that go."""
        self.mask()

    def mask(self) -> None:
        """Set to zero all that the units own that are pruned now."""
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
        return {name: _plain(getattr(self, name)) for name in ("done", "pruned", *self.REMEMBERED)}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Method`."""
        for name in ("done", "pruned", *self.REMEMBERED):
            setattr(self, name, _placed(state[name], getattr(self, name)))


def _plain(value: Any) -> Any:
    """Without graphs, and lists for tuples."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, torch.optim.Optimizer):
        return value.state_dict()
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _placed(value: Any, old: Any) -> Any:
    """As what stands in its place: tensors on its device; what is trained stays the same tensor."""
    if isinstance(old, Tensor) and old.requires_grad:
        with torch.no_grad():
            return old.copy_(value)
    if isinstance(old, torch.optim.Optimizer):
        old.load_state_dict(value)
        return old
    if isinstance(old, Tensor):
        return value.to(old.device)
    if isinstance(old, (list, tuple)) and len(old) == len(value):
        return type(old)(_placed(v, o) for v, o in zip(value, old, strict=True))
    return value
