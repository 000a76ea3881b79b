import copy
import os
import resource
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from autoprune.compute import Compute
from autoprune.data import Split, load
from autoprune.errors import Diverged
from autoprune.evaluation import measure
from autoprune.training import SCHEDULES, Checkpoints, Cut, Method, TrainingSettings, checkpoint, finetune
from autoprune.training.schedules import schedule_of

SETTINGS = TrainingSettings(lr=0.05, batch_size=32, seed=3)
STEPS = 40


def network():
    """A small network with batch-norm and dropout, so that every kind of state is in play."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(144, 10)
        )  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return load("digits", test=False)


@pytest.fixture(scope="module")
def uninterrupted(data):
    model = network()
    return model, finetune(model, data, SETTINGS, steps=STEPS)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_it_learns_and_reports(data, uninterrupted):
    _, log = uninterrupted
    assert log.steps == len(log.losses) == 40
    assert sum(log.losses[-5:]) < 0.75 * sum(log.losses[:5])
    assert 0 < log.seconds_compute < log.seconds_total


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_lie_as_before(data, layout):
    wide = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10))
    net, teacher = (copy.deepcopy(wide).to(memory_format=layout) for _ in range(2))
    finetune(net, data, replace(SETTINGS, distill=0.5), steps=2, teacher=teacher)
    measure(net, data, "val")
    for found in (net, teacher):
        assert all(t.is_contiguous(memory_format=layout) for t in found.state_dict().values() if t.dim() == 4)
    assert not net[1].weight.is_contiguous() or layout == torch.contiguous_format  # which formats of files refuse


@pytest.mark.parametrize("channels", [1, 3, 7])
def test_a_thin_strided_shortcut_never_computes_channels_last(channels, monkeypatch):
    """Where oneDNN corrupts the heap (see `autoprune.guards`): its input and its weight lie in the usual strides."""
    net = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.Conv2d(channels, 16, 1, 2))
    seen = []

    def convolve(self, x, weight, bias, original=nn.Conv2d._conv_forward):
        if self.stride == (2, 2):
            seen.append(x.stride() + weight.stride())
        return original(self, x, weight, bias)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", convolve)
    images = torch.rand(4, 1, 8, 8).to(memory_format=torch.channels_last)
    compute = Compute.choose("cpu", amp=False)
    with compute.placed(net):
        compute.place(net)(images).sum().backward()
    assert seen == [(channels * 64, 64, 8, 1, channels, 1, 1, 1)]
    assert not any(layer._forward_pre_hooks for layer in net)


def test_the_seed_decides_everything(data, uninterrupted):
    again, other = network(), network()
    torch.manual_seed(99)  # the world's own generator neither matters nor is moved
    state = torch.random.get_rng_state()
    finetune(again, data, SETTINGS, steps=STEPS)
    assert torch.equal(torch.random.get_rng_state(), state)
    finetune(other, data, replace(SETTINGS, seed=4), steps=STEPS)
    assert same(again, uninterrupted[0])
    assert not same(other, uninterrupted[0])


class Stopped(Exception):
    pass


def test_stopped_and_resumed_is_never_stopped(data, uninterrupted, tmp_path):
    def stop(step, steps, loss):
        if step == 18:
            raise Stopped

    path = tmp_path / "run" / "training.pt"
    with pytest.raises(Stopped):
        finetune(network(), data, SETTINGS, steps=STEPS, checkpoints=Checkpoints(path, 5), listener=stop)
    model = network()
    log = finetune(model, data, SETTINGS, steps=STEPS, checkpoints=Checkpoints(path, 5))
    assert log.resumed_from == 15
    assert log.losses == uninterrupted[1].losses
    assert same(model, uninterrupted[0])
    # Finished: once more is for free.
    done = network()
    assert finetune(done, data, SETTINGS, steps=STEPS, checkpoints=Checkpoints(path, 5)).resumed_from == 40
    assert same(done, uninterrupted[0])
    assert os.listdir(path.parent) == ["training.pt"]


def finetune_until_killed(path):
    def kill(step, steps, loss):
        if step == 18:
            os.kill(os.getpid(), signal.SIGKILL)

    found = load("digits", test=False)
    finetune(network(), found, SETTINGS, steps=STEPS, checkpoints=Checkpoints(path, 5), listener=kill)


def test_killed_and_resumed_is_never_killed(data, uninterrupted, tmp_path, start):
    path = tmp_path / "training.pt"
    assert start(tmp_path, f"{__file__}:finetune_until_killed", path).end().code == -signal.SIGKILL
    model = network()
    assert finetune(model, data, SETTINGS, steps=STEPS, checkpoints=Checkpoints(path, 5)).resumed_from == 15
    assert same(model, uninterrupted[0])


def test_it_is_plain_sgd_on_seeded_epochs(data):
    """The one-epoch protocol, written out with torch's own optimiser and scheduler."""
    few = Split(data.train.images[:100], data.train.labels[:100])
    plain = type(data)(few, data.val, data.test, data.mean, data.std, data.classes, augmentation="none")
    model, reference = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    reference.load_state_dict(model.state_dict())
    rates, batches = [], []
    model.register_forward_pre_hook(lambda module, args: batches.append(args[0].clone()))
    settings = TrainingSettings(epochs=1, batch_size=32, lr_schedule="cosine", warmup=0, amp="off")
    log = finetune(model, plain, settings, listener=lambda *_: rates.append(None))
    assert log.steps == len(rates) == 3  # 100 // 32: the partial batch is dropped
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    every = plain.normalise(few.images)
    for images in batches:
        index = torch.stack([(every == image).flatten(1).all(1).nonzero()[0, 0] for image in images])
        functional.cross_entropy(reference(images), few.labels[index]).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert len(torch.cat(batches).flatten(1).unique(dim=0)) == 96  # no image twice in an epoch


