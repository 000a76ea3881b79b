"""The benchmark of methods: what a row is given, and what its table says of the pieces that are there."""

import json

import numpy as np
import pytest

from autoprune.config import RunConfig
from autoprune.data import load
from autoprune.problem import Problem
from autoprune.training.methods import METHODS
from objectives import parse
from search_spaces import trace
from search_spaces.models import digits_cnn


@pytest.fixture(scope="module")
def bench(script):
    return script("methods")


def test_every_method_that_prunes_has_a_row_and_settings_that_a_run_takes(bench):
    others = {"epi", "early-bird", "sandwich", "nested"}  # rules, and what prunes to several widths
    assert {*bench.GIVEN, *bench.FINDING} == set(METHODS) - others - {bench.CUT}
    for name in (bench.CUT, bench.UNIFORM, *bench.GIVEN, *bench.FINDING):
        config = RunConfig.make(budget="macs<=15%", **{**bench.PLAIN, "epochs": 10, **bench.settings(name, 10)})
        assert config.epochs + (config.method_epochs if config.method else 0) == 10


def test_the_best_comes_first_and_what_was_refused_last(bench, tmp_path):
    pieces, quality = tmp_path / "methods", tmp_path / "quality"

    def keep(name, seed, piece):
        path = pieces / "resnet20" / "15" / f"{name}--10--s{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(piece))

    of = {"widths": [3, 4], "share": 0.149, "compute_s": 600.0}
    keep("cut", 0, {**of, "top1": 0.8})
    keep("cut", 1, {**of, "top1": 0.82, "widths": [4, 3], "at_once": False, "compute_s": 1.0})  # resumed
    keep("chex", 0, {**of, "top1": 0.9, "amp": False, "val": 0.91})
    keep("gates", 0, {"error": "method 'gates': no"})
    folder = quality / "resnet20" / "15"
    folder.mkdir(parents=True)
    found = {"name": "uniform", "what": "train:3510", "test_top1": 0.7, "widths": [2, 2], "compute_s": 300.0}
    (folder / "uniform_train_3510.json").write_text(json.dumps(found))
    (folder / "uniform_train_351.json").write_text(json.dumps({**found, "what": "train:351"}))
    text = bench.table(pieces, quality, bench.CONCLUDED)
    assert "## resnet20 at 15% of the MACs, 10 epochs" in text
    assert text.rstrip().splitlines()[-4:] == [
        "| chex | 90.00 f32 | 1 | 14.9 | 10 | 3 4 | 91.00 |",
        "| cut | 81.00 ± 1.41 | 2 | 14.9 | 10 | of each seed its own |  |",
        "| uniform (by quality.py) | 70.00 | 1 |  | 5 | 2 2 |  |",
        "| gates | refused: method 'gates': no | | | | | |",
    ]


def test_a_row_may_name_settings_of_a_method_that_finds_units(bench):
    row = bench.settings("increg strength=1e-2 ceiling=3", 4)
    assert row["method"] == "increg"
    assert row["method_args"] == {"strength": 0.01, "ceiling": 3}
    assert RunConfig.make(budget="macs<=15%", **row).method_args == row["method_args"]
    with pytest.raises(ValueError, match="row 'greg1' takes no settings: strength=1"):
        bench.settings("greg1 strength=1", 4)


@pytest.mark.parametrize(
    "name", ["uniform", "slimming", "slimming strength=0.01"]
)  # "cut" alone scores in rounds, which takes a while
def test_a_row_is_pruned_trained_and_read_again(bench, tmp_path, monkeypatch, name):
    monkeypatch.setattr(bench, "PIECES", tmp_path)
    grid = bench.Grid(tmp_path, "resnet20", "50%")
    grid.data, grid.dense = load("digits"), digits_cnn()
    found = grid.delivered(name, 1, 0)
    assert 0.3 < found["share"] <= 0.5
    assert 0 <= found["top1"] <= 1
    assert grid.delivered(name, 1, 0) == found  # resumed: it has ended


def test_a_method_is_given_the_units_of_a_search_by_the_other_script(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "PIECES", tmp_path)
    monkeypatch.setattr(bench, "EPOCH", 6)
    grid = bench.Grid(tmp_path, "resnet20", "50%")
    grid.data, grid.dense = load("digits"), digits_cnn()
    space = trace(grid.dense, grid.data.example)
    grid.bare = Problem(space, (parse("macs<=50%"),), tuple(np.ones(g.size) for g in space.groups))
    kept = tuple(np.arange(1, g.size // 2 + 1) for g in space.groups)
    monkeypatch.setattr(grid, "search", lambda name: grid.searched.update({name: kept}))
    monkeypatch.setattr(grid, "problem", lambda criterion: grid.bare)
    (tmp_path / "resnet20" / "50").mkdir(parents=True)
    found = grid.driven_out("greg1 of search combined s0", 10, 0)
    assert found["widths"] == [g.size // 2 for g in space.groups]
    assert 0.2 < found["share"] < 0.5
    assert {"top1", "val"} <= found.keys()
    assert not list(tmp_path.rglob("*.pt"))
