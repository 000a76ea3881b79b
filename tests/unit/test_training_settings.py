"""What each setting of a training does, against torch written out by hand; and that all of it goes on after a stop."""

import itertools
import os
import random
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from autoprune.data import load
from autoprune.tasks import Softening, Task, as_task
from autoprune.training import Checkpoints, TrainingSettings, finetune
from autoprune.training.averaging import Average
from autoprune.training.optimisers import optimizer_of

PLAIN = TrainingSettings(batch_size=32, device="cpu", amp="off", lr=0.05, seed=3)
RICH = replace(
    PLAIN, optimizer="adamw", lr=2e-3, weight_decay=0.01, decay_biases=False, lr_schedule="cosine", warmup=3,
    label_smoothing=0.1, mixup=0.2, ema=0.9, clip=1.0, accumulate=2, distill=0.3,
)  # fmt: skip


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(144, 10)
        )  # fmt: skip


def flat(seed=0):
    """Without anything that knows train and eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.fixture(scope="module")
def data():
    found = load("digits", test=False)
    return replace(found, train=found.train[:200], augmentation="none")


def batches_of(data, settings, steps):
    task = as_task(data)
    return list(task.training(settings.batch_size, settings.seed).between(0, steps))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def by_hand(model, data, settings, steps, optimizer, each=lambda model, optimizer, loss: loss.backward()):
    """Plain steps at a constant rate."""
    for images, labels in batches_of(data, settings, steps):
        optimizer.zero_grad()
        each(model, optimizer, functional.cross_entropy(model(images), labels))
        optimizer.step()
    return model


CONSTANT = replace(PLAIN, lr_schedule="constant", warmup=0)


def agrees(model, reference):
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("settings", "kind", "told"),
    [
        ({"optimizer": "adamw"}, torch.optim.AdamW, {"weight_decay": 5e-4}),
        ({"optimizer": torch.optim.RAdam, "optimizer_args": {"betas": (0.8, 0.9)}}, torch.optim.RAdam,
         {"weight_decay": 5e-4, "betas": (0.8, 0.9)}),
        ({"optimizer": "torch.optim:Rprop"}, torch.optim.Rprop, {}),  # knows no weight decay
        ({"momentum": 0.0, "weight_decay": 0.1}, torch.optim.SGD, {"weight_decay": 0.1}),
        ({"optimizer_args": {"nesterov": False}}, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 5e-4}),
    ],
)  # fmt: skip
def test_optimisers_are_torchs(data, settings, kind, told):
    model, reference = flat(), flat()
    finetune(model, data, replace(CONSTANT, **settings), steps=4)
    agrees(model, by_hand(reference, data, CONSTANT, 4, kind(reference.parameters(), lr=0.05, **told)))


def test_weight_decay_may_leave_biases_and_scales_alone():
    settings = replace(PLAIN, weight_decay=0.1, decay_biases=False)
    first, second = optimizer_of(network(), settings).param_groups
    assert [p.dim() for p in first["params"]] == [4, 2]
    assert [p.dim() for p in second["params"]] == [1] * 4  # two biases, scale and shift
    assert (first["weight_decay"], second["weight_decay"]) == (0.1, 0.0)
    assert len(optimizer_of(network(), PLAIN).param_groups) == 1


def test_gradients_are_clipped(data):
    model, reference = flat(), flat()
    finetune(model, data, replace(CONSTANT, clip=0.1), steps=4)

    def each(model, optimizer, loss):
        loss.backward()
        assert nn.utils.clip_grad_norm_(model.parameters(), 0.1) > 0.1

    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    agrees(model, by_hand(reference, data, CONSTANT, 4, optimizer, each))


def test_accumulated_batches_are_one_step_of_their_mean(data):
    model, reference = flat(), flat()
    log = finetune(model, data, replace(CONSTANT, accumulate=3), steps=2)
    assert log.steps == len(log.losses) == 2
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    found = batches_of(data, PLAIN, 6)
    for three in (found[:3], found[3:]):
        optimizer.zero_grad()
        sum(functional.cross_entropy(reference(images), labels) / 3 for images, labels in three).backward()
        optimizer.step()
    agrees(model, reference)
    assert finetune(flat(), data, replace(CONSTANT, accumulate=3, epochs=1)).steps == 2  # 6 batches


@pytest.mark.parametrize(
    ("count", "size"),
    [
        (0, 1), (1, 1), (100, 100), (128, 128),  # all are one batch
        (130, 128),  # 2 left out of 130
        (200, 100),  # two batches of 100, not one of 128 and 72 left out
        (255, 127), (380, 126),  # one left out; two left out of 380, not 124
        (1280, 128), (1437, 128), (50_000, 128),
    ],
)  # fmt: skip
def test_hardly_any_sample_of_an_epoch_is_left_out(count, size):
    settings = TrainingSettings(batch_size=128)
    assert settings.batch_of(count) == size <= 128


def test_whatever_the_batch_at_most_a_tenth_or_a_sample_a_batch_is_left_out():
    for size in (1, 3, 32, 100, 300):
        settings = TrainingSettings(batch_size=size)
        for count in range(1, 1000):
            found = settings.batch_of(count)
            assert 1 <= found <= size
            assert count % found <= max(count / 10, count // found)


def test_the_average_of_the_weights_is_delivered_with_statistics_of_its_own(data):
    decay, seen = 0.6, []
    model, plain = network(), network()
    finetune(
        plain, data, PLAIN, steps=5, listener=lambda *_: seen.append([p.detach().clone() for p in plain.parameters()])
    )
    finetune(model, data, replace(PLAIN, ema=decay), steps=5)
    expected = seen[0]  # by hand: the first step is taken whole, then at most (1 + t) / (10 + t)
    for t, weights in enumerate(seen[1:], 2):
        d = min(decay, (1 + t) / (10 + t))
        expected = [d * old + (1 - d) * new for old, new in zip(expected, weights, strict=True)]
    for a, b in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(a, b)
    task = as_task(data)
    with torch.no_grad():
        seen_by = torch.cat([model[0](images) for images, _ in task.draw("calibration", 1000, 3).batches(50)])
    torch.testing.assert_close(model[1].running_mean, seen_by.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    assert not model.training


def test_the_average_is_torchs_after_many_steps():
    model = flat()
    ours, theirs = Average(model, 0.5), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for step in range(40):
        with torch.no_grad():
            model[1].weight.add_(step)
        ours.update(model)
        theirs.update_parameters(model)
    torch.testing.assert_close(ours.state()["model"]["module.1.weight"], theirs.module[1].weight)


def test_label_smoothing_is_torchs(data):
    model, reference = flat(), flat()
    finetune(model, data, replace(CONSTANT, label_smoothing=0.2), steps=4)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for images, labels in batches_of(data, PLAIN, 4):
        optimizer.zero_grad()
        functional.cross_entropy(reference(images), labels, label_smoothing=0.2).backward()
        optimizer.step()
    agrees(model, reference)


def test_mixup_by_hand():
    """Two samples, lambda l: [l a + (1 - l) b, l b + (1 - l) a], and their classes likewise."""
    images, labels = torch.tensor([[0.0], [1.0]]), torch.tensor([2, 0])
    soften = Softening(classes=3, smoothing=0.3, mixup=0.4, seed=1)
    mixed, soft = soften((images, labels), step=5)
    share = 1 - float(mixed[0])
    assert 0 < share < 1
    torch.testing.assert_close(mixed, torch.tensor([[1 - share], [share]]))
    one, two = torch.tensor([0.1, 0.1, 0.8]), torch.tensor([0.8, 0.1, 0.1])  # smoothed
    torch.testing.assert_close(soft, torch.stack([share * one + (1 - share) * two, share * two + (1 - share) * one]))
    assert torch.equal(soften((images, labels), step=5)[0], mixed)
    assert not torch.equal(soften((images, labels), step=6)[0], mixed)
    asked = soften({"x": images, "labels": labels}, step=5)
    assert torch.equal(asked["x"], mixed)
    assert torch.equal(asked["labels"], soft)


def loaders(loss, targets=None):
    targets = torch.arange(32) % 10 if targets is None else targets
    found = [(torch.randn(16, 1, 8, 8), targets[:16]), (torch.randn(16, 1, 8, 8), targets[16:])]
    return Task.of(found, found, loss=loss)


@pytest.mark.parametrize("name", ["label_smoothing", "mixup"])
def test_who_has_no_classes_is_refused_in_a_sentence(name):
    settings = replace(PLAIN, **{name: 0.2})
    finetune(flat(), loaders(nn.CrossEntropyLoss()), settings, steps=2)
    finetune(flat(), loaders(functional.cross_entropy), settings, steps=2)
    own = loaders(lambda outputs, targets: functional.cross_entropy(outputs, targets))
    numbers = loaders(nn.functional.mse_loss, torch.randn(32, 10))
    weighted = loaders(nn.CrossEntropyLoss(weight=torch.ones(10)))
    for task in (own, numbers, weighted):
        with pytest.raises(ValueError, match=f"{name}: needs one class number for each sample, and a loss"):
            finetune(flat(), task, settings, steps=2)


def test_inputs_that_cannot_be_mixed_are_refused():
    found = [(torch.arange(64).reshape(16, 4), torch.arange(16) % 3)]
    net = nn.Sequential(nn.Embedding(64, 4), nn.Flatten(), nn.Linear(16, 3))
    task = Task.of(found, found, loss=nn.CrossEntropyLoss())
    finetune(net, task, replace(PLAIN, label_smoothing=0.1), steps=1)
    with pytest.raises(ValueError, match=r"mixup: the inputs of .* are no floats, so they cannot be mixed"):
        finetune(net, task, replace(PLAIN, mixup=0.1), steps=1)


class Stopped(Exception):
    pass


GRID = {
    "rich": {},
    "sgd with an average": {"optimizer": "sgd", "mixup": 0.0},
    "step and clip": {"lr_schedule": "step", "ema": 0.0, "accumulate": 1},
    "an optimiser of one's own": {"optimizer": "torch.optim:RAdam", "distill": 0.0, "label_smoothing": 0.0},
    "bfloat16": {"amp": "on", "accumulate": 1},
}


@pytest.mark.parametrize("name", GRID)
def test_stopped_anywhere_and_resumed_is_never_stopped(data, tmp_path, name):
    settings, steps = replace(RICH, **GRID[name]), 9
    whole, teacher = network(), network(1)
    log = finetune(whole, data, settings, steps=steps, teacher=teacher)
    stops = set(random.Random(name).sample(range(1, steps), 2))

    def stop(step, *_):
        if step in stops:
            stops.remove(step)
            raise Stopped

    kept = Checkpoints(tmp_path / "training.pt", 2)
    for _ in range(2):
        with pytest.raises(Stopped):
            finetune(network(), data, settings, steps=steps, teacher=teacher, checkpoints=kept, listener=stop)
    model = network()
    found = finetune(model, data, settings, steps=steps, teacher=teacher, checkpoints=kept)
    assert found.losses == log.losses
    assert same(model, whole)


def train_until_killed(path, step):
    def kill(done, *_):
        if done == int(step):
            os.kill(os.getpid(), signal.SIGKILL)

    found = load("digits", test=False)
    found = replace(found, train=found.train[:200], augmentation="none")
    kept = Checkpoints(path, 2)
    finetune(network(), found, RICH, steps=9, teacher=network(1), checkpoints=kept, listener=kill)


@pytest.mark.slow
def test_killed_and_resumed_is_never_killed(data, tmp_path, start):
    whole = network()
    log = finetune(whole, data, RICH, steps=9, teacher=network(1))
    path = tmp_path / "training.pt"
    for step in (5, 7):
        ended = start(tmp_path, f"{__file__}:train_until_killed", path, str(step)).end()
        assert ended.code == -signal.SIGKILL, ended.err
    model = network()
    found = finetune(model, data, RICH, steps=9, teacher=network(1), checkpoints=Checkpoints(path, 2))
    assert (found.resumed_from, found.losses) == (6, log.losses)
    assert same(model, whole)


class Forgetful(torch.optim.SGD):
    """Remembers beside its state."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.count = 0

    def step(self):
        self.count += 1
        for group in self.param_groups:
            group["lr"] = 0.1 / self.count
        super().step()


