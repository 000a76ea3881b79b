"""A trainer of the user's in place of the loop: it gets the pruned network and gives it back trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.reference import quiet
from autoprune.runs.trained import Trained, fitted, is_network
from autoprune.settings import TrainingSettings
from autoprune.tasks import Task
from autoprune.training import batches_of
from objectives import find
from objectives.plugins import running
from search_spaces import copy_of


@dataclass(frozen=True, eq=False)
class TrainerRun:
    """What a trainer is given besides the network: `def trainer(network, run)` gives the network back, or its weights.

    Attributes:
        task: What the network is for: its batches, its loss, its scores; without the test samples.
        settings: Of the run: epochs, lr, batch_size, seed, device ... A trainer may go by them or not.
        folder: Is there, and the trainer's own: a run that was killed finds in it what was there.
        teacher: The dense network, on the CPU.
        example: What the network is called with.
    """

    task: Task
    settings: TrainingSettings
    folder: Path
    teacher: nn.Module
    example: Any

    def batches(self, split: str = "train", epoch: int = 0) -> Iterable[Any]:
        """The batches of an epoch, "train" augmented and in the order of the run's seed and the epoch; or of "val"."""
        training = batches_of(self.task, self.settings)
        if split == "train":
            return training.between(epoch * training.per_epoch, (epoch + 1) * training.per_epoch)
        return self.task.once(split, training.size)


def trained_by(trainer: str, network: nn.Module, run: TrainerRun, say: Callable[[str], None] = quiet) -> nn.Module:
    """The network as a trainer of the user's gives it back, if it is still this network.

    Args:
        trainer: "package.module:function", or one that was given.
        network: The pruned network, on the CPU; the trainer has a copy.
        run: What it is given.
        say: Told what was made of names with a wrapper's prefix.

    Returns:
        The network in eval mode, on the CPU.

    Raises:
        PluginError: If the trainer fails.
        ValueError: If it gives nothing back, another network, or weights that are not finite.
    """
    function, name = find("trainer", trainer, {}), f"trainer '{trainer}'"
    if not callable(function):
        raise ValueError(f"{name}: must be a function of (network, run), got {type(function).__name__}")
    run.folder.mkdir(parents=True, exist_ok=True)
    with running(name, "while it trained the network"):
        found: Trained | None = function(copy_of(network), run)
    if found is None:
        raise ValueError(f"{name}: gave nothing back; it must return the network that it trained")
    if not is_network(found):
        raise ValueError(f"{name}: must return the network, or its state dict, got {type(found).__name__}")
    try:
        return fitted(copy_of(network), found, trainer, run.example, say)
    except ValueError as error:
        raise ValueError(f"{name}: must give back the network that it was given, trained ({error})") from error
