"""Progress of a run: a live bar on a terminal, one line per trial elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from autoprune.config import RunConfig
from autoprune.printable import printable
from autoprune.problem import Trial, TrialState
from autoprune.report.outlook import Outlook
from autoprune.schedule import is_cached

if TYPE_CHECKING:
    from autoprune.runs.measured import Measured


class RunProgress:
    """Says what a run is doing; the listener of its controller. Use as a context manager.

    Args:
        console: Where to; default the standard output.
        quiet: Say nothing at all.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(quiet=quiet, highlight=False)
        self._bar: Progress | None = None
        self._config = RunConfig()
        self._trials: list[Trial] = []
        self._best: dict[str, float] = {}
        self._measured: Measured | None = None
        self._began = time.monotonic()

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(printable(text), markup=False, soft_wrap=True)

    def begin_search(
        self,
        config: RunConfig,
        trials: Iterable[Trial] = (),
        worked_s: float = 0.0,
        measured: Measured | None = None,
    ) -> None:
        """The search begins, or goes on.

        Args:
            config: Of the run.
            trials: Finished before.
            worked_s: Seconds that controllers were at work before.
            measured: What was measured for a latency budget so far.
        """
        self._config, self._trials, self._best, self._measured = config, list(trials), {}, measured
        self._began = time.monotonic() - worked_s
        for trial in self._trials:
            self._is_better(trial)
        outlook = self._outlook()
        self._show("searching", outlook.total, outlook.done, outlook.eta)

    def begin(self, stage: str, total: int) -> None:
        """Another part of the run begins.

        Args:
            stage: What it is called.
            total: Its steps.
        """
        self._show(stage, total)

    def end(self) -> None:
        """The part is over."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def step(self, done: int, note: str = "") -> None:
        """Step `done` is finished (shown on a terminal only)."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, note=note)

    def on_asked(self, job: object) -> None:
        """A worker starts on a job: nothing worth a line."""

    def on_told(self, trial: Trial) -> None:
        """A trial has finished."""
        self._trials.append(trial)
        if is_cached(trial):
            return
        better = self._is_better(trial)
        outlook, metric = self._outlook(), metric_label(self._config.metric)
        if self._bar is None:
            best = " (best so far)" if better and not self._config.front else ""
            self.say(f"{outlook.done}/{outlook.total} {describe(trial, metric)}{best}, ETA {outlook.eta}")
        else:
            note = f"{trial.fidelity}: best {metric} {self._best.get(trial.fidelity, math.inf):.4f}"
            self._bar.update(
                self._bar.task_ids[0], completed=outlook.done, total=outlook.total, note=note, eta=outlook.eta
            )

    def _outlook(self) -> Outlook:
        return Outlook.of(self._trials, self._config, time.monotonic() - self._began, measured=self._measured)

    def _show(self, stage: str, total: int, done: int = 0, eta: str | None = None) -> None:
        self.end()
        if not self.console.is_terminal or self.console.quiet:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn() if eta is None else TextColumn("{task.fields[eta]}"),
            console=self.console,
            transient=True,
        )
        self._bar.start()
        self._bar.add_task(stage, total=total, completed=done, note="", eta=eta)

    def _is_better(self, trial: Trial) -> bool:
        better = trial.state is TrialState.COMPLETE and trial.loss < self._best.get(trial.fidelity, math.inf)
        if better:
            self._best[trial.fidelity] = trial.loss
        return better


def describe(trial: Trial, metric: str = "loss") -> str:
    """One trial on one line; `metric` is what its loss is called."""
    head = f"{trial.fidelity} trial {trial.number}"
    if trial.state is TrialState.FAIL:
        return f"{head}: failed: {trial.error}"
    top1 = f", top-1 {trial.metrics['top1']:.4f}" if "top1" in trial.metrics else ""
    word = f"abandoned early, {metric} about" if trial.state is TrialState.PRUNED else metric
    return f"{head}: {word} {trial.loss:.4f}{top1}, {trial.seconds:.1f} s"


def metric_label(metric: str) -> str:
    """What the minimised number is called: "loss", "1 - top-1", or the name of the user's function."""
    return {"top1": "1 - top-1"}.get(metric, metric.rpartition(":")[2])
