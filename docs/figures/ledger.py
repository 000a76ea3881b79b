"""Concepts: the ledger over a kill; counts are of torture.md."""

from drawing import Drawing
from recorded import table

SIZE = (760, 270)
TITLE = "Trials on a time line: those that ended before the kill are kept, those in flight are asked again."


def draw(d: Drawing) -> None:
    """Draw it."""
    total = next(row for row in table("torture.md", "") if row["kind"] == "all")
    d.text(20, 26, "What is in the ledger is never lost, and nothing counts twice", bold=True)
    for n, name in enumerate(("worker 1", "worker 2", "worker 3")):
        y = 58 + 42 * n
        d.text(20, y + 19, name, "soft", 12)
        d.line([(90, y + 30), (740, y + 30)], "faint", 1)
    done = [(0, 92, 0, 90), (1, 92, 1, 130), (2, 92, 2, 110), (3, 186, 0, 118), (4, 206, 2, 120), (5, 226, 1, 92)]
    for trial, x, row, width in done:
        _trial(d, trial, x, row, width, "one")
    for trial, x, row in ((6, 308, 0), (7, 322, 1), (8, 330, 2)):
        _trial(d, trial, x, row, 400 - x, "gone")
    d.line([(402, 46), (402, 184)], "two", 2, "5 4")
    d.text(408, 56, "kill -9", "two", 13, bold=True)
    d.text(430, 110, "resume:", "soft", 12)
    d.text(430, 126, "read, replay", "soft", 12)
    for trial, row in ((6, 0), (7, 1), (8, 2)):
        _trial(d, trial, 510, row, 100 + 12 * row, "three")
    _trial(d, 9, 616, 0, 110, "three")
    for x, color, words in (
        (90, "one", "told: on disk"),
        (230, "gone", "in flight: asked, not told"),
        (430, "three", "asked again, same proposal"),
    ):
        d.rect(x, 200, 14, 14, color, r=2)
        d.text(x + 20, 212, words, size=12)
    d.text(
        20,
        252,
        f"{total['schedules']} schedules of faults, {total['faults']} faults, {total['failed']} failed; "
        f"{total['extra']} of {total['evaluations']} evaluations were done again.",
        size=13,
    )


def _trial(d: Drawing, trial: int, x: float, row: int, width: float, color: str) -> None:
    d.rect(x, 60 + 42 * row, width - 4, 26, color)
    d.text(x + width / 2 - 2, 77 + 42 * row, str(trial), "back" if color != "gone" else "ink", 12, "middle", bold=True)
