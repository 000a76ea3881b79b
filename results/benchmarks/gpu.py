"""All that only a GPU can tell, in at most eight minutes: is every number right, and how fast is it?

    python results/benchmarks/gpu.py [--device cuda:0] [--seconds 480] [--quick] [--to results/benchmarks/gpu.md]

Rows are written as they come, so that a run that is cut off has told what it knew by then; each part has its share of
the time. It needs what lies in this repository, torch and numpy; where more is needed and missing, rows say so.
Candidates of ResNet-56 (random weights, random images of 32 pixels) and of ResNet-50 (224 pixels) at about half their
widths: how many seconds a number of them would take, from as many as fit into the part's time.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import platform
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

from missing import stand_in  # noqa: E402

MISSING = stand_in()  # before anything of this repository is imported, in child processes, too

import numpy as np  # noqa: E402
import torch  # noqa: E402
from gpu_rows import NOT, Part, Rows  # noqa: E402

GOALS = "goals: 400 reconstructed candidates of ResNet-56 under 60 s, under 10 s together; 2 workers 1.3 times one"
FIDELITIES = ("raw", "proxy", "reconstructed")
TOGETHER = (1, 8, 32)
WORKERS = {1: "1 worker", 2: "2 workers", 4: "4 workers"}
SPARE_S = 6.0  # for a part that does not hear that its time is up
BACKENDS = ("torch", "onnxruntime", "tensorrt", "compile")
TESTS = ROOT / "tests" / "unit" / "test_gpu.py"


def wait(device: str) -> None:
    """For all that was asked of the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def environment(rows: Rows, device: str) -> None:
    """What it ran on."""
    rows.row("python, torch, CUDA", f"{platform.python_version()}, {torch.__version__}, {torch.version.cuda}")
    rows.row("system", f"{platform.platform()}, {os.cpu_count()} cores")
    if device.startswith("cuda"):
        about = torch.cuda.get_device_properties(device)
        rows.row("GPU", f"{about.name}, {about.total_memory / 2**30:.0f} GiB, sm_{about.major}{about.minor}, "
                        f"{torch.cuda.device_count()} of them, cuDNN {torch.backends.cudnn.version()}")  # fmt: skip
    rows.row("missing packages", ", ".join(MISSING) or "none")


def tests(rows: Rows, limit_s: float) -> None:
    """Those that need a GPU, in a process of their own; each is a row when it has ended."""
    command = [sys.executable, "-u", str(Path(__file__).resolve()), "--tests"]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True
    )
    timer = threading.Timer(limit_s - 1, partial(os.killpg, child.pid, 9))
    timer.start()
    last = ""
    try:
        assert child.stdout is not None
        for line in child.stdout:
            found, _, word = line.rstrip().partition(" <- ")
            if word:
                rows.row(found, word)
            last = line.strip() or last
    finally:
        timer.cancel()
        if child.poll() is None:
            os.killpg(child.pid, 9)
        child.wait()
    rows.row("all tests", last if not child.returncode else f"ended with code {child.returncode}: {last}")


def run_tests() -> int:
    """What that process does: it says `name <- outcome` of each."""
    import pytest

    sys.path[:0] = [str(ROOT / "tests" / "data")]
    words = {"passed": "right", "failed": "WRONG", "skipped": NOT}

    class Said:
        """Tells of each test what became of it."""

        def pytest_runtest_logreport(self, report: Any) -> None:
            """See pytest."""
            if report.when == "call" or report.outcome != "passed":
                why = report.longrepr[2] if report.skipped else " ".join(str(report.longrepr).split())[-300:]
                more = "" if report.outcome == "passed" else f": {why}"
                print(f"\n{report.nodeid.rpartition('::')[2]} <- {words[report.outcome]}{more}", flush=True)

    # Without the settings of the repository: warnings of another torch are no errors here.
    return int(pytest.main(["-c", os.devnull, "--rootdir", str(ROOT), "--noconftest", "-p", "no:cacheprovider", "-q",
                            "--tb=line", "-W", "ignore", str(TESTS)], plugins=[Said()]))  # fmt: skip


def candidates(space: Any) -> Iterator[tuple[int, ...]]:
    """Ever new ones of about half the widths."""
    for number in itertools.count():
        share = np.random.default_rng([7, number]).uniform(0.3, 0.8, len(space.groups))
        yield space.clip(s * g.size for s, g in zip(share, space.groups, strict=True))


def some_data(size: int, counts: Sequence[int]) -> Any:
    """Random images to train on and to validate."""
    from autoprune.data import ImageData, Split

    def images(count: int) -> Any:
        pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
        return Split(pixels, torch.randint(0, 10, (count,)))

    return ImageData(*map(images, counts), (0.5,) * 3, (0.25,) * 3, tuple("0123456789"))


