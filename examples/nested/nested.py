"""Several networks in one set of weights, between which a running program switches.

python examples/nested/nested.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from timeit import repeat

import torch

import autoprune
from autoprune.data import load
from autoprune.evaluation import measure
from autoprune.tasks import as_task
from autoprune.training import TrainingSettings, finetune
from search_spaces.models import digits_cnn


def main(out: str = "", epochs: float = 10.0) -> autoprune.SearchResult:
    """Train, let three levels learn together, switch between them, take the smallest one away alone."""
    torch.manual_seed(0)
    finetune(net := digits_cnn(), load("digits"), TrainingSettings(epochs=epochs, lr=0.05, batch_size=64))
    name = f"{out or tempfile.mkdtemp()}/run"
    together = {"method": "nested", "budget_list": ("30%", "15%"), "method_epochs": epochs, "epochs": 0.0}
    result = autoprune.train(net, "digits", "macs<=50%", name=name, **together)
    nested = autoprune.load(result.run_dir / "best", model=net)
    task, images = as_task(load("digits")), torch.rand(500, 1, 8, 8)
    for level in nested.names:
        nested.switch(level)  # slices of the same weights: nothing is copied
        right = measure(nested, task, "val")["top1"]
        seconds = min(repeat(lambda: nested(images), number=1, repeat=9))
        print(f"{level}: {right:.1%} right, {1e3 * seconds:.1f} ms for 500 images")
    alone = autoprune.export(result.run_dir, net, budget="macs<=15%")
    print(f"alone: {alone}")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
