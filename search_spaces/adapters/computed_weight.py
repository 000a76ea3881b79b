"""Layers that compute their weight anew in every pass: what their adapters have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from search_spaces.adapters.adapter import Adapter, Call
from search_spaces.recorder import Recorder
from search_spaces.rules.layers import convolved, projected


class ComputedWeightAdapter(Adapter):
    """Convolutions and linear layers whose weight is computed from a parameter of the same shape.

    Channels go from that parameter, in such a way that the weight of those that stay is what it was.
    """

    def handles(self, module: nn.Module) -> bool:
        """See `Adapter.handles`."""
        return isinstance(module, (_ConvNd, nn.Linear)) and self.source(module) is not None

    @abstractmethod
    def source(self, module: nn.Module) -> str | None:
        """The parameter's name in the module; None if it is no module of this kind."""

    def trace(self, rec: Recorder, call: Call) -> None:
        """See `Adapter.trace`."""
        module: Any = call.module
        name = self.source(module)
        assert name is not None
        weight = call.tensor(name)
        assert weight is not None
        x = (*call.args, *call.kwargs.values())[0]
        if isinstance(module, nn.Linear):
            projected(rec, x, call.output, call.within(name), weight, module.bias)
        else:
            convolved(
                rec, x, call.output, call.within(name), weight, module.bias, module.groups, transposed=module.transposed
            )

    def exit(self, module: nn.Module) -> tuple[str, int, str | None] | None:
        """See `Adapter.exit`."""
        name = self.source(module)
        axis = 0 if getattr(module, "transposed", False) else 1
        return None if name is None else (name, axis, None if module.bias is None else "bias")

    def stop_reading(self, module: nn.Module, tensor: Tensor, axis: int, positions: Tensor) -> None:
        """Zeros in the parameter would change the weight elsewhere: the input is zero instead."""
        dim = -1
        if isinstance(module, _ConvNd):
            dim = -1 - len(module.kernel_size)
            if not module.transposed:
                starts = torch.arange(module.groups, device=positions.device) * tensor.shape[1]
                positions = (starts[:, None] + positions).flatten()
        module.register_forward_pre_hook(lambda _, args: (args[0].index_fill(dim, positions, 0), *args[1:]))
