"""Measurements latency of a few models side by side, fair to each: their runs take turns."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces import copy_of


def latency_ms(
    models: Mapping[str, nn.Module], example_inputs: Any, *, device: str = "cpu", seconds: float = 2.0, warmup: int = 5
) -> dict[str, float]:
    """Median milliseconds of one forward pass at batch 1, eager torch, float32.

    Args:
        models: Name -> model; their runs are interleaved, so that a busy moment of the machine hits all alike.
        example_inputs: One batch as the models are called with; its first sample is used.
        device: Where to measure.
        seconds: How long to measure, all models together.
        warmup: Runs of each that are not counted.
    """
    arguments = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    arguments = tuple(a[:1].to(device) if isinstance(a, Tensor) else a for a in arguments)
    ready = {name: copy_of(model).to(device).eval() for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in ready}
    started = time.perf_counter()
    with torch.inference_mode():
        while (runs := len(next(iter(times.values())))) < 2 * warmup or time.perf_counter() - started < seconds:
            for name, model in ready.items():
                _wait(device)
                before = time.perf_counter()
                model(*arguments)
                _wait(device)
                times[name].append(1000 * (time.perf_counter() - before))
            if runs >= 2000:
                break
    return {name: float(np.median(values[warmup:])) for name, values in times.items()}


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
