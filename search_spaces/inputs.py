"""The channels that a network is fed with, as a group: which stay, and how they are taken from all of them.

A pruned network takes the kept channels only. Given all, as by the data that the dense network was trained on, it
takes the kept ones from them itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.contents import tensors_in
from search_spaces.groups import IntArray

INPUT: Final = "input"  # tensor and role of the group's member, and so its name


class InputSelection:
    """A hook of a pruned network that takes the kept channels from its first input.

    Attributes:
        kept: [C] numbers of the channels that stay.
        channels: How many the dense network takes.
        axis: Where they lie.
    """

    def __init__(self, kept: IntArray, channels: int, axis: int) -> None:
        self.kept, self.channels, self.axis = kept, channels, axis

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with the selection in place of the first tensor."""
        return first_exchanged(self.select, args, kwargs)

    def select(self, x: Tensor) -> Tensor:
        """The kept channels of `x`, which has all of them, or these already."""
        if x.shape[self.axis] != self.channels or len(self.kept) == self.channels:
            return x
        return x.index_select(self.axis, torch.from_numpy(self.kept).to(x.device))


def first_exchanged(change: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments in which the first tensor is changed.

    Raises:
        ValueError: If none of them is a tensor.
    """
    for number, value in enumerate(args):
        if isinstance(value, Tensor):
            return (*args[:number], change(value), *args[number + 1 :]), kwargs
    for name, value in kwargs.items():
        if isinstance(value, Tensor):
            return tuple(args), kwargs | {name: change(value)}
    raise ValueError("input channels: the network must take a tensor, and not only what holds some, to lose any of it")


def selection_of(model: nn.Module) -> InputSelection | None:
    """The selection of a pruned network; None where it takes what the dense one takes."""
    hooks = model._forward_pre_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, InputSelection)), None)


def set_selection(model: nn.Module, selection: InputSelection) -> None:
    """Make the network select; of what another pruning has left of its inputs, where there was one."""
    for key, hook in list(model._forward_pre_hooks.items()):
        if isinstance(hook, InputSelection):
            del model._forward_pre_hooks[key]
            model._forward_pre_hooks_with_kwargs.pop(key, None)
    model.register_forward_pre_hook(selection, prepend=True, with_kwargs=True)


def kept_inputs(model: nn.Module) -> IntArray | None:
    """[C] the numbers of the input channels that a pruned network takes; None if it takes all."""
    selection = selection_of(model)
    return None if selection is None else selection.kept.copy()


def select_inputs(model: nn.Module, inputs: Any) -> Any:
    """What a pruned network takes of the inputs of the dense one (their first tensor); the same if it takes all.

    Args:
        model: A pruned network, from `prune`, a search, or `autoprune.load`.
        inputs: A tensor, a tuple or list of arguments, or a dict of keyword arguments, with all channels.

    Raises:
        ValueError: If the channels are neither all nor those that the network takes.
    """
    selection = selection_of(model)
    if selection is None:
        return inputs
    first = next(tensors_in(inputs))
    if (found := first.shape[selection.axis]) not in (selection.channels, len(selection.kept)):
        raise ValueError(
            f"select_inputs: axis {selection.axis} must hold all {selection.channels} channels of the dense network or "
            f"the {len(selection.kept)} kept ones, found {found}"
        )
    if isinstance(inputs, Tensor):
        return selection.select(inputs)
    if isinstance(inputs, dict):
        return first_exchanged(selection.select, (), inputs)[1]
    return type(inputs)(first_exchanged(selection.select, inputs, {})[0])


def described_inputs(model: nn.Module, told: dict[str, Any]) -> dict[str, Any]:
    """What is said of a network's inputs (shape, mean, std ...), of those that it takes; and which these are."""
    selection = selection_of(model)
    if selection is None or "kept_channels" in told:
        return told
    kept = selection.kept.tolist()
    axis = selection.axis - 1  # without the batch
    changed: dict[str, Any] = {
        name: [value[i] for i in kept]
        for name, value in told.items()
        if isinstance(value, (list, tuple)) and name != "shape" and len(value) == selection.channels
    }
    shape = list(told.get("shape", ()))
    if axis < len(shape) and shape[axis] == selection.channels:
        changed["shape"] = [*shape[:axis], len(kept), *shape[axis + 1 :]]
    return {**told, **changed, "kept_channels": kept, "channels": selection.channels}


def composed(selection: InputSelection | None, kept: IntArray, channels: int, axis: int) -> InputSelection:
    """The selection of a network that is pruned, perhaps for a second time."""
    if selection is None:
        return InputSelection(kept, channels, axis)
    return InputSelection(np.asarray(selection.kept)[kept], selection.channels, selection.axis)
