"""K candidates in one pass of the dense network, one after the other along the batch axis.

The weights of a candidate are slices of the dense ones, so the dense network serves all: whatever a layer reads is
multiplied by its candidate's mask (where it is read, not where it is written: a shortcut may write there, too);
batch-norm keeps statistics for each candidate; layer-norm and group-norm take theirs over the kept channels. Layers
that are fitted have weights for each candidate. Shapes never change, whatever the widths.

Letters: `K` candidates, `N` samples, `C` channels, `I` inputs of one output, `O` outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.overrides import TorchFunctionMode

from autoprune.recovery.reconstruction import Reconstruction, solve_each
from autoprune.tasks import mapped
from search_spaces import SearchSpace, copy_of
from search_spaces.adapters import adapt
from search_spaces.masking import within
from search_spaces.plan import Line, check_kept, plan_of
from search_spaces.rules.layers import bind
from search_spaces.sending import sent

READERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
QUERY, KEY, VALUE = range(3)  # the arguments of attention
READ_BY = {  # its weights
    "in_proj_weight": (QUERY, KEY, VALUE), "q_proj_weight": (QUERY,), "k_proj_weight": (KEY,), "v_proj_weight": (VALUE,)
}  # fmt: skip
CONVOLVE: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class Abreast(nn.Module):
    """The dense network as K candidates; called with N samples it answers K * N.

    Args:
        dense: The dense network, on its device; copied.
        space: Its search space.

    Raises:
        ValueError: If candidates of this space cannot share a pass, naming what stands in the way.
    """

    def __init__(self, dense: nn.Module, space: SearchSpace) -> None:
        super().__init__()
        self.net = copy_of(dense).eval().requires_grad_(False)
        adapt(self.net)  # so that layers inside attention are called
        self._space, self._plan, self.count = space, plan_of(space), 1
        self._parts = dict(self.net.named_modules(remove_duplicate=False))
        self._tensors = dict(self.net.named_parameters(remove_duplicate=False))
        self._homes: dict[int, list[tuple[str, str]]] = {}  # tensor -> (module, its name there), tied ones more
        for owner, module in self.net.named_modules():
            for leaf, tensor in module._parameters.items():
                self._homes.setdefault(id(tensor), []).append((owner, leaf))
        self._device = next(self.net.parameters()).device
        self._row = torch.zeros(0)  # all masks
        self._masks: dict[tuple[Line, int], Tensor] = {}
        self._own: dict[str, tuple[Tensor, Tensor | None]] = {}  # layer -> weights [K, O, I ...], biases [K, O]
        self._statistics: dict[str, tuple[Tensor, Tensor]] = {}  # batch-norm -> mean and variance [K, C]
        self._passes, self._fits = 0, Fits()
        if self._plan.products:
            owner = min(module for module, _ in self._plan.products)
            where = f"'{owner}'" if owner else "it"
            raise ValueError(f"{where} sums over channels that may go, outside of any layer")
        self._sides: list[tuple[Line, int]] = []
        for module, places, axis, side in self._read():
            self._sides.append(side)
            module.register_forward_pre_hook(partial(self._mask, side, axis, places), with_kwargs=True)
        for name, line in self._plan.statistics.items():
            if isinstance(self._parts[name], _NormBase):  # channel by channel
                continue
            size = self._size_of(name)
            self._sides.append((line, size))
            within(self._parts[name], partial(self._kept_statistics, (line, size)))
        for name, part in self._parts.items():
            if isinstance(part, _BatchNorm):
                _run_by(part, partial(self._batch_norm, name, part))
            elif type(part).forward in {kind.forward for kind in READERS}:
                _run_by(part, partial(self._layer, name, part, part.forward))
        self._sides = list(dict.fromkeys(self._sides))

    def _read(self) -> Iterator[tuple[nn.Module, tuple[int, ...], int, tuple[Line, int]]]:
        """(module, which of its arguments, their axis, line and size) of all that read channels which may go."""
        read = {(m.tensor, m.axis) for g in self._space.groups for m in g.members if m.role == "in"}
        for name, axis in sorted(read):
            line = dict(self._plan.tensors[name])[axis]
            for module, leaf in self._readers(name, axis):
                side = line, module._parameters[leaf].shape[axis]  # type: ignore[union-attr]
                last = isinstance(module, (nn.Linear, nn.MultiheadAttention))
                yield module, READ_BY.get(leaf, (0,)), -1 if last else 1, side
        for name, lines in self._plan.declared.items():
            if 1 in lines:
                module = self._parts[name]
                yield module, (0,), 1, (lines[1], module.in_channels)  # type: ignore[arg-type]

    def _readers(self, name: str, axis: int) -> list[tuple[nn.Module, str]]:
        """(module, its name there) of all modules that read by a tensor; an embedding that it is tied to reads none."""
        found = []
        for owner, leaf in self._homes[id(self._tensors[name])]:
            module = self._parts[owner]
            attends = isinstance(module, nn.MultiheadAttention) and leaf in READ_BY
            layer = leaf == "weight" and isinstance(module, READERS if axis == 1 else TRANSPOSED if axis == 0 else ())
            if attends or (layer and getattr(module, "groups", 1) == 1):
                found.append((module, leaf))
            elif not isinstance(module, nn.Embedding):
                raise ValueError(f"'{owner}.{leaf}' is read in a way of its own ({type(module).__name__})")
        if not found:
            raise ValueError(f"'{name}' is read outside of any layer")
        return found

    def _size_of(self, name: str) -> int:
        module: Any = self._parts[name]
        size = next(
            (getattr(module, key) for key in ("num_channels", "normalized_shape") if hasattr(module, key)), None
        )
        size = size if isinstance(size, int) else size[0] if size is not None and len(size) == 1 else None
        if size is None:
            raise ValueError(f"'{name}' normalises channels in a way of its own ({type(module).__name__})")
        return int(size)

    def wear(self, candidates: Sequence[Sequence[Any]]) -> None:
        """Become these candidates, as they are cut out of the dense network.

        Args:
            candidates: Of each, per group, the kept units.
        """
        removed = [self._plan.removed(check_kept(self._space, kept)) for kept in candidates]
        self.count, self._own, self._statistics, self._fits = len(removed), {}, {}, Fits()
        rows = []
        for line, size in self._sides:
            table = np.ones((self.count, size), np.float32)
            for k, gone in enumerate(removed):
                table[k, gone[line]] = 0
            rows.append(table)
        whole = torch.from_numpy(np.concatenate([row.ravel() for row in rows] or [np.zeros(0, np.float32)]))
        whole = sent(whole, self._device)
        if whole.shape == self._row.shape:  # in place: a graph reads them there
            self._row.copy_(whole)
            return
        self._row = whole
        parts = self._row.split([row.size for row in rows]) if rows else ()
        self._masks = {side: part.view(self.count, -1) for side, part in zip(self._sides, parts, strict=True)}

    @contextmanager
    def estimating(self) -> Iterator[None]:
        """Passes in here give every candidate's batch-norm the plain average of their statistics."""
        self._statistics, self._passes = {}, 0
        self._estimates = True
        try:
            yield
        finally:
            self._estimates = False

    @contextmanager
    def fitting(self, reconstruction: Reconstruction) -> Iterator[None]:
        """The pass in here fits the layers that have lost inputs to the dense network's answers."""
        self._fits = Fits(reconstruction)
        try:
            with self.estimating():
                yield
        finally:
            self._fits = Fits()

    _estimates = False

    @property
    def stands_for(self) -> nn.Module:
        """The network whose arguments it takes."""
        return self.net

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What each candidate answers to the samples: those of the first one, then those of the next."""
        self._passes += self._estimates

        def repeated(leaf: Any) -> Any:
            tensor = isinstance(leaf, Tensor) and leaf.dim() > 0
            return leaf.repeat(self.count, *[1] * (leaf.dim() - 1)) if tensor else leaf

        return self.net(*mapped(repeated, args), **mapped(repeated, kwargs))

    def each(self, value: Tensor) -> Tensor:
        """[K, N, ...] of [K * N, ...]."""
        rows: Tensor = value.unflatten(0, (self.count, -1))
        return rows

    def _mask(
        self, side: tuple[Line, int], axis: int, places: Sequence[int], module: nn.Module, args: Any, kwargs: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = ("query", "key", "value") if isinstance(module, nn.MultiheadAttention) else ("input",)
        args, kwargs, done = [*args], dict(kwargs), dict[int, Tensor]()  # one tensor may be queries, keys and values
        for place in places:
            given, key = (args, place) if place < len(args) else (kwargs, names[place])
            x = given[key]
            given[key] = done[id(x)] = done[id(x)] if id(x) in done else self._masked(side, axis, x)
        return tuple(args), kwargs

    def _masked(self, side: tuple[Line, int], axis: int, x: Tensor) -> Tensor:
        shape = [1] * x.dim()
        shape[axis] = side[1]
        mask = self._masks[side].to(x.dtype).view(self.count, *[1, *shape[1:]])
        return self.each(x).mul(mask).flatten(0, 1)

    def _kept_statistics(self, side: tuple[Line, int]) -> TorchFunctionMode:
        return KeptStatistics(self._masks[side])

    def _batch_norm(self, name: str, norm: Any, input: Tensor) -> Tensor:
        """Of each candidate, by its own statistics."""
        takes_batch = norm.running_mean is None  # it has none but those of the batch
        if not (self._estimates or takes_batch or name in self._statistics):  # as they were cut
            return type(norm).forward(norm, input)  # type: ignore[no-any-return]
        kind, rows = input.dtype, self.each(input.float())
        shape = (self.count, 1, -1, *[1] * (rows.dim() - 3))
        if self._estimates or takes_batch:
            dims = [1, *range(3, rows.dim())]
            variance, mean = torch.var_mean(rows, dims, correction=0)  # [K, C]
            if not takes_batch:
                number = rows[0].numel() / rows.shape[2]
                self._average(name, mean, variance * (number / max(1.0, number - 1)))
        else:
            mean, variance = self._statistics[name]
        scale = torch.rsqrt(variance + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
        return torch.addcmul(shift.view(shape), rows, scale.view(shape)).flatten(0, 1).to(kind)

    def _average(self, name: str, mean: Tensor, variance: Tensor) -> None:
        before = self._statistics.get(name)
        if before is not None:
            mean, variance = (a.lerp(b, 1 / self._passes) for a, b in zip(before, (mean, variance), strict=True))
        self._statistics[name] = mean, variance

    def _layer(self, name: str, layer: Any, forward: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
        """A layer with weights for each candidate where it has been fitted."""
        if (fitted := self._fits.of(name)) is not None:
            line = dict(self._plan.tensors.get(f"{name}.weight", ())).get(1)
            mask = None if line is None else self._masks.get((line, layer.weight.shape[1]))
            if mask is not None and len(input) == self.count * fitted.samples(name):
                inputs, wanted = fitted.rows_of(name, layer, input, self.count)
                with torch.autocast(input.device.type, enabled=False):
                    self._own[name] = solve_each(layer, self.each(inputs), wanted, mask, fitted.ridge, fitted.compute)
        if name not in self._own:
            return forward(input)
        weight, bias = self._own[name]
        if isinstance(layer, nn.Linear):
            rows = self.each(input)
            found = torch.matmul(rows.flatten(1, -2), weight.mT)
            found = found if bias is None else found + bias[:, None]
            return found.view(*input.shape[:-1], -1)
        side = self.each(input).transpose(0, 1).flatten(1, 2)  # [N, K * C, ...]: the candidates as groups
        padding = layer.padding
        if layer.padding_mode != "zeros":
            side = functional.pad(side, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
            padding = 0
        bias = None if bias is None else bias.flatten()
        options = {"stride": layer.stride, "padding": padding, "dilation": layer.dilation, "groups": self.count}
        found = CONVOLVE[weight.dim() - 3](side, weight.flatten(0, 1), bias, **options)
        answers: Tensor = found.unflatten(1, (self.count, -1)).transpose(0, 1).flatten(0, 1)
        return answers


def _run_by(module: Any, forward: Callable[[Tensor], Tensor]) -> None:
    """Have one module, and no other of its kind, run by this function."""
    module.forward = forward


class Fits:
    """Which layers are fitted in a pass; none without a reconstruction."""

    def __init__(self, reconstruction: Reconstruction | None = None) -> None:
        self._reconstruction = reconstruction

    def of(self, name: str) -> Reconstruction | None:
        """The reconstruction, where it fits this layer."""
        found = self._reconstruction
        return found if found is not None and found.fits(name) else None


class KeptStatistics(TorchFunctionMode):
    """Layer-norm, RMS-norm and group-norm over each candidate's kept channels; the others come out as zero.

    Args:
        mask: [K, C] 1 where a channel is kept.
    """

    RULES: ClassVar[Mapping[Any, tuple[str, ...]]] = {
        functional.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
        functional.rms_norm: ("input", "normalized_shape", "weight", "eps"),
        functional.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
    }

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in self.RULES:
            return func(*args, **(kwargs or {}))
        given = bind(self.RULES[func], args, kwargs or {})
        x = given["input"]
        last, rows = func is not functional.group_norm, x.float().unflatten(0, (len(self.mask), -1))
        groups = 1 if last else given["num_groups"]
        rows = rows if last else rows.movedim(2, -1)  # [K, N, ..., C]
        parts = rows.unflatten(-1, (groups, -1))
        mask = self.mask.view(len(self.mask), *[1] * (rows.dim() - 2), groups, -1)
        dims = [-1] if last else [*range(2, parts.dim() - 2), -1]
        count = mask.expand_as(parts[:, :1]).sum(dims, keepdim=True).clamp(min=1)
        kept = parts * mask
        if func is not functional.rms_norm:
            kept = (parts - kept.sum(dims, keepdim=True) / count) * mask
        eps = given.get("eps")
        eps = torch.finfo(x.dtype).eps if eps is None and func is functional.rms_norm else 1e-5 if eps is None else eps
        found = kept * torch.rsqrt(kept.square().sum(dims, keepdim=True) / count + eps)
        found = found.flatten(-2)
        for key, change in (("weight", torch.mul), ("bias", torch.add)):
            found = found if given.get(key) is None else change(found, given[key])
        found = found * self.mask.view(len(self.mask), *[1] * (rows.dim() - 2), -1)
        return (found if last else found.movedim(-1, 2)).flatten(0, 1).to(x.dtype)
