"""Networks of different kinds: what a stream is, closed forms that keep it, warm starts and finalists of every kind."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from autoprune import criteria
from autoprune.allocation import (
    between,
    equal_loss,
    global_ranking,
    holding,
    peer_rules,
    streams,
    streams_kept,
    uniform,
    without_bottlenecks,
)
from autoprune.finalists import Different, apart
from autoprune.problem import Problem, Trial, TrialState
from autoprune.strategies import make, warm_starts
from autoprune.strategies.moves import exchange
from objectives import InfeasibleBudget, parse
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace, TensorShape, trace
from search_spaces.models import mobilenet_v2, resnet20, vgg16


def residual(stream=8, inner=(4, 4), outside=8):
    """1 -> stream -> (inner -> stream) per block, added each time; then a group outside the stream; all 1x1, one pixel.

    Groups: 0 is the stream, 1.. the inner ones, the last one comes after.
    """
    widths = [stream, *inner, outside]
    axes = [Axis(c, 0, ((g, 1),)) for g, c in enumerate(widths)]
    rows = [("stem", Axis(1, 1), axes[0])]
    for block in range(len(inner)):
        rows += [(f"b{block}.in", axes[0], axes[block + 1]), (f"b{block}.out", axes[block + 1], axes[0])]
    rows += [("after", axes[0], axes[-1]), ("head", axes[-1], Axis(1, 1))]
    layers = tuple(Layer(name, "conv", 1, 1, reads, makes) for name, reads, makes in rows)
    tensors = tuple(TensorShape(f"{name}.weight", (makes, reads)) for name, reads, makes in rows)
    return SearchSpace(tuple(ChannelGroup(f"g{g}", c, ()) for g, c in enumerate(widths)), (), layers, tensors)


def problem_of(space, budget, seed=0):
    rng = np.random.default_rng(seed)
    return Problem(space, (parse(budget),), tuple(rng.lognormal(size=g.size) for g in space.groups))


class Attention(nn.Module):
    """Queries, keys and values of their own layers, added to what they read: only the sum is a stream."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.up, self.gate, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.out(torch.softmax(self.q(x) @ self.k(x).transpose(-1, -2), -1) @ self.v(x))
        x = x + self.down(functional.silu(self.gate(x)) * self.up(x))
        return self.head(x)


class Squeezed(nn.Module):
    """A squeeze-and-excitation: its last layer makes the channels of the features, which nothing is added to."""

    def __init__(self):
        super().__init__()
        self.stem, self.less, self.more, self.head = (
            nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 3, 1)
        )  # fmt: skip

    def forward(self, x):
        x = functional.relu(self.stem(x))
        return self.head(x * torch.sigmoid(self.more(functional.relu(self.less(x.mean((2, 3), keepdim=True))))))


@pytest.mark.parametrize(
    ("network", "example", "expected"),
    [
        (resnet20, (1, 3, 32, 32), {"conv1", "layer2.0.conv2", "layer3.0.conv2"}),
        (vgg16, (1, 3, 32, 32), set()),
        (Attention, (1, 5, 6), {"embed"}),
        (Squeezed, (1, 3, 8, 8), set()),
    ],
)
def test_a_stream_is_read_and_then_added_to(network, example, expected):
    space = trace(network().eval(), torch.zeros(example))
    assert {space.groups[g].name for g in streams(space)} == expected


def test_streams_of_inverted_residuals_are_the_bottlenecks():
    """Stages of one block have no addition; depthwise layers add nothing."""
    space = trace(mobilenet_v2().eval(), torch.zeros(1, 3, 32, 32))
    found = [space.groups[g] for g in streams(space)]
    assert found
    assert max(g.size for g in found) < max(g.size for g in space.groups)  # the expanded ones are not among them


def test_holding_keeps_groups_at_their_full_size():
    problem = problem_of(residual(), "macs<=50%")
    held = holding(problem, [0])
    assert uniform(held)[0] == 8
    assert problem.feasibility.violation(uniform(held)) == 0
    # 1*8 (stem) + 8*8 (after) + 8 (head) cannot shrink below 8 + 8 + 1 + four layers of 8 = 49 of 208: 24 %
    with pytest.raises(InfeasibleBudget):
        holding(problem_of(residual(), "macs<=20%"), [0])
    assert streams_kept(problem_of(residual(), "macs<=20%")) is None


def test_between_takes_the_last_that_fits():
    problem = problem_of(residual(), "macs<=50%")
    widths = between(problem, (8, 1, 1, 1), (8, 4, 1, 8))
    assert widths[0] == 8
    assert problem.feasibility.violation(widths) == 0
    with pytest.raises(ValueError, match="lower end breaks a budget"):
        between(problem, problem.space.full, problem.space.full)


def chain(*sizes):
    axes = [Axis(1, 1), *(Axis(c, 0, ((g, 1),)) for g, c in enumerate(sizes)), Axis(1, 1)]
    layers = tuple(Layer(f"l{i}", "conv", 1, 1, a, b) for i, (a, b) in enumerate(itertools.pairwise(axes)))
    return SearchSpace(tuple(ChannelGroup(f"l{g}", c, ()) for g, c in enumerate(sizes)), (), layers, ())


