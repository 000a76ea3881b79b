"""A data set that does not fit into memory: searched and trained for an epoch within 3 GB, and how fast it streams.

    python results/benchmarks/streaming.py --folder SCRATCH [--images 40000] [--workers 2] [--memory 3] [--rounds 5]

Makes so many JPEG files of 224 px in SCRATCH (9 kB each; deleted in the end, unless --keep), then

1. runs `autoprune.search` with a final epoch of fine-tuning on them in a process group whose memory is limited, by a
   cgroup where one may be made (of all processes together, files in shared memory included), else by RLIMIT_DATA (of
   each process); what it takes is read from outside;
2. reads the training images in turn by the stream and by plain `DataLoader`s of torchvision's `ImageFolder` with the
   same augmentation and as many worker processes, up to normalised float batches, and compares images per second. One
   normalises each image, as most people write it; the other sends bytes and normalises the batch, as the stream does.

`ulimit -v` is no measure here: `import torch` alone maps more than 3 GB that it does not use. Writes streaming.md
beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1])]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

SIZE, CLASSES, BATCH, TEST = 224, 10, 64, 0.05
GIGA = 10**9


def small_net() -> nn.Module:
    """224 px into a stem of stride 8, two residual-free blocks of 16 and 32 channels: 12 million multiply-adds."""

    def block(into: int, out: int, kernel: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False)
        return [conv, nn.BatchNorm2d(out), nn.ReLU()]

    layers = [*block(3, 16, 9, 8), *block(16, 32, 3, 2), *block(32, 32, 3, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


def make_images(folder: Path, count: int) -> float:
    """Files of `count` images in train/ and test/; returns kB of one."""
    from multiprocessing import get_context

    if not (folder / "done").is_file():
        with get_context("spawn").Pool(2) as pool:
            pool.starmap(_some, [(folder, start, min(start + 500, count), count) for start in range(0, count, 500)])
        (folder / "done").write_text("")
    sizes = [path.stat().st_size for path in (folder / "train").glob("*/*0.jpg")]
    return float(np.mean(sizes)) / 1000


def _some(folder: Path, start: int, end: int, count: int) -> None:
    """Gradients, smooth spots and grain; the class tints the picture."""
    from PIL import Image

    rng = np.random.default_rng(start)
    spots = (rng.integers(0, 255, (n, n), np.uint8) for n in (5, 9, 40))
    low = [np.asarray(Image.fromarray(field).resize((512, 512), 3)) for field in spots]
    grain = rng.integers(-14, 15, (512, 512, 3), np.int16)
    for number in range(start, end):
        part = "test" if number >= count * (1 - TEST) else "train"
        label = number % CLASSES
        place = folder / part / f"class{label}"
        place.mkdir(parents=True, exist_ok=True)
        y, x = rng.integers(0, 512 - SIZE, 2)
        cut = np.s_[y : y + SIZE, x : x + SIZE]
        grey = sum(field[cut].astype(np.int16) for field in low) // 3
        tint = np.array([label * 8 - 36, 36 - label * 8, (label % 3) * 20 - 20], np.int16)
        picture = np.clip(grey[..., None] + tint + grain[cut], 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(place / f"{number}.jpg", quality=80)


def search_and_epoch(folder: str, workers: int, out: str) -> None:
    """What is done within the limit; says what came out."""
    import autoprune

    began = time.perf_counter()
    torch.manual_seed(0)
    net, spec = small_net(), f"imagefolder:{folder}"
    result = autoprune.search(
        net, spec, budget="macs<=50%", trials=6, finalists=1, short_steps=50, epochs=1, batch_size=BATCH, device="cpu",
        data_workers=workers, name=f"{folder}/run", progress=True, lr=0.05,
    )  # fmt: skip
    about = {"seconds": time.perf_counter() - began, "test": result.metrics["pruned_test"],
             "steps": result.metrics["training"]["step"][-1],
             "data_memory": autoprune.RunConfig.read(f"{folder}/run/config.toml")["data_memory"]}  # fmt: skip
    Path(out).write_text(json.dumps(about))


@contextmanager
def limited(limit: int) -> Iterator[tuple[str, Callable[[], None], Callable[[], int]]]:
    """In words how memory is limited, what a child calls to be so, and what all of them hold now, in bytes."""
    group = Path("/sys/fs/cgroup/memory/autoprune-streaming")
    try:
        group.mkdir(exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(limit))
    except OSError:
        yield "RLIMIT_DATA of each process", lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)), lambda: 0
        return

    def held() -> int:
        """Without the cache of files that were read, which is given back when memory is wanted."""
        lines = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(lines["total_rss"]) + int(lines.get("total_shmem", 0))

    try:
        yield "a cgroup of all its processes", lambda: (group / "tasks").write_text(str(os.getpid())) and None, held
    finally:
        end = time.monotonic() + 30  # loader processes outlive a parent that was killed
        while (group / "tasks").read_text() and time.monotonic() < end:
            time.sleep(0.5)
        with suppress(OSError):
            group.rmdir()


def run_limited(folder: Path, workers: int, limit: int) -> dict[str, Any]:
    """The search and the epoch in a process of its own, watched from outside."""
    out, peaks = folder / "said.json", {"held": 0, "rss": 0}
    shutil.rmtree(folder / "run", ignore_errors=True)
    with limited(limit) as (how, obey, held):
        command = [sys.executable, __file__, "--folder", str(folder), "--workers", str(workers), "--child", str(out)]
        child = subprocess.Popen(command, preexec_fn=obey)
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.2):
                peaks["held"] = max(peaks["held"], held())
                peaks["rss"] = max(peaks["rss"], _rss(child.pid))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        code = child.wait()
        ended.set()
        thread.join()
    if code:
        raise SystemExit(f"within {limit / GIGA:g} GB the search ended with code {code}")
    return {"how": how, **peaks, **json.loads(out.read_text())}


def _rss(pid: int) -> int:
    try:
        return 1024 * int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        return 0


def by_stream(folder: Path, workers: int, images: int) -> float:
    """Images per second of the stream."""
    from autoprune.data import Streaming, load_or_stream
    from autoprune.tasks import as_task

    task = as_task(load_or_stream(f"imagefolder:{folder}", Streaming(memory=0), val_images=1, test=False))
    training = task.loading(workers).training(BATCH, seed=0)
    return _pace(iter(training.between(0, images // BATCH)))


def by_loader(folder: Path, workers: int, images: int, as_bytes: bool = False) -> float:
    """Images per second of what people write."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    finish = v2.Compose([
        v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    change = [v2.ToImage(), v2.RandomCrop(SIZE, padding=SIZE // 8), v2.RandomHorizontalFlip()]
    data = ImageFolder(str(folder / "train"), v2.Compose(change if as_bytes else [*change, finish]))
    loader: DataLoader[Any] = DataLoader(data, BATCH, shuffle=True, num_workers=workers, drop_last=True)
    found = iter(loader)
    pairs = (next(found) for _ in range(images // BATCH))
    return _pace((finish(images), labels) for images, labels in pairs) if as_bytes else _pace(pairs)


ARMS: dict[str, Callable[[Path, int, int], float]] = {
    "stream": by_stream,
    "loader": by_loader,
    "loader of bytes": partial(by_loader, as_bytes=True),
}


def _pace(batches: Iterator[Any]) -> float:
    """Images per second, from the second batch on: processes have started by then."""
    next(batches)
    began, count = time.perf_counter(), 0
    for images, _ in batches:
        count += len(images)
        images.sum()  # it is there
    return count / (time.perf_counter() - began)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="scratch: images are made and deleted here")
    parser.add_argument("--images", type=int, default=40_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", type=float, default=3.0, help="GB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-round", type=int, default=3200, help="images that each arm reads a round")
    parser.add_argument("--keep", action="store_true", help="leave the images there")
    parser.add_argument("--only-make", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = Path(args.folder).resolve() / "autoprune-streaming"
    if args.child:
        return search_and_epoch(args.folder, args.workers, args.child)
    size = make_images(folder, args.images)
    if args.only_make:
        return None
    ran = run_limited(folder, args.workers, round(args.memory * GIGA))
    print(ran, flush=True)
    rounds = paces(folder, args)
    (HERE / "streaming.md").write_text(report(args, size, ran, rounds), encoding="utf-8")
    if not args.keep:
        shutil.rmtree(folder)
    return None


def paces(folder: Path, args: argparse.Namespace) -> list[dict[str, float]]:
    """Images per second of each arm, round by round; every round begins with another arm."""
    found = []
    for number in range(args.rounds):
        order = [list(ARMS)[(number + k) % len(ARMS)] for k in range(len(ARMS))]
        found.append({name: ARMS[name](folder, args.workers, args.per_round) for name in order})
        print(found[-1], flush=True)
    return found


def report(args: argparse.Namespace, size: float, ran: dict[str, Any], rounds: list[dict[str, float]]) -> str:
    """The page."""
    table = [[str(n), *(f"{found[name]:.0f}" for name in ARMS)] for n, found in enumerate(rounds, start=1)]
    table.append(["median", *(f"{statistics.median(found[name] for found in rounds):.0f}" for name in ARMS)])
    rows = "\n".join(f"| {' | '.join(row)} |" for row in table)
    plain, lean = (
        f"{statistics.median(found['stream'] / found[name] for found in rounds):.2f}" for name in list(ARMS)[1:]
    )
    gigabytes = args.images * SIZE * SIZE * 3 / GIGA
    held = (
        f"all its processes together hold at most {ran['held'] / GIGA:.2f} GB (their own and shared memory, read five "
        "times a second), "
        if ran["held"]
        else ""
    )
    return f"""# Data larger than memory

`python results/benchmarks/streaming.py --folder SCRATCH`: {args.images:,} JPEG images of {SIZE} px, {size:.1f} kB each
on disk, {gigabytes:.1f} GB decoded; {os.cpu_count()} cores shared with other work, torch {torch.__version__},
{args.workers} loader processes.

## A search and an epoch within {args.memory:g} GB

Limited by {ran["how"]}. `ulimit -v` is no measure: `import torch` alone maps 3.7 GB that it does not use.
The network has a stem of stride 8 (`small_net`); 6 candidates, one finalist of 50 steps, then one epoch, {ran["steps"]}
steps of {BATCH} images. `--data-memory` was not given and settled at {ran["data_memory"]}, a quarter of what was free.

It ran to its end in {ran["seconds"] / 60:.0f} minutes; {held}the main process {ran["rss"] / GIGA:.2f} GB (VmHWM).
Top-1 of the pruned network on {round(args.images * TEST):,} test images, which are streamed: {ran["test"]["top1"]:.3f}.

## Images per second

Training batches of {BATCH}, shuffled, cropped, flipped and normalised, by the stream and by plain `DataLoader`s of
`ImageFolder` with as many processes; {args.per_round:,} images an arm and round, in turn. "loader" normalises each
image in the processes, as most people write it; "loader of bytes" sends bytes and normalises the batch, as the stream
does.

| round | {" | ".join(ARMS)} |
|---|{"---|" * len(ARMS)}
{rows}

The stream reads {plain} times as many images as the first, {lean} times as many as the second (medians of the rounds'
ratios).
"""


if __name__ == "__main__":
    main()
