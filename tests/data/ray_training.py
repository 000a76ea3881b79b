"""A training that processes of a cluster share: what they import must be found by name."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from autoprune.tasks import Task
from autoprune.training import Method, TrainingSettings
from autoprune.training.parallel import Processes

SETTINGS = TrainingSettings(lr=0.05, momentum=0.9, device="cpu", amp="off", seed=3)
STEPS = 12


def network(seed=0):
    """Without batch-norm, whose statistics are those of a part."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def task():
    """Batches of seven images, which two processes cannot share equally."""
    drawn = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (4, 7), generator=drawn)
    images = torch.randn(4, 7, 1, 6, 6, generator=drawn) + labels[:, :, None, None, None]
    pairs = list(zip(images, labels, strict=True))
    return Task.of(pairs, pairs[:1], loss=nn.functional.cross_entropy)


def wait_for(file, seconds=120):
    give_up = time.monotonic() + seconds
    while not file.exists() and time.monotonic() < give_up:
        time.sleep(0.05)


class Fatal(Method):
    """Kills the second process once, or breaks in both of them; leaves a line for each step that was done.

    Args:
        folder: Of the lines.
        at: The step.
        how: "kill" or "break".
    """

    name = "fatal"

    def __init__(self, folder, at, how="kill"):
        super().__init__()
        self.folder, self.at, self.how = Path(folder), at, how

    def after_step(self, net, step):
        """The line, and the end."""
        if Processes.here().is_first:
            with (self.folder / "steps.txt").open("a") as file:
                print(step.number, file=file)
        if step.number == self.at and self.how == "break":
            raise ValueError("broken by the test")
        if step.number == self.at and not Processes.here().is_first and not (self.folder / "killed").exists():
            wait_for(self.folder / "training.ray" / "checkpoint_manager_snapshot.json")  # Ray has the checkpoint
            (self.folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
