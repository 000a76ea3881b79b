"""A look at a network leaves it as it was, whatever its own code writes meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.contents import caches, tensors_in

Note = Callable[[Any], None]


@contextmanager
def preserved(model: nn.Module) -> Iterator[Note]:
    """Leave modes, tensors (but those of TorchScript), caches (empty inside) and the random state as they were.

    Yields:
        What is to be told of all that an operator is given, before it writes into some of it: parameters that are
        written into in place are copied then, and else not at all.
    """
    modes = [(m, m.training) for m in model.modules()]
    tables: list[tuple[dict[Any, Any], dict[Any, Any]]] = [
        (table, dict(table)) for m, _ in modes for table in (m._parameters, m._buffers) if isinstance(table, dict)
    ]
    kept = caches(model)
    tables += [(table, dict(table)) for table in kept]
    for table in kept:
        table.clear()
    values = [(b, b.detach().clone()) for b in model.buffers()]
    weights = _Weights(model)
    try:
        with torch.random.fork_rng(devices=[]):
            yield weights.before_write
    finally:
        for module, mode in modes:
            if isinstance(module, torch.jit.ScriptModule):
                module.training = mode  # which stands in the TorchScript
            else:
                vars(module)["training"] = mode
        for table, before in tables:
            table.clear()
            table.update(before)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
        weights.restore()


class _Weights:
    """What the parameters of a network held; they may be written into (moving averages of weights, clamps)."""

    def __init__(self, model: nn.Module) -> None:
        plain = (p for p in model.parameters() if not nn.parameter.is_lazy(p) and p.layout is torch.strided)
        self._held = [(p, held) for p in plain if type(held := p.detach()) is Tensor]
        self._at = {held.untyped_storage()._cdata: held for _, held in self._held}
        self._copies: dict[int, torch.UntypedStorage] = {}

    def before_write(self, values: Any) -> None:
        """Copy what is about to be written into."""
        for tensor in tensors_in(values):
            if tensor.layout is torch.strided and (place := tensor.untyped_storage()._cdata) in self._at:
                if place not in self._copies:
                    self._copies[place] = self._at[place].untyped_storage().clone()

    def restore(self) -> None:
        """Bring back what was copied, and what was exchanged by `parameter.data = ...`."""
        for place, copied in self._copies.items():
            self._at[place].untyped_storage().copy_(copied)
        for parameter, held in self._held:
            if parameter.data_ptr() != held.data_ptr() or parameter.shape != held.shape:
                parameter.data = held
