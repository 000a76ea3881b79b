"""Modules whose sizes stand in their code or in their weights' layout, and how each of them shrinks.

An adapter answers for one kind of module. To add one, write one file with a subclass of `Adapter` (a name, `handles`,
`trace`, and what else the module needs) and add one import line below: the import lines are the registry, and the first
adapter that handles a module is asked. From outside, `register(adapter)` does the same.

What every adapter owes (the tests hold all of them to it):

- The dense module is not touched. `adapt` may give the pruned copy another class (`module.__class__ = ...`), whose
  forward goes by the sizes of the tensors; the names in the state dict stay, and so does the function (to 1e-6) as
  long as nothing is removed.
- `trace` names every tensor axis on which channels live, with its role: "out" makes channels, "in" reads them, "norm"
  scales or shifts them, "free" is a bare parameter (`search_spaces.Member`). Channels that the module needs together
  (all rows of a head, all gates of a hidden unit) are united (`rec.channels.unite`). What it cannot follow it freezes,
  with the reason.
- Zeroing what *reads* a channel ("in") and removing it must be the same. Where zeros in the tensor itself do not say
  so (a weight that is normalised before it is used), `stop_reading` says how.

Example:
    >>> class ScaleAdapter(Adapter):
    ...     def handles(self, module):
    ...         return type(module).__name__ == "Scale"  # by name and attributes: nothing is imported
    ...     def trace(self, rec, call):
    ...         ids = rec.register(call.within("scale"), 0, rec.read(call.args[0], -1), "norm")
    ...         rec.set(call.output, along(ids, -1, call.output.shape))
    ...     def fit(self, module, cut):
    ...         module.width = len(module.scale)
"""

from __future__ import annotations

from torch import nn

from search_spaces.adapters.adapter import Adapter as Adapter
from search_spaces.adapters.adapter import Call as Call
from search_spaces.adapters.adapter import Cut as Cut
from search_spaces.adapters.adapter import fit_sizes as fit_sizes
from search_spaces.adapters.deformable import DeformableAdapter as DeformableAdapter
from search_spaces.adapters.multihead_attention import MultiheadAttentionAdapter as MultiheadAttentionAdapter
from search_spaces.adapters.own_weight import OwnWeightAdapter as OwnWeightAdapter
from search_spaces.adapters.parametrized import ParametrizedAdapter as ParametrizedAdapter
from search_spaces.adapters.recurrent import CellAdapter as CellAdapter
from search_spaces.adapters.recurrent import RecurrentAdapter as RecurrentAdapter
from search_spaces.adapters.transformer import TransformerAdapter as TransformerAdapter
from search_spaces.adapters.transformer import TransformerEncoderAdapter as TransformerEncoderAdapter
from search_spaces.adapters.weight_norm import SpectralNormAdapter as SpectralNormAdapter
from search_spaces.adapters.weight_norm import WeightNormAdapter as WeightNormAdapter
from search_spaces.adapters.weight_standardisation import StandardisedAdapter as StandardisedAdapter

KINDS = [v for v in list(globals().values()) if isinstance(v, type) and issubclass(v, Adapter) and v is not Adapter]
ADAPTERS: list[Adapter] = [kind() for kind in KINDS]


def register(adapter: Adapter) -> None:
    """Ask this adapter before those that are known."""
    ADAPTERS.insert(0, adapter)


def adapter_of(module: nn.Module) -> Adapter | None:
    """The first adapter that handles a module."""
    return next((adapter for adapter in ADAPTERS if adapter.handles(module)), None)


def adapted(model: nn.Module) -> dict[str, Adapter]:
    """Name of every module that an adapter handles -> the adapter."""
    found = {name: adapter_of(module) for name, module in model.named_modules(remove_duplicate=False)}
    return {name: adapter for name, adapter in found.items() if adapter is not None}


def adapt(model: nn.Module) -> dict[str, Adapter]:
    """Adapt all modules of a network, in place; what `adapted` says of it."""
    found = adapted(model)
    for name, adapter in found.items():
        adapter.adapt(model.get_submodule(name))
    return found


def owner_of(name: str, known: dict[str, Adapter]) -> str | None:
    """The innermost of these modules, among those that are not traced inside, to which a tensor belongs."""
    while name:
        name = name.rpartition(".")[0]
        if name in known and known[name].opaque:
            return name
    return None