def test_schedules_by_hand():
    linear, cosine = SCHEDULES["linear"], SCHEDULES["cosine"]
    # 20 steps: 2 of warm-up, then 18 down; the 19th of the way down would be 0.
    usual = schedule_of(TrainingSettings(), 20)
    assert [usual(t, 20) for t in (0, 1, 2, 19)] == [0.5, 1.0, 18 / 19, 1 / 19]
    assert linear(2, 20, 2) == 18 / 19
    assert [cosine(t, 4) for t in (0, 2)] == [1.0, pytest.approx(0.5)]
    assert all(0 < schedule(t, 7) <= 1 for schedule in SCHEDULES.values() for t in range(7))
    assert 0 < schedule_of(TrainingSettings(), 1)(0, 1) <= 1
    stairs = schedule_of(TrainingSettings(lr_schedule="step", warmup=2, lr_milestones="0.5,8", lr_gamma=0.5), 10)
    assert [stairs(t, 10) for t in range(10)] == [0.5, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    half = schedule_of(TrainingSettings(lr_schedule="cosine", warmup=4), 12)  # 4 up, then half a cosine of 8
    assert [half(t, 12) for t in (0, 3, 4, 8)] == [0.25, 1.0, 1.0, pytest.approx(0.5)]
    for warmup in (12, 500):
        with pytest.raises(ValueError, match=f"warmup: {warmup} steps of warm-up leave none of the training's 12"):
            schedule_of(TrainingSettings(warmup=warmup), 12)


def test_a_teacher_is_followed(data):
    teacher = network()
    finetune(teacher, data, TrainingSettings(lr=0.1, batch_size=64), steps=120)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    student = network()
    finetune(student, data, TrainingSettings(lr=0.05, batch_size=64, distill=1.0), steps=60, teacher=teacher)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    images = data.normalise(data.val.images)
    with torch.inference_mode():
        agree = (student(images).argmax(1) == teacher(images).argmax(1)).float().mean()
    assert agree > 0.7  # without a single label


def test_divergence_is_said_and_not_stored(data, tmp_path):
    path = tmp_path / "training.pt"
    with pytest.raises(Diverged, match="lower the learning rate"):
        finetune(network(), data, TrainingSettings(lr=1000.0), steps=40, checkpoints=Checkpoints(path, 100))
    assert not path.exists()


@pytest.mark.parametrize(
    ("settings", "steps", "words"),
    [
        ({"epochs": 0}, None, "at least one step"),
        ({}, 0, "at least one step"),
        ({"lr": 0}, 1, "above 0"),
        ({"lr_schedule": "staircase"}, 1, "known: adaptive, constant, cosine, linear"),
        ({"distill": 2.0}, 1, "distill: must lie between 0 and 1"),
        ({"device": "nowhere"}, 1, "device 'nowhere'"),
        ({"amp": "maybe"}, 1, "'auto', 'on' or 'off'"),
    ],
)
def test_bad_settings(data, settings, steps, words):
    with pytest.raises(ValueError, match=words):
        finetune(network(), data, TrainingSettings(**settings), steps=steps)


def test_a_checkpoint_of_another_training_is_refused(data, tmp_path):
    path = tmp_path / "training.pt"
    finetune(network(), data, steps=2, checkpoints=Checkpoints(path))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"another training \(steps 2 instead of 3\)"):
        finetune(network(), data, steps=3, checkpoints=Checkpoints(path))
    with pytest.raises(ValueError, match="another network"):
        finetune(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), data, steps=2, checkpoints=Checkpoints(path))
    assert path.read_bytes() == before
    path.write_bytes(before[: len(before) // 2])
    with pytest.raises(ValueError, match="unreadable"):
        finetune(network(), data, steps=2, checkpoints=Checkpoints(path))
    assert finetune(network(), data, steps=2, checkpoints=Checkpoints(path, resume=False)).resumed_from == 0


def test_a_disk_that_will_not_have_it(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        finetune(network(), data, steps=1, checkpoints=Checkpoints(tmp_path / "file" / "training.pt"))


def test_a_full_disk_is_named_and_the_state_before_stays(data, tmp_path):
    """A file that may not grow stands for the disk; torch calls it "[enforce fail at inline_container.cc:672]"."""
    path = tmp_path / "training.pt"
    finetune(network(), data, steps=2, checkpoints=Checkpoints(path))
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(ValueError, match=r"training\.pt': cannot be written \(File too large\); allow larger"):
            checkpoint.save(path, checkpoint.read(path, torch.device("cpu")))
        log = finetune(network(), data, steps=2, checkpoints=Checkpoints(tmp_path / "other.pt", strict=False))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.steps == 2  # a candidate goes on without
    assert [p.name for p in tmp_path.iterdir()] == ["training.pt"]
    assert path.read_bytes() == before


def test_nothing_to_train(data):
    with pytest.raises(ValueError, match="requires a gradient"):
        finetune(network().requires_grad_(False), data, steps=1)


class Counting(Method):
    """Remembers which hooks were called, and pulls weights to zero a little: enough to see that it took part."""

    name = "counting"

    def __init__(self, pull=1e-3):
        super().__init__()
        self.pull, self.calls = pull, {}

    def settings(self):
        return {"pull": self.pull}

    def _called(self, hook):
        self.calls[hook] = self.calls.get(hook, 0) + 1

    def begin(self, net, plan):
        self.plan = plan

    def penalty(self, net, step):
        self._called("penalty")
        return self.pull * self.calls["penalty"] * net[0].weight.square().sum()

    def after_backward(self, net, step):
        self._called("after_backward")
        assert all(p.grad is not None for p in net.parameters())
        assert [share for _, _, share in step.passes] == [1.0]
        return 0.0

    def after_step(self, net, step):
        self._called("after_step")
        assert step.number == self.calls["after_step"] - 1

    def end_epoch(self, net, epoch):
        self._called("end_epoch")
        assert epoch == self.calls["end_epoch"] - 1

    def state(self):
        return {"calls": dict(self.calls)}

    def load(self, state):
        self.calls = dict(state["calls"])


def test_hooks_are_called_in_each_step_and_remembered(data, tmp_path):
    few = replace(data, train=data.train[:96])  # 3 steps an epoch
    whole, method = network(), Counting()
    log = finetune(whole, few, SETTINGS, steps=7, method=method)
    assert method.calls == {"penalty": 7, "after_backward": 7, "after_step": 7, "end_epoch": 2}
    assert (method.plan.steps, method.plan.per_epoch, method.plan.batch) == (7, 3, 32)

    def stop(step, steps, loss):
        if step == 5:
            raise Stopped

    path = tmp_path / "training.pt"
    with pytest.raises(Stopped):
        finetune(network(), few, SETTINGS, steps=7, method=Counting(), checkpoints=Checkpoints(path, 2), listener=stop)
    model, again = network(), Counting()
    found = finetune(model, few, SETTINGS, steps=7, method=again, checkpoints=Checkpoints(path, 2))
    assert (found.resumed_from, found.losses, again.calls) == (4, log.losses, method.calls)
    assert same(model, whole)
    with pytest.raises(ValueError, match=r"another training \(counting pull 0.001 instead of 0.5\)"):
        finetune(network(), few, SETTINGS, steps=7, method=Counting(0.5), checkpoints=Checkpoints(path))
    with pytest.raises(ValueError, match=r"another training \(method 'counting' instead of 'cut'\)"):
        finetune(network(), few, SETTINGS, steps=7, checkpoints=Checkpoints(path))


class Remembering(Counting):
    """Its state has another form in each version."""

    def begin(self, net, plan):
        super().begin(net, plan)
        self.table = {"counts": [torch.zeros(3), torch.zeros(2)], "last": None}
        self.table |= {"sum": 0, "seen": torch.zeros(0)}

    def after_step(self, net, step):
        super().after_step(net, step)
        self.table |= {"last": "a step", "sum": self.table["sum"] + torch.ones(2)}
        self.table["seen"] = torch.cat([self.table["seen"], torch.ones(1)])

    def state(self):
        return {**super().state(), "table": self.table}

    def load(self, state):
        super().load(state)
        self.first = self.calls["penalty"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m.pop("table"), "'table' is missing"),
        (lambda m: m["table"].pop("last"), r"'table\.last' is missing"),
        (lambda m: m["table"].update(first=1), r"'table\.first' is unknown"),
        (lambda m: m["table"]["counts"].pop(), r"'table\.counts' has 1 items instead of 2"),
        (
            lambda m: m["table"].update(counts=[torch.zeros(3), torch.zeros(4)]),
            r"'table\.counts\[1\]' has the shape \[4\]",
        ),
        (lambda m: m["table"].update(counts=3), r"'table\.counts' is no list"),
        (lambda m: m["calls"].pop("penalty"), "KeyError: 'penalty'"),  # seen by the method alone
    ],
)
def test_a_method_of_another_version_is_refused_before_anything_is_changed(data, tmp_path, change, why):
    path = tmp_path / "training.pt"
    finetune(network(), data, SETTINGS, steps=2, method=Remembering(), checkpoints=Checkpoints(path))
    assert finetune(
        network(), data, SETTINGS, steps=2, method=Remembering(), checkpoints=Checkpoints(path)
    ).resumed_from
    state = checkpoint.read(path, torch.device("cpu"))
    change(state["method"])
    checkpoint.save(path, state)
    model = network()
    with pytest.raises(ValueError, match=rf"training\.pt': what it holds of method 'counting' does not fit \({why}"):
        finetune(model, data, SETTINGS, steps=2, method=Remembering(), checkpoints=Checkpoints(path))
    assert same(model, network()) or "KeyError" in why


def test_a_state_of_which_a_part_is_missing_is_refused(data, tmp_path):
    path, model, whole = tmp_path / "training.pt", network(), network()
    log = finetune(whole, data, SETTINGS, steps=2, checkpoints=Checkpoints(path))
    state = checkpoint.read(path, torch.device("cpu"))
    for name in state.keys() - {"plan"}:
        checkpoint.save(path, {key: value for key, value in state.items() if key != name})
        with pytest.raises(ValueError, match=f"has no '{name}', so another version wrote it; delete it to train"):
            finetune(model, data, SETTINGS, steps=2, checkpoints=Checkpoints(path))
    begun = finetune(model, data, SETTINGS, steps=2, checkpoints=Checkpoints(path, strict=False))
    assert (begun.resumed_from, begun.losses) == (0, log.losses)  # a candidate begins at the start
    assert same(model, whole)


def test_a_method_without_strength_is_plain_training(data, uninterrupted):
    for method in (Cut(), Counting(0.0)):
        model = network()
        log = finetune(model, data, SETTINGS, steps=STEPS, method=method)
        assert log.losses == uninterrupted[1].losses
        assert same(model, uninterrupted[0])
