"""Bad input: exit code 2 and one sentence that says what, what was expected and the way out; nothing is left behind."""

import os
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import autoprune
from autoprune.cli import main
from autoprune.data import ImageData, Split
from autoprune.ledger.locks import FileLock
from search_spaces.models import digits_cnn

MODEL = "search_spaces.models:digits_cnn"
QUICK = ["--trials=5", "--finalists=0", "--epochs=0", "--criterion=l1", "--device=cpu"]


@pytest.fixture
def files(here, digits_weights):
    """Files that some of the cases name."""
    state = load_file(digits_weights)
    save_file({f"net.{k}": v for k, v in state.items()}, here / "prefixed.safetensors")
    save_file(
        {k: torch.full_like(v, float("nan")) if v.is_floating_point() else v for k, v in state.items()},
        here / "nan.safetensors",
    )
    save_file(state, here / "good.safetensors")
    (here / "bad.toml").write_text("trials = = 3")
    (here / "empty").mkdir()
    (here / "one/train/cat").mkdir(parents=True)
    (here / "one/test/cat").mkdir(parents=True)
    from PIL import Image

    for place in ("train", "test"):
        for i in range(12):
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(here / f"one/{place}/cat/{i}.png")
    (here / "mine.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def linear(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "def leave(): raise SystemExit(0)\n"
        "class Leaving(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(1, 4, 3)\n"
        "    def forward(self, x): raise SystemExit(0)\n"
        "def nan(logits, labels): return torch.full((len(labels),), float('nan'))\n"
        "class NotAStrategy: pass\n"
        "X, Y = torch.zeros(40, 8, 8, 1, dtype=torch.uint8), torch.arange(40) % 10\n"
        "def rooted(root): return (X, Y), None\n"
        "def one_pair(): return X, Y\n"
        "def channels_last(): return (X, Y), None\n"
        "def one_hot(): return (X.permute(0, 3, 1, 2), nn.functional.one_hot(Y)), None\n"
        "class Fixed(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 10)\n"
        "    def forward(self, x):\n"
        "        assert x.shape[-1] == 32\n"
        "        return self.fc(self.conv(x).mean((2, 3)))\n"
    )
    (here / "results").mkdir()
    (here / "results/taken").mkdir()
    return here


