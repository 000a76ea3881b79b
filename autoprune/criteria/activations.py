"""What the readers of each unit see, as running totals: no feature map outlives its layer.

- "means": mean |A| over samples and positions.
- "zeros": share of A = 0.
- "ranks": mean rank of the maps of the first `RANKED` samples. A map is an [H, W] matrix; what has no rows and columns
  (vectors, tokens, flattened maps) is taken number by number, each a 1x1 matrix, whose rank is whether it is not zero.
- "contributions": G = mean over samples of the sum over all outputs y_q of a reader (q: channel and position) of
  v_q v_q', where v_q [C] is what each unit adds to y_q. Forming v_q for every q is out of reach; with random signs g_q
  one backward pass through the reader gives z = sum_q g_q v_q = sum over positions of A * d(sum_q g_q y_q)/dA, and the
  expectation of z z' is that sum, since the products of different q cancel. So each input and reader is one sample.

Positions of a unit and readers are averaged; contributions sum the positions before squaring, the readers after.

Letters: `N` samples, `C` units of a group, `I` positions on the channel axis of one layer's input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.criteria.sites import (
    Modules,
    Site,
    channel_axis,
    members_in_layers,
    of_units,
    rows_of,
    sites_of,
    tap,
)
from search_spaces import SearchSpace

RANKED = 128  # samples; the average rank hardly depends on how many (Lin et al. 2020), and it costs an SVD each


class Activations:
    """Listens to the forward passes of a network.

    Args:
        space: The network's groups.
        modules: Its modules by name, duplicates included.
        needs: Any of `KINDS`; others are ignored.

    Raises:
        ValueError: If no layer touches a group.
    """

    KINDS: ClassVar[frozenset[str]] = frozenset({"means", "zeros", "ranks", "contributions"})

    def __init__(self, space: SearchSpace, modules: Modules, needs: frozenset[str]) -> None:
        self.space, self.modules = space, modules
        self.rng = np.random.default_rng(0)
        self.count = self.samples = self.ranked = 0
        self.members = [members_in_layers(g, modules) for g in space.groups]
        self.rows: dict[str, dict[Site, list[Tensor]]] = {kind: {} for kind in sorted(needs & self.KINDS)}
        self.totals: list[dict[str, Tensor]] = [dict.fromkeys(self.rows, torch.zeros(())) for _ in space.groups]
        for site in sites_of(self.members, modules):
            tap(modules[site[0]], site[1], self._ear(modules[site[0]], site))

    def begin(self, batch: Any, size: int) -> None:
        """See `Observer`."""
        for rows in self.rows.values():
            rows.clear()
        self.samples = size
        self.ranked = min(self.samples, max(0, RANKED - self.count))
        self.count += self.samples

    def end(self, rows: int) -> None:
        """See `Observer`.

        Raises:
            ValueError: If none of a group's layers was called.
        """
        for group, members, totals in zip(self.space.groups, self.members, self.totals, strict=True):
            for kind, seen in self.rows.items():
                samples = self.ranked if kind == "ranks" else self.samples
                if samples == 0:
                    continue
                reduce = torch.sum if kind == "contributions" else torch.mean
                found = [f.double() for f in of_units(members, self.modules, seen, samples, reduce)]
                if not found:
                    raise ValueError(f"group '{group.name}': its activations must pass through a layer that is called, "
                                     f"found no call of {', '.join(sorted({m.layer for m in members}))}; choose a "
                                     "criterion of weights or gradients, e.g. 'taylor'")  # fmt: skip
                if kind == "contributions":
                    batch = torch.stack([f.T @ f for f in found]).sum(0)
                else:
                    batch = torch.stack([f.mean(0) for f in found]).mean(0) * samples
                totals[kind] = totals[kind] + batch

    def result(self) -> list[Mapping[str, Tensor]]:
        """Per group, by kind: [C] (contributions [C, C]), means over the samples."""
        counts = {kind: min(self.count, RANKED) if kind == "ranks" else self.count for kind in self.rows}
        return [{kind: total / max(1, counts[kind]) for kind, total in t.items()} for t in self.totals]

    def _ear(self, module: nn.Module, site: Site) -> Callable[[Tensor], Tensor]:
        axis = channel_axis(module)

        def see(value: Tensor) -> Tensor:
            seen = value.detach()
            for kind, rows in self.rows.items():
                if kind == "means":
                    found = rows_of(seen.abs(), axis, torch.mean)
                elif kind == "zeros":
                    found = rows_of((seen == 0).float(), axis, torch.mean)
                elif kind == "contributions":
                    found = rows_of(seen * self._slope(module if site[1] == "input" else None, seen), axis)
                elif not self.ranked:
                    continue
                else:
                    found = _ranks(seen[: len(seen) * self.ranked // self.samples].movedim(axis, 1))
                rows.setdefault(site, []).append(found)
            return value

        return see

    def _slope(self, reader: nn.Module | None, seen: Tensor) -> Tensor:
        """Gradient of the reader's outputs, added with random signs; units that nobody reads are their own output."""
        with torch.enable_grad():
            inputs = seen.clone().requires_grad_(True)
            outputs = inputs * 1 if reader is None else reader.forward(inputs)
            signs = self.rng.integers(0, 2, size=outputs.shape, dtype=np.int8) * 2 - 1
            slope: Tensor = torch.autograd.grad(outputs, inputs, torch.from_numpy(signs).to(outputs))[0]
        return slope


def _ranks(maps: Tensor) -> Tensor:
    """[N, I] ranks of [N, I, ...]."""
    if maps.dim() > 3:
        ranks: Tensor = torch.linalg.matrix_rank(maps.flatten(3))
        return ranks.float()
    return rows_of((maps != 0).float(), 1, torch.mean)
