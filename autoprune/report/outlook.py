"""How far a search is and how long it will still take, fidelity by fidelity: a finalist costs far more than a proxy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from autoprune.config import RunConfig
from autoprune.fidelity import FINAL
from autoprune.problem import Trial, TrialState
from autoprune.report.ending import limit_reached
from autoprune.report.pace import Samples, Tuning, passes, tuning_passes
from autoprune.report.tables import counted, seconds
from autoprune.schedule import SEEN, is_cached, ranked

if TYPE_CHECKING:
    from autoprune.ledger.measurements import Measurements


FINE_TUNE = "the fine-tune"


class Part(NamedTuple):
    """A part of a run: its name, how often it is left to do, seconds of one (None: not measured), samples that pass."""

    name: str
    left: int
    pace: float | None
    passes: int


class Stage(NamedTuple):
    """A kind of evaluation: its name, how many have finished, how many there will be, and how many were asked for.

    Of candidates all of `--trials` are asked for, though a limit may end the search before; how many finalists there
    will be is an estimate until every candidate has finished.
    """

    name: str
    done: int
    total: int
    asked: int

    def __str__(self) -> str:
        return f"{self.done} of {_named(self.asked, self.name)}"


@dataclass(frozen=True)
class Outlook:
    """What is done and what is left of a search.

    Attributes:
        stages: The candidates of `--trials`, those that a latency budget asked for besides, then rung by rung the best
            of them after a training; those of which there are none are left out.
        eta: How long the rest will take, finalists and fine-tune included, in words; of what nothing tells how long it
            takes, only its name.
        end: Why there are no more candidates although fewer were evaluated than was asked for; empty until then.
    """

    stages: tuple[Stage, ...]
    eta: str
    end: str = ""

    @classmethod
    def of(
        cls,
        trials: Sequence[Trial],
        config: RunConfig,
        worked_s: float = 0.0,
        workers: int = 0,
        over: bool = False,
        measured: Measurements | None = None,
        samples: Samples | None = None,
        tuning: Tuning | None = None,
    ) -> Outlook:
        """The outlook of a run with these trials; those still running count as left.

        Args:
            trials: Of the ledger, or those that have finished.
            config: Of the run.
            worked_s: Seconds that controllers were at work, for the time limit.
            workers: Who share what is left; default those of the settings.
            over: There will be no new candidate, by whichever limit.
            measured: What was measured for a latency budget, and which other candidates that asked for.
            samples: Of the run: tell how long what has not begun will take.
            tuning: How far the final fine-tune is, once it has begun.
        """
        done = [t for t in trials if t.state is not TrialState.RUNNING]
        running = [t for t in trials if t.state is TrialState.RUNNING and not is_cached(t)]
        plan, limits = replace(config.schedule, extra=measured.extra if measured else ()), config.limits
        below = [t for t in done if t.fidelity == plan.first]
        tally = plan.tally(below)
        end = limit_reached(tally, below, config, worked_s, over)
        begun = sum(plan.is_proposal(t) for t in running)
        known, broken = {t.widths for t in below}, measured.broken if measured else frozenset()
        more = sum(widths not in known for widths in plan.extra)
        own = begun if end else max(0, config.trials - tally.evaluated)
        left = more + own
        asked = max(config.trials, tally.evaluated)
        stages = [
            Stage("candidate", tally.evaluated, tally.evaluated + own, asked),
            Stage("further candidate", len(plan.extra) - more, len(plan.extra), len(plan.extra)),
        ]
        parts = [Part("candidate", left, _pace(below), _passes(plan.first, config, samples))]
        for count, fidelity in plan.rungs:
            here = [t for t in done if t.fidelity == fidelity]
            tried = {t.widths for t in here}
            able = [t for t in below if t.widths not in broken]
            leaders = ranked(able, *(() if config.front else SEEN))[:count]  # on a front nothing abandoned goes on
            if config.front or fidelity == plan.rungs[0][1]:
                # Chosen along the front or by their kind, which asks for prices and rules; so many they are. More come
                # if those broke a budget, or where better candidates followed.
                first = min((t.number for t in here), default=0)
                later = sum(t.widths not in tried and t.number > first for t in leaders) if here else 0
                left = max(0, later, (count if left else min(count, len(leaders))) - len(tried - broken))
            else:
                left = sum(t.widths not in tried for t in leaders) + (count - len(leaders) if left else 0)
            name = "finalist" if fidelity == FINAL else f"at {fidelity}"
            parts.append(Part(name, left, _pace(here), _passes(fidelity, config, samples)))
            stages.append(Stage(name, len(here), len(here) + left, len(here) + left))
            below = here
        if config.epochs:
            pace = tuning.left_s if tuning and not any(part.left for part in parts) else None
            parts.append(Part(FINE_TUNE, 1, pace, tuning_passes(config, samples) if samples else 0))
        stages = [stage for stage in stages if stage.asked]
        return cls(tuple(stages), _eta(parts, workers or config.workers, limits.time_s - worked_s), end)

    @property
    def done(self) -> int:
        """Evaluations finished."""
        return sum(stage.done for stage in self.stages)

    @property
    def total(self) -> int:
        """Evaluations there will be; never fewer than are done."""
        return sum(stage.total for stage in self.stages)

    @property
    def now(self) -> Stage:
        """The stage that the search is in: the last that has begun."""
        return next((stage for stage in reversed(self.stages) if stage.done), self.stages[0])

    def __str__(self) -> str:
        return ", ".join(map(str, self.stages))


def _named(count: int, name: str) -> str:
    """So many of a part of the search: "1 finalist", "4 candidates", "2 at short:25", "the fine-tune"."""
    if name.startswith("the "):
        return name
    return f"{count} {name}" if name.startswith("at ") else counted(count, name)


def _passes(fidelity: str, config: RunConfig, samples: Samples | None) -> int:
    return passes(fidelity, config, samples) if samples else 0


def _pace(trials: Sequence[Trial]) -> float | None:
    """Median seconds of one evaluation; None before the first."""
    times = [t.seconds for t in trials if t.seconds and not is_cached(t)]
    return statistics.median(times) if times else None


def _estimated(part: Part, before: Sequence[Part]) -> float | None:
    """Seconds of a part by the samples that pass, as in the last one measured; None where nothing was.

    For training alone, as the fine-tune is, that is what a finalist takes more than a candidate.
    """
    known = [p for p in before if p.pace and p.passes]
    if not known or not part.passes:
        return None
    (first, last), of_sample = (known[0], known[-1]), (known[-1].pace or 0.0) / known[-1].passes
    more_s, more = (last.pace or 0.0) - (first.pace or 0.0), last.passes - first.passes
    if part.name == FINE_TUNE and more_s > 0 and more > 0:
        of_sample = more_s / more
    return of_sample * part.passes


def _eta(parts: Sequence[Part], workers: int, time_left_s: float) -> str:
    """The parts come one after the other, each but the fine-tune shared by all workers; the time limit cuts the first.

    A part that was not measured takes as long a sample as those before it that were.
    """
    total, unknown = 0.0, []
    for i, part in enumerate(parts):
        pace = _estimated(part, parts[:i]) if part.pace is None else part.pace
        rounds = math.ceil(part.left / max(1, workers))
        if not rounds:
            continue
        if pace is None:
            unknown.append(_named(part.left, part.name))
            continue
        most = max(0.0, time_left_s) + pace if i == 0 else math.inf  # what is begun before the limit is finished
        total += min(rounds * pace, most)
    return " + ".join([seconds(total)] * bool(total) + unknown) or "0 s"
