"""What CONTRIBUTING.md shows works: its parts are put into one module and used; the documents name what exists."""

import copy
import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import autoprune
from autoprune.training import TrainingSettings, finetune
from search_spaces import adapters, prune, trace
from search_spaces.rules import arithmetic

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """All of its blocks, in their order, as a module; what they register is taken back."""
    (tmp_path / "shown_parts.py").write_text("\n\n".join(BLOCKS), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    known, rules = adapters.ADAPTERS[:], dict(arithmetic.EXTERNAL)
    yield importlib.import_module("shown_parts")
    adapters.ADAPTERS[:] = known
    arithmetic.EXTERNAL.clear()
    arithmetic.EXTERNAL.update(rules)
    del sys.modules["shown_parts"]


def test_every_kind_of_part_is_shown():
    shown = re.findall(r"^### An? (\w+)", TEXT, re.M)
    assert shown == ["criterion", "strategy", "task", "method", "cost", "rule", "adapter"]


def test_the_parts_of_a_search_search(mine, here):
    pytest.importorskip("torchmetrics")
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
                        nn.Linear(128, 2))  # fmt: skip
    x = torch.randn(96, 1, 8, 8)  # slices of it have gaps, which metrics do not like
    task = mine.Angles((x[:64], x[:64, 0, 0, :2]), (x[64:80], x[64:80, 0, 0, :2]), (x[80:], x[80:, 0, 0, :2]))
    result = autoprune.search(
        net, task, "shown_parts:Memory<=70%", criterion=mine.Peak, strategy=mine.Walk, recovery="shown_parts:Thin",
        trials=1, finalists=0, epochs=1, batch_size=32, warm_starts="none", progress=False, device="cpu", name="run",
    )  # fmt: skip
    (cost,) = (v for k, v in result.costs.items() if "Memory" in k)
    assert cost["pruned"] <= 0.7 * cost["dense"]
    assert cost["dense"] == 4 * (sum(p.numel() for p in net.parameters()) + 8 * 36 + 8 * 16 + 2)


def test_the_penalty_of_the_method_makes_scales_smaller(mine):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
    batches = [(torch.rand(16, 1, 8, 8), torch.arange(16) % 2) for _ in range(2)]
    data = autoprune.Task.of(batches, batches, loss=nn.functional.cross_entropy)
    again = copy.deepcopy(net)
    settings = TrainingSettings(epochs=1, batch_size=16, lr=0.01, device="cpu", weight_decay=0)
    finetune(net, data, settings)
    finetune(again, data, settings, method=mine.Thin())
    assert again[1].weight.abs().sum() < net[1].weight.abs().sum()


def test_the_rule_and_the_adapter_unfreeze(mine, law):
    class Squash(nn.Module):
        def forward(self, x):
            return mine.squash(x)

    model, x = nn.Sequential(nn.Linear(5, 8), Squash(), mine.Scale(8), nn.Linear(8, 3)), torch.randn(2, 5)
    space = law(model, x)
    assert {g.name: g.size for g in space.groups} == {"0": 8}
    assert prune(model, space, [np.arange(3)])[2].width == 3
    del arithmetic.EXTERNAL["mine::squash"]
    with pytest.raises(ValueError, match=r"unknown operation 'mine\.squash'"):
        trace(model, x)


def test_the_house_is_as_drawn():
    """Every room and file that ARCHITECTURE.md names is there, on the floor it says."""
    sys.path.insert(0, str(ROOT / "tests" / "unit"))
    try:
        floors = importlib.import_module("test_layering").FLOORS
    finally:
        sys.path.remove(str(ROOT / "tests" / "unit"))
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawn, floor = {}, None
    for line in text.split("nothing from above:")[1].split("```")[1].splitlines():
        floor = int(line[0]) if line[:1].isdigit() else floor
        names = re.findall(r"(?<![\w/])(\w+)(?:/|\.py)", line)
        drawn |= dict.fromkeys(names, floor)
    drawn.pop("methods")  # of training/
    assert len(drawn) > 25
    assert {name: floors[name] for name in drawn} == drawn
    for name in re.findall(r"`(\w+(?:/|\.py))`", text.split("In `search_spaces/`")[1].split("##")[0]):
        assert (ROOT / "search_spaces" / name).exists()
