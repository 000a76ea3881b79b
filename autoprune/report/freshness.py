"""Whether the files that show a run, report.html and trials.csv, show it as it is; they never disagree in silence.

A page carries the `stamp` of the run that it shows. Every verb that changes a run ends with `renew`; after a kill, when
nothing could, `stale` says so in `status` and `report`.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.ledger import Record, writers
from autoprune.problem import Trial
from autoprune.report.tables import counted

if TYPE_CHECKING:
    from autoprune.runs.directory import RunDirectory

PAGE, TABLE = "report.html", "trials.csv"
_STAMP = re.compile(r'<meta name="autoprune-run" content="(\d+ trials?, \w+)">')
_HEAD = 4096  # bytes of a page in which its stamp stands


def stamp(run: RunDirectory, record: Record) -> str:
    """What a page says of the run it shows: how many trials there were, and a digest of all that it may show."""
    digest = hashlib.sha256(repr(record.notes).encode())
    for entry in record.entries:
        digest.update(f"{entry.trial.number} {entry.trial.state.value} {entry.order}\n".encode())
    for path in (run.path / "config.toml", run.best / "architecture.json"):
        digest.update(path.read_bytes() if path.is_file() else b"none")
    digest.update(repr(sorted(p.name for p in run.best.iterdir()) if run.best.is_dir() else ()).encode())
    digest.update(b"live" if writers(run.path, record, run.config.ledger, run.study) else b"over")
    return f"{counted(len(record.entries), 'trial')}, {digest.hexdigest()[:16]}"


def stale(run: RunDirectory, record: Record | None = None) -> list[str]:
    """A sentence for each file that is older than the run, with the way out."""
    if not any((run.path / name).is_file() for name in (PAGE, TABLE)):
        return []
    record = record or run.record()
    there, now = {}, counted(len(record.entries), "trial")
    if is_old_page(run, record):
        there[PAGE] = _shown(run.path / PAGE).partition(",")[0]
    if (run.path / TABLE).is_file() and not is_current(run.path / TABLE, record.trials):
        there[TABLE] = counted(len(_rows(run.path / TABLE)), "trial")
    again = f"`autoprune report {run.path}` writes it anew"
    return [f"{name} is older than the run ({some} there, {now} now): {again}" for name, some in there.items()]


def is_old_page(run: RunDirectory, record: Record) -> bool:
    """Whether there is a page and it does not show the run as the record does."""
    return (run.path / PAGE).is_file() and _shown(run.path / PAGE) != stamp(run, record)


def is_current(table: Path, trials: Sequence[Trial]) -> bool:
    """Whether a trials.csv has these trials in these states."""
    return _rows(table) == [(str(t.number), t.state.value) for t in trials]


def _shown(page: Path) -> str:
    """The stamp of a page; what can be said of one that has none."""
    with page.open(encoding="utf-8", errors="replace") as file:
        found = _STAMP.search(file.read(_HEAD))
    return found[1] if found else "other trials"


def _rows(table: Path) -> list[tuple[str, ...]]:
    """Number and state of every trial in a trials.csv; none if it cannot be read."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            return [tuple(row[:2]) for row in list(csv.reader(file))[1:]]
    except (OSError, ValueError, csv.Error):
        return []
