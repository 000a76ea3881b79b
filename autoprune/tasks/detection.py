"""Object detection with torchvision's detectors: images of any sizes, boxes and labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.randomness import seed_of
from autoprune.tasks.arrays import torchmetric
from autoprune.tasks.own_loss import own_loss
from autoprune.tasks.task import Task

Sample = tuple[Tensor, dict[str, Tensor]]  # image [3, H, W] of 0..1, {"boxes": [n, 4] x1 y1 x2 y2, "labels": [n]}
BRIGHTEST = 10.0  # of an image of 0..1, however it was normalised


class Detection(Task):
    """Samples (image [3, H, W] of 0..1, {"boxes": [n, 4], "labels": [n]}), as torchvision's detectors take them.

    The network's own losses are added; they are of a batch, so channels are scored batch by batch and losses of
    candidates are paired so. Scores are COCO's mean average precisions.

    Args:
        train: A list or data set of samples.
        val: Likewise.
        test: Likewise.
        num_classes: Of the network, background (0) included; default one more than the highest label.
        batch_size: Images a batch.
        seed: Of the order.
        flip: Whether every second training image is mirrored.
        name: What messages call it.

    Raises:
        ValueError: If a box or a label cannot be.
    """

    kind = "detection"
    sample = "image"
    parts: Mapping[str, Any]
    left_out: Sequence[str] = ()

    def __init__(
        self,
        train: Sequence[Sample],
        val: Sequence[Sample],
        test: Sequence[Sample] | None = None,
        *,
        num_classes: int | None = None,
        batch_size: int = 8,
        seed: int = 0,
        flip: bool = True,
        name: str = "",
    ) -> None:
        self.spec, self.batch_size, self.seed, self.flip = name or self.kind, batch_size, seed, flip
        self.parts = {"train": train, "val": val} | ({} if test is None else {"test": test})
        self.num_classes = num_classes or 0
        for split, part in self.parts.items():
            if not len(part):
                raise ValueError(f"{self.where(split)}: is empty, it gives no image")
            found = [self._labels(f"{self.where(split)}: image {n}", sample) for n, sample in enumerate(_some(part))]
            if len(part) == len(found) and not any(map(len, found)):
                raise ValueError(f"{self.where(split)}: no image has an object; a detector learns nothing from it")
            self.num_classes = self.num_classes or 1 + max((int(x.max()) for x in found if len(x)), default=0)
            for number, labels in enumerate(found):
                self._check_range(f"{self.where(split)}: image {number}", labels)

    def _labels(self, where: str, sample: Any) -> Tensor:
        """The class numbers of a sample, which is checked."""
        if not (isinstance(sample, (tuple, list)) and len(sample) == 2 and isinstance(sample[1], Mapping)):
            raise ValueError(f'{where}: must be a pair (image, {{"boxes": [n, 4], "labels": [n]}}), got '
                             f"{type(sample).__name__} {str(sample)[:40]!r}")  # fmt: skip
        labels = sample[1].get("labels")
        if not isinstance(labels, Tensor) or labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
            kind = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise ValueError(f'{where}: "labels" must be class numbers (integers) [n], got {kind}')
        image, target = sample
        if not isinstance(image, Tensor) or image.dim() != 3 or not image.is_floating_point():
            raise ValueError(f"{where}: must be a float tensor [3, H, W] of 0..1, got "
                             f"{list(image.shape) if isinstance(image, Tensor) else type(image).__name__}")  # fmt: skip
        if not bool(image.isfinite().all()) or float(image.abs().max()) > BRIGHTEST:
            raise ValueError(f"{where}: has values from {float(image.min()):g} to {float(image.max()):g}; they must be "
                             "numbers of 0..1, so divide bytes by 255")  # fmt: skip
        boxes = target.get("boxes")
        if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[-1] != 4 or len(boxes) != len(labels):
            raise ValueError(f'{where}: needs "boxes" [n, 4] and "labels" [n]; of an image without objects [0, 4]')
        if len(boxes):
            height, width = image.shape[1:]
            x1, y1, x2, y2 = boxes.unbind(1)
            if bool((x2 <= x1).any() or (y2 <= y1).any()):
                raise ValueError(f"{where}: has a box without an area; boxes are x1, y1, x2, y2 in pixels")
            if float(boxes.min()) < 0 or float(x2.max()) > width + 1 or float(y2.max()) > height + 1:
                raise ValueError(f"{where}: has a box outside of its {width} x {height} pixels; boxes are x1, y1, "
                                 "x2, y2 in pixels")  # fmt: skip
        return labels

    def _check_range(self, where: str, labels: Tensor) -> None:
        if len(labels) and (int(labels.min()) < 1 or int(labels.max()) >= self.num_classes):
            odd = int(labels.min()) if int(labels.min()) < 1 else int(labels.max())
            raise ValueError(f"{where}: has the label {odd}; with {self.num_classes} classes they run from 1 to "
                             f"{self.num_classes - 1} (0 is the background)")  # fmt: skip

    def batches(self, split: str, epoch: int = 0) -> Iterable[Any]:
        """(images, targets), two lists; training in an order of the epoch, mirrored by chance."""
        part = self.parts["train" if split == "calibration" else split]
        return _Batches(part, self.batch_size, seed_of(self.seed, epoch) if split == "train" else None, self.flip)

    def evaluate(self, model: nn.Module, batch: Any) -> tuple[Any, Tensor]:
        """Detections, unless the network is being trained, and the sum of its own losses."""
        return own_loss(model, batch, self.where("loss"))

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Not of the outputs: see `evaluate`."""
        raise ValueError(f"{self.where('loss')}: is the network's own, and needs its batch")

    def scores(self) -> Mapping[str, Any]:
        """Mean average precisions, as COCO has them."""
        try:
            import faster_coco_eval  # noqa: F401
        except ImportError as error:
            raise ValueError("metric 'map': needs faster-coco-eval; pip install 'autoprune[tasks]'") from error
        found = torchmetric("detection.MeanAveragePrecision", backend="faster_coco_eval")
        found.warn_on_many_detections = False  # the best hundred of an image count, as COCO has it
        return {"map": found}

    def skipped(self) -> list[str]:
        """See `Task`."""
        return list(self.left_out)

    def check(self, outputs: Any, batch: Any) -> None:
        """The network answers as torchvision's detectors do."""
        if not (isinstance(outputs, list) and all({"boxes", "labels", "scores"} <= set(o) for o in outputs)):
            raise ValueError("expected detections as torchvision's networks give them, a list of boxes, labels and "
                             f"scores, found {type(outputs).__name__}; for others: Task.of(loss=...)")  # fmt: skip


