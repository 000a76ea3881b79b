"""A directory with one folder of image files per class, and its images decoded once into memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoprune.data.images import Split
from autoprune.data.items import REPAIR, Damaged
from autoprune.data.memory import check_memory
from autoprune.data.sources import IMAGENET, IMAGENET_MEAN, IMAGENET_STD, Source, draw
from objectives.plugins import described

CHUNK = 256  # files that one thread decodes at a time
CROP = 0.875  # side of the centre crop over the shorter side: 224 of 256, as torchvision's networks are evaluated

Sample = tuple[str, int]  # path, class number


@dataclass(frozen=True)
class Folder:
    """What a directory holds, before anything is decoded.

    Attributes:
        spec: As the user named it.
        root: The directory.
        classes: Names, in order.
        samples: Of "train", and perhaps "val" and "test": (path, class number), in torchvision's order.
        width: Of the images as they are used,
        height: likewise.
        resize: Whether they are brought to it.
        skip: Whether images that cannot be read are left out.
        note: What is said of the folders before a search; "" if they are as their names say.
    """

    spec: str
    root: Path
    classes: tuple[str, ...]
    samples: dict[str, list[Sample]]
    width: int
    height: int
    resize: bool
    skip: bool
    note: str = ""

    @property
    def num_bytes(self) -> int:
        """That all images take in memory."""
        return sum(map(len, self.samples.values())) * self.width * self.height * 3

    def open(self, path: str) -> Any:
        """The image of a file, in RGB.

        Raises:
            Damaged: If it cannot be read.
        """
        with _image(self.spec, path) as file:
            return file.convert("RGB")

    def fitted(self, path: str, image: Any) -> NDArray[np.uint8]:
        """An image as it is used, [3, height, width].

        Raises:
            ValueError: If it is of another size, and is not to be resized.
        """
        from PIL import Image

        width, height = self.width, self.height
        if self.resize and image.size != (width, height):
            shorter = min(image.size)
            scale = (width if shorter <= width else round(width / CROP)) / shorter
            wide, high = (max(width, round(side * scale)) for side in image.size)
            left, top = (wide - width) // 2, (high - height) // 2
            image = image.resize((wide, high), Image.Resampling.BILINEAR).crop((left, top, left + width, top + height))
        if image.size != (width, height):
            raise ValueError(f"data '{self.spec}': images differ in size, '{path}' is {image.size[0]} x "
                             f"{image.size[1]} but the first one is {width} x {height}; give image_size to make them "
                             "alike")  # fmt: skip
        pixels: NDArray[np.uint8] = np.asarray(image).transpose(2, 0, 1)
        return pixels


def listed(
    spec: str,
    directory: Path,
    image_size: int | None,
    max_images: int | None,
    seed: int,
    test: bool,
    skip: bool = False,
) -> Folder:
    """Look for DIR/train/<class>/<image> and DIR/test or DIR/val (both: val validates), in torchvision's order.

    Images are RGB. With `image_size`, larger ones are resized (shorter side to `image_size / 0.875`) and cropped at
    the centre.

    Raises:
        ValueError: If the folders or the classes are not as they must be.
    """
    if not os.path.isdir(directory):
        raise ValueError(f"data '{spec}': no directory '{directory}'; expected one that holds train/<class>/ and "
                         "test/<class>/ with the images")  # fmt: skip
    parts = {name: directory / name for name in ("train", "val", "test") if (directory / name).is_dir()}
    if "train" not in parts:
        raise ValueError(f"data '{spec}': '{directory}' has no folder 'train'; put the images in train/<class>/")
    note = ""
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")  # as ImageNet calls the images it reports on
        note = (f"there is no folder 'test', so '{parts['test']}' is the test set: it is looked at once, at the end, "
                "and a part of train validates; to have it validate, add a folder 'test'")  # fmt: skip
    if not test:
        parts.pop("test", None)
    classes, samples = _list(spec, parts["train"])
    found = {"train": samples}
    for name in ("val", "test"):
        if name in parts:
            own, found[name] = _list(spec, parts[name])
            if own != classes:
                odd = sorted(set(own) ^ set(classes))[:3]
                raise ValueError(f"data '{spec}': '{parts[name].name}' and 'train' must have the same class folders, "
                                 f"but these are only in one of them: {', '.join(odd)}")  # fmt: skip
    if max_images is not None:
        found = {n: [s[i] for i in draw(len(s), max_images, seed).tolist()] for n, s in found.items()}
    width, height = (image_size, image_size) if image_size else _size(spec, found["train"], skip)
    return Folder(spec, directory, classes, found, width, height, image_size is not None, skip, note)


def decoded(folder: Folder) -> Source:
    """Everything in memory: 3 bytes a pixel, 150 kB for an image of 224 x 224; `max_images` keeps what fits.

    Raises:
        ValueError: If the images are not as they must be, or do not fit into memory.
    """
    way = "give max_images={most} or a smaller image_size"
    counts = {name: len(samples) for name, samples in folder.samples.items()}
    where, size = f"data '{folder.spec}'", folder.width * folder.height * 3
    check_memory(where, sum(counts.values()), size, way, len(counts))
    skipped: list[str] = []
    splits = {name: _decode(folder, samples, skipped) for name, samples in folder.samples.items()}
    return Source(
        splits["train"], splits.get("val"), splits.get("test"), folder.classes, IMAGENET_MEAN, IMAGENET_STD,
        origin=IMAGENET, skipped=tuple(skipped), note=folder.note,
    )  # fmt: skip


def _list(spec: str, directory: Path) -> tuple[tuple[str, ...], list[Sample]]:
    """Class names and (path, class number) of every image, sorted by class, then by file name."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    classes = tuple(sorted(entry.name for entry in os.scandir(directory) if entry.is_dir()))
    numbers = {name: i for i, name in enumerate(classes)}
    samples = make_dataset(str(directory), numbers, IMG_EXTENSIONS, allow_empty=True) if classes else []
    if not samples:
        raise ValueError(f"data '{spec}': no images found in '{directory}/<class>/'; known endings: "
                         f"{' '.join(IMG_EXTENSIONS)}")  # fmt: skip
    return classes, samples


