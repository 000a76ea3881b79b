"""One pass over some images that serves every criterion in need of gradients.

Mask gradients (Liu et al. 2021, https://arxiv.org/abs/2108.00708): a mask m, all ones, on the channels that a layer
reads. For image n, dL_n/dm = sum over positions of A_n * dL_n/dA_n, where A is the layer's input and dA its gradient
*through this layer only*. One unit has one mask: the sum runs over all its positions in all the layers that read it.

A bare parameter (`x @ self.w`) has no module whose input could be watched. The mask scales the weights w that read it,
so sum over n of dL_n/dm = sum over these weights of w * dL/dw, exactly, but for the batch as a whole: the group then
gets one row per batch instead of one per image. Its square has the same expectation as the sum of the images' squares
where their gradients average to zero, as they do at the minimum that training ends in.

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

from search_spaces import ChannelGroup, Member, SearchSpace, Shrinkable

Site = tuple[str, str]  # (module, "input" or "output"), or (tensor, "weight")
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm)
CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
OWN = ("weight", "bias", "running_mean", "running_var")  # tensors of these layers, as opposed to a subclass's own


@dataclass(frozen=True, eq=False)
class Gradients:
    """What was gathered; empty where not asked for.

    Attributes:
        weights: Mean gradient of the loss by parameter name.
        masks: Per group [N, C] gradient of each image's loss by the mask on each unit; [batches, C] gradient of each
            batch's summed loss where a bare parameter reads the units.
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
        modules = dict(net.named_modules(remove_duplicate=False))
        parameters = dict(net.named_parameters(remove_duplicate=False))
        watched = [_members(g, modules, parameters) if "sample_gradients" in needs else () for g in space.groups]
        sums: dict[Site, list[Tensor]] = {}
        for site in dict.fromkeys(_site(m, modules) for members in watched for m in members):
            if site[1] == "weight":
                _weigh(parameters[site[0]], site, sums)
            else:
                _watch(modules[site[0]], site, sums)
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
                    rows.append(_of_units(group, members, modules, sums, len(images)))
    if count == 0:
        raise ValueError("batches: gradients need at least one image, got none; a used-up iterator must be made again")
    sought = parameters.items() if "gradients" in needs else ()
    weights = {n: p.grad / count for n, p in sought if p.grad is not None}
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


def _members(
    group: ChannelGroup, modules: Mapping[str, nn.Module], parameters: Mapping[str, Tensor]
) -> tuple[Member, ...]:
    """Where the group's mask sits: at everything that reads it, else at what normalises it, else at what makes it."""
    known = [m for m in group.members if _site(m, modules)[1] != "weight" or m.tensor in parameters]
    readers = [m for m in known if _reads(m)]
    # A group that no layer reads (it ends in a matrix product) is masked where it is last written.
    norms = [m for m in known if m.role == "norm"]
    makers = [m for m in known if m.role == "out" or (m.role == "declared" and m.axis == 0)]
    chosen = readers or norms or makers or known
    unique = {(*_site(m, modules), m.index.tobytes()): m for m in chosen}
    return tuple(unique.values())  # weight and bias of one layer are one site


def _reads(member: Member) -> bool:
    return member.role == "in" or (member.role == "declared" and member.axis == 1)


def _site(member: Member, modules: Mapping[str, nn.Module]) -> Site:
    """What is watched: the "input" or "output" of a layer, or a "weight" itself where no known layer owns it."""
    own = member.role == "declared" or member.tensor.rpartition(".")[2] in OWN
    if own and isinstance(modules[member.layer], (*CHANNELS_FIRST, *CHANNELS_LAST, Shrinkable)):
        return member.layer, "input" if _reads(member) else "output"
    return member.tensor, "weight"


def _weigh(parameter: Tensor, site: Site, sums: dict[Site, list[Tensor]]) -> None:
    """Put weight times gradient, in the parameter's shape, into `sums` when the backward pass comes by."""

    def put(gradient: Tensor) -> None:
        sums[site] = [parameter.detach() * gradient]

    parameter.requires_grad_(True).register_hook(put)  # type: ignore[no-untyped-call]


def _watch(module: nn.Module, site: Site, sums: dict[Site, list[Tensor]]) -> None:
    """Put the [N, I] mask gradients of each call of the module into `sums` when the backward pass comes by."""
    axis = -1 if isinstance(module, CHANNELS_LAST) else 1

    def tap(value: Tensor) -> Tensor:
        # A fresh view: its gradient is the share of this layer, not of all that use the tensor.
        view = value.view_as(value)

        def add(gradient: Tensor) -> None:
            rows = (value.detach() * gradient).movedim(axis, -1)
            rows = rows.reshape(len(rows), -1, rows.shape[-1]).sum(1)
            sums.setdefault(site, []).append(rows)  # called twice: both count

        if view.requires_grad:
            view.register_hook(add)  # type: ignore[no-untyped-call]
        return view

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (tap(args[0]), *args[1:]) if args and isinstance(args[0], Tensor) else None

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        return tap(output) if isinstance(output, Tensor) else None

    hook: Callable[..., Any] = module.register_forward_pre_hook if site[1] == "input" else module.register_forward_hook
    hook(before if site[1] == "input" else after)


def _of_units(
    group: ChannelGroup,
    members: tuple[Member, ...],
    modules: Mapping[str, nn.Module],
    sums: Mapping[Site, list[Tensor]],
    images: int,
) -> Tensor:
    """[N, C], or [1, C] where images cannot be told apart: the positions of each unit, summed over all that read it."""
    found = []
    for member in members:
        site = _site(member, modules)
        for rows in sums.get(site, ()):  # none if not called, or the loss does not depend on it
            rows = rows.movedim(member.axis if site[1] == "weight" else -1, -1)
            # Windows or tokens folded into the batch axis (image-major) belong to their image; a weight to all of them.
            whole = site[1] == "weight" or len(rows) % images
            rows = rows.reshape(1 if whole else images, -1, rows.shape[-1]).sum(1).cpu()
            found.append(rows[:, torch.from_numpy(member.index)].sum(-1))
    count = min(map(len, found), default=images)
    total = torch.zeros(count, group.size)
    for rows in found:
        total += rows if len(rows) == count else rows.sum(0, keepdim=True)
    return total
