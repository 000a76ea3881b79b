"""Why a budget cannot hold, said in one sentence with the way out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from objectives.budget import Budget
from objectives.costs import ArithmeticCost
from objectives.products import Floats
from search_spaces import ChannelGroup, SearchSpace


class InfeasibleBudget(ValueError):
    """No network of the space keeps to the budgets.

    Attributes:
        budgets: Those that cannot hold, where it is known which.
    """

    def __init__(self, message: str, budgets: Iterable[Budget] = ()) -> None:
        super().__init__(message)
        self.budgets = tuple(budgets)


def explain(space: SearchSpace, budget: Budget, cost: Callable[[Floats], Any], smallest: float, dense: float) -> str:
    """The sentence for a budget that the smallest network does not keep.

    Args:
        space: What may be pruned.
        budget: The budget that cannot hold.
        cost: Its cost.
        smallest: Cost of the smallest network of the space.
        dense: Cost of the dense network.
    """
    unit = getattr(cost, "unit", "")

    def amount(value: float) -> str:
        return f"{_up(100 * value / dense)} %" if budget.relative else f"{_up(value)} {unit}".strip()

    floor = np.array(space.floor, dtype=np.float64)
    single = np.where(floor == 0, 0.0, 1.0)
    bottom = float(np.asarray(cost(single[None]))[0])  # one channel in every group
    held = [g for g, width in zip(space.groups, space.floor, strict=True) if width > 1]
    if bottom <= budget.bound(dense) and held:
        lowered = np.where(np.eye(len(floor), dtype=bool), 1.0, floor)  # row g: group g alone at one channel
        savings = smallest - np.asarray(cost(lowered))
        names = [space.groups[g].name for g in np.argsort(-savings, kind="stable") if space.floor[g] > 1]
        floors = f"floors of {len(held)} groups hold" if len(held) > 1 else "the floor of a group holds"
        why = f"{floors} it up: {_some(names)}; {_cure(held)} reaches {amount(bottom)} at best"
    else:
        why = f"{_fixed(space, cost)}; allow at least {amount(smallest)}"
    deep = _without_branches(space, cost)
    if deep is not None and deep < smallest:
        why += f"; --depth on reaches {amount(deep)}"
    return f"budget '{budget}': unreachable, the smallest network of this space keeps {amount(smallest)} ({why})"


def _without_branches(space: SearchSpace, cost: Any) -> float | None:
    """What the smallest network costs where branches may vanish that have to stay here; None: that is not known."""
    opened = space.deep
    if space.vanishing is not None or opened.vanishing is None or not isinstance(cost, ArithmeticCost):
        return None
    return float(type(cost)(opened)(opened.floor))


def _fixed(space: SearchSpace, cost: Any) -> str:
    """What is left at the smallest widths, layer by layer, and which groups are frozen."""
    frozen = list(space.frozen)
    why = "every group is at its smallest width" if space.groups else "no group can shrink"
    if hasattr(cost, "parts"):
        parts: dict[str, float] = cost.parts(space.floor)
        most = sorted(parts, key=lambda name: -parts[name])[:3]
        total = sum(parts.values())
        shares = ", ".join(f"{name} has {100 * parts[name] / total:.0f} %" for name in most if parts[name])
        why += f", and of what is left {shares}"
        frozen = [g for g in frozen if {m.layer for m in g.members} & set(most)] or frozen
    if len(frozen) == 1:
        why += f"; frozen: {frozen[0].name} ({frozen[0].frozen_because})"
    elif frozen:
        why += f"; frozen: {_some([g.name for g in frozen])} ({frozen[0].name}: {frozen[0].frozen_because})"
    return why


def _cure(held: Iterable[ChannelGroup]) -> str:
    """Which settings hold the floors of these groups up."""
    flags = []
    if any(1 < g.floor < g.size for g in held):
        flags.append("a smaller --min-keep")
    if any(g.choices()[0] > g.floor for g in held):
        flags.append("--divisor" if flags else "a smaller --divisor")
    if any(g.floor == g.size for g in held):
        flags.append("a shorter --freeze")
    return " or ".join(flags)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _up(value: float) -> str:
    """Three significant digits, rounded up, so that a budget of the number shown can be kept."""
    if value <= 0:
        return "0"
    scale, unit = next(((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= s), (1.0, ""))
    value /= scale
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.ceil(value / step - 1e-9) * step:.4g}{unit}"
