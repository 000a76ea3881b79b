"""What a method leaves alone: frozen groups, weights that do not train; and layers inside attention, which it hears."""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from tiny_training import PER_EPOCH, SETTINGS, equal, network, task, trained

from autoprune.compute import Compute
from autoprune.problem import Problem
from autoprune.training import Pruning
from autoprune.training.gating import Gating
from autoprune.training.methods import METHODS, Method, Plan, Step
from autoprune.training.methods.finding import FindingUnits
from autoprune.training.opened import Opened
from objectives import parse
from search_spaces import adapters, trace
from search_spaces.adapters import Adapter

FINDING = [cls for cls in METHODS.values() if issubclass(cls, FindingUnits)]
PLAN = Plan(task(), SETTINGS, Compute.choose("cpu"), 4 * PER_EPOCH, PER_EPOCH, 8)
QUIET = {"greg2": {"every": 1}}


def pruning(net, freeze=(), budget="macs<=60%", example=None):
    space = trace(copy.deepcopy(net).eval(), torch.zeros(1, 3, 6, 6) if example is None else example)
    space = space.with_limits(freeze=[g.name for g in space.groups if g.name in freeze or "all" in freeze])
    scores = tuple(np.arange(g.size, dtype=float) for g in space.groups)
    problem = Problem(space, (parse(budget),), scores)
    return Pruning(space, scores, space.kept(problem.project(space.full), scores), problem.project, problem)


