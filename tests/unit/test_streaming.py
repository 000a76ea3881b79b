"""Data that do not fit into memory: which are streamed, the same batches however they are read, and what may befall."""

import json
import os
import pickle
import random
import re
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import autoprune
from autoprune.compute import Compute
from autoprune.config import RunConfig
from autoprune.data import ImageStream, Streaming, load_or_stream, loading
from autoprune.data.augmentation import augment, augmentation_steps
from autoprune.data.folder_items import FolderItems
from autoprune.data.memory import free, parse_size, settled
from autoprune.runs.checking import check_loaders, reproducible
from autoprune.runs.prepare import load_task, with_memory
from autoprune.runs.recipe import Recipe
from autoprune.tasks import Classification, Share, Softening, Task, built_in
from autoprune.tasks.streamed import StreamedDraw, stratified

ALL = Streaming(memory=0)
SIZE, COUNT = 8, 30
TARGETS = tuple(i % 2 for i in range(40))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """30 training images of two classes, 10 and 20, and 6 test images; each has a grey value of its own."""
    root = tmp_path_factory.mktemp("pictures")
    for part, counts in (("train", (10, 20)), ("test", (2, 4))):
        for label, count in zip(("a", "b"), counts, strict=True):
            (root / part / label).mkdir(parents=True)
            for n in range(count):
                grey = 10 * n + 5 * (label == "b")
                Image.new("RGB", (SIZE, SIZE), (grey, grey, grey)).save(root / part / label / f"{n:02}.png")
    return root


@pytest.fixture
def folder(pictures, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(pictures, tmp_path / "pictures")


def task_of(folder, **settings):
    found = load_or_stream(f"imagefolder:{folder}", ALL, val_images=6, mean=0, std=1, **settings)
    assert isinstance(found, ImageStream)
    return Classification(found).loading(0)


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, other, strict=True)
    )


class Noisy(Dataset):
    """Its transform draws from every generator there is; told how often it was read."""

    classes = ("even", "odd")

    def __init__(self, count=40, shown=None):
        self.count, self.shown, self.reads = count, count if shown is None else shown, []

    def __len__(self):
        return self.shown

    def __getitem__(self, i):
        if not 0 <= i < self.count:
            raise IndexError(i)
        self.reads.append(i)
        pixels = torch.full((3, SIZE, SIZE), i, dtype=torch.uint8)
        pixels[0, 0, :3] = torch.tensor([random.randrange(256), np.random.randint(256), int(torch.randint(256, ()))])  # noqa: NPY002
        return pixels, i % 2


# What is streamed.


def test_what_takes_more_than_the_memory_given_is_streamed(pictures):
    spec, size = f"imagefolder:{pictures}", 36 * 3 * SIZE * SIZE  # all images, decoded
    assert isinstance(load_or_stream(spec, Streaming(memory=size - 1)), ImageStream)
    assert not isinstance(load_or_stream(spec, Streaming(memory=size)), ImageStream)
    digits = load_task(RunConfig(data="digits", data_memory="0"))  # in memory as they come
    assert not digits.about_streams()


def test_the_split_is_that_of_data_in_memory(pictures):
    spec = f"imagefolder:{pictures}"
    memory, streamed = (load_or_stream(spec, Streaming(limit), val_images=6, seed=3) for limit in (1e9, 0))
    for name in ("train", "val", "test"):
        part = getattr(memory, name)
        found = Classification(streamed).parts[name][:]
        assert torch.equal(found.images, part.images)
        assert torch.equal(found.labels, part.labels)


def test_a_run_keeps_what_a_quarter_of_what_is_free_was(monkeypatch):
    monkeypatch.setattr("autoprune.data.memory.free", lambda: 4 * 2**30)
    assert with_memory(RunConfig(data="imagefolder:x")).data_memory == "1024MiB"
    assert with_memory(RunConfig(data="imagefolder:x", data_memory="10%")).data_memory == "409MiB"
    assert with_memory(RunConfig(data="imagefolder:x", data_memory="3GB")).data_memory == "3GB"
    assert with_memory(RunConfig(data="digits")).data_memory == ""
    assert settled("1024MiB") == "1024MiB"


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2**31), ("2G", 2**31), ("500MB", 5e8), ("1.5 gb", 1.5e9), ("7kB", 7000), ("0", 0), ("12", 12)],
)
def test_sizes(text, size):
    assert parse_size(text) == (size, False)
    assert parse_size("25%") == (0.25, True)


