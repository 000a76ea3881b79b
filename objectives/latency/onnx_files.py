"""ONNX files of candidates: the dense network is exported once, candidates are cut from that file.

The exporter takes ten seconds and more for a ResNet-50; cutting the weights in its file takes a tenth of one. A latency
does not depend on the values of the weights, so that which channels stay does not matter here, only how many.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces import SearchSpace, Widths, prune
from search_spaces.adapters import adapted
from search_spaces.plan import plan_of
from search_spaces.tracing import as_call

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_REFUSED = (re.compile(r"OpOverload\(op='([\w.:]+)'"), re.compile(r"\b((?:aten|torchvision|prims)(?:::|\.)\w+)"))


def exported(model: nn.Module, example: Any, *, quick: bool = False) -> bytes:
    """The network as an ONNX file with a fixed batch.

    Args:
        model: In eval mode, on the CPU.
        example: One batch as it is called with.
        quick: Use the TorchScript exporter: ten times as fast, the same operators for convolutional networks.

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
            program = torch.onnx.export(model, args, kwargs=kwargs or None, dynamo=True, verbose=False)
            assert program is not None  # for mypy: no file was named
            return bytes(program.model_proto.SerializeToString())
    except Exception as error:  # the exporter raises whatever it likes
        raise ValueError(_refusal(model, error)) from error


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
        accept: Raises if a file cannot be loaded; called once with a cut file, to see whether cutting is enough.

    Attributes:
        cutting: Whether files are cut; else every candidate goes through the exporter (a network with modules that
            declare how they shrink or have an adapter, whose inputs shrink, or with sizes written into its graph).
    """

    def __init__(self, model: nn.Module, space: SearchSpace, example: Any, accept: Callable[[bytes], Any]) -> None:
        self.model, self.space, self.example = model, space, example
        self.plan = plan_of(space)
        self.cutting = not self.plan.declared and not self.plan.inputs and not adapted(model)
        if not self.cutting:
            return
        import onnx
        from onnx import numpy_helper

        self._dense = onnx.ModelProto.FromString(exported(model, example))
        self._arrays = {i.name: numpy_helper.to_array(i) for i in self._dense.graph.initializer}
        del self._dense.graph.initializer[:], self._dense.graph.value_info[:]
        try:
            accept(self._cut(space.clip(g.size / 2 for g in space.groups)))
        except Exception:  # whatever the runtime says to a graph that does not fit together
            self.cutting = False

    def __call__(self, widths: Widths) -> bytes:
        """The file of one candidate."""
        if self.cutting:
            return self._cut(widths)
        small = prune(self.model, self.space, [np.arange(w) for w in widths]).cpu().eval()
        return exported(small, self.example, quick=True)

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
        graph.graph.initializer.extend(
            numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()
        )
        return bytes(graph.SerializeToString())


def _free(shape: NDArray[np.int64]) -> NDArray[np.int64]:
    """A target shape whose largest size follows from the others."""
    if (shape <= 0).any() or not shape.size:
        return shape
    return np.where(np.arange(len(shape)) == int(np.argmax(shape)), -1, shape)
