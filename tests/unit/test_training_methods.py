"""Golden numbers of every method, worked out by hand on a network of two layers."""

import math

import pytest
import torch
from torch import nn

from autoprune.compute import Compute
from autoprune.problem import Problem
from autoprune.training import TrainingSettings, methods
from autoprune.training.methods import METHODS, Plan, Pruning, Step
from autoprune.training.methods.increg import rise
from autoprune.training.methods.polarization import valley
from autoprune.training.methods.soft import asymptotic
from autoprune.training.regrowth import grown, leverage
from autoprune.training.units import lowest, units_of
from objectives import parse
from search_spaces import trace

W = [[1.0, 1.0], [2.0, -2.0], [4.0, 4.0]]  # what makes the three units; mean |w| 1, 2, 4


def network(rows=W, norm=None):
    """Linear(2, C), perhaps a batch-norm of these scales, ReLU, Linear(C, 2)."""
    size = len(rows)
    parts = [nn.Linear(len(rows[0]), size), nn.ReLU(), nn.Linear(size, 2)]
    if norm:
        parts.insert(1, nn.BatchNorm1d(size))
        parts[1].weight.data = torch.tensor(norm)
    parts[0].weight.data = torch.tensor(rows)
    net = nn.Sequential(*parts)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    return net


def begun(name, net, steps, kept=None, budget="macs<=67%", per_epoch=1, lr=1e-3, **settings):
    """The method at its first step."""
    space = trace(net.eval(), torch.zeros(1, net[0].in_features))
    scores = (units_of(net, space)[0].rows().abs().sum(1).detach().double().numpy(),)
    problem = Problem(space, (parse(budget),), scores)
    pruning = Pruning(space, scores, None if kept is None else (kept,), problem.project, problem)
    method = METHODS[name](pruning, **settings)
    compute = Compute(torch.device("cpu"), amp=False)
    method.begin(net.train(), Plan(None, TrainingSettings(lr=lr, device="cpu"), compute, steps, per_epoch, 1))
    return method


def gradients(method, net, number):
    """Of the first layer's weight after a step's backward pass that gave none."""
    for p in net.parameters():
        p.grad.zero_()
    method.after_backward(net, Step(number, ()))
    return net[0].weight.grad


def loss(method, net, number):
    """What it adds to the loss of a step."""
    return float(method.penalty(net, Step(number, ())).detach())


def test_greg1_lambda_grows_and_pushes_the_pruned_only():
    """METHODS-TRAINING 1: lambda[P] += delta every K steps; grad(W) += lambda * W."""
    net = network()
    method = begun("greg1", net, 40, kept=[1, 2], growth=0.1, every=2)
    for number, strength in enumerate([0.1, 0.1, 0.2, 0.2, 0.3]):  # updates in steps 0, 2, 4
        found = gradients(method, net, number)
        torch.testing.assert_close(found, torch.tensor([[strength, strength], [0, 0], [0, 0]]))
    assert not net[0].bias.grad.any()
    assert method.ratios == [pytest.approx(3.0)]  # mean of 2 and 4, over 1; smoothing keeps what does not change


def test_greg1_stops_at_a_ratio_of_1000_or_at_the_ceiling():
    net = network([[1e-4, 1e-4], [1.0, 1.0], [1.0, 1.0]])
    method = begun("greg1", net, 30, kept=[1, 2], growth=0.1, every=1)
    gradients(method, net, 0)
    assert method.strength == [0.0]  # 1 / 1e-4 = 10,000
    net = network()
    method = begun("greg1", net, 30, kept=[1, 2], growth=0.6, every=1)
    for number in range(4):
        gradients(method, net, number)
    assert method.strength == [pytest.approx(1.2)]  # 0.6, 1.2 > 1: no more


def test_greg1_is_scaled_to_its_phase():
    method = begun("greg1", network(), 1100, kept=[1, 2])
    assert method.growing == 1000  # the last eleventh of 1100 holds
    assert method.delta == pytest.approx(0.01)  # 100 updates, every tenth step, to 1
    published = begun("greg1", network(), 110_000, kept=[1, 2])
    assert published.delta == pytest.approx(1e-4)


