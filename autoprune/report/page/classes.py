"""Where the network got worse, or better: dense and pruned, class by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from autoprune.report.page import drawing as ink
from autoprune.report.page.bars import shortened
from autoprune.report.page.dots import dots
from autoprune.report.page.drawing import Chart, Tips
from autoprune.report.page.facts import Facts
from autoprune.report.tables import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 20  # classes at most that are drawn: those that lost most
SPLITS = {"test": "test images", "val": "validation images"}


class Class(NamedTuple):
    """One class: its name, its images, and the percentage of them that each network classifies correctly."""

    name: str
    images: int
    dense: float
    pruned: float

    @property
    def change(self) -> float:
        """Percentage points that it gained."""
        return self.pruned - self.dense


def classes_of(facts: Facts) -> list[Class]:
    """Every class that has images, those that lost most first; none if nobody wrote them down."""
    told = facts.told("per_class")
    columns = [told.get(name, ()) for name in ("classes", "images", "dense", "pruned")]
    if len(set(map(len, columns))) > 1:  # a file that was changed by hand: the page has the rest
        return []
    found = [Class(str(name), n, 100 * d / n, 100 * p / n) for name, n, d, p in zip(*columns, strict=True) if n]
    return sorted(found, key=lambda c: (c.change, c.pruned))


def classes_chart(facts: Facts) -> Chart | None:
    """Top-1 of both networks, class by class; None if it is not known."""
    found = classes_of(facts)
    if not found:
        return None
    shown = found[:SHOWN]
    places = range(len(shown))
    low = min(min(c.dense, c.pruned) for c in shown)

    def draw(axes: Axes, narrow: bool) -> Tips:
        axes.hlines(places, [c.dense for c in shown], [c.pruned for c in shown], color=ink.DENSE, linewidth=3)
        ring = {"facecolors": "none", "edgecolors": ink.INK, "s": 62}  # to be seen where both are the same
        dots(axes, "class-dense", [c.dense for c in shown], list(places), "dense", **ring)
        look = {"color": ink.PRUNED, "s": 26, "zorder": 3}
        dots(axes, "class-pruned", [c.pruned for c in shown], list(places), "pruned", **look)
        axes.set_yticks(places, [shortened(c.name, 17 if narrow else 30) for c in shown], fontsize=10)
        axes.set(xlabel="top-1, %", ylim=(len(shown) - 0.4, -0.6))
        room = max(1.0, 0.06 * (100 - low))
        axes.set_xlim(max(-2.0, low - room), 100 + room)
        axes.locator_params(axis="x", nbins=4 if narrow else 6)
        ink.up_to_100(axes.xaxis)
        axes.spines["left"].set_visible(False)
        tips = [f"{c.name}: dense {c.dense:.1f} %, pruned {c.pruned:.1f} % of {c.images} images" for c in shown]
        return {"class-dense": tips, "class-pruned": tips}

    images = [c.images for c in found]
    split = SPLITS.get(facts.told("per_class").get("split", ""), "images")
    worst, gained = found[0], sum(c.change > 0 for c in found)
    caption = f"On {sum(images)} {split}, {_span(min(images), max(images))} of each class."
    if worst.change < 0:
        caption += f" {worst.name} lost most, {-worst.change:.1f} points."
    lost = sum(c.change < 0 for c in found)
    caption += f" {lost} of {counted(len(found), 'class').replace('classs', 'classes')} lost, {gained} gained."
    if len(shown) < len(found):
        caption += f" Drawn are the {SHOWN} that lost most; the table has all."
    if (step := 100 / min(images)) > 0.5:
        caption += f" One image more or less is up to {step:.1f} points."
    rows = [
        (c.name, str(c.images), f"{c.dense:.1f} %", f"{c.pruned:.1f} %", f"{c.change:+.1f}".replace("-", "−"))
        for c in found
    ]
    head = ("class", "images", "dense", "pruned", "points")
    return Chart("classes", "Class by class", caption, 110 + 20 * len(shown), draw, head, rows)


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
