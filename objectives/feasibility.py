"""What holds every budget, what candidates cost, and the feasible widths near a proposal.

Letters: `B` candidates, `G` groups, `K` budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.budget import Budget
from objectives.costs import ArithmeticCost, PricesBatch
from objectives.products import Floats
from objectives.projection import Projection
from objectives.registry import COSTS, cost
from objectives.unreachable import InfeasibleBudget, explain
from search_spaces import SearchSpace, Widths

_ROUNDING = 1e-12  # relative: less than one of any count, more than the rounding error of a percentage


@dataclass(frozen=True)
class Reachable:
    """How far one cost can go: a row of the table shown before a search.

    Attributes:
        cost: Name of the cost.
        unit: Its unit; the values below are in it.
        smallest: The smallest network of the space.
        uniform: The dense network shrunk evenly until every budget holds.
        dense: The dense network.
        limit: The budget; None without one.
    """

    cost: str
    unit: str
    smallest: float
    uniform: float
    dense: float
    limit: float | None = None


class Feasibility:
    """Prices candidates and brings any proposal inside every budget.

    Args:
        space: What may be pruned.
        budgets: What must hold, all at once.
        scores: Importance of each unit, per group [C], higher = keep; what rounding leaves of a budget goes to the
            groups with the most score per cost.
        costs: Ready-made costs by metric, besides those that the name alone gives.

    Attributes:
        costs: Metric -> cost: the arithmetic ones always, others where a budget names them.
        limits: Metric -> bound in the unit of the cost, in the order of the budgets; the tightest one of several.

    Raises:
        InfeasibleBudget: If the smallest network exceeds a budget.
        ValueError: If a cost is unknown or is not a number, or the scores do not fit the space.
    """

    def __init__(
        self,
        space: SearchSpace,
        budgets: Iterable[Budget],
        scores: Sequence[NDArray[Any]] | None = None,
        costs: Mapping[str, PricesBatch] | None = None,
    ) -> None:
        self.space = space
        self.budgets = tuple(budgets)
        self.costs: dict[str, PricesBatch] = {n: c(space) for n, c in COSTS.items() if issubclass(c, ArithmeticCost)}
        self.costs |= dict(costs or {})
        self.limits: dict[str, float] = {}
        broken: dict[Budget, str] = {}
        for budget in self.budgets:
            if budget.metric not in self.costs:
                self.costs[budget.metric] = cost(budget.metric, space)
            smallest, dense = self._ends(budget.metric)
            limit = budget.bound(dense)
            self.limits[budget.metric] = min(limit, self.limits.get(budget.metric, limit))
            if smallest > limit * (1 + _ROUNDING):
                broken[budget] = explain(space, budget, self.costs[budget.metric], smallest, dense)
        if broken:
            raise InfeasibleBudget("; ".join(broken.values()), broken)
        self._limits: Floats = np.array(list(self.limits.values()), dtype=np.float64)  # [K]
        self._projection = Projection(space, self._prices, self._limits * (1 + _ROUNDING), scores)

    def price(self, widths: Sequence[int]) -> dict[str, float]:
        """The costs of one candidate, metric -> value."""
        table = np.asarray(widths, dtype=np.float64)[None]
        return {name: float(np.asarray(price(table))[0]) for name, price in self.costs.items()}

    def fits(self, widths: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether each of the candidates [B, G] keeps to every budget: [B]."""
        return np.asarray((self._prices(widths) <= self._limits * (1 + _ROUNDING)).all(axis=1))

    def violation(self, widths: Sequence[int]) -> float:
        """By which fraction of its limit the worst budget is exceeded; 0 = feasible."""
        excess = (self._prices(np.asarray(widths)[None])[0] / self._limits - 1).max(initial=0.0)
        return float(excess) if excess > _ROUNDING else 0.0

    def project(self, widths: Sequence[int] | NDArray[Any]) -> Widths:
        """Feasible legal widths near `widths` [G] that use the budgets up (see `Projection`).

        Raises:
            ValueError: If there is not one finite width per group.
        """
        wish = np.asarray(widths, dtype=np.float64)
        if wish.shape != (len(self.space.groups),) or not np.isfinite(wish).all():
            raise ValueError(f"project: expected {len(self.space.groups)} finite widths, got {widths!r}")
        return self._projection(wish)

    def reachable(self) -> tuple[Reachable, ...]:
        """A row per cost, those with a budget first."""
        uniform = self.price(self.project(self.space.full))
        rows = []
        for name in sorted(self.costs, key=lambda n: n not in self.limits):
            smallest, dense = self._ends(name)
            unit = getattr(self.costs[name], "unit", "")
            rows.append(Reachable(name, unit, smallest, uniform[name], dense, self.limits.get(name)))
        return tuple(rows)

    def _prices(self, widths: NDArray[Any]) -> Floats:
        """[B, K] what the budgets limit, of the candidates [B, G]."""
        table = np.asarray(widths, dtype=np.float64)
        prices = np.empty((len(table), len(self.limits)))
        for column, name in enumerate(self.limits):
            prices[:, column] = self.costs[name](table)
        return prices

    def _ends(self, name: str) -> tuple[float, float]:
        """Cost of the smallest and of the dense network."""
        ends = np.asarray(self.costs[name](np.array([self.space.floor, self.space.full], dtype=np.float64)))
        if ends.shape != (2,) or not np.isfinite(ends).all():
            raise ValueError(f"cost '{name}': expected one finite number per candidate, got {ends} for two candidates")
        return float(ends[0]), float(ends[1])
