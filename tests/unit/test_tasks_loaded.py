"""`Task.of`: loaders and functions of the user's own, and a sentence for what they must not be."""

import itertools
from collections import UserDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import autoprune
from autoprune.compute import Compute
from autoprune.config import RunConfig
from autoprune.evaluation import measure
from autoprune.runs import notes_of
from autoprune.runs.checking import reproducible
from autoprune.runs.prepare import prepare
from autoprune.tasks import Metric, Task, draws, num_samples
from autoprune.training import Checkpoints, TrainingSettings, finetune

CPU = Compute(torch.device("cpu"), amp=False)
CALM = TrainingSettings(device="cpu", amp="off")
QUICK = {"criterion": "taylor", "trials": 2, "finalists": 0, "epochs": 0, "warm_starts": "none", "device": "cpu"}


def rows(count=48, seed=0):
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :2] * 2


def loader(count=48, seed=0, **settings):
    return DataLoader(TensorDataset(*rows(count, seed)), **{"batch_size": 16} | settings)


def network(out=2):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, out)).eval()


def task(**parts):
    return Task.of(**{"train": loader(), "val": loader(32, 1), "loss": F.mse_loss} | parts)


def check(found, **settings):
    return prepare(RunConfig.make(**QUICK | settings), network(), found)


def test_it_is_searched_and_gone_on_with(here):
    metrics = {"mae": F.l1_loss, "bias": lambda outputs, targets: (outputs - targets).mean(1)}
    found, say = task(test=loader(16, 2), metrics=metrics, name="rows", sample="row"), []
    result = autoprune.search(network(), found, name="run", progress=False, **QUICK | {"finalists": 1, "epochs": 0.5})
    assert {"loss", "mae", "bias"} <= result.metrics["pruned_test"].keys()
    assert "MAE, held-out test rows" in str(result)
    with pytest.raises(ValueError, match="started from a model object and a data object"):
        autoprune.resume("results/run", progress=False)
    again = autoprune.resume("results/run", network(), found, trials=3, progress=False)
    assert again.run_dir == result.run_dir
    assert not say


@pytest.mark.parametrize("loss", [F.mse_loss, nn.MSELoss(), lambda a, b: (a - b).square().mean(1)])
def test_the_loss_is_of_each_sample_where_it_can_be(loss):
    outputs, (x, y) = torch.randn(48, 2), rows()
    found = task(loss=loss).loss(outputs, (x, y))
    torch.testing.assert_close(found, (outputs - y).square().mean(1))


def test_a_loss_that_weighs_its_samples_is_left_whole():
    labels, outputs = torch.tensor([0, 1, 1, 0]), torch.randn(4, 2)
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([0.2, 0.8]))
    found = task(loss=weighted).loss(outputs, (torch.zeros(4, 6), labels))
    torch.testing.assert_close(found, weighted(outputs, labels))


def test_scores_are_weighted_by_samples_and_see_full_precision_on_the_cpu():
    seen = []

    def mae(outputs, targets):
        seen.append((outputs.device.type, outputs.dtype))
        return float((outputs - targets).abs().mean())

    found = task(val=loader(40, 1), metrics={"mae": mae}, test=loader(40, 1))
    said = measure(network(), found, "test", device="cpu")["mae"]
    x, y = rows(40, 1)
    assert said == pytest.approx(float((network()(x) - y).abs().mean().detach()), rel=1e-2)
    assert set(seen) == {("cpu", torch.float32)}


def test_metrics_that_want_numpy_get_it():
    def mae(outputs, targets):
        return np.abs(outputs - targets).mean() if isinstance(outputs, np.ndarray) else outputs.no_such_thing

    assert measure(network(), task(metrics={"mae": mae}), "val", device="cpu")["mae"] > 0


