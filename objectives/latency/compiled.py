"""`torch.compile`: the network as one compiled program."""

from __future__ import annotations

import shutil
from types import FunctionType
from typing import Any

import torch
from torch import nn

from objectives.latency.backend import Backend, on_device, timed
from objectives.latency.timing import Run


class Compiled(Backend):
    """torch.compile (TorchInductor), float32. Compiling takes seconds to minutes per candidate."""

    name = "compile"
    builds = "are compiled before, each for seconds to minutes"

    def check(self) -> None:
        """Check that there is a compiler, too."""
        super().check()
        if self.setting.device == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
            raise ValueError("latency backend 'compile': needs a C++ compiler; install g++, or measure with @torch")

    def load(self, model: nn.Module, example: Any) -> Run:
        """The network, compiled when it is first run."""
        device = self.setting.device
        model, args, kwargs = on_device(model, example, device)

        def network(*args: Any, **kwargs: Any) -> Any:
            return model(*args, **kwargs)

        from torch._dynamo import config  # imports the compiler: seconds that only this backend needs

        # Compilations are kept by code, eight of each: with code of its own no network runs uncompiled for another's.
        own = FunctionType(network.__code__.replace(), network.__globals__, closure=network.__closure__)
        compiled = torch.compile(own, dynamic=False)

        def call() -> Any:
            with torch.inference_mode():
                return compiled(*args, **kwargs)

        try:  # parts behind a graph break share their code with other candidates: for them the limit is lifted
            with config.patch(recompile_limit=2**20, accumulated_recompile_limit=2**20):
                call()
        except Exception as error:  # the compiler raises whatever it likes
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"latency backend 'compile': refuses {type(model).__name__} ({why}); measure with @torch"
            ) from error
        return timed(call, device)
