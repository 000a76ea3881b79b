"""What narrower networks learn in one step with the whole one: its answers of that very step.

The sandwich rule and in-place distillation of Yu & Huang 2019, "Universally slimmable networks",
https://arxiv.org/abs/1903.05134, sections 3.2 and 3.3: the largest network learns the task; the smallest and some
between learn what it answered, without a weight that would have to be chosen. All gradients meet on shared weights.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from autoprune.tasks import mapped
from autoprune.training.methods.method import Plan, Step

RANDOM = 2  # narrower networks between the smallest and the largest in each step


def teach(narrower: Iterable[nn.Module], step: Step, plan: Plan) -> float:
    """Forward and backward passes of narrower networks over the samples of a step; each is asked for when it is used.

    Args:
        narrower: In train mode; gradients reach the shared weights through their tensors.
        step: Whose answers they learn.
        plan: Of the training.

    Returns:
        The sum of their losses, weighted by the shares of the samples.
    """
    total, task = 0.0, plan.task
    for narrow in narrower:
        for batch, answers, share in step.passes:
            taught = mapped(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, answers)
            with plan.compute.autocast():
                if taught is None:  # a network that tells no answers in training learns the loss
                    loss = task.evaluate(narrow, batch)[1].float().mean()
                else:
                    loss = task.distance(task.call(narrow, batch), taught, 1.0)
            (loss * share).backward()
            total += float(loss.detach()) * share
    return total
