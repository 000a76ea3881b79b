"""One exam for every latency backend; those that are not installed must say how to get them."""

import copy
import sys
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import objectives.latency
from autoprune.formats import to_onnx
from objectives.latency import BACKENDS, Backend, OnnxRuntime, Setting, Target, TensorRT, make
from objectives.latency.environment import cores
from objectives.latency.onnx_files import OnnxFiles, exported
from search_spaces import prune, trace
from search_spaces.models import resnet20

FOUND = [
    b for b in vars(objectives.latency).values() if isinstance(b, type) and issubclass(b, Backend) and b is not Backend
]
SLOW = {"compile"}
COMMAND = f"{sys.executable} -c print(0.25) {{onnx}}"


def available(cls: type[Backend], **options) -> Backend:
    """The backend, or a skip where it cannot run here."""
    try:
        return cls(Setting(command=COMMAND, device="cpu" if "cpu" in cls.devices else "cuda", **options))
    except ValueError as error:
        pytest.skip(str(error))


def each(function):
    marks = [pytest.param(b, marks=pytest.mark.slow if b.name in SLOW else ()) for b in FOUND]
    return pytest.mark.parametrize("cls", marks, ids=[b.name for b in FOUND])(function)


def test_the_exam_finds_the_registry():
    assert {b.name: b for b in FOUND} == BACKENDS
    assert {"torch", "compile", "onnxruntime", "tensorrt", "command"} == set(BACKENDS)


@each
def test_measures_networks_side_by_side_and_changes_nothing(cls, toy):
    there = available(cls, batch=2)
    small, large = toy(lambda s, x: x).eval(), toy(lambda s, x: x).train()
    before = copy.deepcopy(large.state_dict())
    timings = there.measure({"small": small, "large": large}, torch.randn(1, 3, 16, 16), turns=2)
    assert timings.keys() == {"small", "large"}
    assert all(t.median > 0 and t.spread >= 0 and t.n == 2 for t in timings.values())
    assert large.training
    assert all(torch.equal(before[k], v) for k, v in large.state_dict().items())
    assert {"backend", "device", "threads"} <= there.about.keys()


@each
def test_makes_candidates_of_a_space(cls, toy):
    there, model, example = available(cls), toy(lambda s, x: x).eval(), torch.randn(1, 3, 16, 16)
    space = trace(model, example)
    build = there.candidates(model, space, example)
    assert build(space.full)() > 0
    assert build(space.floor)() > 0


@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_tells_the_layers_apart(name, toy):
    layers = available(BACKENDS[name]).profile(toy(lambda s, x: x), torch.randn(1, 3, 64, 64))
    assert len(layers) >= 3
    assert all(ms >= 0 for ms in layers.values())
    assert sum(layers.values()) > 0


