"""The run's own words in plain ones: what was done to a candidate before it was scored."""

from __future__ import annotations

from autoprune.config import RunConfig
from autoprune.fidelity import Fidelity
from autoprune.report.tables import counted

WAYS = {
    "raw": "as cut, without training",
    "proxy": "after its batch-norm statistics were taken anew, without training",
    "reconstructed": "after its layers were fitted to the dense network's outputs (least squares), without training",
}


def scored(fidelity: str, config: RunConfig) -> str:
    """How candidates of a fidelity are scored: "after 100 training steps"."""
    asked = Fidelity(fidelity)
    return f"after {counted(asked.amount or config.short_steps, 'training step')}" if asked.trains else WAYS[asked.kind]


def key(config: RunConfig) -> str:
    """The fidelities of a run's tables, each with what it means."""
    return "; ".join(f"{word}: {scored(word, config)}" for word in reversed(config.schedule.fidelities))
