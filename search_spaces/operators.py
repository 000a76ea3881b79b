"""`OperatorMode`: a look at every ATen operator that a network runs."""

from __future__ import annotations

import functools
import sys
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

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


@contextmanager
def uncompiled() -> Iterator[None]:
    """What the network has compiled (`torch.compile` of a function or part) runs as it is written, to be seen."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; to import it takes seconds
        yield
        return
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks", UserWarning)
        yield


class OperatorMode(TorchDispatchMode):
    """Sees the same operators in `torch.inference_mode` as outside it, and in what is compiled."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self._stances: list[AbstractContextManager[Any]] = []

    def __enter__(self) -> Any:
        self._stances.append(uncompiled())
        self._stances[-1].__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stances.pop().__exit__(*error)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # PyTorch would import its whole compiler (seconds) to be told not to compile this

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            with _disable_current_modes():  # the functions in it run in ways of their own
                return self.higher_order(func, args, kwargs)
        if torch.is_inference_mode_enabled():  # composite operators arrive whole there
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        with torch._C.DisableTorchFunction():  # a TorchScript function runs operators that no call of the API began
            return self.operator(func, args, kwargs)

    def higher_order(self, func: HigherOrderOperator, args: Any, kwargs: Any) -> Any:
        """Run an operator that takes functions (flex_attention, torch.cond ...) and return what it returns."""
        return func(*args, **kwargs)

    @abstractmethod
    def operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run `func` and return what it returns."""
