import os

import numpy as np
import pytest
import torch
from PIL import Image

from autoprune.data import ImageData, Split, load
from autoprune.data.items import Streaming
from autoprune.data.load import load_or_stream
from autoprune.data.sources import DIGITS_TEST
from autoprune.tasks.classification import Classification


def write_folder(root, parts, size=(8, 8), classes=("cat", "dog"), count=3):
    """root/<part>/<class>/<n>.png; every image has one grey value of its own, in order of (part, class, n)."""
    value = 0
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for n in range(count):
                Image.new("RGB", size, (value, value, value)).save(root / part / name / f"{n}.png")
                value += 1
    return f"imagefolder:{root}"


def greys(split):
    return split.images[:, 0, 0, 0].tolist()


def module(tmp_path, monkeypatch, name, body):
    (tmp_path / f"{name}.py").write_text("import torch, numpy as np\nfrom PIL import Image\n" + body)
    monkeypatch.syspath_prepend(tmp_path)


def test_digits_are_split_once_and_for_all():
    data = load("digits")
    assert data.shape == (1, 8, 8)
    assert data.num_classes == 10
    assert (len(data.train), len(data.val), len(data.test)) == (1294, 143, DIGITS_TEST)  # a tenth of 1,437 validates
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.max() == 255  # the digits' 16
    assert data.augmentation == "crop"  # never mirrored
    every = torch.cat([data.train.images, data.val.images, data.test.images]).flatten(1)
    from sklearn.datasets import load_digits

    assert sorted(every.float().mean(1).tolist()) == sorted(
        torch.from_numpy(np.round(load_digits().images * 255 / 16)).flatten(1).float().mean(1).tolist()
    )


def test_another_seed_never_touches_the_test_images():
    first, other = load("digits", seed=0), load("digits", seed=1)
    assert torch.equal(first.test.images, other.test.images)
    assert not torch.equal(first.val.images, other.val.images)


def test_validation_is_the_first_of_a_seeded_permutation(tmp_path):
    # Six training images in ImageFolder order have grey values 0..5, the six test images 6..11.
    data = load(write_folder(tmp_path, ("train", "test")), val_images=2, seed=3)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3)).tolist()
    assert greys(data.val) == order[:2]
    assert greys(data.train) == order[2:]
    assert greys(data.test) == [6, 7, 8, 9, 10, 11]
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.classes == ("cat", "dog")
    assert "first 2 of torch.randperm(6), seed 3" in data.split


def test_a_folder_val_validates_next_to_test_and_reports_without_it(tmp_path):
    both = load(write_folder(tmp_path / "a", ("train", "val", "test")))
    assert greys(both.val) == [6, 7, 8, 9, 10, 11]
    assert len(both.train) == 6
    alone = load(write_folder(tmp_path / "b", ("train", "val")))
    assert greys(alone.test) == [6, 7, 8, 9, 10, 11]
    assert len(alone.train) + len(alone.val) == 6
    word = f"so '{tmp_path / 'b' / 'val'}' is the test set: it is looked at once"
    for told in (alone, load(alone.spec, test=False), load_or_stream(alone.spec, Streaming(memory=0)).data):
        assert [line for line in Classification(told).about() if word in line]
    assert not [line for line in Classification(both).about() if "test set" in line]


def test_large_images_are_resized_and_cropped(tmp_path):
    data = load(write_folder(tmp_path, ("train", "test"), size=(40, 20)), image_size=16)
    assert data.shape == (3, 16, 16)


def test_max_images_keeps_a_seeded_sample(tmp_path):
    data = load(write_folder(tmp_path, ("train", "test")), max_images=4)
    assert (len(data.train) + len(data.val), len(data.test)) == (4, 4)
    assert len(load("digits", max_images=100).test) == 100


def test_what_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    spec = write_folder(tmp_path, ("train", "test"))
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": 4, "SC_PAGE_SIZE": 512}[name])
    with pytest.raises(ValueError, match=r"12 images need .* give max_images=2"):  # 1,024 bytes hold 5 of 192
        load(spec)


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    spec = write_folder(tmp_path, ("train", "test"))
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text("1024\n")
    monkeypatch.setattr("autoprune.data.memory.CGROUPS", (tmp_path / "max", tmp_path / "nowhere", tmp_path / "limit"))
    with pytest.raises(ValueError, match=r"12 images need .* give max_images=1"):  # 512 bytes hold 2 of 192
        load(spec)


