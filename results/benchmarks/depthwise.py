"""What it costs a CPU to take the gradients of depthwise convolutions in bfloat16, and writes depthwise.md.

    python results/benchmarks/depthwise.py [--steps 10]

A layer alone, forwards and backwards, in bfloat16 and in float32; and a training step of a MobileNetV2 of half width
under autocast, as the training loop runs it (`autoprune.guards`), without that, and in float32. Processor time of one
thread, the least of the steps; the ways take turns, so that each ratio is of one run. Two minutes.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from protocol import BATCH, NETWORKS, machine
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autoprune.compute import Compute
from autoprune.files import write_text
from autoprune.guards import unguard

CHANNELS, SIZE = 96, 16  # pixels, of what enters such a layer
LAYERS = {
    "3 x 3": nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS),
    "3 x 3, stride 2": nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1, groups=CHANNELS),
    "3 x 3, dilation 2": nn.Conv2d(CHANNELS, CHANNELS, 3, padding=2, dilation=2, groups=CHANNELS),
    "5 x 5": nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, groups=CHANNELS),
    "7 x 7": nn.Conv2d(CHANNELS, CHANNELS, 7, padding=3, groups=CHANNELS),
    "transposed 4 x 4, stride 2": nn.ConvTranspose2d(CHANNELS, CHANNELS, 4, 2, 1, groups=CHANNELS),
}


def turns(ways: dict[str, Callable[[], None]], steps: int) -> dict[str, float]:
    """Way -> the least milliseconds of the processor; the first turn is not counted."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(steps + 1):
        for name, step in ways.items():
            start = time.process_time()
            step()
            if turn:
                found[name].append(time.process_time() - start)
    return {name: 1e3 * min(times) for name, times in found.items()}


def layer_step(layer: nn.Module, dtype: torch.dtype) -> Callable[[], None]:
    """Forwards and backwards through a layer alone, channels last."""
    own = copy.deepcopy(layer).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(BATCH, CHANNELS, SIZE, SIZE, dtype=dtype).contiguous(memory_format=torch.channels_last)
    leaves = [x.requires_grad_(), *own.parameters()]

    def step() -> None:
        out: Tensor = own(x)
        torch.autograd.grad(out, leaves, torch.ones_like(out))

    return step


def network_step(amp: bool, guarded: bool) -> Callable[[], None]:
    """Forwards and backwards through the network."""
    compute = Compute.choose("cpu", amp=amp)
    model = compute.place(NETWORKS["mobilenet_v2_half"].build())
    if not guarded:
        unguard(model)
    x = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,))

    def step() -> None:
        with compute.autocast():
            out = model(x)
        torch.autograd.grad(cross_entropy(out.float(), labels), list(model.parameters()))

    return step


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lines = [
        "# Depthwise convolutions in bfloat16 on a CPU", "",
        f"`python results/benchmarks/depthwise.py`. Machine: {machine()}. Milliseconds of the processor, the least of",
        f"{steps} steps, forwards and backwards, batch {BATCH}. A layer alone: {CHANNELS} channels, {SIZE} x {SIZE}",
        "pixels, channels last.", "",
        "| layer | bfloat16 | float32 | bfloat16 / float32 |", "|---|---|---|---|",
    ]  # fmt: skip
    kinds = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    for name, layer in LAYERS.items():
        took = turns({kind: layer_step(layer, dtype) for kind, dtype in kinds.items()}, steps)
        lines.append(f"| {name} | {took['bfloat16']:.1f} | {took['float32']:.1f} | "
                     f"{took['bfloat16'] / took['float32']:.1f} |")  # fmt: skip
        print(lines[-1], flush=True)
    ways = {
        "float32": network_step(False, True),
        "bfloat16, all layers": network_step(True, False),
        "bfloat16, such layers in float32 (the training loop)": network_step(True, True),
    }
    took = turns(ways, steps)
    *_, ours = took.values()
    lines += ["", "A training step of a MobileNetV2 of half width (23.7 M multiply-adds):", "",
              "| way | ms | of the training loop's |", "|---|---|---|",
              *(f"| {name} | {ms:.0f} | {ms / ours:.2f} |" for name, ms in took.items()), ""]  # fmt: skip
    write_text(Path(__file__).with_suffix(".md"), "\n".join(lines))
    print("\n".join(lines[-5:]))


if __name__ == "__main__":
    main()
