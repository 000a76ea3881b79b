"""Trains the networks of the quality benchmark that the data come without weights for.

    python results/benchmarks/networks.py --data DATA --network vgg16_quarter [--epochs 30] [--threads 2]

The VGG has 30 epochs (20 minutes of one core), the MobileNet 12 (half an hour: a step takes .44 s).

SGD with Nesterov momentum .9, weight decay 5e-4, rate .1 with cosine decay, batch 128, crop and flip, seed 0. The
weights go to cache/, where quality.py looks for them; they are not committed. A training that was killed goes on from
its last epoch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from protocol import BATCH, CACHE, EPOCH, NETWORKS, images, macs
from safetensors.torch import save_file

from autoprune.evaluation import measure
from autoprune.settings import TrainingSettings
from autoprune.training import Checkpoints, finetune

EPOCHS = {"vgg16_quarter": 30, "mobilenet_v2_half": 12}


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_jpeg.tar.xz")
    parser.add_argument("--network", required=True, choices=list(EPOCHS))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if not args.data.is_dir():
        raise SystemExit(f"skipped: no benchmark data in {args.data} (see the data's README)")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    data, model = images(args.data), NETWORKS[args.network].build()
    print(f"{args.network}: {macs(model) / 1e6:.2f} M MACs", flush=True)

    def said(done: int, total: int, loss: float) -> None:
        if done % EPOCH == 0:
            print(f"epoch {done // EPOCH} of {total // EPOCH}: training loss {loss:.3f}", flush=True)

    file = CACHE / NETWORKS[args.network].weights
    settings = TrainingSettings(lr=0.1, lr_schedule="cosine", batch_size=BATCH)
    finetune(
        model, data.without_test(), settings, steps=(args.epochs or EPOCHS[args.network]) * EPOCH, listener=said,
        checkpoints=Checkpoints(file.with_suffix(".pt"), EPOCH, strict=False),
    )  # fmt: skip
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)
    file.with_suffix(".pt").unlink(missing_ok=True)
    found = {split: 100 * measure(model, data, split)["top1"] for split in ("val", "test")}
    print(f"{file}: top-1 {found['val']:.2f} on validation, {found['test']:.2f} on test")


if __name__ == "__main__":
    main()
