"""`--divisor auto`: the multiples that a device computes fast, found, used and kept."""

import importlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune import resume, search
from autoprune.config import RunConfig
from autoprune.runs import reopen
from autoprune.runs.directory import RunDirectory
from objectives import Budget, Feasibility
from objectives.latency import fast_divisors, fit, needed, with_divisors
from objectives.latency.memory import kept_memory
from objectives.latency.sampling import sample
from objectives.latency.sites import Channels, sites_of
from objectives.latency.steps import DIVISORS, loss
from search_spaces import ChannelGroup, SearchSpace

PREPARE = importlib.import_module("autoprune.runs.prepare")  # the package's own `prepare` is the function


def space_of(*sizes, floor=1):
    return SearchSpace(tuple(ChannelGroup(f"g{i}", c, (), 1, min(floor, c)) for i, c in enumerate(sizes)), (), (), ())


def blocks(*sizes):
    """A device that computes the channels of each group in blocks of so many."""
    return lambda widths: sum(np.ceil(widths[:, g] / size) * size for g, size in enumerate(sizes)) + 1.0


@pytest.mark.parametrize("block", DIVISORS)
def test_a_device_with_blocks_gets_its_blocks(block):
    widths = np.arange(1, 65)
    ms = np.ceil(widths / block) * block
    losses = {divisor: loss(widths, ms, divisor) for divisor in DIVISORS}
    assert losses[block] == pytest.approx((block / 64) ** 2 / 12)  # only the rounding
    assert all(value > losses[block] for divisor, value in losses.items() if divisor != block)


@given(st.integers(8, 300), st.floats(1, 3), st.floats(0, 1e3), st.sampled_from(DIVISORS))
def test_where_every_channel_costs_as_much_or_more_a_divisor_never_pays(size, power, fixed, divisor):
    widths = np.arange(1, size + 1)
    ms = fixed + widths**power
    assert loss(widths, ms, divisor) >= loss(widths, ms, 1) - 1e-9


def test_every_group_has_its_own_and_all_devices_count():
    space = space_of(64, 64, 64, 7)
    assert fast_divisors(space, {"a": blocks(16, 4, 1, 1)}, ()) == (16, 4, 1, 1)
    both = {"a": blocks(16, 16, 1, 1), "b": blocks(16, 1, 1, 1)}
    assert fast_divisors(space, both, ())[0] == 16
    assert fast_divisors(space, both, ())[2] == 1
    assert fast_divisors(space, {}, ()) == (1, 1, 1, 1)


def test_a_budget_that_needs_finer_steps_gets_them():
    space, device = space_of(64, 64), {"latency@torch,batch=1,threads=1": blocks(16, 16)}
    (name,) = device
    assert fast_divisors(space, device, [Budget(name, 33.0)]) == (16, 16)
    uneven = {name: lambda widths: np.ceil(widths / 16).sum(axis=1) * 16 * (1 + (widths < 16).sum(axis=1) * -0.3)}
    budgets = [Budget(name, 20.0)]
    found = fast_divisors(space, uneven, budgets)
    assert max(found) < 16
    Feasibility(with_divisors(space, found), budgets, costs=uneven)


@pytest.mark.parametrize("value", ["auto", 8, "8"])
def test_a_divisor_is_a_number_or_auto(value, tmp_path):
    config = RunConfig.make(model="a.b:c", divisor=value)
    assert config.divisor == (value if value == "auto" else 8)
    path = tmp_path / "run.toml"
    path.write_text(config.to_toml())
    assert RunConfig.make(**RunConfig.read(path)) == config


@pytest.mark.parametrize("value", [0, -8, "-8", "fast", "1.5", ""])
def test_any_other_divisor_is_refused(value):
    with pytest.raises(ValueError, match=r"divisor: must be (auto or a whole number of )?at least 1, got"):
        RunConfig.make(divisor=value)


# -- in a run ------------------------------------------------------------------------------------------------------

QUICK = {
    "trials": 3, "finalists": 0, "epochs": 0, "val_samples": 64, "bn_samples": 64, "score_samples": 64,
    "fidelity": "proxy", "device": "cpu", "criterion": "l2", "reconstruct": False,
}  # fmt: skip


@pytest.fixture
def fast_eights(monkeypatch):
    """A made-up device with blocks of 16 output channels."""

    def study(backend, name, model, space, example, **_):
        sites = sites_of(model, space, example)
        widths = np.array([sample(space, n) for n in range(96)])
        i, o = Channels(sites, len(space.groups))(widths)
        ms = (0.001 + 100 * np.ceil(i / 16) * np.ceil(o / 16) * 256 * np.array([s.work for s in sites])).sum(axis=1)
        return fit(name, sites, widths, ms, 1.0, {"device": "made up"})

    monkeypatch.setattr(needed, "study", study)


def test_a_run_keeps_what_auto_chose(here, digits_weights, fast_eights, monkeypatch):
    model = {"model": "search_spaces.models:digits_cnn", "weights": str(digits_weights)}
    prepared = PREPARE.prepare(
        RunConfig.make(**model, data="digits", budget="latency<=100%@torch", divisor="auto", **QUICK)
    )
    chosen = [group.divisor for group in prepared.space.groups]
    assert max(chosen) == 16
    assert f"16 for {chosen.count(16)}" in prepared.divisors
    result = search(**model, data="digits", budget="macs<=60%", divisor=4, name="four", **QUICK)
    path = result.run_dir / "config.toml"
    path.write_text(path.read_text().replace("divisor = 4", 'divisor = "auto"'))

    def fails(*_):
        raise AssertionError("chosen anew")

    monkeypatch.setattr("autoprune.runs.posing.fast_divisors", fails)
    again = reopen(RunDirectory.open(result.run_dir), "resume")
    assert {group.divisor for group in again.space.groups} == {4}
    assert again.fingerprint()["space"] == json.loads(json.dumps(again.space.fingerprint))
    assert resume(result.run_dir, trials=4).space.fingerprint == again.space.fingerprint


def test_without_a_latency_budget_auto_is_one_and_says_nothing(digits_weights):
    model = {"model": "search_spaces.models:digits_cnn", "weights": str(digits_weights)}
    config = RunConfig.make(**model, data="digits", budget="macs<=60%", **QUICK)
    prepared = PREPARE.prepare(config)
    assert {group.divisor for group in prepared.space.groups} == {1}
    assert prepared.divisors == ""


# -- the allocator -------------------------------------------------------------------------------------------------


def test_kept_memory_is_not_asked_for_again():
    resource = pytest.importorskip("resource")
    pages = 2048

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            np.empty(pages * 4096, np.uint8).fill(1)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with kept_memory() as kept:
        if not kept:
            pytest.skip("another allocator than glibc's")
        faults()
        assert faults() < pages
