"""Layers: functions that take parameters. They read input ids and make or pass output ids."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.companions import along, constant, line_of
from search_spaces.counts import ChannelCount, Size, plain
from search_spaces.groups import layer_of
from search_spaces.recorder import Recorder
from search_spaces.rules.parameters import convolved_with, filtered_with, times_view

Rule = Callable[[Recorder, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


def bind(names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name; None where not given."""
    return dict.fromkeys(names) | dict(zip(names, args, strict=False)) | kwargs


def owner_of(rec: Recorder, name: str | None) -> str:
    """The layer that owns a parameter, one that it computes its weight from included."""
    return rec.path[-1] if name is None else layer_of(name)


def computed(rec: Recorder, out: Tensor, weight: Tensor, values: Any) -> Tensor:
    """A layer whose weight is not a parameter but computed (weight norm, hyper-networks): nothing can be sliced."""
    why = f"the weight of {rec.where} is computed, not a parameter{first(rec.modules[rec.path[-1]])}"
    rec.freeze_all(values, why)
    rec.obstacles[rec.path[-1], out.shape[out.dim() - weight.dim() + 1]] = why
    makes = weight.shape[0]
    rec.multiplies("fixed", kernel=1, pixels=out.numel() / makes / rec.batch * weight[0].numel(), reads=1, makes=makes)
    return out


def first(module: nn.Module) -> str:
    """What makes a computed weight a parameter again."""
    if hasattr(module, "weight_fake_quant"):
        return ": prune before prepare_qat"
    if hasattr(module, "weight_mask"):
        return ": call torch.nn.utils.prune.remove first"
    if hasattr(module, "parametrizations"):
        return ": call torch.nn.utils.parametrize.remove_parametrizations first"
    return ""


def convolution(rec: Recorder, func: Any, args: Any, kwargs: Any, *, transposed: bool = False) -> Tensor:
    """Dense: reads axis 1 of its weight, makes axis 0 (transposed: vice versa). Grouped: see `grouped`."""
    a = bind(TRANSPOSED if transposed else CONVOLUTION, args, kwargs)
    x, weight = a["input"], a["weight"]
    groups = 1 if a["groups"] is None else a["groups"]
    with rec.inside(opaque=True):
        out: Tensor = func(*args, **kwargs)
    name = rec.name_of(weight)
    if name is None:
        if (made := with_filters(rec, x, out, weight, groups, transposed=transposed)) is not None:
            add_bias(rec, a["bias"], made)
            rec.set(out, along(made, x.dim() - weight.dim() + 1, out.shape))
            return out
        if (view := rec.view_of(weight)) is not None:
            if not isinstance(groups, ChannelCount) and groups == 1:
                made = convolved_with(rec, x, view, out, transposed=transposed)
            elif not transposed:
                made = filtered_with(rec, x, view, out, groups)
        if made is None:
            return computed(rec, out, weight, (x, weight, a["bias"]))
        add_bias(rec, a["bias"], made)
        rec.set(out, along(made, x.dim() - weight.dim() + 1, out.shape))
        return out
    convolved(rec, x, out, name, weight, a["bias"], groups, transposed=transposed)
    return out


def convolved(
    rec: Recorder, x: Tensor, out: Tensor, name: str, weight: Tensor, bias: Tensor | None, groups: int,
    *, transposed: bool = False,
) -> None:  # fmt: skip
    """What a convolution has done, with the parameter called `name` (or what is computed from it) as its weight."""
    spatial = weight.dim() - 2
    channel = x.dim() - spatial - 1
    kernel: float = math.prod(weight.shape[2:])
    pixels = out.numel() / out.shape[channel] / rec.batch
    if transposed:  # multiply-adds happen once per *input* position
        kernel *= math.prod(x.shape[channel + 1 :]) / math.prod(out.shape[channel + 1 :])
    if (axes := rec.varying(x)) and channel not in axes:
        if len(axes) == 1 and (axes[0] < channel or out.shape == x.shape):
            beside(rec, x, (weight, bias), out, axes[0], slides=axes[0] > channel)
            return
        rec.freeze(rec.ids(x), f"{rec.where} slides over the channels")
        rec.set(x, None)
    ids = (rec.read if plain(groups) == x.shape[channel] else rec.mix)(x, channel)
    if not isinstance(groups, ChannelCount) and groups == 1:
        into, outof = (0, 1) if transposed else (1, 0)
        ids = rec.register(name, into, ids, "in")
        made = rec.makes(name, outof, out.shape[channel])
        reads: Tensor | int = ids
    else:
        made, reads = grouped(rec, name, weight, ids, groups, out.shape[channel], transposed)
    add_bias(rec, bias, made)
    kind = "conv_transpose" if transposed else "conv"
    rec.multiplies(kind, kernel=kernel, pixels=pixels, reads=reads, makes=made, owner=owner_of(rec, name))
    rec.set(out, along(made, channel, out.shape))


