"""Weight standardisation (timm's StdConv2d and ScaledStdConv2d): every filter has mean 0 and variance 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.adapters.adapter import Call, Cut
from search_spaces.adapters.computed_weight import ComputedWeightAdapter
from search_spaces.recorder import Recorder

NAMES = ("StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame")


class StandardConv2d(nn.Conv2d):
    """A convolution whose weight has been standardised for good; a gain, where there is one, is still learnt.

    What stays of a standardised filter has another mean and variance, and standardising it again would be another
    function.
    """

    gain: Tensor | None
    same_pad: bool
    standardises: bool  # is the dense network's weight still to be standardised?

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H', W']."""
        if self.same_pad:
            sizes = zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], self.dilation[::-1], strict=True)
            lacking = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in sizes]
            x = functional.pad(x, [side for p in lacking for side in (p // 2, p - p // 2)])
        weight = self.weight if self.gain is None else self.weight * self.gain
        out: Tensor = self._conv_forward(x, weight, self.bias)  # type: ignore[no-untyped-call]
        return out


class StandardisedAdapter(ComputedWeightAdapter):
    """Qiao et al. 2019, https://arxiv.org/abs/1903.10520; with a gain: Brock et al. 2021, arxiv.org/abs/2101.08692."""

    computes = True

    def source(self, module: nn.Module) -> str | None:
        """By the name of the class: timm need not be there."""
        kind = type(module)
        known = kind is StandardConv2d or (isinstance(module, nn.Conv2d) and kind.__name__ in NAMES)
        return "weight" if known and "weight" in module._parameters and hasattr(module, "eps") else None

    def trace(self, rec: Recorder, call: Call) -> None:
        """See `Adapter.trace`."""
        super().trace(rec, call)
        if call.tensor("gain") is not None and (known := rec.axes.get((call.within("weight"), 0))) is not None:
            rec.register(call.within("gain"), 0, known[1], "norm")

    def adapt(self, module: nn.Module) -> None:
        """Standardise it."""
        conv: Any = module
        if type(module) is StandardConv2d:  # of a pruned network
            conv.standardises = False
            return
        weight = self._standard(conv, conv.weight.detach())
        conv.same_pad = bool(getattr(conv, "same_pad", type(conv).__name__.endswith("Same")))
        conv.gain = getattr(conv, "gain", None)
        conv.__class__ = StandardConv2d
        conv.weight = nn.Parameter(weight, conv.weight.requires_grad)
        conv.standardises = True

    def fit(self, module: nn.Module, cut: Cut) -> None:
        """See `Adapter.fit`."""
        conv: Any = module
        if conv.standardises:
            with torch.no_grad():
                conv.weight.copy_(cut.of(self._standard(conv, cut.dense["weight"].detach()), "weight"))

    @staticmethod
    def _standard(conv: Any, weight: Tensor) -> Tensor:
        """The weight with which the layer convolves, but for its gain."""
        variance, mean = torch.var_mean(weight.flatten(1), 1, correction=0)
        shape = (-1, *[1] * (weight.dim() - 1))
        standard = (weight - mean.view(shape)) * torch.rsqrt(variance + conv.eps).view(shape)
        return standard * getattr(conv, "scale", 1.0)
