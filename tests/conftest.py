"""What all tests share: one thread each, a working directory of their own, a trained toy network."""

import fcntl
import importlib
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("COLUMNS", None)  # of the terminal in which the tests were begun: tables would be as narrow

import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent / "data"))
import processes

torch.set_num_threads(1)
# Begun in the background (nohup, &), the tests would hand ignored signals down to the commands that they interrupt.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


CHEAP_S = 5.0  # of processor time: what a fast test may take on a quiet core
_began_s = 0.0
_took_s = {}
_not_cheap = []


def _processor_s():
    """Processor time of this process and of those it has started and that have ended."""
    return sum(os.times()[:4]) + processes.server_cpu_s()


def pytest_runtest_logstart():
    global _began_s
    _began_s = _processor_s()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    if call.when == "teardown":
        item.user_properties.append(("processor_s", _processor_s() - _began_s))
    return (yield)


def pytest_runtest_logreport(report):
    if report.when == "teardown":
        seconds = dict(report.user_properties).get("processor_s", 0.0)
        _took_s[report.nodeid] = seconds
        if seconds > CHEAP_S and "slow" not in report.keywords:
            _not_cheap.append(report.nodeid)


def pytest_terminal_summary(terminalreporter):
    """How much work it was, and what is to be made cheaper; of a busy machine the seconds are longer."""
    terminalreporter.section(f"processor time: {sum(_took_s.values()):.0f} s")
    for name in sorted(_not_cheap, key=_took_s.get, reverse=True):
        terminalreporter.line(f"{_took_s[name]:.1f} s (over {CHEAP_S:g} s: make it cheaper, or mark it slow) {name}")


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same weights and images, in whatever order and process it runs."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def script():
    """Imports a script of results/benchmarks as the scripts import each other: by name, from their folder."""
    folder = str(Path(__file__).parents[1] / "results" / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(folder)
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(folder):
                del sys.modules[name]


@pytest.fixture(autouse=True, scope="session")
def own_memory(tmp_path_factory):
    """What may be called is remembered for these tests only, in child processes, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOPRUNE_CONFIG", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory: results/ of a test's runs lands there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def work():
    """`work(call)`: how many functions it calls, in Python and in C: the same on every machine, however busy."""

    def measure(call):
        count = 0

        def seen(frame, event, argument):
            nonlocal count
            count += event in ("call", "c_call")

        call()  # what is worked out once is not counted
        before = sys.getprofile()
        sys.setprofile(seen)
        try:
            call()
        finally:
            sys.setprofile(before)
        return count

    return measure


@pytest.fixture
def start():
    """`start(where, "autoprune", *arguments)`: a process (see `processes.Started`); the test's end is its end."""
    begun = []

    def begin(*arguments, **settings):
        begun.append(processes.Started(*map(str, arguments), **settings))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()


@pytest.fixture(scope="session")
def digits_weights(tmp_path_factory):
    """Weights of `search_spaces.models:digits_cnn` after an epoch or two on the digits."""
    from autoprune import data
    from autoprune.training import TrainingSettings, finetune
    from search_spaces.models import digits_cnn

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers: the first one trains, the others wait for it
    path = folder / "digits_cnn.safetensors"
    with (folder / "digits_cnn.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = digits_cnn()
            settings = TrainingSettings(epochs=2, batch_size=64, lr=0.05, device="cpu")
            finetune(model, data.load("digits").without_test(), settings)
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path


def multiply_adds(model, *args, **kwargs):
    """Of one forward pass, by PyTorch's counter on plain operators: of fused ones each version knows others."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    fused_layer, onednn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.set_flags(_enabled=False)[0]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        hooks = (h for m in model.modules() for h in (m, *m._forward_pre_hooks.values()))
        of_weights = any("SpectralNorm" in type(h).__name__ for h in hooks)  # which are worked out once for all samples
        known = {} if of_weights else {torch.ops.aten.mv: lambda a, b, **_: 2 * a[0] * a[1]}  # which it leaves out
        if hasattr(torch.ops.aten, "_grouped_mm"):
            known[torch.ops.aten._grouped_mm] = lambda a, b, *_, **__: 2 * a[0] * a[1] * b[-1]
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.no_grad(),
            FlopCounterMode(display=False, custom_mapping=known) as counter,
        ):
            model(*args, **kwargs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused_layer)
        torch.backends.mkldnn.set_flags(_enabled=onednn)  # whose LSTM is one operator
    return counter.get_total_flops() / 2  # it counts 2 per multiply-add


@pytest.fixture(name="multiply_adds", scope="session")
def multiply_adds_fixture():
    """The function above: `multiply_adds(model, *args, **kwargs)`."""
    return multiply_adds


@pytest.fixture(scope="session")
def finished(tmp_path_factory, digits_weights):
    """A directory with a finished run of the command line, results/run, and its weights; copy it to change it."""
    from autoprune.cli import main

    root, before = tmp_path_factory.mktemp("finished"), os.getcwd()
    shutil.copy(digits_weights, root / "w.safetensors")
    flags = "--trials=5 --finalists=0 --epochs=0 --criterion=l1 --device=cpu --name=run --data=digits"
    os.chdir(root)
    try:
        assert (
            main(["search", "--model=search_spaces.models:digits_cnn", "--weights=w.safetensors", *flags.split()]) == 0
        )
    finally:
        os.chdir(before)
    return root


@pytest.fixture
def law():
    """Trace a network and hold its space to the law: pruned equals masked, exact costs, the network untouched.

    An independent judge is asked, too (tests/data/judge.py).
    """
    import copy
    import json
    import re

    import numpy as np

    from objectives.costs import Macs, Params
    from search_spaces import SearchSpace, prune, trace, verify
    from search_spaces.tracing import as_call
    from search_spaces.verify import random_kept

    sys.path.insert(0, str(Path(__file__).parent / "data"))
    from judge import judge

    def check(model, example, seeds=(0, 1)):
        before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
        space = trace(model, example)
        for group in space.frozen:  # each says which layer's operation forces it
            assert re.search(r"'[^']+'|the model|^output of the network$", group.frozen_because)
        assert verify(model, space, example, seeds=seeds) < 1e-4
        kept = random_kept(space, np.random.default_rng(7))
        widths = [len(k) for k in kept]
        assert judge(model, space, kept, example) < 1e-6
        pruned = prune(model, space, kept).eval()
        args, kwargs = as_call(example)
        batch = next(iter(args or kwargs.values())).shape[0]
        assert Macs(space)(widths) * batch == pytest.approx(multiply_adds(pruned, *args, **kwargs), rel=1e-12)
        assert Params(space)(widths) == sum(p.numel() for p in pruned.parameters())
        assert SearchSpace.from_json(json.loads(json.dumps(space.to_json()))).fingerprint == space.fingerprint
        assert modes == [m.training for m in model.modules()]
        after = model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[k], after[k]) for k in before)
        assert not any(hasattr(t, "_channel_ids") for t in [*model.parameters(), *model.buffers()])
        return space

    return check


@pytest.fixture(scope="session")
def toy():
    """A small network around a function with modules: `toy(lambda s, x: x + s.a(x), a=toy.conv())`."""
    from torch import nn
    from torch.nn import functional as F

    class Body(nn.Module):
        """A forward function with modules."""

        def __init__(self, function, **parts):
            super().__init__()
            self.function = function
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, x):
            return self.function(self, x)

    class Toy(nn.Module):
        """stem (3 -> 8) -> body -> head -> mean -> linear."""

        def __init__(self, function, out=8, **parts):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            self.body = Body(function, **parts)
            self.head = nn.Conv2d(out, 6, 1)
            self.fc = nn.Linear(6, 4)

        def forward(self, x):
            return self.fc(F.relu(self.head(self.body(self.stem(x)))).mean((2, 3)))

        @staticmethod
        def conv(into=8, out=8, kernel=3, **options):
            return nn.Conv2d(into, out, kernel, padding=kernel // 2, **options)

    return Toy


@pytest.fixture(scope="session")
def mutants():
    """Spaces that are wrong in one place: for each seed the index map of one member of one group is reversed."""
    from dataclasses import replace

    import numpy as np

    def make(space, seeds):
        places = [
            (i, j) for i, g in enumerate(space.groups) for j, m in enumerate(g.members)
            if m.role in ("out", "in", "norm", "free") and g.size > 2
        ]  # fmt: skip
        for seed in seeds:
            i, j = places[np.random.default_rng(seed).integers(len(places))]
            group = space.groups[i]
            wrong = replace(group.members[j], index=np.ascontiguousarray(group.members[j].index[::-1]))
            members = (*group.members[:j], wrong, *group.members[j + 1 :])
            groups = (*space.groups[:i], replace(group, members=members), *space.groups[i + 1 :])
            yield group.name, replace(space, groups=groups)

    return make
