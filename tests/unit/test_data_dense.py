"""What is said of the dense network before a search: its normalisation, its accuracy, and a warning near chance."""

import re
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import autoprune
from autoprune import data as data_sets
from autoprune.cli import main
from autoprune.config import RunConfig
from autoprune.data.sources import IMAGENET
from autoprune.evaluation import measure
from autoprune.report import RunProgress
from autoprune.runs import about_dense, dense_warning, prepare, stale_statistics
from autoprune.runs.dense import unused_layers
from autoprune.tasks.classification import is_near_chance
from autoprune.training import TrainingSettings, finetune
from search_spaces import trace
from search_spaces.models import digits_cnn

QUICK = {"criterion": "l1", "trials": 1, "finalists": 0, "epochs": 0, "warm_starts": "none", "device": "cpu"}
WARNING = r"warning: the dense network does hardly better than chance on these images \(top-1 "


class Said(RunProgress):
    """Keeps what is said."""

    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture(scope="module")
def trained(digits_weights):
    from autoprune.reference import ModelReference

    return ModelReference("search_spaces.models:digits_cnn", {}, str(digits_weights)).build()


@pytest.fixture(scope="module")
def of_plain_pixels():
    """A network that was trained on pixels of 0..1, left as they are."""
    torch.manual_seed(0)
    model = digits_cnn()
    data = data_sets.load("digits", mean=0, std=1).without_test()
    finetune(model, data, TrainingSettings(epochs=4, batch_size=64, lr=0.05, device="cpu", amp="off"))
    return model.cpu()


def spoilt(model, how):
    """The network with another last layer."""
    other = digits_cnn()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for parameter in other.linear.parameters():
            parameter.copy_(how(parameter))
    return other.eval()


def test_the_profile_says_what_the_search_will_say(trained, here):
    data, said = data_sets.load("digits"), Said()
    prepared = prepare(RunConfig.make(**QUICK), trained, data)
    found = measure(prepared.model, data, "val", device="cpu")
    normalised, dense = about_dense(prepared)
    assert normalised == "images normalised: mean 0.305, std 0.376 (of the digits)"
    assert dense == f"dense network: loss {found['loss']:.4f}, top-1 {found['top1']:.4f} on 143 validation images"
    autoprune.search(trained, data, progress=said, name="run", **QUICK)
    assert f"dense: loss {found['loss']:.4f}, top-1 {found['top1']:.4f} on the validation images" in said.lines[0]
    assert said.lines[1] == normalised
    assert not [line for line in said.lines if "warning" in line]


def test_the_profile_never_looks_at_the_test_images(trained):
    data = data_sets.load("digits")
    blind = data_sets.load("digits", test=False)
    assert about_dense(prepare(RunConfig.make(**QUICK), trained, data)) == about_dense(
        prepare(RunConfig.make(**QUICK), trained, blind)
    )


def test_another_metric_does_not_change_what_is_doubted(trained):
    prepared = prepare(RunConfig.make(**QUICK | {"metric": "top1"}), trained, data_sets.load("digits"))
    assert dense_warning(prepared) == ""


def other_statistics(model, change):
    """The network with other running statistics."""
    other = digits_cnn()
    other.load_state_dict(model.state_dict())
    for norm in (module for module in other.modules() if isinstance(module, nn.BatchNorm2d)):
        change(norm)
    return other.eval()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda norm: norm.reset_running_stats(),
            r"block1.1 \(its inputs spread 0\.\d+ times as wide as",
        ),
        (lambda norm: norm.running_mean.add_(norm.running_var.sqrt()), r"stem.1 \(their mean is off by 1 standard dev"),
        (lambda norm: norm.running_var.mul_(100), r"stem.1 \(its inputs spread 0\.\d+ times as wide"),
    ],
    ids=["never updated", "means", "variances"],
)
def test_statistics_of_other_data_are_told_with_what_they_cost(trained, change, words):
    stale = other_statistics(trained, change)
    prepared = prepare(RunConfig.make(data="digits", **QUICK), stale)
    before, said = {name: t.clone() for name, t in stale.state_dict().items()}, stale_statistics(prepared)
    assert re.search(words, said)
    loss, repaired = (float(x) for x in re.search(r"loss (\S+) as it comes, and (\S+) once", said).groups())
    assert loss == pytest.approx(measure(stale, prepared.task, "val", device="cpu")["loss"], rel=1e-3)
    assert repaired < 0.5 < loss
    assert all(torch.equal(t, before[name]) for name, t in prepared.model.state_dict().items())


