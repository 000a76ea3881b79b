"""Budgets as a user writes them ("macs<=50%", "params<=1.5M", "latency<=3.5ms@torch")."""

from __future__ import annotations

import re
from decimal import Decimal

from objectives.budget import SCALES, Budget, fault
from objectives.latency import BACKENDS
from objectives.target import Target

_FRACTIONS = {"%": 100, "x": 1, "X": 1}
_MILLISECONDS = {"ms": Decimal(1), "s": Decimal(1000), "us": Decimal("0.001")}
_PATTERN = re.compile(
    r"\s*(?P<metric>[a-z_][\w.]*(:\w+)?)\s*(<=?|≤)"
    r"\s*(?P<number>[+-]?(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d{1,3})?)\s*(?P<unit>[%a-z]*)\s*(?P<where>@.*)?",
    re.IGNORECASE | re.ASCII,
)
_EXPECTED = "expected <cost><=<limit>, e.g. macs<=50%, macs<=0.5x or params<=1.5M (units k, M, G)"


def parse(text: str) -> Budget:
    """Read a budget: "macs<=50%", "macs<=0.5x", "params<=1.5M", "flops<=20M" (flops means MACs).

    A latency says where: "latency<=60%@onnxruntime,batch=1,threads=1", "latency<=3.5ms@torch". In all of them <
    is read as <=.

    Raises:
        ValueError: If the text cannot be read, the metric is unknown or the limit is out of range.

    Example:
        >>> parse("flops <= 0.5x")
        Budget(cost='macs', limit=0.5, relative=True)
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
    elif unit in SCALES:
        value *= SCALES[unit]
    wrong = fault(metric, float(value), relative)
    if not wrong and not relative and unit not in SCALES:
        wrong = f"unknown unit '{unit}', {_EXPECTED}"
    if wrong:
        raise ValueError(f"budget '{text}': {wrong}")
    return Budget(metric, float(value), relative)


def _latency(text: str, metric: str, value: Decimal, unit: str, where: str) -> Budget:
    """A budget on a measured latency."""
    if metric != "latency":
        raise ValueError(f"budget '{text}': only a latency is measured somewhere; leave '{where}' away")
    scale = {k: Decimal(1) / v for k, v in _FRACTIONS.items()} | _MILLISECONDS
    if unit not in scale:
        found = f"the unit '{unit}'" if unit else "no unit"
        raise ValueError(f"budget '{text}': expected ms, s, us or a percentage, found {found}, e.g. latency<=3.5ms")
    try:
        target = Target.parse(f"latency{where}")
        if (name := target.backend) not in BACKENDS and ":" not in name:
            known = ", ".join(sorted(BACKENDS))
            raise ValueError(f"'{where}': unknown latency backend '{name}'; known: {known}, or package.module:Name")
        return Budget(target, float(value * scale[unit]), unit in _FRACTIONS)
    except ValueError as error:
        why = str(error).rpartition("': ")[2]  # without which part of the text it was
        raise ValueError(f"budget '{text}': {why}") from error
