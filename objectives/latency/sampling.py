"""Which candidates are measured: plain ones of any size and shape, and those that a search would propose."""

from __future__ import annotations

import numpy as np

from objectives.budget import Budget
from objectives.feasibility import Feasibility
from objectives.latency.predictor import Latency
from search_spaces import SearchSpace, Widths

STEPS = (1, 1, 8, 16)  # what sampled widths are rounded to: half of a search's users round


def sample(space: SearchSpace, number: int) -> Widths:
    """The candidate that is measured as the `number`-th: any size, any shape, as a search would propose them."""
    rng = np.random.default_rng([20, number])
    scale, step = rng.uniform(0.1, 1.0), int(rng.choice(STEPS))
    shares = np.clip(scale + rng.uniform(-0.25, 0.25, len(space.groups)), 0.03, 1)
    wished = (max(step, step * round(g.size * share / step)) for g, share in zip(space.groups, shares, strict=True))
    if space.vanishing is None:
        return space.clip(wished)
    stay = (max(group.choices()[1], group.clip(wish)) if group.floor == 0 else group.clip(wish)
            for group, wish in zip(space.groups, wished, strict=True))  # fmt: skip
    return without_branches(space, tuple(stay), rng)


def without_branches(space: SearchSpace, widths: Widths, rng: np.random.Generator) -> Widths:
    """The same candidate without some of its branches, from none to all of them; every third has all."""
    share = rng.uniform(0, 1) if rng.random() < 2 / 3 else 0.0
    gone = np.array(widths)
    for branch in space.branches:
        if rng.random() < share:
            gone[list(branch.causes[0])] = [0 if space.groups[g].floor == 0 else widths[g] for g in branch.causes[0]]
    return space.settled(gone.tolist())


def proposal(space: SearchSpace, latency: Latency | None, number: int) -> Widths:
    """The candidate that is measured as the `number`-th.

    Once there is a first fit, two of three are what a search would propose: brought to a budget by that very fit. They
    are the places where it is too hopeful, and plain samples do not show them.
    """
    if latency is None or number % 3 == 0:
        return sample(space, number)
    rng = np.random.default_rng([21, number])
    low, high = latency(np.array([space.floor, space.full]))
    limit = max(low, low + rng.uniform(0.05, 1) * (high - low))
    budget = Budget(latency.name, float(limit))
    wish = space.sample(rng) if number % 3 == 1 else sample(space, number)
    return Feasibility(space, [budget], costs={latency.name: latency}).project(wish)
