"""The channels that a network is fed with, as a group."""

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from judge import judge
from torch import nn
from torch.nn import functional as F

import autoprune
from autoprune.exporting import export
from objectives.costs import Macs, Params
from search_spaces import SearchSpace, kept_inputs, prune, select_inputs, trace, verify
from search_spaces.verify import random_kept

IMAGE = (2, 12, 8, 8)


def sizes(space):
    return {g.name: g.size for g in space.groups}


def bands():
    return nn.Sequential(nn.Conv2d(12, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())


class Sensors(nn.Module):
    """A recurrence over sequences [N, T, C]."""

    def __init__(self):
        super().__init__()
        self.gru, self.out = nn.GRU(9, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.gru(x)[0][:, -1])


class Normalised(nn.Module):
    """Subtracts what it has learnt of each channel; the first four go another way, too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.randn(1, 12, 1, 1))
        self.a, self.b, self.out = nn.Conv2d(12, 8, 3), nn.Conv2d(12, 8, 3), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = x - self.mean
        return self.out(F.relu(self.a(x)) + F.relu(self.b(x)))


@pytest.mark.parametrize(("model", "shape", "channels"), [
    (bands, IMAGE, 12), (Normalised, IMAGE, 12), (Sensors, (2, 7, 9), 9),
    (lambda: nn.Sequential(nn.Conv1d(12, 8, 3), nn.Conv1d(8, 4, 1)), (2, 12, 9), 12),
    (lambda: nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)), (2, 12), 12),
], ids=["image", "normalised", "sequence", "signal", "table"])  # fmt: skip
def test_inputs_shrink(model, shape, channels):
    model, x = model().eval(), torch.randn(shape)
    space = trace(model, x, prune_inputs=True)
    assert sizes(space)["input"] == channels
    assert verify(model, space, x) < 1e-6
    for seed in range(3):
        kept = random_kept(space, np.random.default_rng(seed))
        assert judge(model, space, kept, x, seed) < 1e-6
    space = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    pruned = prune(model, space, kept)
    group = next(i for i, g in enumerate(space.groups) if g.name == "input")
    assert np.array_equal(kept_inputs(pruned), kept[group])
    taken = select_inputs(pruned, x)
    assert taken.numel() * channels == x.numel() * len(kept[group])
    assert torch.equal(pruned(taken), pruned(x))  # given all, it selects itself
    assert torch.equal(select_inputs(pruned, taken), taken)


def test_off_by_default():
    model, x = bands(), torch.randn(IMAGE)
    assert sizes(trace(model, x)) == {"0": 8}
    pruned = prune(model, trace(model, x), [np.arange(4)])
    assert kept_inputs(pruned) is None
    assert select_inputs(pruned, x) is x


def test_costs_by_hand():
    model, x = bands(), torch.randn(IMAGE)
    space = trace(model, x, prune_inputs=True)
    assert Macs(space)((5, 3)) == 9 * (36 * 5 * 3 + 16 * 3 * 4)
    assert Params(space)((5, 3)) == 9 * 5 * 3 + 3 + 3 + 3 + 9 * 3 * 4 + 4


def test_arguments_by_keyword_and_wrong_ones():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, image, scale):
            return self.b(self.a(image).relu()) * scale

    model, given = Two(), {"image": torch.randn(2, 6), "scale": torch.ones(2, 1)}
    space = trace(model, given, prune_inputs=True)
    pruned = prune(model, space, [np.array([0, 4]), np.arange(3)])
    taken = select_inputs(pruned, given)
    assert taken["image"].tolist() == given["image"][:, [0, 4]].tolist()
    assert torch.equal(pruned(**taken), pruned(**given))
    assert [kept_inputs(pruned, name) is None for name in ("input:image", "image", "scale")] == [False, False, True]
    with pytest.raises(ValueError, match="kept_inputs: Two has no input 'imge'; it takes image, scale"):
        kept_inputs(pruned, "imge")
    with pytest.raises(ValueError, match="all 6 channels of the dense network or the 2 kept ones, found 5"):
        select_inputs(pruned, torch.randn(2, 5))
    with pytest.raises(ValueError, match=r"prune_inputs: Linear must take a tensor \[N, C, ...\]$"):
        trace(nn.Linear(6, 5), torch.randn(6), prune_inputs=True)


def test_the_only_one_is_found_whatever_else_comes_and_in_which_order():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, image, mask=None):
            return self.b(self.a(image["x"]).relu()) * (1 if mask is None else mask.amax(1, keepdim=True))

    model, x, mask = Optional(), torch.randn(2, 6), torch.randn(2, 6)
    space = trace(model, (OrderedDict(x=x),), prune_inputs=True)
    pruned = prune(model, space, [np.array([0, 4]), np.arange(3)])
    assert kept_inputs(pruned, "image.x").tolist() == [0, 4]
    given = {"mask": mask, "image": OrderedDict(x=x)}
    taken = select_inputs(pruned, given)
    assert taken["mask"] is mask
    assert type(taken["image"]) is OrderedDict
    assert torch.equal(taken["image"]["x"], x[:, [0, 4]])
    assert torch.equal(pruned(**given), pruned(taken["image"], mask))


class Fused(nn.Module):
    """An image, a table and a sequence, of which a mask says what counts."""

    def __init__(self):
        super().__init__()
        self.see, self.read, self.hear = nn.Conv2d(12, 8, 3), nn.Linear(10, 6), nn.GRU(9, 5, batch_first=True)
        self.out = nn.Linear(19, 3)

    def forward(self, image, mask=None, **more):
        heard = self.hear(more["sound"] * mask[..., None])[0].mean(1)
        return self.out(torch.cat([self.see(image).relu().mean((2, 3)), self.read(more["table"]).relu(), heard], 1))


class Boxed(nn.Module):
    """The same, which takes the image and a dictionary of all else."""

    def __init__(self):
        super().__init__()
        self.net = Fused()

    def forward(self, image, rest):
        return self.net(image, **rest)


@pytest.mark.parametrize("boxed", [False, True])
def test_each_of_several_inputs_shrinks(boxed):
    model = (Boxed() if boxed else Fused()).eval()
    image, rest = torch.randn(2, 12, 8, 8), {"table": torch.randn(2, 10), "sound": torch.randn(2, 7, 9)}
    rest["mask"] = (torch.arange(14).view(2, 7) % 3 > 0).float()
    given = (image, rest) if boxed else {**rest, "image": image}
    space = trace(model, given, prune_inputs=True)
    path = "rest." if boxed else ""
    names = {f"input:{path}table": 10, f"input:{path}sound": 9, "input:image": 12}
    assert {n: c for n, c in sizes(space).items() if n.startswith("input")} == names
    frozen = {g.name: g.frozen_because for g in space.frozen}
    assert frozen[f"input:{path}mask"]  # why, and nothing else is frozen for it
    assert sum(sizes(space).values()) == sum(sizes(trace(model, given)).values()) + sum(names.values())
    assert verify(model, space, given) < 1e-6
    kept = random_kept(space, np.random.default_rng(0))
    assert judge(model, space, kept, given, 0) < 1e-6
    space = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    pruned = prune(model, space, kept)
    taken = select_inputs(pruned, given)
    for name, group_kept in zip(space.groups, kept, strict=True):
        if name.name in names:
            assert np.array_equal(kept_inputs(pruned, name.name.partition(":")[2]), group_kept)
    first, second = taken if boxed else (taken["image"], taken)
    assert first.shape[1] == len(kept_inputs(pruned, "image"))
    assert second["sound"].shape[2] == len(kept_inputs(pruned, f"{path}sound"))
    assert second["mask"] is rest["mask"]
    call = (lambda a: pruned(*a)) if boxed else (lambda a: pruned(**a))
    assert torch.equal(call(taken), call(given))
    with pytest.raises(ValueError, match=r"several inputs have lost channels \(.*image.*\); name one of them"):
        kept_inputs(pruned)


def test_what_is_delivered_of_several_inputs_says_which_channels(tmp_path):
    onnx = pytest.importorskip("onnx")

    class Added(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 5), nn.Linear(7, 5), nn.Linear(5, 3)

        def forward(self, left, right):
            return self.out((self.a(left) + self.b(right)).relu())

    model, given = Added().eval(), {"left": torch.randn(2, 6), "right": torch.randn(2, 7)}
    space = trace(model, given, prune_inputs=True)
    assert sizes(space) == {"input:left": 6, "input:right": 7, "a": 5}
    kept = (np.array([1, 4]), np.array([0, 2, 5]), np.arange(3))
    pruned = prune(model, space, kept).eval()
    export(tmp_path / "out", pruned, space=space, kept=kept, example_inputs=given, onnx=True)
    said = json.loads((tmp_path / "out" / "architecture.json").read_text())["input"]
    assert said == {"kept_channels": {"left": [1, 4], "right": [0, 2, 5]}, "channels": {"left": 6, "right": 7}}
    file = onnx.load(str(tmp_path / "out" / "model.onnx"))
    assert {p.key: json.loads(p.value) for p in file.metadata_props}["input.kept_channels"] == said["kept_channels"]
    assert {i.name: i.type.tensor_type.shape.dim[1].dim_value for i in file.graph.input} == {"left": 2, "right": 3}
    loaded = autoprune.load(tmp_path / "out", Added)
    assert autoprune.kept_inputs(loaded, "right").tolist() == [0, 2, 5]
    assert torch.allclose(loaded(**select_inputs(loaded, given)), pruned(**given), atol=1e-6)
    assert torch.equal(loaded(given["left"], given["right"]), loaded(**given))  # by position, too


def test_a_second_pruning_counts_the_channels_of_the_first_network():
    model, x = bands(), torch.randn(IMAGE)
    space = trace(model, x, prune_inputs=True)
    once = prune(model, space, [np.array([1, 3, 5, 7]), np.arange(8)])
    again = trace(once, select_inputs(once, x), prune_inputs=True)
    twice = prune(once, again, [np.array([0, 2]), np.arange(8)])
    assert kept_inputs(twice).tolist() == [1, 5]
    assert select_inputs(twice, x).shape == (2, 2, 8, 8)


def test_inputs_that_code_counts_are_frozen():
    class Asks(nn.Sequential):
        def forward(self, x):
            if x.shape[1] != 12:
                raise ValueError("12 bands")
            return super().forward(x)

    model, x = Asks(*bands()), torch.randn(IMAGE)
    space = trace(model, x, prune_inputs=True)
    assert sizes(space) == {"0": 8}
    assert {g.name: g.frozen_because for g in space.frozen}["input"].startswith("their number enters a comparison")


def test_what_is_delivered_says_which_channels(tmp_path):
    onnx = pytest.importorskip("onnx")
    model, x = bands().eval(), torch.randn(IMAGE)
    space = trace(model, x, prune_inputs=True)
    kept = (np.array([1, 2, 9]), np.arange(4))
    pruned = prune(model, space, kept).eval()
    inputs = {"shape": [12, 8, 8], "mean": [i / 10 for i in range(12)], "std": [1.0] * 12, "normalisation": "..."}
    given = {"space": space, "kept": kept, "inputs": inputs, "example_inputs": x, "onnx": True, "pt2": True}
    export(tmp_path / "out", pruned, **given)
    said = json.loads((tmp_path / "out" / "architecture.json").read_text())["input"]
    assert said["kept_channels"] == [1, 2, 9]
    assert (said["channels"], said["shape"], said["mean"]) == (12, [3, 8, 8], [0.1, 0.2, 0.9])
    file = onnx.load(str(tmp_path / "out" / "model.onnx"))
    assert {p.key: p.value for p in file.metadata_props}["input.kept_channels"] == "[1, 2, 9]"
    assert file.graph.input[0].type.tensor_type.shape.dim[1].dim_value == 3
    program = torch.export.load(str(tmp_path / "out" / "model.pt2")).module()
    loaded = autoprune.load(tmp_path / "out", bands)
    assert autoprune.kept_inputs(loaded).tolist() == [1, 2, 9]
    taken = autoprune.select_inputs(loaded, x)
    assert torch.allclose(loaded(taken), pruned(x), atol=1e-6)
    assert torch.allclose(program(taken), pruned(x), atol=1e-5)


def test_a_search_prunes_them(here):
    images = F.pixel_unshuffle(torch.rand(96, 1, 8, 8), 2)  # [N, 4, 4, 4]
    labels = torch.arange(96) % 3
    batches = [(images[i : i + 32], labels[i : i + 32]) for i in range(0, 96, 32)]

    def net():
        body = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()
        return nn.Sequential(*body, nn.Linear(128, 3))

    task = autoprune.Task.of(batches, batches, loss=F.cross_entropy)
    quick = {"trials": 4, "finalists": 0, "epochs": 1, "criterion": "l1", "device": "cpu", "progress": False}
    result = autoprune.search(net().eval(), task, budget="macs<=40%", prune_inputs=True, name="bands", **quick)
    kept = autoprune.kept_inputs(result.model)
    assert 1 <= len(kept) <= 4
    loaded = autoprune.load(here / "results" / "bands" / "best", net)
    assert autoprune.kept_inputs(loaded).tolist() == kept.tolist()
    architecture = json.loads((here / "results" / "bands" / "best" / "architecture.json").read_text())
    assert architecture["groups"][0] == "input"
    assert architecture["input"]["kept_channels"] == kept.tolist()
    assert loaded(autoprune.select_inputs(loaded, images[:2])).shape == (2, 3)


def test_a_search_prunes_each_of_several_inputs(here):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.see, self.read, self.out = nn.Conv2d(4, 8, 3), nn.Linear(9, 8), nn.Linear(8, 3)

        def forward(self, image, table):
            return self.out(self.see(image).mean((2, 3)).relu() + self.read(table).relu())

    given = {"image": torch.rand(96, 4, 8, 8), "table": torch.rand(96, 9), "labels": torch.arange(96) % 3}
    batches = [{name: value[i : i + 32] for name, value in given.items()} for i in range(0, 96, 32)]
    task = autoprune.Task.of(batches, batches, loss=F.cross_entropy)
    quick = {"trials": 4, "finalists": 0, "epochs": 1, "criterion": "taylor", "device": "cpu", "progress": False}
    result = autoprune.search(Both().eval(), task, budget="params<=40%", prune_inputs=True, name="both", **quick)
    loaded = autoprune.load(here / "results" / "both" / "best", Both)
    image, table = (autoprune.kept_inputs(loaded, name) for name in ("image", "table"))
    assert (len(image), len(table)) == (loaded.see.in_channels, loaded.read.in_features)
    assert len(image) + len(table) < 13
    inputs = {name: given[name] for name in ("image", "table")}
    taken = autoprune.select_inputs(loaded, inputs)
    assert {name: value.shape[1] for name, value in taken.items()} == {"image": len(image), "table": len(table)}
    assert torch.allclose(loaded(**taken), result.model(**inputs), atol=1e-6)
