"""Semantic segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from autoprune.tasks.arrays import Arrays, Pair, count_classes, integers, torchmetric
from autoprune.tasks.distances import TEMPERATURE, soft_distance
from autoprune.tasks.memory import Columns
from autoprune.tasks.streamed import Streamed
from autoprune.tasks.trees import main_output, targets_of


class Segmentation(Arrays):
    """Images [N, C, H, W] and masks [N, H, W] of class numbers; cross-entropy, mean intersection over union.

    Args:
        train: Images (float, as the network takes them, or bytes, which are divided by 255) and masks; or `Streamed`.
        val: Likewise.
        test: Likewise.
        num_classes: How many classes there are; default one more than the highest number in the training masks.
        ignored: A number in masks that does not count, "void".
        **settings: See `Arrays`.
    """

    kind = "segmentation"
    sample = "image"

    def __init__(
        self,
        train: Pair | Streamed,
        val: Pair | Streamed | None = None,
        test: Pair | Streamed | None = None,
        *,
        num_classes: int | None = None,
        ignored: int | None = 255,
        **settings: Any,
    ) -> None:
        self.num_classes = num_classes or count_classes(train, ignored)
        self.ignored = ignored
        super().__init__(train, val, test, **settings)
        if self.num_classes < 2:
            raise ValueError(f"task '{self.kind}': train: the masks tell of no class but one (besides {ignored}, which "
                             "does not count); give num_classes")  # fmt: skip

    def check_targets(self, where: str, samples: Columns) -> None:
        """Masks of class numbers, of the images' size."""
        images, masks = samples.inputs, samples.targets
        integers(where, masks, self.num_classes, "masks", self.ignored)
        if images.dim() != 4 or masks.dim() != 3 or images.shape[2:] != masks.shape[1:]:
            raise ValueError(f"{where}: expected images [N, C, H, W] and masks [N, H, W] of the same size, got "
                             f"{list(images.shape)} and {list(masks.shape)}")  # fmt: skip

    def check(self, outputs: Any, batch: Any) -> None:
        """One score for each class and pixel."""
        scores, masks = main_output(outputs), targets_of(batch)
        fits = isinstance(scores, Tensor) and scores.dim() == 4 and scores.shape[2:] == masks.shape[1:]
        if not fits or scores.shape[1] < self.num_classes:
            shape = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"expected outputs [N, {self.num_classes}, {masks.shape[1]}, {masks.shape[2]}], a score "
                             f"for each class and pixel of '{self.spec}', found {shape}")  # fmt: skip

    def prepared(self, samples: Columns) -> tuple[Tensor, Tensor]:
        """Floats and masks."""
        images = samples.inputs
        return images.float() / 255 if images.dtype == torch.uint8 else images, samples.targets.long()

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Mean cross-entropy of the pixels of each image [N]."""
        scores, masks = main_output(outputs), targets_of(batch)
        void = -100 if self.ignored is None else self.ignored
        each = functional.cross_entropy(scores.float(), masks, ignore_index=void, reduction="none").flatten(1).sum(1)
        mean: Tensor = each / (masks != void).flatten(1).sum(1).clamp(min=1)
        return mean

    def scores(self) -> Mapping[str, Any]:
        """Mean intersection over union."""
        more = {} if self.ignored is None else {"ignore_index": self.ignored}
        return {"miou": torchmetric("JaccardIndex", task="multiclass", num_classes=self.num_classes, **more)}

    def answers(self, outputs: Any, batch: Any) -> tuple[Any, Any]:
        """The class of every pixel, and the mask."""
        return main_output(outputs)[:, : self.num_classes].argmax(1), targets_of(batch)

    def distance(self, outputs: Any, teacher: Any, temperature: float = TEMPERATURE) -> Tensor:
        """Soft class scores of every pixel."""
        return soft_distance(main_output(outputs), main_output(teacher), temperature)
