"""Mask gradients of each sample while a network trains, however many passes a step has.

Letters: `N` samples of a step, `C` units of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from autoprune.criteria.gradients import MaskGradients
from autoprune.tasks import num_samples
from autoprune.training.opened import Opened
from search_spaces import SearchSpace


class StepGradients:
    """Listens to the passes of each step, see `MaskGradients`; until `close`.

    Args:
        net: That trains.
        space: Its groups.
    """

    def __init__(self, net: nn.Module, space: SearchSpace) -> None:
        self._opened = Opened(net)
        modules, parameters = (dict(f(remove_duplicate=False)) for f in (net.named_modules, net.named_parameters))
        self._masks = MaskGradients(space, modules, parameters)
        self._heard: list[dict[Any, list[Tensor]]] = []  # in each pass
        self._hook = net.register_forward_pre_hook(lambda *_: self._put_by())

    def _put_by(self) -> None:
        """What was heard so far is of another pass than what follows."""
        if self._masks.sums:
            self._heard.append(dict(self._masks.sums))
            self._masks.sums.clear()

    def result(self, passes: Sequence[tuple[Any, Any, float]]) -> tuple[Tensor, ...]:
        """Per group [N, C] of a step, see `Step`; then it begins anew."""
        self._put_by()
        sizes = [num_samples(batch) for batch, _, _ in passes]
        if len(self._heard) != len(sizes):  # a task that calls the network in its own way
            sites = dict.fromkeys(site for heard in self._heard for site in heard)
            self._heard = [{site: [t for heard in self._heard for t in heard.get(site, ())] for site in sites}]
            sizes = [sum(sizes)]
        for size, heard in zip(sizes, self._heard, strict=True):
            self._masks.sums.update(heard)
            self._masks.end(size)
            self._masks.sums.clear()
        found = self._masks.result()
        self._heard, self._masks.found = [], [[] for _ in found]
        return found

    def close(self) -> None:
        """Listen no more."""
        self._masks.remove()
        self._hook.remove()
        self._opened.close()
