"""Progress of a run: a live bar on a terminal, one line per trial elsewhere."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from autoprune.config import RunConfig
from autoprune.labels import TOP1, Labels, Score
from autoprune.printable import decimals, printable
from autoprune.problem import Trial, TrialState
from autoprune.report.outlook import Outlook
from autoprune.report.pace import Samples
from autoprune.report.sheet import PLAIN, plain
from autoprune.schedule import is_cached

if TYPE_CHECKING:
    from autoprune.ledger.measurements import Measurements

WIDE = 100  # columns of a terminal that has room for all of the bar
EVERY_S = 30.0  # between two lines of a search that Python started, where there is no bar


class RunProgress:
    """Says what a run is doing; the listener of its controller. Use as a context manager.

    Args:
        console: Where to; default the standard output.
        quiet: Say nothing at all.
        every_s: Seconds between two lines about trials, where there is no bar; the last one is told in any case.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False, every_s: float = 0.0) -> None:
        self.console = console or plain(quiet=quiet)
        self._every_s, self._said = every_s, -math.inf
        self._stage, self._steps = "", 0
        self._bar: Progress | None = None
        self._config = RunConfig()
        self._trials: list[Trial] = []
        self._best: dict[str, float] = {}
        self._measured: Measurements | None = None
        self._samples: Samples | None = None
        self._has_batch_norm = True
        self._labels = Labels()
        self._began = time.monotonic()

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def say(self, text: str) -> None:
        """One line that stays."""
        self.console.print(printable(text), **PLAIN, soft_wrap=True)

    def begin_search(
        self,
        config: RunConfig,
        trials: Iterable[Trial] = (),
        worked_s: float = 0.0,
        measured: Measurements | None = None,
        samples: Samples | None = None,
        labels: Labels | None = None,
        has_batch_norm: bool = True,
    ) -> None:
        """The search begins, or goes on.

        Args:
            config: Of the run.
            trials: Finished before.
            worked_s: Seconds that controllers were at work before.
            measured: What was measured for a latency budget so far.
            samples: How many the run has.
            labels: What its scores are called.
            has_batch_norm: Whether the network has statistics that are estimated anew after a cut.
        """
        self._samples, self._has_batch_norm = samples, has_batch_norm
        self._labels = labels or Labels()
        self._config, self._trials, self._best, self._measured = config, list(trials), {}, measured
        self._began = time.monotonic() - worked_s
        for trial in self._trials:
            self._is_better(trial)
        outlook = self._outlook()
        self._show("scoring" if config.method else "searching", outlook.total, outlook.done, outlook)

    def begin(self, stage: str, total: int) -> None:
        """Another part of the run begins.

        Args:
            stage: What it is called.
            total: Its steps.
        """
        self._stage, self._steps, self._said = stage, total, -math.inf  # the first step is told at once
        self._show(stage, total)

    def end(self) -> None:
        """The part is over."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def step(self, done: int, note: str = "", eta: str = "") -> None:
        """Step `done` is finished: the first and the last are told where there is no bar, and others now and then."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, note=note)
        elif self._is_time(self._every_s or EVERY_S) or done == self._steps:
            eta = eta and f"ETA {eta}"
            self.say(", ".join(filter(None, (f"{self._stage}: step {done} of {self._steps}", note, eta))))

    def on_asked(self, job: object) -> None:
        """A worker starts on a job: nothing worth a line."""

    def on_told(self, trial: Trial) -> None:
        """A trial has finished."""
        self._trials.append(trial)
        if is_cached(trial):
            return
        better = self._is_better(trial)
        outlook, metric = self._outlook(), self._labels.score(self._config.metric).minimised
        if self._bar is None:
            if not self._is_time(self._every_s) and outlook.done < outlook.total:
                return
            best = " (best so far)" if better and not self._config.front else ""
            said = describe(trial, metric, self._labels.headline)
            if self._config.method:  # it has one candidate: what was found
                renewed = ", batch-norm re-estimated" if self._has_batch_norm else ""
                self.say(f"after the cut{renewed}: {said.partition(': ')[2]}")
                return
            self.say(f"{said}{best}; {outlook}, ETA {outlook.eta}")
        else:
            note = f"{trial.fidelity}: best {metric} {decimals(self._best.get(trial.fidelity, math.inf))}"
            shown: dict[str, Any] = {"note": note, "eta": outlook.eta, "count": str(outlook.now)}
            self._bar.update(self._bar.task_ids[0], completed=outlook.done, total=outlook.total, **shown)

    def _is_time(self, every_s: float) -> bool:
        """Whether the last line is so long ago; then this is the next one."""
        if time.monotonic() - self._said < every_s:
            return False
        self._said = time.monotonic()
        return True

    def _outlook(self) -> Outlook:
        worked_s = time.monotonic() - self._began
        return Outlook.of(self._trials, self._config, worked_s, measured=self._measured, samples=self._samples)

    def _show(self, stage: str, total: int, done: int = 0, outlook: Outlook | None = None) -> None:
        self.end()
        if self.console.quiet or not (self.console.is_terminal or _is_notebook(self.console)):
            return
        left: ProgressColumn = TimeRemainingColumn()
        count: ProgressColumn = MofNCompleteColumn()
        if outlook:
            left, count = (_text(f"task.fields[{name}]", table_column=Column()) for name in ("eta", "count"))
        columns: list[ProgressColumn] = [_text("task.description"), count]
        if self.console.width >= WIDE:
            columns.insert(1, BarColumn())
            columns += [_text("task.fields[note]"), TextColumn("elapsed"), TimeElapsedColumn()]
        self._bar = Progress(*columns, TextColumn("ETA"), left, console=self.console, transient=True)
        self._bar.start()
        told: dict[str, Any] = {"eta": outlook.eta, "count": str(outlook.now)} if outlook else {}
        self._bar.add_task(stage, total=total, completed=done, note="", **told)

    def _is_better(self, trial: Trial) -> bool:
        better = trial.state is TrialState.COMPLETE and trial.loss < self._best.get(trial.fidelity, math.inf)
        if better:
            self._best[trial.fidelity] = trial.loss
        return better


