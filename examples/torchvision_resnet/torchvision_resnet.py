"""torchvision's ResNet-18 on a folder of images, pruned to 40 % of its multiply-adds and 5 M parameters.

python examples/torchvision_resnet/torchvision_resnet.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torchvision.models import resnet18
from torchvision.transforms.functional import to_pil_image

import autoprune
from autoprune.data import load
from autoprune.training import TrainingSettings, finetune


def photos(folder: Path, count: int) -> None:
    """folder/train/<class>/*.png and folder/test/<class>/*.png: a bright disc, bar or ring on noise."""
    draws = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    for split, images in (("train", count), ("test", count // 3)):
        for kind in ("disc", "bar", "ring"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
            for number in range(images):
                a, b = torch.randint(10, 22, (2,), generator=draws).tolist()
                away = ((x - a) ** 2 + (y - b) ** 2).float().sqrt()
                shape = {"disc": away < 8, "bar": (y - b).abs() < 3, "ring": (away - 8).abs() < 2}[kind]
                image = 0.5 * torch.rand(3, 32, 32, generator=draws) + 0.5 * shape
                to_pil_image(image).save(folder / split / kind / f"{number}.png")


def main(out: str = "", trials: int = 6, images: int = 120, epochs: float = 4.0) -> autoprune.SearchResult:
    """Make the folder, train on it, search, print what came out."""
    place = Path(out or tempfile.mkdtemp())
    photos(place / "photos", images)
    spec = f"imagefolder:{place / 'photos'}"
    torch.manual_seed(0)
    finetune(net := resnet18(num_classes=3), load(spec), TrainingSettings(epochs=epochs, lr=0.02, batch_size=32))
    torch.save(net.state_dict(), place / "resnet18.pt")
    result = autoprune.search(  # by names, as on the command line: such a run can be resumed by its folder alone
        "torchvision.models:resnet18", spec, ["macs<=40%", "params<=5M"], model_args={"num_classes": 3},
        weights=str(place / "resnet18.pt"), name=str(place / "run"), trials=trials, finalists=0,
        epochs=epochs, batch_size=32, score_samples=256,
    )  # fmt: skip
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