@pytest.mark.parametrize("text", ["much", "-1GB", "101%", "1iB", "GiB", "nan"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match=r"data_memory '.*': expected bytes with a unit, e\.g\. 2GiB"):
        RunConfig(data_memory=text)


def test_what_is_free_is_what_a_group_of_processes_has_left(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("3500\n")
    (tmp_path / "memory.stat").write_text("anon 2500\ninactive_file 1000\n")  # given back when it is wanted
    monkeypatch.setattr("autoprune.data.memory.CGROUPS", (tmp_path / "memory.max",))
    assert free() == 2500


# The same batches, however they are read.


def test_a_step_sees_the_same_batch_however_many_processes_read_it(pictures):
    task = task_of(pictures, augmentation="crop+flip+randaugment")
    whole = list(task.training(8, seed=1).between(0, 6))  # two epochs of three steps: 24 images
    assert not same(whole[:3], whole[3:])
    assert same(list(task.loading(2).training(8, seed=1).between(0, 6)), whole)
    assert same(list(task.loading(1).training(8, seed=1).between(4, 6)), whole[4:])
    assert not same(list(task.training(8, seed=2).between(0, 6)), whole)


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_processes_that_train_together_read_their_own_samples_and_no_others(pictures, mixup, monkeypatch):
    task = task_of(pictures, augmentation="crop+flip")
    soften = Softening(classes=2, smoothing=0.1, mixup=mixup, seed=3)
    whole = [soften(batch, step) for step, batch in enumerate(task.training(8, seed=1).between(0, 6))]
    reads, read = [], FolderItems.read
    monkeypatch.setattr(FolderItems, "read", lambda self, n, train: reads.append(n) or read(self, n, train))
    shares = [Share(rank, 3, bool(mixup)) for rank in range(3)]
    together = zip(*(task.training(8, seed=1).portions(0, 6, share) for share in shares), strict=True)
    for step, portions in enumerate(together):
        parts = [portion.own(lambda batch, step=step: soften(batch, step)) for portion in portions]
        assert [len(y) for _, y in parts] == [2, 3, 3]
        torch.testing.assert_close(torch.cat([x for x, _ in parts]), whole[step][0])
        torch.testing.assert_close(torch.cat([y for _, y in parts]), whole[step][1])
    assert len(reads) == 6 * (8 + 3 * bool(mixup))  # and the one that the first of each part is mixed with


def test_what_comes_before_a_resume_is_not_read():
    data = Noisy()
    task = Classification(load_or_stream({"train": data, "mean": 0, "std": 1}, ALL, val_images=8)).loading(0)
    data.reads.clear()
    whole = list(task.training(8, seed=0).between(0, 8))
    assert len(data.reads) == 64
    data.reads.clear()
    assert same(list(task.training(8, seed=0).between(6, 8)), whole[6:])
    assert len(data.reads) == 16


def test_the_users_transform_is_called_anew_each_epoch_and_its_draws_come_from_the_seed():
    task = Classification(load_or_stream({"train": Noisy(), "mean": 0, "std": 1}, ALL, val_images=8)).loading(0)
    assert task.data.augmentation == "none"  # it has its own
    first, second = (
        {int(y[0, 1, 1] * 255): y for x, _ in task.training(8, 0).between(e, e + 4) for y in x} for e in (0, 4)
    )
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[k], second[k]) for k in first)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    val = [list(task.once("val", 8)) for _ in range(2)]
    assert same(*val)  # scores come from the same images each time
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_every_part_of_a_sample_has_its_share_of_each_class():
    labels = np.array([0] * 70 + [1] * 20 + [2] * 10)
    order = stratified(labels, seed=4)
    assert sorted(order) == list(range(100))
    for count in (10, 30, 50, 99):
        shares = np.bincount(labels[order[:count]], minlength=3)
        assert abs(shares - count * np.array([0.7, 0.2, 0.1])).max() <= 1.5
    assert not np.array_equal(order, stratified(labels, seed=5))


