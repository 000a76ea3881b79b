"""Budgets: upper bounds on costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from objectives.costs import ArithmeticCost
from objectives.registry import COSTS
from objectives.target import Target, is_latency

SCALES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class Budget:
    """An upper bound on one cost.

    Attributes:
        cost: "macs", "package.module:Name", or where a latency is measured; that one's name may be given as well.
        limit: The bound, in the unit of the cost; for a relative one a fraction of the dense network.
        relative: Whether `limit` is a fraction of the dense network.
    """

    cost: str | Target
    limit: float
    relative: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.cost, str) and is_latency(self.cost):
            object.__setattr__(self, "cost", Target.parse(self.cost))
        if wrong := fault(self.cost, self.limit, self.relative):
            raise ValueError(f"budget '{self}': {wrong}")

    def __str__(self) -> str:
        if not math.isfinite(self.limit):
            return f"{self.metric}<={self.limit}"
        name, at, where = self.metric.partition("@")
        value = Decimal(repr(float(self.limit)))  # decimal, so that 0.56 is 56% and not 56.00000000000001%
        if self.relative:
            return f"{name}<={_plain(value * 100)}%{at}{where}"
        if self.target:
            return f"{name}<={_plain(value)}ms{at}{where}"
        unit = next((u for u in ("G", "M", "k") if value >= SCALES[u]), "")
        return f"{self.metric}<={_plain(value / SCALES[unit])}{unit}"

    @property
    def metric(self) -> str:
        """The name of the cost ("macs", "latency@onnxruntime,batch=1,threads=1", "package.module:Name")."""
        return str(self.cost)

    @property
    def target(self) -> Target | None:
        """Where its latency is measured; None for other costs."""
        return self.cost if isinstance(self.cost, Target) else None

    def bound(self, dense: float) -> float:
        """The bound in the unit of the cost, for a network whose dense cost is `dense`."""
        return self.limit * dense if self.relative else self.limit


def fault(cost: str | Target, limit: float, relative: bool) -> str:
    """What is wrong with a budget; empty for a good one."""
    if isinstance(cost, str) and cost not in COSTS and ":" not in cost:
        known = ", ".join(sorted([*COSTS, "latency"]))
        return f"unknown cost '{cost}'; known: {known} (flops means macs), or give package.module:Name"
    if not (math.isfinite(limit) and limit > 0):
        return "the limit must be a finite number above 0, e.g. 50% or 1.5M"
    if relative and limit > 1:
        return "a fraction of the dense network must be at most 100% (1x), e.g. 50% or 0.5x"
    if not relative and limit <= 1 and isinstance(cost, str) and issubclass(COSTS.get(cost, object), ArithmeticCost):
        share = _plain(Decimal(repr(float(limit))) * 100)
        return f"a limit without a unit is a count, which must be above 1; a fraction is written {share}% or {limit:g}x"
    return ""


def _plain(value: Decimal) -> str:
    """Digits without an exponent or trailing zeros."""
    return format(value.normalize(), "f")
