"""A strength that makes a training diverge is refused before its first step, with a value that does not."""

import inspect
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from tiny_training import EPOCHS, PER_EPOCH, SETTINGS, network, pruning, task, trained

from autoprune.compute import Compute
from autoprune.tasks import Task
from autoprune.training import Plan, Step, check_strength, finetune
from autoprune.training.methods import METHODS, Method
from autoprune.training.methods.epi import Epi
from autoprune.training.methods.sooner import Sooner
from autoprune.training.stability import grows

STRONG = [  # by default their strength is at most 1 (greg, tpp), 2.5, 1000, 1e-2, 5e-3, about 1, about 1e-1, 1e-2
    ("greg1", "ceiling", 1e5),
    ("greg1", "growth", 1e5),
    ("greg2", "ceiling", 1e5),
    ("greg2", "growth", 1e5),
    ("greg2", "highest", 1e3),
    ("increg", "ceiling", 2.5e5),
    ("tpp", "ceiling", 1e5),
    ("tpp", "weight", 1e8),
    ("slimming", "strength", 1e3),
    ("polarization", "strength", 5e2),
    ("morphnet", "strength", 1e5),
    ("reweighted", "strength", 1e4),
    ("orthoreg", "strength", 1e3),
]


def begun(method, net, steps=PER_EPOCH * EPOCHS, **settings):
    """A plan of a training that the method has begun."""
    plan = Plan(task(), replace(SETTINGS, **settings), Compute(torch.device("cpu"), amp=False), steps, PER_EPOCH, 8)
    method.begin(net.train(), plan)
    return plan


@pytest.mark.parametrize(
    ("momentum", "nesterov", "bound"),
    [
        (0.0, False, 2.0),  # w <- (1 - lr lambda) w
        (0.9, False, 3.8),  # heavy ball: 2 (1 + m)
        (0.9, True, 3.8 / 2.8),  # (2 + 2 m) / (1 + 2 m): at z = -1 of z^2 - (1 + m)(1 - a) z + m (1 - a), a = lr lambda
        (0.5, True, 1.5),
    ],
)
def test_the_bound_of_a_push_is_that_of_the_recurrence(momentum, nesterov, bound):
    for share, expected in ((0.99, False), (1.01, True)):
        assert grows([bound * share / 0.05] * 5000, [0.05] * 5000, momentum, nesterov) is expected


def test_the_recurrence_is_that_of_torch():
    weight = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=0.05, momentum=0.9, nesterov=True)
    for steps in range(1, 200):
        weight.grad = 30.0 * weight.detach()
        optimizer.step()
        assert grows([30.0] * steps, [0.05] * steps, 0.9, True) is (abs(float(weight.detach())) >= 1e12)
        if abs(weight) >= 1e12:
            break
    assert 10 < steps < 199


def test_a_push_that_makes_weights_grow_is_one_too():
    assert grows([-5.0] * 64, [0.05] * 64, 0.9, True)  # 1 + 0.05 * 5 / 0.1 a step
    assert not grows([-0.1] * 32, [0.05] * 32, 0.9, True)


@pytest.mark.parametrize(("name", "setting", "value"), STRONG)
def test_refused_before_any_step_with_a_value_that_is_safe(name, setting, value, monkeypatch):
    net = network()
    monkeypatch.setattr("autoprune.tasks.Training.portions", lambda *_: pytest.fail("a batch was drawn"))
    with pytest.raises(ValueError, match=f"method '{name}': with its {setting} of .* learning rate of 0.05; ") as told:
        trained(METHODS[name](pruning(net), **{setting: value}), net)
    monkeypatch.undo()
    (safe,) = re.findall(f"give a {setting} of at most (.*), or lower the learning rate$", str(told.value))
    assert 0 < float(safe) < value
    after = trained(METHODS[name](pruning(net), **{setting: float(safe)}), net)
    assert all(p.isfinite().all() for p in after.parameters())


@pytest.mark.parametrize(("name", "setting"), [
    ("orthoreg", "strength"), ("tpp", "ceiling"), ("greg2", "growth"), ("reweighted", "strength"), ("tpp", "weight"),
])  # fmt: skip
@pytest.mark.parametrize("value", [1e13, 1e17, 1e30])
def test_the_way_out_of_an_absurd_strength_is_a_smaller_one(name, setting, value):
    net = network()
    method = METHODS[name](pruning(net), **{setting: value})
    with pytest.raises(ValueError, match=f"'{name}': with its {setting} of .*; give a {setting} of at most"):
        check_strength(net, method, begun(method, net, lr=0.05))


