"""How far a search is and how long it will still take, fidelity by fidelity: a finalist costs far more than a proxy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.config import RunConfig
from autoprune.problem import Trial, TrialState
from autoprune.schedule import PATIENCE, is_cached, ranked


@dataclass(frozen=True)
class Outlook:
    """What is done and what is left of a search.

    Attributes:
        proxies: Candidates finished by proxy, and how many there will be.
        finalists: Finalists finished, and how many there will be (an estimate until every proxy has finished).
        eta: How long the rest will take, in words: finalists are named, not guessed at, before the first has finished.
    """

    proxies: tuple[int, int]
    finalists: tuple[int, int]
    eta: str

    @classmethod
    def of(cls, trials: Sequence[Trial], config: RunConfig) -> Outlook:
        """The outlook of a run with these trials; those still running count as left."""
        done = [t for t in trials if t.state is not TrialState.RUNNING]
        plan = config.schedule
        below = [t for t in done if t.fidelity == plan.first]
        tally = plan.tally(below)
        left = max(0, config.trials - tally.evaluated) if tally.repeats < PATIENCE else 0
        proxies, parts = (tally.evaluated, tally.evaluated + left), [("proxies", left, _pace(below))]
        for count, fidelity in plan.rungs:
            here = [t for t in done if t.fidelity == fidelity]
            tried = {t.widths for t in here}
            leaders = ranked(below)[:count]
            left = sum(t.widths not in tried for t in leaders) + (count - len(leaders) if left else 0)
            name = "finalists" if fidelity == "short" else f"at {fidelity}"
            parts.append((name, left, _pace(here)))
            below = here
        shorts = [t for t in done if t.fidelity != plan.first]
        finalists = len(shorts), len(shorts) + sum(left for _, left, _ in parts[1:])
        return cls(proxies, finalists, _eta(parts, config))

    @property
    def done(self) -> int:
        """Evaluations finished."""
        return self.proxies[0] + self.finalists[0]

    @property
    def total(self) -> int:
        """Evaluations there will be; never fewer than are done."""
        return self.proxies[1] + self.finalists[1]

    def __str__(self) -> str:
        return "{} of {} proxies, {} of {} finalists".format(*self.proxies, *self.finalists)


def _pace(trials: Sequence[Trial]) -> float | None:
    """Median seconds of one evaluation; None before the first."""
    seconds = [t.seconds for t in trials if t.seconds and not is_cached(t)]
    return statistics.median(seconds) if seconds else None


def _eta(parts: Sequence[tuple[str, int, float | None]], config: RunConfig) -> str:
    """The parts come one after the other, each shared by all workers."""
    rounds = [(math.ceil(left / max(1, config.workers)), pace) for _, left, pace in parts]
    known = [n * pace for n, pace in rounds if n and pace is not None]
    unknown = [f"{left} {name}" for name, left, pace in parts if left and pace is None]
    return " + ".join([f"{sum(known):.0f} s"] * bool(known) + unknown) or "0 s"
