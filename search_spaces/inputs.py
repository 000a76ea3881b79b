"""The channels that a network is fed with, as groups: which stay, and how they are taken from all of them.

A pruned network takes the kept channels only. Given all, as by the data that the dense network was trained on, it
takes the kept ones from them itself. Of a network that is given one tensor these are called "input"; of one that is
given several, or any by name, "input:image" ("input:batch.image" within a dictionary, "input:0" of `*inputs`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from search_spaces.groups import IntArray

INPUT: Final = "input"  # role of the groups' members, and what their names begin with
Change = Callable[[str, Tensor], Tensor]  # name of an input, and it -> what takes its place


@dataclass(frozen=True, eq=False)
class Selected:
    """The channels of one input that stay.

    Attributes:
        kept: [C] their numbers.
        channels: How many the dense network takes.
        axis: Where they lie.
    """

    kept: IntArray
    channels: int
    axis: int

    def __call__(self, x: Tensor) -> Tensor:
        """The kept channels of `x`, which has all of them, or these already."""
        if x.shape[self.axis] != self.channels or len(self.kept) == self.channels:
            return x
        return x.index_select(self.axis, torch.from_numpy(self.kept).to(x.device))


class InputSelection:
    """A hook of a pruned network that takes the kept channels from its inputs.

    Attributes:
        parts: Name of an input -> what stays of it.
        arguments: Of the network's `forward`, those by position.
    """

    def __init__(self, model: nn.Module, parts: Mapping[str, Selected]) -> None:
        self.arguments, self.parts = positional(model), dict(parts)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with the kept channels in place of all."""
        return exchanged(self.arguments, self.parts, lambda name, x: self.parts[name](x), args, kwargs)


def positional(model: nn.Module) -> tuple[str, ...]:
    """The names of the arguments that a network takes by position."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def exchanged(
    arguments: Sequence[str], names: Collection[str], change: Change, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments in which some inputs are changed: tensors, and those in tuples and dictionaries.

    Args:
        arguments: What `positional` says.
        names: Of the inputs that are changed; "input": the first one that the network takes, whatever else there is
            (targets, say), and in whatever order names are given.
        change: Makes the new ones.
        args: By position.
        kwargs: By name.
    """
    given = _named(arguments, args, kwargs)
    place = {name: number for number, name in enumerate(arguments)}
    in_order = sorted(given, key=lambda pair: place.get(pair[0], len(place)))
    paths = [path for name, value in in_order for path, _ in _leaves(name, value)]  # PyTorch 2.7 exports no generator
    first = paths[0] if paths else ""

    def changed(path: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            name = INPUT if INPUT in names and path == first else f"{INPUT}:{path}"
            return change(name, value) if name in names else value
        if isinstance(value, dict):
            found = copy.copy(value)  # of its own kind
            for key, part in value.items():
                found[key] = changed(f"{path}.{key}", part)
            return found
        if isinstance(value, tuple):
            parts = [changed(f"{path}.{i}", part) for i, part in enumerate(value)]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        return value

    values = [changed(name, value) for name, value in given]
    return tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))


def _named(arguments: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Name and value of each argument, those by position first."""
    return [*((arguments[i] if i < len(arguments) else str(i), arg) for i, arg in enumerate(args)), *kwargs.items()]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors by where they are; a list holds samples, each with channels of its own."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, (tuple, dict)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(f"{path}.{key}", part)


def inputs_of(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Name -> what the network is given: [N, C, ...], or [N, T, C]."""
    leaves = [leaf for name, value in _named(positional(model), args, kwargs) for leaf in _leaves(name, value)]
    alone = len(leaves) == 1 and not kwargs
    return {INPUT if alone else f"{INPUT}:{path}": x for path, x in leaves if x.dim() > 1}


def selection_of(model: nn.Module) -> InputSelection | None:
    """The selection of a pruned network; None where it takes what the dense one takes."""
    hooks = model._forward_pre_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, InputSelection)), None)


def set_selection(model: nn.Module, parts: Mapping[str, Selected]) -> None:
    """Make the network select; of what another pruning has left of its inputs, where there was one."""
    for key, hook in list(model._forward_pre_hooks.items()):
        if isinstance(hook, InputSelection):
            del model._forward_pre_hooks[key]
            model._forward_pre_hooks_with_kwargs.pop(key, None)
    model.register_forward_pre_hook(InputSelection(model, parts), prepend=True, with_kwargs=True)


