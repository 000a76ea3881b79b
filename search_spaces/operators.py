"""`OperatorMode`: a look at every ATen operator that a network runs."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

P = ParamSpec("P")
R = TypeVar("R")
quiet = torch._C._DisableTorchDispatch  # a context in which no mode sees an operator


def quietly(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose operators no mode looks at: it works on companions, and there are many of them."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with quiet():
            return function(*args, **kwargs)

    return run


class OperatorMode(TorchDispatchMode):
    """Sees the same operators in `torch.inference_mode` as outside it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # PyTorch would import its whole compiler (seconds) to be told not to compile this

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # composite operators arrive whole there
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        return self.operator(func, args, kwargs)

    @abstractmethod
    def operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run `func` and return what it returns."""
