import pytest

from autoprune.evaluation import FIDELITIES, EvaluationSettings, Fidelity
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
    assert SETTINGS.parse(text) == Fidelity(fit_samples, steps, bn_samples, starts=text == "short")


def test_only_a_finalist_comes_to_rest_and_may_begin_elsewhere():
    """A look of so many steps is at the rate at which a longer training would be by then."""
    fitted = EvaluationSettings(fit_samples=500, short_steps=60, reconstruct=True)
    short, look = fitted.parse("short"), fitted.parse("short:60")
    assert (short.fit_samples, short.steps, look.fit_samples, look.steps) == (500, 60, 0, 60)
    training = TrainingSettings(lr_schedule="cosine")
    assert short.training(training) == training
    assert look.training(training) == TrainingSettings(lr_schedule="constant", warmup=0)


@pytest.mark.parametrize("text", ["", "long", "raw:3", "proxy:", "proxy:0", "short:x", "short:-1", "short:²", "Proxy"])
def test_what_is_no_fidelity(text):
    with pytest.raises(ValueError, match="unknown fidelity") as found:
        SETTINGS.parse(text)
    assert all(known in str(found.value) for known in (*FIDELITIES, "proxy:SAMPLES", "short:STEPS"))
