"""Shrinks one group at a time."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from autoprune.allocation import loads, uniform
from autoprune.problem import Problem
from autoprune.strategies.rounds import Round, Rounds
from search_spaces import Widths

ROUNDING = 1e-12  # relative


class NetAdapt(Rounds):
    """NetAdapt (Yang et al. 2018, https://arxiv.org/abs/1804.03230; settings: https://github.com/denru01/netadapt).

    The load of a network is its cost as a multiple of the limit, of the budget that is worst off; it falls from that of
    the dense network, `D`, to 1 in `N` rounds, the steps cooling by `gamma`. In each round every group alone is shrunk
    to the largest width that takes a step off the load; all these candidates are independent, so as many workers as
    groups run in parallel; the one with the least (rise of the loss) / (fall of the load) wins, as in the code (the
    paper takes the lowest loss: the same where all loads are the same). A candidate that failed is out of its round; if
    all did, the next step is half as long.

        N   = (0.9 * num_trials - 1) // (G + 1)                    rounds that the evaluations pay for
        R0  = (D - 1) * (1 - gamma) / (1 - gamma^N)                so that the targets end at 1
        target of round i = D - R0 * (1 - gamma^i) / (1 - gamma)   i = 1..N

    The target of a round is worked out when it begins, from the load reached and the rounds left; where workers had to
    evaluate something beside the plan (see `Rounds`), fewer are left, and the steps are longer.

    The paper has a hundred rounds, of 2.5 % of the dense cost at first; a search of a hundred evaluations has a few, of
    more than one group can give. So a round of `m` times 2.5 % (m at most half the groups) asks each group for an m-th
    of it, and at most for half of its units; then as many groups are shrunk as it takes to reach the target, the best
    first, the last one no further than needed. With m = 1 this is NetAdapt. What a round ends with is measured first in
    the next one, and the final result, projected on the budgets, by itself.

    Where branches may vanish, each of them alone is one more candidate of every round.

    Unlike the paper, every candidate is pruned from the dense weights: a trial knows nothing of any other, so weights
    are not carried from round to round. The short fine-tune of each candidate is the run's `--fidelity short:STEPS`.
    """

    name = "netadapt"
    gamma = 0.96
    first_step = 0.025  # of the dense network's load, for one group alone
    share = 0.9  # of the evaluations that the rounds may use; the rest are neighbours of the result

    @cached_property
    def _dense(self) -> float:
        return load(self.problem, self.problem.space.full)

    def plan(self) -> Round:
        """The first round; without evaluations for a single one, the uniform network."""
        return self.next(self.problem.space.full if self.most else uniform(self.problem), 0, 0, 1)

    @property
    def most(self) -> int:
        """Rounds that the evaluations pay for, if nothing but rounds is evaluated."""
        return max(0, int(self.share * self.num_trials - 1) // self._each)

    @cached_property
    def _each(self) -> int:
        """Candidates of a round: its beginning, each group and each branch that may vanish."""
        space = self.problem.space
        return 1 + len(space.groups) + (len(space.branches) if space.vanishing else 0)

    def left(self, done: int, spent: int) -> int:
        """Rounds that the evaluations still pay for, if each takes as many as those done on average."""
        each = max(self._each, spent / max(1, done))
        return min(self.most - done, int((self.share * self.num_trials - 1 - spent) // each))

    def next(self, here: Widths, done: int, spent: int, split: int) -> Round:
        """The round that begins with `here`; after the last one the result alone.

        Args:
            here: [G] widths.
            done: Rounds before it.
            spent: Trials of the search so far.
            split: Into how many parts a step is cut.
        """
        now, left = load(self.problem, here), self.left(done, spent)
        if now <= 1 or left < 1:
            result = self.problem.project(here)
            return Round([result], lambda losses, number: result)
        target = self.target(now, left)
        shrunk = self.shrinks(here, target, self.first_step * self._dense, split)

        def then(losses: list[float], number: int) -> Round:
            base, *rest = losses
            if not np.isfinite(rest).any():
                return self.next(here, done + 1, number, 2 * split)
            base = base if np.isfinite(base) else min(rest)
            falls = [now - load(self.problem, w) for w in shrunk.values()]
            worth = {g: (loss - base) / fall for g, loss, fall in zip(shrunk, rest, falls, strict=True)}
            best = sorted((g for g in worth if np.isfinite(worth[g])), key=lambda g: worth[g])
            reached = self.joint(here, [(g, shrunk[g]) for g in best], target)
            return self.next(reached, done + 1, number, split)

        return Round([here, *shrunk.values()], then)

    def target(self, now: float, left: int) -> float:
        """The load at the end of the first of the rounds that are left; see the class."""
        return now - (now - 1) * (1 - self.gamma) / (1 - self.gamma**left)

    def shrinks(self, here: Widths, target: float, step: float, split: int) -> dict[int, Widths]:
        """Group -> the network with this group alone shrunk by a step; without those that would save nothing.

        Beyond the last group: the network without the first branch, the second ...

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
        for b, branch in enumerate(problem.space.branches if problem.space.vanishing else ()):
            widths = problem.space.without(here, branch)
            if load(problem, widths) < now * (1 - ROUNDING) and widths not in found.values():
                found[len(here) + b] = problem.project(widths) if load(problem, widths) <= 1 else widths
        return found

    def joint(self, here: Widths, shrunk: list[tuple[int, Widths]], target: float) -> Widths:
        """The shrinks one after the other until the target is reached, the last one no further than needed."""
        for g, widths in shrunk:
            if load(self.problem, widths) <= 1:
                return widths
            if g >= len(here):
                here = self.problem.space.without(here, self.problem.space.branches[g - len(here)])
                if load(self.problem, here) <= target * (1 + ROUNDING):
                    return here
                continue
            if here[g] == 0:  # its branch is gone
                continue
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
    below = [w for w in problem.space.groups[group].choices() if 0 < w < here[group]]
    choices = [w for w in below if 2 * w >= here[group]] or below[-1:]
    if not choices:
        return here
    table = np.tile(np.array(here), (len(choices), 1))
    table[:, group] = choices
    reached = np.flatnonzero(loads(problem, table).max(axis=1, initial=0.0) <= target * (1 + ROUNDING))
    return tuple(int(w) for w in table[reached[-1] if len(reached) else 0])
