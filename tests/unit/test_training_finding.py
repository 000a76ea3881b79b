"""Golden numbers of the methods that find the units that stay, worked out by hand on a network of two layers."""

import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from tiny_training import PER_EPOCH, pruning, trained
from tiny_training import network as tiny
from two_layers import W, begun, gradients, loss, network

from autoprune.compute import Compute
from autoprune.problem import Problem
from autoprune.training import TrainingSettings
from autoprune.training.methods import METHODS, Plan, Pruning, Step
from autoprune.training.methods.polarization import valley
from autoprune.training.regrowth import grown, leverage
from objectives import parse
from search_spaces import trace


def test_slimming_pushes_by_the_sign():
    """METHODS-TRAINING 7: s * sign(gamma) is added to gamma's gradient."""
    net = network(norm=[0.5, -0.1, 2.0])
    method = begun("slimming", net, 10, strength=1e-4)
    gradients(method, net, 0)
    torch.testing.assert_close(net[1].weight.grad, torch.tensor([1e-4, -1e-4, 1e-4]))
    method.after_step(net, Step(9, ()))
    assert [list(k) for k in method.kept()] == [[0, 2]]  # two thirds of the MACs stay, |gamma| 0.5 and 2


def test_slimming_and_polarization_move_scales_as_far_as_published():
    """160 epochs at 1e-4 (80 at 0.1, 40 at 0.01, 40 at 0.001) in 50 epochs at 0.1; 5e-5 over 200 epochs likewise."""
    net = network(norm=[0.5, 1.0, 2.0])
    assert begun("slimming", net, 100, per_epoch=2, lr=0.1).weight == pytest.approx(1e-4 * 8.44 / 5)
    assert begun("polarization", net, 100, per_epoch=2, lr=0.1).weight == pytest.approx(5e-5 * 7.3 / 5, rel=1e-3)
    assert begun("slimming", net, 100, per_epoch=2, lr=1e-4).weight == 1e-2


def test_polarization_loss_clamp_and_valley():
    """METHODS-TRAINING 6: mean 0.5; 1.4 * 1.5 - (0 + 0.5 + 0.5) = 1.1."""
    net = network(norm=[0.5, 1.0, 0.0])
    method = begun("polarization", net, 10, strength=0.1, t=1.4)
    assert loss(method, net, 0) == pytest.approx(0.11)
    net[1].weight.data = torch.tensor([-0.3, 1.2, 0.4])
    method.after_step(net, Step(0, ()))
    torch.testing.assert_close(net[1].weight.data, torch.tensor([0.0, 1.0, 0.4]))
    both = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    for norm in (both[1], both[2]):
        norm.weight.data = torch.tensor([0.9, 0.8, 1.1])
    assert begun("polarization", both, 10).top == pytest.approx(1.1)  # of any scale, not of those of a unit together
    # counts 2, 1, 0, 0, ... , 1 in bins 0, 1, ... , 90: falls to bin 2, then level: the edge of bin 2 + 1 - 1
    assert valley(torch.tensor([0.001, 0.002, 0.015, 0.905])) == pytest.approx(0.02)


def test_chex_leverage_and_growth():
    """METHODS-TRAINING 11: norms in the first k singular vectors; residuals from the span of what is kept."""
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    torch.testing.assert_close(leverage(rows, 1), torch.tensor([0.0, 1.0]).double())
    torch.testing.assert_close(leverage(torch.tensor([[1.0], [-3.0]]), 1), torch.tensor([1.0, 3.0]))  # L1
    rows = torch.tensor([[1.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, 99.0, 0.0]])  # of the others one is in the span
    found = grown(rows, torch.tensor([True, False, False]), 1, [0])
    assert found.tolist() == [False, False, True]
    rows = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 99.0, 0.0], [5.0, 0.0, 0.0]])  # kept ones on one line
    assert grown(rows, torch.tensor([True, True, False, False]), 1, [0]).tolist() == [False, False, True, False]
    assert not grown(rows.fill_(math.nan), torch.tensor([True, True, False, False]), 0, [0]).any()  # nothing computed


