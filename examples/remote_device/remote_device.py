"""Latency on another machine: a command gets an ONNX file and prints milliseconds.

python examples/remote_device/remote_device.py [FOLDER]     # some minutes: every network is a call of the command

Here the command is bench.py in this folder, on this machine. A board on the network:
--latency-command "scripts/on_pi.sh {onnx}", which copies the file (scp) and calls bench.py there (ssh).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

import autoprune
from autoprune.data import load
from autoprune.training import TrainingSettings, finetune
from search_spaces.models import digits_cnn

BENCH = Path(__file__).with_name("bench.py")


def main(
    out: str = "", trials: int = 6, epochs: float = 3.0, command: str = f"{sys.executable} {BENCH} {{onnx}}"
) -> autoprune.SearchResult:
    """Train, search, print what came out."""
    torch.manual_seed(0)
    finetune(net := digits_cnn(), load("digits"), TrainingSettings(epochs=epochs, lr=0.05, batch_size=64))
    result = autoprune.search(
        net, "digits", "latency<=90%@command", latency_command=command, name=f"{out or tempfile.mkdtemp()}/run",
        trials=trials, finalists=0, epochs=epochs,
    )  # fmt: skip
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
