"""nn.Transformer and nn.TransformerEncoder: what their layers do not know.

Their layers are traced as everything else; nn.MultiheadAttention in them has its own adapter.
"""

from __future__ import annotations

from torch import nn

from search_spaces.adapters.adapter import Adapter, Call
from search_spaces.counts import Attribute
from search_spaces.recorder import Recorder


class TransformerAdapter(Adapter):
    """nn.Transformer compares what it is given with its `d_model`, which follows the channels."""

    opaque = False

    def handles(self, module: nn.Module) -> bool:
        """Subclasses included."""
        return isinstance(module, nn.Transformer)

    def trace(self, rec: Recorder, call: Call) -> None:
        """See `Adapter.trace`."""
        ids = rec.read((*call.args, *call.kwargs.values())[0], -1)
        rec.register(str(Attribute(call.name, "d_model")), len(ids), ids, "attribute")


class TransformerEncoderAdapter(Adapter):
    """nn.TransformerEncoder packs padded batches for fused layers, which know one size only.

    A pruned one never does: at padded positions it answers what it does in training, and no zeros.
    """

    opaque = False

    def handles(self, module: nn.Module) -> bool:
        """Subclasses included."""
        return isinstance(module, nn.TransformerEncoder)

    def trace(self, rec: Recorder, call: Call) -> None:
        """Nothing of its own."""

    def adapt(self, module: nn.Module) -> None:
        """See `Adapter.adapt`."""
        module.use_nested_tensor = False  # type: ignore[assignment]
