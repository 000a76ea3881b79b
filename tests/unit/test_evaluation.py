import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.data import ImageData, Split, load
from autoprune.errors import CandidateFailed
from autoprune.evaluation import EvaluationSettings, Evaluator, Goal, measure
from autoprune.tasks import Metric, Task
from autoprune.training import TrainingSettings, finetune
from search_spaces import prune, trace

SETTINGS = EvaluationSettings(bn_samples=256, val_samples=400, short_steps=20, batch_size=64)


class Net(nn.Module):
    """Three convolutions; answers with a dictionary, as some networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, 2), nn.BatchNorm2d(16),
            nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return {"features": (x := self.body(x)), "logits": self.head(x)}


@pytest.fixture(scope="module")
def data():
    return load("digits", val_images=400)


@pytest.fixture(scope="module")
def dense(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net()
    finetune(model, data, TrainingSettings(epochs=15, batch_size=64, lr=0.1))
    return model


@pytest.fixture(scope="module")
def space(dense, data):
    return trace(dense, data.example)


@pytest.fixture(scope="module")
def scores(space):
    return tuple(np.random.default_rng(0).random(g.size) for g in space.groups)


@pytest.fixture(scope="module")
def evaluator(dense, data, space, scores):
    return Evaluator(dense, data, space, scores, SETTINGS)


def test_the_full_widths_are_the_dense_network(evaluator, space):
    full, dense = evaluator(space.full), evaluator.evaluate_dense()
    assert dense["top1"] > 0.9
    assert full["loss"] == pytest.approx(dense["loss"], abs=0.05)  # only its batch-norm is measured afresh
    assert len(full["batch_losses"]) == 13  # 400 images in blocks of 32


def test_it_is_what_pruning_by_hand_gives(evaluator, dense, data, space, scores):
    """prune, torch's own cumulative batch-norm, cross-entropy: in float32 and without any cleverness."""
    widths = tuple(g.size // 2 for g in space.groups)
    small = prune(dense, space, space.kept(widths, scores)).train()
    for module in small.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
        if isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        for images in data.train.sample(256, 0).images.split(64):
            small(data.normalise(images))
        logits = small.eval()(data.normalise(data.val.images))["logits"]
    expected = nn.functional.cross_entropy(logits, data.val.labels).item()
    found = evaluator(widths)
    assert found["loss"] == pytest.approx(expected, rel=0.02)  # bfloat16
    assert found["top1"] == pytest.approx((logits.argmax(1) == data.val.labels).float().mean().item(), abs=0.01)


def test_training_for_some_steps_helps(evaluator, space):
    widths = tuple(max(1, g.size // 3) for g in space.groups)
    proxy, short = evaluator(widths), evaluator(widths, "short")
    assert short["loss"] < proxy["loss"]
    looked, looked_early = evaluator(widths, "short:20"), evaluator(widths, "short:5")
    assert len({short["loss"], looked["loss"], looked_early["loss"]}) == 3
    assert evaluator(widths, "short:20")["loss"] == looked["loss"]


def test_a_training_that_does_harm_is_taken_back(dense, data, space, scores, tmp_path):
    widths, batch = tuple(max(1, g.size // 2) for g in space.groups), {"val_samples": 400, "batch_size": 64}
    proxy = Evaluator(dense, data, space, scores, EvaluationSettings(**batch))(widths)
    harm, kept = TrainingSettings(lr=3.0), str(tmp_path / "trained")
    settings = EvaluationSettings(**batch, training=harm, trained=kept, finals="short")
    evaluate = Evaluator(dense, data, space, scores, settings)
    found = evaluate(widths, "short")
    for name in ("loss", "top1", "batch_losses", "samples"):
        assert found[name] == proxy[name]
    assert found["loss_trained"] > proxy["loss"]
    assert not found["abandoned"]
    assert not evaluate(widths, "short", proxy["batch_losses"])["abandoned"]  # the training alone was hopeless
    asked = []
    kept = evaluate.trained(widths, "short", lambda: asked.append("again"))
    assert not asked
    net = prune(dense, space, space.kept(widths, scores))
    net.load_state_dict(kept)
    assert measure(net, data, "val")["loss"] == pytest.approx(found["loss"], rel=0.02)  # folded, bfloat16


def test_finalists_alone_leave_their_weights(dense, data, space, scores, tmp_path):
    run = tmp_path / "run"
    settings = dataclasses.replace(SETTINGS, trained=str(run / "trained"), finals="short", device="cpu")
    evaluate, widths = Evaluator(dense, data, space, scores, settings), space.floor
    evaluate(widths, "short")
    assert not run.exists()  # a run that is not on this machine
    run.mkdir()
    for fidelity in ("proxy", "short:5"):
        evaluate(widths, fidelity)
    assert not list(run.iterdir())
    loss = evaluate(widths, "short")["loss"]
    (file,) = (run / "trained").iterdir()
    asked = []
    there = {k: v.clone() for k, v in evaluate.trained(widths, "short", lambda: asked.append("again")).items()}
    file.write_bytes(b"torn")
    again = evaluate.trained(widths, "short", lambda: asked.append("again"))
    assert asked == ["again"]
    assert [n for n in again if not torch.equal(there[n], again[n])] == []
    assert evaluate(widths, "short")["loss"] == loss


def test_a_hopeless_candidate_is_abandoned_with_an_honest_estimate(evaluator, space):
    incumbent = evaluator(space.full)["batch_losses"]
    widths = space.floor
    whole, early = evaluator(widths), evaluator(widths, "proxy", incumbent)
    assert not whole["abandoned"]
    assert early["abandoned"]
    assert early["samples"] < whole["samples"] == 400
    assert early["loss"] == pytest.approx(whole["loss"], rel=0.1)
    assert not evaluator(space.full, "proxy", incumbent)["abandoned"]
    assert not evaluator(widths, "proxy", incumbent[:5])["abandoned"]  # of other images: ignored


def test_abandonment_can_be_switched_off(dense, data, space, scores):
    patient = Evaluator(dense, data, space, scores, EvaluationSettings(val_samples=400, abandon=False))
    assert not patient(space.floor, "proxy", patient(space.full)["batch_losses"])["abandoned"]


def test_the_models_of_others_are_left_alone(evaluator, dense, space):
    before = {k: v.clone() for k, v in dense.state_dict().items()}
    evaluator(space.floor, "short:2")
    assert all(torch.equal(v, before[k]) for k, v in dense.state_dict().items())


def make_metric(tmp_path, monkeypatch, body):
    (tmp_path / "mymetric.py").write_text(f"import torch\ndef metric(logits, labels):\n    return {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "mymetric", raising=False)
    return "mymetric:metric"


@pytest.mark.parametrize(
    ("body", "blocks"), [("(logits.argmax(1) != labels)", 13), ("(logits.argmax(1) != labels).float().mean()", 0)]
)
def test_the_users_own_metric(dense, data, space, scores, tmp_path, monkeypatch, body, blocks):
    name = make_metric(tmp_path, monkeypatch, body)
    found = Evaluator(dense, data, space, scores, EvaluationSettings(val_samples=400, metric=name))(space.full)
    assert found["loss"] == pytest.approx(1 - found["top1"])
    assert len(found["batch_losses"]) == blocks
    top1 = Evaluator(dense, data, space, scores, EvaluationSettings(val_samples=400, metric="top1"))(space.full)
    assert top1["loss"] == pytest.approx(found["loss"])  # lower is better, always


def test_a_bare_function_of_a_task_is_no_goal():
    """Accuracy would be minimised."""
    batches = [(torch.rand(4, 2), torch.zeros(4, dtype=torch.long))]

    def task(metric):
        return Task.of(batches, batches, loss=torch.nn.functional.cross_entropy, metrics={"right": metric})

    def right(outputs, targets):
        return (outputs.argmax(1) == targets).float()

    with pytest.raises(ValueError, match="metric 'right': a function does not say whether higher is better"):
        Goal.of("right", task(right))
    assert Goal.of("loss", task(right)).is_loss
    assert Goal.of("right", task(Metric(right, higher_is_better=True))).score.higher_is_better


def test_a_metric_that_is_nan(dense, data, space, scores, tmp_path, monkeypatch):
    name = make_metric(tmp_path, monkeypatch, "logits.mean() * float('nan')")
    broken = Evaluator(dense, data, space, scores, EvaluationSettings(metric=name))
    with pytest.raises(ValueError, match="must be a finite number for the dense network"):
        broken.evaluate_dense()
    with pytest.raises(CandidateFailed, match="is nan at widths"):
        broken(space.full)


def test_a_diverged_candidate_fails(dense, data, space, scores):
    settings = EvaluationSettings(short_steps=20, training=TrainingSettings(lr=1000.0))
    with pytest.raises(CandidateFailed, match="diverged"):
        Evaluator(dense, data, space, scores, settings)(space.full, "short")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"),
     RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: tried 8 EB")],
)  # fmt: skip
def test_a_candidate_out_of_memory_fails_and_the_next_is_fine(evaluator, space, monkeypatch, error):
    before = evaluator(space.full)["loss"]

    def full(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("autoprune.evaluation.evaluator.reestimate_evenly", full)
        with pytest.raises(CandidateFailed, match="out of memory on cpu"):
            evaluator(space.full)
    assert evaluator(space.full)["loss"] == before


def test_a_bug_is_not_a_failed_candidate(evaluator, space, monkeypatch):
    def bug(*_, **__):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr("autoprune.evaluation.evaluator.reestimate_evenly", bug)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        evaluator(space.full)


def test_measure(dense, data, evaluator):
    found = measure(dense, data, "test")
    assert found.keys() == {"loss", "top1"}
    assert found["top1"] > 0.9
    assert measure(dense, data, "val")["top1"] == pytest.approx(evaluator.evaluate_dense()["top1"], abs=0.01)
    with pytest.raises(ValueError, match="no test images"):
        measure(dense, data.without_test(), "test")


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="val_samples must be above 0"):
        EvaluationSettings(val_samples=0)


def test_time_outside_the_passes_is_small(data):
    """The bookkeeping around the passes, on a network whose passes are not trivially short."""
    images = torch.zeros(600, 3, 32, 32, dtype=torch.uint8)
    split = Split(images, torch.arange(600) % 10)
    big = ImageData(split, split, split, (0.5,) * 3, (0.5,) * 3, tuple("0123456789"))
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1),
        nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    space = trace(model.eval(), big.example)
    scores = tuple(np.arange(g.size) for g in space.groups)
    evaluator = Evaluator(model, big, space, scores, EvaluationSettings(bn_samples=600, val_samples=600))
    shares = []
    for _ in range(3):
        found = evaluator(space.full)
        assert math.isfinite(found["loss"])
        shares.append(1 - found["seconds_compute"] / found["seconds_total"])
    assert min(shares) < 0.1
