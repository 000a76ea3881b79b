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
    return without_branches(space, space.standing.clip(wished), rng)


def without_branches(space: SearchSpace, widths: Widths, rng: np.random.Generator) -> Widths:
    """The same candidate without some of its branches, from none to all of them; every third has all."""
    share = rng.uniform(0, 1) if rng.random() < 2 / 3 else 0.0
    for branch in space.branches:
        if rng.random() < share:
            widths = space.without(widths, branch)
    return widths


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