def test_rankings_in_rounds_take_the_mean_of_what_is_left():
    """MACs a + ab + b, dense (4, 4) 24, limit 6. Group 0 (1, 1, 50, 51), group 1 (10, 11, 12, 13).

    One round: divided by 25.75 and 11.5 (.04, .04, 1.94, 1.98) and (.87, .96, 1.04, 1.13); the two at .04 and three of
    group 1 go: (2, 1) costs 5. Two rounds: the first allows 12, so .04, .04 and .87 go: (2, 3) costs 11. Then the means
    are 50.5 and 12: (.99, 1.01) and (.92, 1, 1.08); .92 and .99 go: (1, 2) costs 5, and no unit more fits.
    """
    problem = Problem(chain(4, 4), (parse("macs<=6"),), (np.array([1.0, 1, 50, 51]), np.array([10.0, 11, 12, 13])))
    assert global_ranking(problem) == (2, 1)
    assert global_ranking(problem, rounds=2) == (1, 2)


def test_equal_loss_by_hand():
    """The same network. Losses by units gone: group 0 0, 1, 2, 52; group 1 0, 10, 21, 33 (one unit always stays).

    Within a loss of 2: (2, 4) costs 14; of 10: (2, 3) 11; of 21: (2, 2) 8; of 33: (2, 1) 5, which fits.
    """
    problem = Problem(chain(4, 4), (parse("macs<=6"),), (np.array([1.0, 1, 50, 51]), np.array([10.0, 11, 12, 13])))
    assert equal_loss(problem) == (2, 1)
    assert equal_loss(replace(problem, budgets=(parse("macs<=8"),))) == (2, 2)


@pytest.mark.parametrize("normaliser", ["none", "mean", "max", "std"])
def test_every_normaliser_gives_feasible_widths(normaliser):
    problem = problem_of(residual(16, (8, 8, 8), 16), "macs<=40%")
    widths = problem.space.check(global_ranking(problem, normaliser=normaliser, rounds=3))
    assert problem.feasibility.violation(widths) == 0


def test_an_unknown_normaliser_is_refused():
    with pytest.raises(ValueError, match="unknown normaliser 'median'; known: none, mean, max, std"):
        global_ranking(problem_of(residual(), "macs<=50%"), normaliser="median")


def test_scale_of_a_group_is_nothing_to_a_normalised_ranking():
    problem = problem_of(residual(16, (8, 8, 8), 16), "macs<=40%")
    scaled = replace(problem, scores=tuple(s * 10**g for g, s in enumerate(problem.scores)))
    for normaliser in ("mean", "max", "std"):
        assert global_ranking(problem, normaliser=normaliser) == global_ranking(scaled, normaliser=normaliser)
    assert global_ranking(problem, normaliser="none") != global_ranking(scaled, normaliser="none")


def test_warm_starts_are_of_every_kind():
    problem = problem_of(residual(16, (8, 8, 8, 8), 16), "macs<=50%")
    starts = warm_starts(problem)
    assert problem.feasibility.fits(np.array(starts)).all()
    assert any(w[0] == 16 for w in starts)  # the stream kept
    assert any(w[0] < 8 for w in starts)  # thinned
    assert any(sorted(w[1:5])[1] == 1 for w in starts)  # two blocks at their floor
    assert set(peer_rules(problem)) <= set(starts)
    assert starts[0] == equal_loss(problem)  # what a search of one trial gets
    assert set(starts[:5]) >= set(peer_rules(problem))  # and of five


def test_peers_rank_by_their_own_norms():
    problem = problem_of(residual(16, (8, 8, 8, 8), 16), "macs<=50%")
    others = replace(problem, norms=problem_of(problem.space, "macs<=50%", 1).scores)
    assert peer_rules(problem)[0] == peer_rules(others)[0]  # by the run's scores
    assert peer_rules(problem)[1] != peer_rules(others)[1]


def test_magnitude_by_hand():
    """Filters of norms 1 and 4 (squared), scales 1 and 1, readers 9 and 16: means 11 / 3 and 7."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1))
        net[2].weight.copy_(torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1))
    found = criteria.score_all("magnitude", net, trace(net, torch.zeros(1, 1, 2, 2)))
    assert found[0].tolist() == pytest.approx([11 / 3, 7])


def trial(number, widths, loss, fidelity="reconstructed"):
    return Trial(number, widths, TrialState.COMPLETE, {"loss": loss}, fidelity)


def test_the_best_of_each_kind_before_the_second_best_of_one():
    """16 and 15 of 16 channels are alike; 2 of them are another kind; a peer's network goes on whatever its loss."""
    below = [
        trial(0, (16, 16), 0.1), trial(1, (15, 16), 0.2), trial(2, (16, 15), 0.3), trial(3, (2, 16), 0.4),
        trial(4, (16, 2), 0.9), trial(5, (4, 4), 2.0),
    ]  # fmt: skip
    chosen = Different()
    assert [t.number for t in chosen(below, 2)] == [0, 3]
    assert [t.number for t in chosen(below, 5)] == [0, 1, 3, 4, 5]
    assert [t.number for t in Different(((4, 4),))(below, 2)] == [0, 5]
    assert [t.number for t in Different(((4, 4), (16, 2), (2, 16)))(below, 3)] == [0, 4, 5]  # half, rounded up
    assert [t.number for t in Different(((4, 4),))(below, 1)] == [0]


