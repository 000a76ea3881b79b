"""Which mean and standard deviation are in use, whose they are, and what is said about it."""

import sys

import numpy as np
import pytest
import torch

from autoprune.data import ImageData, Split, describe, input_of, load, normalised

X = torch.arange(256, dtype=torch.uint8).view(2, 2, 8, 8)
SPLIT = Split(X, torch.tensor([0, 1]))


def own(tmp_path, monkeypatch, extra, channels=2):
    """Data of a function, one number per pixel of channel 0 and nothing in the others."""
    (tmp_path / "own_norm.py").write_text(
        "import numpy as np\n"
        f"x = np.zeros((20, {channels}, 8, 8), np.uint8); x[:, 0] = 255 * (np.arange(64).reshape(8, 8) % 2)\n"
        f"def get(): return {{'train': (x, np.arange(20) % 2), {extra}}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_norm", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return lambda **told: load("own_norm:get", **told)


def test_the_usual_ones_are_named():
    assert describe(load("digits")) == "images normalised: mean 0.305, std 0.376 (of the digits)"


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        (0, 1, "mean 0, std 1 (as given)"),
        (0.5, (0.25,), "mean 0.5, std 0.25 (as given)"),
        ([0.5], np.float32(0.25), "mean 0.5, std 0.25 (as given)"),
        (torch.tensor(0.5), torch.tensor([0.25]), "mean 0.5, std 0.25 (as given)"),
        (0, None, "mean 0, std 0.376 (mean as given, std of the digits)"),
    ],
)
def test_one_number_counts_for_all_channels(mean, std, said):
    data = load("digits", mean=mean, std=std)
    assert describe(data) == f"images normalised: {said}"
    assert (len(data.mean), len(data.std)) == (1, 1)


def test_a_number_for_two_channels(tmp_path, monkeypatch):
    data = own(tmp_path, monkeypatch, "")(mean=0, std=1)
    assert (data.mean, data.std) == ((0.0, 0.0), (1.0, 1.0))
    torch.testing.assert_close(data.normalise(data.train.images), data.train.images / 255)


@pytest.mark.parametrize("value", ["none", "0.5", (), ("a",), [[0.5]], float("nan"), (0.5, float("inf")), {"r": None}])
@pytest.mark.parametrize("name", ["mean", "std"])
def test_what_is_no_number_is_refused_in_a_sentence(name, value):
    with pytest.raises(ValueError, match=rf"data 'digits': {name} must be a number or one number per channel, got .*; "
                                         "leave it out for the usual one, or give mean=0 std=1"):  # fmt: skip
        load("digits", **{name: value})


@pytest.mark.parametrize(("mean", "std"), [((0.5, 0.5), None), (None, 0), (None, -1)])
def test_numbers_that_do_not_fit_the_channels_are_refused(mean, std):
    with pytest.raises(ValueError, match=r"each of the 1 image channels \(or one for all\), std above 0; got"):
        load("digits", mean=mean, std=std)


def test_it_is_said_whose_they_are(tmp_path, monkeypatch):
    measured = own(tmp_path, monkeypatch, "")()
    assert measured.mean == pytest.approx((0.5, 0.0))
    assert measured.std == pytest.approx((0.5, 1e-3), rel=1e-3)  # a channel without contrast
    assert describe(measured).endswith("(of the training images)")
    half = own(tmp_path, monkeypatch, "'mean': .5")()
    assert half.origin == "mean as the function says, std of the training images"
    both = own(tmp_path, monkeypatch, "'mean': .5, 'std': (.5, .25)")
    assert (both().mean, both().std, both().origin) == ((0.5, 0.5), (0.5, 0.25), "as the function says")
    assert both(mean=0, std=1).origin == "as given"
    assert own(tmp_path, monkeypatch, "", channels=3)().origin == "of ImageNet"


def test_the_formula_that_leaves_with_a_network_is_what_it_was_trained_with():
    data = ImageData(SPLIT, SPLIT, SPLIT, (0.4, 0.5), (0.2, 0.3), ("a", "b"))
    said = input_of(data)
    mean, std = said["mean"], said["std"]
    assert (said["shape"], data.origin) == ([2, 8, 8], "as given")
    x, image = torch.empty(2, 2, 8, 8), X
    code = said["normalisation"].partition(", image")[0].replace("x[:, c] = ", "")
    for c in range(2):
        x[:, c] = eval(code, {"image": image, "mean": mean, "std": std, "c": c})
    torch.testing.assert_close(x, data.normalise(X, channels_last=False))


def test_unnormalised_pixels_are_pixels():
    data = normalised(ImageData(SPLIT, SPLIT, SPLIT, (0.4, 0.5), (0.2, 0.3), ("a", "b")), 0, 1)
    torch.testing.assert_close(data.normalise(X), X / 255)
