"""One pass over some images that serves every criterion in need of gradients.

Mask gradients (Liu et al. 2021, https://arxiv.org/abs/2108.00708): a mask m, all ones, on the channels that a layer
reads. For image n, dL_n/dm = sum over positions of A_n * dL_n/dA_n, where A is the layer's input and dA its gradient
*through this layer only*. One unit has one mask: the sum runs over all its positions in all the layers that read it.

The network is copied, in eval mode (running statistics), and the loss is summed over the batch, so images do not mix.

Letters: `N` images, `C` units of a group, `I` positions on the channel axis of one layer's input.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import ChannelGroup, Member, SearchSpace


@dataclass(frozen=True, eq=False)
class Gradients:
    """What was gathered; empty where not asked for.

    Attributes:
        weights: Mean gradient of the loss by parameter name.
        masks: Per group [N, C] gradient of each image's loss by the mask on each unit.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    masks: tuple[Tensor, ...] = ()


def gather(
    model: nn.Module, space: SearchSpace, batches: Iterable[tuple[Tensor, Tensor]], needs: frozenset[str]
) -> Gradients:
    """Run the network forwards and backwards once over `batches`.

    Args:
        model: The dense network; left as it is.
        space: Its groups.
        batches: Pairs of images (float, images along axis 0) and class labels.
        needs: "gradients", "sample_gradients" or both.

    Raises:
        ValueError: If there is no image.
    """
    with torch.enable_grad():
        # Without weight gradients to compute, only the activations' are: a third of the backward pass saved.
        net = copy.deepcopy(model).eval().requires_grad_("gradients" in needs)
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
        watched = [_members(g) if "sample_gradients" in needs else () for g in space.groups]
        sums: dict[tuple[str, str], Tensor] = {}
        for name, side in dict.fromkeys(_site(m) for members in watched for m in members):
            _watch(net.get_submodule(name), name, side, sums)
        masks: list[list[Tensor]] = [[] for _ in space.groups]
        count = 0
        for images, labels in batches:
            sums.clear()
            count += len(images)
            # A copy that is no leaf, so that the network may change it in place.
            images = images.detach().to(device).requires_grad_(True).clone()
            loss = F.cross_entropy(logits(net(images)), labels.to(device), reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
            if "sample_gradients" in needs:
                for rows, group, members in zip(masks, space.groups, watched, strict=True):
                    rows.append(_of_units(group, members, sums, len(images)))
    if count == 0:
        raise ValueError("batches: gradients need at least one image, got none; a used-up iterator must be made again")
    weights = {n: p.grad / count for n, p in net.named_parameters(remove_duplicate=False) if p.grad is not None}
    return Gradients(weights, tuple(torch.cat(rows) for rows in masks if rows))


def logits(output: Any) -> Tensor:
    """The class scores in whatever a network returns: a tensor, or the entry "logits" or "out", or the first tensor.

    Raises:
        ValueError: If there is no tensor.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        named = [output[k] for k in ("logits", "out") if isinstance(output.get(k), Tensor)]
        output = (*named, *output.values())
    for item in output if isinstance(output, (tuple, list)) else (getattr(output, "logits", None),):
        if isinstance(item, Tensor):
            return item
    kind = type(output).__name__
    raise ValueError(f"the network must return class scores as a tensor, or a tuple or dict that holds one; got {kind}")


def _members(group: ChannelGroup) -> tuple[Member, ...]:
    """Where the group's mask sits: at everything that reads it, else at what normalises it, else at what makes it."""
    readers = [m for m in group.members if m.role == "in" or (m.role == "declared" and m.axis == 1)]
    # A group that no layer reads (it ends in a matrix product) is masked where it is last written.
    norms = [m for m in group.members if m.role == "norm"]
    makers = [m for m in group.members if m.role == "out" or (m.role == "declared" and m.axis == 0)]
    unique = {(*_site(m), m.index.tobytes()): m for m in readers or norms or makers}
    return tuple(unique.values())  # weight and bias of one layer are one site


def _site(member: Member) -> tuple[str, str]:
    reads = member.role == "in" or (member.role == "declared" and member.axis == 1)
    return member.layer, "input" if reads else "output"


def _watch(module: nn.Module, name: str, side: str, sums: dict[tuple[str, str], Tensor]) -> None:
    """Add the [N, I] mask gradients of each call of the module to `sums` when the backward pass comes by."""

    def tap(value: Tensor) -> Tensor:
        # A fresh view: its gradient is the share of this layer, not of all that use the tensor.
        view = value.view_as(value)
        axis = -1 if isinstance(module, nn.Linear) or (value.dim() == 3 and not _channels_first(module)) else 1

        def add(gradient: Tensor) -> None:
            rows = (value.detach() * gradient).movedim(axis, -1)
            rows = rows.reshape(len(rows), -1, rows.shape[-1]).sum(1)
            sums[name, side] = sums[name, side] + rows if (name, side) in sums else rows  # called twice: both count

        if view.requires_grad:
            view.register_hook(add)  # type: ignore[no-untyped-call]
        return view

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (tap(args[0]), *args[1:]) if args and isinstance(args[0], Tensor) else None

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        return tap(output) if isinstance(output, Tensor) else None

    hook: Callable[..., Any] = module.register_forward_pre_hook if side == "input" else module.register_forward_hook
    hook(before if side == "input" else after)


def _channels_first(module: nn.Module) -> bool:
    return isinstance(module, (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm))


def _of_units(
    group: ChannelGroup, members: tuple[Member, ...], sums: Mapping[tuple[str, str], Tensor], images: int
) -> Tensor:
    """[N, C]: the positions of each unit, summed over all that read it."""
    total = torch.zeros(images, group.size)
    for member in members:
        rows = sums.get(_site(member))
        if rows is None:  # not called, or the loss does not depend on it
            continue
        # Windows or tokens folded into the batch axis (image-major) belong to their image.
        rows = rows.reshape(images, -1, rows.shape[-1]).sum(1).cpu()
        total += rows[:, torch.from_numpy(member.index)].sum(-1)
    return total
