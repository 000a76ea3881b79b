"""Which worker lives where."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import autoprune
from autoprune.compute import Compute
from autoprune.config import RunConfig
from autoprune.runs import at_home, slots
from autoprune.workers.slots import CONTEXT, MEMORY, Machine, Slot, allowed, assign_slots, free_memory, in_free_memory

TWO = Machine(("cuda:0", "cuda:1", "cpu"), cores=16, most=16)
NONE = Machine(("cpu",), cores=4, most=4)


def homes(*args, machine=TWO):
    return [slot.device for slot in assign_slots(*args, machine)]


def test_the_example_of_the_manual():
    slots = assign_slots(4, ("cuda:0,cuda:1",), 2, TWO)
    assert slots == (Slot("cuda:0", MEMORY / 2, 4), Slot("cuda:1", MEMORY / 2, 4)) * 2


@pytest.mark.parametrize(
    ("workers", "devices", "per_device", "expected"),
    [
        (0, (), 0, []),  # no processes
        (3, (), 0, ["cuda:0", "cuda:1", "cuda:0"]),  # every GPU, in turn
        (1, (), 0, ["cuda:0"]),
        (0, ("cuda:1",), 0, ["cuda:1"]),  # one on each that is named
        (0, ("cuda:1, cuda:0",), 0, ["cuda:1", "cuda:0"]),
        (0, (), 2, ["cuda:0", "cuda:1"] * 2),  # so many on each
        (0, ("cpu",), 3, ["cpu"] * 3),
        (5, ("cpu",), 0, ["cpu"] * 5),  # any number
        (2, ("auto",), 0, ["cuda:0", "cuda:1"]),
        (1, ("cuda",), 0, ["cuda:0"]),
    ],
)
def test_by_hand(workers, devices, per_device, expected):
    assert homes(workers, devices, per_device) == expected


def test_without_a_gpu():
    assert assign_slots(3, (), 0, NONE) == (Slot("cpu", MEMORY / 3, 1),) * 3
    assert assign_slots(9, (), 0, NONE)[0].threads == 1
    assert assign_slots(1, (), 0, Machine(("cpu",), cores=16, most=2))[0].threads == 2


@pytest.mark.parametrize(
    ("workers", "devices", "per_device", "words"),
    [
        (1, ("cuda:7",), 0, "'cuda:7' does not exist on this machine; there are: cuda:0, cuda:1, cpu"),
        (1, ("gpu",), 0, "'gpu:0' does not exist"),
        (2, ("cuda:0", "cuda:0"), 0, "'cuda:0' is named twice; name it once and give per_device=2"),
        (2, ("cuda", "cuda:0"), 0, "named twice"),
        (9, ("cuda:0,cuda:1",), 2, r"9 are more than the 4 slots \(per_device=2 on cuda:0, cuda:1\); give workers=4"),
        (5, (), 2, "more than the 4 slots"),
        (1, ("cuda:0", "cuda:1"), 0, "cuda:1 would get none of the 1 workers; give workers=2 or more"),
        (1, (), -1, "at least 0, got 1 and -1"),
        (-1, (), 0, "at least 0, got -1 and 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(workers, devices, per_device, words):
    with pytest.raises(ValueError, match=words):
        assign_slots(workers, devices, per_device, TWO)


@given(
    workers=st.integers(0, 40),
    gpus=st.integers(0, 5),
    named=st.booleans(),
    per_device=st.integers(0, 9),
    cores=st.integers(1, 64),
    most=st.integers(1, 64),
)
def test_every_worker_has_a_slot_and_no_device_is_promised_twice(workers, gpus, named, per_device, cores, most):
    machine = Machine((*(f"cuda:{i}" for i in range(gpus)), "cpu"), cores, most)
    places = machine.devices[:gpus] or ("cpu",)
    try:
        slots = assign_slots(workers, places if named else (), per_device, machine)
    except ValueError:
        assert (per_device and workers > len(places) * per_device) or (named and 0 < workers < len(places))
        return
    assert len(slots) == workers or (not workers and len(slots) == len(places) * (per_device or named))
    counts = [sum(slot.device == place for slot in slots) for place in places]
    assert sum(counts) == len(slots)
    assert max(counts) - min(counts) <= 1
    assert not per_device or max(counts) <= per_device
    for place in places:
        assert sum(slot.share for slot in slots if slot.device == place) < 1
    assert all(1 <= slot.threads <= most for slot in slots)
    assert sum(slot.threads for slot in slots) <= max(cores, len(slots))


def test_this_machine():
    machine = Machine.here()
    assert "cpu" in machine.devices
    assert machine.most == 1  # tests run with OMP_NUM_THREADS=1
    assert assign_slots(1)[0].device in machine.devices


def test_what_a_run_makes_of_its_settings(monkeypatch):
    monkeypatch.setattr(Machine, "here", lambda: TWO)
    assert slots(RunConfig()) == ()
    assert [s.device for s in slots(RunConfig(workers=2, device="cpu"))] == ["cpu", "cpu"]
    assert [s.device for s in slots(RunConfig(devices=("cuda:1",), per_device=2))] == ["cuda:1", "cuda:1"]
    assert at_home(RunConfig(devices=("cuda:1,cuda:0",))).device == "cuda:1"  # what this process does is done there
    assert at_home(RunConfig(devices=("cuda:1",), device="cpu")).device == "cpu"
    assert at_home(RunConfig(workers=2)).device == "auto"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"devices": "cuda:7"}, "'cuda:7' does not exist on this machine; there are: .*cpu"),
        ({"devices": "cpu", "per_device": 2, "workers": 3}, "3 are more than the 2 slots"),
        ({"per_device": -1}, "per_device: must be at least 0, got -1"),
    ],
)
def test_a_search_refuses_before_it_does_anything(here, settings, words):
    with pytest.raises(ValueError, match=words):
        autoprune.search("nowhere:model", "nowhere:data", **settings)
    assert list(here.iterdir()) == []


def test_what_workers_may_take_leaves_room_for_their_contexts():
    """Four workers on a card of 8 GiB: 1.8 GiB each with their contexts, and 0.8 GiB for the parent's."""
    share, total = assign_slots(0, ("cuda:0",), 4, TWO)[0].share, 8 * 2**30
    assert allowed(share, total, total) * total == pytest.approx(1.8 * 2**30 - CONTEXT)
    assert 4 * (allowed(share, total, total) * total + CONTEXT) <= total - CONTEXT
    assert allowed(share, 2**30, total) * total == pytest.approx(2**30)  # somebody else has the rest
    assert allowed(0.01, total, total) > 0


def test_workers_share_what_others_have_left():
    """Somebody else holds 6 of the 8 GiB of one card, so four workers have 0.5 GiB each; the other card is free."""
    total = 8 * 2**30
    slots = assign_slots(8, (), 4, TWO)
    shared = in_free_memory(slots, {"cuda:0": (2 * 2**30, total), "cuda:1": (total, total)}.get)
    assert [slot.share for slot in shared] == pytest.approx([1 / 16, 0.9 / 4] * 4)
    assert in_free_memory(slots, lambda device: None) == slots
    assert free_memory("cuda:0") is None or torch.cuda.is_initialized()


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_devices_of_other_kinds_are_refused_in_a_sentence(monkeypatch, kind):
    class There:
        type = kind

    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda check_available=False: There)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 1)
    assert Machine.here().devices == ("cpu",)
    with pytest.raises(ValueError, match=rf"'{kind}:0' does not exist on this machine; there are: cpu"):
        assign_slots(1, (f"{kind}:0",))
    monkeypatch.setattr("torch.ones", lambda *size, device: torch.zeros(2) + 1)  # as if it were there
    with pytest.raises(ValueError, match=rf"device '{kind}': not supported: .*known good: auto, cpu, cuda"):
        Compute.choose(kind)
