"""Weight-sharing adaptation: the dense weights learn to serve every width at once, before any width is judged.

In each step the dense network learns the task, and three narrower ones - the smallest and two random ones - learn its
answers of that very step: the sandwich rule and in-place distillation of Yu & Huang 2019, "Universally slimmable
networks", https://arxiv.org/abs/1903.05134, sections 3.2 and 3.3. Widths differ per group, as in once-for-all (Cai et
al. 2020, https://arxiv.org/abs/1908.09791). A narrower network keeps the units with the highest scores, as all
candidates of the run do, and its weights are slices of the dense ones: all four gradients meet there. Afterwards a
candidate inherits weights that were trained for its kind, and needs batch-norm re-estimation only (section 3.4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoprune.recovery import reestimate_evenly
from autoprune.tasks import mapped
from autoprune.training.methods.method import Method, Plan, Pruning, Step
from search_spaces import Dresser, SearchSpace, Widths
from search_spaces.plan import plan_of

SMALLEST = 0.25  # of each group's units, as published
RANDOM = 2  # random widths per step
BN_SAMPLES = 1000  # re-estimate the dense network's own batch-norm in the end


class Sandwich(Method):
    """The dense network and three narrower ones in each step; the first random one keeps to the budgets.

    A step costs a pass of each of the four over the same samples: see `images_seen`.

    Args:
        pruning: What the narrower networks leave out.
        smallest: Fraction of each group's units in the smallest network; random ones lie between it and all.

    Raises:
        ValueError: If `smallest` is no fraction above 0.
    """

    name: ClassVar[str] = "sandwich"

    def __init__(self, pruning: Pruning, smallest: float = SMALLEST) -> None:
        super().__init__(pruning)
        if not 0 < smallest <= 1:
            raise ValueError(f"sandwich: smallest must lie between 0 and 1, above 0, got {smallest}")
        self._pruned, self._smallest = pruning, smallest

    def settings(self) -> dict[str, Any]:
        """See `Method`."""
        return {"smallest": self._smallest}

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `Method`."""
        space = self._pruned.space
        self._plan, self._dresser = plan, Dresser(net, space)
        self._low = space.clip(self._smallest * g.size for g in space.groups)

    def passes(self, net: nn.Module, step: Step) -> float:
        """The narrower networks' own forward and backward passes."""
        return sum(self._teach(net, step, *one) for one in step.passes)

    def _teach(self, net: nn.Module, step: Step, batch: Any, answers: Any, share: float) -> float:
        task, space, total = self._plan.task, self._pruned.space, 0.0
        taught = detached(answers)
        for widths in self._narrower(np.random.default_rng([self._plan.settings.seed, step.number])):
            kept = space.kept(widths, self._pruned.scores)
            narrow = _Narrower(self._dresser.dress(kept).train(), _slices(net, space, kept))
            with self._plan.compute.autocast():
                if taught is None:  # a network that tells no answers in training learns the loss
                    loss = task.evaluate(narrow, batch)[1].float().mean()
                else:
                    loss = task.distance(task.call(narrow, batch), taught, 1.0)
            total += _backward(loss * share)
        return total

    def end(self, net: nn.Module) -> None:
        """The dense network's batch-norm is re-estimated."""
        plan = self._plan
        drawn = plan.task.draw("calibration", BN_SAMPLES, plan.settings.seed)
        reestimate_evenly(net, plan.task, drawn, plan.batch, plan.compute)

    def _narrower(self, rng: np.random.Generator) -> list[Widths]:
        """The smallest widths, then random ones, each group drawn by itself."""
        space, project = self._pruned.space, self._pruned.project
        first, full = np.array(self._low), np.array(space.full)
        drawn = [space.clip(first + rng.random(len(full)) * (full - first)) for _ in range(RANDOM)]
        return [self._low, *(drawn if project is None else [project(drawn[0]), *drawn[1:]])]


def images_seen(steps: int, batch: int = 128) -> int:
    """Training images that an adaptation draws; each passes through four networks, forwards and backwards."""
    return steps * batch


class _Narrower(nn.Module):
    """A narrower network whose parameters are slices of the dense ones.

    Args:
        net: Of its shape.
        slices: Its parameters by name.
    """

    def __init__(self, net: nn.Module, slices: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.net, self.slices = net, dict(slices)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What it answers."""
        return functional_call(self.net, self.slices, args, kwargs)


def detached(outputs: Any) -> Any:
    """The same answers without their graph."""
    return mapped(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, outputs)


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


def _backward(loss: Tensor) -> float:
    """Add the loss's gradients to those that are there."""
    loss.backward()
    return float(loss.detach())