def test_statistics_that_fit_cost_one_batch_and_none_cost_nothing(trained, monkeypatch):
    seen = []
    prepared = prepare(RunConfig.make(data="digits", **QUICK), trained)
    plain = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    plain = prepare(RunConfig.make(data="digits", **QUICK), plain)
    for network in (prepared.model, plain.model):
        network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    assert stale_statistics(prepared) == ""
    assert seen == [128]
    assert stale_statistics(plain) == ""
    assert seen == [128]


@pytest.mark.parametrize(
    "how",
    [torch.zeros_like, lambda p: p.roll(3, 0), torch.randn_like],
    ids=["no weights", "another order of classes", "random"],
)
def test_a_network_that_knows_nothing_is_doubted_in_profile_and_search(trained, how, here):
    model, data, said = spoilt(trained, how), data_sets.load("digits"), Said()
    prepared = prepare(RunConfig.make(**QUICK), model, data)
    *_, last = about_dense(prepared)
    assert re.match(WARNING, last)
    assert last.endswith("wrong weights, wrong mean/std or another order of the classes?")
    autoprune.search(model, data, progress=said, name="run", **QUICK)
    assert said.lines[2] == last


def test_the_way_out_is_named_where_plain_pixels_do_far_better(of_plain_pixels):
    wrong = data_sets.load("digits", mean=3, std=0.2)
    *_, last = about_dense(prepare(RunConfig.make(**QUICK), of_plain_pixels, wrong))
    right = data_sets.load("digits", mean=0, std=1)
    top1 = measure(of_plain_pixels, right, "val", device="cpu")["top1"]
    assert re.match(WARNING, last)
    assert last.endswith(
        f"With pixels of 0..1 as they are its top-1 is {top1:.4f}: give --data-args mean=0 --data-args std=1"
    )
    assert len(about_dense(prepare(RunConfig.make(**QUICK), of_plain_pixels, right))) == 2


def test_where_the_normalisation_is_a_guess_a_better_one_is_named(of_plain_pixels):
    """The network is far from chance with the guess, so that nothing else would tell."""
    right = data_sets.load("digits", mean=0, std=1)
    guessed = replace(right, mean=(0.1,), std=(0.45,), origin=IMAGENET)
    was, best = (measure(of_plain_pixels, d, "val", device="cpu")["top1"] for d in (guessed, right))
    assert 0.3 < was < best - 0.05
    *_, last = about_dense(prepare(RunConfig.make(**QUICK), of_plain_pixels, guessed))
    assert f"top-1 is {was:.4f}; with mean=0 std=1 it is {best:.4f}" in last
    assert last.endswith("--data-args mean=0 --data-args std=1")
    given = replace(guessed, origin="as given")
    said = about_dense(prepare(RunConfig.make(**QUICK), of_plain_pixels, given))
    assert [line for line in said if "mean=0" in line] == [], "the user's own word"
    fine = replace(right, origin=IMAGENET)
    assert len(about_dense(prepare(RunConfig.make(**QUICK), of_plain_pixels, fine))) == 2


def test_it_is_on_the_command_line(here, digits_weights, capsys):
    arguments = ["--model=search_spaces.models:digits_cnn", f"--weights={digits_weights}", "--criterion=l1"]
    assert main(["profile", *arguments, "--data=digits", "--data-args=mean=0", "--data-args=std=.376"]) == 0
    said = capsys.readouterr().out
    assert "images normalised: mean 0, std 0.376 (as given)\ndense network: loss " in said
    save_file(digits_cnn().state_dict(), here / "untrained.safetensors")
    arguments[1] = "--weights=untrained.safetensors"
    assert main(["profile", *arguments, "--data=digits"]) == 0
    assert "warning: the dense network does hardly better than chance" in capsys.readouterr().out