def test_chex_begins_with_the_largest_that_its_first_sparsity_leaves():
    """METHODS-TRAINING 11: floor(n (1 - (S - delta))) by L1; n = 7, S = 5/7: 2 of 7 stay in the end."""
    net = network([[float(i), 0.0] for i in range(1, 8)], norm=[1.0] * 7)
    method = begun("chex", net, 10, per_epoch=5, budget="macs<=30%", growing=0.3)
    assert method.pruned[0].tolist() == [True] * 3 + [False] * 4  # S = 5/7; floor(7 (1 - 5/7 + 0.3)) = floor(4.1)
    assert not net[0].weight[:3].any()


def test_chex_grows_no_more_than_its_threshold_leaves():
    """METHODS-TRAINING 11: the share of |gamma| above the quantile S - delta; what is out has 0, above no threshold."""

    def exploring(growing):
        net = network([[float(i), 1.0 / i] for i in range(1, 9)], norm=[0.1 * i for i in range(1, 9)])
        return begun("chex", net, 10, per_epoch=5, budget="macs<=50%", growing=growing)

    method = exploring(0.1)
    assert method.pruned[0].tolist() == [True] * 4 + [False] * 4  # floor(8 (1 - 0.5 + 0.1)) = 4 stay, 8 * 0.6 = 4.8
    method.explore(0, 0.09)  # 1 - S + delta = 0.59: 4.72 of 8, and 4 have a scale
    assert int(method.pruned[0].sum()) == 4
    method = exploring(0.4)
    assert int(method.pruned[0].sum()) == 1  # floor(8 * 0.9) = 7 stay
    method.explore(0, 0.2)  # 8 * 0.7 = 5.6: the 6th largest scale is the threshold
    assert int(method.pruned[0].sum()) == 2


def test_chex_gives_units_back_what_they_had():
    net = network(norm=[0.1, 0.5, 1.0])
    with torch.no_grad():
        net[3].weight.fill_(7.0)
    method = begun("chex", net, 10, per_epoch=5, growing=0.5)
    assert not method.pruned[0].any()  # a third is to go, half of all may grow
    method.explore(0, 0.0)
    assert method.pruned[0].sum() == 1
    (gone,) = method.pruned[0].nonzero().flatten().tolist()
    assert not net[0].weight[gone].any()
    assert not net[3].weight[:, gone].any()
    method.snapshot.restore_(method.pruned)
    assert net[0].weight[gone].tolist() == W[gone]
    assert net[3].weight[:, gone].tolist() == [7.0, 7.0]


def test_mest_mutates_within_its_bound():
    """METHODS-TRAINING 12: cut to the lower bound, grow to the upper one; 1.5, 1.25 and 1 times what stays."""
    net = network([[float(i), 0.0] for i in range(1, 9)])
    method = begun("mest", net, 160, budget="macs<=50%", times=32)
    assert int((~method.pruned[0]).sum()) == 6  # 4 stay, 2 grow
    assert (
        net[0].weight[:, 0].ne(0).tolist() == [False] * 4 + [True] * 4
    )  # sparse from the first step; they grow from 0
    net[0].weight.grad.fill_(1.0)
    method.after_backward(net, Step(0, ()))  # gradients and weights are masked
    assert net[0].weight.grad[:, 0].ne(0).tolist() == (~method.pruned[0]).tolist()
    assert not method.pruned[0][4:].any()  # the four largest
    method._mutate(90)
    assert int((~method.pruned[0]).sum()) == 5
    method._mutate(120)
    assert method.pruned[0].tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize("step", [0, 5, 90])
def test_mest_lets_units_that_were_cut_in_the_same_step_grow_from_zero_too(step):
    """METHODS-TRAINING 12: prune to the lower bound, then grow among zeros; grown weights start at 0."""
    net = network([[float(i), 0.0] for i in range(1, 9)])
    method = begun("mest", net, 160, budget="macs<=50%", times=32)
    net[0].weight.data = torch.tensor([[float(9 - i), 1.0] for i in range(1, 9)])  # other units are the smallest now
    method._mutate(step)
    assert not net[0].weight[4:].any()
    assert net[0].weight[:4].all()
    assert int((~method.pruned[0]).sum()) == (6 if step < 90 else 5)
    assert not method.pruned[0][:4].any()


class Match(nn.Sequential):
    """Queries and keys, whose units end in a matrix product: no layer reads them."""

    def __init__(self, order):
        super().__init__(nn.Linear(2, 8), nn.Linear(2, 8))
        for layer, sign in zip(self, (1.0, -1.0), strict=True):
            layer.weight.data = torch.arange(16.0).reshape(8, 2)[order]
            layer.bias.data = sign * torch.arange(8.0)[order]

    def forward(self, x):
        return self[0](x) @ self[1](x).transpose(1, 2)


