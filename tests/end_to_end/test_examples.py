"""The examples do what they say; each brings a network and its task in seconds."""

import ast
import importlib
import sys
from pathlib import Path

import pytest
import torch

import autoprune
from autoprune.tasks import Task

pytest.importorskip("torchmetrics")
FOLDER = Path(__file__).parents[2] / "examples"
KINDS = ("classification", "image_to_image", "keypoints", "multi_label", "signals", "tabular")
NAMES = ("detection", "regression", "segmentation", "text", *KINDS)
QUICK = {"trials": 2, "finalists": 1, "short_steps": 2, "epochs": 0.1, "warm_starts": "none", "strategy": "random",
         "device": "cpu", "batch_size": 32, "progress": False, "criterion": "l1", "score_samples": 64,
         "fidelity": "proxy", "bn_samples": 64, "val_samples": 64}  # fmt: skip


@pytest.fixture
def example():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.mark.parametrize("name", NAMES)
def test_the_code_of_a_task_of_ones_own_is_short(name):
    """At most 25 lines: what makes the task, without the network, the data and their training."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    makes = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "make")
    assert makes.end_lineno - makes.lineno <= 25


@pytest.mark.parametrize("name", ["regression", pytest.param("segmentation", marks=pytest.mark.slow), "text"])
def test_it_is_searched_exported_and_loaded(name, example, here):
    model, task = example(name).make(steps=2)
    assert isinstance(task, Task)
    onnx = name in ("text", "regression")
    if onnx:
        pytest.importorskip("onnxscript")
    result = autoprune.search(model, task, budget="macs<=50%", name="run", onnx=onnx, **QUICK)
    assert result.costs["macs"]["pruned"] <= 0.5 * result.costs["macs"]["dense"]
    again = autoprune.load(result.run_dir / "best", model=model)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), result.model.parameters(), strict=True))
    assert (result.run_dir / "best/model.onnx").is_file() == onnx


@pytest.mark.parametrize("name", KINDS)
def test_every_built_in_kind_has_one_that_is_searched(name, example, here):
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 80
    model, task = example(name).make(steps=2)
    assert task.kind == name
    result = autoprune.search(model, task, budget="macs<=50%", name="run", **QUICK | {"trials": 1, "finalists": 0})
    assert {"loss", task.labels().headline.name} <= result.metrics["pruned_test"].keys()
    assert result.costs["macs"]["pruned"] <= 0.5 * result.costs["macs"]["dense"]


@pytest.mark.slow
def test_a_detector_of_torchvision_is_searched(example, here):
    pytest.importorskip("faster_coco_eval")
    model, task = example("detection").make(steps=2, count=16)
    pytest.importorskip("onnxscript")
    result = autoprune.search(model, task, budget="macs<=50%", name="run", onnx=True, **QUICK)
    assert (result.run_dir / "best/model.onnx").is_file()
    assert {"loss", "map"} <= result.metrics["pruned_test"].keys()
    assert autoprune.load(result.run_dir / "best", model=model) is not None
