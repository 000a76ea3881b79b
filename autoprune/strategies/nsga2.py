"""Error against one cost or several: the whole front in one run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.allocation import uniform
from autoprune.problem import Problem, Proposal, Trial
from autoprune.strategies.encoded import Encoded
from objectives import front
from search_spaces import Widths
from search_spaces.encodings import Encoding, Floats


class NSGA2(Encoded):
    """NSGA-II (Deb et al. 2002, https://doi.org/10.1109/4235.996017): the loss against the costs of the front.

    The costs are those of `Problem.front`; without one, that of the first budget. The survivors are the best
    `population` of all trials told, by front and then by crowding distance, so it needs no generations and takes trials
    in any order. The child of two tournaments takes each group's coordinates from one of its parents, half the groups
    move, and it gets budgets of its own between the floor and the run's: in each cost about what one of its parents
    has, or anywhere. Inside these budgets it is projected like any candidate.

    Not for one budget only: most of its candidates are smaller than they need to be. `autoprune report` shows the
    front. The paper's crossover and mutation (SBX, polynomial) are for coordinates that all mean the same.

    Args:
        problem: Space, budgets and scores.
        seed: Of all draws.
        num_trials: Not used: the step does not change.
        encoding: What the coordinates mean; `Ratios` unless told otherwise.
    """

    name = "nsga2"
    fills = False
    population = 24
    share, fewest = 0.5, 2  # of the groups that mutate
    step = 0.3  # of a mutation, as a fraction of a group's range
    noise = 0.1  # of the child's budget, as a fraction of the range
    anywhere = 0.2  # how often its budget is drawn anew

    def __init__(
        self, problem: Problem, *, seed: int = 0, num_trials: int = 100, encoding: str | Encoding = ""
    ) -> None:
        super().__init__(problem, seed=seed, num_trials=num_trials, encoding=encoding)
        self.metrics = problem.front or tuple(problem.feasibility.limits)[:1]
        self._known_costs: dict[Widths, tuple[float, ...]] = {}
        self._limits = np.array([problem.feasibility.limits[m] for m in self.metrics])
        self._smallest = np.array(self.costs(problem.space.floor))

    def propose(self, number: int) -> Proposal:
        """The child, inside its own budgets."""
        rng = self.rng(number)
        parents = self.parents(rng)
        limits, child = self.limits(parents, rng), self.child(parents, rng)
        own = dict(zip(self.metrics, limits.tolist(), strict=True))
        return self.proposal(child, self.problem.tighter(own), rng)

    def point(self, number: int, rng: np.random.Generator) -> Floats:
        """The child's coordinates [D]."""
        return self.child(self.parents(rng), rng)

    def parents(self, rng: np.random.Generator) -> tuple[Trial, ...]:
        """The winners of two tournaments among the survivors; none before there are any."""
        trials = self.scored()
        if not trials:
            return ()
        order = survivors([(t.loss, *self.costs(t.widths)) for t in trials], self.population)
        # `order` is from best to worst, so the better of two drawn is the one that comes first.
        return tuple(trials[order[int(rng.integers(len(order), size=2).min())]] for _ in range(2))

    def child(self, parents: Sequence[Trial], rng: np.random.Generator) -> Floats:
        """Group by group from one parent or the other, then mutated."""
        groups = len(self.problem.space.groups)
        if not parents:
            return self.encoding.mutate(self.encoding.encode(uniform(self.problem)), rng, groups=groups, step=0.3)
        one, other = (self.at(t) for t in parents)
        mask = np.resize(rng.random(groups) < 0.5, self.encoding.dim)
        few = max(self.fewest, round(self.share * groups))
        return self.encoding.mutate(np.where(mask, one, other), rng, groups=few, step=self.step)

    def limits(self, parents: Sequence[Trial], rng: np.random.Generator) -> Floats:
        """The costs [M] that the child may have: from the smallest network's to the run's budgets."""
        place, luck = rng.random(2)
        room = self._limits - self._smallest
        if not parents or luck < self.anywhere:
            places = np.append(place, rng.random(len(room) - 1))  # each cost for itself: loose in one, tight in another
            return np.asarray(self._smallest + places * room)
        near = self.costs(parents[int(2 * place)].widths)  # between the two, the front would shrink
        drawn = near + self.noise * rng.standard_normal(len(room)) * room
        return np.asarray(np.clip(drawn, self._smallest, self._limits))

    def costs(self, widths: Sequence[int]) -> tuple[float, ...]:
        """What is traded off against the loss: [M]."""
        key = tuple(widths)
        if key not in self._known_costs:
            price = self.problem.feasibility.price(widths)
            self._known_costs[key] = tuple(price[m] for m in self.metrics)
        return self._known_costs[key]


def survivors(points: Sequence[tuple[float, ...]], count: int) -> list[int]:
    """The best `count` of the points [P], best first: by front, then by crowding distance; lower is better throughout.

    Fronts are peeled off until there are enough: with thousands of points there may be hundreds.
    """
    table = np.array(points, dtype=np.float64)
    found: list[int] = []
    left = np.arange(len(table))
    while len(left) and len(found) < count:
        best = left[list(front(table[left]))]
        found += best[np.argsort(-_crowding(table[best]), kind="stable")].tolist()
        left = np.setdiff1d(left, best)
    return found[:count]


def _crowding(table: Floats) -> Floats:
    """Sum over objectives of the gap between a point's two neighbours; infinite at the ends of the front."""
    distance = np.zeros(len(table))
    for values in table.T:
        order = np.argsort(values, kind="stable")
        gaps = np.diff(values[order], prepend=-np.inf, append=np.inf)
        distance[order] += (gaps[1:] + gaps[:-1]) / (np.ptp(values) or 1.0)
    return distance
