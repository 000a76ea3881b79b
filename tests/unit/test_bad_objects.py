"""What Python hands over instead of a network, data, a path: a ValueError that says what was expected."""

import pytest
import torch
from torch import nn

import autoprune
from search_spaces.models import digits_cnn

QUICK = {"criterion": "l1", "trials": 1, "finalists": 0, "epochs": 0, "device": "cpu", "progress": False}
MODEL = r"model: expected an nn.Module, a function that builds one, or \"package.module:factory\"; got "
DATA = r"data '.* object': expected \(train, test\), .*; got "
RUN = r"run: expected the path of a file or a directory, got "


@pytest.mark.parametrize("verb", [autoprune.search, autoprune.profile])
@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (3, "digits", MODEL + "3"),
        (lambda: 3, "digits", MODEL + "3"),
        (lambda: 1 / 0, "digits", "model 'object:.*<lambda>#.*' failed with ZeroDivisionError: division by zero"),
        (
            nn.Conv2d,
            "digits",
            "model 'torch.nn.modules.conv:Conv2d': .*missing 3 required|model 'torch.nn.modules.conv",
        ),
        (None, "digits", "model: missing"),
        (digits_cnn().half(), "digits", "model DigitsCNN: its weights must be float32, found float16 in .*model.float"),
        (digits_cnn().double(), "digits", "its weights must be float32, found float64 in "),
        (digits_cnn().to("meta"), "digits", "model DigitsCNN: has no weights, as it is on the meta device; "),
        (digits_cnn(), 5, DATA + "int"),
        (digits_cnn(), torch.zeros(3), DATA + "Tensor"),
        (digits_cnn(), None, "data: missing"),
    ],
)
def test_what_begins_a_run(verb, model, data, message, here):
    settings = {name: value for name, value in QUICK.items() if name not in ("trials", "finalists", "epochs")}
    with pytest.raises(ValueError, match=message):
        verb(model, data, **settings)
    assert list(here.iterdir()) == []


VERBS = {
    "resume": autoprune.resume,
    "status": autoprune.status,
    "report": autoprune.report,
    "export": autoprune.export,
    "finetune": autoprune.finetune,
    "compare": lambda run: autoprune.compare(run, run),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
@pytest.mark.parametrize(
    "run", [None, 3, "", "a\0b", b"results/run", ["results/run"], "x" * 300, "nowhere/run"], ids=repr
)
def test_what_is_no_run(verb, run, here):
    with pytest.raises(ValueError, match=r"^run: expected the path|^run '.*': expected the directory of a run"):
        verb(run)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "model: expected an nn.Module, a function that makes one, or its name, got 3"),
        (lambda: 3, "model: expected a function that returns an nn.Module, got int"),
        (lambda: 1 / 0, "model: the function failed with ZeroDivisionError: division by zero"),
        (lambda: exit(), r"model: the function failed with sys.exit"),
        ("nowhere:net", "model 'nowhere:net': expected package.module:Name that can be imported"),
        ("builtins:dict", "model 'builtins:dict': expected a factory that returns an nn.Module, got dict"),
        (nn.Linear(2, 2), "the dense network is another one"),
    ],
)
def test_what_builds_no_network_of_an_export(model, message, finished):
    with pytest.raises(ValueError, match=message):
        autoprune.load(finished / "results/run/best", model=model)


def test_an_export_is_built_by_any_means(finished):
    place = finished / "results/run/best"
    images = torch.rand(2, 1, 8, 8)
    expected = autoprune.load(place)(images)
    for model in (digits_cnn, digits_cnn(), "search_spaces.models:digits_cnn"):
        assert torch.equal(autoprune.load(place, model=model)(images), expected)
        assert torch.equal(autoprune.load(str(place), model=model)(images), expected)


@pytest.mark.parametrize(
    "place", [None, 3, "", "a\0b", "x" * 300, "results/run", "results/run/best/architecture.json"], ids=repr
)
def test_what_is_no_export(place, finished, monkeypatch):
    monkeypatch.chdir(finished)
    with pytest.raises(ValueError, match=r"directory: expected the path|architecture.json': "):
        autoprune.load(place)


@pytest.mark.parametrize("mode", [pytest.param(torch.no_grad, marks=pytest.mark.slow), torch.inference_mode])
def test_the_mode_of_the_caller_is_not_that_of_the_search(mode, here):
    """Gradients score and train, though the caller has switched them off."""
    settings = QUICK | {"criterion": "taylor", "epochs": 0.02}
    with mode():
        result = autoprune.search(digits_cnn(), "digits", name="run", warm_starts="none", **settings)
        assert not torch.is_grad_enabled()
    assert all(not parameter.is_inference() for parameter in result.model.parameters())


def test_a_strategy_may_be_a_function_with_names_of_its_own(here):
    seen = []

    def pick(p, s, n):
        seen.append((s, n))
        return autoprune.strategies.make("random", p, seed=s)

    autoprune.search(digits_cnn(), "digits", strategy=pick, seed=7, name="run", warm_starts="none", **QUICK)
    assert set(seen) == {(7, 1)}
