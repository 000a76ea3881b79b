"""Where the units of a group pass by while the network runs: what every pass over data has in common.

Letters: `N` samples, `C` units of a group, `I` positions on the channel axis of one layer's input or output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from search_spaces import ChannelGroup, Member, Shrinkable

Site = tuple[str, str]  # (module, "input" or "output"), or (tensor, "weight")
Modules = Mapping[str, nn.Module]
Reduce = Callable[[Tensor, int], Tensor]  # torch.sum, torch.mean
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)
CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
# Tensors of these layers, as opposed to a subclass's own; the second row is what a weight may be computed from.
OWN = (
    "weight", "bias", "running_mean", "running_var",
    "weight_g", "weight_v", "weight_orig", "original", "original0", "original1",
)  # fmt: skip


class Observer(Protocol):
    """What hangs its hooks into a network and is told when a batch begins and ends."""

    def begin(self, batch: Any, size: int) -> None:
        """A batch of so many samples is about to go through the network."""

    def end(self, rows: int) -> None:
        """It has; gradients are of so many rows: the samples, or 1 where they share one loss."""


def members_seen(group: ChannelGroup, modules: Modules, parameters: Mapping[str, Tensor]) -> tuple[Member, ...]:
    """Where the group's mask sits: at everything that reads it, else at what normalises it, else at what makes it.

    Args:
        group: The group.
        modules: The network's, by name.
        parameters: Bare parameters that may be watched, by name; empty if only layers can be.
    """
    known = [m for m in group.members if site_of(m, modules)[1] != "weight" or m.tensor in parameters]
    readers = [m for m in known if _reads(m)]
    # A group that no layer reads (it ends in a matrix product) is masked where it is last written.
    norms = [m for m in known if m.role == "norm"]
    makers = [m for m in known if m.role == "out" or (m.role == "declared" and m.axis == 0)]
    chosen = readers or norms or makers or known
    unique = {(*site_of(m, modules), m.index.tobytes()): m for m in chosen}
    return tuple(unique.values())  # weight and bias of one layer are one site


def members_in_layers(group: ChannelGroup, modules: Modules) -> tuple[Member, ...]:
    """`members_seen` where only layers can be watched.

    Raises:
        ValueError: If no layer touches the group.
    """
    if not (found := members_seen(group, modules, {})):
        raise ValueError(f"group '{group.name}': a criterion of activations needs a layer that reads or makes the "
                         "channels, found bare parameters only; choose another criterion, e.g. 'taylor'")  # fmt: skip
    return found


def site_of(member: Member, modules: Modules) -> Site:
    """What is watched: the "input" or "output" of a layer, or a "weight" itself where no known layer owns it."""
    own = member.role == "declared" or member.tensor.rpartition(".")[2] in OWN
    if own and isinstance(modules[member.layer], (*CHANNELS_FIRST, *CHANNELS_LAST, Shrinkable)):
        return member.layer, "input" if _reads(member) else "output"
    return member.tensor, "weight"


def positions(member: Member, modules: Modules) -> Tensor:
    """[C, k]: where the units are on the channel axis of what is watched.

    The second axis of a grouped convolution's weight counts the channels of one of its groups; its units are at the
    same place in each of them.
    """
    index, layer = torch.from_numpy(member.index), modules.get(member.layer)
    if site_of(member, modules)[1] == "weight" or not isinstance(layer, nn.modules.conv._ConvNd) or member.axis != 1:
        return index
    size = layer.in_channels if _reads(member) else layer.out_channels
    first = torch.arange(0, size, size // layer.groups)
    return (index[:, None, :] + first[:, None]).flatten(1)


def sites_of(watched: Iterable[tuple[Member, ...]], modules: Modules) -> list[Site]:
    """Every site of these groups, once."""
    return list(dict.fromkeys(site_of(m, modules) for members in watched for m in members))


def device_of(model: nn.Module) -> torch.device:
    """Where its weights are; the CPU if it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def channel_axis(module: nn.Module) -> int:
    """Of the module's input and output."""
    return -1 if isinstance(module, CHANNELS_LAST) else 1


def tap(module: nn.Module, side: str, see: Callable[[Tensor], Tensor]) -> RemovableHandle:
    """Let `see` look at each input or output of the module and give it back, or something in its place."""

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (see(args[0]), *args[1:]) if args and isinstance(args[0], Tensor) else None

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        return see(output) if isinstance(output, Tensor) else None

    hook: Callable[..., Any] = module.register_forward_pre_hook if side == "input" else module.register_forward_hook
    handle: RemovableHandle = hook(before if side == "input" else after)
    return handle


def tap_gradient(module: nn.Module, side: str, see: Callable[[Tensor, Tensor], None]) -> RemovableHandle:
    """Let `see` look at each input or output of the module and its gradient, when the backward pass comes by."""

    def watch(value: Tensor) -> Tensor:
        # A fresh view: its gradient is the share of this layer, not of all that use the tensor.
        view = value.view_as(value)
        if view.requires_grad:
            view.register_hook(lambda gradient: see(value.detach(), gradient.detach()))  # type: ignore[no-untyped-call]
        return view

    return tap(module, side, watch)


def rows_of(value: Tensor, axis: int, reduce: Reduce = torch.sum) -> Tensor:
    """[N, I]: everything but samples and channels reduced."""
    rows = value.movedim(axis, -1)
    return reduce(rows.reshape(len(rows), -1, rows.shape[-1]), 1)


def of_units(
    members: tuple[Member, ...],
    modules: Modules,
    rows: Mapping[Site, list[Tensor]],
    samples: int,
    reduce: Reduce = torch.sum,
) -> Iterator[Tensor]:
    """For each call of each site [N, C], or [1, C] where samples cannot be told apart: the positions of each unit.

    Args:
        members: Where the group is seen.
        modules: The network's, by name.
        rows: Per site, of each call, [N, I] (of a weight: its own shape); none if not called.
        samples: `N`.
        reduce: What to do with several positions of one unit, and with windows or tokens in the batch axis.
    """
    for member in members:
        site, index = site_of(member, modules), positions(member, modules)
        for found in rows.get(site, ()):
            found = found.movedim(member.axis if site[1] == "weight" else -1, -1)
            # Windows or tokens folded into the batch axis belong to their sample; a weight to all of them.
            whole = site[1] == "weight" or len(found) % samples
            found = reduce(found.reshape(1 if whole else samples, -1, found.shape[-1]), 1).cpu()
            yield reduce(found[:, index], -1)


def _reads(member: Member) -> bool:
    return member.role == "in" or (member.role == "declared" and member.axis == 1)
