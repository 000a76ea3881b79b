"""Image to image: super-resolution, denoising, deblurring, colouring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from autoprune.tasks.arrays import Arrays, torchmetric
from autoprune.tasks.distances import TEMPERATURE, mean_squares
from autoprune.tasks.memory import Columns
from autoprune.tasks.trees import main_output, targets_of


class ImageToImage(Arrays):
    """Images [N, C, H, W] and the images that they should become, 0 to 1; mean absolute differences, PSNR, SSIM."""

    kind = "image_to_image"
    sample = "image"

    def check_targets(self, where: str, samples: Columns) -> None:
        """Targets are images of 0 to 1."""
        targets = samples.targets
        if targets.dim() != 4 or not targets.is_floating_point() or not 0 <= float(targets.min()) <= 1:
            raise ValueError(f"{where}: targets must be images [N, C, H, W] of floats from 0 to 1, got "
                             f"{list(targets.shape)} from {float(targets.min()):g}; divide bytes by 255")  # fmt: skip
        if float(targets.max()) > 1:
            most = float(targets.max())
            raise ValueError(f"{where}: targets must lie in 0 to 1, found {most:g}; divide bytes by 255")

    def check(self, outputs: Any, batch: Any) -> None:
        """Outputs are as large as the targets."""
        found, targets = main_output(outputs), targets_of(batch)
        if not isinstance(found, Tensor) or found.shape != targets.shape:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"expected outputs of the targets' shape {list(targets.shape)} of '{self.spec}', found "
                             f"{shape}")  # fmt: skip

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Mean absolute difference of each image [N] (Zhao et al. 2017, https://arxiv.org/abs/1511.08861)."""
        each: Tensor = (main_output(outputs).float() - targets_of(batch).float()).abs().flatten(1).mean(1)
        return each

    def scores(self) -> Mapping[str, Any]:
        """PSNR in dB, and SSIM."""
        psnr = torchmetric("image.PeakSignalNoiseRatio", data_range=1.0)
        return {"psnr": psnr, "ssim": torchmetric("image.StructuralSimilarityIndexMeasure", data_range=1.0)}

    def answers(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Images in 0 to 1."""
        return main_output(outputs).float().clamp(0, 1), targets_of(batch)

    def distance(self, outputs: Any, teacher: Any, temperature: float = TEMPERATURE) -> Tensor:
        """Mean squares."""
        return mean_squares(main_output(outputs), main_output(teacher))
