"""Packed sequences (torch.nn.utils.rnn): steps are laid out otherwise, channels pass."""

from __future__ import annotations

from typing import Any

import torch

from search_spaces.recorder import Recorder
from search_spaces.rules.reductions import level


def pack(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """[N, T, ...] -> the steps of all sequences, [steps, ...]."""
    with rec.inside(opaque=True):
        data, sizes = func(*args, **kwargs)
    small = level(rec, rec.ids(args[0]), (0, 1), f"pack_padded_sequence over the channels in {rec.where}")
    if small is not None:
        rec.set(data, small[0, :1].expand(data.shape))
    return data, sizes


def pad(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """The inverse."""
    with rec.inside(opaque=True):
        padded, lengths = func(*args, **kwargs)
    small = level(rec, rec.ids(args[0]), (0,), f"pad_packed_sequence over the channels in {rec.where}")
    if small is not None:
        rec.set(padded, small[:1, None].expand(padded.shape))
    return padded, lengths


FUNCTIONS: dict[Any, Any] = {torch._pack_padded_sequence: pack, torch._pad_packed_sequence: pad}
