"""Reinforcement learning for small networks that lose nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autoprune.allocation import uniform
from autoprune.problem import Trial
from autoprune.strategies.amc import AMC
from search_spaces import Widths


class AMCGuaranteed(AMC):
    """AMC's accuracy-guaranteed search (He et al. 2018, https://arxiv.org/abs/1802.03494): as small as it can be.

    The agent of `amc` with the reward -error * log(cost): of two equally good networks the cheaper one counts more. So
    a candidate is what the walk leaves, and the budgets are only bounds: they hold, but are not used up. With `--budget
    "macs<=100%"` there is no wall, as published.

    The error is 1 - `accuracy`. The cost is the share of the dense network's, the mean over the budgets (see `Walk`),
    times a fixed number of multiply-adds, `dense`, plus 1. The publication takes the multiply-adds themselves, 1e8 to
    4e9 for its networks: a logarithm of about 20, a tenth less at an eighth of the cost. In another unit
    (milliseconds, a share) the logarithm would be near 0, or below, where the reward turns round and praises errors;
    with one fixed number error and cost are weighed alike whatever is limited.

    Half the cost makes up for a thirtieth more errors and no more, so a network gets smaller where that costs next to
    nothing, and stays near the budgets where every unit counts (on the digits, from the dense network on: above 90 %).

    The winner of a search is the candidate of the lowest loss inside the budgets, and that is seldom a small one; the
    closed forms, which use the budgets up, are in the race, too. What this strategy is good for is its ledger, with
    networks of about the same accuracy at different costs: `autoprune report` shows which are on the front, `autoprune
    export RUN --trial N` delivers one. Candidates clearly worse than the best one are abandoned and not on it; with
    `--no-abandon` all are measured to the end. With `--front` finalists, winner and `export --budget` come from there.
    """

    name = "amc_guaranteed"
    fills = False
    dense = 1e9  # multiply-adds that the dense network counts as

    def reward(self, trial: Trial) -> float:
        """-error * log(cost), at most 0; not a number for a failed trial."""
        if not math.isfinite(trial.loss):
            return math.nan
        share = float(self._walk.share(np.array([trial.widths]))[0])
        return -(1 - self.accuracy(trial)) * math.log1p(self.dense * share)

    def _best(self, trials: Sequence[Trial]) -> Widths:
        """The widths of the highest reward: where the first episodes are drawn, and what the actor imitates."""
        able = [t for t in trials if math.isfinite(t.loss)]
        return max(able, key=self.reward).widths if able else uniform(self.problem)
