"""Measured latency: backends that run networks, and a predictor to search with. The import lines are the registry."""

from objectives.latency.backend import Backend as Backend
from objectives.latency.backend import Build as Build
from objectives.latency.backend import Setting as Setting
from objectives.latency.backend import rebatched as rebatched
from objectives.latency.command import Command as Command
from objectives.latency.comparing import Comparison as Comparison
from objectives.latency.comparing import compare as compare
from objectives.latency.compiled import Compiled as Compiled
from objectives.latency.eager import Eager as Eager
from objectives.latency.held_out import Quality as Quality
from objectives.latency.measuring import cache_folder as cache_folder
from objectives.latency.measuring import study as study
from objectives.latency.needed import backends as backends
from objectives.latency.needed import predictors as predictors
from objectives.latency.onnx_runtime import OnnxRuntime as OnnxRuntime
from objectives.latency.predictor import Latency as Latency
from objectives.latency.predictor import fit as fit
from objectives.latency.steps import fast_divisors as fast_divisors
from objectives.latency.steps import with_divisors as with_divisors
from objectives.latency.target import Target as Target
from objectives.latency.tensor_rt import TensorRT as TensorRT
from objectives.latency.timing import Timing as Timing
from objectives.latency.timing import take_turns as take_turns
from objectives.plugins import find, running

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
    from objectives.latency.foreign import ForeignBackend  # here, because the facade lists backends of ours

    return ForeignBackend(target.backend, made)
