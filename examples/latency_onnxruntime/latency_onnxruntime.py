"""Milliseconds as the budget: 80 % of what the dense network takes on ONNX Runtime, one image, one thread.

python examples/latency_onnxruntime/latency_onnxruntime.py [FOLDER]     # some minutes: networks are measured first
"""

from __future__ import annotations

import sys
import tempfile

import onnxruntime
import torch

import autoprune
from autoprune.data import load
from autoprune.training import TrainingSettings, finetune
from search_spaces.models import digits_cnn


def main(out: str = "", trials: int = 8, epochs: float = 3.0) -> autoprune.SearchResult:
    """Train, search, export, run the exported file."""
    torch.manual_seed(0)
    finetune(net := digits_cnn(), load("digits"), TrainingSettings(epochs=epochs, lr=0.05, batch_size=64))
    result = autoprune.search(
        net, "digits", "latency<=80%@onnxruntime,threads=1", name=f"{out or tempfile.mkdtemp()}/run", onnx=True,
        trials=trials, finalists=0, epochs=epochs,
    )  # fmt: skip
    print(result)
    session = onnxruntime.InferenceSession(result.run_dir / "best/model.onnx", providers=["CPUExecutionProvider"])
    answers = session.run(["logits"], {"input": torch.zeros(1, 1, 8, 8).numpy()})[0]
    print(f"model.onnx answers {answers.shape}")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
