"""Criteria of activations: a network done by hand, and independent ways to what the pass gathers."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.criteria import activations, inf_fs, score_all, score_many
from autoprune.criteria.gathering import ACTIVATIONS, gather
from autoprune.criteria.propagation import propagate
from autoprune.criteria.tensors import GroupTensors
from autoprune.criteria.thinet import ThiNet
from search_spaces import trace


def filled(layer, weight):
    """The layer with these weights."""
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight).reshape(layer.weight.shape))
    return layer


class Residual(nn.Module):
    """y = c(r + b(r)), r = relu(a(x)): one group of two units, read by b (before the sum) and c (after it)."""

    def __init__(self):
        super().__init__()
        self.a = filled(nn.Linear(2, 2, bias=False), [[1.0, 0.0], [0.0, 1.0]])
        self.b = filled(nn.Linear(2, 2, bias=False), [[2.0, 0.0], [0.0, 0.5]])
        self.c = filled(nn.Linear(2, 1, bias=False), [[1.0, 1.0]])

    def forward(self, x):
        r = F.relu(self.a(x))
        return self.c(r + self.b(r))


# Image x:             (1, -2)   (3, 4)
# b reads r = relu(x): (1, 0)    (3, 4)      b(r) = (2, 0), (6, 2)
# c reads s = r + b(r): (3, 0)   (9, 6)
BATCHES = [(torch.tensor([[1.0, -2.0]]), torch.tensor([0])), (torch.tensor([[3.0, 4.0]]), torch.tensor([0]))]
GOLDEN = {
    "apoz": [1, 0.5],  # unit 1 is zero in one of two images, at both readers
    "mean_activation": [4, 2.5],  # unit 0: ((1 + 3)/2 + (3 + 9)/2) / 2; unit 1: ((0 + 4)/2 + (0 + 6)/2) / 2
    "hrank": [1, 0.5],  # linear layers read 1x1 maps: of rank 1 where not zero
    # Contributions to b's outputs are (2, 0) r0 and (0, 1/2) r1, to c's output s0 and s1. Mean of their squares:
    # unit 0: (4 + 36)/2 + (9 + 81)/2 = 65; unit 1: (0 + 4)/2 + (0 + 36)/2 = 20. Unit 1 goes first: place 1 of 2.
    "thinet": [1, 0.5],
    # Responses (3, 9) and (0, 6): equal spread, rank correlation 1, A = [[1/2, 1/2], [1/2, 1/2]], radius 1, so that
    # ((I - 0.9 A)^-1 - I) 1 = 1/(1 - 0.9) - 1 = 9 for both. c hands on (9, 9). b, mean row sum (2 + 1/2)/2 = 5/4,
    # hands on (9 * 2/1.25, 9 * 0.5/1.25) = (14.4, 3.6). Sum (23.4, 12.6), divided by its mean 18:
    "nisp": [1.3, 0.7],
}


@pytest.fixture
def net():
    return Residual().eval()


@pytest.fixture
def space(net):
    return trace(net, torch.zeros(1, 2))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name, net, space):
    (score,) = score_all(name, net, space, BATCHES)
    np.testing.assert_allclose(score, GOLDEN[name], rtol=1e-5)


def test_all_share_one_pass_with_the_gradients(net, space):
    one_pass = iter(BATCHES)  # can be read once only
    scores = score_many((*GOLDEN, "taylor", "group_fisher"), net, space, one_pass)
    for name, golden in GOLDEN.items():
        np.testing.assert_allclose(scores[name][0], golden, rtol=1e-5)
    for name in ("taylor", "group_fisher"):
        np.testing.assert_array_equal(scores[name][0], score_all(name, net, space, BATCHES)[0])


def test_contributions_by_hand(net, space):
    (found,) = gather(net, space, BATCHES, frozenset({"contributions"})).activations
    assert found["contributions"].diagonal().tolist() == [65, 20]


def test_thinet_looks_at_the_sum_not_at_each_unit():
    # One output, contributions (2, 3, -2.5). Unit 0 goes first (4 < 6.25 < 9). Then {0, 1} costs 25, {0, 2} only 0.25.
    net = nn.Sequential(nn.Linear(3, 3, bias=False), filled(nn.Linear(3, 1, bias=False), [2.0, 3.0, -2.5]))
    filled(net[0], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    ones = torch.ones(1, 3)
    (score,) = score_all("thinet", net, trace(net, ones), [(ones, torch.tensor([0]))])
    np.testing.assert_allclose(score, [1 / 3, 1, 2 / 3])
    # Three times the last contribution: {0} 4, {1} 9, {2} 56.25; {0, 1} 25, {0, 2} 30.25: unit 1 is second.
    filled(net[1], [2.0, 3.0, -7.5])
    (score,) = score_all("thinet", net, trace(net, ones), [(ones, torch.tensor([0]))])
    np.testing.assert_allclose(score, [1 / 3, 2 / 3, 1])


def test_thinet_is_the_greedy_algorithm_of_the_paper_on_a_wide_group():
    rng = np.random.default_rng([0, 1])
    samples = rng.normal(size=(60, 512)) * rng.uniform(0, 1, 512)
    samples[:, 7] = 0
    group = GroupTensors("g", torch.arange(512), (), activations={"contributions": torch.tensor(samples.T @ samples)})
    places = ThiNet().score(group).numpy() * 512
    assert places[7] == 0
    removed = [7]
    for place in range(2, 8):  # algorithm 1, literally
        costs = {j: (samples[:, [*removed, j]].sum(1) ** 2).sum() for j in range(512) if j not in removed}
        removed.append(min(costs, key=costs.get))
        assert places[removed[-1]] == pytest.approx(place)
    assert sorted(np.delete(places, 7).round()) == list(range(2, 513))


def test_random_signs_sample_all_outputs_of_a_convolution():
    """The mean of z z' over many images is the sum over outputs of v v': v by convolving each channel alone."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 3, 3, padding=1, stride=2)).eval()
    filled(net[0], [1.0, 2.0])
    with torch.no_grad():
        net[2].weight.abs_()
    image = torch.rand(1, 1, 5, 5)
    space = trace(net, image)
    batches = [(image.expand(1000, -1, -1, -1), torch.zeros(1000, 3, 3).long())] * 4
    (found,) = gather(net, space, batches, frozenset({"contributions"})).activations
    with torch.no_grad():
        maps = net[:2](image)
        alone = [F.conv2d(maps[:, [c]], net[2].weight[:, [c]], padding=1, stride=2).flatten() for c in range(2)]
    exact = torch.stack(alone).double() @ torch.stack(alone).double().T
    assert (found["contributions"] - exact).abs().max() < 0.05 * exact.trace()
    assert exact[0, 1].abs() > 0.1 * exact.trace()  # so the products of two units are seen, too


