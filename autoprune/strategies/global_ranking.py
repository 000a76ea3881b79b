"""One threshold through the scores of all groups."""

from __future__ import annotations

from autoprune.allocation import global_ranking
from autoprune.strategies.closed_form import ClosedForm
from search_spaces import Widths


class GlobalRanking(ClosedForm):
    """`allocation.global_ranking`, then its neighbours."""

    name = "global_ranking"

    def allocate(self) -> Widths:
        """The closed form."""
        return global_ranking(self.problem)
