"""The predictor against devices that are known: how it learns, what it keeps, and that a search may trust it."""

import copy
import json
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from objectives import Feasibility, InfeasibleBudget, parse
from objectives.latency import Backend, Latency, Setting, cache_folder, fit, study, take_turns
from objectives.latency.sampling import sample
from objectives.latency.sites import Channels, sites_of
from objectives.latency.timing import quietest
from search_spaces import trace

METRIC = "latency@torch,batch=1,threads=1"


class Net(nn.Sequential):
    """Convolutions, one of them depthwise, and a classifier."""

    def __init__(self):
        c = nn.Conv2d
        super().__init__(
            c(3, 32, 3, padding=1), nn.ReLU(), c(32, 64, 3, stride=2, padding=1), nn.ReLU(),
            c(64, 64, 3, padding=1, groups=64), nn.ReLU(), c(64, 48, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(48, 10),
        )  # fmt: skip


@pytest.fixture(scope="module")
def net():
    model, example = Net().eval(), torch.randn(1, 3, 32, 32)
    space = trace(model, example)
    return model, space, example, sites_of(model, space, example)


def device(sites, widths):
    """A made-up device: blocks of 16, a slow way for input channels that are no multiple of 4, 20 us per layer."""
    i, o = Channels(sites, widths.shape[1])(widths)
    across = np.where([s.kind == "depthwise" for s in sites], 1.0, i)
    work = np.array([s.work for s in sites])
    blocks = across * np.ceil(o / 16) * 16 * work
    return (0.02 + 50 * blocks + (i % 4 != 0) * (0.01 + 30 * across * o * work)).sum(axis=1)


@pytest.fixture(scope="module")
def learnt(net):
    _, space, _, sites = net
    widths = np.array([sample(space, n) for n in range(96)])
    return fit(METRIC, sites, widths, device(sites, widths), 1.0, {"device": "made up"})


def test_sites_know_strides_grouping_and_sides(net):
    *_, sites = net
    assert [s.kind for s in sites] == ["conv", "conv", "depthwise", "conv", "linear"]
    assert len({s.signature for s in sites}) == 5
    assert "[2,2]" in sites[1].signature
    assert sites[2].reads == sites[2].makes


def test_it_learns_a_device_with_staircases(learnt, net):
    _, space, _, sites = net
    assert learnt.quality.candidates == 96
    assert learnt.quality.mape < 4
    assert learnt.quality.spearman > 0.99
    fresh = np.array([sample(space, n) for n in range(1000, 1100)])
    error = np.abs(learnt(fresh) / device(sites, fresh) - 1)
    assert 100 * error.mean() < 4
    assert learnt.quality.worst >= learnt.quality.mape > 0


def test_the_held_out_points_are_kept_and_give_the_quality(learnt, net):
    _, space, _, sites = net
    predicted, ms = np.array(learnt.quality.points).T
    widths = np.array([sample(space, n) for n in range(96)])
    assert (ms == device(sites, widths)).all()
    assert learnt.quality.mape == pytest.approx(100 * np.abs(predicted / ms - 1).mean())
    assert (predicted != learnt(widths)).all(), "by fits that had not seen them"


def test_a_file_without_the_points_is_the_same_predictor(learnt):
    said = json.loads(json.dumps(learnt.to_json()))
    del said["quality"]["points"]
    again = Latency.from_json(said)
    assert again.quality.points == ()
    assert str(again.quality) == str(learnt.quality)
    assert again.fingerprint == learnt.fingerprint


def test_noise_shows_in_the_held_out_error(net):
    _, space, _, sites = net
    widths = np.array([sample(space, n) for n in range(96)])
    noise = np.exp(0.3 * np.random.default_rng(0).standard_normal(96))
    assert fit(METRIC, sites, widths, device(sites, widths) * noise, 1.0, {}).quality.mape > 12


def test_a_batch_is_its_rows_and_its_parts(learnt, net):
    _, space, *_ = net
    batch = np.array([space.sample(np.random.default_rng(n)) for n in range(300)])
    values = learnt(batch)
    assert values.shape == (300,)
    assert (values > 0).all()
    for row, value in zip(batch[:20], values[:20], strict=True):
        assert learnt(tuple(row.tolist())) == pytest.approx(value, rel=1e-12)
        parts = learnt.parts(row.tolist())
        assert sum(parts.values()) == pytest.approx(value, rel=1e-12)
        assert all(ms >= 0 for ms in parts.values())
        assert set(parts) == {layer.name for layer in space.layers}


def test_it_prices_the_very_same_after_a_file_or_a_pickle(learnt, net):
    _, space, *_ = net
    batch = np.array([space.sample(np.random.default_rng(n)) for n in range(50)])
    for again in (Latency.from_json(json.loads(json.dumps(learnt.to_json()))), pickle.loads(pickle.dumps(learnt))):
        assert (again(batch) == learnt(batch)).all()
        assert again.fingerprint == learnt.fingerprint
        assert again.quality == learnt.quality


def test_projection_holds_the_budget_on_a_device_that_is_not_monotone(learnt, net):
    _, space, *_ = net
    feasibility = Feasibility(space, [parse("latency<=60%@torch")], costs={METRIC: learnt})
    assert learnt(np.array([[31, 64, 48]]))[0] > learnt(np.array([[32, 64, 48]]))[0], "the device has a slow way"
    limit = 0.6 * learnt(space.full)
    for n in range(60):
        widths = feasibility.project(sample(space, n))
        assert learnt(widths) <= limit * (1 + 1e-9)
        assert feasibility.project(widths) == widths
        assert feasibility.price(widths)[METRIC] == learnt(widths)


def test_latency_and_macs_hold_at_once(learnt, net):
    _, space, *_ = net
    feasibility = Feasibility(space, [parse("latency<=70%@torch"), parse("macs<=40%")], costs={METRIC: learnt})
    for n in range(20):
        assert feasibility.violation(feasibility.project(sample(space, n))) == 0


def test_below_the_floor_the_floor_is_shown(learnt, net):
    _, space, *_ = net
    with pytest.raises(InfeasibleBudget, match=r"latency<=0\.00?1ms@torch.*unreachable.*allow at least [\d.]+ ms"):
        Feasibility(space, [parse("latency<=0.001ms@torch")], costs={METRIC: learnt})


def test_an_unmeasured_latency_has_no_price(net):
    _, space, *_ = net
    with pytest.raises(ValueError, match="is measured, not computed"):
        Feasibility(space, [parse("latency<=50%@torch")])


# -- budgets as text -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "metric", "limit", "relative"),
    [
        ("latency<=60%@onnxruntime,batch=1,threads=1", "latency@onnxruntime,batch=1,threads=1", 0.6, True),
        ("latency<=60%", "latency@onnxruntime,batch=1,threads=1", 0.6, True),
        ("latency <= 0.5x @torch,threads=2", "latency@torch,batch=1,threads=2", 0.5, True),
        ("latency<=3.5ms@torch,batch=8", "latency@torch,batch=8,threads=1", 3.5, False),
        ("latency<=0.002s@command", "latency@command,batch=1,threads=1", 2, False),
        ("latency<=750us", "latency@onnxruntime,batch=1,threads=1", 0.75, False),
        ("latency<=2ms@tensorrt,device=cuda:1", "latency@tensorrt,batch=1,threads=1,device=cuda:1", 2, False),
    ],
)
def test_a_budget_says_where_it_is_measured(text, metric, limit, relative):
    budget = parse(text)
    assert (budget.metric, budget.relative) == (metric, relative)
    assert budget.limit == pytest.approx(limit)
    assert parse(str(budget)) == budget
    assert budget.target


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("latency<=3", "found no unit"),
        ("latency<=3M@torch", "found the unit 'M'"),
        ("latency<=3ms@phone", "unknown latency backend 'phone'; known: command, compile"),
        ("latency<=3ms@torch,cores=2", "unknown option 'cores'"),
        ("latency<=3ms@torch,threads=0", "threads must be a whole number of at least 1"),
        ("latency<=3ms@", "expected latency@"),
        ("latency<=150%@torch", "at most 100%"),
        ("latency<=0ms", "above 0"),
        ("macs<=50%@torch", "only a latency is measured"),
    ],
)
def test_a_latency_budget_that_cannot_be_read(text, why):
    with pytest.raises(ValueError, match=why) as error:
        parse(text)
    assert str(error.value).startswith(f"budget '{text}': ")


