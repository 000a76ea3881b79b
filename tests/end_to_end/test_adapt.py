"""Weight-sharing adaptation as its user sees it: adapted weights, their scores, and a search of both."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import autoprune
from autoprune.cli import main
from autoprune.evaluation import EvaluationSettings, Evaluator
from autoprune.reference import ModelReference
from autoprune.runs import RunDirectory, prepare
from autoprune.runs.adapting import scores_beside

MODEL = "search_spaces.models:digits_cnn"
QUICK = ["--criterion=l1", "--seed=3", "--device=cpu"]


@pytest.fixture
def problem(digits_weights):
    return [f"--model={MODEL}", "--data=digits", "--budget=macs<=15%", f"--weights={digits_weights}"]


def test_adapted_weights_are_searched_in_the_order_they_were_adapted_in(problem, here, capsys):
    assert main(["adapt", *problem, *QUICK, "--steps=40", "--to=out/adapted.safetensors"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "adapted in 40 steps" in said
    assert "--weights out/adapted.safetensors --criterion out/adapted.scores.safetensors" in said
    config = autoprune.RunConfig.make(model=MODEL, data="digits", budget="macs<=15%", criterion="l1", seed=3)
    told = prepare(autoprune.RunConfig.make(**{**vars(config), "weights": problem[-1].partition("=")[2]}))
    search = ["--weights=out/adapted.safetensors", "--criterion=out/adapted.scores.safetensors", "--trials=3"]
    settings = ["--finalists=0", "--epochs=0", "--name=small", "--device=cpu"]
    assert main(["search", *problem[:3], *search, *settings]) == 0
    for kept, wanted in zip(RunDirectory.open("results/small").scores(), told.problem.scores, strict=True):
        np.testing.assert_array_equal(kept, wanted)
    macs = json.loads((here / "results/small/best/architecture.json").read_text())["costs"]["macs"]
    assert macs["pruned"] <= 0.15 * macs["dense"]
    (here / "out/adapted.scores.safetensors").unlink()  # a run has scores of its own
    assert main(["resume", "results/small", "--trials=4"]) == 0


def test_narrow_networks_gain_and_the_trained_one_stays_as_it_was(digits_weights, here):
    dense = ModelReference(MODEL, {}, str(digits_weights)).build()
    before = {k: v.clone() for k, v in dense.state_dict().items()}
    adapted = autoprune.adapt(dense, "digits", "macs<=15%", steps=80, to="a.safetensors", batch_size=64, device="cpu")
    assert all(torch.equal(v, before[k]) for k, v in dense.state_dict().items())
    assert all(torch.equal(v, adapted.state_dict()[k]) for k, v in load_file("a.safetensors").items())
    told = prepare(
        autoprune.RunConfig.make(data="digits", budget="macs<=15%", criterion="a.scores.safetensors"), adapted
    )
    widths = told.problem.project(told.space.clip(0.3 * g.size for g in told.space.groups))
    settings = EvaluationSettings(device="cpu")
    losses = [
        Evaluator(m, told.task, told.space, told.problem.scores, settings)(widths, "proxy")["loss"]
        for m in (adapted, dense)
    ]
    assert losses[0] < 0.7 * losses[1]


@pytest.mark.parametrize("there", ["a.safetensors", "a.scores.safetensors"])
def test_what_is_there_is_not_written_over(problem, there, here, capsys):
    (here / there).write_text("precious")
    assert main(["adapt", *problem, "--to=a.safetensors"]) == 2
    assert f"'{there}': is there already" in capsys.readouterr().err
    assert [(p.name, p.read_text()) for p in here.iterdir()] == [(there, "precious")]


def test_scores_that_do_not_fit_are_refused_before_anything_is_written(problem, here, capsys):
    def search(scores):
        assert main(["search", *problem, f"--criterion={scores}"]) == 2
        assert not (here / "results").exists()
        return capsys.readouterr().err

    assert "criterion 'none.safetensors': damaged or missing" in search("none.safetensors")
    (here / "torn.safetensors").write_bytes(b"torn")
    assert "criterion 'torn.safetensors': damaged or missing" in search("torn.safetensors")
    save_file({"another": torch.ones(3)}, "other.safetensors")
    assert "criterion 'other.safetensors': has no scores of group '" in search("other.safetensors")
    groups = prepare(autoprune.RunConfig.make(model=MODEL, data="digits", criterion="l1")).space.groups
    save_file({g.name: torch.ones(g.size + 1) for g in groups}, "long.safetensors")
    assert "finite scores, got shape" in search("long.safetensors")


def test_where_the_weights_go_must_be_a_safetensors_file(problem, here, capsys):
    assert main(["adapt", *problem, "--to=adapted.pt"]) == 2
    assert "to 'adapted.pt': must be the name of a .safetensors file" in capsys.readouterr().err
    assert str(scores_beside(here / "x.safetensors")) == str(here / "x.scores.safetensors")
