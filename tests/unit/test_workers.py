"""Workers in processes of their own: really killed, really hung."""

import copy
import math
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.config import RunConfig
from autoprune.controller import WAIT, Job, SearchController
from autoprune.data import load
from autoprune.errors import SearchStopped
from autoprune.ledger import Ledger
from autoprune.problem import Problem, Proposal
from autoprune.runs import Recipe
from autoprune.schedule import Halving
from autoprune.workers import Slot, child, here, memory, pickled, processes, run_processes
from autoprune.workers.cluster import worker
from autoprune.workers.pickle_file import PickleFile, _received
from autoprune.workers.processes import _Pool

MIB = 2**20
DATA = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(DATA))  # also in the children
import toys  # noqa: E402
from processes import SERVER  # noqa: E402


class InOrder:
    """Proposes the widths 1, 2, 3, ... of a list."""

    def __init__(self, moods):
        self.moods = moods

    def propose(self, number):
        return Proposal((self.moods[number], number + 1))

    def tell(self, trial):
        pass


def control(tmp_path, moods):
    ledger = Ledger.open(tmp_path / "run", {"mood": 100, "number": 100}, {})
    return SearchController(ledger, InOrder(moods), Halving(len(moods), ()))


def side(tmp_path):
    """(trial, pid, torch threads, OMP_NUM_THREADS) of each evaluation."""
    return [tuple(map(int, line.split())) for line in (tmp_path / "side.txt").read_text().splitlines()]


@pytest.fixture
def quick_children(monkeypatch):
    """Children are forked from a server instead of spawned: each would import torch."""
    monkeypatch.setattr(child.mp, "get_context", lambda how: SERVER)


def test_children_that_die_hang_raise_and_exit_cost_their_candidate_at_most(tmp_path, quick_children):
    moods = [2, 6, 4, 5, 9, 9]  # dies always, hangs in C once, no memory, exits once, and two that are well
    controller = control(tmp_path, moods)
    slots = Slot("cpu"), Slot("meta")
    run_processes(controller, toys.MakeMoody(tmp_path), slots, timeout_s=lambda job: 6.0)
    trials = controller.trials
    states = ["fail", "complete", "fail", "complete", "complete", "complete"]
    assert [t.state.value for t in trials] == states
    assert trials[0].error == "killed its worker 3 times, at last: was killed by SIGKILL"
    assert trials[2].error.startswith("MemoryError: cannot allocate 8 GB")
    assert {t.metrics["device"] for t in trials if t.metrics} <= {"cpu", "meta"}
    lines = side(tmp_path)
    assert [sum(line[0] == n for line in lines) for n in range(6)] == [3, 2, 1, 2, 1, 1]
    assert [e.deaths for e in controller.ledger.entries] == [3, 1, 0, 1, 0, 0]
    assert {line[2:] for line in lines} == {(1, 1)}  # the threads of its slot
    for pid in {line[1] for line in lines}:
        assert not Path(f"/proc/{pid}").exists()


def test_where_a_device_broke_another_process_starts_and_where_none_can_the_others_go_on(
    tmp_path, monkeypatch, quick_children
):
    """The illegal access costs no trial, only a process; its successors are killed while they start."""
    monkeypatch.setattr(processes, "MAX_FALSE_STARTS", 2)
    controller = control(tmp_path, [9, 9, 9])
    given_up = tmp_path / "given-up"
    run_processes(controller, toys.MakeShaky(tmp_path), [Slot("meta"), Slot("cpu")], say=given_up.write_text)
    assert [t.state.value for t in controller.trials] == ["complete"] * 3
    assert [t.worker for t in controller.trials] == ["worker-1"] * 3
    assert sum(e.deaths for e in controller.ledger.entries) <= 1  # 0: the other one was first at all jobs
    assert (tmp_path / "started-meta").read_text().count("started") == 3
    line = given_up.read_text()
    assert line.startswith("worker-0 (meta): its process was killed by SIGKILL before it was ready")
    assert line.endswith("fewer workers need less.); the search goes on without it, with 1 of 2 workers")
    assert "__main__" not in line


def test_a_child_that_cannot_be_killed_is_not_waited_for(tmp_path, monkeypatch, quick_children):
    """Its job goes to the next one; a device that it blocks is given up, a core is not."""
    monkeypatch.setattr(child, "KILLED_S", 0.1)
    killed = []
    monkeypatch.setattr("multiprocessing.process.BaseProcess.kill", lambda self: killed.append(self))

    def limit_s(job):
        return 0.5 if (tmp_path / "seen-0").exists() and not killed else math.inf

    controller, said = control(tmp_path, [3, 9]), []
    try:
        run_processes(controller, toys.MakeMoody(tmp_path), [Slot("meta"), Slot("cpu")], limit_s, say=said.append)
        assert [t.state.value for t in controller.trials] == ["complete"] * 2
        assert [e.deaths for e in controller.ledger.entries] == [1, 0]
        stuck = killed[0]
        assert stuck.is_alive()
        assert stuck not in multiprocessing.active_children()  # else this interpreter could not end
        assert [line[:16] for line in said] == (["worker-0 (meta):"] if "worker-0" in stuck.name else [])
    finally:
        for process in killed:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)


