"""The learning-rate rules of "back to basics", by hand."""

import math

import pytest

from autoprune.config import RunConfig
from autoprune.runs import prepare
from autoprune.runs.recovering import _adapted
from autoprune.training import TrainingSettings
from autoprune.training.schedules import adaptive_start, in_cycles, schedule_of
from search_spaces import prune

STAIRS = {"lr_milestones": ("0.5", "0.75"), "lr_gamma": 0.1, "warmup": 2}


def factors(steps, per_epoch=0, **settings):
    factor = schedule_of(TrainingSettings(**settings), steps, per_epoch)
    return [factor(step, steps) for step in range(steps)]


def test_scaled_is_the_whole_dense_training_after_the_warm_up():
    # 2 steps up, then 8: half at 1, a quarter at a tenth, a quarter at a hundredth
    assert factors(10, lr_schedule="scaled", **STAIRS) == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert factors(4, lr_schedule="scaled", lr_original="cosine", warmup=0) == factors(
        4, lr_schedule="cosine", warmup=0
    )


def test_rewind_is_the_end_of_the_dense_training_without_warm_up():
    # the last 6 of 10 epochs of 2 steps: 20 steps, lowered after 10 and 15; steps 14 ... 19
    found = factors(6, 2, lr_schedule="rewind", lr_original_epochs=10, **STAIRS)
    assert found == pytest.approx([0.1, 0.01, 0.01, 0.01, 0.01, 0.01])


@pytest.mark.parametrize("epochs", [0, 2.5])
def test_rewind_needs_to_know_how_long_that_was(epochs):
    with pytest.raises(ValueError, match=r"goes back 6 steps .* that it had [05]; give how many epochs it took"):
        factors(6, 2, lr_schedule="rewind", lr_original_epochs=epochs)
    with pytest.raises(ValueError, match="unknown lr_original 'stairs'; known: "):
        factors(6, 2, lr_schedule="scaled", lr_original="stairs")


def test_adaptive_start_by_hand():
    # |dw| = 0.3 |w| where a quarter of the weights went: 0.3 / 0.5
    assert adaptive_start(0.3, 0.25, 0.0) == pytest.approx(0.6)
    assert adaptive_start(0.3, 0.25, 0.8) == 0.8  # as many epochs of the dense training
    assert adaptive_start(0.9, 0.25, 0.0) == 1.0
    assert adaptive_start(0.0, 0.0, 0.1) == 0.1


def test_adaptive_takes_the_rate_from_the_cut(digits_weights):
    config = RunConfig.make(
        model="search_spaces.models:digits_cnn", weights=str(digits_weights), data="digits", criterion="l1",
        lr_schedule="adaptive", lr=0.1, device="cpu", data_args={"max_images": 200},
    )  # fmt: skip
    prepared = prepare(config)
    space = prepared.space
    kept = space.kept(space.clip(g.size / 2 for g in space.groups), prepared.problem.scores)
    whole = [p.detach() for p in prepared.model.parameters() if p.dim() > 1]
    small = [p.detach() for p in prune(prepared.model, space, kept).parameters() if p.dim() > 1]
    gone = 1 - sum(float(p.square().sum()) for p in small) / sum(float(p.square().sum()) for p in whole)
    sparsity = 1 - sum(p.numel() for p in small) / sum(p.numel() for p in whole)
    expected = 0.1 * min(1.0, math.sqrt(gone / sparsity))
    assert _adapted(config, prepared, kept).lr == pytest.approx(expected, rel=1e-4)
    assert expected < 0.1


def test_a_schedule_in_cycles_begins_anew():
    # 5 steps in 2 cycles: 2 and 3 steps, each down in a line from 1 to one before 0
    factor = in_cycles(TrainingSettings(lr_schedule="linear", warmup=0), 5, 0, 2)
    assert [factor(step, 5) for step in range(5)] == pytest.approx([1, 1 / 2, 1, 2 / 3, 1 / 3])
    with pytest.raises(ValueError, match="warmup: 2 steps of warm-up leave none of the training's 2 steps"):
        in_cycles(TrainingSettings(warmup=2), 5, 0, 2)


def test_a_line_begins_with_the_whole_rate_with_a_warm_up_and_without():
    """METHODS 2.13, LLR: in a line from the peak to 0; the last step of a warm-up is the first of that line."""
    plain = schedule_of(TrainingSettings(lr_schedule="linear", warmup=0), 4)
    assert [plain(step, 4) for step in range(4)] == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4])
    warm = schedule_of(TrainingSettings(lr_schedule="linear", warmup=2), 5)
    assert [warm(step, 5) for step in range(5)] == pytest.approx([1 / 2, 1, 3 / 4, 2 / 4, 1 / 4])