def test_what_is_no_file_is_no_image(tmp_path):
    spec = write_folder(tmp_path, ("train", "test"))
    first = min((tmp_path / "train").glob("*/*"))
    first.unlink()
    os.mkfifo(first)  # would wait for a writer for ever
    with pytest.raises(ValueError, match=rf"'{first}' is no file of bytes"):
        load(spec)
    first.unlink()
    first.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=rf"'{first}' is no file of bytes"):
        load(spec)


def test_an_image_that_unpacks_to_far_too_much_is_named(tmp_path, monkeypatch):
    spec = write_folder(tmp_path, ("train", "test"))
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 16)  # ours have 64
    with pytest.raises(ValueError, match=r"data 'imagefolder:.*png' is too large to be decoded"):
        load(spec)


@pytest.mark.parametrize("cut", [0, 1, 20, 40])
def test_a_damaged_image_is_named(tmp_path, cut):
    spec = write_folder(tmp_path, ("train", "test"))
    last = max((tmp_path / "train").glob("*/*"))
    whole = last.read_bytes()
    for damaged in (whole[:cut], whole[:cut] + b"\xff" * (len(whole) - cut)):
        last.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"data 'imagefolder:.*{last}' is no readable image"):
            load(spec)


def test_normalise_is_the_formula():
    images = torch.arange(256, dtype=torch.uint8).view(2, 2, 8, 8)
    split = Split(images, torch.tensor([0, 1]))
    data = ImageData(split, split, split, (0.4, 0.5), (0.2, 0.3), ("a", "b"))
    mean, std = torch.tensor([0.4, 0.5]).view(1, 2, 1, 1), torch.tensor([0.2, 0.3]).view(1, 2, 1, 1)
    out = data.normalise(images)
    torch.testing.assert_close(out, (images / 255 - mean) / std)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_the_fingerprint_is_of_what_a_search_sees():
    data = load("digits")
    assert data.fingerprint == load("digits").fingerprint == load("digits", test=False).fingerprint
    assert data.fingerprint == data.without_test().fingerprint
    assert len(load("digits", test=False).test) == 0
    others = [load("digits", seed=1), load("digits", val_images=10), load("digits", mean=(0.5,))]
    assert data.fingerprint not in [d.fingerprint for d in others]