def test_greg2_first_pushes_all_then_chooses_and_lets_the_others_go():
    """METHODS-TRAINING 1: lambda += on all until 1e-2; then lambda[P] += delta and lambda[K] = -delta."""
    net = network()
    method = begun("greg2", net, 24, growth=0.1, every=1, highest=0.01, picking=1 / 12)
    torch.testing.assert_close(gradients(method, net, 0), 0.005 * torch.tensor(W))
    torch.testing.assert_close(gradients(method, net, 1), 0.01 * torch.tensor(W))
    assert method.pick == 2
    expected = torch.tensor([[0.11], [-0.1], [-0.1]]) * torch.tensor(W)  # unit 0 has the smallest mean |w|
    torch.testing.assert_close(gradients(method, net, 2), expected)
    gradients(method, net, 3)
    torch.testing.assert_close(method.strength[0], torch.tensor([0.21, -0.1, -0.1]))
    assert [list(k) for k in method.kept()] == [[1, 2]]


def test_greg2_leaves_a_group_alone_of_which_nothing_goes():
    """METHODS-TRAINING 1: layers with p = 0 are untouched."""
    net = network()
    method = begun("greg2", net, 24, budget="macs<=100%", growth=0.1, every=1, highest=0.01, picking=1 / 12)
    for number in range(2):
        gradients(method, net, number)
    assert not gradients(method, net, 2).any()
    assert not method.strength[0].any()


def test_increg_rises_with_the_rank():
    """METHODS-TRAINING 2, u = 0.25: a = ln 8 / 4 = 0.5199, N = ln 4 / a = 2.667; zero at rank N_p = 4."""
    found = rise(torch.arange(6).double(), 4)
    expected = [1.0, 0.594604, 0.353553, 0.202698, 0.0, -0.340896]
    torch.testing.assert_close(found, torch.tensor(expected).double(), atol=1e-6, rtol=0)


def test_increg_removes_at_the_ceiling():
    net = network()
    method = begun("increg", net, 10, strength=1.0, ceiling=2.5)
    assert method.counts == [1]  # a = ln 8: ranks 1 and 2 have rise(1) = 0, rise(2) = 0.5 - e^(-ln 8 (4/3 - 2)) < 0
    for number, strength in enumerate([1.0, 2.0]):
        found = gradients(method, net, number)
        torch.testing.assert_close(found, torch.tensor([[strength, strength], [0, 0], [0, 0]]))
    gradients(method, net, 2)  # 3.0 >= 2.5
    assert method.pruned[0].tolist() == [True, False, False]
    method.after_step(net, Step(2, ()))
    assert not net[0].weight[0].any()
    assert not net[2].weight[:, 0].any()


def test_tpp_loss_and_push():
    """METHODS-TRAINING 5: W W' = [[1, 1], [1, 2]], all but entry (0, 0) has to vanish: (1 + 1 + 4) / 4 = 1.5."""
    net = network([[1.0, 0.0], [1.0, 1.0]], norm=[0.5, 0.6])
    method = begun("tpp", net, 100, kept=[0], growth=1e-2, every=5)
    assert method.penalty(net, Step(4, ())) is None  # lambda = 0.01 * (4 // 5)
    assert loss(method, net, 10) == pytest.approx(1000 * 0.02 * 1.5)
    torch.testing.assert_close(gradients(method, net, 10), torch.tensor([[0.0, 0.0], [0.02, 0.02]]))
    torch.testing.assert_close(net[1].weight.grad, torch.tensor([0.0, 0.6 * 0.02]))
    assert loss(method, net, 2000) == pytest.approx(1000 * 1.5)  # lambda at most 1


def test_tpp_kept_filters_have_no_part_in_the_loss():
    net = network(W)
    method = begun("tpp", net, 100, kept=[0, 1, 2])
    assert method.penalty(net, Step(50, ())) is None


def test_tpp_sets_one_group_after_the_other_to_zero():
    """In the last eleventh of 539 steps, 49, with 49 groups: one in each step, whatever rounding does to 1/49 * 49."""
    net = network()
    method = begun("tpp", net, 539, kept=[1, 2])
    method.units, method.pruned = method.units * 49, method.pruned * 49
    for done in range(490, 540):
        method.done = done
        assert sum(bool(gone.any()) for gone in method.gone()) == done - 490


