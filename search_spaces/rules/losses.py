"""Losses between two hidden tensors (of vector quantisation, of distillation), summed or averaged over all they hold.

As other statistics (see reductions.py), over the kept channels; the channels of both go together.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from search_spaces.contents import tensors_in
from search_spaces.recorder import Recorder, name_of
from search_spaces.rules import reductions
from search_spaces.rules.arithmetic import combine


def loss(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """mse_loss(x, target) ...; with weights, or of two shapes (one is spread over the other), all of them stay."""
    x, target, *others = tensors_in((args, kwargs))
    if others or x.shape != target.shape:
        how = "with weights" if others else "of two shapes"
        rec.freeze_all((args, kwargs), f"{name_of(func)} {how} in {rec.where}")
        return
    ids = combine(rec, [x, target], x.shape)
    reductions.reduced(rec, func, args, ids, reductions.axes_of(func, args, kwargs), out)


OPERATORS: dict[Any, Any] = dict.fromkeys(reductions.LOSSES, loss)
