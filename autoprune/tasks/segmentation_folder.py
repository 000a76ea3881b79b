"""Pairs of images and masks in folders: decoded into memory, or whenever one is wanted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoprune.data import Items, Selection
from autoprune.data.files import FileItems, Files
from autoprune.data.loading import Chunks, loaded, processes
from autoprune.tasks.memory import Columns
from autoprune.tasks.segmentation import Segmentation
from autoprune.tasks.streamed import AT_ONCE, Streamed


def segmentation_folder(
    place: str,
    *,
    num_classes: int | None = None,
    ignored: int | None = 255,
    memory: float = math.inf,
    skip_damaged: bool = False,
    **settings: Any,
) -> Segmentation:
    """Pairs of images and masks in folders: DIR/train/images/x.png and DIR/train/masks/x.png, and so val and test.

    Images are RGB; a mask is an image of one channel (or a palette) whose values are class numbers.

    Args:
        place: DIR.
        num_classes: How many classes there are; default one more than the highest number in the training masks, which
            are all read for it.
        ignored: A number in masks that does not count, "void".
        memory: What takes more bytes than this is streamed.
        skip_damaged: Whether pairs that cannot be read are left out.
        **settings: See `Segmentation`.

    Raises:
        ValueError: If a folder is missing, an image has no mask, or sizes differ.
    """
    root, where = Path(place), f"data 'segmentation:{place}'"
    parts = [split for split in ("train", "val", "test") if (root / split).is_dir()]
    if "train" not in parts:
        raise ValueError(f"{where}: expected folders train/images and train/masks, found none")
    if not isinstance(skip_damaged, bool):
        raise ValueError(f"{where}: skip_damaged must be true or false, got {skip_damaged!r}")
    pairs = {split: PairItems(where, root / split, ignored, skip_damaged) for split in parts}
    found: dict[str, Any] = {
        name: Streamed(Selection(items, torch.arange(len(items)))) for name, items in pairs.items()
    }
    num_classes = num_classes or _count_classes(pairs["train"])
    for items in pairs.values():
        items.num_classes = num_classes
    skipped: set[str] = set()
    if sum(len(items) * items.sample_bytes for items in pairs.values()) <= memory:
        for name, part in found.items():
            samples = part[:]
            found[name] = samples.inputs, samples.targets
            skipped |= part.skipped
    made = Segmentation(**found, num_classes=num_classes, ignored=ignored, name=f"segmentation:{place}", **settings)
    made.left_out = sorted(skipped)
    return made


class PairItems(FileItems):
    """The images of a folder and their masks.

    Args:
        where: What errors begin with.
        folder: Holds images/ and masks/.
        ignored: A number in masks that does not count.
        skip: Whether pairs that cannot be read are left out.

    Attributes:
        num_classes: Of the masks, once it is known.
    """

    samples = Columns
    num_classes: int | None = None

    def __init__(self, where: str, folder: Path, ignored: int | None, skip: bool) -> None:
        self.where, self.skip, self._ignored = where, skip, ignored
        masks = {path.stem: path.name for path in sorted((folder / "masks").glob("*"))}
        images = sorted((folder / "images").glob("*"))
        if not images:
            raise ValueError(f"'{folder / 'images'}': holds no images")
        if alone := [path for path in images if path.stem not in masks]:
            raise ValueError(f"'{alone[0]}': has no mask '{folder / 'masks' / alone[0].stem}.png'")
        self._files = Files(where, str(folder / "images"), [path.name for path in images], skip)
        self._masks = Files(where, str(folder / "masks"), [masks[path.stem] for path in images], skip)
        self._size: tuple[int, ...] = ()
        self._size = tuple(Selection(self, torch.arange(len(self))).few(1).targets.shape[1:])

    @property
    def sample_bytes(self) -> int:
        """Three of a pixel, and one of its mask."""
        return 4 * math.prod(self._size)

    def read(self, number: int, train: bool) -> tuple[Tensor, Tensor]:
        """[3, H, W] and [H, W], both uint8."""
        image, mask = self._files.decoded(number, "RGB"), self._masks.decoded(number)
        size = self._size or image.shape[:2]
        if image.shape[:2] != mask.shape or image.shape[:2] != size:
            raise ValueError(f"'{self.name(number)}': is {list(image.shape[:2])}, its mask {list(mask.shape)} and the "
                             f"first image {list(size)} (H, W); all must be of one size")  # fmt: skip
        values = mask if self._ignored is None else mask[mask != self._ignored]
        if self.num_classes is not None and values.size and int(values.max()) >= self.num_classes:
            raise ValueError(f"'{self._masks.path(number)}': masks run from 0 to {self.num_classes - 1} with "
                             f"{self.num_classes} classes, found {values.max()}; number them anew, or give "
                             "num_classes")  # fmt: skip
        return torch.from_numpy(image.transpose(2, 0, 1).copy()), torch.from_numpy(mask.copy())

    def described(self, numbers: Tensor) -> Iterator[bytes]:
        """Names and sizes of all; the bytes of some files."""
        yield f"{self._size} {self.num_classes} {self._ignored}".encode()
        yield from self._files.described(numbers)
        yield from self._masks.described(numbers)


def _count_classes(items: PairItems) -> int:
    """One more than the highest class number in the masks; all are read."""
    found = 1
    chunks = Chunks(_Highest(items), torch.arange(len(items)), AT_ONCE)
    for part in loaded(items.where, chunks, range(len(chunks)), processes("auto") if len(items) > AT_ONCE else 0):
        found = max(found, *(part.targets + 1).tolist()) if part.targets is not None else found
    return found


class _Highest(Items):
    """The highest class number of each mask, and no image."""

    def __init__(self, items: PairItems) -> None:
        self._items, self.where, self.skip = items, items.where, items.skip

    def __len__(self) -> int:
        return len(self._items)

    def name(self, number: int) -> str:
        """As its pair."""
        return self._items.name(number)

    @property
    def sample_bytes(self) -> int:
        """None to speak of."""
        return 0

    def described(self, numbers: Tensor) -> Iterator[bytes]:
        """As its pair."""
        return self._items.described(numbers)

    def read(self, number: int, train: bool) -> tuple[Tensor, int]:
        """Nothing, and the number."""
        mask = self._items._masks.decoded(number)
        values = mask if self._items._ignored is None else mask[mask != self._items._ignored]
        return torch.empty(0), int(values.max()) if values.size else 0
