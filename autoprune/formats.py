"""A pruned network in files that other programs run: ONNX and torch.export.

An ONNX file names its input `input` (several: `input_0`, `input_1` ..., or as arguments are called), its answer
`logits` (as its task says) and their first axis `batch`; its metadata say how images are normalised, what the outputs
mean and what the classes are called. A detector's (see `autoprune.detectors`) takes one `image`.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune import detectors
from autoprune.tasks import main_output, named_output
from objectives.latency import program

ONNX_DIFFERENCE = "onnx_max_difference"  # what architecture.json says of model.onnx
ONNX_BATCH = "onnx_batch"
ONNX_TOLERANCE = 1e-4  # relative to the largest output, float32
_AS_PROGRAM: dict[str, Any] = {"dynamo": True, "verbose": False}


def to_onnx(
    model: nn.Module,
    example_inputs: Any,
    path: Path,
    told: Mapping[str, Mapping[str, Any]] | None = None,
    batch: int | None = None,
) -> dict[str, float]:
    """Write an ONNX file with a dynamic batch size and run it in ONNX Runtime against torch.

    Args:
        model: The network.
        example_inputs: What it is called with.
        path: Where.
        told: What its metadata say, e.g. {"input": {"mean": [0.3]}} as "input.mean"; numbers and lists as JSON.
        batch: Samples of a run, where the network's own code fixes it (`len(x)`); None: those of the example.

    Returns:
        "onnx_max_difference": the largest absolute difference of an output; "onnx_batch": the only batch size that the
        file takes, where the network's own code fixes it.

    Raises:
        ValueError: If the two disagree beyond `ONNX_TOLERANCE`, or onnx is not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise ValueError(f"ONNX export needs {error.name}; pip install 'autoprune[onnx]'") from error
    images = detectors.images_of(example_inputs)
    arguments, answer = (
        _write_program(model, example_inputs, path, told or {}, batch)
        if images is None
        else detectors.write_onnx(model, images[0], path)
    )
    file = onnx.load(str(path))
    if images is None:
        _name_batch(file.graph)
    onnx.helper.set_model_props(file, _properties(told or {}))
    onnx.save(file, str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {i.name: t.numpy() for i, t in zip(session.get_inputs(), arguments, strict=True)}
    found, expected = session.run(None, feed), [t.numpy() for t in tree_leaves(answer)]
    if images is None:
        difference = max(float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True))
        limit = ONNX_TOLERANCE * max(1.0, *(float(np.abs(e).max()) for e in expected))
    else:
        difference, limit = detectors.difference(found, answer), ONNX_TOLERANCE
    if not difference <= limit:
        raise ValueError(
            f"ONNX export: differs from torch by {difference:.2g}, more than {limit:.2g}, so it was not kept"
        )
    fixed = () if images is not None else {a.dim_value for a in _batch_axes(file.graph) if not a.dim_param}
    return {ONNX_DIFFERENCE: difference, **({ONNX_BATCH: max(fixed)} if fixed else {})}


def _write_program(
    model: nn.Module, example_inputs: Any, path: Path, told: Mapping[str, Mapping[str, Any]], batch: int | None
) -> tuple[tuple[Tensor, ...], Any]:
    """The ONNX file of tensors in, tensors out; what it was exported with, and what torch answers."""
    exported, arguments = _program(model, example_inputs, batch)
    with torch.no_grad():
        answer = exported.module()(*arguments)
    names: dict[str, Any] = {"input_names": _input_names(len(arguments), example_inputs)}
    names["output_names"] = _output_names(answer, told)
    torch.onnx.export(exported, (), str(path), external_data=False, **_AS_PROGRAM, **names)
    return arguments, answer


def to_torch_export(
    model: nn.Module,
    example_inputs: Any,
    path: Path,
    told: Mapping[str, Mapping[str, Any]] | None = None,
    batch: int | None = None,
) -> dict[str, float]:
    """Write a torch.export program (.pt2) with a dynamic batch size; `torch.export.load(path).module()` runs it."""
    exported, _ = _program(model, example_inputs, batch)
    torch.export.save(exported, str(path))
    return {}


def check_network(model: nn.Module, example_inputs: Any, *, onnx: bool, pt2: bool) -> None:
    """Check, by the dense network, that the pruned one can be written: it runs the same code. Nothing is written.

    Args:
        model: The network.
        example_inputs: What it is called with.
        onnx: Whether as ONNX.
        pt2: Whether by torch.export.

    Raises:
        ValueError: Naming the format and why torch cannot write it.
    """
    if not (onnx or pt2):
        return
    images = detectors.images_of(example_inputs)
    name = "onnx" if onnx and not (images and pt2) else "pt2"
    try:
        if images and not pt2:
            detectors.write_onnx(model, images[0], io.BytesIO())
        else:
            exported, _ = _program(model, example_inputs)
            if onnx:
                torch.onnx.export(exported, (), None, optimize=False, **_AS_PROGRAM)
    except Exception as error:  # they raise whatever they like
        raise ValueError(
            f"--{name}: this network cannot be written ({why_not(error)}); change its code, or leave it out and use "
            "autoprune.load"
        ) from error


def why_not(error: Exception) -> str:
    """The first line of what torch says, and what kind of error it is; of an error with a cause, of the first cause."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[0]}"


def _program(
    model: nn.Module, example_inputs: Any, batch: int | None = None
) -> tuple[torch.export.ExportedProgram, tuple[Tensor, ...]]:
    """The exported program and what it was exported with; see `program`."""
    if example_inputs is None:
        raise ValueError("ONNX and torch.export need example_inputs: one batch as the model is called with")
    if detectors.images_of(example_inputs):
        raise ValueError("torch.export cannot follow a network whose detections are as many as it finds; ONNX can be "
                         "written of it")  # fmt: skip
    return program(model, example_inputs, batch)


def _input_names(count: int, example_inputs: Any) -> list[str]:
    if isinstance(example_inputs, Mapping):
        return [str(name) for name in example_inputs]
    return ["input"] if count == 1 else [f"input_{i}" for i in range(count)]


def _output_names(answer: Any, told: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The main one is called as the task says ("logits"), or "output" where it stands alone."""
    parts, main = tree_leaves(answer), main_output(answer)
    main = main if isinstance(main, Tensor) else parts[0]
    usual = "logits" if answer is not main and named_output(answer) == "logits" else "output"
    name = str(told.get("output", {}).get("name", usual))
    return [name if part is main else f"output_{i}" for i, part in enumerate(parts)]


def _name_batch(graph: Any) -> None:
    """Call the first axis of the inputs "batch" wherever it stands; torch has called it "s77", say."""
    symbols = {axis.dim_param for axis in _batch_axes(graph)} - {""}
    if not symbols:  # a fixed batch
        return
    word = re.compile(rf"\b({'|'.join(map(re.escape, symbols))})\b")
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in _axes(value):
            if axis.dim_param:
                axis.dim_param = word.sub("batch", axis.dim_param)


def _batch_axes(graph: Any) -> list[Any]:
    return [_axes(value)[0] for value in graph.input if _axes(value)]


def _axes(value: Any) -> Any:
    return value.type.tensor_type.shape.dim


def _properties(told: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """As ONNX keeps them: texts by name."""
    return {
        f"{group}.{name}": value if isinstance(value, str) else json.dumps(value)
        for group, about in told.items()
        for name, value in about.items()
    }
