import copy
import itertools
import json
import pickle

import pytest

from autoprune.config import RunConfig
from autoprune.evaluation import EvaluationPlan, EvaluationSettings
from autoprune.fidelity import KINDS, Fidelity
from autoprune.problem import Trial
from autoprune.settings import TrainingSettings

SETTINGS = EvaluationSettings(bn_samples=1000, fit_samples=500, short_steps=60)


@pytest.mark.parametrize(
    ("text", "fit_samples", "steps", "bn_samples"),
    [
        ("raw", 0, 0, 0),
        ("proxy", 0, 0, 1000),
        ("proxy:4000", 0, 0, 4000),
        ("reconstructed", 500, 0, 1000),
        ("reconstructed:64", 64, 0, 1000),
        ("short", 0, 60, 1000),
        ("short:7", 0, 7, 1000),
    ],
)
def test_what_the_words_mean(text, fit_samples, steps, bn_samples):
    assert SETTINGS.plan(text) == EvaluationPlan(fit_samples, steps, bn_samples, starts=text == "short")


def test_only_a_finalist_comes_to_rest_and_may_begin_elsewhere():
    """A look of so many steps is at the rate at which a longer training would be by then."""
    fitted = EvaluationSettings(fit_samples=500, short_steps=60, reconstruct=True)
    short, look = fitted.plan("short"), fitted.plan("short:60")
    assert (short.fit_samples, short.steps, look.fit_samples, look.steps) == (500, 60, 0, 60)
    training = TrainingSettings(lr_schedule="cosine")
    assert short.training(training) == training
    assert look.training(training) == TrainingSettings(lr_schedule="constant", warmup=0)


@pytest.mark.parametrize("text", ["", "long", "raw:3", "proxy:", "proxy:0", "short:x", "short:-1", "short:²", "Proxy"])
def test_what_is_no_fidelity(text):
    with pytest.raises(ValueError, match="unknown fidelity") as found:
        SETTINGS.plan(text)
    assert all(known in str(found.value) for known in (*KINDS, "proxy:SAMPLES", "short:STEPS"))


def test_the_order_is_that_of_trust_and_the_word_stays_as_it_was_written():
    words = ["short", "proxy:4000", "raw", "reconstructed", "short:100", "proxy", "short:33", "reconstructed:64", "?"]
    order = ["?", "raw", "proxy:4000", "proxy", "reconstructed:64", "reconstructed", "short:33", "short:100", "short"]
    found = sorted(map(Fidelity, words))
    assert found == order
    assert max(found) == "short" == json.loads(json.dumps({"fidelity": max(found)}))["fidelity"]
    assert [f.trains for f in found] == [False] * 6 + [True] * 3
    for low, high in itertools.pairwise(found):
        assert low < high and high > low and low <= high and not low >= high  # noqa: PT018
    there = pickle.loads(pickle.dumps(copy.deepcopy(found[-2])))
    assert (there, there.kind, there.amount, type(there)) == ("short:100", "short", 100, Fidelity)
    assert Fidelity(there) is there  # read once


def test_trials_and_settings_hold_it():
    assert Trial(0, (1,), fidelity="short:9").fidelity.amount == 9
    assert RunConfig(fidelity="proxy:64").schedule.first.amount == 64
    with pytest.raises(ValueError, match="unknown fidelity 'long'"):
        RunConfig(fidelity="long")
