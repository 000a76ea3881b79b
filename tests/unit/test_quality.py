"""Quality by hand, and metrics by name."""

import math

import pytest
import torch

from autoprune.recovery import distillation_loss
from objectives import agreement, loss, measure, resolve_metric, top1

LOGITS = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, 5.0]])  # probabilities 1/2, 3/4, ...
LABELS = torch.tensor([0, 0, 0])


def test_loss_is_the_cross_entropy_of_each_image():
    expected = torch.tensor([math.log(2), math.log(4 / 3), math.log(1 + math.exp(5))])
    torch.testing.assert_close(loss(LOGITS, LABELS), expected)
    assert loss(LOGITS.bfloat16(), LABELS).dtype == torch.float32


def test_top1():
    assert top1(LOGITS, LABELS).tolist() == [1, 1, 0]


def test_agreement_asks_the_dense_network_not_the_labels():
    dense = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert agreement(LOGITS, dense).tolist() == [1, 0, 1]
    assert agreement(dense, dense).tolist() == [1, 1, 1]


def test_measure_averages_over_the_images():
    assert measure("top1", LOGITS, LABELS) == pytest.approx(2 / 3)
    assert measure("loss", LOGITS[:1], LABELS[:1]) == pytest.approx(math.log(2))


def test_a_function_from_outside():
    assert resolve_metric("torch.nn.functional:cross_entropy") is torch.nn.functional.cross_entropy
    assert measure("torch.nn.functional:cross_entropy", LOGITS[:1], LABELS[:1]) == pytest.approx(math.log(2))


def test_bad_metrics():
    with pytest.raises(ValueError, match=r"^unknown metric 'f1'; known: loss, top1, or give package.module:Name"):
        resolve_metric("f1")
    with pytest.raises(ValueError, match=r"^metric 'math:pi': expected a function of \(logits, labels\), got float"):
        resolve_metric("math:pi")
    with pytest.raises(ValueError, match=r"expected one number or one per image, got shape \(3, 2\)"):
        measure("torch:mul", LOGITS, LABELS[:, None])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.rand(4, 3), r"must be \[N\] integers, .* got float32 \[4, 3\]; .* image classification"),
        (torch.rand(4, 3).long(), r"got int64 \[4, 3\]"),
        (torch.tensor([0.0, 1, 2, 0]), r"got float32 \[4\]"),
        (torch.tensor([True, False, True, False]), r"got bool \[4\]"),
        ([0, 1, 2, 0], "got list"),
        (torch.tensor([0, 1, 2]), r"for each of 3 labels, got \[4, 3\]"),
    ],
)
@pytest.mark.parametrize("function", [loss, top1, lambda out, labels: distillation_loss(out, out, labels, 0.5)])
def test_labels_that_are_no_class_numbers_are_refused(function, labels, words):
    with pytest.raises(ValueError, match=words):
        function(torch.zeros(4, 3), labels)
