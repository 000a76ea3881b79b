"""Scores a network on validation samples, or as many of them as it takes to see that it is hopeless."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.compute import Compute
from autoprune.evaluation.abandonment import Losses, estimate, hopeless
from autoprune.labels import LOSS, Score
from autoprune.tasks import Draw, Meter, Metric, Task, evaluated, goal_of, num_samples, resolve_metric
from autoprune.tasks.trees import bring


@dataclass(frozen=True)
class Goal:
    """What "loss" is, lower is better.

    Attributes:
        score: The loss of the task, a score of it, or a metric of the user's.
        more: That metric, by its name.
    """

    score: Score = LOSS
    more: Mapping[str, Metric] = field(default_factory=dict)

    @classmethod
    def of(cls, metric: str, task: Task) -> Goal:
        """Of the settings.

        Raises:
            ValueError: If there is no such metric, or nobody says whether more of it is better.
        """
        given = task.scores().get(metric)
        if given is not None and not isinstance(given, Metric) and not hasattr(given, "update"):  # a bare function
            raise ValueError(f"metric '{metric}': a function does not say whether higher is better; give the "
                             "task autoprune.tasks.Metric(function, higher_is_better=True or False)")  # fmt: skip
        own = resolve_metric(metric, task)
        return cls(goal_of(metric, task), {} if own is None else {metric: own})

    @property
    def is_loss(self) -> bool:
        """Whether it is the loss of the task."""
        return self.score.name == LOSS.name

    def losses(self, own: Losses, meter: Meter) -> Losses | None:
        """What counts of a pass so far, sample by sample or batch by batch; None: it gives one number in the end."""
        if self.is_loss:
            return own
        values = meter.values(self.score.name)
        if values is None or values.numel() == 1:
            return None
        found = Losses()
        found.add(self._lower(values.float()), len(values))
        return found

    def _lower(self, values: Tensor) -> Tensor:
        return (self.score.best or 0.0) - values if self.score.higher_is_better else values


def validate(
    net: nn.Module,
    task: Task,
    draw: Draw,
    compute: Compute,
    batch_size: int,
    goal: Goal,
    incumbent: Sequence[float] | None = None,
    clock: AbstractContextManager[Any] | None = None,
    parts: int = 1,
    split: str = "val",
) -> dict[str, Any]:
    """Score a network.

    Args:
        net: In eval mode, on the device.
        task: On the device.
        draw: The samples.
        compute: How passes are run.
        batch_size: Samples per pass.
        goal: What "loss" is.
        incumbent: "batch_losses" of the best candidate so far: one that is clearly worse is abandoned. Ignored if it
            does not belong to these samples.
        clock: Runs during passes only.
        parts: Each batch goes in so many.
        split: That the samples are of, for errors.

    Returns:
        "loss", the scores of the task, "batch_losses", "abandoned" and "samples": see `Evaluator`.

    Raises:
        ValueError: If a metric gives neither one number nor one per sample.
    """
    count, seen, looks = len(draw), 0, 0
    own, meter, rival = Losses(), task.meter(goal.more), list[float]()
    with torch.inference_mode(), compute.autocast():  # one context: every weight is cast once, not once per batch
        for batch in draw.batches(batch_size, parts):
            with clock or nullcontext():
                outputs, loss = evaluated(task, net, batch, split)
            seen += (size := num_samples(batch))
            own.add(loss, size)
            meter.update(outputs, batch)
            if incumbent is None or seen >= count or (compute.room and (looks or 2 * seen < count)):
                continue  # each look waits for an accelerator: one, half-way
            looks += 1
            known = goal.losses(own, meter)
            if known is not None and len(incumbent) == known.num_blocks(count):
                rival = list(incumbent)
                if hopeless(known.whole(), rival):
                    break
        bring([own.tensors, *meter.tensors])
    return summary(own, meter, goal, count, seen, rival)


def summary(
    own: Losses, meter: Meter, goal: Goal, count: int, seen: int, rival: Sequence[float] = ()
) -> dict[str, Any]:
    """What a pass over the samples comes to.

    Args:
        own: The losses that were seen.
        meter: The metrics.
        goal: What "loss" is.
        count: How many samples there are.
        seen: How many of them were seen.
        rival: "batch_losses" of the one that it was abandoned for.
    """
    scores = {name: value for name, value in meter.compute().items() if math.isfinite(value)}
    found = goal.losses(own, meter)
    abandoned = seen < count
    if found is None:
        loss_now = goal.score.loss(scores.get(goal.score.name, math.nan))
    else:
        loss_now = estimate(found.whole(), rival, count, found.block) if abandoned else found.mean()
    scores.pop(next(iter(goal.more), ""), None)
    batches = [] if found is None else found.all()
    return {"loss": loss_now, **scores, "batch_losses": batches, "abandoned": abandoned, "samples": seen}
