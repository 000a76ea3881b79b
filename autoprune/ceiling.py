"""A ceiling for what a builder allocates: arguments from a file may ask for terabytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_MAKES = frozenset(
    {"empty", "zeros", "ones", "full", "rand", "randn", "new_empty", "new_zeros", "new_full", "new_ones"}
)


class Ceiling(TorchDispatchMode):
    """In the block no more than so many bytes of tensors are made, all together; the one that would is not.

    Args:
        most: Bytes.
        what: Allocates, for the error.
    """

    def __init__(self, most: int, what: str) -> None:
        super().__init__()
        self.most, self.what, self._made = most, what, 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count what an operation would make before it does."""
        kwargs = kwargs or {}
        name = func.__name__.partition(".")[0]
        if name in _MAKES:
            sizes = kwargs.get("size", args[name.startswith("new_")] if len(args) > name.startswith("new_") else ())
            kind = kwargs.get("dtype") or torch.get_default_dtype()
            self._made += math.prod(sizes) * kind.itemsize
            if self._made > self.most:
                raise ValueError(
                    f"{self.what} is more than {self.most / 2**20:,.0f} MiB, and what was exported needs less"
                )
        return func(*args, **kwargs)
