"""The examples do what they say: every folder of examples/ is found here, and run at small sizes."""

import ast
import importlib
import inspect
import re
import sys
from pathlib import Path

import postgresql
import pytest
import torch

import autoprune
from autoprune.tasks import Task

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path for path in (ROOT / "examples").iterdir() if path.is_dir() and path.name != "notebooks")
SMALL = {"trials": 1, "steps": 2, "images": 40, "epochs": 0.5, "counts": (4,)}  # of what their `main` takes
# Within two seconds of processor time, and each another part of the engine; all others are slow.
FAST = ("tabular", "new_strategy", "new_task")
OPTIONAL = ("accelerate", "faster_coco_eval", "lightning", "onnxruntime", "onnxscript", "ray", "timm", "torchmetrics")
TASKS = [path for path in FOLDERS if "def make(" in (path / f"{path.name}.py").read_text(encoding="utf-8")]


@pytest.fixture
def example():
    """Imports the script of a folder, as Python does that runs it; skips where a package is missing that it needs."""
    names = [path.name for path in FOLDERS]
    before = sys.path[:], {name: sys.modules.pop(name) for name in names if name in sys.modules}  # others' of that name

    def load(name):
        sys.path.insert(0, str(ROOT / "examples" / name))
        try:
            return importlib.import_module(name)
        except ImportError as error:
            if error.name not in OPTIONAL:
                raise
            pytest.skip(f"needs {error.name}, which is not installed")

    yield load
    sys.path[:] = before[0]
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before[1])


def test_there_is_one_for_every_job():
    names = {path.name for path in FOLDERS}
    jobs = """torchvision_resnet timm_network vit_heads segmentation detection own_training_loop lightning_trainer
        accelerate_trainer latency_onnxruntime remote_device ray_cluster postgresql_ledger several_budgets nested
        new_criterion new_strategy new_task"""
    kinds = "classification image_to_image keypoints multi_label signals tabular text regression dct_inputs"
    assert names == {*jobs.split(), *kinds.split()}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_it_is_short_and_says_how_it_is_run(folder):
    script = folder / f"{folder.name}.py"
    for path in folder.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 80
    says = (folder / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^\$ (.*)$", says, re.M)
    assert command.split()[:2] == ["python", script.relative_to(ROOT).as_posix()]
    assert command.split()[1] in ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    assert len(says.splitlines()) <= 20


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.name)
def test_the_code_of_a_task_of_ones_own_is_short(path):
    """At most 25 lines: what makes the task, without the network, the data and their training."""
    tree = ast.parse((path / f"{path.name}.py").read_text(encoding="utf-8"))
    makes = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "make")
    assert makes.end_lineno - makes.lineno <= 25


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(f.name, marks=() if f.name in FAST else pytest.mark.slow) for f in FOLDERS]
)
def test_it_runs(name, example, here, request):
    module = example(name)
    takes = inspect.signature(module.main).parameters
    given = {key: value for key, value in SMALL.items() if key in takes}
    if "ledger" in takes:
        given["ledger"] = request.getfixturevalue("server").url
    if "out" not in takes:
        assert module.main(**given | {"epochs": 1})
        return
    result = module.main(out=str(here), **given)
    assert all(cost["pruned"] < cost["dense"] for cost in result.costs.values())
    assert Path(result.run_dir) == here / "run"
    assert (here / "run/best/weights.safetensors").is_file()
    if name not in ("timm_network", "ray_cluster", "nested"):  # names that are gone; units in another order
        again = autoprune.load(here / "run/best", model=result.origin.build())
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), result.model.parameters(), strict=True))


@pytest.fixture(scope="module")
def server():
    """A private PostgreSQL."""
    pytest.importorskip("psycopg2")
    if postgresql.binaries() is None:
        pytest.skip("no PostgreSQL server can be made here: initdb is not installed")
    with postgresql.running() as found:
        yield found


KINDS = ("classification", "image_to_image", "keypoints", "multi_label", "signals", "tabular")


@pytest.mark.parametrize("name", KINDS)
def test_every_built_in_kind_has_one(name, example):
    pytest.importorskip("torchmetrics")
    _, task = example(name).make(steps=1)
    assert isinstance(task, Task)
    assert task.kind == name
    assert task.labels().headline.name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regression", "text"])
def test_it_is_exported_as_onnx(name, example, here):
    pytest.importorskip("torchmetrics")
    pytest.importorskip("onnxscript")
    model, task = example(name).make(steps=2)
    quick = {"trials": 1, "finalists": 0, "epochs": 0, "criterion": "l1", "device": "cpu", "progress": False}
    result = autoprune.search(model, task, budget="macs<=50%", name="run", onnx=True, batch_size=32, **quick)
    assert (result.run_dir / "best/model.onnx").is_file()
