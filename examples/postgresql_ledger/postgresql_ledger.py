"""The ledger in PostgreSQL, so that several machines can work on one search.

python examples/postgresql_ledger/postgresql_ledger.py postgresql://me@host/db [FOLDER]

Another machine helps with `autoprune resume RUN --join`, or the same `search` with `--join`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

import autoprune
from autoprune.data import load
from autoprune.training import TrainingSettings, finetune
from search_spaces.models import digits_cnn


def main(ledger: str, out: str = "", trials: int = 6, epochs: float = 3.0) -> autoprune.SearchResult:
    """Train, search a few candidates, go on with more, print what came out. The password comes from ~/.pgpass."""
    torch.manual_seed(0)
    place = Path(out or tempfile.mkdtemp())
    finetune(net := digits_cnn(), load("digits"), TrainingSettings(epochs=epochs, lr=0.05, batch_size=64))
    torch.save(net.state_dict(), place / "net.pt")
    first = autoprune.search(
        "search_spaces.models:digits_cnn", "digits", "macs<=50%", weights=str(place / "net.pt"),
        name=str(place / "run"), ledger=ledger, trials=trials, finalists=0, epochs=0,
    )  # fmt: skip
    result = autoprune.resume(first.run_dir, trials=2 * trials)
    print(autoprune.status(result.run_dir))
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:3])