def composed(before: Selected | None, selected: Selected) -> Selected:
    """What stays of an input of a network that is pruned, perhaps for a second time."""
    return selected if before is None else Selected(before.kept[selected.kept], before.channels, before.axis)


def kept_inputs(model: nn.Module, name: str = "") -> IntArray | None:
    """[C] the numbers of the input channels that a pruned network takes; None if it takes all.

    Args:
        model: A pruned network, from `prune`, a search, or `autoprune.load`.
        name: Of the input, where several have lost channels: "image", "batch.image", "0", as in the name of its group.

    Raises:
        ValueError: If several have, and none of them is named; or the network has no argument of this name.
    """
    parts = {} if (selection := selection_of(model)) is None else selection.parts
    name = name.removeprefix(INPUT).removeprefix(":")
    argument = name.partition(".")[0]
    if name and not _takes(model, argument):
        known = ", ".join(positional(model))
        raise ValueError(f"kept_inputs: {type(model).__name__} has no input '{name}'; it takes {known}")
    if not name and len(parts) > 1:
        known = ", ".join(part.partition(":")[2] for part in parts)
        raise ValueError(f"kept_inputs: several inputs have lost channels ({known}); name one of them")
    found = parts.get(f"{INPUT}:{name}") if name else next(iter(parts.values()), None)
    if found is None and argument in positional(model)[:1]:  # the only one that it was given has no name
        found = parts.get(INPUT)
    return None if found is None else found.kept.copy()


def _takes(model: nn.Module, name: str) -> bool:
    """Whether a network may be given an argument of this name."""
    parameters = inspect.signature(model.forward).parameters.values()
    return any(p.name == name or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)


def select_inputs(model: nn.Module, inputs: Any) -> Any:
    """What a pruned network takes of the inputs of the dense one; the same if it takes all.

    Args:
        model: A pruned network, from `prune`, a search, or `autoprune.load`.
        inputs: A tensor, a tuple or list of arguments, or a dict of keyword arguments, with all channels.

    Raises:
        ValueError: If the channels are neither all nor those that the network takes.
    """
    selection = selection_of(model)
    if selection is None:
        return inputs

    def select(name: str, x: Tensor) -> Tensor:
        part = selection.parts[name]
        if (found := x.shape[part.axis]) not in (part.channels, len(part.kept)):
            raise ValueError(
                f"select_inputs: axis {part.axis} of '{name}' must hold all {part.channels} channels of the dense "
                f"network or the {len(part.kept)} kept ones, found {found}"
            )
        return part(x)

    if isinstance(inputs, Mapping):
        return exchanged(selection.arguments, selection.parts, select, (), inputs)[1]
    given = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    args, _ = exchanged(selection.arguments, selection.parts, select, given, {})
    return type(inputs)(args) if isinstance(inputs, (tuple, list)) else args[0]


def described_inputs(model: nn.Module, told: dict[str, Any]) -> dict[str, Any]:
    """What is said of a network's inputs (shape, mean, std ...), of those that it takes; and which these are.

    Of several inputs only the latter, by name.
    """
    selection = selection_of(model)
    if selection is None or "kept_channels" in told:
        return told
    parts = selection.parts
    if list(parts) != [INPUT]:
        names = {name: name.partition(":")[2] for name in parts}
        kept_of = {names[name]: part.kept.tolist() for name, part in parts.items()}
        return {**told, "kept_channels": kept_of, "channels": {names[n]: part.channels for n, part in parts.items()}}
    part = parts[INPUT]
    kept, axis = part.kept.tolist(), part.axis - 1  # without the batch
    changed: dict[str, Any] = {
        name: [value[i] for i in kept]
        for name, value in told.items()
        if isinstance(value, (list, tuple)) and name != "shape" and len(value) == part.channels
    }
    shape = list(told.get("shape", ()))
    if axis < len(shape) and shape[axis] == part.channels:
        changed["shape"] = [*shape[:axis], len(kept), *shape[axis + 1 :]]
    return {**told, **changed, "kept_channels": kept, "channels": part.channels}
