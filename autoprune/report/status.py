"""What `autoprune status` shows of a run: who does what, how fast, what failed, how long it will take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from autoprune.config import RunConfig
from autoprune.ledger import Record, writers
from autoprune.report.activity import Activity, now_s
from autoprune.report.ending import ending, study_call
from autoprune.report.freshness import stale
from autoprune.report.fronts import summary
from autoprune.report.outlook import Outlook
from autoprune.report.pace import Samples, Tuning
from autoprune.report.progress import describe
from autoprune.report.rows import attached_words
from autoprune.report.sheet import console
from autoprune.report.tables import seconds
from autoprune.report.trained import found, plan, scores
from autoprune.report.trials import counts
from autoprune.report.workers import failures_table, workers_table
from autoprune.trust import reading

if TYPE_CHECKING:
    from autoprune.runs.directory import RunDirectory

INTERVAL_S = 2.0  # between two looks,
SHARE = 0.2  # or more, so that reading a long ledger takes at most this share of the time


def print_status(run: RunDirectory, watch: bool = False) -> None:
    """How far a run is, also while it is running.

    Args:
        run: The run.
        watch: Show it anew every two seconds until the run ends or Ctrl-C; on a terminal only.
    """
    if watch:
        follow(run)
    console().print(status(run)[0])


def follow(run: RunDirectory) -> None:
    """Show how far a run is every two seconds, until it ends or Ctrl-C; on a terminal only."""
    out = console()
    view, is_live = status(run)
    if not (is_live and out.is_terminal):
        return
    with contextlib.suppress(KeyboardInterrupt), Live(view, console=out, auto_refresh=False, transient=True) as screen:
        while is_live:
            time.sleep(INTERVAL_S)
            before = time.perf_counter()
            view, is_live = status(run)
            screen.update(view, refresh=True)
            time.sleep((time.perf_counter() - before) / SHARE)


@reading()
def status(run: RunDirectory) -> tuple[RenderableType, bool]:
    """What there is to see of a run at this moment, and whether anybody is at work."""
    from autoprune.config.calls import not_called
    from autoprune.ledger.measurements import Measurements

    record, config = run.record(), run.config
    alive = writers(run.path, record, config.ledger, run.study)
    began = datetime.fromtimestamp(lock.stat().st_mtime) if (lock := run.path / ".lock").exists() else None
    activity = Activity.of(record, now_s(record, began) if alive else None)
    is_exported = (run.best / "architecture.json").is_file()
    measured, at_work = Measurements.of(record.notes), activity.at_work if alive else 0
    samples, tuning = Samples.of(record.notes), Tuning.read(run.checkpoint) if alive else None
    is_over = is_exported and not alive
    outlook = Outlook.of(record.trials, config, activity.now_s, at_work, is_over, measured, samples, tuning)
    over = outlook.done > 0 and outlook.done == outlook.total
    leader, metric, end = run.leader(record), run.metric, ending(run, record, bool(alive))
    if config.method:
        return _training(run, record, alive, outlook, tuning, is_exported), bool(alive)
    lines = {
        "run": str(run.path),
        "state": _state(run, record, activity, alive, over, is_exported),
        "model": f"{config.model or 'an nn.Module object'}, {config.goal}",
        "evaluated": f"{outlook} ({counts(record.trials, live=bool(alive))})",
        "limits": _limits(config, activity.now_s),
        end.label: str(end),
        "pace": activity.pace,
        "best": describe(leader, metric, run.labels.headline) if leader else "none yet",
        "delivered": _delivered(run) if is_exported else "",
        "front": summary(run, record),
        "ETA": _eta(outlook, tuning if over else None) if alive else "",
        "files": "; ".join(stale(run, record)),
        "go on": f"a study, in Python: {call}" if (call := study_call(run)) else "",
        "trust": f"resume would {names}: see --trust" if (names := not_called(config)) else "",
    }
    parts: list[RenderableType] = [_grid(lines)]
    if activity.workers or activity.waiting:
        parts += [Text(), workers_table(activity, bool(alive))]
    if activity.failures:
        parts += [Text(), failures_table(activity)]
    return Group(*parts), bool(alive)


def _training(
    run: RunDirectory,
    record: Record,
    alive: tuple[str, ...],
    outlook: Outlook,
    tuning: Tuning | None,
    is_exported: bool,
) -> RenderableType:
    """The same of a run that trains with a method: there are no candidates, and nobody shares the work."""
    from autoprune.config.calls import not_called
    from autoprune.exporting import read_architecture

    config, leader, end = run.config, run.leader(record), ending(run, record, bool(alive))
    doing = "fine-tune of what was found" if record.entries else f"training with {config.method}"
    step = f", step {tuning.step} of {tuning.steps}" if tuning else ""
    export = read_architecture(run.best) if is_exported else None
    left = f"{seconds(tuning.left_s)} + the fine-tune" if tuning else ""
    state = f"running ({', '.join(alive)}): {doing}{step}" if alive else "finished" if export else "stopped"
    lines = {
        "run": str(run.path),
        "state": state,
        "model": f"{config.model or 'an nn.Module object'}, {config.goal}",
        **{label.lower(): text for label, text in plan(config)},
        "found": found(config, run.space(), export["widths"] if export else leader.widths, export) if leader else "",
        "delivered": (_delivered(run) or scores(export, run.labels)) if export else "",
        end.label: str(end),
        "ETA": (outlook.eta if record.entries else left) if alive else "",
        "files": "; ".join(stale(run, record)),
        "trust": f"resume would {names}: see --trust" if (names := not_called(config)) else "",
    }
    activity = Activity.of(record)
    parts: list[RenderableType] = [_grid(lines)]
    if activity.failures:
        parts += [Text(), failures_table(activity)]
    return Group(*parts)


def _grid(lines: Mapping[str, str]) -> Table:
    """A line for each that says something."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column()
    grid.add_column(overflow="fold")
    for label, text in lines.items():
        if text:
            grid.add_row(Text(label), Text(text))
    return grid


def _state(
    run: RunDirectory, record: Record, activity: Activity, alive: tuple[str, ...], over: bool, is_exported: bool
) -> str:
    if not alive:
        return "finished" if is_exported else "stopped"
    running = f"running ({', '.join(alive)})"
    if silence_s := activity.silence_s(record):
        return f"{running}, but STALLED? Nothing has finished for {seconds(silence_s)}"
    if not record.entries:
        return f"{running}: starting"
    return f"{running}: fine-tune of the winner" if over and not activity.in_hand else running


def _delivered(run: RunDirectory) -> str:
    """A network that was trained elsewhere is not what the trials say."""
    from autoprune.exporting import read_architecture

    try:
        return attached_words(read_architecture(run.best))
    except ValueError as error:
        return str(error)


def _limits(config: RunConfig, worked_s: float) -> str:
    parts = [f"time {config.time}, {seconds(worked_s)} used"] if config.time else []
    return "; ".join([*parts, f"target {config.limits.target}"] if config.target else parts)


def _eta(outlook: Outlook, tuning: Tuning | None) -> str:
    """When the winner is there, as far as that can be told."""
    return outlook.eta + (f" (the fine-tune is at step {tuning.step} of {tuning.steps})" if tuning else "")
