"""Every criterion on a network small enough to do in the head."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.criteria import CRITERIA, Criterion, score_all, score_many
from search_spaces import trace

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from residual import Residual


class LastFirst(Criterion):
    """A plug-in: the last unit is the best."""

    name = "last_first"
    degree = 0

    def score(self, group):
        return group.units.double()


class Broken(LastFirst):
    def score(self, group):
        return group.units * float("nan")


@pytest.fixture
def net():
    return Residual().eval()


@pytest.fixture
def space(net):
    return trace(net, torch.zeros(1, 2))


BATCHES = [(torch.tensor([[1.0, 2.0]]), torch.tensor([0])), (torch.tensor([[2.0, 4.0]]), torch.tensor([1]))]

# Image 1, x = (1, 2), label 0: h = (1, 2), b(h) = (2, 1), logits = (3, 3), softmax (1/2, 1/2),
#   d = dL/dlogits = (-1/2, 1/2).
#   c reads s = (3, 3):   s * d          = (-3/2, 3/2)
#   b reads h = (1, 2):   h * (B^T d)    = (1 * 2 * -1/2, 2 * 1/2 * 1/2) = (-1, 1/2)
#   one mask on both:                      (-5/2, 2)
# Image 2, x = (2, 4), label 1: everything twice as large, d = (1/2, -1/2): (5, -4).
GOLDEN = {
    "l1": [1 + 2, 1 + 0.5],
    "l2": [1 + 4, 1 + 0.25],
    "geometric_median": [2.5, 2.5],  # |(1,0,2,0) - (0,1,0,1/2)| = sqrt(1 + 1 + 4 + 1/4), the rows of a and b end to end
    "group_fisher": [6.25 + 25, 4 + 16],  # sum over readers, then square, then sum over images
    # Weights times gradients of what makes h, image 1: a: h * (d + B^T d) = (-3/2, 3/2); b: b(h) * d = (-1, 1/2).
    # Together (-5/2, 2); image 2: (5, -4); mean (5/4, -1); squared:
    "taylor": [1.5625, 1.0],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name, net, space):
    (score,) = score_all(name, net, space, BATCHES)
    assert score.dtype == np.float64
    np.testing.assert_allclose(score, GOLDEN[name], rtol=1e-6)


def test_group_fisher_sums_before_it_squares(net, space):
    (score,) = score_all("group_fisher", net, space, BATCHES)
    squares_first = 2.25 + 1 + 9 + 4  # unit 0: both readers squared apart
    assert score[0] == pytest.approx(31.25)
    assert score[0] > squares_first


def test_bn_scale_adds_the_scales_of_coupled_norms():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)
            self.na, self.nb = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
            with torch.no_grad():
                self.na.weight.copy_(torch.tensor([0.5, -2.0]))
                self.nb.weight.copy_(torch.tensor([1.0, 0.25]))

        def forward(self, x):
            return self.c(self.na(self.a(x)) + self.nb(self.b(x)))

    net = Two().eval()
    (score,) = score_all("bn_scale", net, trace(net, torch.zeros(1, 1, 2, 2)))
    np.testing.assert_allclose(score, [0.5 + 1.0, 2.0 + 0.25])


def test_bn_scale_without_norm_is_the_l1_norm(net, space):
    assert np.array_equal(score_all("bn_scale", net, space)[0], score_all("l1", net, space)[0])


def test_taylor_prefers_the_norms_gate():
    # Two channels of a 1x1 conv with w = 1, x = 1, BN with mean 0, var 1, eps 0: z = gamma * 1 + beta = (3 - 2, 1 + 0).
    # Logits z = (1, 1), softmax (1/2, 1/2), label 1: dL/dz = (1/2, -1/2).
    # gamma * dz + beta * dz = (3/2 - 2/2, -1/2 + 0) = (1/2, -1/2), squared (1/4, 1/4).
    # The filters alone, w * gamma * dz = (3/2, -1/2), would not see beta.
    norm = nn.BatchNorm2d(2, eps=0)
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), norm, nn.Flatten(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[1].weight.copy_(torch.tensor([3.0, 1.0]))
        net[1].bias.copy_(torch.tensor([-2.0, 0.0]))
        net[3].weight.copy_(torch.eye(2))
    image = torch.ones(1, 1, 1, 1)
    (score,) = score_all("taylor", net.eval(), trace(net, image), [(image, torch.tensor([1]))])
    np.testing.assert_allclose(score, [0.25, 0.25])


def test_random_differs_by_seed_and_repeats(net, space):
    scores = [score_all("random", net, space, seed=s)[0] for s in (0, 0, 1)]
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_many_criteria_share_one_pass(net, space):
    passes = iter(BATCHES)  # can be read once only
    scores = score_many(("taylor", "group_fisher", "l1"), net, space, passes)
    for name, (score,) in scores.items():
        np.testing.assert_allclose(score, GOLDEN[name], rtol=1e-6)


def test_plug_in(net, space, monkeypatch):
    module = types.ModuleType("outside_criteria")
    module.LastFirst = LastFirst
    monkeypatch.setitem(sys.modules, "outside_criteria", module)
    assert score_all("outside_criteria:LastFirst", net, space)[0].tolist() == [0, 1]


def test_unknown_criterion_lists_the_known(net, space):
    with pytest.raises(ValueError, match=r"unknown criterion 'l3'; known: .*group_fisher.*package\.module:Name"):
        score_all("l3", net, space)


def test_plug_in_that_is_no_criterion(net, space):
    with pytest.raises(ValueError, match=r"expected a subclass of autoprune\.criteria\.Criterion"):
        score_all("collections:OrderedDict", net, space)


@pytest.mark.parametrize("name", sorted(n for n, c in CRITERIA.items() if c.needs))
def test_criteria_of_data_need_batches(name, net, space):
    with pytest.raises(ValueError, match=f"criterion '{name}': needs batches"):
        score_all(name, net, space)
    with pytest.raises(ValueError, match="at least one sample"):
        score_all(name, net, space, [])


def test_scores_must_be_finite(net, space, monkeypatch):
    monkeypatch.setitem(CRITERIA, "broken", Broken)
    with pytest.raises(ValueError, match=r"criterion 'broken', group 'a': expected 2 finite scores"):
        score_all("broken", net, space)
