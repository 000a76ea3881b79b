"""Prune as early as is safe, whatever finds the units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from autoprune.training.methods.finding import FindingUnits
from autoprune.training.methods.method import Method, Plan, Step
from autoprune.training.methods.waiting import WaitingUnits
from autoprune.training.units import kept_of
from search_spaces import Kept


class Sooner(Method):
    """A method that finds units chooses as soon as a rule sees that what the budgets would leave has settled.

    After each epoch the rule (`Epi`, `EarlyBird`) chooses from the weights as the method has made them so far. Once its
    choices are alike, the method makes its last choice at once, as at the end of its phase; where that does not hold
    the budgets yet, the rule's own is taken. With that the training is over. (PaT and Early-Bird are published for
    plain training; with other methods it is ours.)

    Args:
        method: That finds the units.
        rule: That says when; of the same pruning.

    Raises:
        ValueError: If the method does not choose units while it trains.
    """

    name: ClassVar[str] = "sooner"
    finds: ClassVar[bool] = True

    def __init__(self, method: Method, rule: WaitingUnits) -> None:
        super().__init__(method.pruning)
        if not isinstance(method, FindingUnits) or isinstance(method, WaitingUnits):
            raise ValueError(f"prune_when: '{rule.name}' says when a method that finds units chooses them, and method "
                             f"'{method.name}' has no such moment; leave prune_when out")  # fmt: skip
        self.method, self.rule, self.by_samples = method, rule, method.by_samples
        self.settled_after = 0
        self.pruned: tuple[Tensor, ...] = ()

    def settings(self) -> dict[str, Any]:
        """See `Method`."""
        found = {part.name: part.settings() for part in (self.method, self.rule)}
        return {f"{part} {name}": value for part, told in found.items() for name, value in {"": "on", **told}.items()}

    def cycles(self) -> int:
        """See `Method`."""
        return self.method.cycles()

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `Method`."""
        self.rule.begin(net, plan)
        self.method.begin(net, plan)
        self._net, self._steps = net, plan.steps

    def caveat(self) -> str:
        """See `Method`: of either."""
        return "; ".join(filter(None, (self.method.caveat(), self.rule.caveat())))

    @property
    def is_over(self) -> bool:
        """See `Method`."""
        return self.settled_after > 0

    def penalty(self, net: nn.Module, step: Step) -> Tensor | None:
        """See `Method`."""
        return self.method.penalty(net, step)

    def passes(self, net: nn.Module, step: Step) -> float:
        """See `Method`."""
        return self.method.passes(net, step)

    def after_backward(self, net: nn.Module, step: Step) -> float:
        """See `Method`."""
        return self.method.after_backward(net, step)

    def after_step(self, net: nn.Module, step: Step) -> None:
        """See `Method`."""
        self.method.after_step(net, step)

    def end_epoch(self, net: nn.Module, epoch: int) -> None:
        """See `Method`; then the rule looks."""
        self.method.end_epoch(net, epoch)
        if self.method.done < self._steps and self.rule.settles(self.rule.choose()):
            self.method.leave()
            self.method.end(net)
            fits = not self.method.problem.feasibility.violation(self.method.left())
            self.pruned, self.settled_after = (self.method.pruned if fits else self.rule.choose()), epoch + 1
            for units, gone in zip(self.method.units, self.pruned, strict=True):
                units.zero_(gone)

    def end(self, net: nn.Module) -> None:
        """See `Method`."""
        self.method.end(net)

    def kept(self) -> Kept:
        """See `Method`."""
        return kept_of(self.pruned) if self.settled_after else self.method.kept()

    def gone(self) -> tuple[Tensor, ...]:
        """See `Method`."""
        return self.pruned if self.settled_after else self.method.gone()

    def state(self) -> dict[str, Any]:
        """See `Method`."""
        own = {"settled_after": self.settled_after, "pruned": list(self.pruned)}
        return {**own, "method": dict(self.method.state()), "rule": self.rule.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Method`."""
        self.method.load(state["method"])
        self.rule.load(state["rule"])
        self.settled_after, self.pruned = state["settled_after"], tuple(gone.cpu() for gone in state["pruned"])
        if self.settled_after:
            self.method.end(self._net)
