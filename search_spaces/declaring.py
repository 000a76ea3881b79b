"""What a module that declares how it shrinks costs at any width: copies of it are shrunk, and run.

Its multiply-adds are taken for a + b * in + c * out + d * in * out; five widths tell, and must agree. They also tell
which axes of its parameters are as long as it reads, or makes, channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.contents import copy_of
from search_spaces.operators import OperatorMode
from search_spaces.rules.multiply_adds import multiply_adds
from search_spaces.shrinkable import Shrinkable, kept_channels

CLOSE, NOTHING = 1e-2, 1e-6  # of all its multiply-adds
Width = tuple[int, int]  # channels that it reads, and that it makes


@dataclass
class Declared:
    """A module that has been called, to be looked at when the trace is over: until then its sizes are counts.

    Attributes:
        module: The module.
        reads: Ids [in] of what it reads.
        makes: Ids [out] of what it makes.
        inputs: Of each call.
        pixels: Positions of what it has answered.
    """

    module: nn.Module
    reads: Tensor
    makes: Tensor
    inputs: list[Tensor] = field(default_factory=list)
    pixels: float = 0.0

    def work(self) -> list[tuple[float, Tensor | int, Tensor | int]]:
        """Its multiply-adds, as a sum of (number, read, made): ids or a number of channels; nothing if it has none.

        The first makes its channels, so that they are counted where layers are (activations). Where the multiply-adds
        are no such sum it is one with all channels, whatever goes.
        """
        full = (len(self.reads), len(self.makes))
        all_of_it = self._run(copy_of(self.module), full)
        if not all_of_it:
            return []
        try:
            less = {width: self._run(_shrunk(self.module, *width), width) for width in _widths(*full)}
            found = _fitted({**less, full: all_of_it})
        except Exception:  # whatever its own code raises: `verify` runs it, and says so
            found = None
        if found is None:
            return [(all_of_it / full[1], 1, full[1])]
        sides: list[tuple[Tensor | int, Tensor | int]] = [(r, m) for r in (1, self.reads) for m in (1, self.makes)]
        rows = [(each, *side) for each, side in zip(found, sides, strict=True) if each]
        rows.sort(key=lambda row: (row[2] is not self.makes, -row[0]))
        if rows and rows[0][2] is not self.makes:
            rows.insert(0, (0.0, 1, self.makes))
        return rows

    def lengths(self) -> dict[tuple[str, int], Tensor]:
        """(Parameter, axis) -> ids [size of the axis] of which as many stay as it will be long."""
        own = _shapes(self.module)
        if not own:
            return {}
        full = (len(self.reads), len(self.makes))
        less = _widths(*full)[:2]
        try:
            shapes = [_shapes(_shrunk(self.module, *width)) for width in less]
        except Exception:
            return {}
        found: dict[tuple[str, int], Tensor] = {}
        for name, shape in own.items():
            others = [each.get(name, ()) for each in shapes]
            if any(len(other) != len(shape) for other in others):
                continue
            for axis, size in enumerate(shape):
                for side, ids in enumerate((self.reads, self.makes)):
                    share = size // full[side]
                    follows = others[side][axis] == share * less[side][side] != size == share * full[side]
                    if follows and others[1 - side][axis] == size:
                        found[name, axis] = ids.repeat_interleave(share)
        return found

    def _run(self, module: nn.Module, width: Width) -> float:
        counted, module = _Counted(), module.eval()  # a copy
        with torch.no_grad(), torch.random.fork_rng(devices=[]), counted:
            for x in self.inputs:
                module(x[:, : width[0]])
        return counted.total


class _Counted(OperatorMode):
    """Adds up multiply-adds."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run it, and count."""
        out = func(*args, **kwargs)
        self.total += multiply_adds(func, args, out)
        return out


def _widths(reads: int, makes: int) -> Sequence[Width]:
    """Half of one side, of the other, of both, and something in between."""
    halves, thirds = ((reads + 1) // 2, (makes + 1) // 2), ((2 * reads + 2) // 3, (2 * makes + 2) // 3)
    return [(halves[0], makes), (reads, halves[1]), halves, thirds]


def _shrunk(module: nn.Module, reads: int, makes: int) -> nn.Module:
    found = copy_of(module)
    kept = kept_channels(cast(Shrinkable, module))
    cast(Shrinkable, found).shrink(kept[0][:reads], kept[1][:makes])
    return found


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def _fitted(seen: Mapping[Width, float]) -> list[float] | None:
    """The number without channels, for each channel made, for each read, for each pair; none if they do not fit."""
    widths, work = np.array(list(seen), float), np.array(list(seen.values()))
    full = widths.max(0)
    shares = widths / full
    columns = np.stack([np.ones(len(widths)), shares[:, 1], shares[:, 0], shares.prod(1)], 1)
    found = np.linalg.lstsq(columns, work, rcond=None)[0]
    if np.abs(columns @ found - work).max() > CLOSE * work.max() or found.min() < -NOTHING * work.max():
        return None
    numbers = found / (1, full[1], full[0], full.prod())
    return [
        float(number) if share > NOTHING * work.max() else 0.0 for number, share in zip(numbers, found, strict=True)
    ]
