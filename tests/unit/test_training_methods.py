"""Golden numbers of the methods that push or shrink weights, worked out by hand on a network of two layers."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from two_layers import W, begun, gradients, loss, network

from autoprune.compute import Compute
from autoprune.training import TrainingSettings, methods
from autoprune.training.methods import METHODS, Plan, Pruning, Step
from autoprune.training.methods.increg import rise
from autoprune.training.methods.limits import check_settings
from autoprune.training.methods.soft import asymptotic
from autoprune.training.units import lowest, units_of
from search_spaces import trace


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


@pytest.mark.parametrize("first", [0, 1])
def test_increg_tells_units_of_equal_mean_ranks_apart_by_what_they_are(first):
    """Units that change places have the mean rank 1/2 both; which stands where in its layer decides nothing."""
    net, other = network(), 1 - first
    method = begun("increg", net, 10, strength=1.0, ceiling=9.0)
    for number, low in enumerate([first, other, other]):  # the second time the one with the higher lambda goes on
        net[0].weight.data[low], net[0].weight.data[1 - low] = 1.0, 2.0
        gradients(method, net, number)
    assert method.weights[0][[first, other]].tolist() == pytest.approx([2.0, 1.0])
    method.weights[0].fill_(2.0)
    method.ranks[0].fill_(1.0)
    method.after_step(net, Step(9, ()))  # the smaller goes first
    assert method.pruned[0].nonzero().flatten().tolist() == [other]


def test_increg_pushes_nobody_once_enough_are_removed():
    """Its code leaves a layer alone that has lost what it should: lambda of the others does not matter any more."""
    net = network()
    method = begun("increg", net, 20, strength=1.0, ceiling=2.5)
    gradients(method, net, 0)  # unit 0 at rank 0: lambda 1
    net[0].weight.data = torch.tensor([[3.0, 3.0], [1.0, -1.0], [4.0, 4.0]])  # units 0 and 1 change places
    for number in range(1, 4):  # mean ranks of units 0 and 1: 1/2 and 1/2, 2/3 and 1/3, 3/4 and 1/4
        gradients(method, net, number)
    torch.testing.assert_close(method.weights[0], torch.tensor([2.0, 2.0, 0.0]).double())
    found = gradients(method, net, 4)  # lambda of unit 1: 3.0 >= 2.5
    assert method.pruned[0].tolist() == [False, True, False]
    torch.testing.assert_close(found, torch.tensor([[6.0, 6.0], [0.0, 0.0], [0.0, 0.0]]))  # 2.0 of unit 0
    method.after_step(net, Step(4, ()))
    assert not gradients(method, net, 5).any()


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


class Tied(nn.Module):
    """An embedding whose weights are those of the last layer, too."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.words.weight

    def forward(self, words):
        return self.head(self.words(words).mean(1))


def test_what_makes_units_and_reads_them_is_driven_once_as_what_makes_them():
    net = Tied()
    (units,) = units_of(net, trace(net.eval(), torch.zeros(1, 4, dtype=torch.long)))
    assert [part.kind for part in units.parts] == ["filter"]
    before = net.words.weight.detach().clone()
    units.push_(torch.tensor([0.0, 2.0, 0.0]))
    torch.testing.assert_close(net.words.weight.grad, before * torch.tensor([0.0, 2.0, 0.0]))
    units.scale_(torch.tensor([1.0, 0.5, 1.0]), ("filter",))
    torch.testing.assert_close(net.words.weight.detach(), before * torch.tensor([1.0, 0.5, 1.0]))


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
        ("gap", {"parts": 1}, "parts must be 0, since 1 group of this network may lose units and each part has one"),
        ("gap", {"parts": 2.5}, "parts must be a whole number of at least 0, got 2.5"),
        (
            "gap",
            {"steps": 19, "per_epoch": 10, "rounds": 2},
            r"at least 20 steps, .*--method-epochs 2 or more, an epoch",
        ),
        ("increg", {"ceiling": 0.0}, "ceiling must be a number of at least 1e-12"),
        ("epi", {"tau": 98.3}, "tau must be a number between 0 and 1, got 98.3"),
        ("early-bird", {"distance": 10}, "distance must be a number between 0 and 1, got 10"),
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


def test_a_setting_that_is_no_number_is_not_judged():
    class Mine(METHODS["greg1"]):
        def __init__(self, pruning=None, *, layers=frozenset()):
            super().__init__(pruning)
            self.layers = layers

    check_settings(Mine, {"layers": ["conv1"]})
    with pytest.raises(ValueError, match="has no setting 'layer'; it has layers"):
        check_settings(Mine, {"layer": 1})


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
