"""Why a search takes no new candidate, or stands still, and what would let it go on: the same words everywhere."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from autoprune.config import OBJECTS, RunConfig
from autoprune.limits import FEWEST, duration, met
from autoprune.problem import Trial, TrialState
from autoprune.report.tables import counted
from autoprune.schedule import PATIENCE, Tally, is_cached, num_evaluations, ranked
from objectives import is_lost

if TYPE_CHECKING:
    from autoprune.runs.directory import RunDirectory

EXPORTED = "architecture.json"
STUDY = "study.json"  # the arguments of a study


class Told(Protocol):
    """What a ledger says: a `Record`, or a `Ledger` that is open."""

    @property
    def trials(self) -> list[Trial]:
        """All of them, in number order."""

    @property
    def worked_s(self) -> float:
        """Seconds that controllers were at work."""

    @property
    def notes(self) -> Mapping[str, Any]:
        """What else was kept."""


@dataclass(frozen=True)
class Ending:
    """Why there are no more candidates.

    Attributes:
        why: The reason, with its numbers; "" while the search goes on.
        more: What lets it go on, with the exact flag; "" where nothing does, and while the run is at work.
        is_live: Whether somebody is at work on the run, which has not ended then.
    """

    why: str = ""
    more: str = ""
    is_live: bool = False

    @property
    def label(self) -> str:
        """What stands before it."""
        return "no new candidate" if self.is_live else "ended"

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.why, self.more)))

    def __bool__(self) -> bool:
        return bool(self.why)


def ending(run: RunDirectory, told: Told, is_live: bool = False, is_over: bool | None = None) -> Ending:
    """Why the search of a run takes no new candidate, and what would let it go on.

    While somebody is at work nothing has ended: only a limit that closed the list of candidates early is told then.

    Args:
        run: The run.
        told: What its ledger says.
        is_live: Somebody is at work on it.
        is_over: There will be no new candidate, by whichever limit; default: the winner is there and nobody is at work.
    """
    config, trials = run.config, told.trials
    is_delivered = (run.best / EXPORTED).is_file()
    is_over = (is_delivered and not is_live) if is_over is None else is_over
    done = [t for t in trials if t.state is not TrialState.RUNNING and t.fidelity == config.schedule.first]
    tally = config.schedule.tally(done)
    resume = resuming(run)
    reason = limit_reached(tally, done, config, told.worked_s, is_over)
    if is_live:
        return Ending(reason, is_live=True)
    if reason:
        more = {
            "target": f"{resuming(run, target='')} (or a harder one) goes on",
            "time": f"{resuming(run, time=f'+{config.time}')} goes on",
            "the": f"another --strategy or --seed{_finer(config)}, in a run of another name, proposes others",
        }[reason.partition(" ")[0]]
    elif tally.evaluated >= config.trials and config.method:
        reason = f"{config.method} has {'trained its networks' if config.is_nested else 'found its network'}"
        tune = f"`autoprune finetune {shlex.quote(str(run.path))} --epochs N` trains that one longer"
        more = "" if config.is_nested else tune
    elif config.method:
        return Ending(f"stopped in its training with {config.method}", f"{resume} goes on")
    elif tally.evaluated >= config.trials:
        reason = f"all {counted(config.trials, 'candidate')} evaluated"
        more = f"{resuming(run, trials=2 * config.trials)} evaluates more"
    elif failing := _failing(trials, config):
        return Ending(f"stopped: {failing}", f"remove the cause, then {resume} (--max-failures bears more)")
    else:
        return Ending(f"stopped after {tally.evaluated} of {counted(config.trials, 'candidate')}", f"{resume} goes on")
    if _gave_up(told.notes):
        return Ending(f"{reason}; no network held the latency budget", f"{resume} measures again")
    if not is_over and not is_delivered:
        return Ending(f"{reason}, but the winner is not delivered", f"{resume} delivers it")
    return Ending(reason, more)


def _finer(config: RunConfig) -> str:
    """Another way on where widths may be multiples of more than 1, so that there are few."""
    by_device = config.divisor == "auto" and any("latency" in text for text in (*config.budget, *config.front))
    return ", or --divisor 1" if by_device or config.divisor not in ("auto", 1) else ""


def study_call(run: RunDirectory, **settings: Any) -> str:
    """Of a study (see `autoprune.Study`) the call that goes on with it; of a run that searches by itself ""."""
    file = run.path / STUDY
    if not file.is_file():
        return ""
    told = {**json.loads(file.read_text(encoding="utf-8")), **settings}
    return f"autoprune.Study(model, example_inputs, {', '.join(f'{k}={v!r}' for k, v in told.items())})"


def resuming(run: RunDirectory, **settings: Any) -> str:
    """What a user types to let a run go on: a command or, where nothing on disk names its objects, a call in Python."""
    if call := study_call(run, **settings):
        return call
    given = [
        name for name, named in (("model", run.config.model), ("data", run.config.data or run.config.task)) if not named
    ]
    given += [name for name in OBJECTS if is_lost(getattr(run.config, name))]
    if given:
        told = [repr(str(run.path)), *(f"{k}={v!r}" for k, v in settings.items()), *(f"{k}=..." for k in given)]
        return f"autoprune.resume({', '.join(told)})"
    flags = [f"--{name} {shlex.quote(str(value))}" for name, value in settings.items()]
    return " ".join(["autoprune resume", shlex.quote(str(run.path)), *flags])


def limit_reached(tally: Tally, proxies: Sequence[Trial], config: RunConfig, worked_s: float, is_over: bool) -> str:
    """Which limit closed the list of candidates before it was full; "" if none did.

    Args:
        tally: Of the proxies.
        proxies: That have finished.
        config: Of the run.
        worked_s: Seconds that controllers were at work.
        is_over: There will be no new candidate; the last reason left is the time.
    """
    limits, after = config.limits, f"after {tally.evaluated} of {counted(config.trials, 'candidate')}"
    if tally.evaluated >= config.trials:
        return ""
    if limits.target and (first := met(proxies, limits.target, config.fidelity)):
        return f"target {limits.target} reached by trial {first.number} {after}"
    if tally.repeats >= PATIENCE:
        return f"the strategy has nothing new to propose {after}"
    if limits.time_s < math.inf and (is_over or worked_s >= limits.time_s) and ranked(proxies):
        worked, limit = duration(max(worked_s, limits.time_s)), duration(limits.time_s)
        return f"time limit reached: worked {worked} of {limit} {after}"
    return ""


def so_far(trials: Sequence[Trial], is_live: bool = False) -> str:
    """How many evaluations there are: those that are not done run somewhere, or were interrupted."""
    running = sum(t.state is TrialState.RUNNING for t in trials)
    done = num_evaluations(t for t in trials if t.state is not TrialState.RUNNING)
    text = f"{counted(done, 'evaluation')} done"
    return text + (f", {running} {'running' if is_live else 'interrupted (evaluated anew)'}" if running else "")


def _failing(trials: Sequence[Trial], config: RunConfig) -> str:
    """Whether a search that stands still was given up because too many candidates failed, as the ledger has it."""
    ended = [t for t in trials if t.state is not TrialState.RUNNING and not is_cached(t)]
    failed = [t for t in ended if t.state is TrialState.FAIL]
    row = next((i for i, t in enumerate(reversed(ended)) if t.state is not TrialState.FAIL), len(ended))
    if row >= config.max_failures:
        return f"the last {row} candidates all failed, trial {ended[-1].number} with: {ended[-1].error}"
    if len(ended) >= FEWEST and len(failed) / len(ended) > config.max_failure_rate:
        return f"{len(failed)} of {len(ended)} candidates failed, trial {failed[-1].number} with: {failed[-1].error}"
    return ""


def _gave_up(notes: Mapping[str, Any]) -> bool:
    """Whether the last that was noted of measured networks is that none held."""
    from autoprune.ledger.measurements import NOTE, Measurements

    last = Measurements.of(notes).num_notes - 1
    return last >= 0 and notes[f"{NOTE}{last}"]["kind"] == "gave up"
