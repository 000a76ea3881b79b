"""`Sheet`: tables and lines that are kept, to be shown on a terminal, as plain text or in a notebook."""

from __future__ import annotations

import html
import io
import os
import sys
from typing import Any, TextIO, cast

from rich.console import Console

WIDTH = 160  # columns, where nobody says how many there are


class Sheet:
    """Collects what would be printed; printing it, or its name alone in a notebook, shows all of it."""

    def __init__(self) -> None:
        self._parts: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def print(self, *parts: Any, **how: Any) -> None:
        """Add a table or a line, as `rich.console.Console.print` takes it."""
        self._parts.append((parts, how))

    def show(self, out: Console | None = None) -> None:
        """Print it all, in the width and the colours of a console; default the standard output."""
        out = out or console()
        for parts, how in self._parts:
            out.print(*parts, **how)

    def __repr__(self) -> str:
        text = io.StringIO()
        plain = Console(
            file=text, highlight=False, width=WIDTH, no_color=True, force_terminal=False,
            force_jupyter=False,  # else a notebook displays it here
        )  # fmt: skip
        self.show(plain)
        return trimmed(text.getvalue()).rstrip("\n")

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


Out = Console | Sheet  # where something can be printed


def console() -> Console:
    """As wide as the terminal; in a pipe or a log file wide enough for any table, unless COLUMNS says how wide."""
    plain = Console(highlight=False)
    if plain.is_terminal:
        return plain
    width = None if "COLUMNS" in os.environ else WIDTH
    return Console(highlight=False, width=width, file=cast(TextIO, _Trimming(sys.stdout)))


def trimmed(text: str) -> str:
    """Without the spaces at the ends of lines that tables are filled up with."""
    return "\n".join(line.rstrip(" ") for line in text.split("\n"))


class _Trimming:
    """A text stream that takes the spaces off the ends of lines; whole lines are written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(trimmed(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
