"""A look at a network leaves it as it was, whatever its own code writes meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.contents import caches, tensors_in
from search_spaces.operators import OperatorMode

TABLES = [name for name, value in vars(nn.Module()).items() if isinstance(value, dict)]  # tensors, parts and hooks


@contextmanager
def preserved(model: nn.Module) -> Iterator[Written]:
    """Leave modes, tensors (but those of TorchScript), caches (empty inside) and the random state as they were.

    So are attributes, parts and hooks of modules (that the weights have been rescaled, or hooks installed, say), which
    belong together; what was not there goes.

    Yields:
        What is to be asked about each operator before it runs, or to be entered, and sees them by itself.
    """
    modes = [(m, m.training) for m in model.modules()]
    tables: list[tuple[dict[Any, Any], dict[Any, Any]]] = [
        (table, dict(table)) for m, _ in modes for name in TABLES if isinstance(table := getattr(m, name, None), dict)
    ]
    kept = caches(model)
    tables += [(table, dict(table)) for table in kept]
    for table in kept:
        table.clear()
    attributes = [(vars(m), dict(vars(m))) for m, _ in modes if not isinstance(m, torch.jit.ScriptModule)]
    values = [(b, b.detach().clone()) for b in model.buffers()]
    written = Written(model)
    try:
        with torch.random.fork_rng(devices=[]):
            yield written
    finally:
        for module, mode in modes:
            if isinstance(module, torch.jit.ScriptModule):
                module.training = mode  # which stands in the TorchScript
            else:
                vars(module)["training"] = mode
        for own, before in attributes:
            for name in own.keys() - before:
                del own[name]
            own.update((name, value) for name, value in before.items() if not _is_worked_out(value))
        for table, before in tables:
            table.clear()
            table.update(before)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
        written.restore()


def _is_worked_out(value: Any) -> bool:
    """A tensor of the last pass (a weight under weight norm): that of a new one can be copied with its module."""
    return isinstance(value, Tensor) and not value.is_leaf


class Written(OperatorMode):
    """Sees what is written into the parameters of a network (moving averages, clamps), and copies those before.

    Args:
        model: The network.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        plain = (p for p in model.parameters() if not nn.parameter.is_lazy(p) and is_plain(p))
        self._held = [(p, held) for p in plain if type(held := p.detach()) is Tensor]
        self._at = {held.untyped_storage()._cdata: held for _, held in self._held}
        self._copies: dict[int, torch.UntypedStorage] = {}

    def operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run it."""
        self.before(func, args, kwargs)
        return func(*args, **kwargs)

    def before(self, func: Any, args: Any, kwargs: Any) -> None:
        """Copy what an operator is about to write into."""
        if func._schema.is_mutable:
            for argument, value in zip(func._schema.arguments, args, strict=False):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    self._keep(value)
            self._keep(kwargs.get("out"))

    def _keep(self, written: Any) -> None:
        for tensor in tensors_in(written):
            place: int = tensor.untyped_storage()._cdata if is_plain(tensor) else 0
            if place in self._at and place not in self._copies:
                self._copies[place] = self._at[place].untyped_storage().clone()

    def restore(self) -> None:
        """Bring back what was copied, and what was exchanged by `parameter.data = ...`."""
        for place, copied in self._copies.items():
            self._at[place].untyped_storage().copy_(copied)
        for parameter, held in self._held:
            if (parameter.data_ptr(), parameter.shape, parameter.stride()) != (
                held.data_ptr(), held.shape, held.stride(),
            ):  # fmt: skip
                parameter.data = held


def is_plain(tensor: Tensor) -> bool:
    """Has it one memory of its own, in which its numbers stand?"""
    return tensor.layout is torch.strided and not tensor.is_nested