def test_mest_draws_what_grows_by_what_it_is_where_no_layer_reads_it():
    grow = []
    for order in (torch.arange(8), torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])):
        net = Match(order)
        space = trace(net.eval(), torch.zeros(1, 3, 2))
        scores = (np.arange(8.0)[order.numpy()],)
        problem = Problem(space, (parse("macs<=50%"),), scores)
        method = METHODS["mest"](Pruning(space, scores, problem=problem))
        method.begin(net, Plan(None, TrainingSettings(), Compute.choose("cpu"), 160, 1, 1))
        grow.append(set(order[~method.pruned[0]].tolist()))
    assert grow[0] == grow[1]
    assert len(grow[0]) == 6


def test_gap_lets_each_part_be_dense_in_turn():
    net = network()
    method = begun("gap", net, 20, rounds=2)
    assert method.turns == 2  # there is one group: it has two turns
    assert not method.pruned[0].any()
    assert [method.turn(step) for step in (0, 7, 8, 15, 16)] == [0, 0, 1, 1, 2]
    assert net[0].weight.tolist() == W
    for number in range(16):
        method.after_step(net, Step(number, ()))
    assert method.pruned[0].tolist() == [True, False, False]


@pytest.mark.parametrize("parts", [1, 4, 100])
def test_gap_refuses_parts_that_the_groups_cannot_have(parts):
    with pytest.raises(ValueError, match=f"parts must be 2 to 3, or 0, since 3 groups of this .*; got {parts}$"):
        trained(METHODS["gap"](pruning(tiny()), parts=parts), tiny())


@pytest.mark.parametrize(("parts", "count"), [(0, 3), (2, 2), (3, 3)])
def test_gap_has_an_epoch_for_each_part(parts, count):
    method = METHODS["gap"](pruning(tiny()), parts=parts)
    with pytest.raises(ValueError, match=f"needs at least {count * PER_EPOCH} steps.*--method-epochs {count} or more"):
        trained(method, tiny(), steps=count * PER_EPOCH - 1)
    trained(method, tiny(), steps=count * PER_EPOCH)
    assert method.turns == count


def test_morphnet_prices_a_unit_by_what_it_costs():
    """2 x C + C x 2 multiply-adds: one of three units is a third of the cost."""
    net = network(norm=[0.5, -0.25, 0.005])
    method = begun("morphnet", net, 10, strength=0.3)
    assert [int(a.sum()) for a in method.alive()] == [2]
    assert loss(method, net, 0) == pytest.approx(0.3 / 3 * 0.755)
    method.after_step(net, Step(9, ()))
    assert [list(k) for k in method.kept()] == [[0, 1]]


def test_reweighted_weighs_by_the_last_norm():
    """|w|^2 = 2, 8, 32, m = M = 14; alpha = 1 / (|w|^2 / 14): each unit counts 1 until the weights change."""
    net = network()
    method = begun("reweighted", net, 8, strength=0.5, rounds=2, epsilon=0.0)
    torch.testing.assert_close(method.alphas[0], torch.tensor([7.0, 1.75, 0.4375]))
    assert loss(method, net, 0) == pytest.approx(0.5 * 3)
    net[0].weight.data[0] = 2.0  # |w|^2 = 8
    assert loss(method, net, 1) == pytest.approx(0.5 * 6)
    method.after_step(net, Step(3, ()))  # the second round begins
    assert loss(method, net, 4) == pytest.approx(0.5 * 3)


def test_reweighted_brings_what_is_to_go_to_zero_within_half_of_the_phase():
    """The smallest, |w|^2 = 2, is to go; it falls by 4 strength a unit of time, of which 8 steps have 8 * 10 * 0.01."""
    method = begun("reweighted", network(), 8, lr=0.01)
    assert method.share == pytest.approx(2 / (2 * 0.8))
    both = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    both[0].weight.data = torch.tensor([[1.0, 1.0], [2.0, 0.0]])  # |w|^2 = 2, 4: m = 3
    both[2].weight.data = torch.tensor([[1.0, 3.0], [2.0, 4.0]])  # 10, 20: m = 15, M = 9
    method = begun("reweighted", both, 8, strength=0.9, budget="macs<=90%")
    method.penalty(both, Step(0, ())).backward()
    for layer in (0, 2):  # the gradient over the weight is 2 * 0.9 / 9 * m / |w|^2: the same in both groups
        pull = both[layer].weight.grad[0] / both[layer].weight.detach()[0]
        torch.testing.assert_close(pull, torch.full((2,), 0.2 * 1.5), rtol=2e-3, atol=0)  # epsilon


