"""Channel ids: allocate, unite, freeze; united ids share the lowest one among them, their *root*.

Id 0 stands for "a constant": a value that belongs to no channel and cannot be removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from search_spaces.companions import squeeze
from search_spaces.operators import quietly

CONSTANT = 0


def distinct(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n] the different ones, sorted: `numpy.unique` without its way round by a hash table."""
    found = np.sort(ids, axis=None)
    return found[np.append(True, found[1:] != found[:-1])] if found.size else found


class Channels:
    """All channel ids of one trace and what is known about them.

    Attributes:
        place: Says what is running, for messages.
    """

    def __init__(self) -> None:
        self._roots: NDArray[np.int64] = np.arange(1024)  # with room to grow: an id that is new is its own root
        self._number = 1
        self.place: Callable[[], str] = str
        self._united: list[tuple[NDArray[np.int64], str]] = []
        self._frozen: list[tuple[NDArray[np.int64], str]] = []
        self._numbers: dict[int, tuple[Tensor, Counter[int]]] = {}  # as long as nothing is united
        self._promises: list[tuple[Tensor, Fraction, Tensor | None, Fraction, str]] = []

    @quietly
    def allocate(self, number: int) -> Tensor:
        """`number` new ids, [number] int64."""
        first, self._number = self._number, self._number + number
        if self._number > len(self._roots):
            self._roots = np.append(self._roots, np.arange(len(self._roots), 2 * self._number))
        return torch.arange(first, self._number)

    @property
    def roots(self) -> NDArray[np.int64]:
        """[count] the lowest id that each id lives or dies together with."""
        return self._roots[: self._number]

    def unite(self, a: Tensor, b: Tensor, why: str) -> None:
        """Channels at the same position of `a` and `b` (same number of ids) live or die together.

        Args:
            a: Ids.
            b: Ids.
            why: Reason given where a channel meets a constant and is therefore frozen.
        """
        if a is b:
            return
        left, right = (self.roots[ids.reshape(-1).numpy()] for ids in (a, b))
        differ = left != right
        if not differ.any():
            return
        codes = distinct(left[differ] << 32 | right[differ])  # one sort of plain integers: ids stay below 2^31
        pairs = np.stack([codes >> 32, codes & 0xFFFFFFFF])
        constant = (pairs == CONSTANT).any(0)
        if constant.any():
            self.freeze(torch.from_numpy(pairs[:, constant].max(0)), why)
            pairs = pairs[:, ~constant]
        if not pairs.size:
            return
        ids = distinct(pairs)
        moved = np.arange(self._number)
        if ids.size == pairs.size:  # one to one
            moved[pairs.max(0)] = roots = pairs.min(0)
        else:
            row, column = np.searchsorted(ids, pairs)
            graph = coo_matrix((np.ones(len(row), np.int8), (row, column)), (len(ids), len(ids)))
            _, components = connected_components(graph, directed=False)
            _, lowest = np.unique(components, return_index=True)  # ids are sorted: the first of a component is lowest
            roots = ids[lowest]
            moved[ids] = roots[components]
        self.roots[:] = moved[self.roots]
        self._united.append((roots, self.place()))
        self._numbers.clear()

    def united_by(self, root: int) -> str:
        """What joined the channels of `root` last; empty if nothing did."""
        for ids, place in reversed(self._united):
            if (self.roots[ids] == root).any():
                return place
        return ""

    def freeze(self, ids: Tensor, why: str) -> None:
        """None of these channels may be removed; the first reason given is the one reported."""
        values = ids.numpy()  # and of an expanded axis one; by NumPy, as it may be asked inside of function transforms
        found = distinct(values[tuple(slice(0, 1) if step == 0 else slice(None) for step in values.strides)])
        found = found[found != CONSTANT]
        if found.size:
            self._frozen.append((found, why))

    def promise(
        self, left: Tensor, left_factor: Fraction, right: Tensor | None, right_factor: Fraction, why: str
    ) -> None:
        """The code relies on `len(left) * left_factor == len(right) * right_factor` whatever is pruned.

        Without `right`: on `len(left) * left_factor * right_factor` being a whole number. What holds is only known
        when all channels are united, so promises are kept in mind until `resolve`.
        """
        self._promises.append((left, left_factor, right, right_factor, why))

    def resolve(self) -> None:
        """Tie the channels of every promise of equal numbers, one to one; freeze those of others that do not hold."""
        for left, left_factor, right, right_factor, why in self._promises:
            if right is not None:
                kept = self.proportional(left, right, right_factor / left_factor)
            else:
                kept = all((n * left_factor * right_factor).denominator == 1 for n in self.numbers(left).values())
            if not kept and right is not None and left_factor == right_factor:
                self.unite(left, right, why)
            elif not kept:
                self.freeze(left, why)
                if right is not None:
                    self.freeze(right, why)
        self._promises.clear()

    def numbers(self, ids: Tensor) -> Counter[int]:
        """Root -> how often its channels occur among `ids`."""
        known = self._numbers.get(id(ids))
        if known is None:
            known = self._numbers[id(ids)] = ids, Counter(self.roots[ids.numpy()].tolist())
        return known[1]

    def proportional(self, here: Tensor, there: Tensor, factor: Fraction) -> bool:
        """Are there always `factor` times as many `here` as `there`, whatever is pruned?"""
        if here is there:
            return factor == 1
        a, b = self.numbers(here), self.numbers(there)
        return a.keys() == b.keys() and all(a[i] == b[i] * factor for i in a)

    def canonical(self, ids: Tensor) -> Tensor:
        """The same companion made of roots, so that united channels compare equal."""
        small = squeeze(ids)
        return torch.from_numpy(self.roots[small.numpy()]).reshape(small.shape).expand(ids.shape)

    @property
    def frozen(self) -> set[int]:
        """Roots that may not be removed, as far as is known."""
        return {root for ids, _ in self._frozen for root in distinct(self.roots[ids]).tolist()}

    def reasons(self) -> dict[int, str]:
        """Root -> why it is frozen."""
        found: dict[int, str] = {}
        for ids, why in self._frozen:
            for root in distinct(self.roots[ids]).tolist():
                found.setdefault(root, why)
        return found
