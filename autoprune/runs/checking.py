"""What can be known of a task before a search: its loaders, the network's answers, its loss, its metrics."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.config import RunConfig
from autoprune.data.loaders import check_length
from autoprune.evaluation import Goal, validate
from autoprune.failures import out_of_memory
from autoprune.reference import broken_weight
from autoprune.report.pace import Samples
from autoprune.tasks import MapStyle, Task, inputs_of, leaves, main_output, num_samples, part_of, placed, shapes
from autoprune.tasks.draws import first_of
from autoprune.tasks.given import check_gradient, checked_loss
from autoprune.tasks.scores import metrics_of
from autoprune.tasks.streamed import Streamed
from autoprune.tasks.task import LoadedTask
from autoprune.tasks.trees import targets_of
from objectives.plugins import PluginError, described
from search_spaces import copy_of

FEW = 8  # samples that are tried
THREE = "a batch of {} parts is (inputs, targets, targets ...); for several inputs give ((a, b), targets)"


def check_loaders(task: Task) -> None:
    """Check that every split can be read, again and again.

    Raises:
        ValueError: Naming the split that is empty, endless, used up, or whose batches are none.
    """
    if isinstance(task, MapStyle):
        return
    for split in ("train", "calibration", "val", *(["test"] if task.has("test") else [])):
        check_length(task.where(split), getattr(task, "splits", {}).get(split))
        if split != "calibration":
            task.count(split)
        elif task.has(split):
            first_of(task.read(split), task.where(split), 0)
        else:  # it is read of train
            continue
        for batch in task.draw(split, FEW, 0).batches(FEW):  # refuses NaN
            _check_boxes(task.where(split), batch)


def _check_boxes(where: str, batch: Any) -> None:
    """Refuse boxes outside of their images, of batches as torchvision's detectors take them."""
    images, targets = inputs_of(batch), targets_of(batch)
    for number, (image, target) in enumerate(zip(images, targets, strict=False) if isinstance(images, list) else ()):
        boxes = target.get("boxes") if isinstance(target, Mapping) else None
        if not (isinstance(boxes, Tensor) and boxes.numel() and boxes.shape[-1] == 4 and isinstance(image, Tensor)):
            continue
        height, width = image.shape[-2:]
        ends = boxes.new_tensor([width, height, width, height]) + 1
        if bool((boxes < -1).any() or (boxes > ends).any()):
            raise ValueError(f"{where}: image {number} of a batch has a box outside of its {width} x {height} pixels; "
                             "boxes are in pixels of their own image")  # fmt: skip


def reproducible(task: Task) -> bool:
    """Whether an epoch of training is the same each time it is read; else a training that goes on is not exact."""
    if isinstance(task, MapStyle):
        return all(part.items.exact for part in task.parts.values() if isinstance(part, Streamed))
    one, other = (leaves(first_of(task.read("train"), task.where("train"), 0)) for _ in range(2))
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def check_call(model: nn.Module, task: Task, name: str, batch: Any = None) -> Any:
    """Check that the network takes the task's samples.

    Args:
        model: The network.
        task: What it is for.
        name: What to call it.
        batch: Some samples, if they are at hand.

    Returns:
        What it answers to one of them.

    Raises:
        ValueError: If it does not.
    """
    one = part_of(task.draw("calibration", 1, 0).whole(1) if batch is None else batch, 0, 1)
    with torch.inference_mode():
        try:
            output = task.call(model, one)
        except (Exception, SystemExit) as error:  # asserts, index errors: whatever the network's own code does
            if out_of_memory(error):
                raise
            why = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
            raise ValueError(f"model '{name}': cannot take the {task.sample}s of '{task.spec}' ({_size(one)}: {why}); "
                             f"{_way_out(task, one)}") from error  # fmt: skip
        try:
            task.check(output, one)
        except ValueError as error:
            raise ValueError(f"model '{name}': {error}") from error
    return output


def _way_out(task: Task, batch: Any) -> str:
    """What to change where a network does not take a batch."""
    inputs = inputs_of(batch)
    if odd := [t.dtype for t in leaves(inputs) if t.dtype in (torch.float64, torch.float16, torch.uint8)]:
        return f"its inputs are {str(odd[0]).removeprefix('torch.')}, its weights float32: let the data set give floats"
    if isinstance(task, LoadedTask) and isinstance(batch, (tuple, list)) and len(batch) > 2:
        return THREE.format(len(batch))
    if isinstance(task, LoadedTask) and isinstance(inputs, Mapping):
        return f"its inputs are called {', '.join(inputs)}: say how it is called, call=lambda model, inputs: ..."
    return task.other


def check_answers(model: nn.Module, task: Task, name: str, config: RunConfig) -> None:
    """Check that the network takes the task's samples, and that loss and metrics can say something of its answers.

    Raises:
        ValueError: Naming what does not fit.
    """
    batch = task.draw("calibration", FEW, config.seed).whole(FEW)
    output = check_call(model, task, name, batch)
    found = main_output(output)
    if isinstance(found, Tensor) and found.is_floating_point() and not found.isfinite().all():
        raise ValueError(f"model '{name}': answers a {task.sample} of '{task.spec}' with NaN or infinity; check its "
                         "weights".replace(" a image", " an image"))  # fmt: skip
    if broken := broken_weight(model):  # of a layer that these answers do not need
        raise ValueError(f"model '{name}': {broken}; check its weights")
    _check_loss(model, task, batch)
    _check_metrics(model, task, config)
    if config.distill:
        outputs = task.call(model, batch)
        task.distance(outputs, outputs)