def evaluator(network: str, device: str, quick: bool, graphs: bool = False, amp: str = "auto") -> Any:
    """Of a network with random weights, on random images."""
    from resnet50 import resnet50

    from autoprune.evaluation import EvaluationSettings, Evaluator
    from autoprune.training import TrainingSettings
    from search_spaces import trace
    from search_spaces.models import resnet20, resnet56

    torch.manual_seed(0)
    small = resnet20 if quick else resnet56
    net, size = (small(), 32) if network == "ResNet-56" else (resnet50(), 32 if quick else 224)
    many = {"bn_samples": 32, "fit_samples": 16, "val_samples": 64, "batch_size": 16} if quick else {}
    data = some_data(size, (200, 100, 0) if quick else (1500, 2000, 0))
    space = trace(net.eval(), data.example)
    scores = tuple(np.random.default_rng(i).random(g.size) for i, g in enumerate(space.groups))
    more = {"device": device, "amp": amp, "abandon": False, "training": TrainingSettings(cuda_graphs=graphs)}
    return Evaluator(net, data, space, scores, EvaluationSettings(**more, **many))


def pace(evaluate: Callable[[list[Any]], Any], space: Any, together: int, limit_s: float, device: str) -> float:
    """Seconds of one candidate."""
    source = candidates(space)
    for _ in range(4):  # what is worked out once, and what a graph is captured from
        begin = time.perf_counter()
        evaluate([next(source) for _ in range(together)])
        wait(device)
        if time.perf_counter() - begin > limit_s / 4:
            break
    begin, done = time.perf_counter(), 0
    while done == 0 or time.perf_counter() - begin < limit_s:
        evaluate([next(source) for _ in range(together)])
        done += together
    wait(device)
    return (time.perf_counter() - begin) / done


def busy(run: Callable[[], Any], device: str) -> str:
    """Share of the time in which the GPU computes."""
    from torch.profiler import ProfilerActivity, profile

    if not device.startswith("cuda"):
        return "GPU busy: " + NOT
    try:
        wait(device)
        begin = time.perf_counter()
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            run()
            wait(device)
        wall = time.perf_counter() - begin
        return f"GPU busy {sum(event.self_device_time_total for event in found.key_averages()) / 1e6 / wall:.0%}"
    except RuntimeError as error:  # a profiler that may not look at the hardware
        return f"GPU busy: {NOT} ({str(error).splitlines()[0][:80]})"


def one_by_one(found: Any, fidelity: str) -> Callable[[list[Any]], Any]:
    """What evaluates candidates so."""
    return lambda chosen: [found(widths, fidelity) for widths in chosen]


def network_rows() -> list[str]:
    """What `network` gives, in its order: the default fidelity first."""
    order = FIDELITIES[::-1]
    return [
        *(f"{f}, one at a time" for f in order),
        *(f"{f}, largest difference of a loss in one pass and alone" for f in order),
        *(f"{f}, K = {k} in one pass" for f in order for k in TOGETHER),
        *(f"{f}, K = {TOGETHER[-1]} as one CUDA graph" for f in order),
    ]


def network(rows: Rows, name: str, count: int, device: str, quick: bool, limit_s: float) -> None:
    """Seconds of candidates one by one, and several in a pass."""
    from autoprune.evaluation import Together

    found, share, most = evaluator(name, device, quick), limit_s / 22, TOGETHER[-1]
    half = found.space.clip(0.5 * g.size for g in found.space.groups)

    def measured(what: str, evaluate: Callable[[list[Any]], Any], k: int) -> None:
        try:
            seconds = count * pace(evaluate, found.space, k, share, device)
            rows.found[f"{name} {what}"] = seconds
            rows.row(what, f"{seconds:.1f} s; {busy(lambda: evaluate([half] * k), device)}")
        except RuntimeError as error:
            rows.row(what, f"failed: {str(error).splitlines()[0]}")

    order = FIDELITIES[::-1]
    for fidelity in order:
        measured(f"{fidelity}, one at a time", one_by_one(found, fidelity), 1)
    single, some = evaluator(name, device, quick, amp="off"), list(itertools.islice(candidates(found.space), 3))
    together = Together(single)
    torch.backends.cudnn.allow_tf32 = False
    try:
        for fidelity in order:
            pairs = zip(together(some, fidelity), one_by_one(single, fidelity)(some), strict=True)
            worst = max(abs(several["loss"] / alone["loss"] - 1) for several, alone in pairs)
            rows.row(f"{fidelity}, largest difference of a loss in one pass and alone", f"{worst:.2g} of it (float32)")
    finally:
        torch.backends.cudnn.allow_tf32 = True
    del single, together
    together = Together(found)
    for fidelity in order:
        for k in TOGETHER:
            measured(f"{fidelity}, K = {k} in one pass", partial(together, fidelity=fidelity), k)
    graphs = Together(evaluator(name, device, quick, graphs=True))
    for fidelity in order:
        what = f"{fidelity}, K = {most} as one CUDA graph"
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            measured(what, partial(graphs, fidelity=fidelity), most)
        if refused := [str(w.message) for w in said if "CUDA graph" in str(w.message)]:
            rows.row(what, f"{NOT}: {refused[0]}")


