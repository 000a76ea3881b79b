"""Importance of the final responses, propagated backwards to every unit (Yu et al. 2018).

Letters: `N` samples, `I` neurons of the final response layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.criteria.inf_fs import inf_fs
from autoprune.criteria.sites import (
    CHANNELS_LAST,
    Modules,
    Site,
    channel_axis,
    device_of,
    members_in_layers,
    of_units,
    rows_of,
    sites_of,
    tap,
    tap_gradient,
)
from autoprune.tasks import leaves, main_output, mapped
from autoprune.tasks.trees import called, sample_of
from search_spaces import SearchSpace, copy_of, tensors_in
from search_spaces.adapters import adapt

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
SMALL = 1e-6  # input of the linearised network: smooth activations have one slope around zero


class Propagation:
    """Listens to the final responses: what the last layer reads (or the outputs, where the last is no layer).

    Args:
        model: The network.
        space: Its groups and its layers in the order in which they run.
        modules: The modules of the copy that runs, by name.
    """

    def __init__(self, model: nn.Module, space: SearchSpace, modules: Modules) -> None:
        self.model, self.space = model, space
        self.last = space.layers[-1].name if space.layers and space.layers[-1].kind != "matmul" else ""
        self.rows: list[Tensor] = []
        self.found: list[Tensor] = []
        self.example: Any = None
        _listen(modules, self.last, lambda value: self.rows.append(rows_of(value.detach(), -1, torch.mean).cpu()))

    def begin(self, batch: Any, size: int) -> None:
        """See `Observer`."""
        self.rows.clear()
        self.samples, self.example = size, sample_of(batch)

    def end(self, rows: int) -> None:
        """See `Observer`.

        Raises:
            ValueError: If the last layer was not called.
        """
        found = [r.reshape(self.samples, -1, r.shape[-1]).mean(1) for r in self.rows if len(r) % self.samples == 0]
        if not found:
            raise ValueError(f"final responses: layer '{self.last}' must be called with the samples, found no such "
                             "call; choose another criterion than 'nisp'")  # fmt: skip
        self.found.append(torch.stack(found).mean(0))

    def result(self) -> list[Mapping[str, Tensor]]:
        """Per group {"importance": [C]}."""
        scores, home = inf_fs(torch.cat(self.found)), device_of(self.model)
        example = mapped(lambda leaf: leaf.to(home) if isinstance(leaf, Tensor) else leaf, self.example)
        return [{"importance": s} for s in propagate(self.model, self.space, example, scores, self.last)]


def propagate(model: nn.Module, space: SearchSpace, example: Any, scores: Tensor, last: str = "") -> Sequence[Tensor]:
    """Carry importance from the final responses to all groups: s_k = |W_k+1|' s_k+1 (Yu et al. 2018).

    That is the backward pass of the network with |W| in place of W and linear activations. Both hold for the network
    itself on a small positive input without biases: whatever follows is positive, ReLU is the identity, and smooth
    activations have one slope. So pooling, residual sums (importance accumulates), concatenation and any shortcut come
    by autograd. Normalisation is the factor |gamma| / sigma of each channel.

    Each |W| is divided by its mean row sum and each factor by its mean, or the values would grow layer by layer. In a
    chain, where the paper prunes each layer by itself, that changes no order; where branches meet, none outweighs the
    other by the scale of its weights.

    Args:
        model: The network; left as it is.
        space: Its groups.
        example: The inputs of one sample, for their shapes.
        scores: [I] importance of the final responses.
        last: The layer that reads the final responses; default: they are the network's outputs.

    Returns:
        Per group [C]: the sum over positions and over all that read the unit.
    """
    net = copy_of(model).eval().requires_grad_(False)
    adapt(net)
    for name, parameter in net.named_parameters():
        scale = parameter.abs().flatten(1).sum(1).mean() if parameter.dim() > 1 else torch.ones(())
        parameter.copy_(parameter.abs() / scale.clamp(min=torch.finfo(scale.dtype).tiny))
        if "bias" in name.rpartition(".")[2]:
            parameter.zero_()
    modules = dict(net.named_modules(remove_duplicate=False))
    for module in net.modules():
        if isinstance(module, NORMS):
            module.register_forward_hook(_normalise_linearly)
    members = [members_in_layers(g, modules) for g in space.groups]
    sums: dict[Site, list[Tensor]] = {}
    for site in sites_of(members, modules):
        tap_gradient(modules[site[0]], site[1], _slopes(site, channel_axis(modules[site[0]]), sums))
    finals: list[Tensor] = []
    _listen(modules, last, lambda value: finals.append((value * scores.to(value)).sum()))
    if not any(leaf.is_floating_point() for leaf in leaves(example)):
        raise ValueError("criterion 'nisp': carries importance back to inputs that are numbers, and this network takes "
                         "token ids only; choose another criterion, e.g. 'taylor'")  # fmt: skip
    with torch.enable_grad():
        called(net, mapped(_small, example))
        torch.stack(finals).sum().backward()  # type: ignore[no-untyped-call]
    found = [[f.sum(0) for f in of_units(each, modules, sums, 1)] for each in members]
    return [torch.stack([torch.zeros(g.size), *f]).sum(0).abs() for g, f in zip(space.groups, found, strict=True)]


def _small(leaf: Any) -> Any:
    """A small positive input in the place of numbers; token ids and masks as they are."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return leaf
    return torch.full_like(leaf, SMALL).detach().requires_grad_(True).clone()


def _listen(modules: Modules, last: str, hear: Callable[[Tensor], None]) -> None:
    """Call `hear` with the final responses of each call, [N, ..., I]."""

    def see(value: Tensor) -> Tensor:
        hear(value.movedim(channel_axis(modules[last]) if last else 1, -1))
        return value

    if last:
        tap(modules[last], "input", see)
    else:
        modules[""].register_forward_hook(lambda _, __, output: (see(_answer(output)), output)[1])


def _answer(output: Any) -> Tensor:
    found = main_output(output)
    return found if isinstance(found, Tensor) else next(tensors_in(output))


def _slopes(site: Site, axis: int, sums: dict[Site, list[Tensor]]) -> Callable[[Tensor, Tensor], None]:
    """Put the gradients of each call, summed over positions, into `sums` when the backward pass comes by."""
    return lambda _, gradient: sums.setdefault(site, []).append(rows_of(gradient, axis))


def _normalise_linearly(module: nn.Module, args: tuple[Tensor, ...], _: Tensor) -> Tensor:
    """What a normalisation does to a small change of one channel: the factor |gamma| / sigma, mean 1."""
    value, tensors = args[0], {**dict(module.named_parameters()), **dict(module.named_buffers())}
    factor = tensors.get("weight", value.new_ones(()))
    if "running_var" in tensors:  # the others measure sigma on the sample, for all channels alike
        factor = factor / (tensors["running_var"] + module.eps).sqrt()  # type: ignore[operator]
    factor = factor / factor.mean().clamp(min=torch.finfo(factor.dtype).tiny)
    # A LayerNorm subclass may turn the axes itself (torchvision's LayerNorm2d), so the type is not enough.
    last = isinstance(module, CHANNELS_LAST) and value.shape[value.dim() - factor.dim() :] == factor.shape
    return value * (factor if last else factor.view(-1, *[1] * (value.dim() - 2)))
