"""What all benchmarks on CIFAR-10-JPEG share: the data, the dense networks and the one-epoch protocol.

The protocol is that of the data's README: from the pruned weights, SGD with Nesterov momentum .9, weight decay 5e-4,
learning rate .02 with cosine decay per step, batch 128, 351 steps, crop and flip, plain cross-entropy, bf16, channels
last. Test images are looked at once per finished network.
"""

from __future__ import annotations

import copy
import fcntl
import json
import os
import platform
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from autoprune.compute import Compute
from autoprune.data import ImageData, load
from autoprune.evaluation import measure
from autoprune.files import write_text
from autoprune.recovery import Reconstruction
from autoprune.runs.recovering import FIT_SAMPLES
from autoprune.training import TrainingSettings, finetune
from search_spaces import prune, trace
from search_spaces.models import mobilenet_v2, resnet20, resnet56, vgg16

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("BENCHMARK_CACHE", HERE / "cache"))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEIGHTS = "resnet20_cifar10_jpeg.safetensors"
EPOCH, BATCH = 351, 128  # steps, images of each


class Network(NamedTuple):
    """A trained network of the benchmarks."""

    build: Callable[[], torch.nn.Module]
    weights: str


NETWORKS = {
    "resnet20": Network(resnet20, WEIGHTS),
    "resnet56": Network(resnet56, WEIGHTS.replace("20", "56", 1)),
    "vgg16_quarter": Network(partial(vgg16, scale=0.25), "vgg16_quarter_cifar10_jpeg.safetensors"),  # see networks.py
    "mobilenet_v2_half": Network(partial(mobilenet_v2, scale=0.5), "mobilenet_v2_half_cifar10_jpeg.safetensors"),
}


def images(folder: Path) -> ImageData:
    """The data set, unpacked once: by one process, while others that share the work wait."""
    target = CACHE / "cifar10_jpeg"
    with claim(CACHE / "cifar10_jpeg.lock", wait=True):
        if not target.is_dir():
            with (
                TemporaryDirectory(dir=CACHE) as scratch,
                tarfile.open(folder / "cifar10_jpeg.tar.xz") as archive,
            ):
                archive.extractall(scratch, filter="data")
                (Path(scratch) / target.name).rename(target)
    return load(f"imagefolder:{target}", val_images=5000, seed=0, mean=MEAN, std=STD)


def dense_network(weights: Path, name: str = "resnet20") -> torch.nn.Module:
    """The trained network that everything is pruned from."""
    model = NETWORKS[name].build()
    model.load_state_dict(load_file(weights))
    return model.eval()


def piece(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of one piece of work, from the cache if it is there."""
    path = CACHE / f"{name}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(make()))
    return json.loads(path.read_text())  # type: ignore[no-any-return]


@contextmanager
def claim(path: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone has the file now; its end, however it comes, gives the file back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def macs(model: torch.nn.Module) -> float:
    """Multiply-adds of one image, counted on the built network: plain convolutions and one linear layer."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops() / 2


def one_epoch(
    data: ImageData,
    weights: Path,
    kept: Sequence[Sequence[int]],
    seed: int,
    *,
    steps: int = EPOCH,
    start: torch.nn.Module | None = None,
) -> dict[str, Any]:
    """The fixed protocol: top-1 in percent after the epoch.

    Args:
        data: With its test images, which only the final measurement sees.
        weights: Of the dense network.
        kept: Per group, the units that stay.
        seed: Of the fine-tuning.
        steps: Fewer, where a part of the epoch was spent before.
        start: The pruned network to begin with, trained in place; default: cut out of the dense one.
    """
    model, begin = start, time.perf_counter()
    if model is None:
        dense = dense_network(weights)
        model = prune(dense, trace(dense, torch.zeros(1, 3, 32, 32)), kept)
    how = TrainingSettings(lr=0.02, lr_schedule="cosine", warmup=0, batch_size=BATCH, amp="on", seed=seed)
    finetune(model, data.without_test(), how, steps=steps)
    top1 = {split: 100 * measure(model, data, split)["top1"] for split in ("val", "test")}
    return {**top1, "seconds": time.perf_counter() - begin}


def reconstructed(data: ImageData, weights: Path, kept: Sequence[Sequence[int]], seed: int) -> torch.nn.Module:
    """The pruned ResNet-20 with its layers fitted to the dense one's outputs, as `autoprune.search` delivers it."""
    return reconstructed_network(data, dense_network(weights), kept, seed)


def reconstructed_network(data: ImageData, dense: torch.nn.Module, kept: Sequence[Any], seed: int) -> torch.nn.Module:
    """The same for any dense network, which is left as it is."""
    compute = Compute.choose("auto")
    space = trace(dense, torch.zeros(1, 3, 32, 32))
    model = compute.place(prune(dense, space, kept)).eval()
    fit = Reconstruction.on(compute.place(copy.deepcopy(dense)), space, data, FIT_SAMPLES, compute, seed)
    fit(model, [np.asarray(k) for k in kept])
    return model


def processor() -> str:
    """What the machine calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def machine() -> str:
    """Where this runs."""
    return f"{processor()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"
