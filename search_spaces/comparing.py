"""What two runs of a network answer, and how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.contents import is_inexact, tensors_in
from search_spaces.operators import OperatorMode

aten = torch.ops.aten
# Operators whose answer depends on an order or a threshold: two runs that differ by one rounding may part there.
SELECTIONS = {
    aten.topk, aten.sort, aten.argsort, aten.argmax, aten.argmin, aten.kthvalue, aten.nonzero, aten.masked_select,
    aten.gt, aten.ge, aten.lt, aten.le,
}  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """One selection: what it was made from, and what was chosen (indices or truth values)."""

    scores: list[Tensor]
    chosen: list[Tensor]


class _Selections(OperatorMode):
    """Keeps all selections of a run (top-k, sorting, thresholds, suppression), in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Selection] = []
        self.narrowed = False

    def operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run it; of a selection, keep what it chose from and what it chose."""
        out = func(*args, **kwargs)
        if func.overloadpacket is aten._to_copy and args[0].dim() and args[0].dtype is torch.float64:
            self.narrowed |= out.is_floating_point() and out.dtype is not torch.float64
        if func.overloadpacket in SELECTIONS or func.namespace == "torchvision":
            scores = [a.detach().clone() for a in args if isinstance(a, Tensor) and a.dim()]
            self.found.append(Selection(scores, [t.clone() for t in tensors_in(out) if not is_inexact(t)]))
        return out


@dataclass(frozen=True)
class Answer:
    """What a network answers, the selections on the way there, and whether double precision was left on it."""

    tensors: list[Tensor]
    selections: list[Selection]
    is_narrowed: bool

    @classmethod
    def of(cls, model: nn.Module, args: Any, kwargs: Any) -> Answer:
        """Run the network."""
        with _Selections() as selections:
            output = model(*args, **kwargs)
        return cls(list(tensors_in(output)), selections.found, selections.narrowed)

    def is_finite(self, where: Callable[[Tensor], Tensor] = torch.all) -> bool:
        """Is every number of the answer finite (with `torch.any`: at least one in each tensor)?"""
        return all(bool(where(t.isfinite())) for t in self.tensors if is_inexact(t) and t.numel())

    @property
    def holds_numbers(self) -> bool:
        """Is there anything to compare?"""
        return any(t.numel() for t in [*self.tensors, *(s for x in self.selections for s in x.scores)])

    def apart(self, expected: Answer, dense: Answer) -> float:
        """How far this answer is from the expected one, relative to how far that one is from the dense network's.

        The scores that enter selections are compared as well: a detector that finds nothing answers empty tensors.
        Where equal scores change places (by rounding), what comes after cannot be compared, and is not.

        Returns:
            The largest relative difference; infinity where shapes or kinds differ.
        """
        worst = 0.0
        for number, (ours, theirs) in enumerate(zip(self.selections, expected.selections, strict=False)):
            known = dense.selections[number].scores if number < len(dense.selections) else []
            worst = max(worst, _largest(ours.scores, theirs.scores, known))
            if not all(map(_same, ours.chosen, theirs.chosen)):
                return worst
        if [(t.shape, t.dtype) for t in self.tensors] != [(t.shape, t.dtype) for t in expected.tensors]:
            return math.inf
        return max(worst, _largest(self.tensors, expected.tensors, dense.tensors))


def _largest(found: list[Tensor], expected: list[Tensor], dense: list[Tensor]) -> float:
    """The largest relative difference of tensors of equal shape (what pruning makes smaller is no answer)."""
    worst = 0.0
    for number, (a, b) in enumerate(zip(found, expected, strict=False)):
        if a.shape == b.shape and a.numel():
            worst = max(worst, _relative(a, b, dense[number] if number < len(dense) else None))
    return worst


def _relative(found: Tensor, expected: Tensor, dense: Tensor | None) -> float:
    """The largest difference of real and complex numbers, the share of places that differ of whole numbers.

    Relative to what pruning changes; where that is nothing (or cannot be said), to the largest number.
    """
    difference = _distance(found, expected)
    size = float(expected.abs().nan_to_num(0, 0).max()) if is_inexact(expected) else 1.0
    change = _distance(dense, expected) if dense is not None and dense.shape == expected.shape else 0.0
    return difference / max(change if 1e-9 * size < change < math.inf else size, 1e-12)


def _distance(a: Tensor, b: Tensor) -> float:
    if not is_inexact(a):
        return float((a != b).double().mean())
    wide = torch.complex128 if a.is_complex() else torch.float64
    same = (a == b) | (a.isnan() & b.isnan())  # equal infinities are no difference
    difference = (a.to(wide) - b.to(wide)).abs().masked_fill(same, 0)
    return float(difference.nan_to_num(math.inf).max())


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) if a.shape == b.shape else False