def test_thresholds_that_would_jump_to_and_fro_are_refused():
    net, strong = network(), METHODS["threshold"](pruning(network()), strength=1e6)
    with pytest.raises(ValueError, match=r"thresholds would jump .*; give a strength of at most .*, or lower") as told:
        begun(strong, net, lr=0.05)
    safe = float(re.findall("at most ([^,]*),", str(told.value))[0])
    levels, method = [], METHODS["threshold"](pruning(net), strength=safe)
    trained(method, net, listener=lambda *_: levels.append(method.levels.detach().clone()))
    moves = torch.stack(levels).diff(dim=0).abs().amax(1)
    assert moves[-1] < moves[0] / 4
    begun(METHODS["threshold"](pruning(net)), net, lr=0.05)


def test_what_sooner_wraps_is_looked_at():
    net = network()
    method = Sooner(METHODS["reweighted"](pruning(net), strength=1e4), Epi(pruning(net)))
    with pytest.raises(ValueError, match="method 'reweighted': with its strength of 10000 "):
        trained(method, net)


def test_a_learning_rate_too_high_for_what_nobody_has_set():
    net = network()
    method = METHODS["greg1"](pruning(net))
    plan = begun(method, net, lr=10.0)
    with pytest.raises(ValueError, match=r"ceiling of 1 .* at the learning rate of 10; give a ceiling of at most 0"):
        check_strength(net, method, plan)


def test_the_search_for_a_safe_value_stays_in_the_range_of_the_setting():
    net = network()
    method = METHODS["increg"](pruning(net), ceiling=0.5)  # a trillionth of which is out of its range
    with pytest.raises(ValueError, match=r"with its ceiling of 0\.5 .* rate of 100; give a ceiling of at most"):
        check_strength(net, method, begun(method, net, lr=100.0))


@pytest.mark.parametrize("settings", [{"optimizer": "adamw", "lr": 0.001}, {"clip": 1.0}])
def test_bounded_steps_are_not_refused(settings):
    net = network()
    method = METHODS["greg1"](pruning(net), ceiling=1e5)
    check_strength(net, method, begun(method, net, **settings))


@pytest.mark.parametrize("schedule", ["constant", "linear"])
@pytest.mark.parametrize("rate", [0.001, 0.1])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_defaults_pass(name, rate, schedule):
    method = METHODS[name](pruning(network()))
    net = method.network(network())
    for steps in (PER_EPOCH * EPOCHS, 1000):
        check_strength(net, method, begun(method, net, steps, lr=rate, lr_schedule=schedule))


@pytest.mark.parametrize(
    ("name", "rate", "settings"),
    [
        ("greg1", 1e-3, {"growth": 1e-4}),
        ("greg2", 1e-3, {"growth": 1e-4}),
        ("increg", 0.01, {"strength": 2.5e-4}),
        ("tpp", 1e-3, {"growth": 1e-4, "weight": 1000.0}),
        ("slimming", 0.1, {"strength": 1e-4}),
        ("polarization", 0.1, {"strength": 5e-5}),
        ("orthoreg", 0.1, {"strength": 1e-2}),
    ],
)
def test_published_settings_pass(name, rate, settings):
    net = network()
    method = METHODS[name](pruning(net), **settings)
    check_strength(net, method, begun(method, net, 60_000, lr=rate))


def test_nothing_is_changed_and_nothing_drawn():
    net = network()
    method = METHODS["tpp"](pruning(net))
    plan = begun(method, net)
    before, drawn = [t.clone() for t in net.state_dict().values()], torch.get_rng_state()
    check_strength(net, method, plan)
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_strengths_are_settings():
    for cls in METHODS.values():
        assert set(cls.strengths) <= inspect.signature(cls).parameters.keys()
        assert cls.push is Method.push or cls.strengths


@pytest.mark.parametrize("name", ["greg1", "greg2", "increg", "tpp"])
def test_push_is_the_largest_lambda_there_is(name):
    """As long as no ratio stops it: after each step of a training whose gradients are only those of the method."""
    net = network()
    method = METHODS[name](pruning(net), ceiling=0.3)
    begun(method, net, 60)
    for number in range(60):
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        method.after_backward(net, Step(number, ()))
        if name == "increg":
            found = [float(w[~p].max()) for w, p in zip(method.weights, method.pruned, strict=True)]
        else:
            found = (
                [method.strength(number)]
                if name == "tpp"
                else [float(torch.as_tensor(s).max()) for s in method.strength]
            )
        assert max(found) <= method.push(number)[0] + 1e-6
        if name != "increg":
            assert max(found) == pytest.approx(method.push(number)[0])


def test_a_loss_without_a_gradient_is_refused_before_any_step():
    data = [(torch.randn(4, 3, 6, 6), torch.tensor([0, 1, 2, 3]))]
    detached = Task.of(train=data, val=data, loss=lambda out, y: torch.nn.functional.cross_entropy(out.detach(), y))
    net = network()
    before = {name: value.clone() for name, value in net.named_parameters()}
    with pytest.raises(ValueError, match=r"loss.*: has no gradient; compute it from the network's outputs with torch"):
        finetune(net, detached, SETTINGS, steps=2)
    assert all(torch.equal(value, before[name]) for name, value in net.named_parameters())
