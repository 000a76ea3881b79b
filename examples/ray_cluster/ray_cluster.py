"""Workers on Ray: here a cluster of this machine alone. Needs `pip install 'autoprune[ray]'`.

python examples/ray_cluster/ray_cluster.py [FOLDER]

On a real one: `autoprune search ... --cluster auto` on its head, or `--cluster ray://head:10001` from elsewhere.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import ray
import torch

import autoprune
from autoprune.data import load
from autoprune.training import TrainingSettings, finetune
from search_spaces.models import digits_cnn


def main(out: str = "", trials: int = 8, epochs: float = 3.0, cluster: str = "local") -> autoprune.SearchResult:
    """Train here, search there, print what came out; a worker that dies costs one candidate's time."""
    torch.manual_seed(0)
    place = Path(out or tempfile.mkdtemp())
    finetune(net := digits_cnn(), load("digits"), TrainingSettings(epochs=epochs, lr=0.05, batch_size=64))
    torch.save(net.state_dict(), place / "net.pt")
    print(f"Ray {ray.__version__}")
    result = autoprune.search(
        "search_spaces.models:digits_cnn", "digits", "macs<=50%", weights=str(place / "net.pt"),
        name=str(place / "run"), cluster=cluster, workers=2, trials=trials, finalists=0, epochs=epochs,
    )  # fmt: skip
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
