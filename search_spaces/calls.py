"""The layers of a network that multiply, as its first pass calls them: what prices every choice of widths."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from search_spaces.declaring import Declared

DECLARED = "declared"  # kind of the layers of a module that declares how it shrinks


@dataclass(frozen=True)
class Call:
    """A layer of `pixels * kernel * reads * makes` multiply-adds per sample."""

    kind: str
    kernel: float
    pixels: float
    reads: Tensor | int
    makes: Tensor | int

    def alike(self, other: Call) -> bool:
        """Do two calls of one layer add up?"""
        return self.kernel == other.kernel and _same(self.reads, other.reads) and _same(self.makes, other.makes)


def _same(a: Tensor | int, b: Tensor | int) -> bool:
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return torch.equal(a, b)


class Calls:
    """All of them, in order.

    Attributes:
        layers: (owner, kind and number) -> a layer.
        lengths: (parameter of a module that declares how it shrinks, axis) -> ids [size of the axis] of which as many
            stay as it will be long; after `price`.
        counting: False in a second pass, whose layers are not part of inference.
    """

    def __init__(self) -> None:
        self.layers: dict[tuple[str, str], Call] = {}
        self.lengths: dict[tuple[str, int], Tensor] = {}
        self.counting = True
        self._declared: dict[str, Declared] = {}

    def add(self, owner: str, call: Call) -> None:
        """Of a module; calls of the same layer add up."""
        if not self.counting:
            return
        number = 0
        while (known := self.layers.get((owner, f"{call.kind}#{number}"))) is not None and not known.alike(call):
            number += 1
        self.layers[owner, f"{call.kind}#{number}"] = (
            replace(known, pixels=known.pixels + call.pixels) if known else call
        )

    def declare(self, name: str, module: nn.Module, x: Tensor, pixels: float, reads: Tensor, makes: Tensor) -> None:
        """A call of a module that declares how it shrinks; `price` puts its layers in this place.

        Args:
            name: Of the module.
            module: It.
            x: What it is given.
            pixels: Positions of its answer per sample.
            reads: Ids of the channels of `x`.
            makes: Of its answer.
        """
        if self.counting:
            found = self._declared.setdefault(name, Declared(module, reads, makes))
            found.inputs.append(x.detach())
            found.pixels += pixels
            self.layers.setdefault((name, DECLARED), Call(DECLARED, 0.0, 0.0, 1, 1))

    def price(self, batch: int) -> None:
        """Put the layers of modules that declare how they shrink in their places: nothing may be watched any more.

        Args:
            batch: Samples in the example input.
        """
        layers, self.layers = self.layers, {}
        for (owner, kind), call in layers.items():
            if kind != DECLARED:
                self.layers[owner, kind] = call
                continue
            found = self._declared[owner]
            for number, (work, reads, makes) in enumerate(found.work()):
                pixels = 1.0 if number else found.pixels  # what it makes is counted once
                layer = Call(DECLARED, work / batch / pixels, pixels, reads, makes)
                self.layers[owner, f"{DECLARED}#{number}"] = layer
            self.lengths |= {(f"{owner}.{name}", axis): ids for (name, axis), ids in found.lengths().items()}
        self._declared.clear()