def _check_loss(model: nn.Module, task: Task, batch: Any) -> None:
    net = copy_of(model).eval().requires_grad_(True)
    where = task.where("loss")
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.filterwarnings("error", "Using a target size")  # broadcast: the loss of other pairs
        try:
            _, loss = task.evaluate(net, batch)
        except PluginError as error:
            if isinstance(task, LoadedTask) and isinstance(batch, (tuple, list)) and len(batch) > 2:
                raise ValueError(f"{error}; {THREE.format(len(batch))}") from error
            raise
        except Exception as error:
            if out_of_memory(error) or str(error).startswith(("task ", "labels")):
                raise
            raise ValueError(f"{where}: failed on a batch ({shapes(batch)}) with {described(error)}") from error
        if not isinstance(loss, Tensor):
            raise ValueError(f"{where}: must be a tensor, got {type(loss).__name__}; compute it with torch, without "
                             ".item() or numpy")  # fmt: skip
        if not bool(loss.isfinite().all()):
            raise ValueError(f"{where}: is {float(loss.detach().float().mean())} on training {task.sample}s; check "
                             "targets, weights, and divisions by zero")  # fmt: skip
        check_gradient(where, loss)
        try:
            checked_loss(where, loss, num_samples(batch)).mean().backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            raise ValueError(f"{where}: cannot be followed backwards: {described(error)}") from error
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    if not gradients:
        raise ValueError(f"{where}: does not depend on the network; compute it from the network's outputs")
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        raise ValueError(f"{where}: has a gradient of NaN or infinity on training {task.sample}s; check roots, norms "
                         "and logarithms of 0, and divisions by it")  # fmt: skip
    if bool(loss.detach().any()) and not any(bool(gradient.any()) for gradient in gradients):
        raise ValueError(f"{where}: has a gradient of 0 in every weight, so nothing can be learnt from it; leave out "
                         "rounding, argmax and comparisons")  # fmt: skip


def _check_metrics(model: nn.Module, task: Task, config: RunConfig) -> None:
    """Raises what a metric raises, while nothing has been spent."""
    metrics_of(f"task '{task.spec}'", task.scores())
    goal = Goal.of(config.metric, task)
    if task.has("test"):  # that it can be read and measured, no more: its scores are for the end
        validate(model, task, task.draw("test", FEW, config.seed), task.compute, FEW, goal, split="test")
    draw = task.draw("val", FEW, config.seed)
    found = validate(model, task, draw, task.compute, FEW, goal)
    if unsaid := [score.name for score in task.labels().scores if score.name not in found]:  # of so few, perhaps
        draw = task.draw("val", config.val_samples, config.seed)
        found = validate(model, task, draw, task.compute, FEW, goal)
        if unsaid := [name for name in unsaid if name not in found]:
            raise ValueError(f"{task.where('val')}: metric '{unsaid[0]}' of the dense network is NaN or infinite; "
                             "check its divisions by zero, or leave it out")  # fmt: skip
    target = config.limits.target
    if target is None or target.metric == "loss":
        return
    known = {score.name: score for score in task.labels().scores} | {goal.score.name: goal.score}
    if target.metric not in known and target.metric not in found:
        raise ValueError(f"target '{target}': the task has no score '{target.metric}'; it has loss"
                         f"{''.join(', ' + name for name in known if name != 'loss')}")  # fmt: skip
    if (score := known.get(target.metric)) and score.higher_is_better != target.at_least:
        better = "more" if score.higher_is_better else "less"
        raise ValueError(f"target '{target}': of {score.label} {better} is better, so say "
                         f"{target.metric}{'>=' if score.higher_is_better else '<='}{target.limit:g}")  # fmt: skip


def counted_samples(task: Task) -> Samples:
    """How many samples a run trains and validates with."""
    batch = None if isinstance(task, MapStyle) else task.training(1, 0).size
    return Samples(task.count("train"), task.count("val"), batch)


def worst_of(model: nn.Module, task: Task, config: RunConfig) -> float:
    """The loss of the network with all its parameters zero, which knows nothing (cross-entropy: log of the classes).

    Raises:
        ValueError: If it is not a finite number above 0.
    """
    found = ignorant(model, task, config)
    if not 0 < found < math.inf:
        raise ValueError(
            f"front: metric '{config.metric}' of a network whose outputs are all equal is {found}, but a front is "
            "measured from there and needs a finite number above 0; choose another --metric"
        )
    return found


def ignorant(model: nn.Module, task: Task, config: RunConfig) -> float:
    """What a search would minimise, of the network with all its parameters zero."""
    net = copy_of(model).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    task = task.without("test")
    draw = task.draw("val", config.val_samples, config.seed)
    return float(validate(net, task, draw, task.compute, config.batch_size, Goal.of(config.metric, task))["loss"])


def _size(batch: Any) -> str:
    """Of a lone picture CxHxW; of all else the shapes."""
    inputs = inputs_of(placed(batch, Task.compute))
    return "x".join(map(str, inputs.shape[1:])) if isinstance(inputs, Tensor) else shapes(inputs)
