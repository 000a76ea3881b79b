"""Classification by hand, and metrics by name."""

import math

import pytest
import torch

from autoprune import data as data_sets
from autoprune.tasks import Classification, Metric, goal_of, resolve_metric
from autoprune.tasks.classification import cross_entropy, top1
from autoprune.tasks.distances import soft_distance

LOGITS = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, 5.0]])  # probabilities 1/2, 3/4, ...
LABELS = torch.tensor([0, 0, 0])


@pytest.fixture(scope="module")
def task():
    return Classification(data_sets.load("digits"))


def test_the_loss_is_the_cross_entropy_of_each_image(task):
    expected = torch.tensor([math.log(2), math.log(4 / 3), math.log(1 + math.exp(5))])
    torch.testing.assert_close(cross_entropy(LOGITS, LABELS), expected)
    torch.testing.assert_close(task.loss({"aux": None, "logits": LOGITS}, (None, LABELS)), expected)
    assert cross_entropy(LOGITS.bfloat16(), LABELS).dtype == torch.float32


def test_top1():
    assert top1(LOGITS, LABELS).tolist() == [1, 1, 0]


def test_scores_are_averaged_over_the_images(task):
    meter = task.meter({"torch.nn.functional:cross_entropy": Metric(torch.nn.functional.cross_entropy, whole=True)})
    for part in (slice(0, 2), slice(2, 3)):
        meter.update(LOGITS[part], (torch.zeros(len(LABELS[part]), 1), LABELS[part]))
    found = meter.compute()
    assert found["top1"] == pytest.approx(2 / 3)
    assert found["torch.nn.functional:cross_entropy"] == pytest.approx(float(cross_entropy(LOGITS, LABELS).mean()))


def test_metrics_by_name(task):
    assert resolve_metric("torch.nn.functional:cross_entropy", task).function is torch.nn.functional.cross_entropy
    assert resolve_metric("top1", task) is None
    assert goal_of("top1", task).loss(0.9) == pytest.approx(0.1)
    assert goal_of("top1", task).minimised == "1 - top-1"
    assert goal_of("loss", task).loss(0.9) == 0.9


def test_bad_metrics(task):
    with pytest.raises(ValueError, match=r"^unknown metric 'f1'; known: loss, top1, or give package.module:Name"):
        resolve_metric("f1", task)
    with pytest.raises(ValueError, match=r"^metric 'math:pi': expected a function of \(outputs, targets\), got float"):
        resolve_metric("math:pi", task)
    meter = task.meter({"torch:mul": Metric(lambda outputs, targets: outputs, whole=True)})
    meter.update(LOGITS, (torch.zeros(3, 1), LABELS))
    with pytest.raises(ValueError, match=r"expected one number or one per sample, got shape \(3, 2\)"):
        meter.compute()


def test_distillation_by_hand(task):
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0) * 2, 0.0]])  # at T = 2: 3/4 and 1/4
    soft = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))  # T^2 KL
    assert task.distance(student, teacher, 2.0).item() == pytest.approx(soft, rel=1e-5)
    assert soft_distance(teacher, teacher, 4.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.rand(4, 3), r"must be \[N\] integers, .* got float32 \[4, 3\]; .*image classification"),
        (torch.rand(4, 3).long(), r"got int64 \[4, 3\]"),
        (torch.tensor([0.0, 1, 2, 0]), r"got float32 \[4\]"),
        (torch.tensor([True, False, True, False]), r"got bool \[4\]"),
        ([0, 1, 2, 0], "got list"),
        (torch.tensor([0, 1, 2]), r"for each of 3 labels, got \[4, 3\]"),
    ],
)
@pytest.mark.parametrize("function", [cross_entropy, top1])
def test_labels_that_are_no_class_numbers_are_refused(function, labels, words):
    with pytest.raises(ValueError, match=words):
        function(torch.zeros(4, 3), labels)
