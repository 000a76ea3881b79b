"""Lightning's Trainer in place of autoprune's own training, for the final fine-tune.

    autoprune search --model mine:network --weights net.safetensors --data digits --trainer lightning_trainer:train

or, in Python, `autoprune.search(model, data, trainer=train)`. Needs `pip install lightning`.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor, nn

from autoprune.runs import TrainerRun


class Batches:
    """The run's own batches as what Lightning takes for a loader: each epoch in its order, augmented."""

    def __init__(self, run: TrainerRun) -> None:
        self.run, self.epoch = run, 0
        self.length = sum(1 for _ in run.batches("train"))

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        self.epoch += 1
        return iter(self.run.batches("train", self.epoch - 1))


class Module(lightning.LightningModule):
    """A network and its task."""

    def __init__(self, network: nn.Module, run: TrainerRun, steps: int) -> None:
        super().__init__()
        self.network, self.run, self.steps = network, run, steps

    def training_step(self, batch: Any, number: int) -> Tensor:
        """The loss of the task."""
        return self.run.task.evaluate(self.network, batch)[1].mean()

    def configure_optimizers(self) -> Any:
        """AdamW and a cosine."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.run.settings.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(network: nn.Module, run: TrainerRun) -> nn.Module:
    """What `--trainer` names: the network comes pruned, and goes back trained; a killed run goes on where it was."""
    loader, last = Batches(run), run.folder / "last.ckpt"
    steps = max(1, round(run.settings.epochs * len(loader)))
    module = Module(network, run, steps)
    keep = lightning.pytorch.callbacks.ModelCheckpoint(run.folder, save_last=True, every_n_train_steps=50)
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu" if run.settings.device == "cpu" else "auto", devices=1, logger=False,
        callbacks=[keep], enable_progress_bar=False, enable_model_summary=False, default_root_dir=run.folder,
    )  # fmt: skip
    trainer.fit(module, loader, ckpt_path=last if last.is_file() else None)
    return module.network
