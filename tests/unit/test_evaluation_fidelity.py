import pytest

from autoprune.evaluation import FIDELITIES, EvaluationSettings, Fidelity

SETTINGS = EvaluationSettings(bn_images=1000, fit_images=500, short_steps=60)


@pytest.mark.parametrize(
    ("text", "fit_images", "steps", "bn_images"),
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
def test_what_the_words_mean(text, fit_images, steps, bn_images):
    assert SETTINGS.parse(text) == Fidelity(fit_images, steps, bn_images)


@pytest.mark.parametrize("text", ["", "long", "raw:3", "proxy:", "proxy:0", "short:x", "short:-1", "short:²", "Proxy"])
def test_what_is_no_fidelity(text):
    with pytest.raises(ValueError, match="unknown fidelity") as found:
        SETTINGS.parse(text)
    assert all(known in str(found.value) for known in (*FIDELITIES, "proxy:IMAGES", "short:STEPS"))
