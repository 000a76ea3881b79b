"""What training does to images: crops and flips of a whole batch at once, or torchvision's transforms, one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.sending import sent

STEPS = ("crop", "flip", "random-resized-crop", "randaugment")
AT_ONCE = ("crop-flip", "crop", "none")  # of a batch in memory; all else goes image by image


def augment(images: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """Crop each image at its own place out of its zero-padded self, and flip every second one left to right.

    The padding is an eighth of the image: the usual 4 pixels of 32 x 32 (He et al. 2016, section 4.2,
    https://arxiv.org/abs/1512.03385). Padding happens on bytes, so it is black and not the mean colour, as in
    torchvision's RandomCrop before normalisation.

    Args:
        images: [N, C, H, W] uint8.
        how: "crop-flip", "crop" or "none", or what `transform` takes.
        generator: Draws on the CPU, so that every device sees the same crops.

    Returns:
        [N, C, H, W] uint8.
    """
    if how == "none":
        return images
    if how not in AT_ONCE:
        return _one_by_one(images, how, generator)
    count, channels, height, width = images.shape
    pad_y, pad_x = _padding(height, width)
    down = torch.randint(2 * pad_y + 1, (count, 1), generator=generator)
    right = torch.randint(2 * pad_x + 1, (count, 1), generator=generator)
    flip = torch.rand(count, 1, generator=generator) < (0.5 if how == "crop-flip" else 0.0)
    down, right, flip = (sent(drawn, images.device) for drawn in (down, right, flip))  # the rest is worked out there
    rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
    y = down + rows  # [N, H]
    x = right + torch.where(flip, width - 1 - columns, columns)  # [N, W]
    # One gather over the flattened padded image: 0.5 ms for 128 images of 3 x 32 x 32, slicing in a loop takes 1.8 ms.
    flat = (y[:, :, None] * (width + 2 * pad_x) + x[:, None, :]).view(count, 1, -1)
    padded = functional.pad(images, (pad_x, pad_x, pad_y, pad_y)).view(count, channels, -1)
    return padded.gather(2, flat.expand(-1, channels, -1)).view(images.shape)


def _padding(height: int, width: int) -> tuple[int, int]:
    return max(1, height // 8), max(1, width // 8)


def _one_by_one(images: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """By torchvision, which draws from the global generator: it is as it was afterwards."""
    change = transform(augmentation_steps(how), *images.shape[2:])
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return torch.stack([change(image) for image in images])


@cache
def transform(steps: Sequence[str], height: int, width: int) -> Callable[[Any], Any]:
    """Steps of `augmentation_steps` as one of torchvision.transforms.v2, which draws from torch's global generator.

    Args:
        steps: In order; random-resized-crop takes images of any size (8 % to all of its area, Szegedy et al. 2015).
        height: Of what it gives,
        width: likewise.
    """
    from torchvision.transforms import v2

    pad_y, pad_x = _padding(height, width)
    made = {
        "crop": lambda: v2.RandomCrop((height, width), padding=(pad_x, pad_y)),
        "flip": v2.RandomHorizontalFlip,
        "random-resized-crop": lambda: v2.RandomResizedCrop((height, width), antialias=True),
        "randaugment": v2.RandAugment,  # two operations of strength 9, Cubuk et al. 2020
    }
    found: Callable[[Any], Any] = v2.Compose([made[step]() for step in steps]) if steps else v2.Identity()
    return found


def augmentation_steps(text: str) -> tuple[str, ...]:
    """What "random-resized-crop+flip+randaugment" does to an image, in order; "crop-flip" is "crop+flip".

    Raises:
        ValueError: If one is unknown.
    """
    steps = () if text == "none" else ("crop", "flip") if text == "crop-flip" else tuple(text.split("+"))
    if unknown := [step for step in steps if step not in STEPS]:
        raise ValueError(f"unknown augmentation '{unknown[0]}'; known: crop-flip, none, or some of "
                         f"{', '.join(STEPS)}, joined by +")  # fmt: skip
    return steps


def check_augmentation(where: str, text: str, shape: Sequence[int]) -> None:
    """Check that images [C, H, W] can be augmented so.

    Raises:
        ValueError: If not.
    """
    try:
        steps = augmentation_steps(text)
    except (ValueError, AttributeError) as error:
        said = str(error) if isinstance(error, ValueError) else f"augmentation must be a name, got {text!r}"
        raise ValueError(f"{where}: {said}") from None
    if {"crop", "random-resized-crop"} <= set(steps) or len(set(steps)) < len(steps):
        raise ValueError(f"{where}: augmentation '{text}' crops twice, or names a step twice; name one crop, each once")
    if "randaugment" in steps and len(shape) == 3 and shape[0] not in (1, 3):
        raise ValueError(f"{where}: augmentation randaugment changes colours, so it takes images of 1 or 3 channels, "
                         f"not {shape[0]}; leave it out")  # fmt: skip
