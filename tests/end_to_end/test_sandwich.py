"""Weight-sharing adaptation as its user sees it: a run, adapted weights, their scores, and a search of both."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import autoprune
from autoprune.cli import main
from autoprune.evaluation import EvaluationSettings, Evaluator
from autoprune.reference import ModelReference
from autoprune.runs import RunDirectory, prepare

MODEL = "search_spaces.models:digits_cnn"
QUICK = ["--criterion=l1", "--seed=3", "--device=cpu"]


@pytest.fixture
def problem(digits_weights):
    return [f"--model={MODEL}", "--data=digits", "--budget=macs<=15%", f"--weights={digits_weights}"]


@pytest.mark.slow
def test_adapted_weights_are_searched_in_the_order_they_were_adapted_in(problem, digits_weights, here, capsys):
    train = ["train", *problem, *QUICK, "--method=sandwich", "--method-epochs=2", "--epochs=0", "--name=shared"]
    assert main(train) == 0
    said = " ".join(capsys.readouterr().out.split())
    files = "--weights results/shared/adapted.safetensors --criterion results/shared/adapted.scores.safetensors"
    assert files in said
    delivered = json.loads((here / "results/shared/best/architecture.json").read_text())
    assert delivered["costs"]["macs"]["pruned"] <= 0.15 * delivered["costs"]["macs"]["dense"]
    config = autoprune.RunConfig.make(model=MODEL, data="digits", budget="macs<=15%", criterion="l1", seed=3)
    told = prepare(autoprune.RunConfig.make(**{**vars(config), "weights": str(digits_weights)}))
    settings = ["--trials=3", "--finalists=0", "--epochs=0", "--name=small", "--device=cpu"]
    assert main(["search", *problem[:3], *files.split(), *settings]) == 0
    for kept, wanted in zip(RunDirectory.open("results/small").scores(), told.problem.scores, strict=True):
        np.testing.assert_array_equal(kept, wanted)
    macs = json.loads((here / "results/small/best/architecture.json").read_text())["costs"]["macs"]
    assert macs["pruned"] <= 0.15 * macs["dense"]
    (here / "results/shared/adapted.scores.safetensors").unlink()  # a run has scores of its own
    assert main(["resume", "results/small", "--trials=4"]) == 0
    dense, adapted = (ModelReference(MODEL, {}, str(w)).build() for w in (digits_weights, files.split()[1]))
    widths = told.problem.project(told.space.clip(0.3 * g.size for g in told.space.groups))
    settings = EvaluationSettings(device="cpu")
    losses = [
        Evaluator(m, told.task, told.space, told.problem.scores, settings)(widths, "proxy")["loss"]
        for m in (adapted, dense)
    ]
    assert losses[0] < 0.7 * losses[1]


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
