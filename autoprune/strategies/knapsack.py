"""The most score for the cost."""

from __future__ import annotations

from autoprune.allocation import knapsack
from autoprune.strategies.closed_form import ClosedForm
from search_spaces import Widths


class Knapsack(ClosedForm):
    """`allocation.knapsack`, then its neighbours."""

    name = "knapsack"

    def allocate(self) -> Widths:
        """The closed form."""
        return knapsack(self.problem)