class Stepless:
    def __init__(self, parameters, lr):
        self.parameters = list(parameters)

    def step(self):
        pass


def broken(parameters, **settings):
    raise OSError("no")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optimizer": "nothing"}, "unknown optimizer 'nothing'; known: adamw, sgd, or give package.module:Name"),
        (
            {"optimizer": "torch.optim:Nothing"},
            "optimizer 'torch.optim:Nothing': expected package.module:Name that can",
        ),
        ({"optimizer": Forgetful}, "remembers more than its state_dict"),
        ({"optimizer": Stepless}, "must be of torch.optim.Optimizer's kind, but Stepless has no zero_grad, state_dict"),
        ({"optimizer": broken}, "cannot be made with lr=0.05.*OSError: no"),
        ({"optimizer": "torch.optim:LBFGS"}, "cannot be stepped as torch.optim.SGD can, without a closure"),
        ({"optimizer": "adamw", "optimizer_args": {"betas": 3}}, "optimizer 'adamw': cannot be made with"),
        ({"lr_schedule": lambda step, steps: -1.0}, "must give a factor of at least 0, got -1.0 at step 1 of 3"),
        ({"lr_schedule": "math:pi"}, "lr_schedule 'math:pi': must be a function"),
        ({"warmup": 3}, "3 steps of warm-up leave none of the training's 3 steps"),
    ],
)
def test_bad_settings_are_named(data, settings, words):
    with pytest.raises(ValueError, match=words):
        finetune(flat(), data, replace(PLAIN, **settings), steps=3)


def test_a_schedule_of_ones_own(data):
    rates, model = [], flat()
    settings = replace(PLAIN, lr_schedule=lambda step, steps: step / steps, warmup=0, momentum=0.0, weight_decay=0.0)
    before = model[1].weight.detach().clone()
    finetune(model, data, settings, steps=4, listener=lambda *_: rates.append(model[1].weight.detach().clone()))
    assert torch.equal(rates[0], before)  # a factor of 0
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(rates))
