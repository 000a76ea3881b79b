"""What is tried before a strategy has its say."""

from __future__ import annotations

from itertools import zip_longest

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

    def propose(self, number: int) -> Proposal | None:
        """The same; None when there is none left."""
        return Proposal(self.ask(number)) if number < self.length else None


class FrontForms(ClosedForms):
    """The closed forms at several sizes: the ends of a front, and points between them."""

    shares = (1.0, 0.5, 0.25, 0.1)  # of the way from the smallest network to the budgets, in every cost at once

    def __init__(self, problem: Problem, *, seed: int = 0, num_trials: int = 100) -> None:
        super().__init__(problem, seed=seed, num_trials=num_trials)
        smallest, limits = problem.feasibility.price(problem.space.floor), problem.feasibility.limits
        sizes = [
            warm_starts(problem.tighter({m: smallest[m] + share * (limits[m] - smallest[m]) for m in problem.front}))
            for share in self.shares
        ]
        by_form = (widths for forms in zip_longest(*sizes) for widths in forms if widths)
        self._widths = tuple(dict.fromkeys(by_form))
        self.length = len(self._widths)


class Opened(Strategy):
    """The opening speaks while it has something to say, then the strategy; both are told everything.

    Args:
        opening: Speaks first. While it waits for its results, the other one speaks.
        length: How many trials it takes.
        then: Speaks afterwards.
    """

    def __init__(self, opening: Strategy, length: int, then: Strategy) -> None:
        super().__init__(then.problem, seed=then.seed, num_trials=then.num_trials)
        self._opening, self._then = opening, then
        then.begin = length

    def ask(self, number: int) -> Widths:
        """See `propose`."""
        proposal = self.propose(number)
        return proposal.widths if proposal else self._then.ask(number)

    def propose(self, number: int) -> Proposal | None:
        """What the one whose turn it is proposes."""
        return self._opening.propose(number) or self._then.propose(number)

    def asked(self, trial: Trial) -> None:
        """Both know what runs."""
        self._opening.asked(trial)
        self._then.asked(trial)

    def tell(self, trial: Trial) -> None:
        """Tell both."""
        self._opening.tell(trial)
        self._then.tell(trial)
