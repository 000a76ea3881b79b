"""Detection on images of a folder that are read whenever they are wanted."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autoprune.data import Damaged, Selection
from autoprune.data.files import FileItems, Files
from autoprune.tasks.detection import Detection, mirrored
from autoprune.tasks.draws import Draw, Training
from autoprune.tasks.memory import MapStyle
from autoprune.tasks.streamed import Streamed

Target = dict[str, Tensor]  # "boxes" [n, 4] x1 y1 x2 y2, "labels" [n]


class Pictures:
    """Images of any sizes, in bytes, and what is on them.

    Args:
        images: Each [3, H, W] uint8.
        targets: Of each.
    """

    def __init__(self, images: list[Tensor], targets: list[Target]) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice) -> Pictures:
        return Pictures(self.images[index], self.targets[index])

    def to(self, device: torch.device) -> Pictures:
        """The same on a device."""
        targets = [{name: value.to(device) for name, value in target.items()} for target in self.targets]
        return Pictures([image.to(device) for image in self.images], targets)


class PictureItems(FileItems):
    """The images of a folder and their boxes.

    Args:
        where: What errors begin with.
        folder: Of the images.
        about: Of each image its file, its boxes [[x1, y1, x2, y2]] and their labels.
        sizes: Of each image its number of pixels.
        flip: Whether every second training image is mirrored.
        skip: Whether images that cannot be read are left out.
    """

    samples = Pictures
    stack = staticmethod(list)
    augments = True

    def __init__(
        self,
        where: str,
        folder: str,
        about: Sequence[tuple[str, list[list[float]], list[int]]],
        sizes: Sequence[int],
        flip: bool,
        skip: bool,
    ) -> None:
        self.where, self._flip, self.skip = where, flip, skip
        self._files = Files(where, folder, [name for name, _, _ in about], skip)
        self._ends = torch.tensor([0, *(len(labels) for _, _, labels in about)]).cumsum(0)
        self._boxes = torch.tensor([box for _, boxes, _ in about for box in boxes]).reshape(-1, 4)
        self.box_labels = torch.tensor([label for _, _, labels in about for label in labels], dtype=torch.int64)
        self._bytes = 3 * sum(sizes) // max(1, len(sizes))

    @property
    def sample_bytes(self) -> int:
        """Three of a pixel, on average."""
        return self._bytes

    def target(self, number: int) -> Target:
        """What is on an image."""
        part = slice(int(self._ends[number]), int(self._ends[number + 1]))
        return {"boxes": self._boxes[part].clone(), "labels": self.box_labels[part].clone()}

    def read(self, number: int, train: bool) -> tuple[Tensor, Target]:
        """[3, H, W] uint8, and its boxes; mirrored by chance."""
        image = torch.from_numpy(self._files.decoded(number, "RGB").copy()).permute(2, 0, 1).contiguous()
        target = self.target(number)
        return mirrored(image, target) if train and self._flip and random.random() < 0.5 else (image, target)

    def read_or_none(self, number: int) -> tuple[Tensor, Target] | None:
        """As it is; None for a damaged one, where those are left out."""
        try:
            return self.read(number, train=False)
        except Damaged:
            if not self.skip:
                raise
            return None

    def described(self, numbers: Tensor) -> Iterator[bytes]:
        """Boxes, names and sizes of all; the bytes of some files."""
        for tensor in (self._ends, self._boxes, self.box_labels):
            yield tensor.numpy().tobytes()
        yield from self._files.described(numbers)


class StreamedDetection(MapStyle, Detection):
    """See `Detection`; batches are of `batch_size` images here, too.

    Args:
        parts: "train", "val" and perhaps "test".
        num_classes: Of the network, background (0) included.
        batch_size: Images a batch.
        name: What messages call it.
    """

    def __init__(self, parts: Mapping[str, PictureItems], num_classes: int, batch_size: int, name: str) -> None:
        self.spec, self.batch_size, self.num_classes = name, batch_size, num_classes
        self.parts = {split: Streamed(Selection(items, torch.arange(len(items)))) for split, items in parts.items()}
        for split, part in self.parts.items():
            few = part.selection.few(64)
            for image, target in zip(few.images, few.targets, strict=True):
                where = f"{self.where(split)}: an image"
                self._check_range(where, self._labels(where, (image.float() / 255, target)))

    def batches(self, split: str, epoch: int = 0) -> Iterable[Any]:
        """See `MapStyle`."""
        return MapStyle.batches(self, split, epoch)

    def prepared(self, samples: Pictures) -> tuple[list[Tensor], list[Target]]:
        """Floats of 0..1, and targets: two lists."""
        return [image.float() / 255 for image in samples.images], samples.targets

    def example(self) -> Any:
        """One image."""
        return ([image.float() / 255 for image in self.parts["train"].selection.few(1).images],)

    def once(self, split: str, size: int) -> Iterator[Any]:
        """See `MapStyle`."""
        return super().once(split, self.batch_size)

    def draw(self, split: str, count: int, seed: int) -> Draw:
        """See `MapStyle`."""
        return _Small(super().draw(split, count, seed), self.batch_size)

    def training(self, size: int, seed: int) -> Training:
        """See `MapStyle`."""
        return super().training(min(self.batch_size, self.count("train")), seed)


class _Small(Draw):
    """A draw in batches of the task's own size."""

    def __init__(self, draw: Draw, size: int) -> None:
        self._draw, self._size = draw, size

    def __len__(self) -> int:
        return len(self._draw)

    def batches(self, size: int, parts: int = 1) -> Iterator[Any]:
        """See `Draw`."""
        return self._draw.batches(self._size, parts)

    def evenly(self, size: int, parts: int = 1) -> Iterator[Any]:
        """See `Draw`."""
        return self._draw.evenly(self._size, parts)

    def whole(self, most: int) -> Any:
        """See `Draw`."""
        return self._draw.whole(most)
