"""COCO's layout of images and boxes: decoded into memory, or whenever an image is wanted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.tasks.detection import Detection
from autoprune.tasks.detection_stream import PictureItems, StreamedDetection

IN_MEMORY = 4  # bytes of a number there; streamed samples are kept in one


def detection_folder(
    place: str,
    *,
    num_classes: int | None = None,
    batch_size: int = 8,
    flip: bool = True,
    memory: float = math.inf,
    skip_damaged: bool = False,
    **settings: Any,
) -> Detection:
    """COCO's layout: DIR/train/images/*, DIR/train/annotations.json, and so val and test.

    Args:
        place: DIR.
        num_classes: Of the network, background (0) included; default one more than the highest label.
        batch_size: Images a batch.
        flip: Whether every second training image is mirrored.
        memory: What takes more bytes than this is streamed.
        skip_damaged: Whether images that cannot be read are left out.
        **settings: See `Detection`.

    Raises:
        ValueError: If a folder or its annotations are missing or damaged.
    """
    root, where, name = Path(place), f"data 'detection:{place}'", f"detection:{place}"
    parts = [split for split in ("train", "val", "test") if (root / split).is_dir()]
    if not {"train", "val"} <= set(parts):
        raise ValueError(f"{where}: expected folders train and val, each with images/ and annotations.json")
    if not isinstance(skip_damaged, bool):
        raise ValueError(f"{where}: skip_damaged must be true or false, got {skip_damaged!r}")
    found = {split: _coco(where, root / split, flip, skip_damaged) for split in parts}
    highest = max((int(items.box_labels.max()) for items in found.values() if len(items.box_labels)), default=0)
    num_classes = num_classes or 1 + highest
    if sum(IN_MEMORY * len(items) * items.sample_bytes for items in found.values()) > memory:
        return StreamedDetection(found, num_classes, batch_size, name)
    samples, skipped = dict[str, Any](), list[str]()
    for split, items in found.items():
        kept = [items.read_or_none(number) for number in range(len(items))]
        skipped += [items.name(number) for number, pair in enumerate(kept) if pair is None]
        samples[split] = [(image.float() / 255, target) for image, target in filter(None, kept)]
    made = Detection(**samples, num_classes=num_classes, batch_size=batch_size, flip=flip, name=name, **settings)
    made.left_out = skipped
    return made


def _coco(where: str, folder: Path, flip: bool, skip: bool) -> PictureItems:
    try:
        said = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
        numbers = {c["id"]: i + 1 for i, c in enumerate(sorted(said["categories"], key=lambda c: c["id"]))}
        boxes: dict[int, list[tuple[list[float], int]]] = {image["id"]: [] for image in said["images"]}
        for box in said["annotations"]:
            if box["bbox"][2] > 0 and box["bbox"][3] > 0:
                boxes[box["image_id"]].append((box["bbox"], numbers[box["category_id"]]))
        about = [
            (str(image["file_name"]), [[x, y, x + w, y + h] for (x, y, w, h), _ in known], [k for _, k in known])
            for image in said["images"]
            for known in [boxes[image["id"]]]
        ]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        why = f"not in COCO's format ({type(error).__name__}: {error})"
        raise ValueError(f"'{folder / 'annotations.json'}': {why}") from error
    pixels = [
        _pixels(folder / "images" / name, image) for (name, _, _), image in zip(about, said["images"], strict=True)
    ]
    return PictureItems(where, str(folder / "images"), about, pixels, flip, skip)


def _pixels(path: Path, about: Mapping[str, Any]) -> int:
    """How many an image has, as its annotations say, else its file; 0 where neither does."""
    from PIL import Image

    try:
        return int(about["width"]) * int(about["height"])
    except (KeyError, TypeError, ValueError):
        try:
            with Image.open(path) as file:
                return int(file.width) * int(file.height)
        except Exception:  # whoever reads it will say so
            return 0