@pytest.mark.parametrize("cls", [*FINDING, METHODS["orthoreg"]])
def test_a_frozen_group_is_none_of_its_business(cls):
    """Without a loss of the task its normalisation, which is that of no other group, is what it was in every step."""
    net = network()
    own = (net.bn2.weight, net.bn2.bias)
    before = [p.detach().clone() for p in own]
    method = cls(pruning(net, freeze=["conv2"], budget="macs<=75%"), **QUIET.get(cls.name, {}))
    method.begin(net.train(), PLAN)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for number in range(3 * PER_EPOCH):
        optimizer.zero_grad()
        out = net(torch.randn(8, 3, 6, 6))
        (0 * out.sum()).backward()
        step = Step(number, (((out, out), None, 1.0),))
        if (penalty := method.penalty(net, step)) is not None and penalty.requires_grad:
            penalty.backward()
        method.after_backward(net, step)
        optimizer.step()
        method.after_step(net, step)
        if (number + 1) % PER_EPOCH == 0:
            method.end_epoch(net, number // PER_EPOCH)
        assert all(torch.equal(a, b) for a, b in zip(own, before, strict=True)), number
        assert not method.pruned[1].any()
    method.end(net)


@pytest.mark.parametrize("cls", FINDING)
def test_nothing_but_frozen_groups_is_refused(cls):
    with pytest.raises(
        ValueError, match=f"method '{cls.name}': this network has no group of channels that can be prun"
    ):
        cls(pruning(network(), freeze=["all"], budget="macs<=100%")).begin(network().train(), PLAN)


def test_a_penalty_on_what_does_not_train_is_told_and_does_nothing():
    net = network()
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            m.weight.requires_grad_(False)
    trained(METHODS["orthoreg"](pruning(net, budget="macs<=100%")), net)

    class Plain(Method):
        name = "plain"

        def penalty(self, net, step):
            return 1e-4 * sum(m.weight.abs().sum() for m in net.modules() if isinstance(m, nn.BatchNorm1d))  # none

    trained(Plain(), net)


@pytest.mark.parametrize("name", ["iss", "slimming"])
def test_an_average_of_weights_would_bring_units_back(name):
    with pytest.raises(ValueError, match="an average of weights would bring them back; leave ema at 0 here"):
        trained(METHODS[name](pruning(network())), network(), settings=replace(SETTINGS, ema=0.9))


class Attentive(nn.Module):
    """Tokens, attention of torch's own, and a head."""

    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Conv2d(3, 8, 3, 3), nn.Linear(8, 4)
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)

    def forward(self, x):
        x = self.tokens(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


def attentive():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Attentive()


def test_heads_of_attention_are_gated():
    net = attentive().train()
    space, images = pruning(net).space, torch.randn(2, 3, 6, 6)
    expected, keys = net(images), list(net.state_dict())
    heads = next(i for i, g in enumerate(space.groups) if g.name == "attention")
    gating = Gating(net, space, lambda number, values: torch.full_like(values[0], float(number != heads)))
    x = net.tokens(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(net(images), net.head((x + net.attention.out_proj.bias).mean(1)))
    gating.remove()
    assert type(net.attention) is nn.MultiheadAttention
    assert torch.equal(net(images), expected)
    assert list(net.state_dict()) == keys


class Centred(nn.Conv2d):
    """Computes its weight; adapted, it would own another."""

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class Wrapping(Adapter):
    """Puts a module and a buffer into what it adapts."""

    def handles(self, module):
        return type(module) is nn.Tanh

    def trace(self, rec, call):
        raise NotImplementedError

    def adapt(self, module):
        module.inner = nn.Identity()
        module.register_buffer("count", torch.zeros(()))


def test_what_would_get_other_parameters_buffers_or_modules_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(adapters, "ADAPTERS", [Wrapping(), *adapters.ADAPTERS])
    net = nn.Sequential(Centred(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 1))
    assert list(adapters.adapted(net)) == ["0", "1"]
    parameters, kinds, keys = list(map(id, net.parameters())), [type(m) for m in net.modules()], list(net.state_dict())
    opened = Opened(net)
    for _ in range(2):
        assert list(map(id, net.parameters())) == parameters
        assert [type(m) for m in net.modules()] == kinds
        assert list(net.state_dict()) == keys
        opened.close()


def test_shares_are_of_the_units_that_may_go():
    """METHODS-TRAINING 11: chex begins with floor(n (1 - (S - delta))); S is of groups that are pruned."""
    net = network()
    base = pruning(net, freeze=["conv2"], budget="macs<=50%")
    method = METHODS["chex"](base, growing=0.1)
    method.begin(net, PLAN)
    early = METHODS["early-bird"](base)
    early.begin(network(), PLAN)
    final = [int(p.sum()) for p in early.choose()]  # of the same scales
    share = (final[0] + final[2]) / (6 + 5)
    assert share > 0.1
    gone = [n - int(n * (1.1 - share) + 1e-9) for n in (6, 5)]
    assert [int(p.sum()) for p in method.pruned] == [gone[0], 0, gone[1]]
    assert gone != [n - int(n * (1.1 - sum(final) / 18) + 1e-9) for n in (6, 5)]


def test_a_threshold_begins_at_a_share_of_what_its_groups_lose():
    base = pruning(network(), freeze=["conv2"])
    method, ranked = METHODS["threshold"](base), METHODS["epi"](base)
    method.begin(network().train(), PLAN)
    ranked.begin(network().train(), PLAN)
    goal = sum(int(p.sum()) for p in ranked.choose()) / (6 + 5)  # of the same norms
    closed = torch.distributions.Normal(0, 1).cdf(method.levels.detach())
    torch.testing.assert_close(closed, torch.full((3,), 0.6 * goal))
    method.end(None)


@pytest.mark.parametrize(("name", "settings"), [("epi", {"tau": 0.95}), ("early-bird", {"distance": 0.1})])
def test_what_cannot_change_does_not_count_as_settled(name, settings):
    """One of the five units that may go is another, of 18 in all; widths of 5 and 4: 1 - 1/9 = 0.89."""
    net = network()
    method = METHODS[name](pruning(net, freeze=["conv1", "conv2"], budget="macs<=99%"), last=1, **settings)
    method.begin(net, PLAN)
    choices = [tuple(torch.arange(n) < gone * (n == 5) for n in (6, 7, 5)) for gone in (0, 1, 1)]
    assert [method.settles(choice) for choice in choices] == [False, False, True]


def test_fisher_is_plain_training_where_the_budgets_hold():
    """Attention that calls its layers draws its dropout otherwise, so it is left as it is."""
    net = attentive()
    net.attention.dropout = 0.5
    one, other = (trained(m, net, steps=6) for m in (METHODS["fisher"](pruning(net, budget="macs<=100%")), None))
    assert equal(one, other)


@pytest.mark.parametrize("name", ["fisher", "gates", "gdp", "threshold"])
def test_heads_of_attention_are_heard(name):
    net = attentive()
    method = METHODS[name](pruning(net))
    heads = [g.name for g in method.pruning.space.groups].index("attention")
    seen = []
    trained(method, net, steps=6, listener=lambda *_: seen.append(name == "fisher" and bool(method.sums[heads].any())))
    assert name != "fisher" or any(seen)
    assert method.pruning.problem.feasibility.violation([len(k) for k in method.kept()]) == 0


class Recurrent(nn.Module):
    """Words, two LSTMs, and a head."""

    def __init__(self):
        super().__init__()
        self.words, self.first = nn.Embedding(9, 6), nn.LSTM(6, 7, batch_first=True)
        self.second, self.head = nn.LSTM(7, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.second(self.first(self.words(x))[0])[0][:, -1])


@pytest.mark.parametrize("name", ["gates", "threshold"])
def test_a_group_that_cannot_be_gated_may_be_frozen(name):
    """As the message says."""
    net, example = Recurrent(), torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"group 'first': gates need a layer .* freeze it, or use a method without"):
        METHODS[name](pruning(net, example=example)).begin(net.train(), PLAN)
    method = METHODS[name](pruning(net, ["first"], "params<=90%", example))
    method.begin(net.train(), PLAN)
    method.end(net)


def test_words_that_only_an_lstm_reads_are_gated_where_they_are_looked_up():
    net, example = Recurrent(), torch.zeros(2, 4, dtype=torch.long)
    space, gates = trace(net, example), torch.arange(6.0)
    shut = copy.deepcopy(net)
    with torch.no_grad():
        shut.words.weight.mul_(gates)
    number = [g.name for g in space.groups].index("words")
    shrunk = replace(space, groups=space.groups[number : number + 1])
    gating = Gating(net, shrunk, lambda *_: gates)
    assert torch.equal(net(example), shut(example))
    gating.remove()


@pytest.mark.parametrize("name", ["fisher", "gates", "threshold"])
def test_who_learns_from_samples_trains_in_one_process(name, monkeypatch):
    from autoprune.training.parallel import Processes

    monkeypatch.setattr(Processes, "here", classmethod(lambda cls: cls(0, 2)))
    with pytest.raises(ValueError, match=f"method '{name}': learns from the samples that one process sees"):
        trained(METHODS[name](pruning(network())), network())
