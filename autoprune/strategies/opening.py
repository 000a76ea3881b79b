"""What is tried before a strategy has its say."""

from __future__ import annotations

from autoprune.problem import Problem, Proposal, Trial
from autoprune.strategies.strategy import Strategy
from autoprune.strategies.warm_starts import warm_starts
from search_spaces import Widths


class ClosedForms(Strategy):
    """The closed forms, one after the other.

    Attributes:
        length: How many there are.
    """

    def __init__(self, problem: Problem, *, seed: int = 0, num_trials: int = 100) -> None:
        super().__init__(problem, seed=seed, num_trials=num_trials)
        self._widths = warm_starts(problem)
        self.length = len(self._widths)

    def ask(self, number: int) -> Widths:
        """Closed form `number`."""
        return self._widths[number]


class Opened(Strategy):
    """The first trials are the opening's, all others the strategy's; both are told everything.

    Args:
        opening: Speaks first.
        length: For how many trials.
        then: Speaks afterwards.
    """

    def __init__(self, opening: Strategy, length: int, then: Strategy) -> None:
        super().__init__(then.problem, seed=then.seed, num_trials=then.num_trials)
        self._opening, self._length, self._then = opening, length, then
        then.begin = length

    def ask(self, number: int) -> Widths:
        """See `propose`."""
        return self._speaker(number).ask(number)

    def propose(self, number: int) -> Proposal | None:
        """What the one whose turn it is proposes."""
        return self._speaker(number).propose(number)

    def tell(self, trial: Trial) -> None:
        """Tell both."""
        self._opening.tell(trial)
        self._then.tell(trial)

    def _speaker(self, number: int) -> Strategy:
        return self._opening if number < self._length else self._then