# -- measuring -----------------------------------------------------------------------------------------------------


def test_turns_alternate_and_the_first_run_is_not_counted():
    log = []

    def runner(name, times):
        calls = iter([9.0, 9.0, *times])
        return lambda: (log.append(name), next(calls))[1]

    timing = take_turns({"a": runner("a", [50, 7, 8, 50, 9, 8]), "b": runner("b", [50, 1, 2, 50, 3, 5])}, turns=2)
    assert log == ["a"] * 2 + ["b"] * 2 + ["a"] * 3 + ["b"] * 6 + ["a"] * 3
    assert timing["a"].median == 7.5
    assert timing["b"].median == 2
    assert timing["b"].spread == 0.5


@pytest.mark.parametrize(("paces", "often"), [((4.0, 1.0), 6), ((0.1, 0.2), 20), ((240.0, 0.5), 2), ((99.0, 1.0), 5)])
def test_the_best_is_of_equally_many_runs_of_each(paces, often):
    """The best of few runs is slower than the best of many, so that the share of a fast network would come out low."""
    calls = [0, 0]

    def runner(which, ms):
        def run():
            calls[which] += 1
            return ms

        return run

    take_turns({str(i): runner(i, ms) for i, ms in enumerate(paces)}, turns=3)
    assert calls == [2 + 3 * (1 + often)] * 2


