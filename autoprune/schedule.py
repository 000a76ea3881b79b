"""What to evaluate next, at which fidelity: a function of the trials so far, with no memory of its own."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoprune.problem import Trial, TrialState
from search_spaces import Widths

PATIENCE = 50  # so many proposals in a row that are known already: the strategy has nothing new to say


class Wait(enum.Enum):
    """`WAIT`: nothing to do until one of the running trials has finished."""

    WAIT = "wait"


WAIT = Wait.WAIT


@dataclass(frozen=True)
class Order:
    """The next trial: its fidelity, and its widths unless the strategy is to choose them."""

    fidelity: str
    widths: Widths | None = None


@dataclass
class Tally:
    """Counts over the proxies so far, kept by whoever asks often, so that an ask need not read the whole ledger.

    Attributes:
        asked: All of them.
        evaluated: Those that were not answered from the ledger.
        repeats: Those that were, at the end of the row.
    """

    asked: int = 0
    evaluated: int = 0
    repeats: int = 0

    def add(self, trial: Trial) -> None:
        """Count one more proxy, as soon as it is asked."""
        cached = is_cached(trial)
        self.asked += 1
        self.evaluated += not cached
        self.repeats = self.repeats + 1 if cached else 0


@dataclass(frozen=True)
class Finalists:
    """Warm starts, then the strategy's proposals, all by proxy; then the best few once more at a higher fidelity.

    The finalists wait until every proxy has finished, so that the same ones are chosen however many workers there are.
    More `num_trials` on a resume mean more proxies, and finalists among all of them.

    Attributes:
        warm_starts: Widths that are tried first.
        num_trials: Evaluations by proxy, warm starts included; what is answered from the ledger does not count.
        num_finalists: How many of the best distinct widths are evaluated again.
        fidelity: At which fidelity.
        first: The fidelity of the proxies.
    """

    warm_starts: tuple[Widths, ...]
    num_trials: int
    num_finalists: int = 3
    fidelity: str = "short"
    first: str = "proxy"

    def next(self, trials: Sequence[Trial], tally: Tally | None = None) -> Order | Wait | None:
        """The next trial, WAIT, or None when all is done and nothing runs.

        Args:
            trials: All of the ledger.
            tally: Of the proxies among them; counted here if missing.
        """
        tally = tally or self.tally(trials)
        if tally.evaluated < self.num_trials and tally.repeats < PATIENCE:
            return Order(self.first, self.warm_starts[tally.asked] if tally.asked < len(self.warm_starts) else None)
        proxies = [t for t in trials if t.fidelity == self.first]
        if any(t.state is TrialState.RUNNING for t in proxies):
            return WAIT
        tried = {t.widths for t in trials if t.fidelity == self.fidelity}
        for finalist in ranked(proxies)[: self.num_finalists]:
            if finalist.widths not in tried:
                return Order(self.fidelity, finalist.widths)
        return WAIT if any(t.state is TrialState.RUNNING for t in trials) else None

    def tally(self, trials: Iterable[Trial]) -> Tally:
        """Counts of the proxies among them."""
        tally = Tally()
        for trial in trials:
            if trial.fidelity == self.first:
                tally.add(trial)
        return tally


def is_cached(trial: Trial) -> bool:
    """Whether its result was taken from an earlier trial of the same widths, without an evaluation."""
    return bool(trial.metrics.get("cached"))


def num_evaluations(trials: Iterable[Trial]) -> int:
    """How many of the trials were, or are being, really evaluated."""
    return sum(not is_cached(t) for t in trials)


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """The complete ones, each widths once, lowest loss first (ties: the earlier one)."""
    complete = (t for t in trials if t.state is TrialState.COMPLETE and not is_cached(t))
    return sorted(complete, key=lambda t: (t.loss, t.number))


def best(trials: Iterable[Trial], fidelities: Sequence[str] = ("short", "proxy")) -> Trial | None:
    """The lowest loss at the highest fidelity that any complete trial has; losses of two fidelities do not compare.

    Args:
        trials: In any order.
        fidelities: From the highest to the lowest.
    """
    order = ranked(trials)
    return next((t for fidelity in fidelities for t in order if t.fidelity == fidelity), None)