def test_a_larger_sample_begins_with_the_smaller_one_and_is_read_once():
    data = Noisy()
    task = Classification(load_or_stream({"train": data}, ALL, val_images=8)).loading(0)
    data.reads.clear()
    few = task.draw("calibration", 8, seed=0).whole(8)
    more = task.draw("calibration", 12, seed=0).whole(12)
    assert torch.equal(more[0][:8], few[0])
    assert len(data.reads) == 12


def test_samples_that_are_kept_are_read_once():
    """Whatever the task is bound to: else each part of a search holds its own copy."""
    data = Noisy()
    task = Classification(load_or_stream({"train": data, "mean": 0, "std": 1}, ALL, val_images=8)).loading(0)
    first = list(task.draw("val", 6, 0).batches(3))
    bound = task.without("test").on(Compute(torch.device("cpu"), amp=False, channels_last=False)).loading(0)
    data.reads.clear()
    assert same(list(bound.draw("val", 6, 0).batches(3)), first)
    assert not data.reads
    bound.draw("val", 6, 1)
    assert len(data.reads) == 6  # another seed has other samples
    task.forget()
    data.reads.clear()
    assert same(list(bound.draw("val", 6, 0).batches(3)), first)
    assert len(data.reads) == 6


def test_a_sample_that_memory_does_not_hold_is_read_each_time(pictures, monkeypatch):
    task = task_of(pictures)
    kept = task.draw("val", 6, seed=0)
    monkeypatch.setattr("autoprune.tasks.streamed.free", lambda: 100)
    read = task.draw("val", 6, seed=0)
    assert isinstance(read, StreamedDraw)
    assert not isinstance(kept, StreamedDraw)
    assert same(list(read.batches(4)), list(kept.batches(4)))
    assert same(list(read.evenly(5)), list(kept.evenly(5)))
    assert same([read.whole(4)], [kept.whole(4)])


def test_the_whole_of_a_split_is_streamed_in_its_order(pictures):
    labels = [y for _, batch in task_of(pictures).once("test", 4) for y in batch.tolist()]
    assert labels == [0, 0, 1, 1, 1, 1]


def test_a_worker_gets_names_and_no_images(pictures):
    task = task_of(pictures, augmentation="none")
    task.draw("val", 6, seed=0), task.draw("calibration", 24, seed=0)
    sent = pickle.dumps(task.without("test"))
    assert len(sent) < 36 * 3 * SIZE * SIZE  # less than the pixels of images as tiny as these
    again = pickle.loads(sent)
    assert again.fingerprint == task.fingerprint
    assert same(list(again.training(8, 0).between(0, 3)), list(task.training(8, 0).between(0, 3)))


def test_a_worker_of_a_search_starts_no_more_loaders_than_it_has_threads(pictures):
    problem = SimpleNamespace(distances=None)
    for asked, got in ((8, 1), ("auto", 1), (0, 0)):
        config = RunConfig(data=f"imagefolder:{pictures}", data_memory="0", data_workers=asked)
        recipe = object.__new__(Recipe)
        vars(recipe).update(
            config=config, problem=problem, model=nn.Linear(1, 1), task=None, shared=None, weights="", images=""
        )
        assert recipe.build()[1].parts["train"].workers == got


