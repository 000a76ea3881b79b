"""The latency backends by name, those from outside among them. The import lines are the registry."""

from __future__ import annotations

from objectives.latency.backend import Backend
from objectives.latency.command import Command as Command
from objectives.latency.compiled import Compiled as Compiled
from objectives.latency.eager import Eager as Eager
from objectives.latency.foreign import ForeignBackend
from objectives.latency.onnx_runtime import OnnxRuntime as OnnxRuntime
from objectives.latency.tensor_rt import TensorRT as TensorRT
from objectives.plugins import find, running
from objectives.target import Target

BACKENDS: dict[str, type[Backend]] = {
    b.name: b for b in list(globals().values()) if isinstance(b, type) and issubclass(b, Backend) and hasattr(b, "name")
}


def make(target: Target, command: str = "") -> Backend:
    """The backend of a target, ready to measure here.

    Args:
        target: Which, and how it is used.
        command: What the remote backend calls.

    Raises:
        ValueError: If there is no such backend, it is not installed, or the machine is not like that.
    """
    kind = find("latency backend", target.backend, BACKENDS)
    if target.backend in BACKENDS:
        return BACKENDS[target.backend](target.setting(command))
    with running(f"latency backend '{target.backend}'", "while it was made"):
        made = kind(target.setting(command))
    if not isinstance(made, Backend):
        raise ValueError(f"latency backend '{target.backend}': expected a Backend, got {type(made).__name__}")
    return ForeignBackend(target.backend, made)
