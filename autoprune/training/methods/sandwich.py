"""Weight-sharing adaptation: the dense weights learn to serve every width at once, before any width is judged.

In each step the dense network learns the task, and three narrower ones - the smallest and two random ones - learn its
answers of that very step (see `distilling`; Yu & Huang 2019, https://arxiv.org/abs/1903.05134). Widths differ per
group, as in once-for-all (Cai et al. 2020, https://arxiv.org/abs/1908.09791). A narrower network keeps the units with
the highest scores, as all candidates of the run do, and its weights are slices of the dense ones. Afterwards a
candidate inherits weights that were trained for its kind, and needs batch-norm re-estimation only (section 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.recovery import reestimate_evenly
from autoprune.training.methods.distilling import RANDOM, teach
from autoprune.training.methods.method import Method, Plan, Pruning, Step
from search_spaces import Dresser, Kept, SearchSpace, Sliced, Widths
from search_spaces.plan import plan_of

SMALLEST = 0.25  # of each group's units, as published
BN_SAMPLES = 1000  # re-estimate the dense network's own batch-norm in the end


class Sandwich(Method):
    """The dense network and three narrower ones in each step; the first random one keeps to the budgets.

    In the end as many units of highest score stay as the budgets allow in every group alike; the dense weights are
    what a search may start from. A step costs a pass of each of the four over the same samples: see `images_seen`.

    Args:
        pruning: What the narrower networks leave out.
        smallest: Fraction of each group's units in the smallest network; random ones lie between it and all.

    Raises:
        ValueError: If `smallest` is no fraction above 0.
    """

    name: ClassVar[str] = "sandwich"
    finds: ClassVar[bool] = True
    ordered: ClassVar[bool] = True

    def __init__(self, pruning: Pruning | None = None, smallest: float = SMALLEST) -> None:
        super().__init__(pruning)
        if not 0 < smallest <= 1:
            raise ValueError(f"sandwich: smallest must lie between 0 and 1, above 0, got {smallest}")
        self._smallest = smallest

    def settings(self) -> dict[str, Any]:
        """See `Method`."""
        return {"smallest": self._smallest}

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `Method`.

        Raises:
            ValueError: If it is not told what may be pruned.
        """
        if self.pruning is None:
            raise ValueError("method 'sandwich': needs to be told what may be pruned; Sandwich(Pruning(...))")
        self._space, self._plan = self.pruning.space, plan
        self._dresser = Dresser(net, self._space)
        self._low = self._space.clip(self._smallest * g.size for g in self._space.groups)

    def passes(self, net: nn.Module, step: Step) -> float:
        """The narrower networks' own forward and backward passes."""
        return teach(self._narrower(net, step.number), step, self._plan)

    def end(self, net: nn.Module) -> None:
        """The dense network's batch-norm is re-estimated."""
        plan = self._plan
        drawn = plan.task.draw("calibration", BN_SAMPLES, plan.settings.seed)
        reestimate_evenly(net, plan.task, drawn, plan.batch, plan.compute)

    def kept(self) -> Kept | None:
        """See `Method`: those of highest score that the budgets allow."""
        pruning = self.pruning
        if pruning is None or pruning.project is None:
            return None
        return pruning.space.kept(pruning.project(pruning.space.full), pruning.scores)

    def _narrower(self, net: nn.Module, number: int) -> Iterator[nn.Module]:
        assert self.pruning is not None
        for widths in self._widths(np.random.default_rng([self._plan.settings.seed, number])):
            kept = self._space.kept(widths, self.pruning.scores)
            yield Sliced(self._dresser.dress(kept).train(), _slices(net, self._space, kept))

    def _widths(self, rng: np.random.Generator) -> list[Widths]:
        """The smallest widths, then random ones, each group drawn by itself."""
        assert self.pruning is not None
        space, project = self._space, self.pruning.project
        first, full = np.array(self._low), np.array(space.full)
        drawn = [space.clip(first + rng.random(len(full)) * (full - first)) for _ in range(RANDOM)]
        return [self._low, *(drawn if project is None else [project(drawn[0]), *drawn[1:]])]


def images_seen(steps: int, batch: int = 128) -> int:
    """Training images that an adaptation draws; each passes through four networks, forwards and backwards."""
    return steps * batch


def _slices(dense: nn.Module, space: SearchSpace, kept: Sequence[Any]) -> dict[str, Tensor]:
    """The parameters of a narrower network as slices of the dense ones, through which gradients flow."""
    plan = plan_of(space)
    removed = plan.removed(kept)
    found = {}
    for name, parameter in dense.named_parameters():
        value: Tensor = parameter
        for axis, line in plan.tensors.get(name, ()):
            stays = np.delete(np.arange(parameter.shape[axis]), removed[line])
            value = value.index_select(axis, torch.from_numpy(stays).to(value.device))
        found[name] = value
    return found
