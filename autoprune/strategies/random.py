"""The control."""

from __future__ import annotations

from autoprune.strategies.strategy import Strategy
from search_spaces import Widths


class Random(Strategy):
    """Uniform legal widths, projected on the budgets: the control that a search must beat at equal evaluations.

    Random search with hard feasibility, as in EagleEye (Li et al. 2020, https://arxiv.org/abs/2007.02491).
    """

    name = "random"

    def ask(self, number: int) -> Widths:
        """A fresh draw."""
        rng = self.rng(number)
        return self.fresh(self.problem.space.sample(rng), rng)
