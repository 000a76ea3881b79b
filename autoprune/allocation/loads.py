"""Costs in units of their limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.problem import Problem
from search_spaces.encodings import Floats


def loads(problem: Problem, table: NDArray[Any]) -> Floats:
    """[B, K] costs of the candidates [B, G], each as a multiple of its limit: 1 = just within that budget."""
    limits: dict[str, float] = problem.feasibility.limits
    columns: Sequence[Floats] = [problem.feasibility.costs[name](table) / limit for name, limit in limits.items()]
    return np.stack(columns, axis=1) if columns else np.zeros((len(table), 0))
