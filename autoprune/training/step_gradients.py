"""Mask gradients of each sample while a network trains, however many passes a step has.

Letters: `N` samples of a step, `C` units of a group.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.criteria.gradients import MaskGradients
from autoprune.criteria.sites import Site
from autoprune.tasks import num_samples
from autoprune.training.opened import Opened
from search_spaces import SearchSpace


class StepGradients:
    """Listens to the backward passes of each step, see `MaskGradients`; until `close`.

    A layer may be called several times in a pass, each time with all samples: its gradients are added up. One that is
    called with so many rows that they cannot be shared out among the samples (crops of some of them, a part of them)
    gives one row a pass, as a bare parameter does, and so does each group that it reads; that is said once. Backward
    passes that give no parameter a gradient are the loss's own (an attack on the input) and are not heard. What such a
    pass adds to the loss (a penalty on gradients) is not seen where it reaches through the layers; that is said, too.

    Args:
        net: That trains.
        space: Its groups.
    """

    def __init__(self, net: nn.Module, space: SearchSpace) -> None:
        self._opened = Opened(net)
        modules, parameters = (dict(f(remove_duplicate=False)) for f in (net.named_modules, net.named_parameters))
        self._masks = MaskGradients(space, modules, parameters, self._hear)
        self._heard: list[dict[Site, list[Tensor]]] = []  # in each backward pass
        self._hearing = self._counts = False
        self._said: set[str] = set()
        trained = (p for p in net.parameters() if p.requires_grad)
        self._hooks = [p.register_post_accumulate_grad_hook(self._count) for p in trained]

    def _hear(self) -> None:
        """In the first moment of a backward pass: put by what it brings when it is over."""
        if not self._hearing:
            self._hearing = True
            if torch.is_grad_enabled():  # create_graph
                self._say(
                    "derivatives",
                    "the loss takes derivatives of the network, and how these change with a unit is left out where "
                    "units are judged",
                )
            torch.autograd.Variable._execution_engine.queue_callback(self._put_by)  # type: ignore[no-untyped-call]

    def _count(self, _: Tensor) -> None:
        self._counts = True

    def _put_by(self) -> None:
        if self._counts:
            self._heard.append(dict(self._masks.sums))
        self._masks.sums.clear()
        self._hearing = self._counts = False

    def result(self, passes: Sequence[tuple[Any, Any, float]]) -> tuple[Tensor, ...]:
        """Per group [N, C] of a step, see `Step`; then it begins anew."""
        sizes = [num_samples(batch) for batch, _, _ in passes]
        if len(self._heard) != len(sizes):  # one in several pieces (re-entrant checkpoints), or none
            sites = dict.fromkeys(site for heard in self._heard for site in heard)
            self._heard = [{site: [t for heard in self._heard for t in heard.get(site, ())] for site in sites}]
            sizes = [sum(sizes)]
        for size, heard in zip(sizes, self._heard, strict=True):
            self._tell(size, heard)
            self._masks.sums.update(heard)
            self._masks.end(size)
            self._masks.sums.clear()
        found = self._masks.result()
        self._heard, self._masks.found = [], [[] for _ in found]
        return found

    def _tell(self, size: int, heard: dict[Site, list[Tensor]]) -> None:
        """Say it once if gradients of single samples cannot be told apart."""
        uneven = {site[0]: len(rows) for site, calls in heard.items() for rows in calls
                  if site[1] != "weight" and len(rows) % size}  # fmt: skip
        if uneven:
            (name, count), *more = uneven.items()
            others = f" and {len(more)} more" if more else ""
            self._say(
                "samples",
                f"layer '{name}'{others}: called with {count} rows for {size} samples, so their gradients cannot be "
                "told apart, and the groups that it reads are judged by the sum over the samples; a network whose "
                "layers see all samples in each call is judged by each of them",
            )

    def _say(self, about: str, text: str) -> None:
        """Once of each."""
        if about not in self._said:
            self._said.add(about)
            warnings.warn(text, stacklevel=2)

    def close(self) -> None:
        """Listen no more."""
        self._masks.remove()
        for hook in self._hooks:
            hook.remove()
        self._opened.close()
