"""Where a finalist's training begins: the best of several starts, by what they come to after a few steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from autoprune.config import RunConfig
from autoprune.controller import Job
from autoprune.data import ImageData, Split, load
from autoprune.evaluation import EvaluationPlan, EvaluationSettings, Evaluator
from autoprune.evaluation.starts import Start, other_scores, scores_of, starts_of
from autoprune.problem import Problem, Trial
from autoprune.runs.controlling import CandidateTrainer
from autoprune.runs.recipe import Recipe
from autoprune.tasks import as_task
from autoprune.training import TrainingLog, TrainingSettings, finetune
from objectives import parse
from search_spaces import prune, trace
from search_spaces.models import digits_cnn, resnet20

SETTINGS = EvaluationSettings(bn_samples=256, val_samples=200, short_steps=24, batch_size=64, device="cpu", amp="off")


@pytest.fixture(scope="module")
def data():
    return load("digits", val_images=200)


@pytest.fixture(scope="module")
def dense(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = digits_cnn()
    finetune(model, data, TrainingSettings(epochs=3, batch_size=64, lr=0.05, device="cpu", amp="off"))
    return model


@pytest.fixture(scope="module")
def space(dense, data):
    return trace(dense, data.example)


def strengths(model, space):
    """The norms, and their opposite: as good and as bad a choice as there is."""
    found = tuple(model.get_submodule(g.name).weight.detach().flatten(1).norm(dim=1).numpy() for g in space.groups)
    return found, tuple(-s for s in found)


@pytest.mark.parametrize(("steps", "expected"), [(400, 50), (100, 25), (20, 5), (1, 1), (0, 0)])
def test_an_eighth_of_the_steps_and_a_few_at_least(steps, expected):
    assert EvaluationPlan(steps=steps).trial_steps == expected


def test_every_start_is_tried_of_a_finalist():
    assert starts_of(EvaluationPlan(steps=10, starts=True), ()) == (Start(),)
    assert starts_of(EvaluationPlan(steps=10, fit_samples=5, starts=True), ("magnitude",)) == (
        Start(),
        Start(True),
        Start(False, "magnitude"),
    )
    assert starts_of(EvaluationPlan(steps=10), ("magnitude",)) == (Start(),)


def test_the_better_units_are_kept_whoever_names_them(dense, data, space):
    good, bad = strengths(dense, space)
    widths = tuple(max(1, g.size // 4) for g in space.groups)
    alone = Evaluator(dense, data, space, good, SETTINGS)(widths, "short")
    rescued = Evaluator(dense, data, space, bad, SETTINGS, {"norms": good})
    found = rescued(widths, "short")
    assert found["units"] == "norms"
    assert found["loss"] == alone["loss"]
    assert "units" not in alone
    weights = rescued.trained(widths, "short", lambda: None)
    prune(dense, space, space.kept(widths, good)).load_state_dict(weights)
    assert Evaluator(dense, data, space, good, SETTINGS, {"norms": bad})(widths, "short")["units"] == ""


def test_a_training_that_harms_leaves_the_best_of_all_starts(dense, data, space, monkeypatch):
    good, bad = strengths(dense, space)
    widths = tuple(g.size // 2 for g in space.groups)
    losses = [Evaluator(dense, data, space, s, SETTINGS)(widths, "proxy")["loss"] for s in (good, bad)]
    calls, train = [], Evaluator._train

    def harmful(self, net, *args):
        """The run's own start looks better after its few steps; every later training ruins what it trains."""
        calls.append(net)
        if len(calls) > 1:
            net.linear.weight.data.zero_()
        return train(self, net, *args) if len(calls) == 1 else TrainingLog(1, (9.9,), 0.0, 0.0, 0)

    monkeypatch.setattr(Evaluator, "_train", harmful)
    settings = replace(SETTINGS, reconstruct=False)
    evaluator = Evaluator(dense, data, space, bad, settings, {"norms": good})
    found = evaluator(widths, "short")
    assert len(calls) == 3
    assert losses[0] < losses[1]
    assert found["loss"] == losses[0] < found["loss_trained"]
    assert found["units"] == "norms"


def test_only_who_chose_no_criterion_has_other_units(space):
    scores, norms = (tuple(np.full(g.size, x) for g in space.groups) for x in (1.0, 2.0))
    problem = Problem(space, (parse("macs<=50%"),), scores, norms=norms)
    assert other_scores(problem, "group_fisher") == {"magnitude": norms}
    assert other_scores(problem, "l1") == {}
    assert scores_of(problem, Trial(0, space.full)) is scores
    assert scores_of(problem, Trial(0, space.full, metrics={"units": ""})) is scores
    assert scores_of(problem, Trial(0, space.full, metrics={"units": "magnitude"})) is norms


def test_on_a_cluster_finalists_begin_where_they_would_here(dense, data, space, tmp_path):
    good, bad = strengths(dense, space)
    problem = Problem(space, (parse("macs<=50%"),), bad, norms=good)
    config = RunConfig(val_samples=64, bn_samples=64, batch_size=64, short_steps=4, device="cpu", reconstruct=False)
    recipe = Recipe(config, problem, dense, as_task(data))
    widths = tuple(max(1, g.size // 4) for g in space.groups)
    there = CandidateTrainer(recipe, "cpu", str(tmp_path), 2)(Job(0, widths, "short"), lambda *_: None)
    here = recipe("cpu")(Job(0, widths, "short"))
    assert {name: there[name] for name in ("units", "start", "loss")} == {
        name: here[name] for name in ("units", "start", "loss")
    }


def test_a_look_at_a_training_on_a_cluster_is_at_its_own_units(tmp_path):
    """Shortcuts without weights have the numbers of the channels built in: of other units the answer would differ."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (64, 3, 8, 8), dtype=torch.uint8, generator=generator)
    split = Split(pixels, torch.arange(64) % 10)
    images = ImageData(split, split, split[:0], (0.5,) * 3, (0.5,) * 3, tuple("abcdefghij"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = resnet20().eval()
    space = trace(model, torch.zeros(1, 3, 8, 8))
    widths = tuple(max(1, g.size // 2) for g in space.groups)
    low = tuple(np.arange(g.size, dtype=float) for g in space.groups)
    high = tuple(-s for s in low)
    config = RunConfig(val_samples=64, bn_samples=64, batch_size=16, short_steps=4, device="cpu", reconstruct=False)
    seen = []
    for name, scores, norms in (("one", low, high), ("other", high, low)):
        problem = Problem(space, (parse("macs<=60%"),), scores, norms=norms)
        (tmp_path / name).mkdir()
        trainer = CandidateTrainer(Recipe(config, problem, model, as_task(images)), "cpu", str(tmp_path / name), 2)
        looks = []

        def listen(step, total, loss, trainer=trainer, looks=looks):
            if step == 3:
                looks.append(trainer.glance(Job(0, widths, "short"))["loss"])

        found = trainer(Job(0, widths, "short"), listen)
        seen.append((found["units"], looks))
    (one, first), (other, second) = seen
    assert {one, other} == {"", "magnitude"}, "the same units are the better ones under either name"
    assert len(first) == 1
    assert first == second
