"""Progress of a run: a live bar on a terminal, one line per trial elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from autoprune.problem import Trial, TrialState


class RunProgress:
    """Says what a run is doing; the listener of its controller. Use as a context manager.

    Args:
        console: Where to; default the standard output.
        quiet: Say nothing at all.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(quiet=quiet, highlight=False)
        self._bar: Progress | None = None
        self._best: dict[str, float] = {}
        self._stage, self._done, self._total = "", 0, 0
        self._at_start, self._started = 0, time.monotonic()

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(text, markup=False, soft_wrap=True)

    def begin(self, stage: str, total: int, done: int = 0, best: Iterable[Trial] = ()) -> None:
        """A part of the run begins.

        Args:
            stage: What it is called.
            total: Its steps.
            done: Steps that were done before (a resumed run).
            best: Trials finished before.
        """
        self.end()
        self._stage, self._total, self._done, self._at_start = stage, total, done, done
        self._started = time.monotonic()
        for trial in best:
            self._is_better(trial)
        if self.console.is_terminal and not self.console.quiet:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._bar.add_task(stage, total=total, completed=done, note="")

    def end(self) -> None:
        """The part is over."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def step(self, done: int, note: str = "") -> None:
        """Step `done` is finished (shown on a terminal only)."""
        self._done = done
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, note=note)

    def on_asked(self, job: object) -> None:
        """A worker starts on a job: nothing worth a line."""

    def on_told(self, trial: Trial) -> None:
        """A trial has finished."""
        if trial.metrics.get("cached"):
            return
        better = self._is_better(trial)
        best = self._best.get(trial.fidelity, math.inf)
        self.step(self._done + 1, f"{trial.fidelity}: best loss {best:.4f}")
        if self._bar is None:
            pace = (time.monotonic() - self._started) / max(1, self._done - self._at_start)
            left = f"{pace * max(0, self._total - self._done):.0f} s"
            self.say(f"{self._done}/{self._total} {describe(trial)}{' (best so far)' if better else ''}, ETA {left}")

    def _is_better(self, trial: Trial) -> bool:
        better = trial.state is TrialState.COMPLETE and trial.loss < self._best.get(trial.fidelity, math.inf)
        if better:
            self._best[trial.fidelity] = trial.loss
        return better


def describe(trial: Trial) -> str:
    """One trial on one line."""
    head = f"{trial.fidelity} trial {trial.number}"
    if trial.state is TrialState.FAIL:
        return f"{head}: failed: {trial.error}"
    top1 = f", top-1 {trial.metrics['top1']:.4f}" if "top1" in trial.metrics else ""
    word = "abandoned early, loss about" if trial.state is TrialState.PRUNED else "loss"
    return f"{head}: {word} {trial.loss:.4f}{top1}, {trial.seconds:.1f} s"
