"""Criteria that look at the weights (and their mean gradients) only, by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.criteria import CRITERIA, GroupTensors, score_all
from autoprune.criteria.tensors import Part
from search_spaces import trace

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from residual import Residual


def made_by(*tables):
    """A group whose units are made by these tables [C, M]."""
    units = torch.arange(len(tables[0]))
    parts = tuple(Part("filter", torch.tensor(t, dtype=torch.float64), 0, units[:, None]) for t in tables)
    return GroupTensors("g", units, parts)


def score(name, *tables):
    return CRITERIA[name]().score(made_by(*tables)).numpy()


BATCHES = [(torch.tensor([[1.0, 2.0]]), torch.tensor([0])), (torch.tensor([[2.0, 4.0]]), torch.tensor([1]))]

# Image 1, x = (1, 2), label 0: h = (1, 2), logits (3, 3), d = dL/dlogits = (-1/2, 1/2).
#   Only diagonal weights are not zero. Weight times gradient, in a: h * (d + B d) = (1 * -3/2, 2 * 3/4) = (-3/2, 3/2);
#   in b: b(h) * d = (2 * -1/2, 1 * 1/2) = (-1, 1/2).
# Image 2, x = (2, 4), label 1: h twice as large, d the other way: (3, -3) and (2, -1).
# Means: a (3/4, -3/4), b (1/2, -1/4).
GOLDEN = {
    "obd": [9 / 16 + 1 / 4, 9 / 16 + 1 / 16],  # squared, then summed
    "orthoreg": [(3 / 4 + 1 / 2) ** 2, (3 / 4 + 1 / 4) ** 2],  # summed, then squared
    "lamp": [1, 1.25 / (1.25 + 5)],  # squared norms 1 + 4 and 1 + 1/4
    # Filters (1, 0, 2, 0) and (0, 1, 0, 1/2) are orthogonal: l_1 = (1, 0), l_2 = (1, 1), mean:
    "leverage": [1, 1 / 2],
    "exemplar": [0, 0],  # of two units neither stands better for the other
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name):
    net = Residual().eval()
    (found,) = score_all(name, net, trace(net, torch.zeros(1, 2)), BATCHES)
    np.testing.assert_allclose(found, GOLDEN[name], rtol=1e-6, atol=1e-12)


def test_lamp_by_hand():
    # Squared norms 9, 1, 4, 4: 9/9, 1/18, and each of the equal ones 4 / (4 + 4 + 9).
    np.testing.assert_allclose(score("lamp", [[3.0], [-1], [2], [2]]), [1, 1 / 18, 4 / 17, 4 / 17])


def test_lamp_of_dead_filters():
    np.testing.assert_array_equal(score("lamp", [[0.0], [0], [2]]), [0, 0, 1])
    np.testing.assert_array_equal(score("lamp", [[0.0], [0]]), [0, 0])


def test_orthoreg_looks_before_the_norm_and_taylor_behind_it():
    # Two channels of a 1x1 conv with w = 1, x = 1; norm with mean 0, var 1, eps 0: z = (3 * 1 - 2, 1 * 1 + 0) = (1, 1).
    # Label 1: dL/dz = (1/2, -1/2). The filter's w * gamma * dz = (3/2, -1/2); the norm's gamma * dz + beta * dz =
    # (1/2, -1/2).
    norm = nn.BatchNorm2d(2, eps=0)
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), norm, nn.Flatten(), nn.Linear(2, 2, bias=False)).eval()
    with torch.no_grad():
        net[0].weight.fill_(1)
        norm.weight.copy_(torch.tensor([3.0, 1.0]))
        norm.bias.copy_(torch.tensor([-2.0, 0.0]))
        net[3].weight.copy_(torch.eye(2))
    image = torch.ones(1, 1, 1, 1)
    space, batches = trace(net, image), [(image, torch.tensor([1]))]
    np.testing.assert_allclose(score_all("orthoreg", net, space, batches)[0], [9 / 4, 1 / 4])
    np.testing.assert_allclose(score_all("taylor", net, space, batches)[0], [1 / 4, 1 / 4])


def test_leverage_counts_a_direction_once():
    # Squared singular values 4 (unit 0 alone) and 2 (units 1 and 2 along one direction): V = e0, (e1 + e2) / sqrt 2.
    # l_1 = (1, 0, 0), l_2 = (1, 1/2, 1/2); the rank is 2, so the mean of these.
    np.testing.assert_allclose(score("leverage", [[2.0, 0], [0, 1], [0, 1]]), [1, 1 / 4, 1 / 4], atol=1e-12)
    # Coupled filters are laid end to end.
    np.testing.assert_allclose(score("leverage", [[2.0], [0], [0]], [[0.0], [1], [1]]), [1, 1 / 4, 1 / 4], atol=1e-12)


def test_leverage_with_more_units_than_weights_and_with_none():
    assert score("leverage", [[1.0], [2], [2]]) == pytest.approx([1 / 9, 4 / 9, 4 / 9])  # one direction, shared
    np.testing.assert_array_equal(score("leverage", [[0.0], [0]]), [0, 0])


def test_exemplar_margins_by_hand(monkeypatch):
    # Units at 0, 2, 10 on a line, at the factor 1/2: margins 2, 2, 32 (test_affinity), less the least one. Coupled
    # filters are laid end to end: the distance along the diagonal is what counts.
    monkeypatch.setattr("autoprune.criteria.exemplar.departures", lambda distances: np.full(3, 0.5))
    np.testing.assert_allclose(score("exemplar", [[0.0], [2], [10]]), [0, 0, 30], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        score("exemplar", [[0.0], [2], [10]], [[0.0], [2], [10]]), [0, 0, 60], rtol=1e-3, atol=1e-3
    )


def test_the_middle_of_a_cluster_is_its_exemplar():
    points = np.array([0, 1, -1.1, 20, 21, 18.9])[:, None] @ np.ones((1, 3))
    found = score("exemplar", points.tolist())
    assert set(np.argsort(found)[-2:]) == {0, 3}


@pytest.mark.parametrize("name", ["leverage", "exemplar", "lamp", "obd", "orthoreg"])
def test_a_group_without_parameters_scores_zero(name):
    group = GroupTensors("g", torch.arange(3), ())
    assert CRITERIA[name]().score(group).tolist() == [0, 0, 0]
