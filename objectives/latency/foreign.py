"""A latency backend from outside: what it raises or answers wrongly is told in its name."""

from __future__ import annotations

import inspect
import math
from typing import Any

from torch import nn

from objectives.latency.backend import Backend, Build
from objectives.latency.timing import Run
from objectives.plugins import PluginError, running
from search_spaces import SearchSpace


class ForeignBackend(Backend):
    """Measures with the backend of a plug-in.

    Args:
        title: What the user called it, "package.module:Name".
        inner: The backend.
    """

    def __init__(self, title: str, inner: Backend) -> None:
        self._who, self._inner = f"latency backend '{title}'", inner
        with running(self._who, "while it was made (does its __init__ call super().__init__?)"):
            self.setting, self.name = inner.setting, inner.name  # type: ignore[misc]  # of this very one
            self.packages, self.devices = inner.packages, inner.devices  # type: ignore[misc]
            self.turns, self.runs = inner.turns, inner.runs  # type: ignore[misc]
            self.alike, self.builds = inner.alike, inner.builds  # type: ignore[misc]

    def load(self, model: nn.Module, example: Any) -> Run:
        """The network, ready to be run."""
        with running(self._who, f"to load {type(model).__name__}"):
            return self._checked(self._inner.load(model, example))

    def candidates(self, model: nn.Module, space: SearchSpace, example: Any, *, delivered: bool = False) -> Build:
        """What makes candidates ready."""
        with running(self._who, "to make candidates ready"):
            known = inspect.signature(self._inner.candidates).parameters
            told = {"delivered": delivered} if "delivered" in known else {}  # those that know one kind need not say so
            build = self._inner.candidates(model, space, example, **told)

        def made(widths: tuple[int, ...]) -> Run:
            with running(self._who, f"to load the candidate {widths}"):
                return self._checked(build(widths))

        return made

    def layers(self, model: nn.Module, example: Any) -> dict[str, float]:
        """Milliseconds per layer of the network."""
        with running(self._who, "to time layers"):
            return self._inner.layers(model, example)

    @property
    def about(self) -> dict[str, str]:
        """What its measurements belong to."""
        with running(self._who, "to say what it is"):
            return self._inner.about

    def _checked(self, run: Run) -> Run:
        def timed() -> float:
            with running(self._who, "to run a network"):
                found = run()
            if not isinstance(found, (int, float)) or not 0 < found < math.inf:
                raise PluginError(f"{self._who}: a run must give its milliseconds, a number above 0, got {found!r:.40}")
            return found

        return timed
