"""Signals over time: sound, electrocardiograms, accelerations."""

from __future__ import annotations

from autoprune.tasks.labelled import Labelled
from autoprune.tasks.memory import Columns


class Signals(Labelled):
    """Signals [N, channels, time] and class numbers [N]."""

    kind = "signals"
    sample = "signal"

    def check_targets(self, where: str, samples: Columns) -> None:
        """Signals are [N, channels, time]."""
        super().check_targets(where, samples)
        if samples.inputs.dim() != 3:
            raise ValueError(f"{where}: signals must be [N, channels, time], got {list(samples.inputs.shape)}; a "
                             "single channel is signals[:, None]")  # fmt: skip