def test_rank_of_maps():
    # Maps of the two units, image 1: [[1, 2], [2, 4]] (rank 1), [[1, 0], [0, 1]] (rank 2);
    # image 2: [[-1, -1], [-1, -1]], zero after ReLU (rank 0), [[0, 1], [2, 3]] (rank 2).
    net = nn.Sequential(filled(nn.Conv2d(2, 2, 1, bias=False), [[1.0, 0.0], [0.0, 1.0]]), nn.ReLU(), nn.Conv2d(2, 1, 1))
    images = torch.tensor(
        [[[[1.0, 2], [2, 4]], [[1.0, 0], [0, 1]]], [[[-1.0, -1], [-1, -1]], [[0.0, 1], [2, 3]]]]
    )  # fmt: skip
    (score,) = score_all("hrank", net, trace(net, images[:1]), [(images, torch.zeros(2, 2, 2).long())])
    assert score.tolist() == [0.5, 2]


def test_ranks_are_taken_of_a_bounded_number_of_images(net, space, monkeypatch):
    monkeypatch.setattr(activations, "RANKED", 1)
    assert score_all("hrank", net, space, BATCHES)[0].tolist() == [1, 0]  # the first image only
    images, labels = (torch.cat(t) for t in zip(*BATCHES, strict=True))
    assert score_all("hrank", net, space, [(images, labels)])[0].tolist() == [1, 0]


def test_infinite_feature_selection_with_a_constant_feature():
    # Spread (1, 0); the constant is alike to everything: A = 1/2 [[1, 1], [1, 0]], whose radius is phi / 2.
    # With b = 0.9 / phi: (I - b [[1, 1], [1, 0]])^-1 = [[1, b], [b, 1 - b]] / (1 - b - b^2), times 1, minus 1.
    b = 0.9 / ((1 + 5**0.5) / 2)
    det = 1 - b - b**2
    found = inf_fs.inf_fs(torch.tensor([[1.0, 7.0], [3.0, 7.0], [2.0, 7.0]]))
    np.testing.assert_allclose(found, [(1 + b) / det - 1, 1 / det - 1], rtol=1e-6)


def test_infinite_feature_selection_of_too_many_features_is_their_spread(monkeypatch):
    monkeypatch.setattr(inf_fs, "WIDEST", 1)
    assert inf_fs.inf_fs(torch.tensor([[0.0, 1.0], [4.0, 3.0]])).tolist() == [1, 0.5]
    assert inf_fs.inf_fs(torch.ones(3, 2)).tolist() == [1, 1]


