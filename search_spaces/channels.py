"""Channel ids: allocate, unite, freeze, and solve into connected components.

Id 0 stands for "a constant": a value that belongs to no channel and cannot be removed.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

CONSTANT = 0


class Channels:
    """All channel ids of one trace and what is known about them."""

    def __init__(self) -> None:
        self.count = 1
        self._pairs: list[NDArray[np.int64]] = []
        self._frozen: list[tuple[NDArray[np.int64], str]] = []
        self._labels: NDArray[np.int64] | None = None

    def allocate(self, number: int) -> Tensor:
        """`number` new ids, [number] int64."""
        ids = torch.arange(self.count, self.count + number)
        self.count += number
        self._labels = None
        return ids

    def unite(self, a: Tensor, b: Tensor, why: str) -> None:
        """Channels at the same position of `a` and `b` (same number of ids) live or die together.

        Args:
            a: Ids.
            b: Ids.
            why: Reason given where a channel meets a constant and is therefore frozen.
        """
        if a is b:
            return
        left, right = a.reshape(-1).numpy(), b.reshape(-1).numpy()
        differ = left != right
        codes = np.unique(left[differ] << 32 | right[differ])  # one sort of plain integers: ids stay below 2^31
        if not codes.size:
            return
        pairs = np.stack([codes >> 32, codes & 0xFFFFFFFF])
        constant = (pairs == CONSTANT).any(0)
        if constant.any():
            self.freeze(torch.from_numpy(pairs[:, constant].max(0)), why)
            pairs = pairs[:, ~constant]
        if pairs.size:
            self._pairs.append(pairs)
            self._labels = None

    def freeze(self, ids: Tensor, why: str) -> None:
        """None of these channels may be removed; the first reason given is the one reported."""
        found = np.unique(ids.reshape(-1).numpy())
        found = found[found != CONSTANT]
        if found.size:
            self._frozen.append((found, why))

    @property
    def labels(self) -> NDArray[np.int64]:
        """[count] the connected component of every id."""
        if self._labels is None:
            pairs = np.concatenate(self._pairs, 1) if self._pairs else np.zeros((2, 0), np.int64)
            if len(self._pairs) > 1:
                self._pairs = [pairs]  # what is solved once need not be joined again
            graph = coo_matrix((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), (self.count, self.count))
            self._labels = connected_components(graph, directed=False)[1].astype(np.int64)
        return self._labels

    def canonical(self, ids: Tensor) -> Tensor:
        """The same companion with one id (the lowest) per component, so that united channels compare equal."""
        if not self._pairs:
            return ids
        labels = self.labels
        lowest = np.zeros(labels.max() + 1, np.int64)
        lowest[labels[::-1]] = np.arange(self.count)[::-1]
        table = torch.from_numpy(lowest[labels])
        small = ids[tuple(slice(0, 1) if s == 0 and n > 1 else slice(None) for s, n in zip(ids.stride(), ids.shape, strict=True))]
        return table[small].expand(ids.shape)

    def reasons(self) -> dict[int, str]:
        """Component -> why it is frozen."""
        labels, found = self.labels, dict[int, str]()
        for ids, why in self._frozen:
            for label in np.unique(labels[ids]).tolist():
                found.setdefault(label, why)
        return found
