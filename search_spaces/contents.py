"""Every tensor within a value: what enters an operation, what leaves a network, what modules keep."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, GeneratorType, ModuleType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)
# Without tensors inside, and so common that they must cost nothing.
PLAIN = (
    int, float, complex, str, bytes, type(None), type(Ellipsis), torch.dtype, torch.device, torch.layout,
    torch.memory_format,
)  # fmt: skip
# What leads out of a value, into the program at large.
OUTSIDE = (nn.Module, type, ModuleType, BuiltinFunctionType, CodeType, FrameType, GeneratorType, torch.Generator)
CLOSED = (*PLAIN, *OUTSIDE)
COMMON = frozenset((*PLAIN, bool))  # told by a look at the type
OWN = frozenset(vars(nn.Module()))  # what PyTorch keeps in a module
CONTAINERS = frozenset((tuple, list, dict))  # likewise


def tensors_in(values: Any) -> Iterator[Tensor]:
    """All tensors within tuples, lists, dictionaries and objects of any kind (slots, deques, views, sets ...).

    In the order in which they stand there; a tensor that stands there twice comes twice, an object that does once.
    """
    if isinstance(values, Tensor):
        yield values
        return
    seen: set[int] = set()
    stack = [values]  # not recursive: an object may lead to a long chain of others
    while stack:
        value = stack.pop()
        kind = type(value)
        if kind in COMMON:
            continue
        if isinstance(value, Tensor):
            yield value
        elif kind in CONTAINERS or not isinstance(value, CLOSED):
            if id(value) in seen:
                continue
            seen.add(id(value))
            if kind is dict:
                stack.extend(reversed(value.values()))
            else:
                stack.extend(reversed(value if kind in CONTAINERS else _inside(value)))


def is_inexact(tensor: Tensor) -> bool:
    """Does it hold real or complex numbers, rather than counts, places or truth values?"""
    return tensor.is_floating_point() or tensor.is_complex()


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters, buffers, and tables that stand in plain attributes (which no state dict holds), by every name."""
    found = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for path, module in model.named_modules(remove_duplicate=False):
        for name, value in vars(module).items():
            if type(value) is Tensor and value.is_floating_point() and value.dim():
                found.append((f"{path}.{name}" if path else name, value))
    return found


def kept_in(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module that are not PyTorch's own, but for plain numbers and the like."""
    return {name: value for name, value in vars(module).items() if type(value) not in COMMON and name not in OWN}


def copy_of(model: AnyModule, shared: Iterable[Tensor] = ()) -> AnyModule:
    """A deep copy; what modules keep of their last pass (attention, a weight that a hook computes) has no graph in it.

    Args:
        model: Is left as it is.
        shared: Tensors that the copy has in common with it.

    Raises:
        TypeError: If something in it cannot be copied; or whatever else its own copying raises.
    """
    known = {id(t): t for t in shared}
    for tensor in (t for module in model.modules() for t in tensors_in(kept_in(module))):
        if not tensor.is_leaf and id(tensor) not in known:
            known[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(model, known)


def caches(model: nn.Module) -> list[dict[Any, Any]]:
    """Dictionaries in which modules keep what they have worked out (attention biases per device, say)."""
    return [
        table
        for module in model.modules()
        for name, table in vars(module).items()
        if type(table) is dict and "cache" in name and all(isinstance(value, Tensor) for value in table.values())
    ]


def _inside(value: Any) -> list[Any]:
    """What an object refers to: the garbage collector knows, whatever kind of object it is."""
    if isinstance(value, FunctionType):
        return [value.__closure__, value.__defaults__, value.__kwdefaults__]
    if isinstance(value, np.ndarray):
        return list(value.flat) if value.dtype == object else []
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=lambda item: str(getattr(item, "shape", item)))
    return gc.get_referents(value)
