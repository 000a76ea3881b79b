"""A table that fits its terminal: words are never cut, and where they have no room each row becomes a short list."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

FOLD = 20  # columns of a terminal that a column of names keeps, at least, before the table becomes a list
SHORT = 12  # a column no wider than that is never broken: a number stays with its unit
INDENT, BETWEEN = 2, " · "
SEE_ALL = 10_000  # wider than any terminal


class FittingTable(Table):
    """A `rich` table that gives up its columns before it cuts a word.

    A column with `overflow="fold"` holds names, which may be broken anywhere, down to `FOLD`; one with a `min_width`
    may be cut down to that (widths, say, of which the first few tell enough); all others keep their longest word. Its
    texts are shown as they are: rich would take "[a]" for markup and ":100:" for an emoji.
    """

    def __init__(self, *, title: str = "", **settings: Any) -> None:
        super().__init__(title=Text(title, style="table.title") if title else None, **settings)

    def add_column(self, header: RenderableType = "", *others: Any, **settings: Any) -> None:
        """Add a column, as `rich.table.Table` does."""
        super().add_column(_text(header), *others, **settings)

    def add_row(self, *cells: RenderableType | None, **settings: Any) -> None:
        """Add a row of texts."""
        super().add_row(*map(_text, cells), **settings)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, or the list of its rows."""
        ranges = [_range(console, options, column) for column in self.columns]
        natural = sum(most for _, most in ranges)
        whole = super().__rich_measure__(console, options.update_width(SEE_ALL)).maximum
        room = options.max_width - max(0, whole - natural)  # what borders and padding leave
        if natural <= room:
            yield from super().__rich_console__(console, options)
        elif sum(least for least, _ in ranges) <= room:
            with self._as_wide_as(_share_out(ranges, room)):
                yield from super().__rich_console__(console, options)
        else:
            yield from self._listed(options.max_width)

    def _listed(self, width: int) -> Iterator[Text | Padding]:
        """Every row: its first cell as a heading, below it the others that say something, as many as fit on a line."""
        if self.title:
            yield _text(self.title)
        first, *others = self.columns
        for row in zip(*(column.cells for column in self.columns), strict=True):
            head, *cells = map(_text, row)
            yield _named(first, head)
            parts = [_named(column, cell) for column, cell in zip(others, cells, strict=True) if cell.plain]
            yield Padding(Text("\n").join(_packed(parts, width - INDENT)), (0, 0, 0, INDENT), expand=False)

    @contextmanager
    def _as_wide_as(self, widths: list[int]) -> Iterator[None]:
        try:
            for column, width in zip(self.columns, widths, strict=True):
                column.width = width
            yield
        finally:
            for column in self.columns:
                column.width = None


def _range(console: Console, options: ConsoleOptions, column: Column) -> tuple[int, int]:
    """The least width that a column can do with, and the one that it would like to have."""
    wide = options.update_width(SEE_ALL)
    sizes = [Measurement.get(console, wide, cell) for cell in (column.header, *column.cells)]
    most = max(size.maximum for size in sizes)
    word = most if column.no_wrap else max(size.minimum for size in sizes)
    if column.min_width is not None:
        return min(column.min_width, most), most
    least = most if most <= SHORT else word
    return min(least, FOLD) if column.overflow == "fold" else least, most


def _share_out(ranges: list[tuple[int, int]], room: int) -> list[int]:
    """Widths between the least and the most of each column that use the room up, one cell at a time."""
    widths = [least for least, _ in ranges]
    for _ in range(room - sum(widths)):
        wanting = [i for i, (_, most) in enumerate(ranges) if widths[i] < most]
        if not wanting:
            break
        widths[min(wanting, key=lambda i: widths[i] / ranges[i][1])] += 1
    return widths


def _named(column: Column, cell: Text) -> Text:
    """A cell behind the name of its column."""
    name = _text(column.header).plain
    return Text.assemble((f"{name} ", "dim"), cell) if name else cell


def _packed(parts: list[Text], width: int) -> list[Text]:
    """Parts on as few lines as they need; only one that is wider than a line is broken."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + len(BETWEEN) + part.cell_len <= width:
            lines[-1] = Text(BETWEEN, style="dim").join([lines[-1], part])
        else:
            lines.append(part)
    return lines


def _text(cell: object) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))
