"""`ImageStream`: a data set, split once, whose images are read whenever they are wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from autoprune.data.images import ImageData
from autoprune.data.items import Selection


@dataclass(frozen=True, eq=False)
class ImageStream:
    """What `ImageData` is for images in memory.

    Attributes:
        data: All that is known of the images, with one of each split.
        parts: "train", "val" and perhaps "test".

    Raises:
        ValueError: If a split is unusable.
    """

    data: ImageData
    parts: Mapping[str, Selection]

    @classmethod
    def of(cls, data: ImageData, parts: Mapping[str, Selection]) -> ImageStream:
        """Check the parts, and tell their items what training does to an image."""
        for name, part in parts.items():
            if len(part) and not 0 <= int(part.labels.min()) <= int(part.labels.max()) < data.num_classes:
                low, high = int(part.labels.min()), int(part.labels.max())
                raise ValueError(f"data '{data.spec}': {name} has label {low if low < 0 else high}, but with "
                                 f"{data.num_classes} classes labels run from 0 to {data.num_classes - 1}")  # fmt: skip
            part.items.augmentation = data.augmentation
        return cls(data, {name: part for name, part in parts.items() if len(part)})

    @property
    def fingerprint(self) -> str:
        """A short hash of train and val: see `digest_of`; neither the path nor the test images enter."""
        data = self.data
        digest = hashlib.sha256(repr((data.mean, data.std, data.classes, data.augmentation)).encode())
        for name in ("train", "val"):
            digest.update(self.parts[name].fingerprint.encode())
        return digest.hexdigest()[:16]