def test_a_search_streams(pictures, here):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    told = {
        "budget": "macs<=60%", "trials": 2, "finalists": 0, "epochs": 1, "warm_starts": "none", "strategy": "random",
        "criterion": "l1", "fidelity": "proxy", "batch_size": 8, "device": "cpu", "progress": False, "data_workers": 0,
    }  # fmt: skip
    result = autoprune.search(net, f"imagefolder:{pictures}", name="run", data_memory="0", **told)
    assert result.metrics["pruned_test"].keys() >= {"loss", "top1"}
    assert sum(result.metrics["per_class"]["images"]) == 6
    assert RunConfig.read(result.run_dir / "config.toml")["data_memory"] == "0"
    again = autoprune.resume(result.run_dir, model=net, trials=3, progress=False)
    assert again.trial is not None


# What may befall.


def test_a_damaged_image_is_named_and_left_out_only_if_that_is_asked_for(folder):
    bad = folder / "train" / "b" / "07.png"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(
        ValueError, match=rf"data 'imagefolder:.*': '{bad}' is no readable image .*; repair it, remove it, or"
    ):
        list(task_of(folder).loading(1).training(8, 0).between(0, 3))
    task = task_of(folder, skip_damaged=True)
    batches = list(task.training(8, 0).between(0, 6))
    assert [len(y) for _, y in batches] == [8] * 6  # another one stands in
    assert task.skipped() == [str(bad)]
    assert same(list(task.loading(2).training(8, 0).between(3, 6)), batches[3:])


def test_damaged_images_of_data_in_memory_are_left_out_and_counted_too(folder):
    bad = folder / "train" / "a" / "03.png"
    bad.write_bytes(b"")
    data = autoprune.data.load(f"imagefolder:{folder}", skip_damaged=True)
    assert len(data.train) + len(data.val) == COUNT - 1
    assert Classification(data).skipped() == [str(bad)]
    with pytest.raises(ValueError, match=f"'{bad}' is no readable image"):
        load_or_stream(f"imagefolder:{folder}", ALL)  # before anything is decoded


def test_what_cannot_be_read_at_all_is_no_data(folder):
    for path in folder.glob("train/*/*.png"):
        path.write_bytes(b"x")
    for limit in (0, 1e9):
        with pytest.raises(ValueError, match="can be read"):
            load_or_stream(f"imagefolder:{folder}", Streaming(limit), skip_damaged=True)


def test_a_file_that_vanishes_or_changes_between_epochs_is_named(folder):
    task, paths = task_of(folder), sorted(folder.glob("train/*/*.png"))
    training = task.training(24, 0)
    assert len(list(training.between(0, 1))) == 1
    read = [int(n) for n in task.parts["train"].selection.numbers]
    paths[read[0]].unlink()
    with pytest.raises(ValueError, match=rf"'{paths[read[0]]}' was listed and cannot be read"):
        list(training.between(1, 2))
    shutil.copy(paths[read[1]], paths[read[0]])
    with pytest.raises(ValueError, match=rf"'{paths[read[0]]}' has changed since the files were listed"):
        list(training.between(1, 2))


def test_the_fingerprint_sees_names_classes_sizes_and_some_contents(folder, monkeypatch):
    first = task_of(folder).fingerprint
    assert task_of(folder).fingerprint == first
    os.utime(folder / "train" / "a" / "00.png", (1, 1))  # copies have other times
    assert task_of(folder).fingerprint == first
    (folder / "train" / "a" / "00.png").rename(folder / "train" / "a" / "0.png")
    assert task_of(folder).fingerprint != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :4], r"train: item 5 is \[3, 4, 8\] but the first is \[3, 8, 8\] \(C, H, W\); resize them"),
        (lambda x: x.float() * 9 - 3, r"train: item 5: pixels must be bytes \(uint8\) or floats in 0..1"),
        (lambda x: x.tolist(), r"train: item 5: expected a PIL image"),
        (lambda x: 1 / 0, r"train: item 5 failed with ZeroDivisionError"),
    ],
)
def test_a_transform_that_gives_something_else_is_named(change, message):
    class Odd(Noisy):
        targets = TARGETS
        late = False

        def __getitem__(self, i):
            image, label = super().__getitem__(i)
            return (change(image) if self.late and i == 5 else image), label

    data = Odd()
    task = Classification(load_or_stream({"train": data, "val": Noisy(8)}, ALL))
    data.late = True  # seen while it trains
    for workers in (0, 1):
        with pytest.raises(ValueError, match=message):
            list(task.loading(workers).training(8, 0).between(0, 5))
    with pytest.raises(ValueError, match=message):  # seen before: one of the items that are looked at
        load_or_stream({"train": data, "val": Noisy(8)}, ALL)


