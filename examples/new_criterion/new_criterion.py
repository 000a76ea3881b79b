"""A criterion of your own: a class with `score`, given as it is, or as --criterion mine:Saliency.

python examples/new_criterion/new_criterion.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

import torch
from torch import Tensor

import autoprune
from autoprune.criteria import Criterion, GroupTensors
from autoprune.data import load
from autoprune.training import TrainingSettings, finetune
from search_spaces.models import digits_cnn


class Saliency(Criterion):
    """Weights times their gradients, summed over each unit's filters."""

    needs = frozenset({"gradients"})  # leave this out where the weights are enough

    def score(self, group: GroupTensors) -> Tensor:
        """[C], higher = keep; every tensor of `group.filters` is [C, the weights of one filter]."""
        return group.total([(part.value * part.gradient).abs().sum(1) for part in group.filters])


def main(out: str = "", trials: int = 8, epochs: float = 3.0) -> autoprune.SearchResult:
    """Train, search with it, print what came out."""
    torch.manual_seed(0)
    finetune(net := digits_cnn(), load("digits"), TrainingSettings(epochs=epochs, lr=0.05, batch_size=64))
    quick = {"trials": trials, "finalists": 0, "epochs": epochs, "score_samples": 512}
    name = f"{out or tempfile.mkdtemp()}/run"
    result = autoprune.search(net, "digits", "macs<=50%", criterion=Saliency, name=name, **quick)
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
