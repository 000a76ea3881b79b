"""Widths that a method of training has found."""

from __future__ import annotations

from typing import ClassVar

from autoprune.strategies.closed_form import ClosedForm
from search_spaces import Widths


class Found(ClosedForm):
    """The widths of the units that a method left while it trained (see `autoprune.training`)."""

    name: ClassVar[str] = "found"

    def allocate(self) -> Widths:
        """Those of the problem."""
        return self.problem.found or self.problem.project(self.problem.space.full)
