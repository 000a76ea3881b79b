"""How runs on one chart are told apart: colours first, then the shape of dots and the dashes of lines."""

from __future__ import annotations

from typing import Any

from autoprune.report.page import drawing as ink
from autoprune.report.page.bars import shortened

COLORS = (ink.PRUNED, ink.BUDGET, ink.FINAL, ink.EXTRA, ink.MUTED, ink.FAIL)
MARKERS, LINES = "osD^vPX", ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)))


def line(index: int, name: str, narrow: bool) -> dict[str, Any]:
    """Of the run number `index`."""
    style = LINES[index // len(COLORS) % len(LINES)]
    return {"color": COLORS[index % len(COLORS)], "linestyle": style, "label": label(name, narrow)}


def dot(index: int, name: str, narrow: bool) -> dict[str, Any]:
    """Of the run number `index`."""
    marker = MARKERS[index % len(MARKERS)]
    return {"color": COLORS[index % len(COLORS)], "marker": marker, "label": label(name, narrow)}


def label(name: str, narrow: bool) -> str:
    """A run's name as far as a legend has room."""
    return shortened(name, 20 if narrow else 28)
