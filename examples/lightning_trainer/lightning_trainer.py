"""Lightning's Trainer in place of autoprune's own training, for the final fine-tune.

    python examples/lightning_trainer/lightning_trainer.py [FOLDER]

On the command line: --trainer lightning_trainer:train. Needs `pip install lightning`.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import lightning
import torch
from torch import Tensor, nn

import autoprune
from autoprune.data import load
from autoprune.runs import TrainerRun
from autoprune.training import TrainingSettings, finetune
from search_spaces.models import digits_cnn


class Batches:
    """The run's own batches as what Lightning takes for a loader: each epoch in its order, augmented."""

    def __init__(self, run: TrainerRun) -> None:
        self.run, self.epoch, self.length = run, 0, sum(1 for _ in run.batches("train"))

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
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


def train(network: nn.Module, run: TrainerRun) -> nn.Module:
    """What `--trainer` names: the network comes pruned, and goes back trained; a killed run goes on where it was."""
    loader, last = Batches(run), run.folder / "last.ckpt"
    module = Module(network, run, steps := max(1, round(run.settings.epochs * len(loader))))
    keep = lightning.pytorch.callbacks.ModelCheckpoint(run.folder, save_last=True, every_n_train_steps=50)
    trainer = lightning.Trainer(
        max_steps=steps, accelerator="cpu" if run.settings.device == "cpu" else "auto", devices=1, logger=False,
        callbacks=[keep], enable_progress_bar=False, enable_model_summary=False, default_root_dir=run.folder,
    )  # fmt: skip
    trainer.fit(module, loader, ckpt_path=last if last.is_file() else None)
    return module.network


def main(out: str = "", trials: int = 4, epochs: float = 2.0) -> autoprune.SearchResult:
    """Prune a network of the digits; the last fine-tune is `train`."""
    finetune(net := digits_cnn(), load("digits"), TrainingSettings(epochs=epochs, lr=0.05, batch_size=64))
    quick = {"name": f"{out or tempfile.mkdtemp()}/run", "trials": trials, "finalists": 0, "epochs": epochs}
    result = autoprune.search(net, "digits", trainer=train, **quick)
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