# -- what is near chance -------------------------------------------------------------------------------------------


def split_of(counts):
    labels = torch.tensor([k for k, n in enumerate(counts) for _ in range(n)])
    return labels


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=12), st.integers(0, 1000))
def test_whoever_guesses_is_near_chance_and_who_knows_is_not(counts, seed):
    part = split_of(counts)
    generator = torch.Generator().manual_seed(seed)
    constant = max(counts) / len(part)
    shares = torch.tensor(counts) / len(part)
    entropy = float(-(shares * shares.log()).sum())
    assert is_near_chance(part, constant, entropy), "always the most frequent class"
    guesses = torch.multinomial(shares, len(part), replacement=True, generator=generator)
    lucky = float((guesses == part).float().mean())
    assert is_near_chance(part, min(lucky, constant), entropy + 1)
    assert not is_near_chance(part, 1.0, entropy / 2)
    assert not is_near_chance(part, constant, entropy / 2), "the loss says that it is more than the frequent class"


@pytest.mark.parametrize(
    ("counts", "top1", "loss", "near"),
    [
        ([200] * 10, 0.10, 2.4, True),
        ([200] * 10, 0.14, 2.4, True),
        ([200] * 10, 0.25, 2.4, False),
        ([200] * 10, 0.01, 9.0, True),  # another order of the classes
        ([2] * 1000, 0.002, 6.9, True),
        ([2] * 1000, 0.08, 6.5, False),  # weak, but eighty times chance
        ([1000, 1000], 0.52, 0.7, True),
        ([1000, 1000], 0.65, 0.7, False),
        ([1900, 100], 0.955, 0.12, False),  # a useful network, hardly more often right than a constant
        ([1900, 100], 0.95, 0.25, True),
        ([30, 0], 1.0, 0.0, False),  # one class tells nothing
    ],
)
def test_near_chance(counts, top1, loss, near):
    assert is_near_chance(split_of(counts), top1, loss) == near


# -- layers that never run -----------------------------------------------------------------------------------------


class Partly(nn.Module):
    """Two layers never run; attention computes with the weights of a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.stem, self.spare = nn.Conv2d(1, 8, 2, 2), nn.Conv2d(8, 8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp, self.fc, self.auxiliary = nn.Linear(8, 6), nn.Linear(6, 10), nn.Linear(8, 10)
        self.functional = nn.Linear(8, 8)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = nn.functional.linear(self.attention(x, x, x)[0], self.functional.weight)
        if self.training:
            self.auxiliary(x)
        return self.fc(self.mlp(x).relu().mean(1))


def test_layers_that_never_run_are_listed():
    model = Partly().eval()
    space = trace(model, torch.zeros(1, 1, 8, 8))
    assert unused_layers(SimpleNamespace(space=space, model=model)) == ["spare"]
    model.others = nn.ModuleList(nn.Linear(2, 2) for _ in range(6))
    prepared = prepare(RunConfig.make(**QUICK, budget="macs<=100%"), model, data_sets.load("digits"))
    (line,) = [line for line in about_dense(prepared) if "never run" in line]
    assert line.endswith("counted in macs: spare, others.0, others.1, others.2, others.3 and 2 more")


def test_every_layer_of_a_network_that_uses_them_all_runs(trained):
    space = trace(trained, torch.zeros(1, 1, 8, 8))
    assert unused_layers(SimpleNamespace(space=space, model=trained)) == []


def test_a_network_that_cannot_be_copied_is_named_with_a_way_out(here):
    model = digits_cnn()
    model.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"model \w+: cannot be copied \(.*lock.*\); remove what cannot"):
        autoprune.search(model, "digits", budget="macs<=60%", trials=1)
    assert not (here / "results").exists()
