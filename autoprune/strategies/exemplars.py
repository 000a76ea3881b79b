"""About as many units per group as can stand for all of it."""

from __future__ import annotations

from autoprune.allocation import exemplars
from autoprune.strategies.closed_form import ClosedForm
from search_spaces import Widths


class Exemplars(ClosedForm):
    """`allocation.exemplars` (EPruner), then its neighbours."""

    name = "exemplars"
    needs = frozenset({"distances"})

    def allocate(self) -> Widths:
        """The closed form."""
        return exemplars(self.problem)
