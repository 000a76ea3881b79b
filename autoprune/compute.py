"""Where forward and backward passes run, in which precision, and how long they take."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from autoprune.guards import guard, unguard
from search_spaces import copy_of

KINDS = ("cpu", "cuda")
FAST_DOUBLE = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}  # P100, V100, A100, H100, B200: half the rate of float32
LARGE = 512  # unknowns of a system that takes longer than its launches where float64 has 1/32 or 1/64 of the rate
ROOM = 4 * 2**30  # bytes; beyond it more samples at once gain nothing


@dataclass(frozen=True)
class Compute:
    """A device and how its passes are run.

    Attributes:
        device: Where the network and the samples live.
        amp: Whether passes run under bfloat16 autocast (weights and the loss stay float32).
        channels_last: Whether activations are laid out channels last.
        room: Bytes that the activations of a pass without gradients may take; 0: it gets batches of the training's
            size, the fastest on a CPU (an accelerator waits for launches then). The same on most GPUs, whatever is
            free at the moment: batch-norm is re-estimated batch by batch, so scores depend on it.
        slow_double: Whether the device is much slower in float64 than in float32, as most GPUs are.
        graphs: Whether what does the same each time is captured as a CUDA graph (`autoprune.graphs`).
    """

    device: torch.device
    amp: bool
    channels_last: bool = True
    room: int = 0
    slow_double: bool = False
    graphs: bool = False

    @classmethod
    def choose(
        cls,
        device: str | torch.device = "auto",
        amp: str | bool = "auto",
        channels_last: bool = True,
        graphs: bool = False,
    ) -> Compute:
        """Resolve "auto": the first CUDA device if there is one; bfloat16 where the device multiplies it natively.

        The choice looks at what the device can do and is not timed, so that a resumed run computes as before.

        Raises:
            ValueError: If the device is not there, or `amp` is not "auto", "on", "off" or a bool.
        """
        name = str(device)
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            resolved = torch.device(name)
            if resolved.type == "cpu" and resolved.index:
                raise RuntimeError("there is one CPU")
            if (found := float(torch.ones(2, device=resolved).sum())) != 2:  # "meta" computes nothing
                raise RuntimeError(f"1 + 1 is {found} there")
        except Exception as error:  # RuntimeError, AssertionError, ImportError: each kind of device has its own
            reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
            raise ValueError(f"device '{name}': not usable here ({reason}); known good: auto, cpu") from error
        if resolved.type not in KINDS:
            raise ValueError(f"device '{name}': not supported: some sums are taken in float64, and no {resolved.type} "
                             "device has been tried; known good: auto, cpu, cuda")  # fmt: skip
        choices = {"auto": _fast_bfloat16(resolved), "on": True, "off": False, True: True, False: False}
        if amp not in choices:
            raise ValueError(f"amp: expected 'auto', 'on' or 'off', got {amp!r}")
        cuda = resolved.type == "cuda"
        slow_double = cuda and torch.cuda.get_device_capability(resolved) not in FAST_DOUBLE
        return cls(resolved, choices[amp], channels_last, _room(resolved), slow_double, graphs and cuda)

    @property
    def is_exact(self) -> bool:
        """Whether sums of many products are taken in float64: that is slow on most GPUs."""
        return self.device.type == "cpu"

    @property
    def place_name(self) -> str:
        """What to call the device."""
        return "this CPU" if self.device.type == "cpu" else torch.cuda.get_device_name(self.device)

    def solves_in(self, unknowns: int) -> torch.dtype:
        """The precision in which a system of equations is solved: float32 where it is large, and float64 slow."""
        return torch.float32 if self.slow_double and unknowns > LARGE else torch.float64

    def pass_size(self, batch_size: int, counts: Iterable[int], bytes_each: float) -> int:
        """Samples of one pass without gradients, the same for all that a candidate goes through.

        One size means one set of shapes, for which an accelerator's libraries look for kernels only once.

        Args:
            batch_size: Of the training.
            counts: Of the samples that pass for one reason or another.
            bytes_each: Of the activations of one sample.
        """
        if not self.room:
            return batch_size
        return max(batch_size, min(*counts, int(self.room / max(1.0, bytes_each))))

    def place(self, model: nn.Module) -> nn.Module:
        """Move the model to the device (in place) and lay out its weights."""
        model.to(self.device)
        wide = self.channels_last and all(p.dim() <= 4 for p in model.parameters())  # Conv3d knows no such layout
        if wide:
            model.to(memory_format=torch.channels_last)
        if self.device.type == "cpu":
            guard(model, wide, self.amp)
        return model

    def lent(self, model: nn.Module) -> nn.Module:
        """The model, on a CPU itself, else as a copy on the device, laid out as it is."""
        return model if self.device.type == "cpu" else copy_of(model).to(self.device)

    def lent_inputs(self, inputs: Any) -> Any:
        """What it is called with, likewise."""
        return tree_map_only(Tensor, lambda tensor: tensor.to(self.device), inputs)

    @contextmanager
    def placed(self, model: nn.Module) -> Iterator[nn.Module]:
        """The model on the device, its weights laid out for it; they are laid out as before afterwards.

        It may be the user's own, and formats like safetensors refuse weights that lie channels last.
        """
        usual = all(p.is_contiguous() for p in model.parameters() if p.dim() == 4)
        try:
            yield self.place(model)
        finally:
            unguard(model)
            if usual:
                model.to(memory_format=torch.contiguous_format)

    def autocast(self, cached: bool = True) -> AbstractContextManager[Any]:
        """The precision of a forward pass; keep one open over many batches and each weight is cast only once.

        Args:
            cached: Whether the cast weights are kept; in a graph they are cast by the graph.
        """
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp, cache_enabled=cached)

    def stopwatch(self) -> Stopwatch:
        """A stopwatch for passes on this device."""
        return Stopwatch(self.device)


class Stopwatch:
    """Sums the time spent inside its `with` blocks; on CUDA by events, so that nothing waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0
        self._start = 0.0

    def __enter__(self) -> Stopwatch:
        if self._cuda:
            event = torch.cuda.Event
            self._events.append((event(enable_timing=True), event(enable_timing=True)))  # type: ignore[no-untyped-call]
            self._events[-1][0].record(torch.cuda.current_stream(self._device))
        else:
            self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            self._events[-1][1].record(torch.cuda.current_stream(self._device))
        else:
            self._seconds += time.perf_counter() - self._start

    @property
    def seconds(self) -> float:
        """Total so far (waits for the device)."""
        if self._events:
            torch.cuda.synchronize(self._device)
            self._seconds += sum(start.elapsed_time(end) for start, end in self._events) / 1e3  # ms
            self._events.clear()
        return self._seconds


def same_bits(device: str) -> None:
    """Allow only algorithms that give the same bits each time, where the device is no CPU, which has no others.

    What has no such algorithm then raises an error that names it. For the whole process, before its first pass.
    """
    if torch.device("cuda" if device == "auto" else device).type == "cuda" and torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True)


def _room(device: torch.device) -> int:
    """See `Compute`: an eighth of the memory, 4 GiB at most."""
    if device.type != "cuda":
        return 0
    return int(min(ROOM, torch.cuda.get_device_properties(device).total_memory // 8))


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere
    if device.type == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # emulated elsewhere, and slower than float32
        return any(probe() for probe in (getattr(torch.cpu, name, None) for name in probes) if probe is not None)
    return False
