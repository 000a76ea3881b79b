"""All that only a GPU can tell, in at most eight minutes: is every number right, and how fast is it?

    python results/benchmarks/gpu.py [--device cuda] [--seconds 480] [--quick] [--to results/benchmarks/gpu.md]

Rows are written as they come, so that a run that is cut off has told what it knew by then; each part has its share of
the time and its errors are rows, too. Needs what lies in this repository and torch; parts that need more say so.
Candidates of ResNet-56 (random weights, random images of 32 pixels) and of ResNet-50 (224 pixels) at half their widths:
how many seconds a number of them would take, from as many as fit into the part's time.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402
import torch  # noqa: E402

GOALS = (
    "goals: 400 reconstructed candidates of ResNet-56 under 60 s alone, under 10 s together; 2 workers 1.3 times one"
)
FIDELITIES = ("raw", "proxy", "reconstructed")


class Rows:
    """The table, on the disk after every row."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.end = path, time.monotonic() + seconds
        self._lines: list[str] = []

    def head(self, text: str) -> None:
        """Begin a part."""
        self._write(f"\n## {text}\n\n| what | found |\n|---|---|")

    def row(self, what: str, found: Any) -> None:
        """One result."""
        self._write(f"| {what} | {str(found).replace('|', '/').replace(chr(10), ' ')} |")

    def _write(self, line: str) -> None:
        print(line, flush=True)
        self._lines.append(line)
        with self.path.open("w", encoding="utf-8") as file:
            file.write("\n".join(["# On a GPU", "", GOALS, *self._lines, ""]))
            file.flush()
            os.fsync(file.fileno())

    @property
    def left_s(self) -> float:
        """Seconds that are left of all."""
        return self.end - time.monotonic()

    def part(self, name: str, run: Callable[[], None]) -> None:
        """Run a part; whatever it raises is a row, and the others go on."""
        if self.left_s <= 5:
            self.row(name, "not measured: no time left")
            return
        try:
            run()
        except Exception as error:
            self.row(
                name, f"failed: {type(error).__name__}: {error}; {traceback.format_exc().splitlines()[-2].strip()}"
            )


