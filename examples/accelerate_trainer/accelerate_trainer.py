"""A training loop with Hugging Face's accelerate in place of autoprune's own, for the final fine-tune.

    python examples/accelerate_trainer/accelerate_trainer.py [FOLDER]

On the command line: `autoprune search ... --trainer accelerate_trainer:train`. Needs `pip install accelerate`.
"""

from __future__ import annotations

import itertools
import sys
import tempfile

import torch
from accelerate import Accelerator
from torch import nn

import autoprune
from autoprune.data import load
from autoprune.runs import TrainerRun
from autoprune.training import TrainingSettings, finetune
from search_spaces.models import digits_cnn


def train(network: nn.Module, run: TrainerRun) -> nn.Module:
    """What `--trainer` names: the network comes pruned, and goes back trained."""
    accelerator = Accelerator(cpu=run.settings.device == "cpu")
    per_epoch = sum(1 for _ in run.batches("train"))
    steps = max(1, round(run.settings.epochs * per_epoch))
    optimizer = torch.optim.SGD(network.parameters(), lr=run.settings.lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, run.settings.lr, total_steps=max(2, steps))
    network, optimizer = accelerator.prepare(network, optimizer)
    batches = itertools.chain.from_iterable(run.batches("train", epoch) for epoch in itertools.count())
    network.train()
    for batch in itertools.islice(batches, steps):
        optimizer.zero_grad()
        loss = run.task.evaluate(network, batch)[1].mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return accelerator.unwrap_model(network)


def main(out: str = "", trials: int = 4, epochs: float = 2.0) -> autoprune.SearchResult:
    """Prune a network of the digits; the last fine-tune is `train`."""
    torch.manual_seed(0)
    finetune(net := digits_cnn(), load("digits"), TrainingSettings(epochs=epochs, lr=0.05, batch_size=64))
    place = f"{out or tempfile.mkdtemp()}/run"
    result = autoprune.search(net, "digits", trainer=train, name=place, trials=trials, finalists=0, epochs=epochs)
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
