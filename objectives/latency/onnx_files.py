"""ONNX files of candidates: the dense network is exported once, candidates are cut from that file.

The exporter takes ten seconds and more for a ResNet-50; cutting the weights in its file takes a tenth of one. A latency
does not depend on the values of the weights, so that which channels stay does not matter here, only how many.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from objectives.latency.programs import program
from search_spaces import SearchSpace, Widths, prune
from search_spaces.adapters import adapted
from search_spaces.plan import plan_of
from search_spaces.tracing import as_call

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_REFUSED = (re.compile(r"OpOverload\(op='([\w.:]+)'"), re.compile(r"\b((?:aten|torchvision|prims)(?:::|\.)\w+)"))


def exported(model: nn.Module, example: Any, *, quick: bool = False, free: bool = False) -> bytes:
    """The network as an ONNX file, with the batch of the example unless `free`.

    Args:
        model: In eval mode, on the CPU.
        example: One batch as it is called with.
        quick: Use the TorchScript exporter: ten times as fast, the same operators for convolutional networks.
        free: As a run delivers it: any batch, where the network's code does not fix it. That takes more operators where
            shapes are worked out from the batch (a small transformer: 233 in place of 194).

    Raises:
        ValueError: If the exporter refuses the network; the operator is named.
    """
    args, kwargs = as_call(example)
    args = tuple(a.cpu() if isinstance(a, Tensor) else a for a in args)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if quick:
                buffer = io.BytesIO()
                torch.onnx.export(model, args, cast(Any, buffer), kwargs=kwargs or None, dynamo=False)
                return buffer.getvalue()
            if free:
                with contextlib.suppress(Exception):  # what cannot be written so is written with a fixed batch
                    return _serialised(program(model, example)[0], (), {})
            return _serialised(model, args, kwargs)
    except Exception as error:  # the exporter raises whatever it likes
        raise ValueError(_refusal(model, error)) from error


def _serialised(
    model: nn.Module | torch.export.ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bytes:
    file = torch.onnx.export(model, args, kwargs=dict(kwargs) or None, dynamo=True, verbose=False)
    assert file is not None  # for mypy: no path was named
    return bytes(file.model_proto.SerializeToString())


def _refusal(model: nn.Module, error: Exception) -> str:
    """The sentence for a network that cannot become an ONNX file."""
    text, cause = str(error), error.__cause__
    while cause is not None:
        text, cause = f"{text} {cause}", cause.__cause__
    found = [name for pattern in _REFUSED for name in pattern.findall(text)]
    operator = f"the operator {found[0]}" if found else "it"
    first = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return (
        f"latency: {type(model).__name__} cannot be written as an ONNX file, the exporter refuses {operator} "
        f"({type(error).__name__}: {first[0][:160] if first else 'no reason given'}); replace it in the model, or "
        "measure with @torch"
    )


class OnnxFiles:
    """Makes the ONNX file of every candidate of a space.

    Args:
        model: The dense network.
        space: Its search space.
        example: One batch as it is called with.
        accept: Raises if a file cannot be loaded; called with a cut file, to see whether cutting is enough, and with
            one that lacks all branches that may vanish.
        write: Makes the file of a network that cannot be cut, on the CPU and in eval mode; None: the quick exporter,
            whose files may have more operators.

    Attributes:
        cutting: Whether files are cut; else every candidate goes through the exporter (a network with modules that
            declare how they shrink or have an adapter, whose inputs shrink, or with sizes written into its graph).
        removing: Whether the layers of branches that have vanished are taken out of the file; else such candidates go
            through the exporter.
    """

    def __init__(
        self,
        model: nn.Module,
        space: SearchSpace,
        example: Any,
        accept: Callable[[bytes], Any],
        write: Callable[[nn.Module], bytes] | None = None,
    ) -> None:
        make = write or partial(exported, example=example, quick=True)

        @lru_cache(maxsize=2)  # the dense network and another are opened again and again
        def written(widths: Widths) -> bytes:
            return make(prune(model, space, [np.arange(w) for w in widths]).cpu().eval())

        self._written = written
        self.plan = plan_of(space)
        self.cutting = not self.plan.declared and not self.plan.inputs and not adapted(model)
        self.removing = False
        if not self.cutting:
            return
        import onnx
        from onnx import numpy_helper

        self._dense = onnx.ModelProto.FromString(exported(model, example))
        graph = self._dense.graph
        self._arrays = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        # A linear layer on sequences stands there as a constant that is no parameter: nothing of it would be cut.
        read = {n.input[1] for n in graph.node if n.op_type in _PRODUCTS and len(n.input) > 1}
        parameters = dict(model.named_parameters())
        self.cutting = all(n in read for n in self.plan.tensors if n in parameters and parameters[n].dim() > 1)
        if not self.cutting:
            return
        self._shapes = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.value_info, *graph.output)
        }
        del graph.initializer[:], graph.value_info[:]

        def accepted(widths: Widths) -> bool:
            try:
                accept(self._cut(widths))
            except Exception:  # whatever the runtime says to a graph that does not fit together
                return False
            return True

        half = space.standing.clip(g.size / 2 for g in space.groups)
        self.cutting = accepted(half)
        if self.cutting and space.vanishing:
            for branch in space.branches:
                half = space.without(half, branch)
            self.removing = accepted(half)
            if write is not None:  # else the dense network and one without branches would be files of two kinds
                self.cutting = self.removing

    def __call__(self, widths: Widths) -> bytes:
        """The file of one candidate."""
        if self.cutting and (self.removing or all(widths)):
            return self._cut(widths)
        return self._written(tuple(widths))

    def _cut(self, widths: Widths) -> bytes:
        import onnx
        from onnx import numpy_helper

        removed = self.plan.removed([np.arange(w) for w in widths])
        graph, arrays = onnx.ModelProto(), dict(self._arrays)
        graph.CopyFrom(self._dense)
        for node in graph.graph.node:
            if node.op_type in _PRODUCTS and len(node.input) > 1:
                weight = node.input[1]
                for axis, line in self.plan.tensors.get(weight, []):
                    arrays[weight] = np.delete(arrays[weight], removed[line], axis)
                    if axis == 0 and len(node.input) > 2:  # its bias, batch-norm folded in
                        arrays[node.input[2]] = np.delete(self._arrays[node.input[2]], removed[line], 0)
                per_group = self.plan.grouped.get(weight.rpartition(".")[0])
                for attribute in node.attribute:
                    if attribute.name == "group" and per_group:
                        attribute.i = len(arrays[weight]) // per_group
            elif node.op_type == "Reshape" and node.input[1] in arrays:
                arrays[node.input[1]] = _free(arrays[node.input[1]])
        if not all(widths):
            _without_empty(graph.graph, arrays, self._shapes)
        graph.graph.initializer.extend(
            numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()
        )
        return bytes(graph.SerializeToString())


def _without_empty(graph: Any, arrays: dict[str, NDArray[Any]], shapes: Mapping[str, list[int]]) -> None:
    """Take the products out that read or make nothing, and all that only they needed; initializers go into `arrays`.

    What reads nothing makes its bias: a constant per channel, which the next operator spreads over all positions.

    Args:
        graph: Of the dense network; its nodes are taken out in place.
        arrays: The initializers of the candidate.
        shapes: Of what the nodes of the dense network answer.

    Raises:
        ValueError: If it cannot be told what such a product makes.
    """
    gone = []
    for node in graph.node:
        weight = arrays.get(node.input[1]) if node.op_type in _PRODUCTS and len(node.input) > 1 else None
        if weight is None or weight.size:
            continue
        (answer,), shape = node.output, shapes.get(node.output[0])
        if shape is None or node.op_type == "ConvTranspose":
            raise ValueError(f"'{answer}': what it makes cannot be told from the file")
        axis = 1 if node.op_type == "Conv" else len(shape) - 1
        first = node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)
        made = weight.shape[0 if first else -1]
        shape = [made if n == axis else size if made == 0 else 1 for n, size in enumerate(shape)]
        bias = arrays[node.input[2]] if made and len(node.input) > 2 and node.input[2] else np.zeros(made, weight.dtype)
        arrays[answer] = np.reshape(bias, shape)
        gone.append(node)
    for node in gone:
        graph.node.remove(node)
    _drop_unused(graph, arrays)


def _drop_unused(graph: Any, arrays: dict[str, NDArray[Any]]) -> None:
    """Take out the nodes and initializers that no answer needs."""
    needed = {output.name for output in graph.output}
    nodes = []
    for node in reversed(graph.node):  # they stand in the order in which they are computed
        if needed.intersection(node.output):
            needed.update(node.input)
            for attribute in node.attribute:  # branches and loops see what stands outside
                needed.update(name for part in attribute.g.node for name in part.input)
            nodes.append(node)
    kept = nodes[::-1]
    del graph.node[:]
    graph.node.extend(kept)
    for name in arrays.keys() - needed:
        del arrays[name]


def _free(shape: NDArray[np.int64]) -> NDArray[np.int64]:
    """A target shape whose largest size follows from the others."""
    if (shape <= 0).any() or not shape.size:
        return shape
    return np.where(np.arange(len(shape)) == int(np.argmax(shape)), -1, shape)