def test_reweighted_takes_no_unit_beyond_zero_in_a_step_of_its_own_strength():
    """Share 1.25, M = 14: 1 / alpha is at least 2 * 0.01 * 1.25 / 14, so the pull on what is near zero is 1 / 0.01."""
    net = network()
    method = begun("reweighted", net, 8, lr=0.01)
    net[0].weight.data[0] = 1e-6
    method.after_step(net, Step(1, ()))  # the second of four rounds begins
    assert float(1 / method.alphas[0][0]) == pytest.approx(0.025 / 14)
    method.penalty(net, Step(2, ())).backward()
    torch.testing.assert_close(net[0].weight.grad[0], torch.full((2,), 1e-6 / 0.01))


def test_threshold_holds_widths_to_the_budget():
    """Phi(0) = 1/2 of 3 units: 1.5 * 4 multiply-adds; of a limit of 4 that is 1.5: 10 * (1.5 - 1)^2."""
    net = network()
    method = begun("threshold", net, 10, budget="macs<=4", strength=10.0)
    with torch.no_grad():
        method.levels.zero_()
    found = method.penalty(net, Step(0, ()))
    assert float(found.detach()) == pytest.approx(2.5)
    found.backward()  # d/dr: 20 * (1.5 - 1) * -3 phi(0) * 4 / 4
    assert float(method.levels.grad) == pytest.approx(-30 / math.sqrt(2 * math.pi))
    method.after_backward(net, Step(0, ()))
    assert float(method.levels.detach()) > 0


def test_gdp_opens_again_what_matters_now():
    """Lin et al. 2018: |sum of x dL/dx| of each unit, of a loss of the sum of what is read, times a weight of 1 each.

    Rows of W on (1, 1): h = (3, 1, 2); with a loss c . h the terms are c * h, summed over two samples: 2 |c h|.
    """
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 1.0]]))
    method = begun("gdp", net, 20, every=2)  # two thirds of the MACs: two of three units

    def step(number, weights):
        with torch.no_grad():
            net[2].weight.copy_(torch.tensor([weights]))
        net(torch.ones(2, 2)).sum().backward()
        method.after_backward(net, Step(number, ()))
        method.after_step(net, Step(number, ()))

    step(0, [1.0, 1.0, -1.0])
    torch.testing.assert_close(method.sums[0], torch.tensor([6.0, 2.0, 4.0]))
    assert all(bool(mask.all()) for mask in method.masks)
    step(1, [0.0, 1.0, 1.0])  # 6, 4, 8 so far
    assert method.pruned[0].tolist() == [False, True, False]
    assert net(torch.ones(1, 2)).item() == 2.0, "the second unit is closed"
    step(2, [0.5, 3.0, 1.0])  # 3, 6, 4: closed, it is heard all the same
    torch.testing.assert_close(method.sums[0], torch.tensor([3.0, 6.0, 4.0]))
    step(3, [0.5, 3.0, 1.0])
    assert method.pruned[0].tolist() == [True, False, False]
    assert net(torch.ones(1, 2)).item() == 5.0, "it is open again, with the weights that it had"
    method.after_step(net, Step(19, ()))
    assert [list(k) for k in method.kept()] == [[1, 2]]
    assert net[0].weight[0].tolist() == [0.0, 0.0]
    assert net(torch.ones(1, 2)).item() == 5.0


def test_gates_are_polarised():
    """Logits just above 0: s = 1/2, m (1 - m) = 1/4, and what is open counts whole: 3 * 4 of a limit of 6."""
    net = network()
    method = begun("gates", net, 10, budget="macs<=50%", polar=0.4, strength=10.0)
    with torch.no_grad():
        method.shifts[0].fill_(1e-9)
    net(torch.ones(2, 2))
    assert loss(method, net, 8) == pytest.approx(0.1 + 10.0)  # after four fifths of the phase: (2 - 1)^2
    with torch.no_grad():
        method.shifts[0].fill_(100.0)
    method.after_backward(net, Step(0, ()))
    net(torch.ones(2, 2))
    assert loss(method, net, 3) == pytest.approx(10 * (math.sqrt(2) - 1) ** 2)  # half way down: 2 over 2^(1/2)
    with torch.no_grad():
        method.shifts[0].fill_(-100.0)  # 1 of 3 is always open: 4 of 6
    method.after_backward(net, Step(0, ()))
    net(torch.ones(2, 2))
    assert loss(method, net, 8) == 0


