"""Fourier transforms and complex numbers: every channel by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from search_spaces.recorder import Recorder, name_of
from search_spaces.rules.reductions import level

aten = torch.ops.aten


def transform(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """FFT over axes without channels; a real one changes their sizes."""
    x, dims = args[0], {d % args[0].dim() for d in args[1]}
    ids = level(rec, rec.ids(x), dims, f"{name_of(func)} over the channels in {rec.where}")
    if ids is not None:
        for d in dims:
            ids = ids.narrow(d, 0, 1)
        rec.set(out, ids.expand(out.shape))


def as_real(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """[...] complex -> [..., 2]."""
    rec.set(out, rec.ids(args[0]).unsqueeze(-1).expand(out.shape))


def as_complex(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """The inverse."""
    ids = level(rec, rec.ids(args[0]), {out.dim()}, f"{name_of(func)} makes numbers of its channels in {rec.where}")
    if ids is not None:
        rec.set(out, ids.select(-1, 0))


OPERATORS: dict[Any, Any] = {
    **dict.fromkeys([aten._fft_r2c, aten._fft_c2r, aten._fft_c2c], transform),
    aten.view_as_real: as_real,
    aten.view_as_complex: as_complex,
}