def with_filters(
    rec: Recorder, x: Tensor, out: Tensor, weight: Tensor, groups: int, *, transposed: bool
) -> Tensor | None:
    """A depthwise convolution whose filters belong to channels already: one that the code gives to each of them, say.

    Returns:
        The ids that it makes: those that it reads; None where it is none.
    """
    channel, number = x.dim() - weight.dim() + 1, plain(groups)
    filters = weight.shape[1] if transposed else out.shape[channel] // number
    if rec.companion(weight) is None or rec.varying(weight) != [0] or number != x.shape[channel]:
        return None
    if weight.shape[0] * (filters if transposed else weight.shape[1]) != out.shape[channel]:
        return None
    if not set(rec.varying(x)) <= {channel}:
        return None
    ids, line = rec.read(x, channel), line_of(rec.ids(weight), 0).reshape(number, -1)
    rec.channels.unite(ids[:, None].expand_as(line), line, f"a filter of {rec.where} reads a constant")
    if isinstance(groups, (ChannelCount, Size)):
        why = f"the groups of {rec.where} count other channels"
        if isinstance(groups, Size):
            rec.claim(groups.terms, ids, why)
        else:
            rec.promise(groups, ChannelCount.of(ids, rec), why)
    else:
        rec.freeze(ids, f"groups={number} is written in the code of {rec.where}")
    made = ids.repeat_interleave(filters)
    spread = x if transposed else out
    pixels = spread.shape[channel + 1 :].numel() * out.shape[:channel].numel() / rec.batch
    kernel, kind = math.prod(weight.shape[2:]), "conv_transpose" if transposed else "conv"
    rec.multiplies(kind, kernel=kernel, pixels=pixels, reads=1, makes=made)
    return made


