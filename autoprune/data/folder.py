"""A directory with one folder of image files per class, decoded once into memory."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoprune.data.images import Split
from autoprune.data.memory import check_memory
from autoprune.data.sources import IMAGENET, IMAGENET_MEAN, IMAGENET_STD, Source, draw
from objectives.plugins import described

CHUNK = 256  # files that one thread decodes at a time
CROP = 0.875  # side of the centre crop over the shorter side: 224 of 256, as torchvision's networks are evaluated

Sample = tuple[str, int]  # path, class number


def read(spec: str, directory: Path, image_size: int | None, max_images: int | None, seed: int, test: bool) -> Source:
    """Read DIR/train/<class>/<image> and DIR/test or DIR/val (both: val validates), in torchvision's order.

    Images are RGB. With `image_size`, larger ones are resized (shorter side to `image_size / 0.875`) and cropped at
    the centre. Everything is kept decoded: 3 bytes a pixel, 150 kB for an image of 224 x 224;
    `max_images` keeps what fits.

    Raises:
        ValueError: If the folders, the classes or the images are not as they must be, or do not fit into memory.
    """
    if not os.path.isdir(directory):
        raise ValueError(f"data '{spec}': no directory '{directory}'; expected one that holds train/<class>/ and "
                         "test/<class>/ with the images")  # fmt: skip
    parts = {name: directory / name for name in ("train", "val", "test") if (directory / name).is_dir()}
    if "train" not in parts:
        raise ValueError(f"data '{spec}': '{directory}' has no folder 'train'; put the images in train/<class>/")
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")  # as ImageNet calls the images it reports on
    if not test:
        parts.pop("test", None)
    classes, samples = _list(spec, parts["train"])
    listed = {"train": samples}
    for name in ("val", "test"):
        if name in parts:
            own, listed[name] = _list(spec, parts[name])
            if own != classes:
                odd = sorted(set(own) ^ set(classes))[:3]
                raise ValueError(f"data '{spec}': '{parts[name].name}' and 'train' must have the same class folders, "
                                 f"but these are only in one of them: {', '.join(odd)}")  # fmt: skip
    if max_images is not None:
        listed = {n: [s[i] for i in draw(len(s), max_images, seed).tolist()] for n, s in listed.items()}
    width, height = (image_size, image_size) if image_size else _size(spec, listed["train"][0][0])
    way = "give max_images={most} or a smaller image_size"
    check_memory(f"data '{spec}'", sum(map(len, listed.values())), width * height * 3, way, len(listed))
    splits = {name: _decode(spec, s, width, height, resize=image_size is not None) for name, s in listed.items()}
    return Source(
        splits["train"], splits.get("val"), splits.get("test"), classes, IMAGENET_MEAN, IMAGENET_STD,
        origin=IMAGENET,
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


def _decode(spec: str, samples: Sequence[Sample], width: int, height: int, resize: bool) -> Split:
    from PIL import Image

    images = np.empty((len(samples), 3, height, width), np.uint8)

    def work(start: int) -> None:  # PIL decodes without the interpreter lock
        for i in range(start, min(start + CHUNK, len(samples))):
            images[i] = _open(spec, samples[i][0], width, height, resize)

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # only half of what is refused
        list(pool.map(work, range(0, len(samples), CHUNK)))
    return Split(torch.from_numpy(images), torch.tensor([label for _, label in samples]))


def _open(spec: str, path: str, width: int, height: int, resize: bool) -> NDArray[np.uint8]:
    """[3, height, width]."""
    from PIL import Image

    with _image(spec, path) as file:
        image = file.convert("RGB")
    if resize and image.size != (width, height):
        shorter = min(image.size)
        scale = (width if shorter <= width else round(width / CROP)) / shorter
        wide, high = (max(width, round(side * scale)) for side in image.size)
        left, top = (wide - width) // 2, (high - height) // 2
        image = image.resize((wide, high), Image.Resampling.BILINEAR).crop((left, top, left + width, top + height))
    if image.size != (width, height):
        raise ValueError(f"data '{spec}': images differ in size, '{path}' is {image.size[0]} x {image.size[1]} but the "
                         f"first one is {width} x {height}; give image_size to make them alike")  # fmt: skip
    pixels: NDArray[np.uint8] = np.asarray(image).transpose(2, 0, 1)
    return pixels


def _size(spec: str, path: str) -> tuple[int, int]:
    with _image(spec, path) as file:
        width, height = file.size
        return int(width), int(height)


@contextmanager
def _image(spec: str, path: str) -> Iterator[Any]:
    """An image file that is open.

    Raises:
        ValueError: If it is no regular file (a pipe would wait for ever), is damaged, or unpacks to far more pixels
            than a photograph has.
    """
    from PIL import Image

    where = f"data '{spec}': '{path}'"
    if not os.path.isfile(path):
        raise ValueError(f"{where} is no file of bytes (a folder, a pipe, a device or a broken link); remove it")
    try:
        with Image.open(path) as file:
            yield file
    except Image.DecompressionBombError as error:
        raise ValueError(f"{where} is too large to be decoded ({error}); make it smaller or remove it") from error
    except Exception as error:  # damaged files make PIL raise whatever it likes
        raise ValueError(f"{where} is no readable image ({described(error)}); repair or remove it") from error
