"""`Backend`: something that runs a network and says how long it took."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from objectives.latency.environment import cores, environment
from objectives.latency.memory import kept_memory
from objectives.latency.timing import Run, Timing, take_turns
from objectives.target import Setting
from search_spaces import SearchSpace, Widths, prune
from search_spaces.tracing import as_call

Build = Callable[[Widths], Run]  # a candidate, ready to be run


class Backend(ABC):
    """Something that runs a network and says how long it took.

    Attributes:
        name: The word of the command line ("onnxruntime").
        packages: What must be installed, by import name.
        extra: How that is installed.
        devices: Kinds of devices it runs on.
        precisions: Those that its setting may ask for, the default first.
        turns: How often a candidate has its turn.
        runs: Timed runs of one turn at most; 1: a run warms up and repeats by itself.
        alike: Whether candidates are built as they would be delivered even where that takes longer.
        builds: What each candidate costs besides, in words; "": next to nothing.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    extra: ClassVar[str] = ""
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    turns: ClassVar[int] = 6
    runs: ClassVar[int] = 20
    alike: ClassVar[bool] = True
    builds: ClassVar[str] = ""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.check()

    def check(self) -> None:
        """Check that it can run here.

        Raises:
            ValueError: If a package is missing, the device is not there, or there are fewer cores than threads.
        """
        where, device, threads = f"latency backend '{self.name}'", self.setting.device, self.setting.threads
        if missing := [p for p in self.packages if not find_spec(p)]:
            raise ValueError(f"{where}: {', '.join(missing)} is not installed; {self.extra}")
        if device.partition(":")[0] not in self.devices:
            raise ValueError(f"{where}: runs on {' or '.join(self.devices)}, not on '{device}'; leave device= away")
        if self.setting.precision and self.setting.precision not in self.precisions:
            known = " or ".join(self.precisions)
            raise ValueError(f"{where}: runs in {known}, not in '{self.setting.precision}'; leave precision= away")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"{where}: no CUDA device here; leave device={device} away to measure on the CPU")
        if "cpu" in self.devices and not 1 <= threads <= cores():
            raise ValueError(
                f"{where}: threads must lie between 1 and the {cores()} cores this process may use, found {threads}"
            )

    @abstractmethod
    def load(self, model: nn.Module, example: Any) -> Run:
        """The network, ready to be run on `example` (one batch as the model is called with).

        Raises:
            ValueError: If the backend refuses the network.
        """

    def candidates(self, model: nn.Module, space: SearchSpace, example: Any, *, delivered: bool = False) -> Build:
        """What makes candidates of `space` ready; a backend that need not rebuild everything overrides it.

        Args:
            model: The dense network, in eval mode, on the CPU.
            space: Its search space.
            example: One batch as it is called with.
            delivered: Few will be measured, to hold a budget: as a run delivers them where that can make a difference,
                however long it takes.
        """
        return lambda widths: self.load(prune(model, space, [np.arange(w) for w in widths]), example)

    def layers(self, model: nn.Module, example: Any) -> dict[str, float]:
        """Milliseconds per layer of the network, where the backend can tell; else empty."""
        return {}

    @property
    def about(self) -> dict[str, str]:
        """What its measurements belong to: the backend, the device, threads and versions."""
        said = {"backend": self.name, "command": self.setting.command}
        if len(self.precisions) > 1:
            said["precision"] = self.setting.precision or self.precisions[0]
        return said | environment(self.setting.device, self.setting.threads, self.packages)

    def profile(self, model: nn.Module, example: Any) -> dict[str, float]:
        """`layers`, under the setting."""
        with self.ready():
            return self.layers(copy.deepcopy(model).cpu().eval(), rebatched(example, self.setting.batch))

    @contextmanager
    def ready(self) -> Iterator[None]:
        """While it measures: as many torch threads as the setting says, and an allocator that keeps its memory."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.setting.threads)
        try:
            with kept_memory():
                yield
        finally:
            torch.set_num_threads(before)

    def measure(self, models: Mapping[str, nn.Module], example: Any, *, turns: int = 5) -> dict[str, Timing]:
        """Measure networks side by side, in turns.

        Args:
            models: Name -> network; the dense one should be among them, so that drift of the machine cancels.
            example: What they are called with; cut or repeated to the batch of the setting.
            turns: How often each has its turn.

        Raises:
            ValueError: As `load`.
        """
        example = rebatched(example, self.setting.batch)
        with self.ready():
            runs = {name: self.load(copy.deepcopy(model).cpu().eval(), example) for name, model in models.items()}
            return take_turns(runs, turns=turns, most=self.runs)


def rebatched(example: Any, batch: int) -> Any:
    """The example with `batch` samples."""

    def fit(tensor: Tensor) -> Tensor:
        return tensor[torch.arange(batch) % tensor.shape[0]].contiguous() if tensor.dim() else tensor

    return tree_map_only(Tensor, fit, example)


def on_device(model: nn.Module, example: Any, device: str) -> tuple[nn.Module, Sequence[Any], Mapping[str, Any]]:
    """Model, arguments and keyword arguments on a device."""
    args, kwargs = as_call(tree_map_only(Tensor, lambda t: t.to(device), example))
    return model.to(device).eval(), args, kwargs


def timed(call: Callable[[], Any], device: str = "cpu") -> Run:
    """Times one call, up to the moment when the device is done with it."""

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    def run() -> float:
        wait()
        started = time.perf_counter()
        call()
        wait()
        return 1000 * (time.perf_counter() - started)

    return run