class _Batches:
    """Iterated again and again, the same each time."""

    def __init__(self, part: Sequence[Sample], size: int, seed: int | None, flip: bool) -> None:
        self._part, self._size, self._seed, self._flip = part, size, seed, flip

    def __len__(self) -> int:
        return -(-len(self._part) // self._size)

    def __iter__(self) -> Any:
        draws = torch.Generator().manual_seed(self._seed or 0)
        count = len(self._part)
        order = list(range(count)) if self._seed is None else torch.randperm(count, generator=draws).tolist()
        for start in range(0, count, self._size):
            samples = [self._part[i] for i in order[start : start + self._size]]
            if self._seed is not None and self._flip:
                mirror = (torch.rand(len(samples), generator=draws) < 0.5).tolist()
                samples = [mirrored(*s) if m else s for s, m in zip(samples, mirror, strict=True)]
            yield [image for image, _ in samples], [target for _, target in samples]


def _some(part: Sequence[Sample], most: int = 1000) -> Iterable[Sample]:
    """The first samples of a split."""
    return (part[i] for i in range(min(len(part), most)))


def mirrored(image: Tensor, target: dict[str, Tensor]) -> Sample:
    """Left to right."""
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    width = image.shape[2]
    return image.flip(2), {**target, "boxes": torch.stack([width - x2, y1, width - x1, y2], 1)}
