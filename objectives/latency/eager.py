"""PyTorch as it is called: operator by operator."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import nn

from objectives.latency.backend import Backend, on_device, timed
from objectives.latency.timing import Run


class Eager(Backend):
    """PyTorch, operator by operator, float32."""

    name = "torch"

    def load(self, model: nn.Module, example: Any) -> Run:
        """The network on its device."""
        device = self.setting.device
        model, args, kwargs = on_device(model, example, device)

        def call() -> Any:
            with torch.inference_mode():
                return model(*args, **kwargs)

        return timed(call, device)

    def layers(self, model: nn.Module, example: Any, runs: int = 12) -> dict[str, float]:
        """Milliseconds of every module without children: median of the runs after the first two."""
        device = self.setting.device
        model, args, kwargs = on_device(model, example, device)
        started: dict[str, float] = {}
        passes: list[Counter[str]] = []
        handles = []

        def wait() -> float:
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            return time.perf_counter()

        for name, module in model.named_modules():
            if not any(True for _ in module.children()):

                def before(_module: nn.Module, _args: Any, name: str = name) -> None:
                    started[name] = wait()

                def after(_module: nn.Module, _args: Any, _output: Any, name: str = name) -> None:
                    passes[-1][name] += 1000 * (wait() - started[name])  # type: ignore[assignment]

                handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        try:
            for _ in range(runs):
                passes.append(Counter())
                with torch.inference_mode():
                    model(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        return {name: float(np.median([p[name] for p in passes[2:]])) for name in passes[-1]}
