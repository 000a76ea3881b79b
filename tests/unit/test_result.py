"""What a result says of itself, and what its export says to other programs."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import autoprune
from autoprune import data
from autoprune.formats import to_onnx
from autoprune.neighbours import check
from autoprune.report.result import verdict
from objectives import parse
from search_spaces import ChannelGroup

QUICK = {"criterion": "l1", "trials": 1, "finalists": 0, "epochs": 0, "fidelity": "proxy", "val_samples": 64}
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="needs the extra 'onnx'")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    name = str(tmp_path_factory.mktemp("result") / "a<b>&c")
    return autoprune.search(
        "search_spaces.models:digits_cnn", "digits", ["macs<=50%", "params<=60k"], name=name, progress=False, **QUICK
    )


def test_a_result_is_a_small_table(result):
    text = repr(result)
    assert len(text.splitlines()) < 30
    assert max(map(len, text.splitlines())) < 200
    for part in ("loss, validation", "top-1, held-out test", "macs<=50% holds (", "params<=60k holds ("):
        assert part in text
    assert f"{result.metrics['pruned_test']['loss']:.4f}" in text
    assert str(result.run_dir) in text
    assert str(result) == text


def test_groups_that_were_cut_are_named_with_what_is_kept(result):
    assert list(result.widths_by_group.items()) == [
        (g.name, w) for g, w in zip(result.space.groups, result.widths, strict=True)
    ]
    heads = ChannelGroup("attention", 4, (), unit="head")
    groups = (ChannelGroup("stem", 16, ()), heads, ChannelGroup("[red]", 8, ()), ChannelGroup("a.longer.name", 64, ()))
    made = replace(result, space=replace(result.space, groups=groups), widths=(16, 2, 0, 7))
    lines = repr(made).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("widths"))
    assert [line.rstrip() for line in lines[first : first + 4]] == [
        "widths   3 of 4 groups cut (result.widths_by_group)",
        "         attention      2 of 4 heads",
        "         [red]          0 of 8",
        "         a.longer.name  7 of 64",
    ]
    assert "stem" not in "".join(lines[first:])
    assert "3 of 4 groups cut (result.widths_by_group)<br>attention      2 of 4 heads<br>[red]" in made._repr_html_()
    many = tuple(ChannelGroup(f"g{i}", 4, ()) for i in range(50))
    text = repr(replace(result, space=replace(result.space, groups=many), widths=(4, *49 * [1])))
    assert [part in text for part in ("49 of 50 groups cut", "g20 ", "g21", "and 29 more")] == [True, True, False, True]
    whole = replace(result, widths=result.space.full)
    assert f"0 of {len(whole.widths)} groups cut" in repr(whole)


def test_a_notebook_shows_a_table_whose_words_are_escaped(result):
    page = result._repr_html_()
    assert page.startswith("<table>")
    assert "a&lt;b&gt;&amp;c" in page
    assert "macs&lt;=50% holds" in page
    assert "<b>" not in page


def test_a_result_without_metrics_says_what_it_knows(result):
    bare = replace(result, metrics={}, costs={})
    assert "macs<=50%" in repr(bare)
    assert str(bare.run_dir) in repr(bare)
    assert bare._repr_html_().startswith("<table>")


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ("macs<=50%", "macs<=50% holds (50.0 %)"),
        ("macs<=49.9%", "macs<=49.9% does not hold (50.0 %)"),
        ("macs<=500", "macs<=500 holds (500, 50.0 %)"),
        ("macs<=499", "macs<=499 does not hold (500, 50.0 %)"),
        ("params<=1k", "params<=1k"),  # nothing is known of it
        ("latency<=60%@torch", "latency<=60%@torch holds (measured 55.0 %, 1.1 ms)"),
        ("latency<=1ms@torch", "latency<=1ms@torch does not hold (measured 55.0 %, 1.1 ms)"),
        ("nowhere:Cost<=5", "nowhere:Cost<=5"),
    ],
)
def test_whether_a_budget_holds(budget, expected):
    latency = parse("latency<=1ms@torch").metric
    costs = {"macs": {"dense": 1000, "pruned": 500}, latency: {"dense": 2.0, "pruned": 1.0}}
    metrics = {latency: {"share": 0.55, "pruned_ms": 1.1}}
    assert verdict(budget, costs, metrics) == expected


def test_architecture_json_says_what_goes_in_and_what_comes_out(result):
    said = json.loads((result.run_dir / "best" / "architecture.json").read_text())
    assert said["input"]["mean"] == [0.305]
    assert said["output"]["classes"] == list("0123456789")
    assert said["output"]["num_classes"] == 10
    assert "logits" in said["output"]["meaning"]


@pytest.mark.parametrize(("more", "expected"), [({}, None), ({"classes": ["cat", "dog"]}, ["cat", "dog"])])
def test_classes_that_nobody_named_are_left_out(more, expected):
    pair = torch.rand(30, 1, 8, 8), torch.arange(30) % 2
    found = data.output_of(data.load({"train": pair, "val": pair, **more}))
    assert found.get("classes") == expected
    assert found["num_classes"] == 2


@needs_onnx
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_onnx_file_names_its_ends_its_batch_and_its_classes(result, tmp_path):
    import onnx

    said = json.loads((result.run_dir / "best" / "architecture.json").read_text())
    directory = result.export(tmp_path / "onnx", onnx=True)
    file = onnx.load(str(directory / "model.onnx"))
    onnx.checker.check_model(file)
    ends = {v.name: [a.dim_param or a.dim_value for a in v.type.tensor_type.shape.dim] for v in
            (*file.graph.input, *file.graph.output)}  # fmt: skip
    assert ends == {"input": ["batch", 1, 8, 8], "logits": ["batch", 10]}
    told = {p.key: p.value for p in file.metadata_props}
    assert json.loads(told["output.classes"]) == said["output"]["classes"]
    assert json.loads(told["input.mean"]) == said["input"]["mean"]
    assert told["output.meaning"] == said["output"]["meaning"]
    assert json.loads((directory / "architecture.json").read_text())["output"] == said["output"]


class Two(nn.Module):
    """Two inputs; a dictionary of features and logits."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x, y):
        hidden = self.a(x + y)
        return {"features": hidden, "logits": self.b(hidden)}