def wait(device: str) -> None:
    """For all that was asked of the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def environment(rows: Rows, device: str) -> None:
    """What it ran on."""
    rows.head("Environment")
    rows.row("python, torch, CUDA", f"{platform.python_version()}, {torch.__version__}, {torch.version.cuda}")
    rows.row("system", f"{platform.platform()}, {os.cpu_count()} cores")
    if device.startswith("cuda"):
        about = torch.cuda.get_device_properties(device)
        rows.row("GPU", f"{about.name}, {about.total_memory / 2**30:.0f} GiB, sm_{about.major}{about.minor}, "
                        f"{torch.cuda.device_count()} of them, cuDNN {torch.backends.cudnn.version()}")  # fmt: skip
    for name in ("numpy", "scipy", "optuna", "pandas", "pytest", "torchvision", "onnxruntime", "tensorrt"):
        found = importlib.util.find_spec(name)
        rows.row(name, "is here" if found else "missing")


def checks(rows: Rows, device: str, limit_s: float) -> None:
    """The tests that need a GPU."""
    rows.head("Right numbers (tests marked gpu)")
    file = HERE.parents[1] / "tests" / "unit" / "test_gpu.py"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-rA",
        "--no-header",
        "-p",
        "no:cacheprovider",
        str(file),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, check=False, cwd=HERE.parents[1]
        )
        said = done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode(errors="replace") + f"\nFAILED (cut off after {limit_s:.0f} s)"
    for line in said.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("PASSED", "FAILED", "SKIPPED", "ERROR"):
            rows.row(rest.rpartition("::")[2] or rest, word.lower() if "::" in rest else line)
    if not any(word in said for word in ("PASSED", "FAILED", "SKIPPED")):
        rows.row("pytest", said[-300:])


def candidates(space: Any) -> Iterator[tuple[int, ...]]:
    """Ever new ones of about half the widths."""
    for number in range(10**6):
        share = np.random.default_rng([7, number]).uniform(0.3, 0.8, len(space.groups))
        yield space.clip(s * g.size for s, g in zip(share, space.groups, strict=True))


def evaluator(network: str, device: str, quick: bool) -> Any:
    """Of a network with random weights, on random images."""
    from autoprune.data import ImageData, Split
    from autoprune.evaluation import EvaluationSettings, Evaluator
    from search_spaces import trace

    torch.manual_seed(0)
    if network == "ResNet-56":
        from search_spaces.models import resnet20, resnet56

        net, size = (resnet20 if quick else resnet56)(), 32
    else:
        import torchvision

        net, size = torchvision.models.resnet50(num_classes=10), 64 if quick else 224
    many = {"bn_samples": 32, "fit_samples": 16, "val_samples": 64, "batch_size": 16} if quick else {}
    counts = (200, 100) if quick else (1500, 2000)

    def images(count: int) -> Split:
        pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
        return Split(pixels, torch.randint(0, 10, (count,)))

    data = ImageData(images(counts[0]), images(counts[1]), images(0), (0.5,) * 3, (0.25,) * 3, tuple("0123456789"))
    space = trace(net.eval(), data.example)
    scores = tuple(np.random.default_rng(i).random(g.size) for i, g in enumerate(space.groups))
    return Evaluator(net, data, space, scores, EvaluationSettings(device=device, abandon=False, **many))


def pace(evaluate: Callable[[list[Any]], Any], space: Any, together: int, limit_s: float, device: str) -> float:
    """Seconds of one candidate."""
    source = candidates(space)
    evaluate([next(source) for _ in range(together)])  # what is worked out once
    wait(device)
    begin, done = time.perf_counter(), 0
    while done == 0 or time.perf_counter() - begin < limit_s:
        evaluate([next(source) for _ in range(together)])
        done += together
    wait(device)
    return (time.perf_counter() - begin) / done


def busy(run: Callable[[], Any], device: str) -> float:
    """Share of the time in which the GPU computes."""
    if not device.startswith("cuda"):
        return float("nan")
    from torch.profiler import ProfilerActivity, profile

    wait(device)
    begin = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        run()
        wait(device)
    wall = time.perf_counter() - begin
    return sum(event.self_device_time_total for event in found.key_averages()) / 1e6 / wall


def one_network(rows: Rows, network: str, count: int, device: str, quick: bool, limit_s: float) -> None:
    """Candidates one by one, and several in a pass."""
    from autoprune.evaluation import Together

    rows.head(f"{network}: seconds of {count} candidates, one worker")
    found = evaluator(network, device, quick)
    share = limit_s / 18
    for fidelity in FIDELITIES:

        def alone(chosen: list[Any], fidelity: str = fidelity) -> None:
            for widths in chosen:
                found(widths, fidelity)

        seconds = pace(alone, found.space, 1, share, device)
        share_busy = busy(lambda: alone([found.space.clip(0.5 * g.size for g in found.space.groups)] * 2), device)
        rows.row(f"{fidelity}, one at a time", f"{count * seconds:.1f} s; GPU busy {share_busy:.0%}")
    together = Together(found)
    some = [widths for widths, _ in zip(candidates(found.space), range(3), strict=False)]
    for fidelity in FIDELITIES:
        losses = [
            abs(a["loss"] - found(w, fidelity)["loss"]) for a, w in zip(together(some, fidelity), some, strict=True)
        ]
        rows.row(f"{fidelity}, largest difference of a loss in one pass and alone", f"{max(losses):.2g}")
        for k in (1, 8, 32):
            if rows.left_s < 20:
                return rows.row(f"{fidelity}, K = {k}", "not measured: no time left")
            try:
                seconds = pace(lambda w: together(w, fidelity), found.space, k, share, device)  # noqa: B023
                rows.row(f"{fidelity}, K = {k} in one pass", f"{count * seconds:.1f} s")
            except RuntimeError as error:
                rows.row(f"{fidelity}, K = {k} in one pass", f"failed: {str(error).splitlines()[0]}")
    return None


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
    rows.head("ResNet-56, reconstructed: processes on one card (they take turns without MPS)")
    spawn, alone = multiprocessing.get_context("spawn"), 0.0
    for number in (1, 2, 4):
        start, ends, children = spawn.Barrier(number), [], []
        for _ in range(number):
            mine, other = spawn.Pipe()
            ends.append(mine)
            children.append(spawn.Process(target=_work, args=(device, quick, limit_s / 6, start, other)))
            children[-1].start()
        found = [end.recv() for end in ends if end.poll(60 + limit_s)]
        for child in children:
            child.join(10)
            if child.is_alive():
                child.kill()
        rate = sum(done / seconds for done, seconds in found)
        alone = alone or rate
        rows.row(
            f"{number} workers", f"400 in {400 / rate:.1f} s, {rate / alone:.2f} times one" if rate else "no answer"
        )


def training(rows: Rows, device: str, quick: bool, limit_s: float) -> None:
    """An epoch of 50,000 images of 32 pixels, as it is, and as one CUDA graph of a step."""
    from torch.nn import functional

    from search_spaces.models import resnet20, resnet56

    rows.head("ResNet-56: an epoch of 50,000 images, batches of 128")
    steps, amp = 50_000 // 128, device.startswith("cuda")
    net = (resnet20 if quick else resnet56)().to(device).to(memory_format=torch.channels_last).train()
    x = torch.randn(128, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (128,), device=device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, nesterov=True, fused=amp or None)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast(device.partition(":")[0], dtype=torch.bfloat16, enabled=amp, cache_enabled=False):
            loss = functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()

    def timed(run: Callable[[], None]) -> float:
        run()
        wait(device)
        begin, done = time.perf_counter(), 0
        while done < 2 or time.perf_counter() - begin < limit_s / 4:
            run()
            done += 1
        wait(device)
        return steps * (time.perf_counter() - begin) / done

    rows.row("as it is", f"{timed(step):.1f} s")
    if amp:
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        rows.row("one CUDA graph", f"{timed(graph.replay):.1f} s")


def where_time_goes(rows: Rows, device: str, quick: bool) -> None:
    """The operators that take most, of three reconstructed candidates."""
    from torch.profiler import ProfilerActivity, profile

    rows.head("Where the time of a reconstructed candidate of ResNet-56 goes (three of them)")
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


def latency(rows: Rows, device: str, quick: bool) -> None:
    """Each backend beside CUDA events around PyTorch's own run."""
    from objectives.latency import BACKENDS, Setting
    from search_spaces.models import resnet20

    rows.head("Latency of ResNet-20, batch 32, by backend")
    net, x = resnet20().eval(), torch.randn(32, 3, 32, 32)
    if device.startswith("cuda"):
        there, moved = resnet20().eval().to(device), x.to(device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.inference_mode():
            for _ in range(5):
                there(moved)
            begin.record()
            for _ in range(20):
                there(moved)
            end.record()
        wait(device)
        rows.row("CUDA events", f"{begin.elapsed_time(end) / 20:.3f} ms")
    for name in ("torch", "onnxruntime", "tensorrt", *(() if quick else ("compile",))):

        def run(name: str = name) -> None:
            backend = BACKENDS[name](Setting(32, 1, device))
            rows.row(name, backend.measure({"net": net}, x)["net"])

        rows.part(name, run)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=480.0, help="of all parts together")
    parser.add_argument("--quick", action="store_true", help="tiny: does the script run at all?")
    parser.add_argument("--to", type=Path, default=Path(__file__).with_suffix(".md"), help="where the table goes")
    chosen = parser.parse_args()
    if chosen.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(f"gpu.py: torch {torch.__version__} finds no CUDA device here; on a CPU try --device cpu --quick")
    rows, device, quick, whole = Rows(chosen.to, chosen.seconds), chosen.device, chosen.quick, chosen.seconds
    rows.part("environment", lambda: environment(rows, device))
    rows.part("checks", lambda: checks(rows, device, 0.2 * whole))
    rows.part("ResNet-56", lambda: one_network(rows, "ResNet-56", 400, device, quick, 0.25 * whole))
    rows.part("workers", lambda: workers(rows, device, quick, 0.1 * whole))
    rows.part("where the time goes", lambda: where_time_goes(rows, device, quick))
    rows.part("training", lambda: training(rows, device, quick, 0.06 * whole))
    rows.part("latency", lambda: latency(rows, device, quick))
    rows.part("ResNet-50", lambda: one_network(rows, "ResNet-50", 40, device, quick, 0.2 * whole))


if __name__ == "__main__":
    main()
