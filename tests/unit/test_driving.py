"""Methods that drive units out before the cut, as the recovery of a run."""

import shutil

import numpy as np
import pytest

import autoprune
from autoprune.architecture import kept_of, read_architecture

FAST = {"device": "cpu", "batch_size": 64}


@pytest.fixture
def run(here, finished):
    shutil.copytree(finished, here, dirs_exist_ok=True)
    return here / "results" / "run"


@pytest.mark.parametrize("recovery", ["iss"])
def test_a_method_recovers_the_winner(run, recovery):
    target = autoprune.finetune(run, recovery=recovery, epochs=1, lr=0.01, **FAST | {"batch_size": 16})
    said, before = read_architecture(target), read_architecture(run / "best")
    assert said["widths"] == before["widths"]
    assert said["provenance"]["finetune"]["recovery"] == recovery
    same = [np.array_equal(a, b) for a, b in zip(kept_of(said), kept_of(before), strict=True)]
    assert recovery == "iss" or all(same)  # which picks anew
    assert said["metrics"]["pruned_val"]["top1"] > 0.5
    assert autoprune.load(target).training is False


def test_a_search_recovers_by_a_method_and_goes_on_after_a_stop(here, digits_weights, monkeypatch):
    told = {"weights": str(digits_weights), "trials": 3, "finalists": 0, "criterion": "l1", "progress": False}
    told |= {"epochs": 4, "recovery": "sfp", "name": "a", "data_args": {"max_images": 200}, **FAST}
    model = "search_spaces.models:digits_cnn"
    whole = autoprune.search(model, "digits", **told)
    from autoprune.training.state import TrainingState

    advance, count = TrainingState.advance, 0

    def stopping(self, batch):
        nonlocal count
        count += 1
        if count == 6:  # in the middle of the second phase; a checkpoint of the first is there
            raise KeyboardInterrupt
        advance(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "advance", stopping)
        with pytest.raises(KeyboardInterrupt):
            autoprune.search(model, "digits", **{**told, "name": "b"})
    again = autoprune.resume("results/b", progress=False)
    one, other = (read_architecture(r.run_dir / "best") for r in (whole, again))
    assert one["kept"] == other["kept"]
    for a, b in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recovery": "greg1", "epochs": 1, "prune_share": 0.1}, r"needs at least 30 steps, and 2 are planned"),
        ({"recovery": "slimming"}, "recovery 'slimming': finds the units that stay by itself"),
        ({"recovery": "greg1", "recovery_args": {"evry": 2}}, "'greg1': has no setting 'evry'; it has"),
        ({"recovery": "greg1", "recovery_args": {"every": 0}}, "every must be a whole number of at least 1, got 0"),
        ({"recovery": "gregg1"}, r"unknown method 'gregg1' \(did you mean greg1\?\); known: .*greg1"),
        ({"recovery": "greg1", "lr": 900, "epochs": 40}, "'greg1': with its .* the training would diverge"),
        ({"lr_schedule": "rewind"}, "of which lr_original_epochs says that it had 0"),
        ({"warmup": 1e6}, "warmup: 1000000 steps of warm-up leave none of the training's"),
    ],
)
def test_bad_input_before_anything_is_spent(here, digits_weights, settings, message, monkeypatch):
    """By default channels are scored in rounds of training: that is spent, too."""
    monkeypatch.setattr("autoprune.runs.posing.scored", lambda *_: pytest.fail("channels were scored"))
    with pytest.raises(ValueError, match=message):
        autoprune.search(
            "search_spaces.models:digits_cnn", "digits", weights=str(digits_weights), trials=2,
            name="c", progress=False, **{"epochs": 3, **FAST, **settings},
        )  # fmt: skip
    assert not (here / "results").exists()
