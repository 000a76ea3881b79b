"""What each group alone costs in loss, then the closed forms that this table allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from autoprune.allocation import Drops, knapsack, loss_rises, multiple_choice, scan_widths, threshold, uniform
from autoprune.problem import Problem, Proposal
from autoprune.strategies.rounds import Round, Rounds
from search_spaces import Widths


class Scan(Rounds):
    """Measures the dense network and each group alone at a few widths, all others dense; then what follows from it.

    The scan's trials are probes, so the whole of it is in the ledger. A search too short for one width per group falls
    back on what needs no scan.

    Attributes:
        share: Of the evaluations that scan and answers may use; the rest are neighbours of the best answer.
        answers: What is made of the table.
        fallbacks: What is tried where there is no scan.
    """

    share: ClassVar[float] = 0.85
    answers: ClassVar[tuple[Callable[[Problem, Drops], Widths], ...]]
    fallbacks: ClassVar[tuple[Callable[[Problem], Widths], ...]] = (uniform,)

    def __init__(self, problem: Problem, *, seed: int = 0, num_trials: int = 100) -> None:
        super().__init__(problem, seed=seed, num_trials=num_trials)
        groups = sum(len(g.choices()) > 1 for g in problem.space.groups)
        scanned = scan_widths(problem, self.points(max(groups, 1)))
        self._shrunk = [(g, w) for g, widths in enumerate(scanned) for w in widths]

    def points(self, groups: int) -> int:
        """Widths to scan per group: as many as the evaluations pay for."""
        return max(0, int(self.share * self.num_trials - 1 - len(self.answers)) // groups)

    def plan(self) -> Round:
        """The scan; the answers; the best one."""
        full = self.problem.space.full
        if not self._shrunk:
            return self._answered([allocate(self.problem) for allocate in self.fallbacks])
        alone = (self.problem.space.settled((*full[:g], w, *full[g + 1 :])) for g, w in self._shrunk)
        return Round([full, *alone], self._read)

    def _read(self, losses: list[float], number: int) -> Round:
        """What follows from the scan."""
        table: list[dict[int, float]] = [{} for _ in self.problem.space.full]
        for (g, width), loss in zip(self._shrunk, losses[1:], strict=True):
            table[g][width] = loss
        drops = loss_rises(self.problem, losses[0], table)
        return self._answered([allocate(self.problem, drops) for allocate in self.answers])

    def _answered(self, answers: list[Widths]) -> Round:
        return Round(answers, lambda losses, number: answers[int(np.argmin(losses))])


class Sensitivity(Scan):
    """Scan and threshold as ModelOpt FastNAS does it, then the neighbours of the answer.

    FastNAS (https://github.com/NVIDIA/Model-Optimizer, modelopt/torch/prune/fastnas.py) scans in steps of 5 %; here it
    is `(0.85 * num_trials - 2) // G` widths per group. FastNAS never scores the joint network; here it is a trial like
    any other.
    """

    name = "sensitivity"
    answers = (threshold,)


class SensitivityKnapsack(Scan):
    """Scan and multiple-choice knapsack (see `allocation.multiple_choice`), then the neighbours of the answer."""

    name = "sensitivity_knapsack"
    answers = (multiple_choice,)


class SensitivityOpening(Scan):
    """The scan and both answers, for another strategy to go on from.

    It takes a third of the search, or up to half of it where a third does not pay for one width per group; in a search
    too short for that, the uniform allocation and the knapsack over the scores come instead.

    Attributes:
        length: How many trials it is.
    """

    share = 1 / 3
    answers = (threshold, multiple_choice)
    fallbacks = (uniform, knapsack)

    def __init__(self, problem: Problem, *, seed: int = 0, num_trials: int = 100) -> None:
        super().__init__(problem, seed=seed, num_trials=num_trials)
        self.length = len(self.answers) + (1 + len(self._shrunk) if self._shrunk else 0)

    def points(self, groups: int) -> int:
        """See the class."""
        return super().points(groups) or int(groups + 1 + len(self.answers) <= self.num_trials / 2)

    def propose(self, number: int) -> Proposal | None:
        """What the plan says; None while it waits for results, and when it is done."""
        return self.planned()
