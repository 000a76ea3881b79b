"""What a strategy is."""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from autoprune.problem import Problem, Proposal, Trial, TrialState
from search_spaces import Widths
from search_spaces.encodings import mutate


class Strategy(ABC):
    """Proposes widths from what has been told.

    A proposal depends on the seed, its number, the *set* of trials told and the set of those that run, never on the
    order of telling. So a strategy is rebuilt after a crash by telling it what the ledger holds, and any number of
    workers may ask and tell in any order.

    Args:
        problem: Space, budgets and scores.
        seed: Of all draws.
        num_trials: How many evaluations the search plans, for schedules; more may be asked.

    Attributes:
        name: What the command line calls it.
        needs: What `Problem` must hold besides the scores: "distances", or nothing.
        opens: Whether warm starts are of any use to it.
        fills: Whether its candidates use the budgets up; otherwise some are cheaper on purpose.
        trials: The finished trials told, by number.
        running: Number -> widths of those that were handed out and have not finished.
        begin: The number of its own first trial, after the warm starts.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    opens: ClassVar[bool] = True
    fills: ClassVar[bool] = True

    def __init__(self, problem: Problem, *, seed: int = 0, num_trials: int = 100) -> None:
        self.problem = problem
        self.seed = seed
        self.num_trials = num_trials
        self.trials: list[Trial] = []
        self.running: dict[int, Widths] = {}
        self.begin = 0
        self._known: set[Widths] = set()
        self._scored: list[Trial] = []

    @abstractmethod
    def ask(self, number: int) -> Widths:
        """Feasible widths for trial `number`; asking changes nothing, so asking again gives the same."""

    def propose(self, number: int) -> Proposal | None:
        """The same with all that is to be remembered; None: nothing before a running trial has finished."""
        return Proposal(self.ask(number))

    def asked(self, trial: Trial) -> None:
        """A worker has this trial; `tell` will say what became of it."""
        self.running[trial.number] = trial.widths

    def tell(self, trial: Trial) -> None:
        """Learn from a finished trial, whoever proposed it; what is no use (running, another space) is ignored."""
        if trial.state is TrialState.RUNNING or len(trial.widths) != len(self.problem.space.groups):
            return
        self.running.pop(trial.number, None)
        _put(self.trials, trial)
        _put(self._scored, trial, bool(np.isfinite(trial.loss)) and not trial.probe)
        self._known.add(trial.widths)

    def rng(self, number: int) -> np.random.Generator:
        """The random numbers of trial `number`."""
        return np.random.default_rng([self.seed, number])

    def scored(self) -> list[Trial]:
        """The candidates with a finite loss, by number (no probes); to be read only."""
        return self._scored

    def fresh(
        self, widths: Widths, rng: np.random.Generator, problem: Problem | None = None, *, fill: bool = True
    ) -> Widths:
        """`widths` projected on the budgets and, if they were told or run, moved on a little (a bounded effort).

        Args:
            widths: Any widths.
            rng: Draws.
            problem: With the budgets to keep; the strategy's own unless told otherwise.
            fill: Whether the budgets are used up; otherwise what holds them stays as it is.
        """
        where = problem or self.problem
        project = where.project if fill else where.repair
        candidate, busy = project(widths), set(self.running.values())
        for attempt in range(16):
            if candidate not in self._known and candidate not in busy:
                break
            moved = mutate(self.problem.space, candidate, rng, groups=2, step=0.05 * (attempt + 1))
            candidate = project(moved)
        return candidate


def _put(trials: list[Trial], trial: Trial, keep: bool = True) -> None:
    """Put a trial in its place by number; told twice, the later word counts."""
    at = bisect.bisect_left(trials, trial.number, key=lambda t: t.number)
    known = at < len(trials) and trials[at].number == trial.number
    trials[at : at + known] = [trial] * keep