def test_an_evaluator_that_cannot_be_built_stops_the_search(tmp_path, quick_children):
    controller = control(tmp_path, [9])
    with pytest.raises(SearchStopped, match=r"0 \(meta\): .* built: OSError: no weights for meta \(.*toys"):
        run_processes(controller, toys.broken, [Slot("meta")])
    with pytest.raises(SearchStopped, match=r"its process exited with code 3 before it was ready.*__main__"):
        run_processes(controller, toys.deadly, 1)
    assert controller.trials == []


class Part:
    """Of a network; cannot be pickled."""

    def __reduce__(self):
        raise TypeError("cannot pickle 'Part' object")


def test_what_cannot_be_sent_or_makes_no_sense_is_refused_at_once(tmp_path):
    controller = control(tmp_path, [9])
    with pytest.raises(ValueError, match=r"cannot be sent to another process .*package\.module:function"):
        run_processes(controller, lambda device: None, 1)
    with pytest.raises(ValueError, match="need at least one, got 0"):
        run_processes(controller, toys.broken, [])


NOTHING = Problem(None, (), ())


def test_the_part_that_cannot_be_sent_is_named(data):
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU()))
    model[1].activation = Part()
    assert pickled(Recipe(RunConfig(), NOTHING, model[0], data))
    with pytest.raises(ValueError, match="a worker loads other samples than the search did; make the same"):
        Recipe(RunConfig(data="digits"), NOTHING, model, images="those of the search").build()
    for name, recipe in {
        "model.1.activation": Recipe(RunConfig(), NOTHING, model, data),
        "task.augmentation": Recipe(RunConfig(), NOTHING, None, replace_unchecked(data, augmentation=Part())),
        "config.metric": Recipe(replace_unchecked(RunConfig(), metric=Part()), NOTHING),
    }.items():
        with pytest.raises(ValueError, match=f"workers: {name} cannot be sent .*cannot pickle 'Part'"):
            pickled(recipe)


def replace_unchecked(frozen, **changes):
    """What a subclass or a plug-in may have put there."""
    changed = copy.copy(frozen)
    for name, value in changes.items():
        object.__setattr__(changed, name, value)
    return changed


@pytest.fixture(scope="module")
def data():
    return load("digits")


def test_what_is_not_importable_there_is_named_with_the_cure(monkeypatch):
    """A class of a notebook: pickled by name here, unknown there."""
    cls = type("Net", (), {"__module__": __name__})
    monkeypatch.setattr(sys.modules[__name__], "Net", cls, raising=False)
    pickle_file = PickleFile(cls())
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"cannot be found here .*'Net'.* can be imported, not in a notebook"):
        pickle_file.open()


def written_bytes():
    """What this process has for itself alone, besides pages of files."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_children_share_the_numbers_of_what_was_given_as_an_object():
    """A data set is not there once for each of them; what one writes is its own."""
    count = 32 * MIB
    images = torch.ones(count, dtype=torch.uint8)
    given = {"images": images, "view": images[5:7], "numbers": np.ones(count, np.uint8), "net": nn.Linear(3, 3)}
    sent = PickleFile(given)
    _, (_, spans) = sent.__reduce__()
    received = [_received(SimpleNamespace(detach=lambda: os.dup(sent._file.fileno())), spans) for _ in range(2)]
    before = written_bytes()
    sent.close()
    first, second = (each.open() for each in received)
    assert int(first["images"].sum()) + int(second["numbers"].sum()) == 2 * count
    assert written_bytes() - before < count / 8
    first["view"] += 1
    first["net"].weight.data.zero_()
    assert first["images"][4:8].tolist() == [1, 2, 2, 1]
    assert second["images"][4:8].tolist() == [1] * 4
    assert torch.equal(second["net"].weight, given["net"].weight)
    assert first["numbers"].flags.writeable


def test_the_parcel_leaves_no_file_and_no_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pickle_file = PickleFile(list(range(1000)))
    assert os.listdir(tmp_path) == []  # nothing to clean up after a kill
    assert not any(isinstance(value, bytes) for value in vars(pickle_file).values())
    assert pickle_file.open() == list(range(1000))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(ValueError, match=r"cannot be written to .*gone .*set TMPDIR"):
        PickleFile(1)


def test_the_others_are_not_asked_when_one_has_to_wait():
    idle = [SimpleNamespace(name=name, ready=True, job=None) for name in "abc"]
    asked = []
    pool = _Pool(None, (), math.inf)
    pool.children = dict(enumerate(idle))
    assert pool.offer(SimpleNamespace(ask=lambda name: asked.append(name) or WAIT))
    assert asked == ["a"]


@pytest.fixture
def without_ray(monkeypatch):
    """Ray as far as a worker of a cluster calls it."""
    there = SimpleNamespace(get_gpu_ids=list, get=lambda answer: answer, tune=SimpleNamespace(report=lambda row: None))
    monkeypatch.setitem(sys.modules, "ray", there)


@pytest.mark.parametrize(
    "take_share", [lambda: child._take_share(Slot()), lambda: worker.take_share(1)], ids=["child", "ray"]
)
def test_a_worker_keeps_few_kernels_unless_the_user_says_how_many(take_share, without_ray, monkeypatch):
    monkeypatch.setenv(memory.KERNELS, "7")
    take_share()
    assert os.environ[memory.KERNELS] == "7"
    monkeypatch.delenv(memory.KERNELS)
    take_share()
    assert os.environ[memory.KERNELS] == memory.MOST_KERNELS
    monkeypatch.setenv(memory.KERNELS, "7")  # what monkeypatch takes back in the end


FEW = """
import torch
from autoprune.workers import memory
memory.MOST_KERNELS = "1"
memory.keep_few_kernels()
layers = [torch.nn.Conv2d(3, width, 3) for width in (8, 24)]
with torch.inference_mode():
    for layer in layers * 2:
        layer(torch.zeros(2, 3, 32, 32))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere other kernels may be used")
