"""What the benchmarks of the controller share: a problem of any number of groups, and a loss that costs nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from autoprune.problem import Problem
from objectives import parse
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace, TensorShape
from search_spaces.branches.branch import Branch


def problem(groups: int = 30, seed: int = 0, budget: str = "macs<=50%", depth: bool = False) -> Problem:
    """A chain of 1x1 convolutions of 16 to 128 channels, with random pixels, scores and filters.

    With `depth` every second group may have width 0, as the inside of a residual block may.
    """
    rng = np.random.default_rng(seed)
    sizes = [int(s) for s in rng.choice([16, 32, 64, 128], groups)]
    axes = [Axis(3, 3), *(Axis(c, 0, ((g, 1),)) for g, c in enumerate(sizes)), Axis(10, 10)]
    ends = list(pairwise(axes))
    layers = tuple(Layer(f"l{i}", "conv", 1, float(rng.integers(1, 65)), r, m) for i, (r, m) in enumerate(ends))
    tensors = tuple(TensorShape(f"l{i}.weight", (m, r)) for i, (r, m) in enumerate(ends))
    space = SearchSpace(tuple(ChannelGroup(f"l{g}", c, ()) for g, c in enumerate(sizes)), (), layers, tensors)
    if depth:
        branches = tuple(Branch(f"b{g}", (g,), ((g,),), ()) for g in range(0, groups, 2))
        space = replace(space, branches=branches).with_limits(depth=True)
    scores = tuple(np.exp(0.5 * rng.standard_normal(c) + rng.standard_normal()) for c in sizes)
    filters = [rng.standard_normal((c, 4)) for c in sizes]
    distances = tuple(((f[:, None] - f[None]) ** 2).sum(2) for f in filters)
    return Problem(space, (parse(budget),), scores, distances)


class Loss:
    """Convex in the kept ratios, each group with a weight that no score knows; with losses per batch like a real one.

    Args:
        full: Units of each group.
        seed: Of the weights.
    """

    def __init__(self, full: tuple[int, ...], seed: int = 0) -> None:
        self.weights = np.random.default_rng([99, seed]).lognormal(0, 1, len(full))
        self.full = np.array(full)

    def __call__(self, job: Any) -> dict[str, Any]:
        """The metrics of a job."""
        loss = float((self.weights * (1 - np.array(job.widths) / self.full) ** 2).sum())
        return {"loss": loss, "top1": float(np.exp(-loss / 10)), "batch_losses": [loss] * 16}


class MakeLoss:
    """What is sent to a worker process."""

    def __init__(self, full: tuple[int, ...]) -> None:
        self.full = full

    def __call__(self, device: str) -> Loss:
        return Loss(self.full)
