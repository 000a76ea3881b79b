"""What the controller and the workers may rely on, whatever the fidelity."""

import json
import math
import pickle

import numpy as np
import pytest

from autoprune.data import load
from autoprune.evaluation import EvaluationSettings, Evaluator
from autoprune.fidelity import KINDS
from search_spaces import trace
from search_spaces.models import digits_cnn


@pytest.fixture(scope="module")
def parts():
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = digits_cnn().eval()
    data = load("digits")
    space = trace(model, data.example)
    scores = tuple(np.random.default_rng(1).random(g.size) for g in space.groups)
    return model, data, space, scores, EvaluationSettings(
        bn_samples=128, fit_samples=64, val_samples=128, short_steps=2, batch_size=64
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluator(parts):
    return Evaluator(*parts)


def metrics(evaluator, widths, fidelity):
    found = evaluator(widths, fidelity)
    return {k: v for k, v in found.items() if not k.startswith("seconds")}


@pytest.mark.parametrize("fidelity", KINDS)
def test_the_same_widths_get_the_same_metrics_whatever_came_before(evaluator, parts, fidelity):
    space = parts[2]
    some, other = (space.sample(np.random.default_rng(s)) for s in (1, 2))
    first = metrics(evaluator, some, fidelity)
    metrics(evaluator, other, fidelity)
    assert metrics(evaluator, some, fidelity) == first
    assert metrics(Evaluator(*parts), some, fidelity) == first  # another worker
    assert metrics(evaluator, other, fidelity)["loss"] != first["loss"]


@pytest.mark.parametrize("fidelity", KINDS)
def test_metrics_are_plain_and_complete(evaluator, parts, fidelity):
    found = evaluator(parts[2].floor, fidelity)
    assert json.loads(json.dumps(found)) == found
    assert pickle.loads(pickle.dumps(found)) == found
    assert {"loss", "top1", "batch_losses", "abandoned", "seconds_compute", "seconds_total"} <= found.keys()
    assert math.isfinite(found["loss"])
    assert 0 <= found["top1"] <= 1
    assert 0 < found["seconds_compute"] <= found["seconds_total"]
    assert found["loss"] == pytest.approx(np.mean(found["batch_losses"]))  # 128 images: four whole blocks


@pytest.mark.parametrize(("fidelity", "number"), [("proxy", 128), ("reconstructed", 64)])
def test_a_number_may_be_said_or_left_to_the_settings(evaluator, parts, fidelity, number):
    widths = parts[2].sample(np.random.default_rng(3))
    said = metrics(evaluator, widths, f"{fidelity}:{number}")
    assert metrics(evaluator, widths, f"{fidelity}:{number + 30}") != said  # more images
    assert metrics(evaluator, widths, fidelity) == said


def test_the_full_widths_need_no_repair(evaluator, parts):
    """All fidelities that do not train leave the dense weights as they are; only batch-norm is measured afresh."""
    full = parts[2].full
    assert metrics(evaluator, full, "raw")["loss"] == pytest.approx(evaluator.evaluate_dense()["loss"], rel=1e-2)
    assert metrics(evaluator, full, "reconstructed") == metrics(evaluator, full, "proxy")


def test_the_test_images_do_not_matter(parts):
    model, data, space, scores, settings = parts
    blind = Evaluator(model, data.without_test(), space, scores, settings)
    assert metrics(blind, space.floor, "proxy") == metrics(Evaluator(*parts), space.floor, "proxy")


def test_wrong_questions_are_refused(evaluator, parts):
    with pytest.raises(ValueError, match="unknown fidelity 'long'; known: raw, proxy, reconstructed, short"):
        evaluator(parts[2].full, "long")
    with pytest.raises(ValueError, match="widths given"):
        evaluator((1,))
    for fidelity in ("short:", "short:0", "short:x", "proxy:0", "raw:3"):
        with pytest.raises(ValueError, match="unknown fidelity"):
            evaluator(parts[2].full, fidelity)