CASES = {
    "budget that cannot be read": (["--budget=half"], r"budget 'half': expected <cost><=<limit>, e\.g\. macs<=50%"),
    "unknown budget metric": (
        ["--budget=watts<=50%"],
        r"budget 'watts<=50%': unknown cost 'watts'; known: activations, latency, macs",
    ),
    "scores per a cost that is none": (
        ["--score-per=watts"],
        r"score_per 'watts': must be none or a cost of this run \(activations, macs, params\)",
    ),
    "unreachable budget": (
        ["--budget=macs<=0.01%"],
        r"budget 'macs<=0\.01%': unreachable, the smallest network of this space",
    ),
    "one of two budgets for one metric unreachable": (
        ["--budget=macs<=50%", "--budget=macs<=0.01%"],
        r"budget 'macs<=0\.01%': unreachable",
    ),
    "one of two budgets unreachable": (
        ["--budget=macs<=50%", "--budget=params<=20"],
        r"budget 'params<=20': unreachable",
    ),
    "input that does not fit": (["--input=1x3x8x8"], r"example inputs of shape \(1, 3, 8, 8\) do not fit DigitsCNN"),
    "input that is no shape": (["--input=large"], r"input 'large': expected a shape such as 1x3x224x224"),
    "nothing to prune": (["--model=mine:linear", "--weights="], r"has no group of channels that can be pruned"),
    "outputs and classes differ": (["--model-args=num_classes=3", "--weights="], r"expected one output per class, 10"),
    "images of another kind": (
        ["--model-args=in_channels=3", "--weights=", "--input=1x3x8x8"],
        r"cannot take the images of 'digits'",
    ),
    "factory that exits": (
        ["--model=mine:leave", "--weights="],
        r"'mine:leave': the factory failed with sys\.exit",
    ),
    "network that exits": (["--model=mine:Leaving", "--weights="], r"do not fit Leaving .*SystemExit"),
    "metric that is another function": (
        ["--metric=os:system"],
        r"metric 'os:system' failed on the outputs of .* images with TypeError",
    ),
    "images that the network asserts against": (
        ["--model=mine:Fixed", "--weights=", "--input=1x1x32x32"],
        r"model 'mine:Fixed': cannot take the images of 'digits' \(1x8x8: AssertionError\); give other data",
    ),
    "argument that no file can say": (
        ["--model-args=act=b'x'"],
        r"model_args: act=b'x' cannot be written to the run's",
    ),
    "checkpoint of another model": (
        ["--weights=prefixed.safetensors"],
        r"keys do not fit the model: '.*' is missing; 'net\..*' is not in the model; '.*' is missing; give",
    ),
    "checkpoint that is not there": (["--weights=nowhere.pt"], r"weights 'nowhere\.pt': no such file"),
    "checkpoint of NaN": (["--weights=nan.safetensors"], r"with NaN or infinity; check its weights"),
    "model that is not there": (["--model=nowhere:net"], r"model 'nowhere:net': .*No module named 'nowhere'"),
    "model without a factory": (["--model=resnet18"], r"model 'resnet18': expected package\.module:factory"),
    "unknown data": (["--data=imagenet"], r"unknown data 'imagenet'; known: digits, cifar10:DIR"),
    "data without images": (["--data=imagefolder:empty"], r"empty"),
    "data with one class": (["--data=imagefolder:one"], r"found 1 class|at least two|one class"),
    "unknown data argument": (
        ["--data-args=colour=1"],
        r"data_args: unknown colour; known: augmentation, image_size, ",
    ),
    "mean that is no number": (
        ["--data-args=mean=none"],
        r"mean must be a number or one number per channel, got 'none'; .*give mean=0 std=1 for pixels of 0\.\.1",
    ),
    "mean of three channels": (["--data-args=mean=0,0,0"], r"one number for each of the 1 image channels"),
    "number of images that is none": (["--data-args=max_images=1e3"], r"max_images must be at least 1 and whole, got"),
    "data function that needs arguments": (["--data=mine:rooted"], r"must take no arguments, but needs root; give"),
    "data function that returns one pair": (
        ["--data=mine:one_pair"],
        r"must return \(train, test\), .* got \(Tensor \[40, 8, 8, 1\], Tensor \[40\]\)",
    ),
    "images with the channels last": (["--data=mine:channels_last"], r"must be \[N, C, H, W\] .* give .*permute"),
    "one-hot labels": (["--data=mine:one_hot"], r"labels must be \[N\] class numbers, .* give labels\.argmax\(1\)"),
    "unknown strategy": (
        ["--strategy=luck"],
        r"unknown strategy 'luck'; known: .*evolution.*, or give package\.module:Name",
    ),
    "plug-in that is no strategy": (
        ["--strategy=mine:NotAStrategy"],
        r"strategy 'mine:NotAStrategy': expected a subclass",
    ),
    "unknown criterion": (["--criterion=luck"], r"unknown criterion 'luck'; known: .*group_fisher"),
    "unknown metric": (["--metric=luck"], r"unknown metric 'luck'; known: loss, top1"),
    "metric that is NaN": (
        ["--metric=mine:nan"],
        r"metric 'mine:nan': must be a finite number for the dense network, but is nan",
    ),
    "unknown group": (["--freeze=conv99"], r"freeze: unknown group 'conv99'; known: stem\.0"),
    "unknown device": (["--device=tpu9"], r"device 'tpu9': not usable here"),
    "setting out of range": (["--min-keep=7"], r"min_keep: must lie between 0 and 1, got 7\.0"),
    "infinite epochs": (["--epochs=inf"], r"epochs: must be at most 10,000, got inf"),
    "infinite learning rate": (["--lr=inf"], r"lr: must be at most 1,000, got inf"),
    "learning rate that is no number": (["--lr=nan"], r"lr: must lie between 0 and 1,000, got nan"),
    "negative seed": (["--seed=-1"], r"seed: must be at least 0, got -1"),
    "large seed": ([f"--seed={10**23}"], r"seed: must be at most 4,294,967,295, got 1000"),
    "too many trials": ([f"--trials={10**12}"], r"trials: must be at most 10,000,000, got 10000000000"),
    "too large batches": ([f"--batch-size={10**9}"], r"batch_size: must be at most 10,000,000, got"),
    "endless patience": (["--timeout=inf"], r"timeout: must be at most 10,000,000, got inf"),
    "floor that is no number": (["--min-keep=nan"], r"min_keep: must lie between 0 and 1, got nan"),
    "far too many workers": (["--workers=100000"], r"workers: must be at most 10,000, got 100000"),
    "too many workers for this machine": (
        ["--workers=9999"],
        r"workers: 9999 are far more than \d+ CPU cores can serve",
    ),
    "infinite target": (["--target=loss<=1e999"], r"target|expected top1"),
    "seed of the data": ([f"--data-args=seed={10**23}"], r"data 'digits': seed must be a whole number from 0 to 4,294"),
    "input larger than the machine": (
        ["--input=1x1x99999x99999"],
        r"input '1x1x99999x99999': to run the network on it takes about [\d,]+ GB of memory, and this machine",
    ),
    "input beyond all numbers": ([f"--input=1x1x{10**30}x8"], r"input '.*': to run the network on it takes about"),
    "input with an empty side": (["--input=1x1x0x8"], r"input '1x1x0x8': expected a shape such as 1x3x224x224"),
    "device without numbers": (["--device=meta"], r"device 'meta': not usable here"),
    "CPU of another number": (["--device=cpu:3"], r"device 'cpu:3': not usable here \(there is one CPU\)"),
    "name of two lines": (["--name=a\nb"], r"name: must be one line of visible characters, got 'a\\nb'"),
    "name of nothing": (["--name=a\0b"], r"name: must be one line of visible characters, got 'a\\x00b'"),
    "name that is no text": (["--name=a\udcff"], r"name: must be one line of visible characters, got 'a\\udcff'"),
    "name of dots": (["--name=.."], r"name '\.\.': must not end in dots or blanks only; choose another --name"),
    "path that ends in dots": (["--name=results/../.."], r"name '.*': must not end in dots or blanks only"),
    "name that is the root": (["--name=/"], r"name '/': must not end in dots or blanks only"),
    "name of blanks": (["--name=  "], r"name ' +': must not end in dots or blanks only"),
    "name like a flag": (["--name=-x"], r"name '-x': must not begin with a dash"),
    "long name": (["--name=" + 300 * "x"], r"name 'x+': must have at most 216 bytes, has 300"),
    "weights with a long name": (["--weights=" + 300 * "x"], r"weights 'x+': no such file"),
    "data with a long name": (["--data=imagefolder:" + 300 * "x"], r"no directory 'x+'"),
    "configuration that is not TOML": (["--config=bad.toml"], r"configuration 'bad\.toml': not valid TOML"),
    "directory that exists": (
        ["--name=taken"],
        r"run 'results/taken': something else is there already; choose another --name",
    ),
    "database with a password": (
        ["--ledger=postgresql://me:secret@host/db"],
        r"ledger 'postgresql://me:.*@host/db': the password would be kept in config\.toml; leave it out",
    ),
    "database that is none": (["--ledger=books.db"], r"ledger 'books\.db': not the address of a database"),
    "database that cannot be used": (["--ledger=sqlite:///nowhere/books.db"], r"ledger 'sqlite.*': no connection"),
    "directory that cannot be made": (["--name=/proc/nothing/run"], r"'/proc/nothing/run': cannot be written"),
}


