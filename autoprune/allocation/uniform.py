"""The same ratio everywhere."""

from __future__ import annotations

from autoprune.problem import Problem
from search_spaces import Widths


def uniform(problem: Problem) -> Widths:
    """Every group keeps the same share, as large as the budgets allow."""
    return problem.project(problem.space.full)