def test_a_training_that_is_stopped_ends_as_one_that_was_not(tmp_path):
    """A shuffled loader draws from the global generators, which are seeded by the epoch."""

    class Stopped(Exception):
        pass

    def stop(step, steps, loss):
        if step == 5:
            raise Stopped

    how = {"settings": TrainingSettings(device="cpu", amp="off", lr=0.01), "steps": 7}
    whole, parts = network(), network()
    finetune(whole, task(train=loader(shuffle=True)), **how)
    torch.rand(3)
    with pytest.raises(Stopped):
        finetune(parts, task(train=loader(shuffle=True)), listener=stop,
                 checkpoints=Checkpoints(tmp_path / "c", 1), **how)  # fmt: skip
    parts = network()
    log = finetune(parts, task(train=loader(shuffle=True)), checkpoints=Checkpoints(tmp_path / "c"), **how)
    assert log.resumed_from == 4
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def test_a_loader_that_draws_by_itself_is_said_not_to_be_reproducible():
    assert reproducible(task(train=loader(shuffle=True)))
    own = torch.Generator()
    assert not reproducible(task(train=loader(shuffle=True, generator=own)))


def test_inputs_may_be_several_tensors_and_dictionaries():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, left, right=None, mask=None):
            return {"out": self.b(torch.relu(self.a(left + right)))}

    x, y = rows(16)
    for batch in (((x, x), y), {"left": x, "right": x, "mask": torch.ones(16, dtype=torch.bool), "labels": y}):
        found = Task.of([batch, batch], [batch], loss=F.mse_loss)
        prepared = prepare(RunConfig.make(**QUICK), Two().eval(), found)
        assert [g.size for g in prepared.space.groups] == [8]


class Endless:
    def __iter__(self):
        return itertools.cycle([rows(8)])


class Counted(Endless):
    """Without an end, but with a length."""

    def __len__(self):
        return 3


class Once:
    """The same iterator each time."""

    def __init__(self):
        self.batches = iter([rows(8)] * 3)

    def __iter__(self):
        return self.batches


class Left(Once):
    """What is left of one iterator, each time."""

    def __iter__(self):
        yield from self.batches


class Dying(Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, i):
        raise OSError("disk on fire")


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(*rows(20), strict=True)


def shaped(*shape):
    return [(torch.randn(8, *shape), torch.randn(8, 2))]


def later(*batch):
    """The last batch is another one."""
    return [rows(8), rows(8), batch]


