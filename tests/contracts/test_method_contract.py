"""One exam for every method in the facade."""

import contextlib
import copy
import inspect
import io
import os
import re
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from tiny_training import EPOCHS, PER_EPOCH, SETTINGS, Coupled, Grouped, Normed, equal, network, pruning, task, trained

from autoprune.compute import Compute
from autoprune.training import checkpoint, methods
from autoprune.training.methods import METHODS, Method, Plan
from autoprune.training.methods.finding import FindingUnits
from autoprune.training.units import kept_of
from search_spaces import mask, prune

CLASSES = [c for _, c in inspect.getmembers(methods, inspect.isclass) if issubclass(c, Method)]
CONCRETE = [c for c in CLASSES if not inspect.isabstract(c) and c is not Method]
FINDING = [c for c in CONCRETE if issubclass(c, FindingUnits)]
PRUNING = [c for c in CONCRETE if c.name not in ("cut", "sandwich", "nested")]
IMAGES = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def net():
    return network()


@pytest.fixture(scope="module")
def plain(net):
    return trained(None, net)


def answers(net):
    was, net = net.training, net.eval()
    with torch.no_grad():
        found = net(IMAGES.to(next(net.parameters()).dtype))
    net.train(was)
    return found


@pytest.mark.parametrize("cls", CONCRETE)
def test_name_and_source(cls):
    assert METHODS[cls.name] is cls
    assert "https://" in (cls.__doc__ or "") + (sys.modules[cls.__module__].__doc__ or "")
    assert cls.name == "sandwich" or len(Path(inspect.getfile(cls)).read_text(encoding="utf-8").splitlines()) <= 100


RUNS = {}


def run(cls, net):
    """One training of each method, for all that looks at it: the method, the network, how often units were gone."""
    if cls not in RUNS:
        plan, times = pruning(net), []
        method = cls(plan)

        def look(trained, done):
            gone = method.gone()
            if gone is not None and any(g.any() for g in gone) and done % 4 == 0:
                small = prune(trained, plan.space, kept_of(gone))
                torch.testing.assert_close(answers(small), answers(trained), rtol=1e-4, atol=1e-5)
                times.append(done)

        RUNS[cls] = method, trained(method, net, listener=look), times
    return RUNS[cls]


