"""What goes to other machines: one copy for each worker, from the same code, and nothing is written if it cannot go."""

import copy
import gc
import importlib
import pickle
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
    """So that Ray's workers look at the one copy of their node instead of taking one each."""
    outside = []
    inside = pickle.dumps(Payload.pack(what), protocol=5, buffer_callback=outside.append)
    assert len(inside) < MIB / 10
    assert [buffer.raw().nbytes >= MIB for buffer in outside] == [True]
    store = [memoryview(buffer).toreadonly() for buffer in outside]
    there = pickle.loads(inside, buffers=store)
    assert np.shares_memory(there.data, np.frombuffer(store[0], np.uint8))
    assert there.unpack().sum() == MIB


@pytest.mark.slow  # a cluster of its own
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_worker_holds_one_copy(monkeypatch):
    import ray

    size = 100 * MIB

    def copies(references):
        """How many more there are in this worker's own memory once it has received and unpacked."""

        def own():
            with open("/proc/self/smaps_rollup") as file:
                return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Private_"))

        Payload.pack(torch.ones(1)).unpack()  # imports what is needed
        gc.collect()
        before = own()
        held = ray.get(references[0])
        packed = held if isinstance(held, Payload) else Payload(np.frombuffer(held, np.uint8), {}, (), "")
        what = packed.unpack()
        gc.collect()
        assert what.nbytes == size
        return (own() - before) / size

    payload = replace(Payload.pack(np.ones(size, np.uint8)), versions={})  # whoever edits the sources meanwhile
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's 15 starves it beside other tests
    with connect("local", num_cpus=1, object_store_memory=4 * size):
        measure = ray.remote(num_cpus=1, max_calls=1)(copies)  # a new process each
        assert ray.get(measure.remote([ray.put(payload)])) < 1.5
        one_too_many = ray.put(payload.data.tobytes())
        assert ray.get(measure.remote([one_too_many])) > 1.8  # a copy of each worker's own is seen
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
