"""What takes the place of the modules of a branch that is gone: found in the graph of the trace."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from search_spaces.branches.branch import CONSTANT, EMPTY, SAME, StandIn, size_of
from search_spaces.branches.emptied import CONST, GONE, VOID, Network, View
from search_spaces.companions import line_of
from search_spaces.graph import Made, ModuleCall, Named, Node, is_pointwise, operator_name, references

MOVEMENT = frozenset(
    "view _unsafe_view reshape permute transpose t expand clone contiguous alias detach lift_fresh _to_copy flatten "
    "squeeze unsqueeze roll flip slice select split split_with_sizes unbind chunk narrow movedim swapaxes repeat mean "
    "amax amin adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d max_pool2d_with_indices max_pool2d "
    "upsample_nearest2d upsample_bilinear2d native_dropout dropout unfold".split()
)  # where each position is like all others, so is what they give
AVERAGES = frozenset("avg_pool1d avg_pool2d avg_pool3d".split())  # likewise without padding
NORMS = {functional.layer_norm: "layer_norm", functional.rms_norm: "rms_norm"}
WINDOWS = (_ConvNd, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


class Unfollowed(ValueError):
    """The groups may not vanish; why."""


class Replacement:
    """Finds the outermost modules that can be replaced whole, and what each of them then answers.

    Args:
        network: The graph.
        view: What is left of it.
        constant: Nodes that are constants without some branches.

    Attributes:
        doubtful: Answers without channels that are given to more than operations on single elements.
    """

    def __init__(self, network: Network, view: View, constant: Container[int] = ()) -> None:
        self.network, self.view, self.nodes = network, view, network.nodes
        self.calls_of = network.calls_of
        self.names = self._outermost()
        self.replaced = {n for name in self.names for c in self.calls_of[name] for n in network.inside[c]}
        self._real: dict[int, bool] = {}
        self._wrote: dict[int, tuple[bool, bool]] = {}
        self._loose: dict[int, bool] = {}
        self.doubtful: set[int] = set()
        self._constant = constant

    def stand_ins(self) -> tuple[StandIn, ...]:
        """What takes the place of the modules that only serve what is gone: one for each of them.

        Raises:
            Unfollowed: If that cannot be said.
        """
        for n in self.view.dropped:
            if n not in self.replaced and (n in self.network.exits or self.network.is_layer(n)):
                raise Unfollowed(self._why_not_whole(n))
        return tuple(self._stand_in(name) for name in self.names)

    def _why_not_whole(self, n: int) -> str:
        """Why the module in which a layer runs cannot be replaced."""
        call, where = self.nodes[n].calls[-1:], self.network.where(n)
        if call and self.view.dropped.issuperset(self.network.inside[call[0]]):
            return f"{where} answers more than one tensor, or one of a shape that does not follow from what it is given"
        return f"{operator_name(self.nodes[n].func)} is part of the code of {where}, which does other things, too"

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
        if isinstance(module, WINDOWS) and len(given) == len(made):
            windows = _windows(module, len(made)) or []
            sizes[len(made) - len(windows) :] = windows
            follows = (
                size_of(s, before) == after
                for s, before, after in zip(windows, given[-len(windows) :], made[-len(windows) :], strict=True)
            )
            return tuple(sizes) if windows and all(follows) else None
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
        full, own = any(s.full for s in found), any(s.own for s in found)
        found = {replace(s, full=full, own=own) for s in found}
        if any(s.answers == CONSTANT for s in found):  # in calls whose answer nothing needs it may be anything
            found = {s for s in found if s.answers != EMPTY}
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
        answers = EMPTY
        if not self._alone(answer):
            answers = SAME if self._is_like_given(call) else EMPTY
            glue = {c for c in self.network.consumers[answer] if c not in self.replaced} or {answer}
            self.doubtful |= glue if answers == EMPTY else set()
        return StandIn(name, answers, axis, sizes, (), False, False, in_tuple)

    def _is_like_given(self, call: ModuleCall) -> bool:
        """Has what a module that is not needed any more would answer the channels of what it is given?"""
        answer, source = call.answers, call.source
        if answer is None or source is None or self.view.status.get(answer) in (GONE, VOID):
            return False
        return call.given == self.nodes[answer].shape and self._line(source) == self._line(answer)

    def _alone(self, n: int) -> bool:
        """Is all that is done with it, outside of what is replaced, done to each element alone, or a concatenation?"""
        if n not in self._loose:
            self._loose[n] = not self.network.is_idle(n, self.view.dropped) and all(
                self._takes_nothing(c, n) and (c not in self.view.dropped or self._alone(c))
                for c in self.network.consumers[n]
                if c not in self.replaced
            )
        return self._loose[n]

    def _takes_nothing(self, consumer: int, n: int) -> bool:
        """Does an operation run as it is where what node `n` made has no channel?"""
        node = self.nodes[consumer]
        return operator_name(node.func) == "cat" or (is_pointwise(node.func) and set(node.reads) == {n})

    def real(self, n: int) -> bool:
        """Does a constant reach something that is alive, other than through modules that are replaced?"""
        if n not in self._real:
            self._real[n] = self.network.is_idle(n, self.view.dropped)
            for c in self.network.consumers[n]:
                alive = c not in self.view.dropped
                if alive or (self.view.status.get(c) == CONST and c not in self.replaced and self.real(c)):
                    self._real[n] = True
                    break
        return self._real[n]

    def _written(self, n: int) -> tuple[bool, bool]:
        """Must a constant be spread over all positions, and does the code write to it?"""
        if n not in self._wrote:
            self._wrote[n] = self._find_written(n)
        return self._wrote[n]

    def _find_written(self, n: int) -> tuple[bool, bool]:
        network = self.network
        full = n in network.graph.measured or network.is_idle(n, self.view.dropped)
        own = False
        for c in self.network.consumers[n]:
            node = self.nodes[c]
            alive = c not in self.view.dropped
            if not alive and (c in self.replaced or self.view.status.get(c) != CONST or not self.real(c)):
                continue
            writes = node.changes and node.args[:1] == (Made(n),)
            own |= writes
            if not is_pointwise(node.func) or (alive and (writes or c in self._constant or self._widens(n, c))):
                full = True
            if not alive:
                deeper = self._written(c)
                full, own = full | deeper[0], own | (deeper[1] and writes) | (deeper[1] and not is_pointwise(node.func))
        return full, own

    def _widens(self, n: int, consumer: int) -> bool:
        """Has what node `n` made positions that none of the others has which an operation combines it with?"""
        node, axis = self.nodes[consumer], self.network.axis(consumer)
        others = [r for r in references((node.args, node.kwargs)) if r != Made(n)]
        shapes = [self.nodes[r.node].shape if isinstance(r, Made) else self.network.shapes[r.name]
                  for r in others if isinstance(r, (Made, Named))]  # fmt: skip
        spread = np.broadcast_shapes(*shapes)
        spread = (*[1] * (len(node.shape) - len(spread)), *spread)
        return any(d != axis and size != spread[d] for d, size in enumerate(node.shape))

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
        if not inputs and not is_pointwise(node.func):
            raise Unfollowed(f"what {name} in {where} makes without the network's input is not followed")
        if exit is not None and exit.plain:
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
            return ("batch_norm", number(inputs[0]), *rest, _eps(eps))
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
            return ("layer_norm", number(inputs[0]), weight, bias, _eps(eps))
        axis = self.network.axis(inputs[0]) if inputs else None
        if name == "cat" and set(inputs) == set(node.reads) and axis is not None:
            if (node.argument(1, "dim") or 0) % len(node.shape) == axis:
                return ("cat", tuple(number(m) for m in node.reads))
        if name == "mean" and axis is not None and self._is_over(node, axis):
            return ("mean", number(inputs[0]))
        if node.func is functional.group_norm:
            weight, bias, eps = (node.argument(i, k) for i, k in ((2, "weight"), (3, "bias"), (4, "eps")))
            module = self.network.graph.calls[node.calls[-1]].name if node.calls else ""
            each = self.network.rec.grouped.get(module, 0)  # else groups become smaller, and stay as many
            many = 0 if each else int(node.argument(1, "num_groups"))
            return ("group_norm", number(inputs[0]), many, each, *map(self._name, (weight, bias)), _eps(eps))
        if node.func in (functional.instance_norm, functional.batch_norm):
            weight, bias, eps = (node.argument(i, k) for i, k in ((3, "weight"), (4, "bias"), (7, "eps")))
            if node.argument(1, "running_mean") is None:  # each channel by itself, here and there the same
                return ("group_norm", number(inputs[0]), 0, 1, *map(self._name, (weight, bias)), _eps(eps))
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

    @staticmethod
    def _is_over(node: Node, axis: int) -> bool:
        """Is it a mean over the channels, of which one is left?"""
        dims = node.argument(1, "dim")
        over = {d % len(node.shape) for d in dims} if isinstance(dims, tuple) else set()
        return axis in over and bool(node.argument(2, "keepdim"))

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


def _eps(value: Any) -> float:
    return 1e-5 if value is None else float(value)


def _padded(node: Node) -> bool:
    padding = node.argument(3, "padding")
    return padding is not None and bool(np.any(padding))


def _windows(module: Any, dims: int) -> list[tuple[int, ...]] | None:
    """What a window does along each spatial axis (see `StandIn.sizes`)."""
    spatial = len(module.kernel_size) if isinstance(module, _ConvNd) else int(type(module).__name__[-2])
    rows: list[tuple[int, ...]] = []
    for d in range(spatial):
        row = []
        fields = ("kernel_size", "stride", "padding", "dilation")
        for field in (*fields, *(("output_padding",) if isinstance(module, _ConvTransposeNd) else ())):
            value = getattr(module, field, 1)
            if isinstance(value, str):
                if value == "same":
                    return [(1, 1, 0, 1)] * spatial
                value = 0
            row.append(int(value[d] if isinstance(value, (tuple, list)) else value))
        rows.append(tuple(row))
    return None if getattr(module, "ceil_mode", False) or spatial >= dims else rows
