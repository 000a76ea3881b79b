"""What a training method is: hooks of the one loop, by which units are driven out of a network while it trains."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.compute import Compute
from autoprune.problem import Problem
from autoprune.settings import TrainingSettings
from autoprune.tasks import Task
from search_spaces import Kept, SearchSpace, Widths


@dataclass(frozen=True, eq=False)
class Pruning:
    """What a method may drive out of a network.

    Attributes:
        space: What may be pruned.
        scores: Per group [C], higher = keep: the order in which units stay.
        kept: Per group the units that stay, for a method that is given them.
        project: Makes widths hold the budgets; None: there are none.
        problem: Budgets and costs, for a method that finds the units that stay.
        levels: Name of each level -> its widths, from the largest to the smallest, for several networks in one.
    """

    space: SearchSpace
    scores: Sequence[NDArray[np.float64]]
    kept: Kept | None = None
    project: Callable[[Widths], Widths] | None = None
    problem: Problem | None = None
    levels: Mapping[str, Widths] | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """The training that a method takes part in.

    Attributes:
        task: What the network is for; its samples are on the device.
        settings: How it is trained.
        compute: How passes are run.
        steps: Optimiser steps in all.
        per_epoch: Steps of one epoch.
        batch: Samples of one step, about.
    """

    task: Task
    settings: TrainingSettings
    compute: Compute
    steps: int
    per_epoch: int
    batch: int


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a training.

    Attributes:
        number: 0 for the first.
        passes: What went through the network since the last step, in order: (batch, its answers, its share of the
            step's samples).
    """

    number: int
    passes: tuple[tuple[Any, Any, float], ...]


class Method(ABC):
    """Takes part in a training; what a hook does not say stays as in plain training, which is `Cut`.

    Hooks are called in the order `begin`, then in each step `passes`, `penalty`, `after_backward`, `after_step`, after
    each epoch `end_epoch`, and at last `end`. `net` is always the same network, on the device, in train mode (in `end`
    in eval mode). What is drawn must follow from the seed and the number of the step; what is remembered from step to
    step goes into `state`, so that a training that was killed ends with the same bits.

    Attributes:
        name: What the command line calls it.
        finds: Whether it finds the units that stay, under the budgets; else it is given them, or prunes nothing.
        ordered: Whether the units that stay are those of the plan's highest scores, at any widths.
        strengths: Settings by which it acts more strongly, the likeliest to be too large first: the training is
            refused where they make it diverge (`stability`). It is then made anew from its `settings`, and its penalty
            and `after_backward` get along without samples.
        ranges: Least and largest value of its settings; of others 0 and any finite number.
        by_samples: Whether it learns from the samples of its own process: several would not agree, and are refused.
        pruning: What it may prune; None where it prunes nothing.
    """

    name: ClassVar[str]
    finds: ClassVar[bool] = False
    ordered: ClassVar[bool] = False
    strengths: ClassVar[tuple[str, ...]] = ()
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    by_samples: bool = False

    def __init__(self, pruning: Pruning | None = None) -> None:
        self.pruning = pruning

    def settings(self) -> dict[str, Any]:
        """Its own settings as plain values: a checkpoint of others is refused."""
        return {}

    def cycles(self) -> int:
        """How often the learning rate goes through its schedule in the training."""
        return 1

    @property
    def is_over(self) -> bool:
        """Whether it has found what it looks for: the training ends after this step, before its last one."""
        return False

    def network(self, net: nn.Module) -> nn.Module:
        """What is trained in the place of `net`, by whoever calls the loop: that itself."""
        return net

    def begin(self, net: nn.Module, plan: Plan) -> None:  # noqa: B027, most hooks of most methods do nothing
        """Before the first step, and again before the first step after a resume, ahead of `load`.

        Raises:
            ValueError: If it cannot work with this network or training: too few steps, no batch-norm ...
        """

    def caveat(self) -> str:
        """After `begin`: which part of the network it can decide nothing about, in a line; empty if there is none."""
        return ""

    def push(self, step: int) -> tuple[float, ...]:
        """In a step, the largest lambda of each kind that its schedule allows, where it adds lambda * w to gradients.

        As many in every step; below 0 where weights are made to grow; none: it does no such thing.
        """
        return ()

    def penalty(self, net: nn.Module, step: Step) -> Tensor | None:
        """What is added to the loss of a step, a scalar; told with it."""
        return None

    def passes(self, net: nn.Module, step: Step) -> float:
        """Further forward and backward passes over the samples of the step, weighted by their shares.

        On several devices each sees its own samples; gradients, and the losses that this returns, are added up after
        it.
        """
        return 0.0

    def after_backward(self, net: nn.Module, step: Step) -> float:
        """With the gradients of the step on the parameters, which may be changed, on every device in the same way.

        Returns:
            Losses of its own that the gradients were given; told with the loss.
        """
        return 0.0

    def after_step(self, net: nn.Module, step: Step) -> None:  # noqa: B027
        """With the new weights, which may be changed."""

    def end_epoch(self, net: nn.Module, epoch: int) -> None:  # noqa: B027
        """After each whole epoch, 0 for the first."""

    def end(self, net: nn.Module) -> None:  # noqa: B027
        """After the last step; also where a training that had ended is read from its checkpoint."""

    def kept(self) -> Kept | None:
        """Per group the units that stay, once the training has ended; None: it prunes nothing."""
        return None if self.pruning is None else self.pruning.kept

    def gone(self) -> tuple[Tensor, ...] | None:
        """Per group [C] the units of which nothing is left now: cutting them changes no answer; None: none.

        But for what normalisations over channels see: a layer-norm or a group-norm counts the zeros that a cut takes
        away.
        """
        return None

    def state(self) -> Mapping[str, Any]:
        """All that it remembers: tensors, numbers, strings, lists and dictionaries of these.

        A checkpoint that has other keys, shapes or lengths than this has after `begin` is refused; what grows
        begins empty, or as a number.
        """
        return {}

    def load(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on from what `state` gave, with tensors on the device."""


def follow(penalty: Tensor | float) -> Tensor:
    """The value of a penalty, whose gradients are put on the parameters; none come from what does not train."""
    value = torch.as_tensor(penalty)
    if value.requires_grad:
        value.backward()  # type: ignore[no-untyped-call]
    return value.detach()
