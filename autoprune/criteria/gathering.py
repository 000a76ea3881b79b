"""One pass over some samples that serves every criterion in need of data.

The network is copied, in eval mode (running statistics). Where the loss of a task is one number for each sample they
are summed over the batch, so samples do not mix and each has its own gradient. Where it is one number for a batch
(detectors), all of the batch share one gradient: `N` counts batches then. It runs backwards only if a gradient is asked
for.

Letters: `N` samples, `C` units of a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.compute import Compute
from autoprune.criteria.activations import Activations
from autoprune.criteria.gradients import MaskGradients
from autoprune.criteria.propagation import Propagation
from autoprune.criteria.sites import Observer, device_of
from autoprune.tasks import Pairs, Task, answered, evaluated, inputs_of, leaves, mapped, num_samples
from autoprune.tasks.trees import placed
from search_spaces import SearchSpace, copy_of
from search_spaces.adapters import adapt

GRADIENTS = frozenset({"gradients", "sample_gradients"})
ACTIVATIONS = Activations.KINDS | {"importance"}
NEEDS = GRADIENTS | ACTIVATIONS


@dataclass(frozen=True, eq=False)
class Gathered:
    """What was gathered; empty where not asked for.

    Attributes:
        weights: Mean gradient of the loss by parameter name.
        masks: Per group [N, C] gradient of each sample's loss by the mask on each unit; [batches, C] gradient of each
            batch's summed loss where a bare parameter reads the units, or the task says one loss for a batch.
        activations: Per group, by need: what `Activations` and `Propagation` found.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    masks: tuple[Tensor, ...] = ()
    activations: tuple[Mapping[str, Tensor], ...] = ()


def gather(
    model: nn.Module,
    space: SearchSpace,
    batches: Iterable[Any],
    needs: frozenset[str],
    task: Task | None = None,
    device: torch.device | None = None,
) -> Gathered:
    """Run the network once over `batches`.

    Args:
        model: The dense network; left as it is.
        space: Its groups.
        batches: Of the task.
        needs: Any of `NEEDS`.
        task: How the network is called, and its loss; default: batches are (inputs, class numbers).
        device: Where it runs; default where it is. What was gathered is where the network is.

    Raises:
        ValueError: If there is no sample, a need is unknown, or the loss is no number to follow backwards.
    """
    task = task or Pairs()
    if needs - NEEDS:
        raise ValueError(f"needs {sorted(needs - NEEDS)}: unknown; known: {', '.join(sorted(NEEDS))}")
    # Without weight gradients to compute, only the activations' are: a third of the backward pass saved.
    net = copy_of(model).eval().requires_grad_("gradients" in needs)
    home = device_of(model)
    device = device or home
    net.to(device)
    adapt(net)  # so that layers inside attention are called, and can be listened to
    modules = dict(net.named_modules(remove_duplicate=False))
    parameters = dict(net.named_parameters(remove_duplicate=False))
    masks = MaskGradients(space, modules, parameters) if "sample_gradients" in needs else None
    activations = Activations(space, modules, needs) if needs & Activations.KINDS else None
    propagation = Propagation(model, space, modules) if "importance" in needs else None
    observers: list[Observer] = [x for x in (masks, activations, propagation) if x is not None]
    backwards = bool(needs & GRADIENTS)
    compute = Compute(device, amp=False, channels_last=False)
    count = 0
    with torch.set_grad_enabled(backwards):
        for found in batches:
            size = num_samples(found)
            count += size
            batch, floats = _ready(placed(found, compute), backwards)
            if backwards and not floats:  # token ids: gradients begin at the weights
                net.requires_grad_(True)
            for observer in observers:
                observer.begin(batch, size)
            if backwards:
                outputs, loss = evaluated(task, net, batch, "calibration")
                _follow(loss, size, task).backward()  # type: ignore[no-untyped-call]
                if outputs is not None:  # a network that computes its own loss may say nothing else meanwhile
                    task.check(outputs, batch)
            else:
                answered(task, net, batch, "calibration")
            for observer in observers:
                observer.end(1 if backwards and loss.dim() == 0 else size)
    if count == 0:
        raise ValueError("batches: criteria of gradients or activations need at least one sample, got none; a used-up "
                         "iterator must be made again")  # fmt: skip
    sought = parameters.items() if "gradients" in needs else ()
    weights = {n: (p.grad / count).to(home) for n, p in sought if p.grad is not None}
    seen: list[dict[str, Tensor]] = [{} for _ in space.groups]
    for found in (x.result() for x in (activations, propagation) if x is not None):
        seen = [{**a, **b} for a, b in zip(seen, found, strict=True)]
    return Gathered(weights, masks.result() if masks else (), tuple(seen))


def _ready(batch: Any, backwards: bool) -> tuple[Any, bool]:
    """Inputs that are no leaves, so that the network may change them in place, and whether any can have a gradient."""
    floats = [leaf for leaf in leaves(inputs_of(batch)) if leaf.is_floating_point()]
    known = {id(leaf) for leaf in floats}

    def begin(leaf: Any) -> Any:
        return leaf.detach().requires_grad_(backwards).clone() if id(leaf) in known else leaf

    return mapped(begin, batch), bool(floats)


def _follow(loss: Tensor, size: int, task: Task) -> Tensor:
    """The summed loss of a batch.

    Raises:
        ValueError: If it has no gradient, or is not finite.
    """
    if not bool(loss.isfinite().all()):
        raise ValueError(f"{task.where('loss')}: is {float(loss.detach().float().mean())} on a batch of "
                         f"{size} training {task.sample}s; check targets, and divisions by zero")  # fmt: skip
    if not loss.requires_grad:
        raise ValueError(f"{task.where('loss')}: has no gradient; compute it from the network's outputs with torch, "
                         "without .item(), .detach() or numpy")  # fmt: skip
    return loss.sum() if loss.dim() else loss * size
