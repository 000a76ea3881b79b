"""Modules that compute with the weights of their layers: made to call these, so that they can be listened to."""

from __future__ import annotations

from typing import Any

from torch import nn

from search_spaces.adapters import adapted

MISSING: Any = object()
PLACES = ("_parameters", "_buffers", "_modules")


class Opened:
    """A network in which attention calls its output layer, as its adapter makes it; until `close`.

    The same parameters, buffers and modules stay in the same places: what would need others is left as it is.

    Args:
        net: Is changed in place.
    """

    def __init__(self, net: nn.Module) -> None:
        self._before: list[tuple[nn.Module, type[nn.Module], dict[str, Any]]] = []
        for name, adapter in adapted(net).items():
            module = net.get_submodule(name)
            probe = object.__new__(type(module))  # parametrised modules refuse to be copied
            vars(probe).update(vars(module), **{place: dict(vars(module)[place]) for place in PLACES})
            adapter.adapt(probe)
            if not any(_changed(vars(module)[place], vars(probe)[place]) for place in PLACES):
                kind, own = type(module), dict(vars(module))
                adapter.adapt(module)
                self._before.append((module, kind, {k: own.get(k, MISSING) for k in _changed(own, vars(module))}))

    def close(self) -> None:
        """As it was."""
        while self._before:
            module, kind, own = self._before.pop()
            module.__class__ = kind
            for name, value in own.items():
                vars(module).pop(name, None) if value is MISSING else vars(module).__setitem__(name, value)


def _changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [name for name in {**old, **new} if old.get(name, MISSING) is not new.get(name, MISSING)]
