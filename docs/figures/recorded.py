"""Numbers of the recorded tables in results/benchmarks, so that no figure has one of its own."""

import re
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "results" / "benchmarks"
Row = dict[str, str]


def table(name: str, heading: str, nth: int = 0) -> list[Row]:
    """The rows of the nth table under a heading of a recorded page; "" is the whole page.

    Raises:
        ValueError: If there is none.
    """
    text = (RESULTS / name).read_text(encoding="utf-8")
    if heading:
        parts = re.split(rf"(?m)^#+ {re.escape(heading)}[^\n]*$", text)
        if len(parts) < 2:
            raise ValueError(f"{name}: has no heading '{heading}'")
        text = parts[1]
    found = re.findall(r"(?m)(?:^\|.*\|$\n?)+", text)
    if len(found) <= nth:
        raise ValueError(f"{name}: has no table {nth} under '{heading}'")
    head, _, *rows = [
        [cell.strip().strip("*`") for cell in line.strip("|\n").split("|")] for line in found[nth].splitlines()
    ]
    return [dict(zip(head, row, strict=False)) for row in rows]


def number(cell: str) -> float:
    """The first number of a cell, e.g. of "84.7 ± 0.1"."""
    match = re.search(r"-?\d+(?:\.\d+)?", cell.replace(",", ""))
    if match is None:
        raise ValueError(f"'{cell}': no number")
    return float(match[0])


def dense_top1(name: str) -> float:
    """Test top-1 of the dense network in percent, as the page says it."""
    found = re.search(r"Dense network: ([\d.]+) %", (RESULTS / name).read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{name}: does not say what the dense network has")
    return float(found[1])
