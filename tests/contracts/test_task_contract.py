"""One exam for every built-in task: it is searched from end to end, and keeps to what `Task` says."""

import inspect

import pytest
import torch
from small_tasks import MADE

import autoprune
from autoprune import tasks
from autoprune.compute import Compute
from autoprune.tasks import MapStyle, Task
from autoprune.tasks.arrays import Arrays
from search_spaces.tracing import as_call

pytest.importorskip("torchmetrics")
CPU = Compute(torch.device("cpu"), amp=False)
QUICK = {"trials": 2, "finalists": 1, "short_steps": 2, "epochs": 0.2, "warm_starts": "none", "strategy": "random",
         "device": "cpu", "batch_size": 16, "progress": False}  # fmt: skip
BASES = (Task, MapStyle, Arrays, tasks.Pairs, tasks.Classification, tasks.Labelled)


@pytest.fixture(params=MADE)
def made(request):
    if request.param == "detection":
        pytest.importorskip("faster_coco_eval")
    torch.manual_seed(0)
    return MADE[request.param]()


def test_every_built_in_task_is_examined():
    kinds = {c for _, c in inspect.getmembers(tasks, inspect.isclass) if issubclass(c, Task) and c not in BASES}
    examined = {type(make()[1]) for make in MADE.values()}
    assert kinds - {tasks.TabularNumbers} <= examined


def test_it_is_searched_end_to_end(made, here):
    net, task = made
    result = autoprune.search(net, task, budget="macs<=60%", criterion="group_fisher", name="run", **QUICK)
    dense, pruned = result.metrics["dense_test"], result.metrics["pruned_test"]
    assert {"loss", *(score.name for score in task.labels().scores)} <= dense.keys() & pruned.keys()
    assert result.costs["macs"]["pruned"] <= 0.6 * result.costs["macs"]["dense"]
    assert task.labels().headline.label in str(result)
    again = autoprune.load(result.run_dir / "best", model=net)
    example = task.example()
    args, kwargs = as_call(example)
    with torch.no_grad():
        for one, other in zip(leaves(again(*args, **kwargs)), leaves(result.model(*args, **kwargs)), strict=True):
            torch.testing.assert_close(one, other)


def leaves(value):
    return tasks.leaves(value)


def test_the_same_step_sees_the_same_batch(made):
    task = made[1].on(CPU)
    whole = [leaves(b) for b in task.training(16, 3).between(0, 5)]
    later = [leaves(b) for b in task.training(16, 3).between(3, 5)]
    for one, other in zip(whole[3:], later, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_its_loss_is_of_each_sample_or_of_the_batch_and_has_a_gradient(made):
    net, task = made[0].eval(), made[1].on(CPU)
    batch = task.draw("calibration", 8, 0).whole(8)
    _, loss = task.evaluate(net, batch)
    assert loss.shape in ((), (8,))
    loss.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    with torch.inference_mode():
        task.check(task.call(net, batch), batch)


def test_a_perfect_answer_scores_best(made):
    """Of those whose answers are like their targets."""
    task = made[1].on(CPU)
    batch = task.draw("val", 16, 0).whole(16)
    targets = batch[1]
    if isinstance(task, (tasks.Labelled, tasks.Segmentation)):
        outputs = 20.0 * torch.nn.functional.one_hot(targets, task.num_classes).movedim(-1, 1)
    elif isinstance(task, tasks.MultiLabel):
        outputs = 40 * (targets - 0.5)
    elif isinstance(task, tasks.Detection):
        outputs = [{**t, "scores": torch.ones(len(t["labels"]))} for t in targets]
    else:
        outputs = targets
    meter = task.meter()
    meter.update(outputs, batch)
    score, found = task.labels().headline, meter.compute()
    if score.best is not None:
        assert found[score.name] == pytest.approx(score.best, abs=1e-3)


BAD = {
    "segmentation, another size": (lambda: tasks.Segmentation((torch.rand(4, 3, 8, 8), torch.zeros(4, 7, 8).long())),
        "masks .* of the same size"),
    "segmentation, class beyond": (lambda: tasks.Segmentation((torch.rand(4, 3, 8, 8), torch.full((4, 8, 8), 9)),
        num_classes=3), "run from 0 to 2 with 3 classes, found 9"),
    "labels, fractions": (lambda: tasks.Text((torch.zeros(4, 3).long(), torch.rand(4))), "must be class numbers"),
    "regression, integers": (lambda: tasks.Regression((torch.rand(4, 3), torch.zeros(4).long())), "must be numbers"),
    "multi-label, not 0 or 1": (lambda: tasks.MultiLabel((torch.rand(4, 3), torch.full((4, 2), 2.0))), "of 0 and 1"),
    "signals, a channel short": (lambda: tasks.Signals((torch.rand(4, 32), torch.zeros(4).long())), "channels, time"),
    "images in bytes": (lambda: tasks.ImageToImage((torch.rand(4, 1, 8, 8), 255 * torch.rand(4, 1, 8, 8))), "0 to 1"),
    "NaN": (lambda: tasks.Regression((torch.full((4, 3), torch.nan), torch.rand(4))), "train: holds NaN"),
    "unequal": (lambda: tasks.Regression((torch.rand(4, 3), torch.rand(5))), "as many samples each"),
    "box outside": (lambda: detect([[0, 0, 99, 9]], [1]), "outside of its 32 x 32 pixels"),
    "box upside down": (lambda: detect([[9, 9, 3, 3]], [1]), "without an area"),
    "label 0": (lambda: detect([[0, 0, 9, 9]], [0]), "label 0; with 3 classes they run from 1 to 2"),
    "label beyond": (lambda: detect([[0, 0, 9, 9]], [7]), "label 7; with 3 classes"),
}  # fmt: skip


def detect(boxes, labels):
    sample = torch.rand(3, 32, 32), {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)}
    return tasks.Detection([sample], [sample], num_classes=3)


@pytest.mark.parametrize(("make", "said"), BAD.values(), ids=BAD)
def test_targets_that_cannot_be_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_head_of_another_size_is_refused_before_the_search(here):
    net, _ = MADE["tabular"]()
    _, other = MADE["signals"]()
    other = tasks.tabular((torch.rand(40, 6), torch.arange(40) % 5))
    with pytest.raises(ValueError, match="expected one output per class, 5"):
        autoprune.search(net, other, **QUICK)
