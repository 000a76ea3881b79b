"""What to evaluate next, at which fidelity: a function of the trials so far, with no memory of its own."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from autoprune.fidelity import FINAL, PROXY, Fidelity
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

    fidelity: Fidelity
    widths: Widths | None = None


@dataclass
class Tally:
    """Counts over the proxies so far, kept by whoever asks often, so that an ask need not read the whole ledger.

    Attributes:
        evaluated: Those that were not answered from the ledger.
        repeats: Those that were, at the end of the row.
    """

    evaluated: int = 0
    repeats: int = 0

    def add(self, trial: Trial) -> None:
        """Count one more proxy, as soon as it is asked."""
        cached = is_cached(trial)
        self.evaluated += not cached
        self.repeats = self.repeats + 1 if cached else 0


def lowest(below: Sequence[Trial], count: int) -> Sequence[Trial]:
    """So many of the candidates of a rung, those of the lowest loss."""
    return ranked(below)[:count]


def every(widths: Widths) -> bool:
    """All candidates are allowed."""
    return True


Rungs = tuple[tuple[int, Fidelity], ...]  # (how many, fidelity), the last one decides


@dataclass(frozen=True)
class Halving:
    """The strategy's proposals, all by proxy; then rung by rung fewer of the best at a higher fidelity.

    With one rung these are finalists; with several it is successive halving (Jamieson & Talwalkar 2016,
    https://arxiv.org/abs/1502.07943). A rung waits until the one below has finished, so that the same candidates are
    chosen however many workers there are. More `num_trials` on a resume mean more proxies, and candidates for the
    rungs among all of them.

    Attributes:
        num_trials: Evaluations by proxy; what is answered from the ledger does not count.
        rungs: How many of the best distinct widths of the rung below are evaluated again, and at which fidelity.
        first: The fidelity of the proxies.
        extra: Candidates besides the strategy's, evaluated once its own are through (they do not count).
        allowed: Which widths may become finalists, or win.
        choose: Which of the candidates of a rung go on, given how many; a trade-off has several that are best.
    """

    num_trials: int
    rungs: Rungs = ((3, FINAL),)
    first: Fidelity = PROXY
    extra: tuple[Widths, ...] = ()
    allowed: Callable[[Widths], bool] = every
    choose: Callable[[Sequence[Trial], int], Sequence[Trial]] = lowest

    @property
    def fidelities(self) -> tuple[Fidelity, ...]:
        """From the last rung down to the proxies."""
        return (*(fidelity for _, fidelity in reversed(self.rungs)), self.first)

    def next(self, trials: Sequence[Trial], tally: Tally | None = None, enough: bool = False) -> Order | Wait | None:
        """The next trial, WAIT, or None when all is done and nothing runs.

        Args:
            trials: All of the ledger.
            tally: Of the proxies among them; counted here if missing.
            enough: No further proxies: a limit is reached.
        """
        tally = tally or self.tally(trials)
        if not enough and tally.evaluated < self.num_trials and tally.repeats < PATIENCE:
            return Order(self.first)
        if self.extra:
            asked = {t.widths for t in trials if t.fidelity == self.first}
            if fresh := [widths for widths in self.extra if widths not in asked]:
                return Order(self.first, fresh[0])
        if any(t.state is TrialState.RUNNING and t.fidelity == self.first for t in reversed(trials)):
            return WAIT  # those that run stand at the end: this is what most asks near the end hear, at once
        below = [t for t in trials if t.fidelity == self.first]
        for count, fidelity in self.rungs:
            if any(t.state is TrialState.RUNNING for t in below):
                return WAIT
            here = [t for t in trials if t.fidelity == fidelity]
            tried = {t.widths for t in here}
            for finalist in self.choose(self.able(below), count):
                if finalist.widths not in tried:
                    return Order(fidelity, finalist.widths)
            below = here
        return WAIT if any(t.state is TrialState.RUNNING for t in trials) else None

    def able(self, trials: Iterable[Trial]) -> list[Trial]:
        """Those that may become finalists, or win."""
        return [t for t in trials if self.allowed(t.widths)]

    def tally(self, trials: Iterable[Trial]) -> Tally:
        """Counts of the proxies among them."""
        tally = Tally()
        for trial in trials:
            if self.is_proposal(trial):
                tally.add(trial)
        return tally

    def is_proposal(self, trial: Trial) -> bool:
        """Whether it is a proxy that the strategy has proposed (of an extra candidate: that it was proposed again)."""
        return trial.fidelity == self.first and (is_cached(trial) or trial.widths not in self.extra)


def halving(finalists: int, steps: int, rungs: int = 1, first: Fidelity = PROXY) -> Rungs:
    """`rungs` rungs up to `finalists` at "short" (`steps` SGD steps), each of half as many as the one below.

    Rungs that would say no more than `first`, the fidelity of all candidates, are left out but for the last. A rung
    below trains for a third of the steps, as the usual reduction by three (Li et al. 2018, Hyperband,
    https://arxiv.org/abs/1603.06560); halving the number instead keeps more of a poor judge's choice.
    """
    lower = ((finalists * 2**k, Fidelity(f"short:{max(1, steps // 3**k)}")) for k in range(rungs - 1, 0, -1))
    return (*((count, fidelity) for count, fidelity in lower if fidelity > first), (finalists, FINAL))


def is_cached(trial: Trial) -> bool:
    """Whether its result was taken from an earlier trial of the same widths, without an evaluation."""
    return bool(trial.metrics.get("cached"))


def num_evaluations(trials: Iterable[Trial]) -> int:
    """How many of the trials were, or are being, really evaluated."""
    return sum(not is_cached(t) for t in trials)


SEEN = (TrialState.COMPLETE, TrialState.PRUNED)  # to the end, or until a rival was surely better


def ranked(trials: Iterable[Trial], *states: TrialState) -> list[Trial]:
    """The candidates (no probes) in these states, each widths once, lowest loss first (ties: the earlier one).

    Args:
        trials: In any order.
        states: Default: complete.
    """
    wanted = states or (TrialState.COMPLETE,)
    found = (t for t in trials if t.state in wanted and not is_cached(t) and not t.probe)
    return sorted(found, key=lambda t: (t.loss, t.number))


def contenders(trials: Iterable[Trial], fidelities: Sequence[str]) -> list[Trial]:
    """Those of the highest fidelity that any complete trial has, lowest loss first.

    Args:
        trials: In any order.
        fidelities: From the highest to the lowest.
    """
    order = ranked(trials)
    by_fidelity = ([t for t in order if t.fidelity == fidelity] for fidelity in fidelities)
    return next((found for found in by_fidelity if found), [])


def best(trials: Iterable[Trial], fidelities: Sequence[str]) -> Trial | None:
    """The first of the `contenders`; losses of two fidelities do not compare."""
    return next(iter(contenders(trials, fidelities)), None)