@pytest.mark.parametrize(
    ("returned", "val"),
    [
        ("(T(20), T(4))", 2),  # without validation images: a tenth of train
        ("(T(20), None, T(4))", 2),
        ("(T(20), T(5), T(4))", 5),
        ("{'train': T(20), 'test': T(4), 'mean': (.5,) * 3, 'std': (.5,) * 3, 'classes': ['a', 'b']}", 2),
        ("(L(20), L(5), L(4))", 5),
        ("(P(20), P(5), P(4))", 5),
    ],
)
def test_a_function_brings_data(tmp_path, monkeypatch, returned, val):
    module(
        tmp_path,
        monkeypatch,
        "mydata",
        f"""
def T(n):  # a pair of tensors
    return torch.full((n, 3, 8, 8), 51, dtype=torch.uint8), torch.arange(n) % 2
def L(n):  # a data set of float tensors
    return [(torch.full((3, 8, 8), .2), i % 2) for i in range(n)]
def P(n):  # a data set of PIL images
    return [(Image.new("RGB", (8, 8), (51, 51, 51)), i % 2) for i in range(n)]
def get():
    return {returned}
""",
    )
    monkeypatch.delitem(__import__("sys").modules, "mydata", raising=False)
    data = load("mydata:get")
    assert (len(data.train) + len(data.val), len(data.val), len(data.test)) == (20 + (5 if val == 5 else 0), val, 4)
    assert data.shape == (3, 8, 8)
    assert data.train.images.unique().tolist() == [51]  # .2 * 255


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("None", "must return"),
        ("([], [])", "no images found"),
        ("(D(torch.randn(3, 8, 8)), D(torch.zeros(3, 8, 8)))", "floats in 0..1"),
        ("(D('x'), D('x'))", "expected a PIL image"),
        ("([(torch.zeros(3, 8, 8), 0), (torch.zeros(3, 8, 9), 1)], [])", "resize them"),
        ("(D(torch.zeros(3, 8, 8), (0, 0)), D(torch.zeros(3, 8, 8)))", "found 1 class"),
        ("(D(torch.zeros(3, 8, 8)), D(torch.zeros(3, 8, 8), (0, 2)))", "test has label 2"),
        ("(D(torch.zeros(3, 8, 8), (-1, 1)), D(torch.zeros(3, 8, 8)))", "label -1"),
        ("(D(torch.zeros(3, 8, 8)), D(torch.zeros(3, 9, 9)))", "test images are"),
        ("{'train': D(torch.zeros(2, 8, 8)), 'mean': (.5,), 'std': (.5,)}", "each of the 2 image channels"),
    ],
)
def test_what_a_function_must_not_return(tmp_path, monkeypatch, returned, words):
    module(tmp_path, monkeypatch, "baddata", f"def D(x, y=(0, 1)):\n    return [(x, i) for i in y] * 5\n"
           f"def get():\n    return {returned}\n")  # fmt: skip
    monkeypatch.delitem(__import__("sys").modules, "baddata", raising=False)
    with pytest.raises(ValueError, match=words):
        load("baddata:get")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("cifar11", "known: digits, cifar10:DIR"),
        ("digits:somewhere", "data 'digits:somewhere'"),
        ("cifar10:nowhere", "download=True"),
        ("imagefolder:nowhere", "no directory 'nowhere'"),
        ("no.such.module:function", "no.such.module"),
    ],
)
def test_unknown_data(here, spec, words):
    with pytest.raises(ValueError, match=words):
        load(spec)
    assert not list(here.iterdir())


def test_folders_that_will_not_do(tmp_path):
    with pytest.raises(ValueError, match="no folder 'train'"):
        load(f"imagefolder:{tmp_path}")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="no images found"):
        load(f"imagefolder:{tmp_path}")
    spec = write_folder(tmp_path, ("train", "test"), classes=("cat",))
    with pytest.raises(ValueError, match="found 1 class"):
        load(spec)
    write_folder(tmp_path, ("train",), classes=("dog",))
    with pytest.raises(ValueError, match="only in one of them: dog"):
        load(spec)
    write_folder(tmp_path, ("test",), classes=("dog",))
    Image.new("RGB", (9, 8)).save(tmp_path / "train" / "dog" / "wide.png")
    with pytest.raises(ValueError, match=r"wide.png' is 9 x 8 .* give image_size"):
        load(spec)
    assert load(spec, image_size=8).shape == (3, 8, 8)
    (tmp_path / "train" / "dog" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken.png' is no readable image"):
        load(spec, image_size=8)


@pytest.mark.parametrize("setting", ["val_images", "image_size", "max_images"])
def test_settings_out_of_range(setting):
    with pytest.raises(ValueError, match=f"{setting} must be at least 1"):
        load("digits", **{setting: 0})


def test_only_folders_are_resized():
    with pytest.raises(ValueError, match="image_size is for imagefolder"):
        load("digits", image_size=16)


def test_validation_must_leave_something_to_train_on():
    with pytest.raises(ValueError, match="lower val_images"):
        load("digits", val_images=1437)


def test_cifar_as_torchvision_stores_it(monkeypatch):
    class Fake:
        classes = ("plane", "car")

        def __init__(self, root, train, download):
            assert not download
            count = 20 if train else 4
            self.data = np.arange(count * 32 * 32 * 3, dtype=np.uint8).reshape(count, 32, 32, 3)
            self.targets = [i % 2 for i in range(count)]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Fake)
    data = load("cifar10:anywhere", val_images=5)
    assert data.shape == (3, 32, 32)
    assert (len(data.train), len(data.val), len(data.test)) == (15, 5, 4)
    assert data.test.images[0, :, 0, 0].tolist() == [0, 1, 2]  # channels of the first pixel