def _decode(folder: Folder, samples: Sequence[Sample], skipped: list[str]) -> Split:
    from PIL import Image

    images = np.empty((len(samples), 3, folder.height, folder.width), np.uint8)
    damaged: set[int] = set()

    def work(start: int) -> None:  # PIL decodes without the interpreter lock
        for i in range(start, min(start + CHUNK, len(samples))):
            try:
                images[i] = folder.fitted(samples[i][0], folder.open(samples[i][0]))
            except Damaged:
                if not folder.skip:
                    raise
                damaged.add(i)

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # only half of what is refused
        list(pool.map(work, range(0, len(samples), CHUNK)))
    split = Split(torch.from_numpy(images), torch.tensor([label for _, label in samples]))
    skipped += [samples[i][0] for i in sorted(damaged)]
    return split[torch.tensor([i for i in range(len(samples)) if i not in damaged])] if damaged else split


def _size(spec: str, samples: Sequence[Sample], skip: bool) -> tuple[int, int]:
    for path, _ in samples:
        try:
            with _image(spec, path) as file:
                width, height = file.size
                return int(width), int(height)
        except Damaged:
            if not skip:
                raise
    raise ValueError(f"data '{spec}': no image can be read; repair them")


@contextmanager
def _image(spec: str, path: str) -> Iterator[Any]:
    """An image file that is open.

    Raises:
        Damaged: If it is no regular file (a pipe would wait for ever), is damaged, or unpacks to far more pixels
            than a photograph has.
    """
    from PIL import Image

    where = f"data '{spec}': '{path}'"
    if not os.path.isfile(path):
        raise Damaged(f"{where} is no file of bytes (a folder, a pipe, a device or a broken link); remove it")
    try:
        with Image.open(path) as file:
            yield file
    except Image.DecompressionBombError as error:
        raise Damaged(f"{where} is too large to be decoded ({error}); make it smaller or remove it") from error
    except Exception as error:  # damaged files make PIL raise whatever it likes
        raise Damaged(f"{where} is no readable image ({described(error)}); {REPAIR}") from error