@pytest.mark.parametrize("cls", PRUNING)
def test_cutting_units_that_are_gone_changes_no_answer(cls, net):
    method, after, times = run(cls, net)
    assert times
    small = prune(after, method.space, method.kept())
    torch.testing.assert_close(answers(small), answers(after), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", PRUNING)
def test_what_is_kept_holds_the_budgets_and_uses_them(cls, net):
    method, _, _ = run(cls, net)
    hold(method)


@pytest.mark.parametrize("cls", FINDING)
def test_any_budget_and_any_widths(cls, net):
    plan = pruning(net, ["params<=55%", "activations<=80%"], divisor=2)
    method = cls(plan)
    trained(method, net)
    hold(method)


def hold(method):
    feasibility = method.pruning.problem.feasibility
    widths = method.pruning.space.check([len(k) for k in method.kept()])
    assert feasibility.violation(widths) == 0
    price = feasibility.price(widths)
    assert max(price[name] / limit for name, limit in feasibility.limits.items()) >= 0.7


@pytest.mark.parametrize("cls", CONCRETE)
def test_killed_anywhere_and_resumed_it_ends_with_the_same_bits(cls, net, tmp_path):
    whole, expected, _ = run(cls, net)

    def die(at):
        def listener(_, done):
            if done == at:
                raise InterruptedError

        return listener

    steps = PER_EPOCH * (whole.settled_after if whole.is_over else EPOCHS)
    path = tmp_path / "state.pt"
    for stop in (PER_EPOCH + 3, steps - 2, None):
        method = cls(pruning(net))
        begun = network(seed=stop or 1) if path.exists() else net  # nothing may be taken from what a process began with
        with pytest.raises(InterruptedError) if stop else contextlib.nullcontext():
            assert equal(trained(method, begun, checkpoint=path, listener=die(stop)), expected)
    assert str(method.kept()) == str(whole.kept())
    again = cls(pruning(net))  # it had ended
    ended = trained(again, net, checkpoint=path)
    assert equal(ended, expected)
    assert torch.equal(answers(ended), answers(expected))  # nothing that a method had hung on it is left
    assert str(again.kept()) == str(whole.kept())


def train_until_killed(name, path, moment):
    """A training that is killed after a step, before the gradients of one are used, or while its state is written."""
    net = network()
    method = METHODS[name](pruning(net))
    die, hook, write = partial(os.kill, os.getpid(), signal.SIGKILL), method.after_backward, torch.save

    def after_backward(net, step):
        return die() if (moment, step.number) == ("in a step", 17) else hook(net, step)

    def save(state, file):
        if (moment, state["step"]) == ("in its state", 25):
            write(state, whole := io.BytesIO())
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            die()
        write(state, file)

    method.after_backward, torch.save = after_backward, save
    trained(method, net, checkpoint=path, listener=lambda _, done: die() if (moment, done) == ("after", 13) else None)


@pytest.mark.slow
@pytest.mark.parametrize("cls", CONCRETE)
def test_a_process_that_is_killed_wherever_it_is_goes_on_to_the_same_bits(cls, net, tmp_path, start):
    whole, expected, _ = run(cls, net)
    path, steps = tmp_path / "state.pt", []
    for moment in ("after", "in a step", "in its state"):
        ended = start(tmp_path, f"{__file__}:train_until_killed", cls.name, path, moment).end()
        assert ended.code == -signal.SIGKILL, ended.err
        steps.append(checkpoint.read(path, torch.device("cpu"))["step"])
    assert steps == [10, 15, 20]
    method = cls(pruning(net))
    assert equal(trained(method, net, checkpoint=path), expected)
    assert str(method.kept()) == str(whole.kept())


def others(state, name=""):
    """Of a state (where it differs, the state with something missing, unknown, longer or of another shape)."""
    for key, value in state.items():
        where = f"{name}{key}"
        yield where, {k: v for k, v in state.items() if k != key}
        if isinstance(value, dict) and key != "state":  # an optimiser's own is empty in the beginning
            yield from ((at, {**state, key: other}) for at, other in others(value, f"{where}."))
        elif isinstance(value, torch.Tensor):
            yield where, {**state, key: torch.cat([value, value])}
        elif isinstance(value, (list, tuple)) and value and not isinstance(value[0], dict):
            yield where, {**state, key: [*value, value[-1]]}
            if isinstance(value[-1], torch.Tensor):
                yield f"{where}[{len(value) - 1}]", {**state, key: [*value[:-1], value[-1][:-1]]}
    yield f"{name}of old", {**state, "of old": 1}


@pytest.mark.parametrize("cls", CONCRETE)
def test_a_checkpoint_that_remembers_something_else_is_refused_in_a_sentence(cls, net, tmp_path):
    path = tmp_path / "state.pt"
    trained(cls(pruning(net)), net, checkpoint=path)
    found = checkpoint.read(path, torch.device("cpu"))
    fresh = cls(pruning(net))
    seen = fresh.network(copy.deepcopy(net)).train()
    fresh.begin(seen, Plan(task(), SETTINGS, Compute.choose("cpu"), EPOCHS * PER_EPOCH, PER_EPOCH, 8))
    first = fresh.state()
    fresh.end(seen)
    assert first.keys() == found["method"].keys()
    for where, state in others(found["method"]) if first else ():
        name = where.partition("[")[0]
        if first.get(name, True) == [] and name in state:
            continue  # it grows: any length fits
        checkpoint.save(path, {**found, "method": state})
        with pytest.raises(ValueError, match=f"what it holds of method '{cls.name}' does not fit") as said:
            trained(cls(pruning(net)), net, checkpoint=path)
        assert f"'{where}' " in str(said.value)
        assert str(said.value).endswith("; delete it to train from the start")


def permuted(net, space, number, order):
    """The same network with the units of one group in another order."""
    other = copy.deepcopy(net)
    tensors = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    with torch.no_grad():
        for member in space.groups[number].members:
            if (tensor := tensors.get(member.tensor)) is not None:
                index = torch.from_numpy(member.index)
                rows = tensor.movedim(member.axis, 0)
                rows[index.flatten()] = rows[index[order].flatten()].clone()
    return other


@pytest.mark.parametrize("cls", PRUNING)
def test_permuting_the_units_of_a_group_permutes_what_it_does(cls, net):
    number = 0  # that of the residual stream
    net = copy.deepcopy(net).double()  # rounding must not grow until it turns a choice
    plan = pruning(net)
    order = torch.randperm(plan.space.groups[number].size, generator=torch.Generator().manual_seed(2))
    turned = permuted(net, plan.space, number, order)
    torch.testing.assert_close(answers(turned), answers(net), rtol=1e-4, atol=1e-5)
    back = np.argsort(order.numpy())
    kept = tuple(np.sort(back[k]) if i == number else k for i, k in enumerate(plan.kept))
    first, second = cls(plan), cls(pruning(turned, kept=kept))
    permutes(first, second, net, turned, number, back)


@pytest.mark.parametrize(("cls", "settings", "share"), [
    (methods.Chex, {"growing": 0.0}, 70), (methods.Chex, {"growing": 0.1}, 50),
    (methods.Polarization, {"strength": 0.3}, 60), (methods.Polarization, {"strength": 1.0, "t": 1.9}, 60),
])  # fmt: skip
@pytest.mark.parametrize("number", range(3))
def test_what_is_equal_is_not_told_apart_by_where_it_stands(cls, settings, share, number, net):
    """Units that are out, or whose scales have all come to zero."""
    net = copy.deepcopy(net).double()
    plan = pruning(net, [f"macs<={share}%"])
    order = torch.randperm(plan.space.groups[number].size, generator=torch.Generator().manual_seed(3))
    turned = permuted(net, plan.space, number, order)
    second = cls(pruning(turned, [f"macs<={share}%"]), **settings)
    permutes(cls(plan, **settings), second, net, turned, number, np.argsort(order.numpy()))


def permutes(first, second, net, turned, number, back):
    """Two trainings of which the second has the units of a group in another order end alike."""
    one, other = trained(first, net), trained(second, turned)
    expected = [np.sort(back[k]) if i == number else k for i, k in enumerate(first.kept())]
    assert list(map(list, second.kept())) == list(map(list, expected))
    torch.testing.assert_close(answers(other), answers(one), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cls", PRUNING)
def test_with_no_strength_it_is_plain_training(cls, net, plain):
    method, on_its_way = cls(pruning(net, ["macs<=100%"]), **cls.NOTHING), {}
    after = trained(method, net)
    if method.is_over:  # a rule of when: where nothing goes the choice has settled
        trained(None, net, listener=lambda trained, done: on_its_way.update({done: copy.deepcopy(trained)}))
        plain = on_its_way[PER_EPOCH * method.settled_after]
    assert equal(after, plain)


@pytest.mark.parametrize("cls", CONCRETE)
def test_settings_are_plain_and_complete(cls, net):
    method = cls(pruning(net))
    names = inspect.signature(cls.__init__).parameters.keys() - {"self", "pruning", "args", "kwargs"}
    assert method.settings().keys() == names
    assert all(isinstance(v, (int, float, str, bool, type(None))) for v in method.settings().values())


@pytest.mark.parametrize("cls", PRUNING)
def test_says_what_is_missing(cls, net):
    with pytest.raises(ValueError, match=f"method '{cls.name}': "):
        trained(cls(None), net)


def cut_as_it_says(method, after):
    """The cut changes no answer, but for what layer-norms of a stream that has lost channels see: as `verify` does."""
    space, kept = method.space, method.kept()
    if not isinstance(after, Normed):
        torch.testing.assert_close(answers(prune(after, space, kept)), answers(after), rtol=1e-4, atol=1e-5)
        return
    expected = answers(mask(after, space, kept))
    torch.testing.assert_close(answers(prune(after, space, kept)), expected, rtol=1e-4, atol=1e-5)
    inner = tuple(k if g.name == "rise" else np.arange(g.size) for g, k in zip(space.groups, kept, strict=True))
    assert sum(map(len, inner)) <= sum(space.full)
    torch.testing.assert_close(answers(prune(after, space, inner)), answers(after), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", PRUNING)
@pytest.mark.parametrize("kind", [Normed, Grouped])
def test_networks_of_layer_norms_and_of_grouped_convolutions(cls, kind):
    method = cls(pruning(kind()))
    cut_as_it_says(method, trained(method, kind()))
    hold(method)


@pytest.mark.slow
@pytest.mark.parametrize("cls", PRUNING)
@pytest.mark.parametrize(("kind", "depth"), [
    (Coupled, False), (Coupled, True), (Grouped, False), (network, True), (Normed, True),
])  # fmt: skip
@pytest.mark.parametrize("accumulate", [1, 2])
def test_streams_branches_that_vanish_and_accumulated_gradients(cls, kind, depth, accumulate, tmp_path):
    told = {"settings": replace(SETTINGS, accumulate=accumulate)}

    def made():
        return cls(pruning(kind(), ["macs<=30%" if depth else "macs<=60%"], depth=depth))

    def die(_, done):
        if done == 13:
            raise InterruptedError

    method = made()
    after = trained(method, kind(), **told)
    cut_as_it_says(method, after)
    widths = method.pruning.space.check([len(k) for k in method.kept()])
    assert method.pruning.problem.feasibility.violation(widths) == 0
    path = tmp_path / "state.pt"
    with pytest.raises(InterruptedError):
        trained(made(), kind(), checkpoint=path, listener=die, **told)
    again = made()
    assert equal(trained(again, kind(), checkpoint=path, **told), after)
    assert str(again.kept()) == str(method.kept())


@pytest.mark.parametrize("cls", FINDING)
def test_it_says_which_groups_it_can_decide_nothing_about(cls, net, monkeypatch):
    """Whoever looks at scales says so: on a transformer only the stream has any."""
    looked, scales = [], FindingUnits.scales
    monkeypatch.setattr(FindingUnits, "scales", lambda self: looked.append(self.name) or scales(self))
    for each, without in ((Normed(), "1 of 2 groups have none (rise)"), (copy.deepcopy(net), "")):
        method = cls(pruning(each))
        method.begin(each.train(), Plan(task(), SETTINGS, Compute.choose("cpu"), EPOCHS * PER_EPOCH, PER_EPOCH, 8))
        said = method.caveat()
        assert bool(looked) is cls.reads_scales
        assert bool(said) is (cls.reads_scales and bool(without))
        assert not said or (without in said and f"'{cls.name}'" in said and "greg2 or reweighted" in said)
        method.end(each)


def test_the_guide_names_those_that_weigh_scales():
    text = (Path(__file__).parents[2] / "docs/guides/training-methods.md").read_text(encoding="utf-8")
    (sentence,) = re.findall(r"([^.]*) weigh the scales of normalisations", text.replace("\n", " "))
    assert set(re.findall(r"`([\w-]+)`", sentence)) == {cls.name for cls in FINDING if cls.reads_scales}
