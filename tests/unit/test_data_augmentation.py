import pytest
import torch
from torch.nn import functional

from autoprune.data import augment


@pytest.fixture
def images():
    # No two pixels of an image are alike, and none is 0: a place in the result tells where it came from.
    return torch.arange(1, 1 + 64 * 2, dtype=torch.uint8).view(1, 2, 8, 8).repeat(50, 1, 1, 1)


def is_crop_of(small, image, pad):
    """Whether `small` can be cut out of the padded image."""
    padded = functional.pad(image, (pad,) * 4)
    height, width = small.shape[1:]
    return any(
        torch.equal(padded[:, y : y + height, x : x + width], small)
        for y in range(2 * pad + 1) for x in range(2 * pad + 1)
    )  # fmt: skip


def test_every_image_is_a_crop_or_its_mirror(images):
    out = augment(images, "crop-flip", torch.Generator().manual_seed(0))
    plain = [is_crop_of(a, i, 1) for a, i in zip(out, images, strict=True)]
    mirrored = [is_crop_of(a.flip(2), i, 1) for a, i in zip(out, images, strict=True)]
    assert all(a or b for a, b in zip(plain, mirrored, strict=True))
    assert 15 < sum(mirrored) < 35  # about every second one of 50
    assert len(out.flatten(1).unique(dim=0)) > 10  # of 9 places x 2


def test_crops_alone_do_not_mirror(images):
    out = augment(images, "crop", torch.Generator().manual_seed(0))
    assert all(is_crop_of(a, i, 1) for a, i in zip(out, images, strict=True))


def test_thirty_two_pixels_are_padded_by_four():
    image = torch.full((400, 1, 32, 32), 7, dtype=torch.uint8)
    out = augment(image, "crop", torch.Generator().manual_seed(0))
    black = (out == 0).all(3).sum(2).flatten()  # rows that are padding
    assert sorted(set(black.tolist())) == [0, 1, 2, 3, 4]
    assert (black == 0).sum() < 400 / 9 * 1.6  # one of nine vertical places


def test_none_is_none_and_seeds_repeat(images):
    assert augment(images, "none", torch.Generator()) is images
    first, second, other = (augment(images, "crop", torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