def abandoned(number, widths, loss, fidelity="reconstructed"):
    return replace(trial(number, widths, loss, fidelity), state=TrialState.PRUNED)


def test_what_was_abandoned_early_may_still_stand_for_its_kind():
    """Its loss without training says nothing about its kind; of one kind, who was seen to the end comes first."""
    below = [trial(0, (16, 16), 0.1), trial(1, (15, 16), 0.2), abandoned(2, (4, 4), 2.0), abandoned(3, (16, 15), 0.15)]
    assert [t.number for t in Different(((4, 4),))(below, 2)] == [0, 2]
    assert [t.number for t in Different()(below, 2)] == [0, 2]
    assert [t.number for t in Different()(below, 3)] == [0, 1, 2]
    assert [t.number for t in Different()(below, 9)] == [0, 3, 1, 2]


def test_no_place_of_a_rung_stays_empty_because_candidates_were_abandoned():
    below = [
        abandoned(0, (2, 2), 0.9, "short:9"),
        trial(1, (4, 4), 0.5, "short:9"),
        abandoned(2, (3, 3), 0.7, "short:9"),
    ]
    assert [t.number for t in Different()(below, 2)] == [1, 2]


def test_once_trained_it_is_no_merit_to_have_come_first():
    """The first of a rung is seen to the end, having no rival; those abandoned since seem to be better than it."""
    below = [
        trial(0, (2, 2), 1.74, "short:9"),
        trial(1, (4, 4), 1.2, "short:9"),
        abandoned(2, (3, 3), 1.5, "short:9"),
    ]
    assert [t.number for t in Different()(below, 2)] == [1, 2]


def test_once_trained_the_loss_decides():
    widths = [(16, 16), (15, 16), (2, 2)]
    below = [trial(n, w, n / 10, "short:50") for n, w in enumerate(widths)]
    assert [t.number for t in Different(((2, 2),))(below, 2)] == [0, 1]


def test_apart_counts_octaves():
    assert apart((8, 8), (8, 8)) == 0
    assert apart((8, 8), (4, 8)) == 0.5
    assert apart((1,), (0,)) == 1  # a branch that is gone


def test_an_exchange_changes_the_kind():
    """The stream against its blocks, by a factor of 1.4 to 4; what is outside stays."""
    space = residual(16, (8, 8), 16)
    widths, wider, thinner = (8, 4, 4, 8), 0, 0
    for seed in range(20):
        moved = exchange(space, widths, np.random.default_rng(seed))
        assert moved == space.check(moved)
        assert moved[3] == 8
        wider += moved[0] > 8 and max(moved[1:3]) < 4
        thinner += moved[0] < 8 and min(moved[1:3]) > 4
    assert wider + thinner == 20
    assert min(wider, thinner) > 3


@pytest.mark.parametrize("name", ["evolution", "layer_compensation", "lcp", "combined"])
def test_every_second_child_has_no_bottlenecks(name):
    """Of 40 units a twentieth is two; of 8 it is one, as the floor is anyway."""
    problem = problem_of(residual(40, (40, 40, 8, 8), 40), "macs<=20%")
    if name == "combined":
        apart_by_one = tuple(1 - np.eye(g.size) for g in problem.space.groups)
        problem = replace(problem, distances=apart_by_one)
    strategy = make(name, problem, 0)
    thin = (40, 1, 1, 1, 1, 36)
    for number, widths in enumerate([thin, *warm_starts(problem)]):
        strategy.tell(trial(number, widths, sum(widths) if number else 0.0))  # the thin one is the best
    strategy.begin = len(strategy.trials)
    asked = [strategy.ask(n) for n in range(strategy.begin, strategy.begin + 24)]
    assert problem.feasibility.fits(np.array(asked)).all()
    assert all(min(w[0], w[1], w[2], w[5]) >= 2 for w in asked[1::2])
    assert sum(min(w[1:3]) == 1 for w in asked[::2]) >= 2
    assert strategy.ask(strategy.begin + 5) == asked[5]


def test_without_bottlenecks():
    problem = problem_of(residual(40, (40, 8), 60), "macs<=50%")
    broad = without_bottlenecks(problem)
    assert broad.space.floor == (2, 2, 1, 3)
    assert without_bottlenecks(broad) is None  # it has none
    assert without_bottlenecks(problem_of(residual(16, (8,), 16), "macs<=50%")) is None  # a twentieth is a unit
    small = problem_of(residual(40, (40, 8), 60), "macs<=0.3%")
    assert small.feasibility.violation(small.space.floor) == 0
    assert without_bottlenecks(small) is None  # no budget holds then