def _work(device: str, quick: bool, limit_s: float, start: Any, pipe: Any) -> None:
    """A worker process: how many candidates it evaluates in the time, begun with the others."""
    found = evaluator("ResNet-56", device, quick)
    source = candidates(found.space)
    found(next(source), "reconstructed")
    start.wait()
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < limit_s:
        found(next(source), "reconstructed")
        done += 1
    wait(device)
    pipe.send((done, time.perf_counter() - begin))


def workers(rows: Rows, device: str, quick: bool, limit_s: float) -> None:
    """Several processes on one card."""
    spawn, alone = multiprocessing.get_context("spawn"), 0.0
    for number, what in WORKERS.items():
        start, ends, children = spawn.Barrier(number), [], []
        try:
            for _ in range(number):
                mine, other = spawn.Pipe()
                ends.append(mine)
                children.append(spawn.Process(target=_work, args=(device, quick, limit_s / 12, start, other)))
                children[-1].start()
            found = [end.recv() for end in ends if end.poll(limit_s)]
        finally:
            for child in children:  # those that have answered have nothing left to do
                child.kill()
                child.join(1)
        rate = sum(done / seconds for done, seconds in found) if len(found) == number else 0.0
        alone = alone or rate
        rows.found[what] = rate / alone if alone else 0.0
        rows.row(what, f"400 in {400 / rate:.1f} s, {rate / alone:.2f} times one" if rate else NOT)


def training(rows: Rows, device: str, quick: bool, limit_s: float) -> None:
    """Seconds of an epoch of 50,000 images, by as many steps of the real training as fit into the time."""
    from autoprune.training import TrainingSettings, finetune
    from search_spaces.models import resnet20, resnet56

    batch, data = 16 if quick else 128, some_data(32, (2000, 50, 0))
    for graphs in (False, True):
        what = "one CUDA graph" if graphs else "operator by operator"
        torch.manual_seed(0)
        net, ends = (resnet20 if quick else resnet56)(), list[float]()
        begin = time.perf_counter()

        def listen(done: int, steps: int, loss: float, ends: list[float] = ends, begin: float = begin) -> None:
            ends.append(time.perf_counter())  # the loss is known: the device has got so far
            if done > 12 and ends[-1] - begin > limit_s / 2.5:
                raise StopIteration

        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            settings = TrainingSettings(device=device, batch_size=batch, cuda_graphs=graphs, lr=0.01)
            try:
                finetune(net, data, settings, steps=60 if quick else 4000, listener=listen)
            except StopIteration:
                pass
        if refused := [str(w.message) for w in said if "CUDA graph" in str(w.message)]:
            rows.row(what, f"{NOT}: {refused[0]}")
        elif graphs and not device.startswith("cuda"):
            rows.row(what, f"{NOT}: '{device}' has none")
        else:
            step = float(np.median(np.diff(ends[10:])))
            rows.row(what, f"{50_000 / batch * step:.1f} s, {1000 * step:.2f} ms a step of {batch} images")


def where_time_goes(rows: Rows, device: str, quick: bool) -> None:
    """The operators that take most, of three reconstructed candidates."""
    from torch.profiler import ProfilerActivity, profile

    found = evaluator("ResNet-56", device, quick)
    source = candidates(found.space)
    found(next(source), "reconstructed")
    cuda = device.startswith("cuda")
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds) as seen:
        for _ in range(3):
            found(next(source), "reconstructed")
        wait(device)
    for title, key in (("host", "self_cpu_time_total"), *((("device", "self_device_time_total"),) if cuda else ())):
        events = sorted(seen.key_averages(), key=lambda e: -getattr(e, key))[:12]
        for event in events:
            rows.row(f"{title}: {event.key}", f"{getattr(event, key) / 3e3:.2f} ms, {event.count / 3:.0f} calls")
        total = sum(getattr(event, key) for event in seen.key_averages()) / 3e3
        rows.row(f"{title}, all operators", f"{total:.1f} ms a candidate")


