"""One loss everywhere."""

from __future__ import annotations

from autoprune.allocation import equal_loss
from autoprune.strategies.closed_form import ClosedForm
from search_spaces import Widths


class EqualLoss(ClosedForm):
    """`allocation.equal_loss`: every group loses as much of the score as every other; then its neighbours."""

    name = "equal_loss"

    def allocate(self) -> Widths:
        """The answer."""
        return equal_loss(self.problem)
