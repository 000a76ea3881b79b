"""How far a search is and how long it will still take, fidelity by fidelity: a finalist costs far more than a proxy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoprune.config import RunConfig
from autoprune.problem import Trial, TrialState
from autoprune.report.ending import limit_reached
from autoprune.report.tables import counted, seconds
from autoprune.schedule import is_cached, ranked

if TYPE_CHECKING:
    from autoprune.runs.measured import Measured


@dataclass(frozen=True)
class Outlook:
    """What is done and what is left of a search.

    Attributes:
        proxies: Candidates finished by proxy, and how many there will be, at most.
        finalists: Finalists finished, and how many there will be (an estimate until every proxy has finished).
        eta: How long the rest will take, in words: finalists are named, not guessed at, before the first has finished.
        end: Why there are no more candidates although fewer were evaluated than was asked for; empty until then.
    """

    proxies: tuple[int, int]
    finalists: tuple[int, int]
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
        measured: Measured | None = None,
    ) -> Outlook:
        """The outlook of a run with these trials; those still running count as left.

        Args:
            trials: Of the ledger, or those that have finished.
            config: Of the run.
            worked_s: Seconds that controllers were at work, for the time limit.
            workers: Who share what is left; default those of the settings.
            over: There will be no new candidate, by whichever limit.
            measured: What was measured for a latency budget, and which other candidates that asked for.
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
        count_done = tally.evaluated + len(plan.extra) - more
        left = more + (begun if end else max(0, config.trials - tally.evaluated))
        proxies, parts = (count_done, count_done + left), [("proxy", left, _pace(below))]
        for count, fidelity in plan.rungs:
            here = [t for t in done if t.fidelity == fidelity]
            tried = {t.widths for t in here}
            leaders = ranked([t for t in below if t.widths not in broken])[:count]
            if config.front:  # they are chosen along the front, which asks for prices; so many they are
                left = max(0, (count if left else min(count, len(leaders))) - len(tried))
            else:
                left = sum(t.widths not in tried for t in leaders) + (count - len(leaders) if left else 0)
            name = "finalist" if fidelity == "short" else f"at {fidelity}"
            parts.append((name, left, _pace(here)))
            below = here
        shorts = [t for t in done if t.fidelity != plan.first]
        finalists = len(shorts), len(shorts) + sum(left for _, left, _ in parts[1:])
        return cls(proxies, finalists, _eta(parts, workers or config.workers, limits.time_s - worked_s), end)

    @property
    def done(self) -> int:
        """Evaluations finished."""
        return self.proxies[0] + self.finalists[0]

    @property
    def total(self) -> int:
        """Evaluations there will be; never fewer than are done."""
        return self.proxies[1] + self.finalists[1]

    def __str__(self) -> str:
        (done, proxies), (ended, finalists) = self.proxies, self.finalists
        return f"{done} of {_named(proxies, 'proxy')}, {ended} of {_named(finalists, 'finalist')}"


def _named(count: int, name: str) -> str:
    """So many of a part of the search: "1 finalist", "4 proxies", "2 at short:25"."""
    return f"{count} {name}" if name.startswith("at ") else counted(count, name).replace("proxys", "proxies")


def _pace(trials: Sequence[Trial]) -> float | None:
    """Median seconds of one evaluation; None before the first."""
    times = [t.seconds for t in trials if t.seconds and not is_cached(t)]
    return statistics.median(times) if times else None


def _eta(parts: Sequence[tuple[str, int, float | None]], workers: int, time_left_s: float) -> str:
    """The parts come one after the other, each shared by all workers; the time limit cuts the first one short."""
    rounds = [(math.ceil(left / max(1, workers)), pace) for _, left, pace in parts]
    known = [n * pace for n, pace in rounds if n and pace is not None]
    if rounds[0][0] and rounds[0][1] is not None:  # what is begun before the limit is finished
        known[0] = min(known[0], max(0.0, time_left_s) + rounds[0][1])
    unknown = [_named(left, name) for name, left, pace in parts if left and pace is None]
    return " + ".join([seconds(sum(known))] * bool(known) + unknown) or "0 s"
