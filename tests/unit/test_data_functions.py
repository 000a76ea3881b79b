"""The user's own data function: what it may return, and the sentence for what it must not."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from autoprune.data import load
from autoprune.data.pixels import channels_last, to_image, to_split


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Loads what a function returns: `data("return ...")`, or with arguments of its own."""

    def make(body, arguments="", **told):
        lines = "import torch, numpy as np, pandas as pd\nfrom torch.utils.data import TensorDataset\n"
        lines += "X, Y = np.full((20, 1, 8, 8), 51, np.uint8), np.arange(20) % 2\n"
        (tmp_path / "own_data.py").write_text(f"{lines}def get({arguments}):\n    {body}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "own_data", raising=False)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return load("own_data:get", **told)

    return make


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("return (X, Y), (X, Y)", (1, 8, 8)),
        ("return [X, Y], [X, Y]", (1, 8, 8)),
        ("return (X[:, 0], Y), (X[:, 0], Y)", (1, 8, 8)),  # [N, H, W]
        ("return (X / 255, Y.astype(float)), None", (1, 8, 8)),
        ("return (X[::-1], pd.Series(Y)[::-1]), None", (1, 8, 8)),  # negative strides; an index of its own
        ("X.flags.writeable = False; return (X, Y), None", (1, 8, 8)),
        ("return TensorDataset(torch.tensor(X), torch.tensor(Y)), None", (1, 8, 8)),
        ("return [(torch.full((8, 8), .2), y) for y in Y], None", (1, 8, 8)),  # grey, [H, W]
        ("return {'train': (np.full((20, 4, 1, 3), 51, np.uint8), Y)}", (4, 1, 3)),
        ("return {'train': (np.full((20, 12, 99, 1), 51, np.uint8), Y)}", (12, 99, 1)),  # 12 signals
        ("return {'train': (np.full((20, 40, 101, 1), 51, np.uint8), Y)}", (40, 101, 1)),  # 40 bins as channels
        ("return (np.where(X, .2, 0) + 1e-8 * (Y[:, None, None, None] - .5), Y), None", (1, 8, 8)),
        ("D = TensorDataset(torch.tensor(X), torch.tensor(Y)); D.shape = (1, 8, 8); return D, None", (1, 8, 8)),
        ("return {'train': (np.full((20, 64, 1, 1), 51, np.uint8), Y)}", (64, 1, 1)),
        ("return {'train': (np.full((20, 3, 3, 3), 51, np.uint8), Y), 'augmentation': None}", (3, 3, 3)),
    ],
)
def test_what_is_images_and_labels_is_taken(data, body, shape):
    found = data(body)
    assert found.shape == shape
    assert found.train.images.unique().tolist() == [51]
    assert sorted(torch.cat([found.train.labels, found.val.labels]).tolist()) == [0] * 10 + [1] * 10


def test_defaults_are_no_arguments_that_are_needed(data):
    assert data("return (X, Y), None", "size=8, *more, **others").shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", r"function must return \(train, test\), .* got NoneType"),
        ("return X, Y", r"each a pair \(images, labels\) .* got \(ndarray \[20, 1, 8, 8\], ndarray \[20\]\)"),
        ("return X, Y, X, Y", "function must return .* got .ndarray"),
        ("return {'training': (X, Y)}", r"function must return .* got a dict with training: \(ndarray"),
        ("return {'train': (X, Y), 'tets': (X, Y)}", "unknown tets; known: train, val, test, mean, std"),
        ("return {'train': {'image': X, 'label': Y}}", r"train: must be a pair .* got a dict with image: ndarray"),
        ("return [{'image': X[0], 'label': 1}], None", r"item 0 must be .* got a dict with image: ndarray"),
        ("return [(torch.tensor(X[0]), np.eye(2)[0])] * 9, None", r"item 0 must be \(image, class number\)"),
        ("return (X.transpose(0, 2, 3, 1), Y), None", r"\[N, C, H, W\].* got \[20, 8, 8, 1\]; give images\.transpose"),
        ("return [(torch.zeros(32, 40, 3), y) for y in Y], None", r"got \[32, 40, 3\]; give image\.permute\(2, 0, 1\)"),
        ("return [(np.zeros((3, 32, 40), 'u1'), y) for y in Y], None", r"\[3, 32, 40\]; give torch\.from_numpy"),
        ("return (X.reshape(20, -1), Y), None", r"images must be .* or \[N, H, W\], got \[20, 64\]; this is another"),
        ("return (X, np.eye(2)[Y]), None", r"must be \[N\] class numbers, got \[20, 2\]; give labels\.argmax\(1\)$"),
        ("return (X, np.random.rand(20, 2)), None", r"got \[20, 2\]; this is another task; image classif"),
        ("return (X, np.zeros((20, 17, 2))), None", r"got \[20, 17, 2\]; this is another task"),
        ("return (X, np.random.rand(20, 1)), None", r"got \[20, 1\]; this is another task"),
        ("return (np.zeros((20, 1, 999)), Y), None", r"\[20, 1, 999\] does not look like \[N, H, W\].* another task"),
        ("return (np.zeros((20, 1, 2, 8, 8)), Y), None", r"got \[20, 1, 2, 8, 8\]; this is another task"),
        ("return [(torch.zeros(2, 999), 1)] * 9, None", r"\[2, 999\] does not look like \[H, W\].* another task"),
        ("return [(torch.zeros(1, 8, 8), 0.5)] * 9, None", r"item 0 must be .* the label 0\.5; this is another"),
        ("return [(torch.zeros(1, 8, 8), '3')] * 9, None", r"item 0 must be .* the label '3'; this is another"),
        ("return [(torch.zeros(1, 8, 8), {'boxes': 1})] * 9, None", r"item 0 must be .* another task"),
        ("return (X, Y[:, None]), None", r"must be \[N\] class numbers, got \[20, 1\]; give labels\[:, 0\]"),
        ("return (X, Y + .5), None", "labels must be class numbers 0, 1, 2 ..., found fractions"),
        ("return (X, np.array(['a'] * 20)), None", r"arrays or tensors of numbers, got ndarray \[20\]"),
        ("return (X[:5], Y), None", "5 images but 20 labels"),
        ("return (X.astype(int), Y), None", "found int64 from 51 to 51; give 0..255 as uint8"),
        ("return (X.astype('u2'), Y), None", "found uint16 from 51 to 51; give 0..255 as uint8"),
        ("return (X.astype('f4'), Y), None", "found float32 from 51 to 51; divide by the largest value"),
        ("return (X - 52., Y), None", "found float64 from -1 to -1; leave out the normalisation"),
        ("return (X * float('nan'), Y), None", "floats in 0..1, found float64 from nan to nan"),
        ("return {'train': (X, Y), 'classes': 2}", "classes must be a list of names, .* got 2"),
        ("return {'train': (X, Y), 'mean': 'imagenet'}", "mean must be a number or one number per channel"),
    ],
)
def test_what_is_not_is_refused_in_a_sentence(data, body, words):
    with pytest.raises(ValueError, match=words) as refused:
        data(body)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("data 'own_data:get': ")


