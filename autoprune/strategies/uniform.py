"""Every group keeps the same share."""

from __future__ import annotations

from autoprune.allocation import uniform
from autoprune.strategies.closed_form import ClosedForm
from search_spaces import Widths


class Uniform(ClosedForm):
    """`allocation.uniform`, then its neighbours."""

    name = "uniform"

    def allocate(self) -> Widths:
        """The closed form."""
        return uniform(self.problem)
