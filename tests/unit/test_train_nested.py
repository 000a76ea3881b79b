"""`train --method nested`: several networks in one run, one file, switched while they run, and each alone."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import autoprune
from autoprune.architecture import read_architecture
from autoprune.config import RunConfig
from autoprune.report.trained import found, plan
from search_spaces import NestedNetwork, trace
from search_spaces.models import digits_cnn

MODEL = "search_spaces.models:digits_cnn"
QUICK = {
    "data_args": {"max_images": 200}, "batch_size": 32, "criterion": "l1", "device": "cpu", "method_epochs": 1.0,
    "epochs": 0.5, "lr": 0.01, "val_samples": 64, "bn_samples": 64, "progress": False, "method": "nested",
}  # fmt: skip
IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LEVELS = ["macs<=50%", "macs<=30%", "macs<=15%"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, digits_weights):
    place = str(tmp_path_factory.mktemp("nested") / "three")
    given = {"weights": str(digits_weights), "budget": "macs<=50%", "budget_list": "30%,15%", "name": place}
    return autoprune.train(MODEL, "digits", **given, **QUICK)


def test_one_file_holds_all_levels_which_are_nested_and_hold_their_budgets(run):
    best = run.run_dir / "best"
    said = read_architecture(best)
    assert [level["name"] for level in said["levels"]] == LEVELS
    for level, limit in zip(said["levels"], (0.5, 0.3, 0.15), strict=True):
        macs = level["costs"]["macs"]
        assert 0.8 * limit * macs["dense"] <= macs["pruned"] <= limit * macs["dense"]
        assert 0 <= level["metrics"]["pruned_test"]["top1"] <= 1
    told = " ".join(str(autoprune.status(run.run_dir)).split())
    assert "3 networks trained in one, the largest of" in told
    assert "nested has trained its networks" in told
    assert "finetune" not in told, "which refuses it"
    widths = np.array([level["widths"] for level in said["levels"]])
    assert (np.diff(widths, axis=0) <= 0).all()
    net = autoprune.load(best)
    assert isinstance(net, NestedNetwork)
    weights = [t for n, t in load_file(best / "weights.safetensors").items() if "running" not in n]
    assert sum(t.nbytes for t in weights if t.dtype == torch.float32) == sum(p.nbytes for p in net.parameters())
    torch.testing.assert_close(net(IMAGES), run.model(IMAGES))  # whose units stand in another order
    answers = {level: net.switch(level)(IMAGES) for level in LEVELS}
    assert len({str(a) for a in answers.values()}) == 3
    stored = {p.untyped_storage().data_ptr() for p in net.parameters()}
    for level in LEVELS:
        assert torch.equal(net.switch(level)(IMAGES), answers[level])
        assert {p.untyped_storage().data_ptr() for p in net.network.parameters()} <= stored


def test_each_level_alone_is_an_export_like_any_other(run, here):
    net = autoprune.load(run.run_dir / "best")
    for level in LEVELS[1:]:
        target = autoprune.export(run.run_dir, budget=level, to=level)
        alone, said = autoprune.load(target), read_architecture(target)
        assert not isinstance(alone, NestedNetwork)
        torch.testing.assert_close(alone(IMAGES), net.switch(level)(IMAGES), rtol=1e-4, atol=1e-5)
        assert said["provenance"]["level"] == level
        assert said["costs"]["macs"]["pruned"] <= float(level[6:-1]) / 100 * said["costs"]["macs"]["dense"]
    again = autoprune.export(run.run_dir, to="again")
    assert torch.equal(autoprune.load(again).switch(LEVELS[2])(IMAGES), net(IMAGES))
    resumed = autoprune.resume(run.run_dir, progress=False)  # is over
    assert torch.equal(resumed.model(IMAGES), run.model(IMAGES))


@pytest.mark.slow
def test_a_level_alone_as_onnx(run, here):
    target = autoprune.export(run.run_dir, budget="macs<=15%", onnx=True, to="small")
    assert (target / "model.onnx").is_file()
    assert read_architecture(target)["onnx_max_difference"] < 1e-3


def test_what_does_not_fit_several_networks(run, here):
    with pytest.raises(ValueError, match=r"budget 'macs<=20%': this run trained its levels together, macs<=50%, macs"):
        autoprune.export(run.run_dir, budget="macs<=20%", to="x")
    with pytest.raises(ValueError, match=r"finetune: .* holds several networks on the same weights"):
        autoprune.finetune(run.run_dir, progress=False)
    with pytest.raises(ValueError, match=r"attach: .* holds several networks on the same weights"):
        autoprune.attach(run.run_dir, run.model, progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "budget_list: goes with --method nested"),
        ({"method": "slimming", "budget_list": "30%"}, "budget_list: goes with --method nested"),
        ({"budget_list": "60%"}, "budget_list 'macs<=60%': must be smaller than the one before it, macs<=50%"),
        ({"budget_list": "30%,30%"}, "must be smaller than the one before it, macs<=30%"),
        ({"budget_list": "params<=30%"}, "all levels must be budgets of one cost that --budget names"),
        ({"budget_list": "much"}, "budget 'macs<=much': "),
        ({"budget_list": "30%", "budget": ["macs<=50%", "params<=60%"]}, "say of which of the 2 budgets"),
        ({"budget_list": "0.01%"}, "budget 'macs<=0.01%': unreachable"),
        ({"budget_list": "30%", "depth": "on"}, "leave out trainer and depth"),
    ],
)
def test_bad_input_before_the_training(here, digits_weights, settings, message):
    with pytest.raises(ValueError, match=message):
        autoprune.train(MODEL, "digits", weights=str(digits_weights), **{"budget": "macs<=50%", **QUICK, **settings})
    assert not (here / "results").exists()


@pytest.mark.parametrize(
    ("said", "smaller"),
    [("30%, 15%", ["30%", "15%"]), ("latency@batch=1,threads=1<=30%", ["latency@batch=1,threads=1<=30%"])],
)
def test_each_smaller_network_is_counted_once(said, smaller):
    """The commas of a latency's batch and threads make no networks."""
    budget = "latency@batch=1,threads=1<=50%" if "@" in said else "macs<=50%"
    config = RunConfig.make(method="nested", budget=budget, budget_list=said)
    assert config.smaller_budgets == smaller
    assert dict(plan(config))["Smaller networks"] == ", ".join(smaller)
    space = trace(digits_cnn(), torch.zeros(1, 1, 8, 8))
    assert found(config, space, space.full, None).startswith(f"{1 + len(smaller)} networks trained in one, the largest")
