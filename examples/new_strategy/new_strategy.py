"""A strategy of your own: a class with `ask`, given as it is, or as --strategy mine:Walk.

python examples/new_strategy/new_strategy.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

import numpy as np
import torch

import autoprune
from autoprune.data import load
from autoprune.strategies import Strategy
from autoprune.training import TrainingSettings, finetune
from search_spaces import Widths
from search_spaces.models import digits_cnn


class Walk(Strategy):
    """A small step from the best so far."""

    def ask(self, number: int) -> Widths:
        """Widths for trial `number`, one per group: asked twice it answers twice the same, so draw from `self.rng`."""
        rng = self.rng(number)
        best = min(self.scored(), key=lambda trial: trial.loss, default=None)
        start = np.array(best.widths if best else self.problem.space.full)
        return self.fresh(start + rng.integers(-2, 3, size=len(start)), rng)  # legal, in budget and new


def main(out: str = "", trials: int = 12, epochs: float = 3.0) -> autoprune.SearchResult:
    """Train, search with it, print what came out."""
    torch.manual_seed(0)
    finetune(net := digits_cnn(), load("digits"), TrainingSettings(epochs=epochs, lr=0.05, batch_size=64))
    quick = {"trials": trials, "finalists": 0, "epochs": epochs, "criterion": "l1"}
    name = f"{out or tempfile.mkdtemp()}/run"
    result = autoprune.search(net, "digits", "macs<=50%", strategy=Walk, name=name, **quick)
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