def latency(rows: Rows, device: str, quick: bool) -> None:
    """Each backend beside CUDA events around PyTorch's own run."""
    from objectives.latency import BACKENDS as KINDS
    from objectives.latency import Setting
    from search_spaces.models import resnet20

    net, x = resnet20().eval(), torch.randn(32, 3, 32, 32)
    if device.startswith("cuda"):
        there, moved = resnet20().eval().to(device), x.to(device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.inference_mode(), torch.cuda.device(device):
            for _ in range(5):
                there(moved)
            begin.record()
            for _ in range(20):
                there(moved)
            end.record()
        wait(device)
        rows.row("CUDA events", f"{begin.elapsed_time(end) / 20:.3f} ms")
    for name in BACKENDS[:-1] if quick else BACKENDS:
        try:
            backend = KINDS[name](Setting(32, 1, device))
        except ValueError as error:  # it is not installed, or not for this device
            rows.row(name, f"{NOT}: {error}")
            continue
        try:
            rows.row(name, f"{backend.measure({'net': net}, x)['net'].median:.3f} ms")
        except Exception as error:
            rows.row(name, f"failed: {type(error).__name__}: {error}")


def goals(rows: Rows) -> None:
    """Whether those of the day are met."""
    best = [rows.found.get(f"ResNet-56 {what}") for what in network_rows() if what.startswith("reconstructed, K")]
    for what, found, goal, unit in (
        ("400 reconstructed, one worker", rows.found.get("ResNet-56 reconstructed, one at a time"), -60.0, "s"),
        ("400 reconstructed, together", min((b for b in best if b), default=None), -10.0, "s"),
        ("2 workers", rows.found.get("2 workers"), 1.3, "times one"),
    ):
        if found:
            met = found <= -goal if goal < 0 else found >= goal
            rows.row(what, f"{found:.2f} {unit}, goal {abs(goal):g}: {'met' if met else 'not met'}")


def parts_of(rows: Rows, device: str, quick: bool) -> list[Part]:
    """What is measured, the most telling first."""
    one = network_rows()
    return [
        Part("Environment", 0.02, ["GPU"], lambda limit_s: environment(rows, device)),
        Part("Right numbers (tests marked gpu)", 0.23, ["all tests"], lambda limit_s: tests(rows, limit_s)),
        Part("ResNet-56: seconds of 400 candidates, one worker", 0.26, one,
             lambda limit_s: network(rows, "ResNet-56", 400, device, quick, limit_s)),
        Part("ResNet-56: an epoch of 50,000 images, batches of 128", 0.08, ["operator by operator", "one CUDA graph"],
             lambda limit_s: training(rows, device, quick, limit_s)),
        Part("ResNet-56, reconstructed: processes on one card (they take turns without MPS)", 0.14,
             list(WORKERS.values()), lambda limit_s: workers(rows, device, quick, limit_s)),
        Part("Goals", 0.01, ["400 reconstructed, one worker", "400 reconstructed, together", "2 workers"],
             lambda limit_s: goals(rows)),
        Part("Where the time of a reconstructed candidate of ResNet-56 goes (three of them)", 0.04,
             ["host, all operators", "device, all operators"], lambda limit_s: where_time_goes(rows, device, quick)),
        Part("Latency of ResNet-20, batch 32, by backend", 0.07, ["CUDA events", *BACKENDS],
             lambda limit_s: latency(rows, device, quick)),
        Part("ResNet-50 at 224 pixels: seconds of 40 candidates, one worker", 0.15, one,
             lambda limit_s: network(rows, "ResNet-50", 40, device, quick, limit_s)),
    ]  # fmt: skip


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=480.0, help="of all parts together")
    parser.add_argument("--quick", action="store_true", help="tiny: does the script run at all?")
    parser.add_argument("--to", type=Path, default=HERE / "gpu.md", help="where the page goes")
    parser.add_argument("--tests", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.tests:
        sys.exit(run_tests())
    absent = chosen.device.startswith("cuda") and not torch.cuda.is_available()
    why = "no GPU" if absent else ""
    before = chosen.to.read_text(encoding="utf-8") if chosen.to.is_file() else ""
    is_measured = "| GPU | " in before and f"| GPU | {NOT}" not in before
    to = None if absent and is_measured else chosen.to
    head = ["# On a GPU", "", "`make gpu` writes this page, in at most eight minutes.", "", GOALS]
    rows = Rows(to, head, chosen.seconds - SPARE_S)
    rows.run(parts_of(rows, chosen.device, chosen.quick), why)


if __name__ == "__main__":
    main()
