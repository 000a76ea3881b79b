"""One pass over some images that serves every criterion in need of data.

The network is copied, in eval mode (running statistics), and the loss is summed over the batch, so images do not mix.
It runs backwards only if a gradient is asked for.

Letters: `N` images, `C` units of a group.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.criteria.activations import Activations
from autoprune.criteria.gradients import MaskGradients, logits
from autoprune.criteria.propagation import Propagation
from autoprune.criteria.sites import Listener
from objectives import check_labels
from search_spaces import SearchSpace
from search_spaces.adapters import adapt

GRADIENTS = frozenset({"gradients", "sample_gradients"})
ACTIVATIONS = Activations.KINDS | {"importance"}
NEEDS = GRADIENTS | ACTIVATIONS


@dataclass(frozen=True, eq=False)
class Gathered:
    """What was gathered; empty where not asked for.

    Attributes:
        weights: Mean gradient of the loss by parameter name.
        masks: Per group [N, C] gradient of each image's loss by the mask on each unit; [batches, C] gradient of each
            batch's summed loss where a bare parameter reads the units.
        activations: Per group, by need: what `Activations` and `Propagation` found.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    masks: tuple[Tensor, ...] = ()
    activations: tuple[Mapping[str, Tensor], ...] = ()


def gather(
    model: nn.Module, space: SearchSpace, batches: Iterable[tuple[Tensor, Tensor]], needs: frozenset[str]
) -> Gathered:
    """Run the network once over `batches`.

    Args:
        model: The dense network; left as it is.
        space: Its groups.
        batches: Pairs of images (float, images along axis 0) and class numbers [N], which gradients need.
        needs: Any of `NEEDS`.

    Raises:
        ValueError: If there is no image, a need is unknown, or gradients are needed and labels are no class numbers.
    """
    if needs - NEEDS:
        raise ValueError(f"needs {sorted(needs - NEEDS)}: unknown; known: {', '.join(sorted(NEEDS))}")
    # Without weight gradients to compute, only the activations' are: a third of the backward pass saved.
    net = copy.deepcopy(model).eval().requires_grad_("gradients" in needs)
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    adapt(net)  # so that layers inside attention are called, and can be listened to
    modules = dict(net.named_modules(remove_duplicate=False))
    parameters = dict(net.named_parameters(remove_duplicate=False))
    masks = MaskGradients(space, modules, parameters) if "sample_gradients" in needs else None
    activations = Activations(space, modules, needs) if needs & Activations.KINDS else None
    propagation = Propagation(model, space, modules) if "importance" in needs else None
    listeners: list[Listener] = [x for x in (masks, activations, propagation) if x is not None]
    backwards = bool(needs & GRADIENTS)
    count = 0
    with torch.set_grad_enabled(backwards):
        for images, labels in batches:
            count += len(images)
            # A copy that is no leaf, so that the network may change it in place.
            images = images.detach().to(device).requires_grad_(backwards).clone()
            for listener in listeners:
                listener.begin(images)
            outputs = logits(net(images))
            if backwards:
                check_labels(labels, outputs, values=True)
                loss = F.cross_entropy(outputs, labels.long().to(device), reduction="sum")
                loss.backward()  # type: ignore[no-untyped-call]
            for listener in listeners:
                listener.end()
    if count == 0:
        raise ValueError("batches: criteria of gradients or activations need at least one image, got none; a used-up "
                         "iterator must be made again")  # fmt: skip
    sought = parameters.items() if "gradients" in needs else ()
    weights = {n: p.grad / count for n, p in sought if p.grad is not None}
    seen: list[dict[str, Tensor]] = [{} for _ in space.groups]
    for found in (x.result() for x in (activations, propagation) if x is not None):
        seen = [{**a, **b} for a, b in zip(seen, found, strict=True)]
    return Gathered(weights, masks.result() if masks else (), tuple(seen))
