"""Concepts: what a look at a candidate costs, and how well it ranks (proxies-macs-15.md)."""

import math

from drawing import Drawing
from recorded import number, table

SIZE = (760, 300)
TITLE = "Rank correlation with one epoch of training against seconds per candidate, by fidelity."


def draw(d: Drawing) -> None:
    """Draw it."""
    left, right, top, bottom = 70, 720, 50, 240
    d.text(20, 26, "How well a look at a candidate ranks, and what it costs (40 candidates of one kind)", bold=True)

    def at(seconds: float, rank: float) -> tuple[float, float]:
        across = math.log(seconds / 0.4) / math.log(60 / 0.4)
        return left + across * (right - left), bottom - (rank + 0.75) / 1.75 * (bottom - top)

    for rank in (-0.5, 0, 0.5, 1):
        d.line([at(0.4, rank), at(60, rank)], "faint", 1)
        d.text(left - 8, at(0.4, rank)[1] + 4, f"{rank:g}", "soft", 11, "end")
    for seconds in (0.5, 1, 2, 5, 10, 30):
        d.text(at(seconds, 0)[0], bottom + 20, f"{seconds:g} s", "soft", 11, "middle")
    d.text((left + right) / 2, bottom + 42, "seconds for one candidate, one core", "soft", 12, "middle")
    d.text(20, 42, "rank correlation with an epoch", "soft", 11)
    shown = {"raw": "raw: as cut", "proxy:1000": "proxy: batch-norm", "reconstructed": "reconstructed: least squares",
             "short:50": "short:50 steps", "short:200": "short:200 steps", "adapted": ""}  # fmt: skip
    for row in table("proxies-macs-15.md", ""):
        name = shown.get(row["proxy"], "")
        if name:
            x, y = at(number(row["seconds each"]), number(row["top-1: all"]))
            d.circle(x, y, 5, "one" if row["proxy"] == "reconstructed" else "three")
            late = x > 560
            d.text(
                x + (8 if late else 10),
                y + (26 if late else 15),
                f"{name}, {number(row['top-1: all']):.2f}",
                size=12,
                anchor="end" if late else "start",
            )