@needs_onnx
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_several_inputs_and_outputs_have_names_too(tmp_path):
    import onnx

    to_onnx(Two().eval(), (torch.rand(1, 4), torch.rand(1, 4)), tmp_path / "two.onnx")
    graph = onnx.load(str(tmp_path / "two.onnx")).graph
    assert [v.name for v in graph.input] == ["input_0", "input_1"]
    assert sorted(v.name for v in graph.output) == ["logits", "output_0"]
    assert {v.type.tensor_type.shape.dim[0].dim_param for v in (*graph.input, *graph.output)} == {"batch"}


@pytest.mark.parametrize("name", ["objectives", "search_spaces"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_file_of_the_users_that_shadows_a_package_is_named(name, kind, tmp_path, monkeypatch):
    own = tmp_path / (f"{name}.py" if kind == "file" else f"{name}/__init__.py")
    own.parent.mkdir(exist_ok=True)
    own.write_text("raise SystemExit('it must not run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=rf"^'.*{own.name}' takes the place of the package '{name}'.*rename it"):
        check()


def test_the_import_says_so_in_one_sentence(tmp_path):
    """As a user meets it: a script beside the file."""
    (tmp_path / "objectives.py").write_text("x = 1")
    (tmp_path / "script.py").write_text("import autoprune")
    path = os.pathsep.join([str(Path(autoprune.__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: '")
    assert "objectives.py' takes the place of the package 'objectives'" in done.stderr.splitlines()[-1]
