"""Weight-sharing adaptation: the dense weights learn to serve every width at once, before any width is judged.

In each step the dense network learns the labels, and three narrower ones - the smallest and two random ones - learn its
answers of that very step: the sandwich rule and in-place distillation of Yu & Huang 2019, "Universally slimmable
networks", https://arxiv.org/abs/1903.05134, sections 3.2 and 3.3. Widths differ per group, as in once-for-all (Cai et
al. 2020, https://arxiv.org/abs/1908.09791). A narrower network keeps the units with the highest scores, as all
candidates of the run do, and its weights are slices of the dense ones: all four gradients meet there. Afterwards a
candidate inherits weights that were trained for its kind, and needs batch-norm re-estimation only (section 3.4).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from autoprune.compute import Compute
from autoprune.data import ImageData
from autoprune.errors import Diverged
from autoprune.recovery.batches import dropout
from autoprune.recovery.batchnorm import reestimate_evenly
from autoprune.recovery.finetune import Listener
from autoprune.recovery.schedules import SCHEDULES
from autoprune.tasks import Task, as_task, mapped
from search_spaces import Dresser, SearchSpace, Widths
from search_spaces.plan import plan_of

SMALLEST = 0.25  # of each group's units, as published
RANDOM = 2  # random widths per step
BN_SAMPLES = 1000  # re-estimate the dense network's own batch-norm in the end


def adapt(
    model: nn.Module,
    task: Task | ImageData,
    space: SearchSpace,
    scores: Sequence[NDArray[np.float64]],
    *,
    steps: int,
    learning_rate: float = 0.02,
    schedule: str = "linear",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch: int = 128,
    smallest: float = SMALLEST,
    seed: int = 0,
    device: str | torch.device = "auto",
    amp: str | bool = "auto",
    project: Callable[[Widths], Widths] | None = None,
    listener: Listener | None = None,
) -> nn.Module:
    """The dense network with weights that serve narrower networks as well.

    A step costs one pass of each of its four networks over the same `batch` samples: see `images_seen`.

    Args:
        model: The dense network; left as it is.
        task: Only its training samples are used.
        space: What may be pruned.
        scores: Per group [C], higher = keep: the order in which units are kept.
        steps: SGD steps.
        learning_rate: Peak.
        schedule: As in `finetune`.
        momentum: Nesterov's.
        weight_decay: On every parameter.
        batch: Samples per step; a loader's are as it makes them.
        smallest: Fraction of each group's units in the smallest network, 0 to 1; random ones lie between it and all.
        seed: Of the batches and of the widths.
        device: "auto", "cpu", "cuda", ...
        amp: bfloat16 autocast: "auto" (where it is fast), "on" or "off".
        project: Makes widths feasible; if given, the first random network of each step keeps to the run's budgets.
        listener: Told after each step, with the sum of its four losses.

    Returns:
        A new network in eval mode, on the device of `model`, its batch-norm re-estimated.

    Raises:
        ValueError: If a setting is out of range.
        Diverged: If a loss becomes NaN or infinite.
    """
    task = as_task(task)
    if steps < 1 or not learning_rate > 0 or not 0 < smallest <= 1 or not 1 <= batch <= task.count("train"):
        raise ValueError(
            f"adaptation: needs steps of at least 1, a learning rate above 0, smallest in 0..1 and a batch of 1 to the "
            f"{task.count('train')} training {task.sample}s; got {steps}, {learning_rate}, {smallest}, {batch}"
        )
    if schedule not in SCHEDULES:
        raise ValueError(f"adaptation: unknown schedule '{schedule}'; known: {', '.join(SCHEDULES)}")
    compute = Compute.choose(device, amp)
    task = task.on(compute)
    dense = compute.place(copy.deepcopy(model)).train()
    dresser, home = Dresser(dense, space), next(model.parameters()).device
    optimizer = torch.optim.SGD(
        [p for p in dense.parameters() if p.requires_grad], lr=learning_rate, momentum=momentum,
        nesterov=momentum > 0, weight_decay=weight_decay,
    )  # fmt: skip
    low = space.clip(smallest * g.size for g in space.groups)
    for step, found in enumerate(task.training(batch, seed).between(0, steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * SCHEDULES[schedule](step, steps)
        optimizer.zero_grad()
        with dropout(seed, step, compute), torch.enable_grad():
            with compute.autocast():
                answers, loss = task.evaluate(dense, found)
            taught, total = detached(answers), _backward(loss.float().mean())
            for widths in _narrower(space, low, np.random.default_rng([seed, step]), project):
                kept = space.kept(widths, scores)
                net = _Narrower(dresser.dress(kept).train(), _slices(dense, space, kept))
                with compute.autocast():
                    if taught is None:  # a network that tells no answers in training learns the loss
                        loss = task.evaluate(net, found)[1].float().mean()
                    else:
                        loss = task.distance(task.call(net, found), taught, 1.0)
                total += _backward(loss)
        if not math.isfinite(total):
            raise Diverged(f"adaptation diverged at step {step + 1} of {steps} (loss {total}); lower the learning rate "
                           f"of {learning_rate}")  # fmt: skip
        optimizer.step()
        if listener is not None:
            listener(step + 1, steps, total)
    reestimate_evenly(dense.eval(), task, task.draw("calibration", BN_SAMPLES, seed), batch, compute)
    return dense.to(home)


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


def _narrower(
    space: SearchSpace, low: Widths, rng: np.random.Generator, project: Callable[[Widths], Widths] | None
) -> list[Widths]:
    """The smallest widths, then random ones, each group drawn by itself."""
    first, full = np.array(low), np.array(space.full)
    drawn = [space.clip(first + rng.random(len(full)) * (full - first)) for _ in range(RANDOM)]
    return [low, *(drawn if project is None else [project(drawn[0]), *drawn[1:]])]


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