def test_a_slow_spell_does_not_show():
    rng = np.random.default_rng(0)
    true = rng.uniform(1, 20, 25)
    spells = np.array([1.0, 1.0, 1.5, 1.3, 1.0, 1.4])
    table = true * spells[:, None] * np.exp(0.01 * rng.standard_normal((6, 25)))
    table[1, 3] *= 3  # one interruption
    found = quietest(table)
    assert np.abs(found / found[0] / (true / true[0]) - 1).max() < 0.03


class Clock(Backend):
    """Does not run anything: the time is that of the made-up device, half as much again in slow spells."""

    name = "clock"
    measured, passed = 0, 0.0  # runs, milliseconds

    def load(self, model, example):
        return lambda: 1.0

    def candidates(self, model, space, example, *, delivered=False):
        sites = sites_of(model, space, example)
        return lambda widths: lambda: self.tick(float(device(sites, np.array([widths]))[0]))

    def tick(self, ms):
        took = ms * (1.5 if self.passed // 300 % 3 == 2 else 1.0)
        type(self).measured += 1
        type(self).passed += took
        return took


def test_a_study_measures_once_and_then_reads(net, tmp_path):
    model, space, example, sites = net
    there, Clock.measured, said = Clock(Setting()), 0, []
    first = study(there, METRIC, model, space, example, most=48, folder=tmp_path, say=said.append)
    begun = f"measuring networks for the predictor of {METRIC} (up to 48, about 150 s; then kept) ..."
    assert said == [begun, "24 networks measured", "48 networks measured"]
    ticks = Clock.measured
    assert ticks > 48
    assert first.quality.mape < 8
    full = np.array([space.full])
    assert first(full)[0] == pytest.approx(device(sites, full)[0], rel=0.1)
    second = study(there, METRIC, model, space, example, most=48, folder=tmp_path, say=said.append)
    assert len(said) == 3, "what the cache has takes no time"
    assert Clock.measured == ticks
    assert second.fingerprint == first.fingerprint
    study(Clock(Setting(batch=2)), METRIC, model, space, example, most=48, folder=tmp_path)
    assert Clock.measured > ticks, "another batch is another measurement"

    ticks, others = Clock.measured, copy.deepcopy(model)
    for name in [n for n, module in others.named_modules() if isinstance(module, nn.ReLU)]:
        others.set_submodule(name, nn.SiLU())
    study(there, METRIC, others, space, example, most=48, folder=tmp_path)
    assert Clock.measured > ticks, "the same layers, but other operations between them"
    ticks = Clock.measured
    for file in tmp_path.iterdir():
        file.write_text(file.read_text()[:100])
    study(there, METRIC, model, space, example, most=48, folder=tmp_path)
    assert Clock.measured > ticks, "half a file is no measurement"


def test_what_building_candidates_costs_is_said(net, tmp_path, monkeypatch):
    model, space, example, _ = net
    monkeypatch.setattr(Clock, "builds", "are built before")
    said = []
    study(Clock(Setting()), METRIC, model, space, example, most=6, folder=tmp_path, say=said.append)
    assert "(up to 6, about 150 s, and at least 6 of them are built before; then kept)" in said[0]


class Disturbed(Clock):
    """Some candidates take three times as long where they are measured for the first time."""

    name = "disturbed"

    def candidates(self, model, space, example, *, delivered=False):
        build, built = super().candidates(model, space, example), Counter()

        def disturbed(widths):
            built[widths] += 1
            factor = 3 if sum(widths) % 7 == 0 and built[widths] == 1 and widths != space.full else 1
            run = build(widths)
            return lambda: factor * run()

        return disturbed


def test_what_was_too_slow_to_believe_is_measured_again(net, tmp_path):
    model, space, example, _ = net
    plain = [sample(space, n) for n in range(24)]
    assert 1 <= sum(sum(w) % 7 == 0 for w in plain) <= 6, "the example needs some"
    found = study(Disturbed(Setting()), METRIC, model, space, example, most=24, folder=tmp_path)
    assert found.quality.worst < 50


def test_a_cache_that_cannot_be_written_costs_nothing_else(net, tmp_path):
    model, space, example, _ = net
    (tmp_path / "file").touch()
    found = study(Clock(Setting()), METRIC, model, space, example, most=48, folder=tmp_path / "file" / "folder")
    assert found.quality.candidates == 48


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("AUTOPRUNE_CACHE", raising=False)
    assert cache_folder() == tmp_path / "autoprune" / "latency"
    monkeypatch.setenv("AUTOPRUNE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
