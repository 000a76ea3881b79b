"""The page of the GPU's benchmark: rows that are on the disk as they come, and what is missing when the time is up."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

NOT = "not measured"
PATIENCE_S = 5.0, 30.0  # with a call that does not come back: at the end, and while there is time


class TimeUp(BaseException):
    """A part has had its time; nothing that catches errors keeps it."""


@dataclass(frozen=True)
class Part:
    """A part of the page.

    Attributes:
        title: Its heading.
        share: Of the time.
        rows: Those that it will give; what it does not give is not measured.
        run: Measures; it is told how many seconds it has.
    """

    title: str
    share: float
    rows: Sequence[str]
    run: Callable[[float], None]


class Rows:
    """The page.

    Args:
        path: Of the file; None: what is found is only said.
        head: What stands above all.
        seconds: Of all parts together.
    """

    def __init__(self, path: Path | None, head: Sequence[str], seconds: float) -> None:
        self._path, self._lines, self.end = path, [*head], time.monotonic() + seconds
        self._open: list[str] = []  # rows of this part that are still to come
        self.found: dict[str, Any] = {}  # numbers that others are worked out from

    def row(self, what: str, found: Any) -> None:
        """One result."""
        self._open = [name for name in self._open if name != what]
        self._write(f"| {what} | {str(found).replace('|', '/').replace(chr(10), ' ')[:400]} |")

    def leave_out(self, rows: Sequence[str], why: str) -> None:
        """Rows that will not be measured."""
        for name in rows:
            self.row(name, f"{NOT}: {why}")

    def run(self, parts: Sequence[Part], why_not: str = "") -> None:
        """All parts; each has its share of what is left, and whatever it raises is said where its rows are missing.

        Args:
            parts: In their order.
            why_not: Why none is run; "": they are.
        """
        for i, part in enumerate(parts):
            self._write(f"\n## {part.title}\n\n| what | found |\n|---|---|")
            self._open = list(part.rows)
            left = self.end - time.monotonic()
            limit_s = part.share / sum(p.share for p in parts[i:]) * left
            why = why_not or self._tried(part, limit_s, parts[i + 1 :])
            self.leave_out(list(self._open), why)

    def _tried(self, part: Part, limit_s: float, others: Sequence[Part]) -> str:
        """Run a part; why its last rows are missing."""
        if limit_s < 1:
            return "no time left"

        def up(number: int, frame: FrameType | None) -> None:
            raise TimeUp

        def cut_off() -> None:  # a call that no signal reaches, in a driver, say: the page ends here
            self.leave_out(list(self._open), f"no time left, it did not come back within {limit_s:.0f} s")
            for other in others:
                self._write(f"\n## {other.title}\n\n| what | found |\n|---|---|")
                self.leave_out(other.rows, "no time left")
            os._exit(1)

        before = signal.signal(signal.SIGALRM, up)
        patience_s = max(PATIENCE_S[0], min(PATIENCE_S[1], self.end - time.monotonic() - limit_s))
        guard = threading.Timer(limit_s + patience_s, cut_off)
        guard.daemon = True
        guard.start()
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        try:
            part.run(limit_s)
        except TimeUp:
            return "no time left"
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            why = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
            if not self._open:
                self.row("failed", why)
            return f"failed, {why}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            guard.cancel()
        return "does not apply here"

    def _write(self, line: str) -> None:
        print(line, flush=True)
        self._lines.append(line)
        if self._path is not None:
            with self._path.open("w", encoding="utf-8") as file:
                file.write("\n".join([*self._lines, ""]))
                file.flush()
                os.fsync(file.fileno())
