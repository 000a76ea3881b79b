"""Images of a folder that are decoded and augmented whenever they are wanted, by whoever wants them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from autoprune.data.augmentation import augmentation_steps, transform
from autoprune.data.files import FileItems, Files
from autoprune.data.folder import Folder, Sample
from autoprune.data.items import Selection
from autoprune.data.sources import IMAGENET, IMAGENET_MEAN, IMAGENET_STD, Source


def streamed(folder: Folder) -> Source:
    """The same with its images read from the files whenever they are wanted.

    Raises:
        ValueError: If a file is empty or no file.
    """
    splits = {}
    for name, samples in folder.samples.items():
        items = FolderItems(folder, samples)
        splits[name] = Selection(items, torch.arange(len(items)))
    return Source(
        splits["train"], splits.get("val"), splits.get("test"), folder.classes, IMAGENET_MEAN, IMAGENET_STD,
        origin=IMAGENET, note=folder.note,
    )  # fmt: skip


class FolderItems(FileItems):
    """Images of a folder, decoded and augmented by whoever reads them.

    Args:
        folder: The directory.
        samples: Of one part of it.
    """

    augments = True

    def __init__(self, folder: Folder, samples: Sequence[Sample]) -> None:
        self.skip = folder.skip
        self.where = f"data '{folder.spec}'"
        self._folder = replace(folder, samples={})
        self.labels: Tensor = torch.tensor([label for _, label in samples])
        root = str(folder.root)
        self._files = Files(self.where, root, [os.path.relpath(path, root) for path, _ in samples], folder.skip)

    @property
    def sample_bytes(self) -> int:
        """Three a pixel."""
        return 3 * self._folder.width * self._folder.height

    def read(self, number: int, train: bool) -> tuple[Tensor, int]:
        """[3, H, W] uint8, and its class."""
        from PIL import Image

        folder, steps = self._folder, augmentation_steps(self.augmentation) if train else ()
        path = self._files.check(number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = folder.open(path)
        if "random-resized-crop" in steps:  # of the whole image, not of its middle
            pixels = np.asarray(image).transpose(2, 0, 1)
        else:
            pixels = folder.fitted(path, image)
        found = torch.from_numpy(pixels.copy())
        return transform(steps, folder.height, folder.width)(found) if steps else found, int(self.labels[number])

    def described(self, numbers: Tensor) -> Iterator[bytes]:
        """Names, classes and sizes of all; the bytes of some files."""
        yield f"{self._folder.width} {self._folder.height} {self._folder.resize}".encode()
        yield self.labels[numbers].numpy().tobytes()
        yield from self._files.described(numbers)
