"""`Sheet`: tables and lines that are kept, to be shown on a terminal, as plain text or in a notebook."""

from __future__ import annotations

import html
import io
import os
import sys
from typing import Any, TextIO, cast

from rich.console import Console

WIDTH = 160  # columns, where nobody says how many there are
PLAIN: dict[str, Any] = {"markup": False, "emoji": False}  # how every line is printed, in a console of the user's, too


class Sheet:
    """Collects what would be printed; printing it, or its name alone in a notebook, shows all of it."""

    def __init__(self) -> None:
        self._parts: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def print(self, *parts: Any, **how: Any) -> None:
        """Add a table or a line, as `rich.console.Console.print` takes it; a line is text, without markup or emoji."""
        self._parts.append((parts, how))

    def show(self, out: Console | None = None) -> None:
        """Print it all, in the width and the colours of a console; default the standard output."""
        out = out or console()
        for parts, how in self._parts:
            out.print(*parts, **PLAIN, **{name: value for name, value in how.items() if name not in PLAIN})

    def __repr__(self) -> str:
        text = io.StringIO()
        # force_jupyter: else a notebook displays it here
        self.show(plain(file=text, width=WIDTH, no_color=True, force_terminal=False, force_jupyter=False))
        return trimmed(text.getvalue()).rstrip("\n")

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


Out = Console | Sheet  # where something can be printed


def console() -> Console:
    """As wide as the terminal; in a pipe or a log file wide enough for any table, unless COLUMNS says how wide."""
    if (terminal := plain()).is_terminal:
        return terminal
    width = None if "COLUMNS" in os.environ else WIDTH
    return plain(width=width, file=cast(TextIO, _Trimming(sys.stdout)))


def plain(**settings: Any) -> Console:
    """A console that shows texts as they are: "short:100:" stays, and so does "[a]" in the name of a layer."""
    return Console(**PLAIN, highlight=False, **settings)


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
