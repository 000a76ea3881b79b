"""What goes to other machines: one copy for each worker, from the same code, and nothing is written if it cannot go."""

import copy
import gc
import importlib
import mmap
import os
import pickle
import sys
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import autoprune
from autoprune.data import load
from autoprune.source import digest
from autoprune.workers.cluster import connect
from autoprune.workers.cluster.pages import own_pages
from autoprune.workers.cluster.payload import Payload, check_sendable
from search_spaces.models import digits_cnn

pytestmark = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed")
MIB = 2**20


def test_it_arrives_as_it_was_packed():
    there = Payload.pack({"numbers": torch.arange(3), "function": lambda x: x + 1}).unpack()
    assert there["function"](1) == 2
    there["numbers"] += 1  # its own: what lies in the store is read-only
    assert there["numbers"].tolist() == [1, 2, 3]


def test_files_that_are_named_from_the_drivers_folder_are_found(tmp_path, monkeypatch):
    """Ray has its workers in folders of its own."""
    monkeypatch.chdir(tmp_path)
    sent = Payload.pack(None)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    sent.unpack()
    assert Path.cwd() == tmp_path
    replace(sent, folder=str(tmp_path / "not here")).unpack()
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize("what", [torch.ones(MIB, dtype=torch.uint8), np.ones(MIB, np.uint8)], ids=["torch", "numpy"])
def test_its_bytes_travel_outside_the_pickle(what):
    """So that they lie in Ray's object store as they are, and are copied by nobody on the way there."""
    payload = Payload.pack({"all": what, "some": what[5:7], "function": lambda x: x})
    assert sum(map(len, payload.numbers)) == MIB + 2 * (type(what) is np.ndarray)  # views of a tensor have one storage
    assert np.shares_memory(max(payload.numbers, key=len), np.asarray(what))
    outside = []
    inside = pickle.dumps(payload, protocol=5, buffer_callback=outside.append)
    assert len(inside) + len(payload.data) < MIB / 10
    store = [memoryview(buffer).toreadonly() for buffer in outside]
    there = pickle.loads(inside, buffers=store).unpack()
    assert there["all"].sum() == MIB


def test_what_has_no_numbers_or_empty_ones_arrives_too():
    there = Payload.pack([np.zeros(0), torch.zeros(0, 3), np.ones((2, 3)).T, np.array(["a", None], dtype=object)])
    empty, none, turned, objects = there.unpack()
    assert (empty.shape, none.shape, turned.shape, objects[0]) == ((0,), (0, 3), (3, 2), "a")


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_pages_of_the_store_are_shared_until_they_are_written():
    """Ray maps a file without a name, which the raylet has open; so does this process, in its place."""
    with tempfile.TemporaryFile() as file:
        file.truncate(MIB)
        store = np.frombuffer(mmap.mmap(file.fileno(), MIB), np.uint8)
        store[:] = 1
        given = [store[5000:5100], np.zeros(0, np.uint8), store[8192:]]  # an empty one, which lies elsewhere
        for part in given:
            part.flags.writeable = False
        first, second = (own_pages(given, os.getpid()) for _ in range(2))
        assert [len(part) for part in first] == [100, 0, MIB - 8192]
        store[-1] = 7  # seen by both: it is the same page
        assert first[2][-1] == second[2][-1] == 7
        first[2][-1], first[0][:] = 9, 5  # by nobody else
        assert store[-1] == second[2][-1] == 7
        assert store[5000] == second[0][0] == 1
        torch.from_numpy(first[2]).zero_()  # without a warning
    for other, owner in ((given, 2**22), ([np.ones(3, np.uint8)], os.getpid())):  # no such process; not in a file
        copies = own_pages(other, owner)
        assert all(map(np.array_equal, copies, other))
        assert copies[0].flags.owndata


@pytest.mark.slow  # a cluster of its own
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_worker_holds_what_it_writes(monkeypatch):
    """Not a copy of the data set: its own memory grows by the half that it writes, which no other worker sees."""
    import ray

    size = 100 * MIB

    def written(payload):
        """How much more this worker's own memory holds, in data sets: when all has been read, and half been written."""

        def own():
            gc.collect()
            with open("/proc/self/smaps_rollup") as file:
                return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Anonymous:"))

        Payload.pack(torch.ones(1)).unpack()  # imports what is needed
        before = own()
        data = payload.unpack()
        assert data["array"].sum() + int(data["tensor"].sum()) == size
        read = own() - before
        data["tensor"].zero_()
        return read / size, (own() - before) / size

    halves = {"array": np.ones(size // 2, np.uint8), "tensor": torch.ones(size // 2, dtype=torch.uint8)}
    payload = replace(Payload.pack(halves), versions={})  # whoever edits the sources meanwhile
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's 15 starves it beside other tests
    with connect("local", num_cpus=1, object_store_memory=4 * size):
        sent, measure = ray.put(payload), ray.remote(num_cpus=1, max_calls=1)(written)  # a new process each
        for _ in range(2):
            read, wrote = ray.get(measure.remote(sent))
            assert read < 0.1
            assert 0.45 < wrote < 0.65
    gc.collect()  # what Ray leaves open: here, where its warnings are filtered


def test_it_is_not_unpacked_by_other_versions():
    payload = Payload.pack(["anything"])
    assert payload.unpack() == ["anything"]
    with pytest.raises(ValueError, match=r"^this machine has torch .* instead of 1\.0; install the same as where the"):
        replace(payload, versions={**payload.versions, "torch": "1.0"}).unpack()
    one = autoprune.__version__
    other = replace(payload, versions={**payload.versions, "autoprune": f"{one} (code 5e6f7a8b)"})
    with pytest.raises(
        ValueError, match=rf"has autoprune {one} \(code {digest()}\) instead of {one} \(code 5e6f7a8b\)"
    ):
        other.unpack()


class Part:
    """Of a network; can be copied here, and cannot be sent."""

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        raise TypeError("cannot pickle 'Part' object")


def test_the_part_that_cannot_be_sent_is_named_without_a_copy_of_the_numbers(monkeypatch):
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU()))
    model[1].harmless = lambda x: x  # sent by value
    counted = []
    monkeypatch.setattr(torch.storage.UntypedStorage, "__reduce__", lambda self: counted.append(1))
    monkeypatch.setattr(torch.storage.TypedStorage, "__reduce__", lambda self: counted.append(1))
    check_sendable({"model": model, "images": torch.ones(9), "scores": np.ones(9)})
    model[1].part = Part()
    with pytest.raises(ValueError, match=r"^cluster: model\.1\.part cannot be sent .*cluster='' and workers=0$"):
        check_sendable({"model": model})
    assert not counted
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"^cluster: model\.1\.part cannot be sent .*cannot pickle 'Part'"):
        Payload.pack({"model": model})


@pytest.mark.parametrize("where", ["model", "data"])
def test_a_search_that_cannot_be_sent_leaves_nothing(where, here, monkeypatch):
    monkeypatch.setattr(
        importlib.import_module("autoprune.search"), "reserved", lambda config: pytest.fail("a cluster was asked for")
    )
    model, data = digits_cnn(), load("digits")
    if where == "model":
        model.part = Part()
    else:
        data = copy.copy(data)
        object.__setattr__(data, "origin", Part())
    settings = {"criterion": "l1", "cluster": "local", "device": "cpu", "name": "run"}
    named = {"model": r"model\.part", "data": r"task\.data\.origin"}[where]
    with pytest.raises(ValueError, match=f"cluster: {named} cannot be sent to another process .*workers=0"):
        autoprune.search(model, data, **settings)
    assert list(here.iterdir()) == []
