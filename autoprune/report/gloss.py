"""The run's own words in plain ones: what was done to a candidate before it was scored."""

from __future__ import annotations

from autoprune.config import RunConfig
from autoprune.fidelity import Fidelity
from autoprune.report.tables import counted
from search_spaces import SearchSpace

WAYS = {
    "raw": "as cut, without training",
    "proxy": "after its batch-norm statistics were taken anew, without training",
    "reconstructed": "after its layers were fitted to the dense network's outputs (least squares), without training",
}


def scored(fidelity: str, config: RunConfig, space: SearchSpace) -> str:
    """How candidates of a fidelity are scored: "after 100 training steps"."""
    asked = Fidelity(fidelity)
    if asked.trains:
        return f"after {counted(asked.amount or config.short_steps, 'training step')}"
    is_as_cut = asked.kind == "proxy" and not space.has_batch_norm  # there is nothing to take anew
    return WAYS["raw" if is_as_cut else asked.kind]


def key(config: RunConfig, space: SearchSpace) -> str:
    """The fidelities of a run's tables, each with what it means."""
    return "; ".join(f"{word}: {scored(word, config, space)}" for word in reversed(config.schedule.fidelities))