def test_asymptotic_rate_runs_through_its_three_points():
    """METHODS-TRAINING 3: P(t) = a e^(-kt) + b through (0, 0), (T/8, 3P/4), (T, P)."""
    assert asymptotic(0) == 0
    assert asymptotic(1 / 8) == pytest.approx(0.75)
    assert asymptotic(1) == pytest.approx(1)
    assert asymptotic(0.5) == pytest.approx(1 - math.exp(-11.09 / 2), abs=1e-4)


def test_soft_filters_are_set_back_and_come_again():
    net = network()
    method = begun("sfp", net, 4, kept=[1, 2])
    assert net[0].weight.tolist() == [[0, 0], *W[1:]]  # before the first epoch
    net[0].weight.data[0] = 9.0  # it grows; now unit 1, of norm 2.83, is the lowest
    method.after_step(net, Step(0, ()))
    method.end_epoch(net, 0)
    assert net[0].weight.tolist() == [[9, 9], [0, 0], [4, 4]]
    softer = network()
    method = begun("srfp", softer, 4, kept=[1, 2])
    assert softer[0].weight.tolist() == W  # 1 - 0/4
    for number, left in enumerate([0.75, 0.375]):  # times 1 - 1/4, 1 - 2/4
        method.after_step(softer, Step(number, ()))
        method.end_epoch(softer, number)
        assert softer[0].weight[0].tolist() == [pytest.approx(left)] * 2


def test_iss_shrinks_in_each_step():
    """METHODS-TRAINING 9: W[P] <- 0.95 W[P]."""
    net = network()
    method = begun("iss", net, 10, kept=[1, 2])
    for number in range(3):
        method.after_step(net, Step(number, ()))
    torch.testing.assert_close(net[0].weight[0], torch.full((2,), 0.95**3))
    assert net[0].weight[1:].tolist() == W[1:]


