"""In which of torch's modes the verbs work, whatever the caller's is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])


def with_gradients(function: F) -> F:
    """A function that trains: gradients are on in it, and tensors are ordinary, inside `no_grad`, too."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **kwargs)

    return cast(F, run)
