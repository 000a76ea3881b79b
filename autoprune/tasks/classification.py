"""Image classification: one class number for each image; images in memory as bytes, or streamed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from autoprune.data import (
    CLASSIFICATION,
    ImageData,
    ImageStream,
    Split,
    augment,
    describe,
    input_of,
    normalised,
    output_of,
)
from autoprune.data.normalisation import MEASURED
from autoprune.data.sources import IMAGENET
from autoprune.labels import Labels
from autoprune.tasks.distances import TEMPERATURE, soft_distance
from autoprune.tasks.draws import Draw
from autoprune.tasks.memory import MapStyle
from autoprune.tasks.scores import Metric
from autoprune.tasks.streamed import Streamed
from autoprune.tasks.task import Task
from autoprune.tasks.trees import main_output, targets_of

OTHERS = ((0.0, 1.0), (0.5, 0.5))  # mean and std that networks are often trained with, besides ImageNet's
INTEGERS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


class Classification(MapStyle):
    """Images [N, C, H, W] and their class numbers [N]; cross-entropy, top-1.

    Args:
        data: The images, in memory or streamed.
    """

    kind = "classification"
    sample = "image"
    other = "give other data, or --data-args image_size=..."
    takes_probabilities = True

    def __init__(self, data: ImageData | ImageStream) -> None:
        if isinstance(data, ImageStream):
            self.data = data.data
            self.parts = {name: Streamed(part) for name, part in data.parts.items()}
            self.spec, self.split, self.left_out = self.data.spec, self.data.split, self.data.skipped
            return
        self.spec, self.split, self.left_out = data.spec, data.split, data.skipped
        one = data.train[:1]
        one = Split(one.images.clone(), one.labels.clone())  # no views of all
        self.data = replace(data, train=one, val=one, test=one[:0])  # what is known of the images, without them
        self.parts = {"train": data.train, "val": data.val} | ({"test": data.test} if len(data.test) else {})

    def prepared(self, samples: Split) -> tuple[Tensor, Tensor]:
        """Normalised images and their labels."""
        return self.data.normalise(samples.images, self.compute.channels_last), samples.labels

    def augmented(self, samples: Split, generator: torch.Generator) -> Split:
        """Cropped and flipped, as the data say."""
        return Split(augment(samples.images, self.data.augmentation, generator), samples.labels)

    def answers(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Class scores in float32, and labels."""
        return class_scores(outputs).float(), targets_of(batch)

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Cross-entropy of each image, in nats [N]; in a training that softens them the labels are [N, K]."""
        logits, labels = class_scores(outputs).float(), targets_of(batch)
        if isinstance(labels, Tensor) and labels.is_floating_point() and labels.dim() == 2:
            return functional.cross_entropy(logits, labels, reduction="none")
        return cross_entropy(logits, labels)

    def scores(self) -> Mapping[str, Any]:
        """Top-1."""
        return {"top1": TOP1}

    def distance(self, outputs: Any, teacher: Any, temperature: float = TEMPERATURE) -> Tensor:
        """See `Task`: of class scores."""
        return soft_distance(class_scores(outputs), class_scores(teacher), temperature)

    def check(self, outputs: Any, batch: Any) -> None:
        """See `Task`: one score for each class, and labels that are class numbers."""
        scores, classes = class_scores(outputs), self.data.num_classes
        if scores.dim() != 2 or scores.shape[1] < classes:
            raise ValueError(f"expected one output per class, {classes} for '{self.spec}', found the shape "
                             f"{list(scores.shape)}; give another model or data (--model-args "
                             f"num_classes={classes}?)")  # fmt: skip

    def by_class(self, split: str) -> dict[str, Any]:
        """Names of the classes, and how many images each has."""
        images = torch.bincount(self.parts[split].labels, minlength=self.data.num_classes).tolist()
        return {"classes": list(self.data.classes), "images": images}

    def right(self) -> Right:
        """Counts correct answers class by class."""
        return Right(self.data.num_classes)

    def warning(self, measure: Callable[[Task], Mapping[str, float]], worst: Callable[[], float], judged: Draw) -> str:
        """See `Task`: against always saying the most frequent class; whether plain pixels would do better."""
        labels, found = torch.cat([targets_of(batch) for batch in judged.batches(256)]).cpu(), measure(self)
        if not is_near_chance(labels, found["top1"], found["loss"]):
            return self._better_normalised(measure, found["top1"], len(labels))
        text = (
            "warning: the dense network does hardly better than chance on these images (top-1 "
            f"{found['top1']:.4f}; always the most frequent class: {_most_frequent(labels):.4f}): wrong weights, wrong "
            "mean/std or another order of the classes?"
        )
        plain = normalised(self.data, 0, 1)
        if (plain.mean, plain.std) == (self.data.mean, self.data.std):
            return text
        try:
            found = measure(self._normalised(0, 1))
        except ValueError:  # not finite
            return text
        if is_near_chance(labels, found["top1"], found["loss"]):
            return text
        return (f"{text} With pixels of 0..1 as they are its top-1 is {found['top1']:.4f}: give --data-args mean=0 "
                "--data-args std=1")  # fmt: skip

    def _normalised(self, mean: float, std: float) -> Classification:
        """The same task with its images normalised otherwise."""
        other = copy.copy(self)
        other.data, other._fingerprint = normalised(self.data, mean, std), ""
        return other

    def _better_normalised(self, measure: Callable[[Task], Mapping[str, float]], top1: float, count: int) -> str:
        """A warning, if mean and std are a guess and another usual pair suits the network far better; else ""."""
        if self.data.origin != IMAGENET:
            return ""
        found = {pair: measure(self._normalised(*pair))["top1"] for pair in OTHERS}
        mean, std = max(OTHERS, key=lambda pair: found[pair])
        best, spread = found[mean, std], math.sqrt(top1 * (1 - top1) / count)
        if best <= top1 + max(0.02, 3 * spread):
            return ""
        return (
            f"warning: nobody says how the network's images were normalised, so ImageNet's mean and std are taken: its "
            f"top-1 is {top1:.4f}; with mean={mean:g} std={std:g} it is {best:.4f}; was it trained so? Then give "
            f"--data-args mean={mean:g} --data-args std={std:g}"
        )

    def about(self) -> list[str]:
        """How images are normalised, and whether they are streamed."""
        said = [describe(self.data), *self.about_streams()]
        if self.data.origin in (IMAGENET, MEASURED):
            said[0] += "; if that is not as in its training: data_args mean=0 std=1 leaves pixels of 0..1 as they are"
        return [*said, *filter(None, [self.data.note])]

    def inputs(self) -> dict[str, Any]:
        """Shape, mean, std and their formula."""
        return input_of(self.data)

    def outputs(self) -> dict[str, Any]:
        """Class scores, and the names of the classes."""
        return output_of(self.data)

    def labels(self) -> Labels:
        """Images, top-1."""
        return Labels()

    def hashed(self) -> str:
        """That of the data: mean, std, classes, labels and a sample of the pixels."""
        if isinstance(self.parts["train"], Streamed):
            return ImageStream(self.data, {name: part.selection for name, part in self.parts.items()}).fingerprint
        return replace(self.data, train=self.parts["train"], val=self.parts["val"]).fingerprint

    def example(self) -> Tensor:
        """One normalised training image [1, C, H, W]."""
        return self.data.example


class Right:
    """How many images of each class were classified correctly.

    Args:
        num_classes: How many classes there are.
    """

    def __init__(self, num_classes: int) -> None:
        self._counts = torch.zeros(num_classes, dtype=torch.int64)

    def update(self, outputs: Any, batch: Any) -> None:
        """Look at the answers to one batch."""
        labels = targets_of(batch)
        right = labels[top1(class_scores(outputs), labels) > 0]
        self._counts = self._counts + torch.bincount(right, minlength=len(self._counts)).cpu()

    def compute(self) -> list[int]:
        """By class."""
        counts: list[int] = self._counts.tolist()
        return counts


class Pairs(Task):
    """Batches (inputs, class numbers), for who has nothing but these: they score channels by cross-entropy.

    Args:
        found: The batches.
    """

    def __init__(self, found: Iterable[Any] = ()) -> None:
        self._batches = found

    def batches(self, split: str, epoch: int = 0) -> Iterable[Any]:
        """The same ones, whatever the split."""
        return self._batches

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Cross-entropy of each sample [N]."""
        check_labels(targets_of(batch), class_scores(outputs), values=True)
        return cross_entropy(class_scores(outputs), targets_of(batch))