def grouped(
    rec: Recorder, name: str, weight: Tensor, ids: Tensor, groups: int, size: int, transposed: bool
) -> tuple[Tensor, Tensor | int]:
    """The ids a grouped convolution makes, and the channels that each of them reads.

    Whole groups live or die where that makes the smaller units (depthwise, ResNeXt); else one position of every group
    does, so that each group keeps as many and their number stays (two wide groups after a concatenation).
    """
    number = plain(groups)
    owner = owner_of(rec, name)
    per_group = ids.reshape(number, -1)
    known = getattr(rec.modules.get(owner), "groups", None) == number
    depthwise = per_group.shape[1] == 1 and size == number
    if isinstance(groups, ChannelCount) or depthwise:
        whole = True
    elif known:
        whole = rec.loses_whole_groups(owner, number, per_group.shape[1])
    else:
        whole = number >= per_group.shape[1]
    if not whole:
        return each_group_alike(rec, name, per_group, size, transposed)
    if isinstance(groups, ChannelCount):
        rec.promise(groups, ChannelCount.of(per_group[:, 0], rec), f"the groups of {rec.where} count other channels")
    elif not known:
        rec.freeze(ids, f"groups={number} is written in the code of {rec.where}")
    rec.channels.unite(
        per_group[:, :1].expand_as(per_group), per_group, f"{rec.where} reads a constant in the same group"
    )
    if depthwise:
        made = ids
    elif transposed:
        made = per_group[:, :1].expand(number, size // number).reshape(-1)
    else:
        made = rec.makes(name, 0, size)
        rec.channels.unite(
            made.reshape(number, -1), per_group[:, :1].expand(number, size // number), f"{rec.where} reads a constant"
        )
    rec.register(name, 0, ids if transposed else made, "out")
    rec.grouped[owner] = weight.shape[0] // number
    return made, per_group.shape[1]


def each_group_alike(rec: Recorder, name: str, per_group: Tensor, size: int, transposed: bool) -> tuple[Tensor, Tensor]:
    """The same of a convolution whose groups all lose the channels at the same positions."""
    number = len(per_group)
    why = f"{rec.where} has {number} groups, and reads a constant in another one of them"
    rec.channels.unite(per_group[:1].expand_as(per_group), per_group, why)
    if transposed:
        rec.register(name, 0, per_group.reshape(-1), "in")
        made = rec.makes(name, 1, size // number).repeat(number)
    else:
        rec.register(name, 1, per_group[0], "in")
        made = rec.makes(name, 0, size)
        rows = made.reshape(number, -1)
        rec.channels.unite(rows[:1].expand_as(rows), rows, why)
    return made, per_group[0]


def add_bias(rec: Recorder, bias: Tensor | None, made: Tensor) -> None:
    """A bias lives with the channels it is added to."""
    if bias is not None:
        lives_with(rec, bias, made, "out", "the bias")


def lives_with(rec: Recorder, value: Tensor, ids: Tensor, role: str, said: str) -> None:
    """A number for each channel, [n], goes with it, whether a parameter holds it or it is computed."""
    if (name := rec.name_of(value)) is not None:
        rec.register(name, 0, ids, role)
    else:
        rec.channels.unite(ids, rec.read(value, 0), f"{said} of {rec.where} is computed")


def linear(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Reads axis 1 of its weight along the last axis of the input, makes axis 0."""
    a = bind(("input", "weight", "bias"), args, kwargs)
    x, weight = a["input"], a["weight"]
    with rec.inside(opaque=True):
        out: Tensor = func(*args, **kwargs)
    name = rec.name_of(weight)
    if name is None and weight.dim() == 2 and (view := rec.view_of(weight)) is not None:
        made = times_view(rec, x, view, view.axes[1], view.axes[0], out.numel() / out.shape[-1] / rec.batch)
        if made is not None:
            add_bias(rec, a["bias"], made)
            rec.set(out, along(made, -1, out.shape))
            return out
    if name is None or weight.dim() != 2:
        return computed(rec, out, weight, (x, weight, a["bias"]))
    projected(rec, x, out, name, weight, a["bias"])
    return out


def projected(rec: Recorder, x: Tensor, out: Tensor, name: str, weight: Tensor, bias: Tensor | None) -> None:
    """What a linear layer has done, with the parameter called `name` (or what is computed from it) as its weight."""
    made = rec.makes(name, 0, weight.shape[0])
    add_bias(rec, bias, made)
    axes = rec.varying(x)
    if len(axes) == 1 and axes[0] != x.dim() - 1 and rec.is_bare(rec.ids(x)):  # a table of coordinates, say
        rec.misread(rec.ids(x), f"{rec.where} reads it along another axis")
    elif len(axes) == 1 and axes[0] != x.dim() - 1:
        beside(rec, x, (weight, bias), out, axes[0])
        return
    ids = rec.register(name, 1, rec.mix(x, -1), "in")
    pixels = out.numel() / weight.shape[0] / rec.batch
    rec.multiplies("linear", kernel=1, pixels=pixels, reads=ids, makes=made, owner=owner_of(rec, name))
    rec.set(out, along(made, -1, out.shape))


def beside(
    rec: Recorder, x: Tensor, tensors: Sequence[Tensor | None], out: Tensor, axis: int, *, slides: bool = False
) -> None:
    """A layer over other axes than that of the channels (token mixing, heads in the batch): they pass it, it stays.

    One that slides over the channels themselves (efficient channel attention) slides over the kept ones.
    """
    weight = tensors[0]
    assert weight is not None
    owner = owner_of(rec, rec.names.get(id(weight)))
    for tensor in tensors:
        rec.freeze_all(tensor, f"'{owner}' mixes positions, not channels")
    name = rec.names[id(weight)]
    rec.register(name, 1, constant(weight.shape[1:2]), "in")
    rec.reached.add(name)
    channels = line_of(rec.ids(x), axis)
    if slides:
        rec.contracts(channels, back=x.dim() - 1 - axis)
    inner = weight[0].numel()
    pixels = out.numel() / len(channels) / rec.batch
    kind = "linear" if weight.dim() == 2 else "conv"
    rec.multiplies(kind, kernel=1, pixels=pixels, reads=inner, makes=channels, owner=owner)
    rec.set(out, along(channels, axis, out.shape))


def embedding(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Makes the channels of axis 1 of its table."""
    indices, weight = (bind(("input", "weight"), args, kwargs)[name] for name in ("input", "weight"))
    rec.freeze_all(indices, f"it chooses what is taken in {rec.where}")
    with rec.inside(opaque=True):
        out: Tensor = func(*args, **kwargs)
    if (name := rec.name_of(weight)) is None:
        rec.freeze_all(weight, f"the table of {rec.where} is computed")
        return out
    rec.set(out, along(rec.makes(name, 1, weight.shape[1]), -1, out.shape))
    return out


FUNCTIONS: dict[Any, Rule] = {
    **dict.fromkeys([torch.conv1d, torch.conv2d, torch.conv3d], convolution),
    **dict.fromkeys(
        [torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d], partial(convolution, transposed=True)
    ),
    functional.linear: linear,
    functional.embedding: embedding,
}