X, Y = rows(8)
EMPTY = DataLoader(TensorDataset(X[:0], Y[:0]), 4)
BAD = {
    "empty": ({"train": []}, "train: is empty"),
    "empty data set": ({"val": EMPTY}, "val: is empty"),
    "empty test": ({"test": []}, "test: is empty"),
    "empty calibration": ({"calibration": []}, "calibration: is empty"),
    "one iterator": ({"train": Once()}, r"train: can be iterated once only \(Once\), or by one reader at a time"),
    "the rest of one iterator": ({"val": Left()}, "val: gives no batch; check .* that it can be iterated again"),
    "one batch": ({"train": (X, Y)}, "train: must give batches, got a tuple of tensors"),
    "a list of inputs": ({"train": [([X, X], Y)] * 2}, r"several inputs are a tuple: .* \(\(a, b\), targets\)"),
    "three parts": ({"train": [(X, X, Y)], "val": [(X, X, Y)]}, r"for several inputs give \(\(a, b\), targets\)"),
    "inputs of many names": ({"train": [{"image": X, "mask": Y}]}, "inputs are called image, mask: .* call=lambda"),
    "doubles": ({"train": [(X.double(), Y)]}, "inputs are float64, its weights float32"),
    "inputs of another width later": ({"train": later(X[:, :5], Y)}, r"train: a batch \(\[8, 5\], \[8, 2\]\) does not"),
    "inputs of another type later": ({"train": later(X.double(), Y)}, "train: a batch .* does not fit .*dtype"),
    "targets of another width later": ({"train": later(X, Y[:, :1])}, r"loss failed .* \(\[8, 1\]\) .*; of train"),
    "unequal later": ({"train": later(X, Y[:3])}, r"outputs \(\[8, 2\]\) and targets \(\[3, 2\]\) .*; of train"),
    "NaN later": ({"train": later(X * torch.nan, Y)}, "train: batch 2 holds NaN"),
    "no batch later": ({"train": [rows(8), None]}, "train: a batch must be .* got NoneType"),
    "test of another width": ({"test": [(X[:, :5], Y)]}, "test: a batch .* does not fit the network"),
    "test fails": ({"test": DataLoader(Dying(), 4)}, "test failed when asked for batch 0"),
    "loss a class": ({"loss": nn.MSELoss}, r"loss must be a function, .*; make one of it: MSELoss\(...\)"),
    "loss complex": ({"loss": lambda a, b: (a - b).mean() * 1j}, "loss: must be a real number"),
    "loss of targets": ({"loss": lambda a, b: b.clone().requires_grad_().mean()}, "loss: does not depend on the netw"),
    "loss without a slope": (
        {"loss": lambda a, b: (a - a.detach()).square().sum(1).sqrt()},
        "has a gradient of NaN",
    ),
    "loss of steps": ({"loss": lambda a, b: (a.round() - b).square().mean()}, "has a gradient of 0 in every weight"),
    "loss of other pairs": ({"loss": lambda a, b: F.mse_loss(a[:, :1], b[:, 0])}, "loss failed .*target size"),
    "loss NaN later": ({"loss": lambda a, b: (a - b).mean() * (torch.nan if len(a) > 8 else 1)}, "loss: is nan on a b"),
    "metric a class": ({"metrics": {"x": Metric}}, "metric 'x': Metric is a class"),
    "metric complex": ({"metrics": {"x": lambda a, b: 1j}}, "metric 'x': expected one number or one per sample"),
    "metric without a name": ({"metrics": {3: F.l1_loss}}, "metric 3 must have a name"),
    "metric of a name that is taken": ({"metrics": {"loss": F.l1_loss}}, "metric 'loss' must be called otherwise"),
    "no samples": ({"val": [(torch.zeros(0, 6), torch.zeros(0, 2))]}, "val: a batch must be"),
    "endless": ({"train": Endless()}, "train: has no length, and has given 100,001 batches without"),
    "once only": ({"train": iter([rows()])}, "train: can be iterated once only"),
    "nothing": ({"val": None}, "val: is missing"),
    "no loader": ({"val": 3}, "val: must give batches each time it is iterated"),
    "a tensor": ({"train": torch.zeros(4, 6)}, "train: must give batches of"),
    "fails": ({"train": DataLoader(Dying(), 4)}, "train failed when asked for batch 0 .* OSError: disk on fire"),
    "NaN": ({"train": [(torch.full((8, 6), torch.nan), torch.zeros(8, 2))]}, "train: batch 0 holds NaN"),
    "other inputs": ({"train": shaped(5), "val": shaped(5)}, "do not fit Sequential|cannot take the samples of"),
    "loss no function": ({"loss": 3}, "loss must be a function"),
    "loss a number": ({"loss": lambda a, b: (a - b).detach().mean().item()}, "loss: must be a tensor, got float"),
    "loss without gradient": ({"loss": lambda a, b: (a - b).detach().mean()}, "loss: has no gradient"),
    "loss NaN": ({"loss": lambda a, b: (a - b).mean() * torch.nan}, "loss: is nan on training samples"),
    "loss fails": (
        {"loss": lambda a, b: a.foo},
        "loss failed on outputs .* and targets .*AttributeError",
    ),
    "loss of another shape": ({"loss": lambda a, b: a.flatten()}, r"loss: must be one number, or one for each of 8"),
    "metric fails": ({"metrics": {"x": lambda a, b: 1 / 0}}, "metric 'x' failed on the outputs of .*ZeroDivision"),
    "metric no metric": ({"metrics": {"x": 3}}, "metric 'x': expected a torchmetrics metric, a function"),
    "metrics no dict": ({"metrics": [F.l1_loss]}, "metrics must be a dictionary"),
}