class Broken(nn.Module):
    """The compiler has to stop in the middle of it."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(8, width), nn.Linear(width, 8)

    def forward(self, x):
        x = torch.relu(self.a(x))
        torch._dynamo.graph_break()
        return self.b(x)


def test_every_network_that_takes_turns_runs_compiled(toy, monkeypatch):
    """More of one class than Dynamo keeps compilations of a function (eight), with a graph break and without."""
    ran, compile_ = [], torch.compile

    def noting(graph, inputs):
        return lambda *args: ran.append(graph) or graph.forward(*args)

    monkeypatch.setattr(torch, "compile", lambda model, **options: compile_(model, backend=noting, **options))
    monkeypatch.setattr("objectives.latency.compiled.shutil.which", lambda name: name)
    model, example = toy(lambda s, x: x).eval(), torch.randn(1, 3, 16, 16)
    space = trace(model, example)
    backend = BACKENDS["compile"](Setting())
    build = backend.candidates(model, space, example)
    whole = [build(tuple(max(1, n - less) for n in space.full)) for less in range(10)]
    broken = [backend.load(Broken(width).eval(), torch.randn(1, 8)) for width in range(8, 18)]
    for runs, graphs in ((whole, 1), (broken, 2)):
        for _ in range(2):
            ran.clear()
            for run in runs:
                run()
        assert len(ran) == graphs * len(runs)


def test_the_time_grows_with_the_work(toy):
    there = BACKENDS["torch"](Setting())
    runs = {str(n): nn.Conv2d(n, n, 3, padding=1) for n in (2, 64)}
    small = there.measure({"small": runs["2"]}, torch.randn(1, 2, 64, 64), turns=3)["small"]
    large = there.measure({"large": runs["64"]}, torch.randn(1, 64, 64, 64), turns=3)["large"]
    assert large.median > 2 * small.median


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target("torch", threads=cores() + 1), ["threads", f"{cores()} cores", f"found {cores() + 1}"]),
        (Target("nonesuch"), ["unknown latency backend 'nonesuch'", "onnxruntime, tensorrt, torch"]),
        (Target("tensorrt", device="cpu"), ["tensorrt"]),
        (Target("command"), ["--latency-command", "{onnx}", "found 'none'"]),
        (Target("math:floor"), ["latency backend"]),
    ],
)
def test_what_cannot_measure_says_so_in_a_sentence(target, words):
    with pytest.raises((ValueError, TypeError)) as error:
        make(target)
    assert all(word in str(error.value) for word in words) or isinstance(error.value, TypeError)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_no_gpu_here(name):
    with pytest.raises(ValueError, match=r"no CUDA device here; leave device=cuda away"):
        make(Target(name, device="cuda"))


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr("objectives.latency.backend.find_spec", lambda name: None if name == "onnxruntime" else 1)
    with pytest.raises(ValueError, match=r"onnxruntime is not installed; pip install 'autoprune\[onnx\]'"):
        make(Target("onnxruntime"))


# -- ONNX files --------------------------------------------------------------------------------------------------------


def initialisers(data: bytes) -> dict[str, tuple[int, ...]]:
    onnx = pytest.importorskip("onnx")
    return {i.name: tuple(i.dims) for i in onnx.ModelProto.FromString(data).graph.initializer if "weight" in i.name}


def test_a_cut_file_is_what_the_exporter_makes_of_the_pruned_network(toy):
    pytest.importorskip("onnxscript")
    model = toy(
        lambda s, x: s.b(s.dw(s.a(x).relu()).relu()) + x, a=toy.conv(8, 12), dw=nn.Conv2d(12, 12, 3, 1, 1, groups=12),
        b=toy.conv(12, 8, 1),
    ).eval()  # fmt: skip
    example = torch.randn(1, 3, 16, 16)
    space = trace(model, example)
    accepted = []
    files = OnnxFiles(model, space, example, accepted.append)
    assert files.cutting
    assert len(accepted) == 1
    widths = space.clip(g.size * 0.4 for g in space.groups)
    small = prune(model, space, [np.arange(w) for w in widths]).eval()
    assert initialisers(files(widths)) == initialisers(exported(small, example))
    import onnxruntime

    session = onnxruntime.InferenceSession(files(widths), providers=["CPUExecutionProvider"])
    answer = session.run(None, {session.get_inputs()[0].name: example.numpy()})[0]
    assert answer.shape == (1, 4)


class Vectors(nn.Module):
    """Linear layers around a stream of vectors."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.down, self.head = (nn.Linear(*sizes) for sizes in ((5, 8), (8, 12), (12, 8), (8, 3)))

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.down(self.up(x).relu()))


@pytest.mark.parametrize("branch", ["depthwise", "dense", "squeeze", "vectors"])
def test_a_file_without_a_branch_runs_no_layer_of_it(toy, branch):
    """ONNX Runtime divides by zero, and the process ends, where a depthwise convolution has no channels."""
    pytest.importorskip("onnxscript")
    import onnx
    import onnxruntime

    wide = {
        "depthwise": (
            lambda s, x: s.b(s.dw(s.a(x).relu()).relu()) + x,
            {"a": toy.conv(8, 12), "dw": nn.Conv2d(12, 12, 3, 1, 1, groups=12), "b": toy.conv(12, 8, 1)},
        ),
        "dense": (lambda s, x: torch.cat([x, s.a(x).relu()], 1), {"a": toy.conv(8, 4, 1), "out": 12}),
        "squeeze": (
            lambda s, x: x * s.b(s.a(x.mean((2, 3), keepdim=True)).relu()).sigmoid(),
            {"a": toy.conv(8, 4, 1), "b": toy.conv(4, 8, 1)},
        ),
    }
    if branch == "vectors":
        model, example = Vectors().eval(), torch.randn(1, 5)
    else:
        function, parts = wide[branch]
        model, example = toy(function, **parts).eval(), torch.randn(1, 3, 16, 16)
    space = trace(model, example).with_limits(depth=True)
    widths = space.without(space.full, space.branches[0])
    assert 0 in widths

    def session(data):
        return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def accept(data):
        opened = session(data)
        opened.run(None, {opened.get_inputs()[0].name: example.numpy()})

    files = OnnxFiles(model, space, example, accept)
    assert files.cutting
    assert files.removing
    small = prune(model, space, [np.arange(w) for w in widths]).eval()
    opened = session(files(widths))
    (answer,) = opened.run(None, {opened.get_inputs()[0].name: example.numpy()})
    torch.testing.assert_close(torch.from_numpy(answer), small(example), rtol=1e-4, atol=1e-5)
    counts = [
        Counter(n.op_type for n in onnx.load_from_string(data).graph.node if n.op_type in ("Conv", "MatMul", "Gemm"))
        for data in (files(widths), exported(small, example))
    ]
    assert counts[0] == counts[1]


