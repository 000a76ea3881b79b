"""`Absent` stands in the place of a module that is gone, and computes nothing; `Absences` puts it there."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

from torch import Tensor, nn

from search_spaces.branches.branch import CONSTANT, EMPTY, StandIn, size_of
from search_spaces.branches.constants import constant
from search_spaces.space import SearchSpace

PLAIN = (bool, int, float, str, tuple)


class Absent(nn.Module):
    """Answers what a branch leaves: a constant per channel, or a tensor without channels for what else is gone.

    Plain attributes that the network's own code may ask for (`self.attn.batch_first`) are those of the module that is
    gone; its parameters are None.

    Args:
        stand_in: What it does.
        module: The one that is gone.
        constant: [C]; None where it leaves none.
    """

    constant: Tensor

    def __init__(self, stand_in: StandIn, module: nn.Module, constant: Tensor | None) -> None:
        super().__init__()
        self.asked = {k: v for k, v in vars(module).items() if isinstance(v, PLAIN)} | dict.fromkeys(module._parameters)
        self.answers, self.axis, self.sizes = stand_in.answers, stand_in.axis, stand_in.sizes
        self.full, self.own, self.in_tuple = stand_in.full, stand_in.own, stand_in.in_tuple
        if constant is not None:
            self.register_buffer("constant", constant)

    def __getattr__(self, name: str) -> Any:
        asked = vars(self).get("asked", {})
        return asked[name] if name in asked else super().__getattr__(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Whatever it is given, a tensor somewhere in it."""
        x = _first((args, kwargs))
        assert x is not None
        out = self._answer(x)
        return out if self.in_tuple < 0 else (out, *[None] * self.in_tuple)

    def _answer(self, x: Tensor) -> Tensor:
        if self.answers == CONSTANT:
            shape = [1] * len(self.sizes)
            shape[self.axis] = -1
            out = self.constant.view(shape)
            if self.full:
                out = out.expand(self._shape(x, len(self.constant)))
            return out.clone() if self.own else out
        return x.new_empty(self._shape(x, 0)) if self.answers == EMPTY else x

    def _shape(self, x: Tensor, channels: int) -> list[int]:
        return [channels if d == self.axis else size_of(size, x.shape[d]) for d, size in enumerate(self.sizes)]

    def extra_repr(self) -> str:
        """For people."""
        return self.answers


def _first(values: Any) -> Tensor | None:
    """The first tensor within tuples, lists and dictionaries."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, dict):
        values = tuple(values.values())
    if isinstance(values, (tuple, list)):
        for value in values:  # no generator: torch.export of PyTorch 2.7 cannot follow one
            if (found := _first(value)) is not None:
                return found
    return None


class Absences:
    """Exchanges modules of one instance for others and back.

    Args:
        instance: The network.
        space: Its space.
    """

    def __init__(self, instance: nn.Module, space: SearchSpace) -> None:
        self._space = space
        modules = dict(instance.named_modules(remove_duplicate=False))
        names = {s.module for branch in space.branches for s in branch.stand_ins}
        if missing := names - modules.keys():
            raise ValueError(
                f"this space was traced from another network: {type(instance).__name__} has no '{min(missing)}'"
            )
        self._dense = {name: modules[name] for name in names}
        places: dict[int, list[tuple[dict[str, Any], str]]] = {id(m): [] for m in self._dense.values()}
        for parent in modules.values():
            for leaf, child in parent._modules.items():
                if id(child) in places and (parent._modules, leaf) not in places[id(child)]:
                    places[id(child)].append((parent._modules, leaf))
        self._places = {name: places[id(module)] for name, module in self._dense.items()}
        self._filled: set[str] = set()
        self._modules, self._fused = modules, list[tuple[Any, int]]()

    def of(self, widths: Sequence[int]) -> dict[str, StandIn]:
        """What stands in for what in a candidate: nothing inside a module that is itself gone."""
        branches = sorted(self._space.removed(widths), key=lambda b: -len(b.groups))
        found: dict[str, StandIn] = {}
        for branch in branches:
            for stand_in in branch.stand_ins:
                found.setdefault(stand_in.module, stand_in)
        return {name: s for name, s in found.items() if not within(name.rpartition(".")[0], found)}

    def clear(self) -> None:
        """Every module is in its place again."""
        for layer, known in self._fused:
            layer.activation_relu_or_gelu = known
        self._fused.clear()
        for name in self._filled:
            self._put(name, self._dense[name])
        self._filled.clear()

    def fill(self, absent: dict[str, StandIn], tensor: Callable[[str], Tensor]) -> None:
        """Put stand-ins in; `tensor` gives the candidate's tensors by name."""
        for name, stand_in in absent.items():
            value = constant(stand_in.steps, tensor) if stand_in.steps else None
            module = Absent(stand_in, self._dense[name], value)
            module.train(self._dense[name].training)
            self._put(name, module)
            self._filled.add(name)
            layer = self._modules[name.rpartition(".")[0]]
            if isinstance(layer, nn.TransformerEncoderLayer):  # must not run as one fused operation of all its parts
                self._fused.append((layer, layer.activation_relu_or_gelu))
                layer.activation_relu_or_gelu = 0

    def _put(self, name: str, module: nn.Module) -> None:
        for table, leaf in self._places[name]:
            table[leaf] = module


def within(name: str, modules: Container[str]) -> bool:
    """Is a module one of these, or inside one?"""
    while name:
        if name in modules:
            return True
        name = name.rpartition(".")[0]
    return False