def test_the_push_on_gates_goes_to_how_far_they_are_open():
    """Three open gates at logit 0: d/db of 10 (w 4 / 6 - 1)^2 at w = 3 is 20 * 1 * 4/6 * s'(0) = 10/3."""
    net = network()
    method = begun("gates", net, 10, budget="macs<=50%", polar=0.0, strength=10.0)
    with torch.no_grad():
        method.shifts[0].fill_(1e-9)
    net(torch.ones(2, 2))
    method.penalty(net, Step(8, ())).backward()
    torch.testing.assert_close(method.shifts[0].grad, torch.full((3,), 10 / 3))


def test_gates_begin_at_the_norms_of_what_they_gate():
    net = network([[3.0, 4.0], [0.0, 10.0], [0.0, 0.0]])  # norms 5, 10, 0 of a mean of 5
    torch.testing.assert_close(begun("gates", net, 10).shifts[0].detach(), torch.tensor([1.0, 2.0, 0.1]))


def test_gates_never_close_all_of_a_group():
    net = network(W)
    expected = net.eval()(torch.ones(1, 2)).detach()
    method = begun("gates", net, 10)
    torch.testing.assert_close(net(torch.ones(1, 2)), expected)
    best = int(method.shifts[0].argmax())
    with torch.no_grad():
        method.shifts[0].fill_(-1.0)
    out = net(torch.ones(1, 2))[0]
    hidden = torch.relu(net[0](torch.ones(1, 2)))[0]
    torch.testing.assert_close(out, net[2].bias + hidden[best] * net[2].weight[:, best])
    method.gating.remove()
    torch.testing.assert_close(net(torch.ones(1, 2)), expected)


def test_fisher_takes_the_unit_of_the_smallest_squared_mask_gradient():
    """Hidden values 2, 0, 8 for x = (1, 1); read by (3, 1), (1, 1), (1, -2): mask gradients 2 * 4, 0, 8 * -1."""
    net = network()
    net[0].bias.data.zero_()
    net[2].weight.data = torch.tensor([[3.0, 1.0, 1.0], [1.0, 1.0, -2.0]])
    method = begun("fisher", net, 10, every=2)
    for number in range(2):
        x = torch.ones(1, 2)
        net(x).sum().backward()
        method.after_backward(net, Step(number, ((((x, x)), None, 1.0),)))
    torch.testing.assert_close(method.sums[0], torch.tensor([2 * 64.0, 0.0, 2 * 64.0]))
    method.after_step(net, Step(0, ()))
    assert not method.pruned[0].any()
    method.after_step(net, Step(1, ()))
    assert method.pruned[0].tolist() == [False, True, False]
    assert not method.sums[0].any()


@pytest.mark.parametrize("smaller", [0, 2])
def test_fisher_takes_the_smaller_of_units_that_no_sample_opens(smaller):
    """Their sums are 0; where they stand in their layer decides nothing."""
    net = network([[1.0, 1.0] if unit == smaller else [2.0, 2.0] for unit in range(3)])
    method = begun("fisher", net, 10, every=1)
    method.sums[0][1] = 1.0
    method.after_step(net, Step(0, ()))
    assert method.pruned[0].nonzero().flatten().tolist() == [smaller]


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_fisher_squares_the_gradient_of_each_sample_however_many_passes_a_step_has(parts):
    torch.manual_seed(0)
    net, x = network(), torch.randn(8, 2)
    method, whole = begun("fisher", net, 10), []
    for part in x.chunk(parts):
        (net(part).square().sum() / 8).backward()
        whole.append(((part, part), None, 1 / parts))
    method.after_backward(net, Step(0, tuple(whole)))
    hidden = torch.relu(net[0](x)).detach().requires_grad_()
    (net[2](hidden).square().sum() / 8).backward()
    torch.testing.assert_close(method.sums[0], (hidden * hidden.grad).square().sum(0).detach())


def layer_by_layer(net, x):
    for layer in net:
        x = layer(x)
    return x


def twice(net, x):  # the layer that reads the units is called twice with all samples
    return net(x) + net[2](torch.relu(net[0](2 * x)))