def test_a_network_with_declared_cuts_goes_through_the_exporter():
    pytest.importorskip("onnxscript")
    model, example = resnet20().eval(), torch.randn(1, 3, 32, 32)
    space = trace(model, example)
    files = OnnxFiles(model, space, example, lambda data: None)
    assert not files.cutting
    assert len(files(space.floor)) < len(files(space.full))


class Attending(nn.Module):
    """A class token before patches, and attention: the quick exporter makes more operators of it."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.token = 2, nn.Parameter(torch.randn(1, 1, 8))
        self.qkv, self.out, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.num_heads, 4).permute(2, 0, 3, 1, 4)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, -1))
        return self.head(x[:, 0])


def test_a_budget_is_held_on_the_file_that_is_delivered(monkeypatch, tmp_path):
    """What a budget is judged by has the operators of the delivered file, shapes worked out from any batch included."""
    pytest.importorskip("onnxscript")
    import onnx

    model, example = Attending().eval(), torch.randn(1, 6, 8)
    space = trace(model, example)
    opened, there = [], OnnxRuntime(Setting(batch=1))
    session = there._session
    monkeypatch.setattr(there, "_session", lambda data, example: opened.append(data) or session(data, example))
    build = there.candidates(model, space, example, delivered=True)
    widths = space.clip(g.size / 2 for g in space.groups)
    opened.clear()
    build(widths)
    build(widths)
    assert opened[0] is opened[1]  # written once
    small = prune(model, space, [np.arange(w) for w in widths]).eval()
    to_onnx(small, example, tmp_path / "model.onnx")
    found, expected = (
        Counter(node.op_type for node in file.graph.node)
        for file in (onnx.load_from_string(opened[0]), onnx.load(str(tmp_path / "model.onnx")))
    )
    assert found == expected
    quick = onnx.load_from_string(exported(small, example, quick=True)).graph
    assert found != Counter(node.op_type for node in quick.node)


def test_linear_layers_on_sequences_are_not_cut_in_the_file():
    """Their weights stand there as constants without a name, so that every candidate would be the dense network."""
    pytest.importorskip("onnxscript")
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    example = torch.randn(1, 10, 16)
    space = trace(model, example)
    files = OnnxFiles(model, space, example, lambda data: None)
    assert not files.cutting
    assert len(files(space.floor)) < len(files(space.full)) - 4 * 60 * 16


def test_a_delivered_file_of_pruned_inputs_is_run():
    pytest.importorskip("onnxscript")
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    example = torch.randn(1, 4, 8, 8)
    space = trace(model, example, prune_inputs=True)
    build = OnnxRuntime(Setting(batch=1)).candidates(model, space, example, delivered=True)
    assert build(space.clip(g.size / 2 for g in space.groups))() > 0


@pytest.mark.parametrize("inputs", [False, True])
def test_computed_weights_and_inputs_are_not_cut_in_the_file(inputs):
    """No initializer of the file is the parameter that is cut, so that every candidate would be the dense network."""
    pytest.importorskip("onnxscript")
    wrap = (lambda layer: layer) if inputs else torch.nn.utils.parametrizations.weight_norm
    model = nn.Sequential(wrap(nn.Conv2d(4, 64, 3)), nn.ReLU(), wrap(nn.Conv2d(64, 4, 1))).eval()
    example = torch.randn(1, 4, 8, 8)
    space = trace(model, example, prune_inputs=inputs)
    files = OnnxFiles(model, space, example, lambda data: None)
    assert not files.cutting
    assert len(files(space.floor)) < len(files(space.full)) - 4 * 60 * (9 * 4 + 4)


def test_a_file_that_does_not_fit_together_is_not_cut(toy):
    pytest.importorskip("onnxscript")
    model, example = toy(lambda s, x: x).eval(), torch.randn(1, 3, 8, 8)

    def refuse(data: bytes) -> None:
        raise RuntimeError("incompatible dimensions")

    assert not OnnxFiles(model, trace(model, example), example, refuse).cutting


def test_a_refused_operator_is_named():
    pytest.importorskip("onnxscript")

    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x).real

    with pytest.raises(
        ValueError, match=r"Odd cannot be written as an ONNX file, the exporter refuses the operator .*eig"
    ):
        exported(Odd().eval(), torch.randn(2, 2))


class Session:
    """Of an ONNX Runtime whose CUDA libraries do not load: it runs on the CPU, and says so only when asked."""

    def __init__(self, *args, **kwargs):
        pass

    def get_providers(self):
        return ["CPUExecutionProvider"]


def test_onnxruntime_that_falls_back_to_the_cpu_is_refused(monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    backend = OnnxRuntime.__new__(OnnxRuntime)
    backend.setting = Setting(device="cuda:1")
    with pytest.raises(ValueError, match=r"would run on CPUExecutionProvider, not on 'cuda:1': its CUDA lib"):
        backend._open(b"", torch.zeros(1))


class Logger:
    """Of TensorRT."""

    ERROR = 1

    def __init__(self, level):
        pass


class FakeTensorRT:
    """What is used of TensorRT; says what was asked of it.

    Args:
        plan: What a build gives.
        runs: Whether an engine can be run.
    """

    def __init__(self, plan=b"plan", runs=True):
        self.said, self.plan, self.runs = [], plan, runs

    def __getattr__(self, name):
        def called(*args):
            self.said.append((name, *args))
            if name == "build_serialized_network":
                return self.plan
            if name == "execute_async_v3":
                return self.runs
            if name == "serialize":
                return b"timings"
            return 0 if name == "num_io_tensors" else self

        return called

    num_io_tensors = 0
    FP16 = "fp16"
    Logger = Logger

    @property
    def BuilderFlag(self):
        return self


@pytest.fixture
def tensorrt(monkeypatch):
    def make(precision="", **options):
        fake = FakeTensorRT(**options)
        monkeypatch.setitem(sys.modules, "tensorrt", fake)
        monkeypatch.setattr("torch.cuda.device", lambda device: fake.said.append(("device", device)) or nullcontext())
        monkeypatch.setattr("torch.cuda.Stream", lambda device: SimpleNamespace(cuda_stream=1))
        monkeypatch.setattr("torch.cuda.synchronize", lambda device=None: None)
        backend = TensorRT.__new__(TensorRT)
        backend.setting = Setting(device="cuda:1", precision=precision)
        return backend, fake

    return make


def test_tensorrt_builds_on_its_device_in_half_precision_and_keeps_its_timings(tensorrt):
    backend, fake = tensorrt()
    backend._engine(b"", ())()
    assert ("device", "cuda:1") in fake.said
    assert ("set_flag", "fp16") in fake.said
    backend._engine(b"", ())
    assert ("create_timing_cache", b"timings") in fake.said
    full, fake = tensorrt("fp32")
    full._engine(b"", ())
    assert not [said for said in fake.said if said[0] == "set_flag"]


def test_engines_that_cannot_be_built_or_run_are_refused(tensorrt):
    backend, _ = tensorrt(plan=None)
    with pytest.raises(ValueError, match="'tensorrt': cannot build an engine of this network"):
        backend._engine(b"", ())
    backend, _ = tensorrt(runs=False)
    with pytest.raises(ValueError, match="'tensorrt': an engine could not be run on 'cuda:1'"):
        backend._engine(b"", ())()


def test_a_precision_is_for_backends_that_can_choose():
    target = Target.parse("latency@tensorrt,precision=fp32")
    assert Target.parse(str(target)) == target
    assert target.setting().precision == "fp32"
    assert "precision" not in str(Target.parse("latency@tensorrt"))
    with pytest.raises(ValueError, match=r"'torch': runs in fp32, not in 'fp16'; leave precision= away"):
        make(Target("torch", precision="fp16"))