def test_importance_of_a_chain_is_the_product_of_absolute_weights():
    """s_k = |W_k+1|' s_k+1, with |gamma| / sigma of the batch-norm in between, up to a factor per layer."""
    net = nn.Sequential(
        nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU6(), nn.Linear(4, 2)
    ).eval()  # fmt: skip
    with torch.no_grad():
        net[3].weight.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0]))
        net[3].running_var.copy_(torch.tensor([1.0, 1.0, 0.25, 9.0]))
        net[3].running_mean.copy_(torch.tensor([5.0, -5.0, 5.0, -5.0]))
    scores = torch.tensor([1.0, 2.0, 0.0, 3.0])
    before = copy.deepcopy(net.state_dict())
    first, second = propagate(net, trace(net, torch.zeros(2, 3)), torch.zeros(1, 3), scores, "5")
    expected = net[2].weight.detach().abs().T @ (scores * torch.tensor([1.0, 2.0, 1.0, 1.0]))  # |gamma| / sigma
    torch.testing.assert_close(first / first.sum(), expected / expected.sum(), rtol=1e-3, atol=0)
    torch.testing.assert_close(second / second.sum(), scores / scores.sum())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_importance_does_not_depend_on_the_scale_of_any_layer(net, space):
    (before,) = score_all("nisp", net, space, BATCHES)
    with torch.no_grad():
        net.b.weight *= 8
        net.c.weight *= -2
    (after,) = propagate(net, space, torch.zeros(1, 2), torch.tensor([9.0, 9.0]), "c")
    np.testing.assert_allclose(after / after.mean(), before, rtol=1e-5)


class Mixed(nn.Module):
    """Residual stream, depthwise layer, in-place activations, concatenation, flatten to linear, GroupNorm."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.depth, self.point = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 6, 1)
        self.side, self.scale = nn.Conv2d(6, 4, 1), nn.GroupNorm(2, 4)
        self.head = nn.Linear(10 * 16, 5)

    def forward(self, x):
        x = F.relu_(x)  # would change the caller's images
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        x = x + self.point(F.relu(self.depth(x), inplace=True))
        return self.head(torch.cat([x, F.relu(self.scale(self.side(x)))], 1).flatten(1))


def test_coupled_concatenated_and_flattened_groups():
    """Against the maps themselves: what point, side and head read."""
    net = Mixed().eval()
    images = torch.randn(5, 3, 4, 4)
    space = trace(net, images[:1])
    state, given = copy.deepcopy(net.state_dict()), images.clone()
    batches = [(images[:2], torch.zeros(2).long()), (images[2:], torch.zeros(3).long())]
    found = gather(net, space, batches, ACTIVATIONS).activations
    assert torch.equal(images, given)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    with torch.no_grad():
        x = F.relu(net.norm(net.stem(F.relu(images))))
        depth = F.relu(net.depth(x))
        x = x + net.point(depth)
        side = F.relu(net.scale(net.side(x)))
    reads = {"stem": [x, x, depth], "side": [side]}  # x: side and head; depth: point
    assert [(g.name, g.size) for g in space.groups] == [("stem", 6), ("side", 2)]  # a unit in each norm's group
    for group, seen in zip(space.groups, found, strict=True):
        assert set(seen) == ACTIVATIONS
        maps = torch.stack(reads[group.name])[:, :, group.members[0].index]  # [readers, N, C, k, H, W]
        means, zeros = (m.mean((0, 1, 3, 4, 5)) for m in (maps.abs(), (maps == 0).float()))
        torch.testing.assert_close(seen["means"], means.double())
        torch.testing.assert_close(seen["zeros"], zeros.double())
        assert seen["contributions"].shape == (group.size, group.size)
        assert torch.linalg.eigvalsh(seen["contributions"]).min() > -1e-6 * seen["contributions"].trace()
        assert (seen["importance"] > 0).all()


def test_a_group_that_no_layer_touches_or_calls():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.v, self.w = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4, 2))

        def forward(self, x):
            return F.relu(x @ self.v) @ self.w

    class Hidden(nn.Sequential):
        def forward(self, x):
            return F.linear(F.relu(F.linear(x, self[0].weight)), self[1].weight)

    batches = [(torch.randn(2, 3), torch.tensor([0, 1]))]
    for net, message in ((Bare(), "found bare parameters only"), (Hidden(nn.Linear(3, 4), nn.Linear(4, 2)), "no call")):
        space = trace(net, torch.zeros(1, 3))
        with pytest.raises(ValueError, match=message):
            score_all("apoz", net, space, batches)
        assert np.isfinite(score_all("taylor", net, space, batches)[0]).all()


def test_an_unknown_need(net, space):
    with pytest.raises(ValueError, match=r"needs \['dreams'\]: unknown; known: .*contributions"):
        gather(net, space, BATCHES, frozenset({"dreams"}))
    with pytest.raises(ValueError, match=r"group 'g': 'zeros' was not gathered"):
        GroupTensors("g", torch.arange(2), ()).seen("zeros")
