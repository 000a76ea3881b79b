"""Normalisations, and slopes of channels: functions that scale channels, each by itself or over the kept ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.companions import along
from search_spaces.counts import ChannelCount, Size, plain
from search_spaces.recorder import Recorder
from search_spaces.rules.layers import Rule, bind, lives_with

ROOT_MEAN_SQUARE = {functional.rms_norm, torch.rms_norm}


def per_channel(rec: Recorder, values: list[Tensor | None], ids: Tensor) -> None:
    """Scales, shifts and running statistics live with their channel."""
    for value in values:
        if value is not None and value.numel() != 1:
            lives_with(rec, value, ids, "norm", "a scale")


def batch_norm(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Batch-norm and instance-norm: each channel by itself."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training")
    a = bind(names, args, kwargs)
    if a["running_mean"] is not None:  # a trace in training mode must not touch the statistics
        args, kwargs = (
            args[:5],
            {k: v for k, v in kwargs.items() if k in ("running_mean", "running_var", "weight", "bias", "eps")},
        )
        if func is functional.instance_norm:
            kwargs["use_input_stats"] = False
    x = a["input"]
    with rec.inside(opaque=True):
        out: Tensor = func(*args, **kwargs)
    values = [a[n] for n in names[1:5]]
    if (axes := rec.varying(x)) and 1 not in axes and axes[0] == 0:  # heads in the batch
        rec.freeze_all(values, f"{rec.where} scales all of their channels alike")
        rec.set(out, rec.ids(x))
        return out
    if all(v is None for v in values):
        rec.set(out, rec.ids(x))
        statistics(rec, rec.read(x, 1), "num_features", required=False)
        return out
    ids = rec.read(x, 1)
    per_channel(rec, values, ids)
    statistics(rec, ids, "num_features", required=False)
    rec.set(out, along(ids, 1, out.shape))
    return out


def matches(rec: Recorder, line: Tensor, count: Any) -> bool:
    """Does an axis with ids `line` always have the size that `count` says, whatever is pruned?"""
    if isinstance(count, Size):  # it will follow them
        rec.claim(count.terms, line, f"the size {count.said} counts other channels in {rec.where}, too")
        return True
    return isinstance(count, ChannelCount) and rec.channels.proportional(line, count.ids, count.factor)


def statistics(rec: Recorder, ids: Tensor, attribute: str, *, required: bool) -> None:
    """A normaliser's size is an attribute of its module, which must shrink with the channels."""
    if has_size(rec, attribute):
        rec.register(rec.path[-1], 0, ids, "statistics")
    elif required:
        rec.freeze(ids, f"the size of a normalisation is written in the code of {rec.where}")


def has_size(rec: Recorder, attribute: str) -> bool:
    """Is the running module a normaliser, whose size is an attribute?"""
    module = rec.modules[rec.path[-1]]
    return attribute in vars(module) or hasattr(type(module), attribute)  # not read, or it would be counted


def layer_norm(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Layer-norm and RMS-norm: statistics are taken over the kept channels.

    These lie on the first of the axes that it runs over: the last of [N, L, C], or that of C in [N, C, H, W].
    """
    root = func in ROOT_MEAN_SQUARE
    a = bind(("input", "normalized_shape", "weight", *(() if root else ("bias",))), args, kwargs)
    x, number = a["input"], rec.products[rec.path[-1]] + 1
    with rec.inside(opaque=True):
        out: Tensor = func(*args, **kwargs)
    if root:
        rec.products[rec.path[-1]] = number  # it counts as one, whatever PyTorch made of it (see masking.py)
    dims = range(x.dim() - len(a["normalized_shape"]), x.dim())
    if not set(rec.varying(x)) & set(dims):
        rec.set(out, rec.ids(x))
        return out
    axis = dims[0]
    if len(dims) > 1 and rec.varying(x) != [axis]:
        rec.freeze_all(x, f"{rec.where} normalises over several axes")
        return out
    ids = rec.read(x, axis)
    per_channel(rec, [a["weight"], a.get("bias")], ids)
    if not has_size(rec, "normalized_shape") and matches(rec, ids, a["normalized_shape"][0]):
        rec.contracts(ids, back=0 if root else len(dims) - 1)
    else:
        statistics(rec, ids, "normalized_shape", required=True)
    rec.set(out, along(ids, axis, out.shape))
    return out


def group_norm(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Whole groups go, or one position of every group: whichever makes the smaller units."""
    a = bind(("input", "num_groups", "weight", "bias"), args, kwargs)
    x, groups = a["input"], a["num_groups"]
    with rec.inside(opaque=True):
        out: Tensor = func(*args, **kwargs)
    ids = rec.read(x, 1)
    if isinstance(groups, ChannelCount):
        rec.freeze(ids, f"the groups of {rec.where} are counted from its channels")
    number = plain(groups)
    tied = ids.reshape(number, -1)
    known = has_size(rec, "num_channels") and getattr(rec.modules[rec.path[-1]], "num_groups", None) == number
    whole = known and rec.loses_whole_groups(rec.path[-1], number, tied.shape[1])
    if isinstance(groups, Size) and not whole:
        rec.claim(groups.terms, None, f"it is the number of groups of {rec.where}")
    if whole:
        rec.grouped[rec.path[-1]] = tied.shape[1]
    first = tied[:, :1] if whole else tied[:1]
    rec.channels.unite(first.expand_as(tied), tied, f"{rec.where} normalises it with a constant")
    per_channel(rec, [a["weight"], a["bias"]], ids)
    if has_size(rec, "num_channels"):
        statistics(rec, ids, "num_channels", required=True)
    else:
        rec.contracts(ids, back=x.dim() - 2)  # the channels are its axis 1
    rec.set(out, along(ids, 1, out.shape))
    return out


def prelu(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Tensor:
    """One slope per channel, or one for all."""
    a = bind(("input", "weight"), args, kwargs)
    with rec.inside(opaque=True):
        out: Tensor = func(*args, **kwargs)
    if a["weight"].numel() == 1:
        rec.set(out, rec.ids(a["input"]))
        return out
    ids = rec.read(a["input"], 1)
    per_channel(rec, [a["weight"]], ids)
    rec.set(out, along(ids, 1, out.shape))
    return out


FUNCTIONS: dict[Any, Rule] = {
    **dict.fromkeys([functional.batch_norm, functional.instance_norm], batch_norm),
    **dict.fromkeys([functional.layer_norm, functional.rms_norm, torch.rms_norm, torch.layer_norm], layer_norm),
    functional.group_norm: group_norm,
    **dict.fromkeys([torch.prelu, functional.prelu], prelu),
}
