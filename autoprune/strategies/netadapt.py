"""Shrinks one group at a time."""

from __future__ import annotations

import math

import numpy as np

from autoprune.allocation import loads, uniform
from autoprune.problem import Problem
from autoprune.strategies.rounds import Plan, Rounds
from search_spaces import Widths

ROUNDING = 1e-12  # relative


class NetAdapt(Rounds):
    """NetAdapt (Yang et al. 2018, https://arxiv.org/abs/1804.03230; settings from its code, METHODS 2.6).

    The load of a network is its cost as a multiple of the limit, of the budget that is worst off; it falls from that of
    the dense network, `D`, to 1 in `N` rounds, the steps cooling by `gamma`. In each round every group alone is shrunk
    to the largest width that takes a step off the load; all these candidates are independent, so as many workers as
    groups run in parallel; the one with the least (rise of the loss) / (fall of the load) wins, as in the code (the
    paper takes the lowest loss: the same where all loads are the same). A candidate that failed is out of its round; if
    all did, the next step is half as long.

        N   = (0.9 * num_trials - 1) // (G + 1)                    rounds that the evaluations pay for
        R0  = (D - 1) * (1 - gamma) / (1 - gamma^N)                so that the targets end at 1
        target of round i = D - R0 * (1 - gamma^i) / (1 - gamma)   i = 1..N

    The paper has a hundred rounds, of 2.5 % of the dense cost at first; a search of a hundred evaluations has a few, of
    more than one group can give. So a round of `m` times 2.5 % (m at most half the groups) asks each group for an m-th
    of it, and at most for half of its units; then as many groups are shrunk as it takes to reach the target, the best
    first, the last one no further than needed. With m = 1 this is NetAdapt. What a round ends with is measured first in
    the next one, and the final result, projected on the budgets, by itself.

    Unlike the paper, every candidate is pruned from the dense weights: a trial knows nothing of any other, so weights
    are not carried from round to round. The short fine-tune of each candidate is the run's `--fidelity short:STEPS`.
    """

    name = "netadapt"
    gamma = 0.96
    first_step = 0.025  # of the dense network's load, for one group alone
    share = 0.9  # of the evaluations that the rounds may use; the rest are neighbours of the result

    def plan(self) -> Plan:
        """The rounds; without evaluations for a single one, the uniform network."""
        space, here = self.problem.space, self.problem.space.full
        rounds = int(self.share * self.num_trials - 1) // (len(space.groups) + 1)
        if rounds < 1:
            here = uniform(self.problem)
        dense, split = load(self.problem, here), 1
        for target in self.targets(dense, rounds):
            if load(self.problem, here) <= 1:
                break
            if load(self.problem, here) <= target:
                continue
            shrunk = self.shrinks(here, target, self.first_step * dense, split)
            base, *losses = yield [here, *shrunk.values()]
            if not np.isfinite(losses).any():
                split *= 2
                continue
            base = base if np.isfinite(base) else min(losses)
            falls = [load(self.problem, here) - load(self.problem, w) for w in shrunk.values()]
            worth = {g: (loss - base) / fall for g, loss, fall in zip(shrunk, losses, falls, strict=True)}
            best = sorted((g for g in worth if np.isfinite(worth[g])), key=lambda g: worth[g])
            here = self.joint(here, [(g, shrunk[g]) for g in best], target)
        result = self.problem.project(here)
        yield [result]
        return result

    def targets(self, dense: float, rounds: int) -> list[float]:
        """The load that each round aims at; see the class."""
        done = (1 - self.gamma ** np.arange(1, rounds + 1)) / (1 - self.gamma**rounds)  # 0 ... 1
        return [float(t) for t in dense - (dense - 1) * done]

    def shrinks(self, here: Widths, target: float, step: float, split: int) -> dict[int, Widths]:
        """Group -> the network with this group alone shrunk by a step; without those that would save nothing.

        Args:
            here: [G] the widths of the round's beginning.
            target: The load at the round's end.
            step: The fall of the load that one group is asked for, if that makes no more than half of them shrink.
            split: Into how many parts the step is cut.
        """
        now, problem = load(self.problem, here), self.problem
        parts = min(math.ceil((now - target) / step - 1e-9), max(1, len(here) // 2)) * split
        found = {}
        for g in range(len(here)):
            widths = shrink(problem, here, g, now - (now - target) / parts)
            if load(problem, widths) < now * (1 - ROUNDING):
                found[g] = problem.project(widths) if load(problem, widths) <= 1 else widths
        return found

    def joint(self, here: Widths, shrunk: list[tuple[int, Widths]], target: float) -> Widths:
        """The shrinks one after the other until the target is reached, the last one no further than needed."""
        for g, widths in shrunk:
            if load(self.problem, widths) <= 1:
                return widths
            enough = shrink(self.problem, here, g, target)
            if enough[g] >= widths[g] and load(self.problem, enough) <= target * (1 + ROUNDING):
                return enough
            here = (*here[:g], widths[g], *here[g + 1 :])
        return here


def load(problem: Problem, widths: Widths) -> float:
    """The cost as a multiple of its limit, of the budget that is worst off; 1 in spite of rounding errors."""
    worst = float(loads(problem, np.array([widths])).max(initial=0.0))
    return worst if worst > 1 + ROUNDING else min(worst, 1.0)


def shrink(problem: Problem, here: Widths, group: int, target: float) -> Widths:
    """The network with one group as wide as a load of `target` allows, at least half of it; `here` without a choice."""
    below = [w for w in problem.space.groups[group].choices() if w < here[group]]
    choices = [w for w in below if 2 * w >= here[group]] or below[-1:]
    if not choices:
        return here
    table = np.tile(np.array(here), (len(choices), 1))
    table[:, group] = choices
    reached = np.flatnonzero(loads(problem, table).max(axis=1, initial=0.0) <= target * (1 + ROUNDING))
    return tuple(int(w) for w in table[reached[-1] if len(reached) else 0])