def test_a_length_that_lies_is_seen_before_the_search():
    with pytest.raises(ValueError, match=r"train: says that it has 50 items, but has no item 49 \(IndexError\)"):
        load_or_stream(Noisy(count=40, shown=50), ALL)
    loader = DataLoader(Noisy(count=40, shown=50), batch_size=8)
    task = Task.of(train=loader, val=loader, loss=torch.nn.functional.cross_entropy)
    with pytest.raises(ValueError, match=r"train: its data set says that it has 50 items, but has no item 49"):
        check_loaders(task)


def test_a_generator_of_its_own_makes_a_transform_inexact():
    class Own(Noisy):
        draws = np.random.default_rng(0)

        def __getitem__(self, i):
            image, label = super().__getitem__(i)
            return image + int(self.draws.integers(2)), label

    exact, own = (Classification(load_or_stream({"train": kind(), "val": kind(8)}, ALL)) for kind in (Noisy, Own))
    assert reproducible(exact)
    assert not reproducible(own)  # and the user is told that a resume will not be


def test_labels_are_told_by_the_data_set_or_read_once():
    told = TensorDataset(torch.zeros(20, 3, SIZE, SIZE, dtype=torch.uint8), torch.arange(20) % 2)
    read = Classification(load_or_stream({"train": told, "classes": ["a", "b"]}, ALL, val_images=4))
    assert sorted(read.parts["train"].labels.tolist() + read.parts["val"].labels.tolist()) == [0] * 10 + [1] * 10
    data = Noisy()
    data.targets = [i % 2 for i in range(40)]
    load_or_stream({"train": Subset(data, range(10, 30)), "val": Noisy(8)}, ALL)
    assert len(data.reads) < 20 * 5  # a few to look at, not all of them again
    data.targets = [0] * 40  # it lies: so all are read
    task = Classification(load_or_stream({"train": data, "val": Noisy(8)}, ALL))
    assert task.parts["train"].labels.tolist() == [i % 2 for i in range(40)]


