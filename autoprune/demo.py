"""The main job on real data in about a minute: train a small CNN on handwritten digits, halve its MACs, compare.

The digits are scikit-learn's: 1,797 images of 8 x 8 pixels, bundled, nothing is downloaded.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from autoprune import data as data_sets
from autoprune.report import RunProgress, comparison_table, console, latency_ms, rows_of
from autoprune.runs.directory import RunDirectory
from autoprune.search import search
from autoprune.training import TrainingSettings, finetune
from search_spaces.models import digits_cnn

NAME = "demo"
WEIGHTS = Path("results") / "digits_cnn.safetensors"
SETTINGS: dict[str, Any] = {"trials": 24, "finalists": 3, "short_steps": 30, "epochs": 10, "lr": 0.02, "batch_size": 64}


def main(budget: str = "macs<=50%") -> None:
    """Train, search, fine-tune, export, compare."""
    started = time.monotonic()
    with RunProgress() as progress:
        progress.say("1. train a small dense CNN on scikit-learn's handwritten digits")
        train_dense(progress)
        progress.say(f"2. search the widths for {budget}, fine-tune the winner, export it")
        _clear(Path("results") / NAME)
        result = search(
            "search_spaces.models:digits_cnn", "digits", budget,
            weights=str(WEIGHTS), name=NAME, seed=0, progress=progress, **SETTINGS,
        )  # fmt: skip
        progress.say("3. measure both, in turns, one image at a time")
        dense = digits_cnn()
        pair = {"dense": dense, "pruned": result.model}
        ms = latency_ms(pair, result.example)
    ratio = f"{ms['dense'] / ms['pruned']:.2f} x faster"
    latency = ("latency (ms, batch 1, median)", f"{ms['dense']:.3f}", f"{ms['pruned']:.3f}", ratio)
    rows = [*rows_of(result.metrics, result.costs), latency]
    out = console()
    out.print(comparison_table(f"digits at {budget}: dense and pruned", rows))
    out.print(
        f"dense weights   {WEIGHTS}\npruned network  {result.run_dir / 'best'}\n"
        f'load it         autoprune.load("{result.run_dir / "best"}")\n'
        f"took            {time.monotonic() - started:.0f} s",
        markup=False,
    )


def train_dense(progress: RunProgress) -> None:
    """Train the dense network and write its weights to `WEIGHTS`."""
    data = data_sets.load("digits").without_test()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = digits_cnn()
    progress.begin("training", total=1)
    finetune(model, data, TrainingSettings(epochs=30, batch_size=64, lr=0.1))
    progress.end()
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.cpu().state_dict().items()}, WEIGHTS)


def _clear(path: Path) -> None:
    """Remove what an earlier demo left (and nothing else)."""
    if (path / "config.toml").is_file() and RunDirectory.open(path).config.weights == str(WEIGHTS):
        shutil.rmtree(path)


if __name__ == "__main__":
    main()
