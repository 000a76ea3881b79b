"""Drawing with matplotlib: a chart becomes SVG inside a page, or a PNG file. The only place that imports it.

Charts are drawn in the light colours of `PALETTE`; in a page each becomes a CSS variable, so that they follow the
reader's light or dark theme. Text stays text.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Tips = Mapping[str, Sequence[str]]  # id of an artist -> what its marks say under the mouse
PALETTE = {  # role -> light, dark; the colours for data differ in lightness too (Okabe & Ito 2008)
    "ink": ("#1b2430", "#e6e9ee"),
    "muted": ("#5d6878", "#9aa5b4"),
    "grid": ("#e3e7ec", "#2b333f"),
    "dense": ("#b9c2cd", "#4c5768"),
    "pruned": ("#0b66b7", "#5aa9f0"),
    "final": ("#0c7a58", "#3fc79a"),
    "budget": ("#c04e00", "#f0935a"),
    "fail": ("#b3261e", "#f2867f"),
    "extra": ("#8a3b8f", "#d08ad6"),
}
INK, MUTED, GRID, DENSE, PRUNED, FINAL, BUDGET, FAIL, EXTRA = (light for light, _ in PALETTE.values())
WIDE, NARROW = 540, 350  # pixels: half a desktop page, a phone
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "font.size": 11, "text.parse_math": False, "axes.formatter.useoffset": False,
    "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": DENSE, "xtick.color": MUTED, "ytick.color": MUTED,
    "grid.color": GRID, "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlesize": 12, "xtick.major.size": 0, "ytick.major.size": 0, "legend.frameon": False,
    "legend.fontsize": 10.5, "legend.labelcolor": INK, "lines.linewidth": 2, "figure.constrained_layout.h_pad": 0.05,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Chart:
    """A picture with words and the same in numbers.

    Attributes:
        name: Of its file and its place in the page.
        title: What it shows.
        caption: How to read it, and what it says.
        height: Pixels.
        draw: Draws on axes, on a phone if the second argument says so; gives what its marks say.
        head: Columns of the table with the same numbers.
        rows: Its rows.
    """

    name: str
    title: str
    caption: str
    height: int
    draw: Callable[[Axes, bool], Tips]
    head: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]] = ()


def check_installed() -> None:
    """Check that there is something to draw with.

    Raises:
        ValueError: If not.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError("the report page needs matplotlib; pip install 'autoprune[report]'") from error


def up_to_100(axis: Axis) -> None:
    """No ticks above 100 %, where a mark has room but no accuracy lies; the limits are set before."""
    low, high = sorted(axis.get_view_interval())
    axis.set_ticks([tick for tick in axis.get_majorticklocs() if low <= tick <= min(high, 100)])


def png(chart: Chart) -> bytes:
    """The chart with its title as a PNG file, in the light colours, twice as fine as on the page."""
    return drawn(chart, False, "png", {"savefig.dpi": 144, "savefig.facecolor": "white"}, titled=True)[0]


def drawn(chart: Chart, narrow: bool, kind: str, style: dict[str, Any], titled: bool = False) -> tuple[bytes, Tips]:
    """A chart as a file of the kind "svg" or "png", and what its marks say.

    Args:
        chart: The chart.
        narrow: For a phone.
        kind: Of the file.
        style: Settings of matplotlib, besides those of all charts.
        titled: Whether its title is in the picture.
    """
    import matplotlib

    settings: Any = {**_STYLE, **style}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        matplotlib.rcParams.update(settings)
        figure = _figure(chart, narrow)
        (axes,) = figure.axes
        tips = chart.draw(axes, narrow)
        if titled:
            axes.set_title(chart.title, loc="left", pad=12)
        if labels := axes.get_legend_handles_labels()[1]:
            columns = (NARROW if narrow else WIDE) // (42 + 7 * max(map(len, labels)))
            figure.legend(loc="outside upper left", ncols=max(1, columns), handlelength=1.4, columnspacing=1.2)
        file = io.BytesIO()
        figure.savefig(file, format=kind, transparent=kind == "svg", metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue(), tips


def _figure(chart: Chart, narrow: bool) -> Figure:
    """An empty figure that belongs to no window; 72 of its points to an inch, so that a point is a pixel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=((NARROW if narrow else WIDE) / 72, chart.height / 72), dpi=72, layout="constrained")
    figure.add_subplot()
    return figure
