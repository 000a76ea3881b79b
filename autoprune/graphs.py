"""One CUDA graph in the place of thousands of launches, for what does the same to the same memory each time."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch

WARM = 3  # runs as it is before it is captured: libraries choose their algorithms, caches are filled


class Capture(Protocol):
    """Where a function is captured."""

    def aside(self, run: Callable[[], Any]) -> Any:
        """What the function gives, run as it is, where it would be captured."""

    def capture(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """What runs all of the function's kernels again, and its answer, which they write anew each time.

        Raises:
            RuntimeError: If the function does what no graph can hold.
        """


class Graph:
    """A function that is run as it is a few times, then captured once and replayed.

    It may not wait for the device, look at a value, draw on the CPU or count in Python; what it reads stays in its
    place, and what it answers is good until it is run again. What cannot be captured is run as it is for ever, and one
    sentence says so.

    Args:
        run: The function.
        what: It is, for that sentence.
        where: It is captured.
    """

    def __init__(self, run: Callable[[], Any], what: str, where: Capture) -> None:
        self._run, self._what, self._where = run, what, where
        self._runs = 0
        self._is_refused = False
        self._replay: Callable[[], None] | None = None
        self._answer: Any = None

    @property
    def is_captured(self) -> bool:
        """Whether it is replayed from now on."""
        return self._replay is not None

    def __call__(self, begin: Callable[[], None] = lambda: None) -> Any:
        """Run it.

        Args:
            begin: Called before it is captured.
        """
        if self._replay is None and self._runs >= WARM and not self._is_refused:
            begin()
            try:
                self._replay, self._answer = self._where.capture(self._run)
            except (RuntimeError, ValueError) as error:  # a task says in words of its own that a batch does not fit it
                self._is_refused = True
                begin()
                why = (str(error).splitlines() or [type(error).__name__])[0]
                warnings.warn(f"{self._what} cannot be one CUDA graph ({why}) and goes on operator by operator",
                              RuntimeWarning, stacklevel=2)  # fmt: skip
        if self._replay is None:
            self._runs += 1
            return self._where.aside(self._run)
        self._replay()
        return self._answer


class CudaCapture:
    """On a CUDA device, on a stream of its own; see https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def aside(self, run: Callable[[], Any]) -> Any:
        """On that stream: what autograd remembers of streams then agrees with the capture."""
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                found = run()
            current.wait_stream(self._stream)
        return found

    def capture(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """See `Capture`; other threads (loaders that pin memory) may go on meanwhile."""
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.device(self._device),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                answer = run()
        except BaseException:
            with contextlib.suppress(RuntimeError):
                graph.reset()
            gc.collect()
            raise
        return graph.replay, answer


def capture_on(device: torch.device) -> Capture | None:
    """Where functions are captured on a device; None: nowhere, as it is no CUDA device."""
    return CudaCapture(device) if device.type == "cuda" else None
