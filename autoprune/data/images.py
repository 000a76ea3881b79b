"""`Split` (images and labels) and `ImageData` (a data set, split once, as bytes).

Letters: `N` images, `C` image channels, `H`, `W` pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from autoprune.data.augmentation import check_augmentation
from autoprune.printable import printable
from search_spaces.sending import sent

CLASSIFICATION = (
    "image classification takes images [N, C, H, W] and one class number for each; for another task see autoprune.tasks"
)


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: [N, C, H, W] uint8.
        labels: [N] int64 class numbers.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> Split:
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> Split:
        """The same split on a device."""
        return Split(sent(self.images, device), sent(self.labels, device))

    def subset(self, index: Tensor | slice) -> Split:
        """Some of these."""
        return self[index]

    def sample(self, count: int, seed: int) -> Split:
        """`count` images drawn by the seed without replacement (all, reordered, if there are fewer)."""
        return self[torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count]]

    def batches(self, size: int) -> Iterator[Split]:
        """Views of `size` images each, in order (the last one may be smaller)."""
        for start in range(0, len(self), size):
            yield self[start : start + size]


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set: what trains, what scores candidates, and what only the final report may see.

    Attributes:
        train: Trains, and re-estimates batch-norm.
        val: Held out from training; the search scores candidates on it.
        test: Never seen by a search; empty where it was not asked for.
        mean: Per image channel, of pixels scaled to 0..1.
        std: Likewise.
        classes: Class names; labels are their positions.
        augmentation: What training does to an image: see `augmentation_steps`.
        spec: What was loaded.
        split: How train and val were told apart, in words.
        origin: Whose mean and std these are, in words.
        has_names: Whether `classes` are names, and not the numbers of the labels because nobody named them.
        skipped: Files that were left out because they are damaged.
        note: What is to be said of the splits before a search; "" if nothing.

    Raises:
        ValueError: If a split is unusable (see `check`).
    """

    train: Split
    val: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    augmentation: str = "crop-flip"
    spec: str = ""
    split: str = ""
    origin: str = "as given"
    has_names: bool = True
    skipped: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        """Check that the three splits fit together."""
        object.__setattr__(self, "classes", tuple(map(printable, self.classes)))
        check_augmentation(f"data '{self.spec}'", self.augmentation, self.train.images.shape[1:])
        if len(self.classes) < 2:
            raise ValueError(f"data '{self.spec}': found {len(self.classes)} class, but telling classes apart needs at "
                             "least two; give a data set with more classes")  # fmt: skip
        for name, part in (("train", self.train), ("val", self.val), ("test", self.test)):
            if part.images.dim() != 4 or part.labels.dim() != 1:
                found = f"found {list(part.images.shape)} and {list(part.labels.shape)}"
                text = f"{name} needs images [N, C, H, W] and labels [N], {found}"
                raise ValueError(f"data '{self.spec}': {text}; {CLASSIFICATION}")
        channels = self.train.images.shape[1]
        if not (len(self.mean) == len(self.std) == channels) or min(self.std) <= 0:
            raise ValueError(f"data '{self.spec}': mean and std need one number for each of the {channels} image "
                             f"channels (or one for all), std above 0; got {self.mean} and {self.std}")  # fmt: skip
        for name, part in (("train", self.train), ("val", self.val), ("test", self.test)):
            self._check(name, part)

    def _check(self, name: str, part: Split) -> None:
        if len(part.images) != len(part.labels):
            raise ValueError(f"data '{self.spec}': {name} has {len(part.images)} images but {len(part.labels)} labels")
        if not len(part):
            if name == "test":
                return
            raise ValueError(f"data '{self.spec}': no {name} images found; check the path, or give more images")
        if part.images.dtype != torch.uint8 or part.labels.dtype != torch.int64:
            raise ValueError(f"data '{self.spec}': {name} needs uint8 images and int64 labels, found "
                             f"{part.images.dtype} and {part.labels.dtype}")  # fmt: skip
        if part.images.shape[1:] != self.train.images.shape[1:]:
            raise ValueError(f"data '{self.spec}': {name} images are {list(part.images.shape[1:])} but the "
                             f"training images are {list(self.train.images.shape[1:])} (C, H, W); give image_size to "
                             "make them alike")  # fmt: skip
        low, high = int(part.labels.min()), int(part.labels.max())
        if low < 0 or high >= len(self.classes):
            raise ValueError(f"data '{self.spec}': {name} has label {low if low < 0 else high}, but with "
                             f"{len(self.classes)} classes labels run from 0 to {len(self.classes) - 1}")  # fmt: skip

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def example(self) -> Tensor:
        """[1, C, H, W] one normalised training image: an example input for tracing."""
        return self.normalise(self.train.images[:1], channels_last=False)

    def normalise(self, images: Tensor, channels_last: bool = True) -> Tensor:
        """[N, C, H, W] uint8 -> float32 `(x / 255 - mean) / std`, on the device of the images."""
        mean, std = (sent(torch.tensor(v), images.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        out = images.float().mul_(1 / (255 * std)).sub_(mean / std)
        return out.contiguous(memory_format=torch.channels_last) if channels_last else out

    def to(self, device: torch.device) -> ImageData:
        """The same data on a device."""
        return replace(self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device))

    def without_test(self) -> ImageData:
        """The same data without its test images: what a search is given."""
        return replace(self, test=Split(self.test.images[:0].clone(), self.test.labels[:0].clone()))  # no views of them

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of the split and of a sample of its pixels: two runs with the same one saw the same data.

        Neither the path nor the test images enter, so a worker that does not load them agrees.
        """
        digest = hashlib.sha256(repr((self.mean, self.std, self.classes, self.augmentation)).encode())
        for part in (self.train, self.val):
            sample = torch.from_numpy(np.linspace(0, len(part) - 1, num=min(len(part), 256)).astype(np.int64))
            digest.update(repr(tuple(part.images.shape)).encode())
            digest.update(part.labels.cpu().numpy().tobytes())
            digest.update(part.images[sample.to(part.images.device)].cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]
