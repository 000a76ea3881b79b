import math

import pytest
import torch

from autoprune.recovery import distillation_loss

STUDENT = torch.tensor([[0.0, 0.0]])
TEACHER = torch.tensor([[math.log(3.0) * 2, 0.0]])  # at T = 2: probabilities 3/4 and 1/4
LABELS = torch.tensor([1])


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_by_hand(weight):
    hard = math.log(2)
    soft = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))  # T^2 KL
    loss = distillation_loss(STUDENT, TEACHER, LABELS, weight, temperature=2.0)
    assert loss.item() == pytest.approx((1 - weight) * hard + weight * soft, rel=1e-5)


def test_agreeing_with_the_teacher_costs_nothing():
    assert distillation_loss(TEACHER, TEACHER, LABELS, 1.0).item() == pytest.approx(0, abs=1e-6)