@pytest.mark.parametrize(("parts", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_used_is_refused_before_the_search(parts, said):
    with pytest.raises(ValueError, match=said) as error:
        check(task(**parts))
    assert "\n" not in str(error.value)


def test_a_stream_without_a_length_is_counted_once(monkeypatch):
    found, begun = task(train=DataLoader(Stream(), 8)), []
    monkeypatch.setattr(Stream, "__iter__", lambda self, own=Stream.__iter__: begun.append(self) or own(self))
    assert check(found).task.training(1, 0).per_epoch == 3
    before = len(begun)
    assert found.count("train") == found.on(CPU).count("train") == 24
    assert len(begun) == before + 4  # the first batch, twice each


def test_a_stream_that_is_slow_is_not_counted_for_ever(monkeypatch):
    monkeypatch.setattr(draws, "MOST_SECONDS", 0.0)
    with pytest.raises(ValueError, match="train: has no length, and has given 1 batches without coming to an end"):
        check(task(train=DataLoader(Stream(), 8)))


def test_a_loader_gives_as_many_batches_as_it_says():
    found = task(train=Counted(), val=Counted(), test=Counted())
    assert len(found.draw("calibration", 1000, 0)) == 24
    assert len(list(found.once("test", 8))) == 3


class Pieces(nn.Module):
    """Sums its inputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, left, right=None):
        left = torch.stack([*left]) if isinstance(left, list) else left
        return self.b(torch.relu(self.a(left if right is None else left + right)))


@dataclass(frozen=True)
class Item:
    left: torch.Tensor
    labels: torch.Tensor


class Named(NamedTuple):
    inputs: torch.Tensor
    wanted: torch.Tensor


class Turned(NamedTuple):
    labels: torch.Tensor
    inputs: torch.Tensor


def whole(samples):
    return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])


SHAPES = {  # how many inputs; an item of the data set, of x and y; how items are collated, if not as usual
    "pair": (1, lambda x, y: (x, y), None),
    "two inputs": (2, lambda x, y: ((x, x), y), None),
    "two inputs in a list": (2, lambda x, y: ([x, x], y), None),
    "dictionary": (2, lambda x, y: {"left": x, "right": x, "labels": y}, None),
    "dictionary of other names": (1, lambda x, y: {"image": x, "label": y}, None),
    "dictionary with more": (1, lambda x, y: {"left": x, "y": y, "index": 3, "file": "a.png"}, None),
    "dictionary and targets": (2, lambda x, y: ({"left": x, "right": x}, y), None),
    "named tuple": (1, Named, None),
    "numpy": (1, lambda x, y: (x.numpy(), y.numpy()), None),
    "dataclass": (1, lambda x, y: (x, y), lambda samples: Item(*whole(samples))),
    "user's mapping": (1, lambda x, y: (x, y), lambda b: UserDict(zip(("left", "labels"), whole(b), strict=True))),
    "lists of samples": (1, lambda x, y: (x, y), lambda b: tuple(zip(*b, strict=True))),
}


class Items(Dataset):
    def __init__(self, make):
        self.make, self.rows = make, rows(5)

    def __len__(self):
        return 5

    def __getitem__(self, i):
        return self.make(self.rows[0][i], self.rows[1][i])


def near(outputs, targets):
    targets = torch.stack([*targets]) if isinstance(targets, list) else targets
    return (outputs - targets).square().mean(1)


@pytest.mark.parametrize(("inputs", "make", "collate"), SHAPES.values(), ids=SHAPES)
def test_batches_of_any_make_are_cut_and_trained_on(inputs, make, collate):
    """Batches of two, the last of one: as many samples as there are inputs."""
    found = Task.of(*[DataLoader(Items(make), 2, collate_fn=collate)] * 3, loss=near)
    net = prepare(RunConfig.make(**QUICK), Pieces().eval(), found).model
    assert len(found.draw("val", 3, 0)) == 3
    x, y = rows(5)
    losses = torch.cat([found.evaluate(net, batch)[1] for batch in found.once("test", 2)])
    torch.testing.assert_close(losses, near(net(x * inputs), y))
    assert len(finetune(net, found, CALM, steps=3).losses) == 3


def test_a_first_part_that_is_called_labels_is_no_input():
    with pytest.raises(ValueError, match="the first part of a Turned is called 'labels'"):
        check(task(train=DataLoader(Items(lambda x, y: Turned(y, x)), 2)))


def test_a_network_that_is_called_otherwise_is_traced_so():
    batch = {"image": X, "mask": Y}
    found = Task.of([batch] * 2, [batch], loss=lambda outputs, targets: near(outputs, targets["mask"]),
                    call=lambda model, inputs: model(inputs["image"]))  # fmt: skip
    assert [g.size for g in check(found).space.groups] == [8, 8]


def test_targets_of_a_whole_batch_are_never_cut():
    """Boxes of all images in one tensor, the number of the image in column 0: images without one, and with several."""
    boxes = torch.tensor([[0, 1.0], [0, 2.0], [2, 3.0]])
    once = torch.tensor([[0, 1.0], [1, 2.0], [2, 3.0], [3, 4.0]])  # by chance as many as images

    def summed(outputs, targets):
        return (outputs[targets[:, 0].long(), 0] - targets[:, 1]).square().sum() / 4

    found = Task.of([(X[:4], boxes), (X[4:], once)], [(X[:4], once), (X[4:], boxes)], loss=summed)
    assert check(found).task is found
    for draw in (found.draw("val", 6, 0), found.draw("calibration", 3, 0)):
        assert all(num_samples(batch) == 4 for batch in draw.batches(2, parts=2))
    assert num_samples(found.draw("val", 6, 0).whole(2)) == 4
    assert len(finetune(network(), found, CALM, steps=1, micro_batches=2).losses) == 1


def test_a_split_may_be_a_generator_function():
    """Whether there is a split it says only when it is asked for a batch."""

    class Mine(Task):
        def batches(self, split, epoch=0):
            yield from {"train": [rows(8)], "val": [rows(8)]}[split]

        def loss(self, outputs, batch):
            return (outputs - batch[1]).square().mean(1)

    found = Mine()
    assert (found.has("test"), found.has("val")) == (False, True)
    assert check(found).task.example().shape == (1, 6)


def test_a_collection_of_metrics_is_one_of_them():
    torchmetrics = pytest.importorskip("torchmetrics")
    both = torchmetrics.MetricCollection([torchmetrics.MeanSquaredError(), torchmetrics.MeanAbsoluteError()])
    assert [score.name for score in task(metrics=both).labels().scores] == ["MeanSquaredError", "MeanAbsoluteError"]


def test_persistent_workers_serve_several_epochs():
    kept = loader(num_workers=1, persistent_workers=True)
    log = finetune(network(), task(train=kept), TrainingSettings(epochs=2, device="cpu", amp="off"))
    assert log.steps == 6


def test_other_shapes_in_a_later_epoch_are_named():
    class Growing:
        def __init__(self):
            self.epochs = 0

        def __len__(self):
            return 2

        def set_epoch(self, epoch):
            self.epochs = epoch

        def __iter__(self):
            return iter([(torch.randn(8, 6 + self.epochs), torch.randn(8, 2))] * 2)

    with pytest.raises(ValueError, match=r"train: the batch of step 3 \(\[8, 7\], \[8, 2\]\) does not fit"):
        finetune(network(), task(train=Growing()), CALM, steps=4)


def test_fewer_batches_in_a_later_epoch_are_named():
    class Shrinking:
        epoch = 0

        def __len__(self):
            return 3

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter([rows(8)] * (3 - self.epoch))

    with pytest.raises(ValueError, match="gives 2 batches in epoch 1, but 3 in the first one"):
        finetune(network(), task(train=Shrinking()), CALM, steps=6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"metric": "f1"}, "unknown metric 'f1'; known: acc, loss"),
        ({"target": "miou>=0.5"}, "the task has no score 'miou'; it has loss, acc"),
        ({"target": "acc<=0.5"}, "of acc more is better, so say acc>=0.5"),
    ],
)
def test_scores_that_the_task_does_not_have(settings, said):
    acc = Metric(lambda a, b: ((a - b).abs() < 0.5).float().mean(1), higher_is_better=True, best=1.0)
    with pytest.raises(ValueError, match=said):
        check(task(metrics={"acc": acc}), **settings)


def test_distillation_needs_answers_that_compare():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x):
            return {"n": self.b(self.a(x)).long()}

    found = task(loss=lambda outputs, targets: targets.mean() * 0)
    with pytest.raises(ValueError, match="no tensors of equal shapes to compare"):
        found.distance({"n": torch.zeros(3).long()}, {"n": torch.zeros(3).long()})


def test_the_command_line_names_a_task(here, monkeypatch, capsys):
    from autoprune.cli import main

    (here / "minetask.py").write_text(
        "import sys, torch\n"
        f"sys.path.insert(0, {str(__file__.rpartition('/')[0])!r})\n"
        "from test_tasks_loaded import network, task\n"
        "class Own(type(task())):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(here))
    flags = "--trials 2 --finalists 0 --epochs 0 --criterion taylor --device cpu --name cli --warm-starts none"
    assert main(["search", "--model", "minetask:network", "--task", "minetask:task", *flags.split()]) == 0
    assert main(["resume", "results/cli", "--trials", "3"]) == 0
    other = flags.replace("cli", "other").split()
    assert main(["search", "--model", "minetask:network", "--task", "minetask:torch", *other]) == 2
    assert "expected an autoprune.tasks.Task" in capsys.readouterr().err


def test_distillation_reads_no_batch_a_step_and_leaves_the_generator(monkeypatch):
    """Whether targets are class numbers is read once: a training of many steps would else draw anew at each."""
    val = loader(32, 1, shuffle=True)
    found, began = task(val=val), []
    monkeypatch.setattr(DataLoader, "__iter__", lambda self, own=DataLoader.__iter__: began.append(self) or own(self))
    before = torch.get_rng_state()
    one, other = torch.ones(4, 2), torch.zeros(4, 2)
    for _ in range(5):
        assert found.distance(one, other) == 1  # mean squares: the targets are no class numbers
    assert len([each for each in began if each is val]) <= 2
    assert torch.equal(torch.get_rng_state(), before)


class ByName(nn.Module):
    """Takes tensors by name, and says a loss where it is given labels."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x, labels=None):
        found = self.layers(x)
        return found if labels is None else {"loss": F.mse_loss(found, labels), "logits": found}


@dataclass
class Row:
    x: torch.Tensor
    klass: torch.Tensor


def test_targets_under_another_name_are_told_with_those_that_are_taken():
    told = "its inputs, as none of x, klass is called labels, label, targets, target or y"

    def right(outputs, targets):
        return (outputs - targets).abs().mean(1)

    for batch in ({"x": X, "klass": Y}, Row(X, Y)):
        with pytest.raises(ValueError, match=rf"loss failed on outputs \(\[8, 2\]\) and targets \({told}\)"):
            Task.of([batch], [batch], loss=F.mse_loss).evaluate(ByName(), batch)
        meter = Task.of([batch], [batch], loss=F.mse_loss, metrics={"mine": right}).meter()
        with pytest.raises(ValueError, match=rf"metric 'mine' failed on the outputs of 8 samples and targets \({told}"):
            meter.update(Y, batch)
    with pytest.raises(ValueError, match=rf"loss: the network says none when it is given the targets \({told}\), too"):
        Task.of([{"x": X, "klass": Y}], []).evaluate(ByName(), {"x": X, "klass": Y})
    batch = {"x": X, "labels": Y[:3]}
    with pytest.raises(ValueError, match=r"loss failed on outputs \(\[8, 2\]\) and targets \(\[3, 2\]\)"):
        Task.of([batch], [batch], loss=F.mse_loss).evaluate(ByName(), batch)


def test_a_dictionary_of_one_tensor_is_the_first_argument_whatever_its_name():
    net = ByName().eval()
    for inputs in ({"x": X}, {"signal": X}, {"signal": X, "file": ["a"] * 8}, {"x": X, "signal": X[:, :3]}):
        batch = {**inputs, "label": Y}
        assert torch.equal(Task.of([batch], [batch], loss=F.mse_loss).evaluate(net, batch)[0], net(X))


def test_names_that_the_network_does_not_take_are_said():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

        def forward(self, x, attention_mask=None):
            return self.layers(x)

    rows = [{"x": torch.rand(4, 4), "mask": torch.ones(4), "labels": torch.zeros(4, dtype=torch.long)}] * 2
    task = Task.of(rows, rows, loss=F.cross_entropy)
    said = notes_of(prepare(RunConfig.make(criterion="l1", budget="macs<=50%", finalists=0, epochs=0), Masked(), task))
    assert "not given to the network, which has no parameters of these names: mask" in said


def test_a_late_batch_of_nan_in_the_test_split_is_said(here, capsys):
    def rows(*last):
        return [(torch.rand(4, 4), torch.rand(4, 2)) for _ in range(3)] + list(last)

    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    task = Task.of(rows(), rows(), rows((torch.rand(4, 4), torch.full((4, 2), torch.nan))), loss=F.mse_loss)
    settings = {"criterion": "l1", "trials": 1, "finalists": 0, "epochs": 0, "warm_starts": "none", "device": "cpu"}
    autoprune.search(net, task, budget="macs<=50%", name="run", progress=True, **settings)
    assert "test: the loss of the dense network is nan on all of it; check for inputs" in capsys.readouterr().out


def test_a_loss_that_is_nothing_has_no_gradient_and_is_no_fault():
    check(task(loss=lambda a, b: (a - 1e9).clamp(min=0).mean()))  # a hinge that no sample reaches