def class_scores(outputs: Any) -> Tensor:
    """The class scores in what a network returns: a tensor, or what is called "logits" or "out", or the first tensor.

    Raises:
        ValueError: If there is no tensor.
    """
    from search_spaces import tensors_in

    found = main_output(outputs)
    found = found if isinstance(found, Tensor) else next(tensors_in(outputs), None)
    if found is None:
        kind = type(outputs).__name__
        raise ValueError(f"the network must return class scores as a tensor, or in what holds one; got {kind}")
    return found


def check_labels(labels: Tensor, logits: Tensor, values: bool = False) -> None:
    """Check that labels are class numbers; torch's cross-entropy would read anything else in some way of its own.

    Args:
        labels: [N] integers.
        logits: [N, K].
        values: Also that they lie in 0..K-1, which waits for the device.

    Raises:
        ValueError: If they are not.
    """
    found = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}" if isinstance(labels, Tensor) else ""
    found = found or type(labels).__name__
    if not isinstance(labels, Tensor) or labels.dtype not in INTEGERS or labels.dim() != 1:
        raise ValueError(f"labels: must be [N] integers, the class number of each image, got {found}; {CLASSIFICATION}")
    if logits.dim() != 2 or len(logits) != len(labels):
        raise ValueError(f"labels: expected outputs [N, K], one score per class for each of {len(labels)} labels, got "
                         f"{list(logits.shape)}; {CLASSIFICATION}")  # fmt: skip
    if values and len(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= logits.shape[1]:
            last, other = logits.shape[1] - 1, low if low < 0 else high
            raise ValueError(f"labels: with {last + 1} outputs class numbers run from 0 to {last}, found {other}; "
                             "leave out images without a class")  # fmt: skip


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image, in nats: [N] float32 (lower is better)."""
    check_labels(labels, logits)
    return functional.cross_entropy(logits.float(), labels.long(), reduction="none")


def top1(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the largest logit of each image is its label: [N] of 0.0 and 1.0 (the mean is the accuracy)."""
    check_labels(labels, logits)
    return (logits.argmax(dim=1) == labels).float()


TOP1 = Metric(top1, higher_is_better=True, best=1.0, on_device=True)


def is_near_chance(labels: Tensor, top1: float, loss: float = math.inf) -> bool:
    """Whether a network does about as well as one that always gives the same answer.

    Where one class is frequent, such an answer is often right, and so is a useful network: its loss tells them apart.

    Args:
        labels: [N], of the images it was judged on.
        top1: The fraction that it gets right.
        loss: Its mean cross-entropy in nats.
    """
    count, frequent = len(labels), _most_frequent(labels)
    if frequent == 1:  # one class: any constant is right
        return False
    shares = labels.unique(return_counts=True)[1].double() / count
    knows_frequencies = float(-(shares * shares.log()).sum())  # the loss of the best constant answer
    spread = math.sqrt(frequent * (1 - frequent) / count)
    near = frequent + min(frequent / 2, (1 - frequent) / 10) + 2 * spread
    return top1 <= near and loss >= 0.9 * knows_frequencies


def _most_frequent(labels: Tensor) -> float:
    return float(labels.bincount().max()) / len(labels)