def test_a_function_that_needs_arguments_is_refused(data):
    with pytest.raises(ValueError, match="must take no arguments, but needs root, split; give them defaults"):
        data("return (X, Y), None", "root, split, size=8, *more, key=None, **others")
    with pytest.raises(ValueError, match="expected a function, found float"):
        load("math:pi")


sides = st.integers(1, 40)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([1, 3]), sides, sides)
def test_images_of_usual_channels_are_never_taken_for_channels_last(channels, height, width):
    assert not channels_last([channels, height, width])
    pixels = torch.zeros(channels, height, width, dtype=torch.uint8)
    assert to_image("here", pixels).shape == pixels.shape
    split = to_split("here", (pixels[None], torch.tensor([0])))
    assert split.images.shape[1:] == pixels.shape


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["L", "RGB", "P", "RGBA"]), sides, sides)
def test_any_picture_is_taken_as_it_is_whatever_its_sides(mode, height, width):
    found = to_image("here", Image.new(mode, (width, height)))
    assert found.shape == (1 if mode == "L" else 3, height, width)


def test_what_resizing_rounds_and_what_is_black_or_white_is_taken():
    light = torch.tensor([-2e-7, 0.5, 1 + 2.4e-7]).expand(1, 1, 3, 3)
    assert to_split("here", (light, torch.tensor([0]))).images.unique().tolist() == [0, 128, 255]
    assert to_split("here", (light > 0, torch.tensor([0]))).images.unique().tolist() == [0, 255]
    with pytest.raises(ValueError, match="NaN"):
        to_split("here", (light * torch.nan, torch.tensor([0])))


@pytest.mark.parametrize("settings", [{"seed": np.int64(1)}, {"val_images": np.int32(200)}])
def test_integers_of_numpy_are_integers(settings):
    plain = {name: int(value) for name, value in settings.items()}
    assert load("digits", **settings).fingerprint == load("digits", **plain).fingerprint
    with pytest.raises(ValueError, match="whole"):
        load("digits", **dict.fromkeys(settings, True))


def test_a_series_is_taken_in_its_order():
    labels = pd.Series([2, 0, 1], index=[7, 8, 9])
    found = to_split("here", (np.zeros((3, 8, 8), np.uint8), labels))
    assert found.labels.tolist() == [2, 0, 1]


class Drawn:
    """Items that are not what they were: `what` says how."""

    def __init__(self, what):
        self.what, self.reads = what, 0
        self.generator = torch.Generator().manual_seed(1)

    def __len__(self):
        return 40 - (self.what == "length" and self.reads >= 40)

    def __getitem__(self, i):
        self.reads += 1
        image = (torch.arange(64, dtype=torch.uint8) + i).reshape(1, 8, 8)
        draw = torch.rand((), generator=self.generator)
        if self.what == "flipped" and draw < 0.5:
            image = image.flip(-1)
        if self.what == "erased now and then" and draw < 0.2:
            image[:, 2:4, 2:4] = 0
        if self.what == "cropped to other sizes" and self.reads > 40:
            image = image[:, 1:]
        if self.what == "shuffled":
            return image, (i + self.reads // 40) % 2
        return image, i % 2


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("flipped", r"item \d+ has other pixels each time .* plain pixels .* augmentation='crop-flip'"),
        ("erased now and then", "has other pixels each time it is read"),
        ("cropped to other sizes", "item 0 has other pixels each time"),
        ("shuffled", r"item 0 is of class 0 when it is read first and of class 1 .* fixed order"),
        ("length", "had 40 items when it was read and has 39 now"),
    ],
)
def test_what_is_drawn_at_random_is_not_frozen_without_a_word(what, words):
    with pytest.raises(ValueError, match=words):
        to_split("data", Drawn(what))


def test_a_data_set_that_stays_as_it_is_is_taken():
    found = to_split("data", Drawn("nothing"))
    assert found.labels.tolist() == [0, 1] * 20
    assert found.images[3].flatten().tolist() == list(range(3, 67))