def tree(root):
    return {p: p.stat().st_mtime_ns for p in root.rglob("*") if "__pycache__" not in p.parts and p.is_file()} | {
        p: 0 for p in root.rglob("*") if p.is_dir() and p.name != "__pycache__"
    }


@pytest.mark.parametrize(("flags", "message"), CASES.values(), ids=CASES)
def test_the_command_line_refuses(flags, message, files, capsys):
    before = tree(files)
    arguments = ["search", f"--model={MODEL}", "--weights=good.safetensors", "--data=digits", *QUICK, *flags]
    assert main(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("autoprune: ")
    assert text.count("\n") == 1
    import re

    assert re.search(message, text), text
    assert tree(files) == before


def test_onnx_without_its_packages_is_refused_before_the_search(files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    before = tree(files)
    assert main(["search", f"--model={MODEL}", "--data=digits", *QUICK, "--onnx"]) == 2
    assert capsys.readouterr().err == "autoprune: --onnx: needs onnxscript; pip install 'autoprune[onnx]'\n"
    assert tree(files) == before


def test_python_refuses_with_a_value_error(here):
    for arguments, message in (
        ({"budget": "macs<=0.01%"}, "unreachable"),
        ({"strategy": "luck"}, "unknown strategy"),
        ({"example_inputs": torch.zeros(1, 3, 8, 8)}, "do not fit"),
        ({"trails": 3}, "did you mean 'trials'"),
    ):
        with pytest.raises(ValueError, match=message):
            autoprune.search(digits_cnn(), "digits", criterion="l1", **arguments)
    with pytest.raises(ValueError, match="no group of channels that can be pruned"):
        autoprune.search(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "digits")
    assert list(here.iterdir()) == []


class Pair(nn.Module):
    """A network that is called with more than tensors."""

    def __init__(self):
        super().__init__()
        self.net = digits_cnn()

    def forward(self, x, again=None, more=None):
        return self.net(x)


@pytest.mark.parametrize(
    "example",
    [
        (torch.zeros(1, 1, 8, 8), None),
        (torch.zeros(1, 1, 8, 8), 3),
    ],
    ids=["None", "number"],
)
def test_an_example_that_cannot_be_kept_is_refused(example, here):
    with pytest.raises(ValueError, match=r"example_inputs: '.*' is of kind \w+, but only dense tensors can be kept"):
        autoprune.search(Pair(), "digits", example_inputs=example)
    assert list(here.iterdir()) == []


def test_example_inputs_in_the_same_memory_are_kept(here):
    x = torch.zeros(1, 1, 8, 8)
    settings = {"trials": 1, "finalists": 0, "epochs": 0, "criterion": "l1", "device": "cpu", "name": "run"}
    result = autoprune.search(Pair(), "digits", example_inputs=[x, x], **settings)
    one, other = autoprune.runs.RunDirectory.open(result.run_dir).example()
    assert torch.equal(one, x)
    assert torch.equal(other, x)


def test_a_run_that_is_refused_before_its_first_trial_leaves_nothing(here, monkeypatch):
    class Local(nn.Sequential):
        pass  # cannot be sent to another process

    with pytest.raises(ValueError, match="cannot be sent to another process"):
        autoprune.search(Local(digits_cnn()), "digits", criterion="l1", workers=1, device="cpu")
    assert list(here.iterdir()) == []
    monkeypatch.setattr("autoprune.strategies.opening.warm_starts", lambda _: [(1,)])
    settings = {"criterion": "l1", "device": "cpu", "ledger": f"sqlite:///{here}/books.db", "name": "run"}
    with pytest.raises(ValueError, match="finite widths, got"):
        autoprune.search(digits_cnn(), "digits", **settings)
    assert list((here / "results").iterdir()) == []
    monkeypatch.undo()
    os.chdir(here)
    quick = {"trials": 1, "finalists": 0, "epochs": 0}
    assert autoprune.search(digits_cnn(), "digits", **settings, **quick).trial.number == 0
    (here / "results").rename(here / "moved")
    with pytest.raises(ValueError, match=r"study 'run': is in .* already; resume its run, or choose another name"):
        autoprune.search(digits_cnn(), "digits", **settings, **quick)
    assert not (here / "results").exists()


def test_data_without_images_is_refused():
    part = Split(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="no train images found"):
        ImageData(part, part, part, (0.5,), (0.5,), ("a", "b"), spec="mine")


def test_a_run_that_exists_is_not_overwritten(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    before = tree(finished)
    assert main(["search", f"--model={MODEL}", "--data=digits", "--name=run"]) == 2
    assert (
        "run 'results/run': exists already; `autoprune resume results/run`, or choose another --name"
        in capsys.readouterr().err
    )
    assert tree(finished) == before


def test_a_run_of_another_problem_is_not_resumed(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    original = (finished / "w.safetensors").read_bytes()
    state = load_file(finished / "w.safetensors")
    save_file({k: v + 1 if k == "linear.bias" else v for k, v in state.items()}, finished / "w.safetensors")
    try:
        assert main(["resume", "results/run"]) == 2
    finally:
        (finished / "w.safetensors").write_bytes(original)
    text = capsys.readouterr().err
    assert "was begun with another problem: weights is" in text
    assert text.count("\n") == 1


def test_a_run_that_is_being_written_is_left_alone(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    lock = FileLock(finished / "results/run/.lock", "test")
    try:
        assert main(["resume", "results/run"]) == 2
    finally:
        lock.release()
    assert "is being written by another controller (process" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["resume", "status", "report", "export", "finetune"])
def test_a_directory_that_is_no_run_is_named(verb, finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    assert main([verb, "results/other"]) == 2
    assert (
        "run 'results/other': expected the directory of a run, but it has no config.toml; runs here: run"
        in capsys.readouterr().err
    )


def test_a_trial_that_is_not_there_is_named(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished)
    assert main(["export", "results/run", "--trial=99"]) == 2
    assert "has no trial 99 among its" in capsys.readouterr().err


SEARCH = ["autoprune", "search", f"--model={MODEL}", "--weights=w.safetensors", "--data=digits", *QUICK]


def test_a_full_disk_at_the_start_leaves_nothing(finished, start):
    before = tree(finished)
    done = start(finished, *SEARCH, "--name=full", most_bytes=300).end()
    assert done.code == 2, done
    assert "'results/full': cannot be written (File too large)" in done.err
    assert "Traceback" not in done.err
    assert tree(finished) == before


def test_a_full_disk_on_the_way_leaves_a_run_that_resumes(finished, start):
    done = start(finished, *SEARCH, "--name=filling", most_bytes=6000).end()
    assert done.code == 2, done
    assert "Traceback" not in done.err
    again = start(finished, "autoprune", "resume", "results/filling").end()
    assert again.code == 0, again
    assert (finished / "results/filling/best/architecture.json").is_file()