def test_onednn_heeds_it_although_torch_is_imported():
    env = {k: v for k, v in os.environ.items() if k != memory.KERNELS} | {"ONEDNN_VERBOSE": "profile_create"}
    done = subprocess.run([sys.executable, "-c", FEW], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.count("create:cache_miss,cpu,convolution") == 4  # with room for both: 2


def test_a_worker_of_a_cluster_gives_back_its_free_pages_after_each_candidate(without_ray, monkeypatch):
    jobs, said = [Job(0, (1,), "proxy", None), Job(1, (2,), "proxy", None)], []
    answers = iter([*((job, math.inf) for job in jobs), (None, 0.0)])
    methods = {name: lambda *_: True for name in ("hello", "ready", "goodbye")} | {"exchange": lambda *_: next(answers)}
    coordinator = SimpleNamespace(**{name: SimpleNamespace(remote=call) for name, call in methods.items()})
    monkeypatch.setattr(worker, "give_back", lambda: said.append("given back"))
    evaluate = SimpleNamespace(unpack=lambda: lambda device: lambda job: said.append(job.number) or {"loss": 1.0})
    worker.work({"worker": "worker-0"}, coordinator=coordinator, payload=evaluate, threads=1)
    assert said == [0, "given back", 1, "given back"]


def test_this_process_gives_back_its_free_pages_too(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(here, "give_back", lambda: said.append("given back"))
    here.run_here(control(tmp_path, [9, 9]), lambda job: said.append(job.number) or {"loss": 1.0})
    assert said == [0, "given back", 1, "given back"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has malloc_trim")
def test_free_pages_go_back_to_the_system():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    blocks = [np.ones(8000) for _ in range(1000)]  # 64 kB each: from the heap
    pin, filled = blocks[-1], resident()  # what is free lies below it
    blocks.clear()
    memory.give_back()
    assert resident() < filled - 30
    assert pin.sum() == 8000


def test_a_child_keeps_to_its_share_of_a_gpu(monkeypatch):
    """There is no GPU where this runs: what torch is told is recorded, no more."""
    told = []
    monkeypatch.setattr("torch.cuda.set_device", lambda device: told.append(("device", str(device))))
    monkeypatch.setattr(
        "torch.cuda.set_per_process_memory_fraction", lambda share, device: told.append((share, str(device)))
    )
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (9 * 2**30, 10 * 2**30))
    child._take_share(Slot("cuda:1", 0.45, 1))
    assert told == [("device", "cuda:1"), (0.4, "cuda:1")]  # of 10 GiB, and half a GiB is its context's
    child._take_share(Slot("cpu", 0.45, 1))
    assert len(told) == 2


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_child_outlives_its_parent(tmp_path, how):
    """Ctrl-C at a terminal goes to parent and children at once; kill -9 only to the parent."""
    script = f"""
import pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born deaf to it
sys.path[:0] = [{str(DATA)!r}, {str(Path(__file__).parent)!r}]
import test_workers, toys
if __name__ == "__main__":
    folder = pathlib.Path({str(tmp_path)!r})
    test_workers.run_processes(test_workers.control(folder, [3]), toys.MakeMoody(folder), 1)
"""
    path = tmp_path / "script.py"
    path.write_text(script)
    parent = subprocess.Popen([sys.executable, path], stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: (tmp_path / "side.txt").exists() and len(side(tmp_path)) == 1)
    if how is signal.SIGINT:
        os.killpg(parent.pid, how)
    else:
        parent.kill()
    _, said = parent.communicate(timeout=900)
    assert said.count("Traceback") == (1 if how is signal.SIGINT else 0), said
    assert parent.returncode == -how
    pids = {line[1] for line in side(tmp_path)}
    wait_until(lambda: not any(alive(pid) for pid in pids))
    resumed = control(tmp_path, [3])
    with resumed.ledger as ledger:  # free, and resumable
        assert [(e.trial.state.value, e.deaths) for e in ledger.entries] == [("running", 0)]
        assert list(resumed.in_flight) == ["" if how is signal.SIGINT else "worker-0"]  # let go of, in good order


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_until(condition, limit_s=900):
    give_up = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)