@contextlib.contextmanager
def showing(progress: RunProgress | bool | None) -> Iterator[RunProgress]:
    """Where a function of Python shows its progress: `None` and True a bar, or a line now and then; False nothing.

    Raises:
        ValueError: If it is something else.
    """
    if not (progress is None or isinstance(progress, (bool, RunProgress))):
        raise ValueError(f"progress: expected True, False or an autoprune.RunProgress, got {progress!r}")
    shown = progress if isinstance(progress, RunProgress) else RunProgress(quiet=progress is False, every_s=EVERY_S)
    with shown:
        yield shown


def _text(field: str, **settings: Any) -> TextColumn:
    """A column of a bar that shows a field as it is, without markup or emoji."""
    return TextColumn(f"{{{field}}}", markup=False, **settings)


def _is_notebook(console: Console) -> bool:
    """Whether a bar can be redrawn in a notebook; without widgets there are lines."""
    return console.is_jupyter and find_spec("ipywidgets") is not None


def describe(trial: Trial, metric: str = "loss", score: Score = TOP1) -> str:
    """One trial on one line; `metric` is what its loss is called, and a score of the task stands beside it."""
    head = f"trial {trial.number}, {trial.fidelity}"
    if trial.state is TrialState.FAIL:
        return f"{head}: failed: {trial.error}"
    known = math.nan if score.name == "loss" else score.number(trial.metrics)
    twice = score.name == metric and known == trial.loss
    also = "" if math.isnan(known) or twice else f", {score.label} {known:.4f}"
    word = f"abandoned early, {metric} about" if trial.state is TrialState.PRUNED else metric
    harm = trial.metrics.get("loss_trained")
    taken_back = "" if harm is None else f" (as before its training, which made it {harm:.4g})"
    return f"{head}: {word} {decimals(trial.loss)}{also}, {trial.seconds:.1f} s{taken_back}"