def penalised(net, x):  # has a backward pass of its own, which the layer that reads the units takes no part in
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net[0](x).square().sum(), x, create_graph=True)
    return net(x) + slope.square().sum(1, keepdim=True)


def attacked(net, x):  # a backward pass of its own through all layers
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).square().sum(), x)
    return net((x + 0.1 * slope.sign()).detach())


def checkpointed(net, x, reentrant=False):
    return checkpoint.checkpoint(net, x.clone().requires_grad_(), use_reentrant=reentrant)


@pytest.mark.parametrize(
    "call", [layer_by_layer, twice, penalised, attacked, checkpointed, partial(checkpointed, reentrant=True)]
)
@pytest.mark.parametrize("parts", [1, 4])
def test_fisher_tells_samples_apart_however_the_network_is_called(call, parts):
    torch.manual_seed(0)
    net, x = network(), torch.randn(8, 2)
    method, whole, expected = begun("fisher", net, 10), [], []
    for part in x.chunk(parts):
        (call(net, part).square().sum() / 8).backward()
        whole.append(((part, part), None, 1 / parts))
    method.after_backward(net, Step(0, tuple(whole)))
    for sample in x[:, None]:  # one at a time: the mask on what the last layer reads
        mask = torch.ones(3, requires_grad=True)
        with net[2].register_forward_pre_hook(lambda _, args, mask=mask: (args[0] * mask,)):
            (call(net, sample).square().sum() / 8).backward()
        expected.append(mask.grad)
    torch.testing.assert_close(method.sums[0], torch.stack(expected).square().sum(0))


def test_fisher_says_that_derivatives_of_the_network_in_a_loss_are_left_out():
    net, x = network(), torch.randn(8, 2)
    method, y = begun("fisher", net, 10), net(x.requires_grad_())
    with pytest.warns(UserWarning, match="the loss takes derivatives of the network"):
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (y + slope).square().sum().backward()
    method.after_backward(net, Step(0, (((x, x), None, 1.0),)))
    assert method.sums[0].isfinite().all()
    assert not method.sums[0].requires_grad  # no graph is kept


@pytest.mark.parametrize("parts", [1, 2])
def test_fisher_says_once_which_layer_mixes_samples(parts):
    net, x = network(), torch.randn(8, 2)
    method = begun("fisher", net, 10)

    def step(number):
        whole, found = [], torch.zeros(3)
        for part in x.chunk(parts):
            crop = torch.relu(net[0](part))[:3]
            net[2](crop).square().sum().backward()
            whole.append(((part, part), None, 1 / parts))
            slope = 2 * net[2](crop) @ net[2].weight
            found += (crop * slope).sum(0).square().detach()
        method.after_backward(net, Step(number, tuple(whole)))
        return found

    with pytest.warns(UserWarning, match=f"layer '2': called with 3 rows for {8 // parts} samples, so their gradients"):
        expected = step(0)
    torch.testing.assert_close(method.sums[0], expected)
    step(1)  # and no more


def test_imp_takes_the_same_share_of_what_is_left_in_each_phase():
    """METHODS 2.13: 1 - (1 - S)^(1/p) goes; S = 3/4, p = 2: half of 32 multiply-adds, then half of what is left."""
    net = network([[float(i), 0.0] for i in range(1, 9)])
    method = begun("imp", net, 20, budget="macs<=25%", phases=2)
    assert [b.limit for phase in range(2) for b in method.budgets(phase)] == pytest.approx([16, 8])
    assert method.pruned[0].tolist() == [True] * 4 + [False] * 4
    for number in range(9):
        method.after_step(net, Step(number, ()))
    assert method.pruned[0].sum() == 4
    method.after_step(net, Step(9, ()))
    assert method.pruned[0].tolist() == [True] * 6 + [False] * 2
    assert not net[0].weight[:6].any()


def test_fisher_says_both_where_a_loss_takes_derivatives_and_mixes_samples():
    net, x = network(), torch.randn(8, 2)
    method, y = begun("fisher", net, 10), net(x.requires_grad_()[:3])
    with pytest.warns(UserWarning, match="the loss takes derivatives of the network"):
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (y.square().sum() + slope.square().sum()).backward()
    with pytest.warns(UserWarning, match="called with 3 rows for 8 samples"):
        method.after_backward(net, Step(0, (((x, x), None, 1.0),)))
