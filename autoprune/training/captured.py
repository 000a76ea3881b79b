"""Forwards and backwards of a step as one CUDA graph: what a batch is put into its place for, and replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from autoprune.graphs import Capture, Graph
from autoprune.tasks import mapped


class CapturedPass:
    """The loss of a batch and its gradients; batches of the first one's shape go through the graph, others do not.

    Args:
        loss: Of a batch, to be followed backwards; it leaves nothing else behind that changes from step to step.
        parameters: That get gradients.
        where: It is captured.
    """

    def __init__(self, loss: Callable[[Any], Tensor], parameters: Sequence[nn.Parameter], where: Capture) -> None:
        self._loss, self._parameters = loss, parameters
        self._graph = Graph(self._run, "training: forwards and backwards of a step", where)
        self._gradients: list[Tensor | None] = []
        self._batch: Any = None

    def __call__(self, batch: Any) -> Tensor | None:
        """The loss, which the next call overwrites; the gradients are left on the parameters, where there were none.

        Returns:
            None if it does not fit: nothing has happened then.
        """
        if self._batch is None:
            self._batch = mapped(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, batch)
        elif not self._put(batch):
            return None
        loss: Tensor = self._graph(self._forget)
        if self._graph.is_captured:
            self._gradients = self._gradients or [p.grad for p in self._parameters]
            for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
                parameter.grad = gradient
        return loss

    def _run(self) -> Tensor:
        loss = self._loss(self._batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _forget(self) -> None:
        """Gradients that are made in the graph stay in its memory, and are not added to what was there."""
        for parameter in self._parameters:
            parameter.grad = None

    def _put(self, batch: Any) -> bool:
        """Put a batch into the place of the first, if it is alike in all but numbers."""
        (old, form), (new, other) = tree_flatten(self._batch), tree_flatten(batch)
        if form != other or not all(map(_alike, old, new)):
            return False
        for place, value in zip(old, new, strict=True):
            if isinstance(place, Tensor):
                place.copy_(value, non_blocking=True)
        return True


def _alike(old: Any, new: Any) -> bool:
    """Whether one can stand in the place of the other."""
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        return (old.shape, old.dtype, old.device) == (new.shape, new.dtype, new.device)
    return not isinstance(old, Tensor) and isinstance(old, (str, int, float, bool, type(None))) and bool(old == new)
