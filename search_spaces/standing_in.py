"""What takes the place of the modules of a branch that is gone: found in the graph of the trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from search_spaces.branch import CONSTANT, EMPTY, SAME, StandIn
from search_spaces.companions import line_of
from search_spaces.emptied import Network, View
from search_spaces.graph import Made, Named, Node, is_pointwise, operator_name

MOVEMENT = frozenset(
    "view _unsafe_view reshape permute transpose t expand clone contiguous alias detach lift_fresh _to_copy flatten "
    "squeeze unsqueeze roll flip slice select split split_with_sizes unbind chunk narrow movedim swapaxes repeat mean "
    "amax amin adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d max_pool2d_with_indices max_pool2d "
    "upsample_nearest2d upsample_bilinear2d native_dropout dropout unfold".split()
)  # where each position is like all others, so is what they give
AVERAGES = frozenset("avg_pool1d avg_pool2d avg_pool3d".split())  # likewise without padding
NORMS = {functional.layer_norm: "layer_norm", functional.rms_norm: "rms_norm"}
WINDOWS = (_ConvNd, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


CONST = "constant"  # see branches.py


class Unfollowed(ValueError):
    """The groups may not vanish; why."""


def stand_ins(network: Network, view: View) -> tuple[StandIn, ...]:
    """What takes the place of the modules that only serve what is gone.

    Raises:
        Unfollowed: If that cannot be said.
    """
    return Replacement(network, view).stand_ins()


class Replacement:
    """Finds the outermost modules that can be replaced whole, and what each of them then answers."""

    def __init__(self, network: Network, view: View) -> None:
        self.network, self.view, self.nodes = network, view, network.nodes
        self.calls_of = network.calls_of
        self.names = self._outermost()
        self.replaced = {n for name in self.names for c in self.calls_of[name] for n in network.inside[c]}
        self._real: dict[int, bool] = {}

    def stand_ins(self) -> tuple[StandIn, ...]:
        """One for each of them."""
        for n in self.view.dropped:
            node = self.nodes[n]
            if n not in self.replaced and (n in self.network.exits or self.network.is_layer(n)):
                name = operator_name(node.func)
                raise Unfollowed(f"{name} is part of the code of {self.network.where(n)}, which does other things, too")
        return tuple(self._stand_in(name) for name in self.names)

    def _outermost(self) -> list[str]:
        """Modules all of whose work is dropped, and whose answer can be put together; none inside another."""
        calls, inside, dropped = self.network.graph.calls, self.network.inside, self.view.dropped
        touched = {calls[c].name for n in dropped for c in self.nodes[n].calls}
        whole = {
            name
            for name in touched
            if name
            and all(dropped.issuperset(inside[c]) for c in self.calls_of[name])
            and all(self._has_one_answer(c) for c in self.calls_of[name])
        }

        def within(call: int) -> bool:
            outer = calls[call].outer
            return outer >= 0 and (calls[outer].name in whole or within(outer))

        return sorted(name for name in whole if not any(within(c) for c in self.calls_of[name]))

    def _has_one_answer(self, call: int) -> bool:
        """Is what a call answers one tensor, whose shape can be told from what it was given, and all that is used?"""
        found, inside = self.network.graph.calls[call], set(self.network.inside[call])
        if found.answers is None or found.given is None or self.network.axis(found.answers) is None:
            return False
        others = {n for n in found.others or () if n is not None}
        if any(self.network.consumers[n] or n in self.network.graph.outputs for n in others):
            return False
        leaks = {n for n in inside for c in self.network.consumers[n] if c not in inside}
        return leaks <= {found.answers} and self._sizes(call) is not None

    def _sizes(self, call: int) -> tuple[Any, ...] | None:
        """See `StandIn.sizes`; None if they are not known."""
        found = self.network.graph.calls[call]
        assert found.answers is not None
        assert found.given is not None
        given, made, axis = found.given, self.nodes[found.answers].shape, self.network.axis(found.answers)
        sizes: list[Any] = [-1] * len(made)
        module = self.network.rec.modules[found.name]
        if isinstance(module, WINDOWS) and not isinstance(module, _ConvTransposeNd) and len(given) == len(made):
            windows = _windows(module, len(made))
            if windows is None:
                return None
            sizes[len(made) - len(windows) :] = windows
            return tuple(sizes)
        if len(given) != len(made):
            return None
        for d, (before, after) in enumerate(zip(given, made, strict=True)):
            if d != axis and before != after:
                if after != 1 or d == 0:
                    return None
                sizes[d] = 1
        return tuple(sizes)

    def _stand_in(self, name: str) -> StandIn:
        found = {self._of_call(name, call) for call in self.calls_of[name]}
        if len(found) > 1:
            raise Unfollowed(f"'{name}' runs more than once, and leaves something else each time")
        return found.pop()

    def _of_call(self, name: str, number: int) -> StandIn:
        call = self.network.graph.calls[number]
        answer, sizes = call.answers, self._sizes(number)
        assert answer is not None
        assert sizes is not None
        axis = self.network.axis(answer)
        assert axis is not None
        in_tuple = -1 if call.others is None else len(call.others)
        if self.view.status.get(answer) == CONST and self.real(answer):
            steps: list[Any] = []
            self._compile(answer, steps, {})
            full, own = self._written(answer)
            return StandIn(name, CONSTANT, axis, sizes, tuple(steps), full, own, in_tuple)
        glue = [c for c in self.network.consumers[answer] if c not in self.replaced]
        alive = answer not in self.view.status
        same = alive and call.given == self.nodes[answer].shape
        answers = SAME if same and not all(is_pointwise(self.nodes[c].func) for c in glue) else EMPTY
        return StandIn(name, answers, axis, sizes, (), False, False, in_tuple)

    def real(self, n: int) -> bool:
        """Does a constant reach something that is alive, other than through modules that are replaced?"""
        if n not in self._real:
            self._real[n] = False
            for c in self.network.consumers[n]:
                alive = c not in self.view.dropped
                if alive or (self.view.status.get(c) == CONST and c not in self.replaced and self.real(c)):
                    self._real[n] = True
                    break
        return self._real[n]

    def _written(self, n: int) -> tuple[bool, bool]:
        """Must a constant be spread over all positions, and does the code write to it?"""
        full = own = False
        for c in self.network.consumers[n]:
            node = self.nodes[c]
            alive = c not in self.view.dropped
            if not alive and (c in self.replaced or self.view.status.get(c) != CONST or not self.real(c)):
                continue
            writes = node.changes and node.args[:1] == (Made(n),)
            own |= writes
            if not is_pointwise(node.func) or (alive and writes):
                full = True
            if not alive:
                deeper = self._written(c)
                full, own = full | deeper[0], own | (deeper[1] and writes) | (deeper[1] and not is_pointwise(node.func))
        return full, own

    # -- steps -----------------------------------------------------------------------------------------------------
    def _compile(self, n: int, steps: list[Any], known: dict[int, int]) -> int:
        """Append the steps that lead to a constant; returns the number of the last."""
        if n not in known:
            node = self.nodes[n]
            step = self._step(n, node, lambda m: self._compile(m, steps, known))
            if isinstance(step, int):
                known[n] = step
            else:
                steps.append(step)
                known[n] = len(steps) - 1
        return known[n]

    def _step(self, n: int, node: Node, number: Callable[[int], int]) -> Any:
        """A step, or the number of an earlier one to which nothing is done."""
        where = self.network.where(n)
        exit = self.network.exits.get(n)
        if exit is not None and (read := self.network.read.get(n)) and read <= self.view.groups:
            return ("bias", exit.weight, exit.makes, exit.bias)
        inputs = [m for m in dict.fromkeys(node.reads) if self.view.status.get(m) == CONST]
        name = operator_name(node.func)
        if exit is not None and exit.plain and inputs:
            if exit.pads and inputs[0] not in self.view.zero:
                raise Unfollowed(
                    f"the padded convolution {where} reads what they leave, which is no constant at its border"
                )
            groups = node.argument(6, "groups") if name.startswith("conv") else 1
            shape = self.nodes[n].shape
            if groups not in (None, 1) and not (groups == shape[self.network.axis(n) or 1] == self._size(inputs[0])):
                raise Unfollowed(f"the grouped convolution {where} reads what they leave")
            return ("layer", number(inputs[0]), exit.weight, exit.makes, exit.bias)
        if node.func is functional.batch_norm and isinstance(node.argument(1, "running_mean"), Named):
            rest = [self._name(node.argument(i, k)) for i, k in enumerate(
                ("running_mean", "running_var", "weight", "bias"), 1)]  # fmt: skip
            eps = node.argument(7, "eps")
            return ("batch_norm", number(inputs[0]), *rest, 1e-5 if eps is None else float(eps))
        if node.func in NORMS:
            axis = self.network.axis(n)
            if axis != len(node.shape) - 1 or len(node.argument(1, "normalized_shape") or ()) != 1:
                raise Unfollowed(f"what {name} in {where} makes of a constant is not followed")
            weight = self._name(node.argument(2, "weight"))
            if node.func is functional.rms_norm:
                eps = node.argument(3, "eps")
                return ("rms_norm", number(inputs[0]), weight, None if eps is None else float(eps))
            eps = node.argument(4, "eps")
            bias = self._name(node.argument(3, "bias"))
            return ("layer_norm", number(inputs[0]), weight, bias, 1e-5 if eps is None else float(eps))
        if len(inputs) == 1 and (name in MOVEMENT or (name in AVERAGES and not _padded(node))):
            if self._line(inputs[0]) == self._line(n):
                return number(inputs[0])
        elif is_pointwise(node.func) and name not in ("bernoulli", "rand_like", "randn_like"):
            packet = node.func.overloadpacket.__name__.rstrip("_")
            overload = node.func._overloadname
            args = tuple(self._value(n, value, number) for value in node.args)
            kwargs = tuple((k, self._value(n, v, number)) for k, v in sorted(node.kwargs.items()) if v is not None)
            return ("pointwise", f"{packet}.{overload}", args, kwargs)
        raise Unfollowed(f"what {name} in {where} makes of a constant is not followed")

    def _size(self, n: int) -> int:
        axis = self.network.axis(n)
        return self.nodes[n].shape[axis] if axis is not None else 0

    def _line(self, n: int) -> list[int] | None:
        """The roots along the channels of a tensor."""
        ids, axis = self.nodes[n].ids, self.network.axis(n)
        if ids is None or axis is None:
            return None
        line: list[int] = self.network.rec.channels.roots[line_of(ids, axis).numpy()].tolist()
        return line

    @staticmethod
    def _name(value: Any) -> str | None:
        if value is not None and not isinstance(value, Named):
            raise Unfollowed("a norm behind them has scales that are computed")
        return value.name if value is not None else None

    def _value(self, n: int, value: Any, number: Callable[[int], int]) -> Any:
        """An argument of an operator on single elements, as steps have it."""
        if isinstance(value, Made):
            return ("step", number(value.node))
        if isinstance(value, Named):
            shape, axis = self.network.shapes[value.name], self.network.axis(n)
            from_end = len(self.nodes[n].shape) - (axis or 0)
            long = [len(shape) - d for d, size in enumerate(shape) if size > 1]
            if axis is None or long not in ([], [from_end]):
                raise Unfollowed(f"'{value.name}' differs between positions, so what they leave is no constant")
            return ("tensor", value.name)
        if value is None or type(value) in (int, float, bool):
            return value
        name = operator_name(self.nodes[n].func)
        raise Unfollowed(f"what {name} in {self.network.where(n)} makes of a constant is not followed")


def _padded(node: Node) -> bool:
    padding = node.argument(3, "padding")
    return padding is not None and bool(np.any(padding))


def _windows(module: Any, dims: int) -> list[tuple[int, int, int, int]] | None:
    """Kernel, stride, padding and dilation along each spatial axis."""
    spatial = len(module.kernel_size) if isinstance(module, _ConvNd) else int(type(module).__name__[-2])
    rows = []
    for d in range(spatial):
        row = []
        for field in ("kernel_size", "stride", "padding", "dilation"):
            value = getattr(module, field, 1)
            if isinstance(value, str):
                if value == "same":
                    return [(1, 1, 0, 1)] * spatial
                value = 0
            row.append(int(value[d] if isinstance(value, (tuple, list)) else value))
        rows.append((row[0], row[1], row[2], row[3]))
    return None if getattr(module, "ceil_mode", False) or spatial >= dims else rows