def victims(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def test_where_a_loader_is_killed_others_make_the_same_batches(pictures):
    task = task_of(pictures).loading(2)
    whole = list(task.loading(0).training(8, 0).between(0, 9))
    before, found = set(victims(os.getpid())), []
    for batch in task.training(8, 0).between(0, 9):
        found.append(batch)
        if len(found) == 2:
            os.kill((set(victims(os.getpid())) - before).pop(), signal.SIGKILL)
    assert same(found, whole)
    assert signal.getsignal(signal.SIGCHLD) in (signal.SIG_DFL, signal.SIG_IGN)  # torch's would raise anywhere


class Deadly(Noisy):
    """Whoever reads it in a worker process is killed."""

    targets = TARGETS

    def __getitem__(self, i):
        if torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(i)


def test_loaders_that_are_killed_again_and_again_are_an_error_and_no_hang(monkeypatch):
    monkeypatch.setattr(loading, "DEATHS", 1)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    task = Classification(load_or_stream({"train": Deadly(), "val": Noisy(8)}, ALL)).loading(1)
    with pytest.raises(
        ValueError, match=r"train: the processes that load batches have been killed 2 times .*fewer --data-"
    ):
        list(task.training(8, 0).between(0, 4))
    loader = DataLoader(Deadly(), batch_size=8, num_workers=1)
    own = Task.of(train=loader, val=loader, loss=torch.nn.functional.cross_entropy)
    with pytest.raises(ValueError, match=r"train: a worker process of the loader was killed at batch 0 of epoch 0"):
        list(own.training(8, 0).between(0, 4))


# Augmentation.


def test_augmentations_are_named():
    assert augmentation_steps("crop-flip") == ("crop", "flip")
    assert augmentation_steps("none") == ()
    assert augmentation_steps("random-resized-crop+flip+randaugment") == ("random-resized-crop", "flip", "randaugment")
    for text, message in (
        ("zoom", "unknown augmentation 'zoom'; known: crop-flip, none, or some of crop, flip, random-resized-crop"),
        ("crop+random-resized-crop", "crops twice"),
        ("flip+flip", "names a step twice"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            autoprune.data.load("digits", augmentation=text)


def test_random_resized_crops_are_of_the_whole_image(folder):
    wide = Image.new("RGB", (64, 16), (0, 0, 0))
    wide.paste((250, 250, 250), (0, 0, 8, 16))  # the middle, which is used as it is, does not show it
    for path in folder.glob("train/*/*.png"):
        wide.save(path)
    task = task_of(folder, image_size=16, augmentation="random-resized-crop")
    assert max(float(x.max()) for x, _ in task.training(8, 0).between(0, 3)) > 0.5
    assert float(task.draw("calibration", 8, 0).whole(8)[0].max()) == 0


def test_images_in_memory_take_the_same_augmentations():
    images = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8)
    state = torch.get_rng_state()
    one, other = (
        augment(images, "random-resized-crop+randaugment", torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(one, other)
    assert one.shape == images.shape
    assert not torch.equal(one, images)
    assert torch.equal(torch.get_rng_state(), state)


# Images and masks.


@pytest.fixture
def masked(tmp_path):
    """24 training pairs and 6 test pairs of 8 px; masks of classes 0 to 2, and 255 for void."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 6)):
        for kind, shape, values in (("images", (SIZE, SIZE, 3), 256), ("masks", (SIZE, SIZE), 3)):
            (tmp_path / part / kind).mkdir(parents=True)
            for n in range(count):
                pixels = rng.integers(0, values, shape).astype(np.uint8)
                pixels[0, 0] = 255
                Image.fromarray(pixels).save(tmp_path / part / kind / f"{n:02}.png")
    return tmp_path


def test_a_folder_of_masks_is_streamed_into_the_batches_of_memory(masked):
    streamed, memory = (built_in(f"segmentation:{masked}", {}, limit).loading(0) for limit in (0, 1e9))
    assert streamed.num_classes == memory.num_classes == 3
    assert streamed.about() == streamed.about_streams()
    assert not memory.about()
    assert (streamed.count("train"), streamed.count("val"), streamed.count("test")) == (22, 2, 6)
    assert same(list(streamed.training(8, 0).between(0, 6)), list(memory.training(8, 0).between(0, 6)))
    assert same(list(streamed.loading(1).training(8, 0).between(3, 6)), list(memory.training(8, 0).between(3, 6)))
    assert same(list(streamed.once("test", 4)), list(memory.once("test", 4)))
    assert len(pickle.dumps(streamed)) < 30 * 4 * SIZE * SIZE
    streamed._augment = lambda images, masks, draws: (images + torch.rand(len(images), generator=draws)[0], masks)
    whole, part = streamed.training(8, 0), Share(1, 2)  # drawn for a batch as a whole, so all of it is read
    own = [portion.own() for portion in whole.portions(0, 3, part)]
    assert same(own, [(x[4:], y[4:]) for x, y in whole.between(0, 3)])


def everything(task):
    return [*task.loading(0).training(8, 0).between(0, 9), *task.once("val", 8)]


@pytest.mark.parametrize("limit", [0, 1e9])
def test_a_damaged_mask_is_named_and_left_out_only_if_that_is_asked_for(masked, limit):
    bad = masked / "train" / "masks" / "05.png"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(ValueError, match=rf"'{bad}' is no readable image"):
        everything(built_in(f"segmentation:{masked}", {"num_classes": 3}, limit))
    task = built_in(f"segmentation:{masked}", {"skip_damaged": True}, limit).loading(0)
    assert {len(masks) for _, masks in everything(task)[:9]} == {8}
    assert task.skipped() == [str(masked / "train" / "images" / "05.png")]


def test_masks_that_do_not_fit_are_named(masked):
    odd = masked / "test" / "masks" / "03.png"
    Image.new("L", (SIZE, SIZE), 7).save(odd)
    task = built_in(f"segmentation:{masked}", {}, 0).loading(0)
    with pytest.raises(ValueError, match=rf"'{odd}': masks run from 0 to 2 with 3 classes, found 7"):
        list(task.once("test", 4))
    Image.new("L", (SIZE, 4), 1).save(odd)
    task = built_in(f"segmentation:{masked}", {}, 0).loading(0)
    with pytest.raises(ValueError, match=r"its mask \[4, 8\] and the first image \[8, 8\]"):
        list(task.once("test", 4))


# Images and boxes.


@pytest.fixture
def boxed(tmp_path):
    """12 training and 4 validation images of two sizes, with a box or two of two classes each, as COCO has them."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("val", 4)):
        (tmp_path / part / "images").mkdir(parents=True)
        images, boxes = [], []
        for n in range(count):
            size = (40, 32) if n % 2 else (32, 32)
            pixels = rng.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / "images" / f"{n:02}.png")
            images.append({"id": n, "file_name": f"{n:02}.png", "width": size[0], "height": size[1]})
            boxes += [{"image_id": n, "category_id": 1 + k, "bbox": [4 * k + 1, 3, 10, 12]} for k in range(1 + n % 2)]
        said = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}
        (tmp_path / part / "annotations.json").write_text(json.dumps(said))
    return tmp_path


def boxes_of(batches):
    return [
        (image, *target.values()) for images, targets in batches for image, target in zip(images, targets, strict=True)
    ]


def equal(one, other):
    return len(one) == len(other) and all(all(map(torch.equal, a, b)) for a, b in zip(one, other, strict=True))


def test_a_folder_of_boxes_is_streamed(boxed):
    streamed, memory = (built_in(f"detection:{boxed}", {"batch_size": 4}, limit).loading(0) for limit in (0, 1e9))
    assert type(streamed).__name__ == "StreamedDetection"
    assert type(memory).__name__ == "Detection"
    assert streamed.num_classes == memory.num_classes == 3
    assert equal(boxes_of(streamed.once("val", 99)), boxes_of(memory.once("val", 99)))
    whole = [boxes_of([batch]) for batch in streamed.training(128, 0).between(0, 6)]
    assert [len(batch) for batch in whole] == [4] * 6
    own = [portion.own() for portion in streamed.training(128, 0).portions(0, 6, Share(1, 2))]
    assert all(equal(boxes_of([part]), batch[2:]) for part, batch in zip(own, whole, strict=True))
    later = [boxes_of([batch]) for batch in streamed.loading(1).training(128, 0).between(4, 6)]
    assert all(map(equal, later, whole[4:]))
    first, second = (sorted(float(image.mean()) for b in epoch for image, *_ in b) for epoch in (whole[:3], whole[3:]))
    assert first == pytest.approx(second)  # the same images, mirrored or not
    draw = streamed.draw("calibration", 6, 0)
    assert [len(images) for images, _ in draw.batches(128)] == [4, 2]
    assert len(draw.whole(3)[0]) == 3
    assert pickle.loads(pickle.dumps(streamed)).fingerprint == streamed.fingerprint != memory.fingerprint
    assert streamed.example()[0][0].shape[0] == 3


@pytest.mark.parametrize("limit", [0, 1e9])
def test_a_damaged_picture_is_named_and_left_out_only_if_that_is_asked_for(boxed, limit):
    bad = boxed / "train" / "images" / "03.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(ValueError, match=rf"'{bad}' is no readable image"):
        list(built_in(f"detection:{boxed}", {}, limit).loading(0).training(4, 0).between(0, 9))
    task = built_in(f"detection:{boxed}", {"skip_damaged": True, "batch_size": 4}, limit).loading(0)
    list(task.training(4, 0).between(0, 3))
    assert task.skipped() == [str(bad)]
