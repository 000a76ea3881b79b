"""torchvision.ops.DeformConv2d: a convolution whose pixels lie where its second argument says."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from search_spaces.adapters.adapter import Adapter, Call
from search_spaces.recorder import Recorder
from search_spaces.rules.layers import convolved


class DeformableAdapter(Adapter):
    """Channels as in any convolution; offsets and modulation stay (Zhu et al. 2019, https://arxiv.org/abs/1811.11168).

    Where several groups of channels have offsets of their own, each loses as many.
    """

    def handles(self, module: nn.Module) -> bool:
        """By its name: torchvision need not be there."""
        return type(module).__name__ == "DeformConv2d" and type(module).__module__.startswith("torchvision.")

    def trace(self, rec: Recorder, call: Call) -> None:
        """See `Adapter.trace`."""
        module: Any = call.module
        x, offset, *mask = (*call.args, *call.kwargs.values())
        rec.freeze_all([offset, *mask], f"it says where {rec.where} looks")
        kernel = 2 * module.weight.shape[2] * module.weight.shape[3]
        ids: Tensor = rec.read(x, 1).reshape(offset.shape[1] // kernel, -1)
        rec.channels.unite(ids[:1].expand_as(ids), ids, f"{rec.where} has offsets for groups of its channels")
        convolved(rec, x, call.output, call.within("weight"), module.weight, module.bias, module.groups)
