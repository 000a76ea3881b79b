"""One search, several networks: the ranking that it learnt is cut at further budgets; the smaller are nested.

python examples/several_budgets/several_budgets.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

import torch

import autoprune
from autoprune.data import load
from autoprune.training import TrainingSettings, finetune
from search_spaces.models import digits_cnn


def main(out: str = "", trials: int = 8, epochs: float = 3.0) -> autoprune.SearchResult:
    """Train, search at 60 % of the multiply-adds, export at 40 % and 20 %, compare."""
    torch.manual_seed(0)
    finetune(net := digits_cnn(), load("digits"), TrainingSettings(epochs=epochs, lr=0.05, batch_size=64))
    name = f"{out or tempfile.mkdtemp()}/run"
    result = autoprune.search(net, "digits", "macs<=60%", name=name, trials=trials, finalists=0, epochs=epochs)
    places = [result.run_dir / "best"]
    for budget in ("macs<=40%", "macs<=20%"):
        places.append(autoprune.export(result.run_dir, net, budget=budget, epochs=epochs))
    for place in places:
        small = autoprune.load(place, model=net)
        print(f"{place}: {sum(p.numel() for p in small.parameters()):,} parameters")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
