"""An export whose files lie: one sentence each, no crash, and nothing of the size that they name is made."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import autoprune
from autoprune.ceiling import Ceiling
from autoprune.exporting import export
from autoprune.files import read_json
from autoprune.reference import ModelReference
from search_spaces import SearchSpace, prune, trace
from search_spaces.models import digits_cnn

HUGE = 10**12


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    model = digits_cnn().eval()
    space = trace(model, torch.zeros(1, 1, 8, 8))
    kept = tuple(np.arange(g.size // 2) for g in space.groups)
    reference = ModelReference("search_spaces.models:digits_cnn")
    return export(
        tmp_path_factory.mktemp("exported") / "best",
        prune(model, space, kept),
        space=space,
        kept=kept,
        reference=reference,
    )


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "best")


def edit(directory, change):
    path = directory / "architecture.json"
    data = json.loads(path.read_text())
    data = change(data) or data
    path.write_text(json.dumps(data))


def member(data, index):
    data["space"]["groups"][0]["members"][0][3] = index


LIES = {
    "a list": lambda d: [d],
    "no space": lambda d: d.update(space=None),
    "no groups": lambda d: d["space"].pop("groups"),
    "units": lambda d: d["space"]["groups"][0].update(size=HUGE),
    "units as text": lambda d: d["space"]["groups"][0].update(size="8"),
    "units as truth": lambda d: d["space"]["groups"][0].update(size=True),
    "no units": lambda d: d["space"]["groups"][0].update(size=0),
    "divisor": lambda d: d["space"]["groups"][0].update(divisor=0),
    "positions": lambda d: member(d, {"range": [0, HUGE, 1]}),
    "positions of a unit": lambda d: member(d, {"range": [0, d["space"]["groups"][0]["size"], 2**24]}),
    "negative positions": lambda d: member(d, [[-1]] * d["space"]["groups"][0]["size"]),
    "positions beyond": lambda d: member(d, {"range": [2**20, d["space"]["groups"][0]["size"], 1]}),
    "ragged positions": lambda d: member(d, [[0], [1, 2]]),
    "fractional positions": lambda d: member(d, [[0.5]] * d["space"]["groups"][0]["size"]),
    "another tensor": lambda d: d["space"]["groups"][0]["members"][0].__setitem__(0, "nowhere.weight"),
    "axis": lambda d: d["space"]["groups"][0]["members"][0].__setitem__(1, 9),
    "elements": lambda d: d["space"]["tensors"][0].__setitem__(1, [[HUGE, 0, []], [HUGE, 0, []]]),
    "infinite elements": lambda d: d["space"]["tensors"][0].__setitem__(1, [[float("inf"), 0, []]]),
    "group of an axis": lambda d: d["space"]["tensors"][0].__setitem__(1, [[1, 0, [[99, 1]]]]),
    "pixels": lambda d: d["space"]["layers"][0].__setitem__(3, float("nan")),
    "grouped": lambda d: d["space"].update(grouped=[["stem.0", 0]]),
    "kept beyond": lambda d: d["kept"][0].__setitem__(-1, 10**6),
    "kept below": lambda d: d["kept"][0].__setitem__(0, -1),
    "kept twice": lambda d: d["kept"][0].__setitem__(0, d["kept"][0][1]),
    "kept nothing": lambda d: (d["kept"].__setitem__(0, []), d["widths"].__setitem__(0, 0)) and None,
    "kept text": lambda d: d["kept"].__setitem__(0, "01234567"),
    "kept fractions": lambda d: d["kept"][0].__setitem__(0, 0.5),
    "kept too large": lambda d: d["kept"][0].__setitem__(0, 10**30),
    "kept of a group more": lambda d: d["kept"].append([0]),
    "kept number": lambda d: d.update(kept=7),
    "widths": lambda d: d["widths"].__setitem__(0, 1),
    "widths as text": lambda d: d.update(widths="12"),
    "costs": lambda d: d.update(costs=[1]),
    "a cost": lambda d: d.update(costs={"macs": 3}),
    "metrics": lambda d: d.update(metrics={"dense_val": "good"}),
    "classes": lambda d: d["model"].update(args={"num_classes": 10**9}),
    "channels": lambda d: d["model"].update(args={"in_channels": HUGE}),
    "more classes": lambda d: d["model"].update(args={"num_classes": 11}),
    "argument": lambda d: d["model"].update(args={"colour": 11}),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_is_one_sentence(copy, lie):
    edit(copy, lie)
    with pytest.raises(ValueError, match=r"best|model '") as refused:
        autoprune.load(copy)
    assert len(str(refused.value)) < 600
    assert len(str(refused.value).splitlines()) == 1


def test_a_ceiling_holds_before_anything_is_made():
    with pytest.raises(ValueError, match="it is more than 1 MiB"), Ceiling(2**20, "it"):
        torch.nn.Linear(2**20, 2**20)
    with Ceiling(2**20, "it"):
        torch.nn.Linear(100, 100)


WEIGHTS = {
    "double": (
        lambda s: s.update({"linear.weight": s["linear.weight"].double()}),
        "is float64, the network has float32",
    ),
    "half": (lambda s: s.update({"linear.weight": s["linear.weight"].half()}), "is float16"),
    "whole": (lambda s: s.update({"linear.weight": s["linear.weight"].to(torch.int32)}), "is int32"),
    "NaN": (lambda s: s["linear.bias"][0].fill_(torch.nan), "'linear.bias' holds NaN or infinity"),
    "infinity": (lambda s: s["linear.bias"][0].fill_(torch.inf), "'linear.bias' holds NaN or infinity"),
    "NaN in a buffer": (lambda s: s[next(k for k in s if "running_var" in k)][0].fill_(torch.nan), "holds NaN"),
    "shape": (lambda s: s.update({"linear.bias": s["linear.bias"][:3]}), r"'linear.bias' is \[3\]"),
}


@pytest.mark.parametrize(("change", "message"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_of_another_kind_are_refused(copy, change, message):
    path = copy / "weights.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    with pytest.raises(ValueError, match=rf"weights\.safetensors'.*{message}"):
        autoprune.load(copy)


@pytest.mark.parametrize("name", ["architecture.json", "weights.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "dangling link"])
def test_what_is_no_file_is_not_waited_for(copy, name, kind):
    path = copy / name
    path.unlink()
    make = {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "directory": path.mkdir,
        "dangling link": lambda: path.symlink_to("nowhere"),
    }
    make[kind]()
    with pytest.raises(ValueError, match=rf"{name}'"):
        autoprune.load(copy)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 100_000, "\xff\xfe", "1" * 10_000, "", "{}{}"])
def test_json_that_is_none_is_refused(copy, text):
    (copy / "architecture.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"architecture\.json'"):
        autoprune.load(copy)


def test_a_text_too_large_to_be_meant_is_not_read(tmp_path):
    with (tmp_path / "big.json").open("wb") as file:
        file.truncate(2**34)  # sparse
    with pytest.raises(ValueError, match="16384 MiB, more than 256 MiB"):
        read_json(tmp_path / "big.json")


def test_a_true_space_is_read_as_it_was(exported):
    space = json.loads((exported / "architecture.json").read_text())["space"]
    assert SearchSpace.from_json(space).to_json() == space
