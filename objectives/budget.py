"""Budgets: upper bounds on costs, as a user writes them ("macs<=50%", "params<=1.5M", "latency<=3.5ms@torch")."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal

from objectives.costs import ArithmeticCost, is_latency

_SCALES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
_FRACTIONS = {"%": 100, "x": 1, "X": 1}
_MILLISECONDS = {"ms": Decimal(1), "s": Decimal(1000), "us": Decimal("0.001")}
_PATTERN = re.compile(
    r"\s*(?P<metric>[a-z_][\w.]*(:\w+)?)\s*(<=?|≤)"
    r"\s*(?P<number>[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d{1,3})?)\s*(?P<unit>[%a-z]*)\s*(?P<where>@.*)?",
    re.IGNORECASE | re.ASCII,
)
_EXPECTED = "expected <metric><=<limit>, e.g. macs<=50%, macs<=0.5x or params<=1.5M (units k, M, G)"


@dataclass(frozen=True)
class Budget:
    """An upper bound on one cost.

    Attributes:
        metric: Name of the cost ("macs", "latency@onnxruntime,batch=1,threads=1", or "package.module:Name").
        limit: The bound, in the unit of the cost; for a relative one a fraction of the dense network.
        relative: Whether `limit` is a fraction of the dense network.
    """

    metric: str
    limit: float
    relative: bool = False

    def __post_init__(self) -> None:
        if fault := _fault(self.metric, self.limit, self.relative):
            raise ValueError(f"budget '{self}': {fault}")

    def __str__(self) -> str:
        if not math.isfinite(self.limit):
            return f"{self.metric}<={self.limit}"
        name, at, where = self.metric.partition("@")
        value = Decimal(repr(float(self.limit)))  # decimal, so that 0.56 is 56% and not 56.00000000000001%
        if self.relative:
            return f"{name}<={_plain(value * 100)}%{at}{where}"
        if self.is_latency:
            return f"{name}<={_plain(value)}ms{at}{where}"
        unit = next((u for u in ("G", "M", "k") if value >= _SCALES[u]), "")
        return f"{self.metric}<={_plain(value / _SCALES[unit])}{unit}"

    @property
    def is_latency(self) -> bool:
        """Whether it is on a measured cost."""
        return is_latency(self.metric)

    def bound(self, dense: float) -> float:
        """The bound in the unit of the cost, for a network whose dense cost is `dense`."""
        return self.limit * dense if self.relative else self.limit


def parse(text: str) -> Budget:
    """Read a budget: "macs<=50%", "macs<=0.5x", "params<=1.5M", "flops<=20M" (flops means MACs).

    A latency says where: "latency<=60%@onnxruntime,batch=1,threads=1", "latency<=3.5ms@torch".

    Raises:
        ValueError: If the text cannot be read, the metric is unknown or the limit is out of range.

    Example:
        >>> parse("flops <= 0.5x")
        Budget(metric='macs', limit=0.5, relative=True)
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"budget '{text}': {_EXPECTED}")
    metric, value, unit = match["metric"], Decimal(match["number"]), match["unit"]
    if ":" not in metric:
        metric = {"flops": "macs"}.get(metric.lower(), metric.lower())
    relative = unit in _FRACTIONS
    if metric == "latency" or match["where"]:
        return _latency(text, metric, value, unit, match["where"] or "")
    if relative:
        value /= _FRACTIONS[unit]
    elif unit in _SCALES:
        value *= _SCALES[unit]
    fault = _fault(metric, float(value), relative)
    if not fault and not relative and unit not in _SCALES:
        fault = f"unknown unit '{unit}', {_EXPECTED}"
    if fault:
        raise ValueError(f"budget '{text}': {fault}")
    return Budget(metric, float(value), relative)


def _latency(text: str, metric: str, value: Decimal, unit: str, where: str) -> Budget:
    """A budget on a measured latency; its metric says where that is measured, all defaults written out."""
    from objectives.latency import Target

    if metric != "latency":
        raise ValueError(f"budget '{text}': only a latency is measured somewhere; leave '{where}' away")
    scale = {k: Decimal(1) / v for k, v in _FRACTIONS.items()} | _MILLISECONDS
    if unit not in scale:
        found = f"the unit '{unit}'" if unit else "no unit"
        raise ValueError(f"budget '{text}': expected ms, s, us or a percentage, found {found}, e.g. latency<=3.5ms")
    try:
        return Budget(str(Target.parse(f"latency{where}")), float(value * scale[unit]), unit in _FRACTIONS)
    except ValueError as error:
        why = str(error).rpartition("': ")[2]  # without which part of the text it was
        raise ValueError(f"budget '{text}': {why}") from error


def _fault(metric: str, limit: float, relative: bool) -> str:
    """What is wrong with a budget; empty for a good one."""
    from objectives import COSTS  # the facade's import lines are the registry

    if is_latency(metric):
        from objectives.latency import BACKENDS, Target

        if (name := Target.parse(metric).backend) not in BACKENDS and ":" not in name:
            return f"unknown latency backend '{name}'; known: {', '.join(sorted(BACKENDS))}, or package.module:Name"
    elif metric not in COSTS and ":" not in metric:
        known = ", ".join(sorted([*COSTS, "latency"]))
        return f"unknown metric '{metric}'; known: {known} (flops means macs), or give package.module:Name"
    if not (math.isfinite(limit) and limit > 0):
        return "the limit must be a finite number above 0, e.g. 50% or 1.5M"
    if relative and limit > 1:
        return "a fraction of the dense network must be at most 100% (1x), e.g. 50% or 0.5x"
    if not relative and limit <= 1 and metric in COSTS and issubclass(COSTS[metric], ArithmeticCost):
        share = _plain(Decimal(repr(float(limit))) * 100)
        return f"a limit without a unit is a count, which must be above 1; a fraction is written {share}% or {limit:g}x"
    return ""


def _plain(value: Decimal) -> str:
    """Digits without an exponent or trailing zeros."""
    return format(value.normalize(), "f")