def test_orthoreg_sums_absolute_values():
    """METHODS-TRAINING 4: W W' - I = [[0, 1], [1, 1]]; of a 3 x 2 matrix W' W - I."""
    net = network([[1.0, 0.0], [1.0, 1.0]])
    method = begun("orthoreg", net, 10, kept=[0])
    assert loss(method, net, 0) == pytest.approx(1e-2 * 3)
    net = network([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    method = begun("orthoreg", net, 10, kept=[0, 1])
    assert loss(method, net, 0) == pytest.approx(1e-2 * 3)  # diag(1, 4) - I


def grouped():
    """Conv(3, 4), a convolution in two groups of two, and a head: a unit is a channel of each group, of both layers."""
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(4, 2)
    return nn.Sequential(*parts).eval()


@pytest.mark.parametrize("name", ["orthoreg", "tpp"])
def test_the_rows_of_a_layer_are_its_filters_also_where_a_unit_has_several(name):
    """METHODS-TRAINING 4 and 5: W has n filters as rows, whatever is coupled."""
    net = grouped()
    space = trace(net, torch.zeros(1, 3, 1, 1))
    (group,) = space.groups
    assert group.size == 2  # of four filters
    method = METHODS[name](Pruning(space, (), ([1],)), **({"growth": 0.1, "every": 1} if name == "tpp" else {}))
    method.begin(net, Plan(None, TrainingSettings(lr=1e-3), Compute(torch.device("cpu"), amp=False), 100, 10, 1))
    w, v = (net[i].weight.detach().flatten(1) for i in (0, 2))
    gone = [set(m.index[0].tolist()) for m in group.members if m.role == "out" and m.tensor in ("0.weight", "2.weight")]
    if name == "orthoreg":
        off = [(w.T @ w - torch.eye(3)).abs().sum(), (v.T @ v - torch.eye(2)).abs().sum()]  # more rows than columns
        expected = 1e-2 * (3**0.5 * off[0] + 2**0.5 * off[1]) / (3**0.5 + 2**0.5)
    else:
        grams = [x @ x.T for x in (w, v)]
        pairs = [(i, j) for i in range(4) for j in range(4)]
        expected = 200 * sum(
            sum(gram[i, j] ** 2 for i, j in pairs if {i, j} & out) / 16 for gram, out in zip(grams, gone, strict=True)
        )  # 1000 * 0.1 * 2
    assert loss(method, net, 2) == pytest.approx(float(expected), rel=1e-5)


def test_slimming_pushes_by_the_sign():
    """METHODS-TRAINING 7: s * sign(gamma) is added to gamma's gradient."""
    net = network(norm=[0.5, -0.1, 2.0])
    method = begun("slimming", net, 10, strength=1e-4)
    gradients(method, net, 0)
    torch.testing.assert_close(net[1].weight.grad, torch.tensor([1e-4, -1e-4, 1e-4]))
    method.after_step(net, Step(9, ()))
    assert [list(k) for k in method.kept()] == [[0, 2]]  # two thirds of the MACs stay, |gamma| 0.5 and 2


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


def test_chex_begins_with_the_largest_that_its_first_sparsity_leaves():
    """METHODS-TRAINING 11: floor(n (1 - (S - delta))) by L1; n = 7, S = 3/7 + 0.1: 2 of 7 stay in the end."""
    net = network([[float(i), 0.0] for i in range(1, 8)], norm=[1.0] * 7)
    method = begun("chex", net, 10, per_epoch=5, budget="macs<=30%", growing=0.3)
    assert method.pruned[0].tolist() == [True] * 3 + [False] * 4  # S = 5/7; floor(7 (1 - 5/7 + 0.3)) = floor(4.1)
    assert not net[0].weight[:3].any()


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
    assert net[0].weight[:, 0].ne(0).tolist() == (~method.pruned[0]).tolist()  # sparse from the first step
    net[0].weight.grad.fill_(1.0)
    method.after_backward(net, Step(0, ()))  # gradients and weights are masked
    assert net[0].weight.grad[:, 0].ne(0).tolist() == (~method.pruned[0]).tolist()
    assert not method.pruned[0][4:].any()  # the four largest
    method._mutate(90)
    assert int((~method.pruned[0]).sum()) == 5
    method._mutate(120)
    assert method.pruned[0].tolist() == [True] * 4 + [False] * 4


def test_gap_lets_each_part_be_dense_in_turn():
    net = network()
    method = begun("gap", net, 20, parts=4, rounds=2)
    assert method.turns == 2  # there is one group: it has two turns
    assert not method.pruned[0].any()
    assert [method.turn(step) for step in (0, 7, 8, 15, 16)] == [0, 0, 1, 1, 2]
    assert net[0].weight.tolist() == W
    for number in range(16):
        method.after_step(net, Step(number, ()))
    assert method.pruned[0].tolist() == [True, False, False]


def test_morphnet_prices_a_unit_by_what_it_costs():
    """2 x C + C x 2 multiply-adds: one of three units is a third of the cost."""
    net = network(norm=[0.5, -0.25, 0.005])
    method = begun("morphnet", net, 10, strength=0.3)
    assert [int(a.sum()) for a in method.alive()] == [2]
    assert loss(method, net, 0) == pytest.approx(0.3 / 3 * 0.755)
    method.after_step(net, Step(9, ()))
    assert [list(k) for k in method.kept()] == [[0, 1]]


def test_reweighted_weighs_by_the_last_norm():
    """|w|^2 = 2, 8, 32, mean 14; alpha = 1 / (|w|^2 / 14): each unit counts 1 until the weights change."""
    net = network()
    method = begun("reweighted", net, 8, strength=0.5, rounds=2, epsilon=0.0)
    torch.testing.assert_close(method.alphas[0], torch.tensor([7.0, 1.75, 0.4375]))
    assert loss(method, net, 0) == pytest.approx(0.5 * 3)
    net[0].weight.data[0] = 2.0  # |w|^2 = 8
    assert loss(method, net, 1) == pytest.approx(0.5 * 6)
    method.after_step(net, Step(3, ()))  # the second round begins
    assert loss(method, net, 4) == pytest.approx(0.5 * 3)


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


def test_gates_are_polarised():
    """Shift 0: s = 1/2 everywhere, m (1 - m) = 1/4; all three units half open cost 1.5 * 4 of a limit of 6."""
    net = network()
    method = begun("gates", net, 10, budget="macs<=50%", polar=0.4, strength=10.0)
    with torch.no_grad():
        method.shifts[0].zero_()
    net(torch.ones(2, 2))
    assert loss(method, net, 0) == pytest.approx(0.1)
    with torch.no_grad():
        method.shifts[0].fill_(100.0)  # open: 3 * 4 of 6, (2 - 1)^2
    method.after_backward(net, Step(0, ()))
    net(torch.ones(2, 2))
    assert loss(method, net, 1) == pytest.approx(10.0)


def test_gates_close_what_they_gate():
    net = network()
    expected = net.eval()(torch.ones(1, 2)).detach()
    method = begun("gates", net, 10)
    torch.testing.assert_close(net(torch.ones(1, 2)), expected)
    with torch.no_grad():
        method.shifts[0][:] = torch.tensor([-1.0, -1.0, -1.0])
    torch.testing.assert_close(net(torch.ones(1, 2))[0], net[2].bias)
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


def test_units_move_together():
    net = network(norm=[0.5, 0.5, 0.5])
    (units,) = units_of(net, trace(net.eval(), torch.zeros(1, 2)))
    units.zero_(torch.tensor([False, True, False]))
    for row in (net[0].weight[1], net[0].bias[1], net[1].weight[1], net[1].bias[1], net[3].weight[:, 1]):
        assert not row.any()
    assert net[0].weight[0].tolist() == W[0]
    units.scale_(torch.tensor([2.0, 1.0, 1.0]))
    assert net[0].weight[0].tolist() == [2.0, 2.0]
    assert net[1].weight[0] == 0.5


def test_of_equals_the_higher_index_goes():
    assert lowest(torch.tensor([1.0, 1.0, 0.5, 1.0]), 2).tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("slimming", {}, "looks at the scales of batch-norms, and no group of this network has one"),
        ("polarization", {}, "looks at the scales of batch-norms"),
        ("greg1", {}, "is given the units that stay and finds none; use it as the --recovery"),
        ("greg1", {"kept": [0], "steps": 12}, "needs at least 30 steps, and 12 are planned; train longer"),
        ("sfp", {"kept": [0], "steps": 12, "per_epoch": 10}, r"at least 20 steps.*--prune-share must be 2 or more"),
        ("chex", {"steps": 12, "per_epoch": 10}, r"at least 20 steps, .* train longer \(--method-epochs 2 or more\)"),
        (
            "slimming",
            {"frozen": True},
            "drives the scales of normalisations, and those of this network require no grad",
        ),
        ("polarization", {"frozen": True}, "those of this network require no gradient; requires_grad_"),
        ("morphnet", {"frozen": True}, "or a method of the weights, e.g. greg2 or reweighted"),
        ("imp", {"phases": 0}, "phases must be a whole number of at least 1, got 0"),
        ("greg1", {"kept": [0], "every": 0}, "every must be a whole number of at least 1, got 0"),
        ("greg2", {"picking": 0.9}, "picking must be a number between 0 and 0.5, got 0.9"),
        ("gap", {"parts": 0}, "parts must be a whole number of at least 1"),
        ("increg", {"ceiling": 0.0}, "ceiling must be a number of at least 1e-12"),
        ("iss", {"kept": [0], "factor": 1.5}, "factor must be a number between 0 and 1, got 1.5"),
        ("reweighted", {"strength": math.nan}, "strength must be a number of at least 0, got nan"),
        ("threshold", {"strength": "much"}, "strength must be a number of at least 0, got 'much'"),
    ],
)
def test_bad_input_is_said_before_the_training(name, settings, message):
    net = network()
    if settings.pop("frozen", False):
        net = network(norm=[1.0, 1.0, 1.0])
        net[1].requires_grad_(False)
    with pytest.raises(ValueError, match=message):
        begun(name, net, **{"steps": 100} | settings)


def test_a_frozen_group_is_refused():
    net = network()
    space = trace(net.eval(), torch.zeros(1, 2))
    frozen = space.with_limits(freeze=[space.groups[0].name])
    plan = Plan(None, TrainingSettings(), Compute(torch.device("cpu"), amp=False), 100, 10, 1)
    with pytest.raises(ValueError, match=r"group '0' is frozen, but 1 of its 3 are planned"):
        methods.GReg1(Pruning(frozen, (), ([0],))).begin(net, plan)
    net[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="require no gradient, so they cannot be driven out"):
        methods.GReg1(Pruning(space, (), ([0],))).begin(net, plan)
