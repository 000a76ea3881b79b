"""A closed-form answer as a strategy."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property

from autoprune.strategies.strategy import Strategy
from search_spaces import Widths
from search_spaces.encodings import mutate


class ClosedForm(Strategy):
    """One answer, then its neighbours: whoever asks for more than one trial gets a random search around it."""

    opens = False

    @abstractmethod
    def allocate(self) -> Widths:
        """The answer."""

    @cached_property
    def answer(self) -> Widths:
        """The answer, worked out once."""
        return self.allocate()

    def ask(self, number: int) -> Widths:
        """The answer for trial 0, a neighbour (two groups moved by about a tenth of their range) for any other."""
        if number == 0:
            return self.answer
        rng = self.rng(number)
        return self.fresh(mutate(self.problem.space, self.answer, rng, groups=2, step=0.1), rng)
