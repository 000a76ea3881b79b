"""Mask gradients: how the loss of each sample would change with each unit.

Mask gradients (Liu et al. 2021, https://arxiv.org/abs/2108.00708): a mask m, all ones, on the channels that a layer
reads. For sample n, dL_n/dm = sum over positions of A_n * dL_n/dA_n, where A is the layer's input and dA its gradient
*through this layer only*. One unit has one mask: the sum runs over all its positions in all the layers that read it
and end it. (A depthwise or grouped convolution passes the unit on and has no mask of its own; in the published code it
has, so that units in such a chain are counted twice.)

A bare parameter (`x @ self.w`) has no module whose input could be watched. The mask scales the weights w that read
it, so sum over n of dL_n/dm = sum over these weights of w * dL/dw, exactly, but for the batch as a whole: the group
then gets one row per batch instead of one per sample, as all groups do where a task says one loss for a batch. Its
square has the same expectation as the sum of the samples' squares where their gradients average to zero, as they do at
the minimum that training ends in.

Letters: `N` samples, `C` units of a group, `I` positions on the channel axis of one layer's input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autoprune.criteria.sites import (
    Modules,
    Site,
    channel_axis,
    members_seen,
    of_units,
    rows_of,
    sites_of,
    tap_gradient,
)
from search_spaces import SearchSpace


class MaskGradients:
    """Listens to the backward passes of a network.

    Args:
        space: The network's groups.
        modules: Its modules by name, duplicates included.
        parameters: Its parameters, likewise.
        heard: Called in a backward pass, ahead of each gradient that is heard.
    """

    def __init__(
        self,
        space: SearchSpace,
        modules: Modules,
        parameters: Mapping[str, nn.Parameter],
        heard: Callable[[], None] = lambda: None,
    ) -> None:
        self.space, self.modules = space, modules
        self.members = [members_seen(g, modules, parameters) for g in space.groups]
        self.sums: dict[Site, list[Tensor]] = {}
        self.found: list[list[Tensor]] = [[] for _ in space.groups]
        self.hooks: list[RemovableHandle] = []
        for site in sites_of(self.members, modules):
            if site[1] == "weight":
                self.hooks.append(_weigh(parameters[site[0]], site, self.sums, heard))
            else:
                self.hooks.append(_watch(modules[site[0]], site, self.sums, heard))

    def begin(self, batch: Any, size: int) -> None:
        """See `Observer`."""
        self.sums.clear()

    def end(self, rows: int) -> None:
        """See `Observer`."""
        for found, group, members in zip(self.found, self.space.groups, self.members, strict=True):
            # A site that was not called, or that the loss does not depend on, has no gradient.
            parts = list(of_units(members, self.modules, self.sums, rows))
            count = min(map(len, parts), default=rows)
            total = torch.zeros(count, group.size)
            for part in parts:
                total += part if len(part) == count else part.sum(0, keepdim=True)
            found.append(total)

    def remove(self) -> None:
        """Listen no more."""
        for hook in self.hooks:
            hook.remove()

    def result(self) -> tuple[Tensor, ...]:
        """Per group [N, C], or [batches, C] where a bare parameter reads the units."""
        return tuple(torch.cat(rows) for rows in self.found)


def _weigh(parameter: Tensor, site: Site, sums: dict[Site, list[Tensor]], heard: Callable[[], None]) -> RemovableHandle:
    """Put weight times gradient, in the parameter's shape, into `sums` when the backward pass comes by."""

    def put(gradient: Tensor) -> None:
        heard()
        sums[site] = [(parameter.detach().conj() * gradient).real]

    hook: RemovableHandle = parameter.requires_grad_(True).register_hook(put)  # type: ignore[no-untyped-call]
    return hook


def _watch(module: nn.Module, site: Site, sums: dict[Site, list[Tensor]], heard: Callable[[], None]) -> RemovableHandle:
    """Put the [N, I] mask gradients of each call of the module into `sums` when the backward pass comes by."""
    axis = channel_axis(module)

    def add(value: Tensor, gradient: Tensor) -> None:
        heard()
        sums.setdefault(site, []).append(rows_of((value.conj() * gradient).real, axis))  # called twice: both count

    return tap_gradient(module, site[1], add)
