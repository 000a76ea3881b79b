"""Weight norm and spectral norm, as parametrizations and as the older hooks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from search_spaces.adapters.adapter import Call, Cut, fit_sizes
from search_spaces.adapters.computed_weight import ComputedWeightAdapter
from search_spaces.recorder import Recorder

LIST = "parametrizations.weight"
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
FORWARDS = [layer.forward for layer in LAYERS]  # a subclass may compute more


def _only(module: nn.Module, parametrization: type[nn.Module], hook: type[Any]) -> Any:
    """The one thing that computes the module's weight, if it is of this kind and nothing else is computed."""
    if type(module).forward not in FORWARDS:
        return None
    if parametrize.is_parametrized(module):
        found = list(module.parametrizations.items())  # type: ignore[union-attr, operator]
        alone = len(found) == 1 and found[0][0] == "weight" and len(found[0][1]) == 1
        return found[0][1][0] if alone and isinstance(found[0][1][0], parametrization) else None
    hooks = [h for h in module._forward_pre_hooks.values() if getattr(h, "name", None) == "weight"]
    return hooks[0] if len(hooks) == 1 and isinstance(hooks[0], hook) else None


def _norm(weight: Tensor, dim: int) -> Tensor:
    """Of every slice along `dim`, in the shape of the parameter that holds the lengths; -1: of the whole."""
    return torch.norm_except_dim(weight, 2, dim)


class WeightNormAdapter(ComputedWeightAdapter):
    """`g v / |v|` (Salimans and Kingma 2016, https://arxiv.org/abs/1602.07868): `v` is cut, and `g` with its length."""

    computes = True

    def source(self, module: nn.Module) -> str | None:
        """See `ComputedWeightAdapter.source`."""
        if _only(module, _WeightNorm, WeightNorm) is None:
            return None
        return f"{LIST}.original1" if parametrize.is_parametrized(module) else "weight_v"

    def _length(self, module: nn.Module) -> tuple[str, int]:
        """The name of `g`, and the axis that it keeps."""
        name = f"{LIST}.original0" if parametrize.is_parametrized(module) else "weight_g"
        return name, _only(module, _WeightNorm, WeightNorm).dim

    def trace(self, rec: Recorder, call: Call) -> None:
        """See `Adapter.trace`."""
        super().trace(rec, call)
        source = self.source(call.module)
        name, dim = self._length(call.module)
        known = rec.axes.get((call.within(f"{source}"), dim))
        if known is not None:
            roles, ids = known
            rec.register(call.within(name), dim, ids, "out" if "out" in roles else "direction")
            roles[:] = dict.fromkeys("direction" if role == "out" else role for role in roles)

    def fit(self, module: nn.Module, cut: Cut) -> None:
        """See `Adapter.fit`."""
        source, (name, dim) = str(self.source(module)), self._length(module)
        tensors = dict(module.named_parameters())
        before = cut.of(_norm(cut.dense[source].detach(), dim), source)
        with torch.no_grad():
            length = cut.of(cut.dense[name].detach(), name)
            tensors[name].copy_(length * _norm(tensors[source], dim) / before)
        fit_sizes(module, tensors[source], cut.per_group)
        if not parametrize.is_parametrized(module):
            module.weight = torch._weight_norm(tensors[source].detach(), tensors[name].detach(), dim)


class SpectralNormAdapter(ComputedWeightAdapter):
    """`W / u'Wv` (Miyato et al. 2018, https://arxiv.org/abs/1802.05957): `W` is cut, and `u` is what keeps `u'Wv`.

    In training, `u` and `v` turn to the largest singular value of what stays, as they do in the dense network.
    """

    computes = True

    estimates = True

    def source(self, module: nn.Module) -> str | None:
        """See `ComputedWeightAdapter.source`."""
        if _only(module, _SpectralNorm, SpectralNorm) is None:
            return None
        return f"{LIST}.original" if parametrize.is_parametrized(module) else "weight_orig"

    def _vectors(self, module: nn.Module) -> tuple[str, str, int]:
        """The names of `u` and `v`, and the axis of the weight along which `u` lies."""
        dim = _only(module, _SpectralNorm, SpectralNorm).dim
        names = (f"{LIST}.0._u", f"{LIST}.0._v") if parametrize.is_parametrized(module) else ("weight_u", "weight_v")
        return *names, dim

    def trace(self, rec: Recorder, call: Call) -> None:
        """See `Adapter.trace`."""
        super().trace(rec, call)
        source = str(self.source(call.module))
        weight = call.tensor(source)
        assert weight is not None
        u, v, dim = self._vectors(call.module)
        for name, axis in ((u, dim), (v, 1 - dim)):
            if (known := rec.axes.get((call.within(source), axis))) is not None:
                each = weight[0, 0].numel() if name == v else 1
                rec.register(call.within(name), 0, known[1].repeat_interleave(each), "direction")

    def fit(self, module: nn.Module, cut: Cut) -> None:
        """See `Adapter.fit`."""
        source, (u, v, dim) = str(self.source(module)), self._vectors(module)
        tensors = dict([*module.named_parameters(), *module.named_buffers()])
        dense, weight = (w.detach().movedim(dim, 0).flatten(1) for w in (cut.dense[source], tensors[source]))
        length = cut.dense[u] @ (dense @ cut.dense[v])
        response = weight @ tensors[v]
        with torch.no_grad():
            tensors[u].copy_(response * (length / response.square().sum()))
        fit_sizes(module, tensors[source], cut.per_group)
        if not parametrize.is_parametrized(module):
            module.weight = tensors[source].detach() / length
