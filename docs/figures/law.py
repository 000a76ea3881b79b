"""Concepts: pruned equals masked; what was measured is of reachable.md."""

from drawing import Drawing
from recorded import table

SIZE = (760, 270)
TITLE = "Left: a network with some channels set to zero. Right: those channels removed. Both answer the same."
KEPT = (0, 2, 3, 5)


def draw(d: Drawing) -> None:
    """Draw it."""
    rows = table("reachable.md", "")
    d.text(20, 26, "Pruned equals masked", bold=True)
    for x, words in ((40, "masked: the same shapes, zeros"), (440, "pruned: smaller tensors")):
        d.text(x, 58, words, "soft", 13)
    for row in range(6):
        for column in range(6):
            gone = row not in KEPT or column not in KEPT
            d.rect(40 + 26 * column, 76 + 24 * row, 22, 20, "panel" if gone else "one", "faint" if gone else "", r=2)
            if gone:
                d.text(51 + 26 * column, 90 + 24 * row, "0", "soft", 11, "middle")
    for row in range(4):
        for column in range(4):
            d.rect(440 + 26 * column, 100 + 24 * row, 22, 20, "one", r=2)
    d.text(318, 152, "=", size=34, anchor="middle", bold=True)
    d.text(318, 176, "same answers,", "soft", 12, "middle")
    d.text(318, 192, "any input", "soft", 12, "middle")
    d.text(
        40,
        250,
        f"{len(rows)} networks, random channels: the largest difference is of the order of 1e-{exponent(rows)}, "
        "relative (double precision).",
        size=13,
    )


def exponent(rows: list[dict[str, str]]) -> int:
    """The digits to which the two agree in the worst network."""
    return min(int(row["verify"].partition("e-")[2]) for row in rows if "e-" in row["verify"])
