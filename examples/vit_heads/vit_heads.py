"""A vision transformer that loses whole attention heads and hidden units, to half of its multiply-adds.

python examples/vit_heads/vit_heads.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

import torch
from torchvision.models import VisionTransformer

import autoprune
from autoprune.data import load
from autoprune.training import TrainingSettings, finetune


def network() -> VisionTransformer:
    """Two layers of four heads, for the 8 x 8 digits of scikit-learn as four patches."""
    net = VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=10
    )
    net.conv_proj = torch.nn.Conv2d(1, 32, 4, 4)
    return net


def main(out: str = "", trials: int = 8, epochs: float = 10.0) -> autoprune.SearchResult:
    """Train, search, print what came out, and how many heads are left."""
    torch.manual_seed(0)
    net, adamw = network(), {"optimizer": "adamw", "lr": 2e-3, "batch_size": 64}
    finetune(net, load("digits"), TrainingSettings(epochs=epochs, **adamw))
    quick = {"trials": trials, "finalists": 0, "epochs": epochs, **adamw}
    result = autoprune.search(net, "digits", "macs<=50%", name=f"{out or tempfile.mkdtemp()}/run", **quick)
    print(result)
    for group, width in zip(result.space.groups, result.widths, strict=True):
        print(f"{group.name}: {width} of {group.size}{' heads' if group.size == 4 else ''}")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
