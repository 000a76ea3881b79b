"""A training loop with Hugging Face's accelerate in place of autoprune's own, for the final fine-tune.

    autoprune search --model mine:network --weights net.safetensors --data digits --trainer accelerate_trainer:train

or, in Python, `autoprune.search(model, data, trainer=train)`. Needs `pip install accelerate`.
"""

from __future__ import annotations

import itertools

import torch
from accelerate import Accelerator
from torch import nn

from autoprune.runs import TrainerRun


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
