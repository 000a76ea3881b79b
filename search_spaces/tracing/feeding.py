"""Which inputs of a network have channels that may go, and along which axis: found out by trying."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from search_spaces.companions import along
from search_spaces.groups import ChannelGroup
from search_spaces.inputs import INPUT, inputs_of
from search_spaces.recorder import Recorder
from search_spaces.space import SearchSpace

Trace = Callable[[nn.Module, Any, Any, Mapping[str, int]], SearchSpace]  # model, args, kwargs, name -> axis


def fed(rec: Recorder, name: str, x: Tensor) -> Tensor:
    """The channels of an input that is tried are a group."""
    axis = rec.inputs[name]
    known = rec.axes.get((name, axis))
    ids = known[1] if known else rec.register(name, axis, rec.channels.allocate(x.shape[axis]), INPUT)
    rec.set(x, along(ids, axis, x.shape))
    return x


def traced_inputs(model: nn.Module, args: Any, kwargs: Any, trace: Trace) -> SearchSpace:
    """The space in which every input has lost what it can, one after the other.

    One that cannot lose any (a mask, tokens) is traced as if it had no channels, so that it freezes nothing; why it
    cannot stands among the frozen groups.

    Raises:
        ValueError: If the network takes no tensor with channels.
    """
    inputs = inputs_of(model, args, kwargs)
    if not inputs:
        raise ValueError(f"prune_inputs: {type(model).__name__} must take a tensor [N, C, ...]")
    taken: dict[str, int] = {}
    refused: list[ChannelGroup] = []
    space: SearchSpace | None = None
    for name, x in inputs.items():
        why: tuple[ChannelGroup, ...] = ()
        for axis in (axis for axis in ((1, 2) if x.dim() == 3 else (1,)) if x.shape[axis] > 1):
            try:
                found = trace(model, args, kwargs, {**taken, name: axis})
            except ValueError:  # nothing is left
                continue
            if {*taken, name} <= _lose(found.groups):
                taken[name], space = axis, found
                break
            why = tuple(g for g in found.frozen if name in _lose((g,)))
        else:
            refused += [replace(g, members=tuple(m for m in g.members if m.tensor == name)) for g in why]
    space = space or trace(model, args, kwargs, {})
    return replace(space, frozen=(*refused, *space.frozen))


def _lose(groups: tuple[ChannelGroup, ...]) -> set[str]:
    """The inputs that lose channels with these groups."""
    return {member.tensor for group in groups for member in group.members if member.role == INPUT}
