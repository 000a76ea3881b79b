"""`Task`: what a network is for. All that the engine knows of the user's world."""

from __future__ import annotations

import copy
import hashlib
import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoprune.compute import Compute
from autoprune.labels import Labels
from autoprune.tasks.distances import TEMPERATURE, mean_squares, soft_distance
from autoprune.tasks.draws import (
    Draw,
    LoaderDraw,
    LoaderTraining,
    Training,
    counted_length,
    first_of,
    reading,
    said_length,
    samples_in,
)
from autoprune.tasks.given import GivenLoss, check_loader, checked_loss, is_cross_entropy
from autoprune.tasks.own_loss import own_loss
from autoprune.tasks.scores import Meter, in_short, metrics_of, score_of
from autoprune.tasks.trees import (
    called,
    inputs_of,
    leaves,
    main_output,
    no_targets,
    num_samples,
    placed,
    sample_of,
    targets_of,
)
from objectives.plugins import running

SPLITS = ("train", "val", "test")
CPU = Compute(torch.device("cpu"), amp=False, channels_last=False)


class Task(ABC):
    """What a network is for: its batches, its loss, its scores.

    A task of one's own says `batches` and `loss`, and whatever else is not as usual; `Task.of` makes one of loaders and
    functions. A batch is (inputs, targets), a dictionary with "labels" or "targets" among its keys, or inputs alone
    (see `autoprune.tasks.trees`); device, precision, memory, checkpoints and seeds are the engine's.

    Attributes:
        spec: What messages call it.
        sample: What one of a batch is called: "image", "row".
        split: How train and val were told apart, in words.
        other: The way out where the network cannot take its samples.
        compute: Where its batches go.
        takes_probabilities: Whether its loss takes probabilities [N, classes] where targets are class numbers [N], for
            label smoothing and mixup.

    Example:
        class Depth(autoprune.tasks.Task):
            def batches(self, split, epoch=0):
                return loaders[split]

            def loss(self, outputs, batch):
                return (outputs - batch[1]).abs().mean((1, 2, 3))  # [N]
    """

    spec: str = ""
    sample: str = "sample"
    split: str = "as the task says"
    other: str = "give another model, or a task whose batches fit it"
    kind: ClassVar[str] = ""  # of the built-in ones, what `--data` calls them
    compute: Compute = CPU
    takes_probabilities: bool = False

    @abstractmethod
    def batches(self, split: str, epoch: int = 0) -> Iterable[Any]:
        """The batches of a split, once through.

        Args:
            split: "train" (shuffled, augmented), "calibration" (training samples as they are; where there is none, a
                KeyError or None has "train" serve), "val" (scores candidates), "test" (the end only; may be missing).
            epoch: Of "train", for an order that follows from it.
        """

    @abstractmethod
    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """What trains, and whose gradient scores the channels: of each sample [N], or the mean of the batch."""

    def call(self, model: nn.Module, batch: Any) -> Any:
        """What the network answers."""
        return called(model, inputs_of(batch))

    def evaluate(self, model: nn.Module, batch: Any) -> tuple[Any, Tensor]:
        """Its answers and their loss; of a network that computes its own loss, override this."""
        outputs = self.call(model, batch)
        return outputs, self.loss(outputs, batch)

    def scores(self) -> Mapping[str, Any]:
        """What is measured besides the loss, the most telling first: torchmetrics, functions, `tasks.Metric`."""
        return {}

    def answers(self, outputs: Any, batch: Any) -> tuple[Any, Any]:
        """What metrics are given: (outputs, targets)."""
        return main_output(outputs), targets_of(batch)

    def distance(self, outputs: Any, teacher: Any, temperature: float = TEMPERATURE) -> Tensor:
        """How far the answers are from a teacher's: the mean over the samples.

        `T^2 * KL(teacher / T || outputs / T)` of class scores [N, K] (Hinton et al. 2015,
        https://arxiv.org/abs/1503.02531, section 2: T^2 keeps its gradients in proportion to those of the loss), else
        mean squares of all outputs of equal shapes.

        Raises:
            ValueError: If there is nothing to compare.
        """
        one, other = main_output(outputs), main_output(teacher)
        if isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and one.dim() == 2:
            return soft_distance(one, other, temperature)
        return mean_squares(outputs, teacher)

    def example(self) -> Any:
        """What the network is traced with: the inputs of one sample."""
        inputs = sample_of(placed(first_of(self.read("calibration"), self.where("calibration"), 0), CPU))
        return (inputs,) if isinstance(inputs, list) else inputs

    @property
    def has_own_example(self) -> bool:
        """Whether the user says what the network is traced with; else it may be what `call` gives the network."""
        return type(self).example is not Task.example

    @property
    def calls_otherwise(self) -> bool:
        """Whether the user says how the network is called."""
        return type(self).call is not Task.call

    def check(self, outputs: Any, batch: Any) -> None:  # noqa: B027, nothing is refused as a rule
        """Refuse targets that these answers cannot meet: class numbers beyond the head, masks of another size ...

        Raises:
            ValueError: Naming them.
        """

    def warning(self, measure: Callable[[Task], Mapping[str, float]], worst: Callable[[], float], judged: Draw) -> str:
        """A warning where the dense network knows next to nothing; else "".

        Args:
            measure: Scores the dense network on a task.
            worst: The loss of the same network with all parameters zero, which knows nothing.
            judged: The samples that it is scored on.
        """
        loss, nothing = measure(self)["loss"], worst()
        if not nothing > 0 or loss < 0.9 * nothing:
            return ""
        return ("warning: the dense network does hardly better than one whose parameters are all zero (loss "
                f"{loss:.4g} against {nothing:.4g}): wrong weights, or inputs unlike those of training?")  # fmt: skip

    def about(self) -> list[str]:
        """What is said of it before a search, a line each."""
        return []

    def inputs(self) -> dict[str, Any]:
        """What the network is to be fed with, for those who get it without the task."""
        return {}

    def outputs(self) -> dict[str, Any]:
        """What it answers; "name" is what a file calls it."""
        return {}

    def by_class(self, split: str) -> dict[str, Any] | None:
        """For results class by class: "classes" (names) and "images" (of each); None: there are none."""
        return None

    def right(self) -> Any:
        """Counts how many samples of each class were answered correctly: `update(outputs, batch)`, `compute()`."""
        return None

    # What the engine draws. A task in memory has its own ways (`tasks.memory`).

    def on(self, compute: Compute) -> Task:
        """The same task for passes on a device."""
        bound = copy.copy(self)
        bound.compute = compute
        return bound

    def without(self, *splits: str) -> Task:
        """The same without the samples of some splits: test, which only the end may see, or what has been drawn."""
        return self

    def loading(self, workers: int | str) -> Task:
        """The same with so many processes that load what is streamed; "auto": as many as this process has threads."""
        return self

    def forget(self) -> None:
        """Let go of samples that were read for scoring and calibrating; they are read again when they are wanted."""
        return

    def skipped(self) -> list[str]:
        """Names of damaged samples that were left out so far, where that was asked for."""
        return []

    def leave_out(self, names: Iterable[str]) -> None:
        """Note what other processes, or this training before it was stopped, have left out."""
        return

    def read(self, split: str) -> Callable[[int], Iterable[Any]]:
        """Epoch -> the batches of a split.

        Raises:
            ValueError: If there is no such split.
        """

        def batches(epoch: int) -> Iterable[Any]:
            if split == "calibration" and (found := self._offered(split, epoch)) is not None:
                return found
            found = self.batches("train" if split == "calibration" else split, epoch)
            if found is None:
                raise ValueError(f"{self.where(split)}: is missing")
            return found

        return batches

    def _offered(self, split: str, epoch: int = 0) -> Iterable[Any] | None:
        """What `batches` gives; None where there is no such split."""
        with suppress(KeyError, ValueError, NotImplementedError):
            found = self.batches(split, epoch)
            if not inspect.isgenerator(found):
                return found
            first = list(itertools.islice(found, 1))  # only now it says whether there is such a split
            return itertools.chain(first, found)
        return None

    def where(self, split: str) -> str:
        """What errors about a split begin with."""
        return f"task '{self.spec or type(self).__name__}': {split}"

    def has(self, split: str) -> bool:
        """Whether it brings the split at all."""
        return self._offered(split) is not None

    def count(self, split: str) -> int:
        """How many samples a split has, about: batches times the samples of the first one."""
        first = first_of(self.read(split), self.where(split), 0)
        return self._length(split, 0) * samples_in(first, self.where(split))

    def _length(self, split: str, seed: int) -> int:
        """How many batches an epoch has; what has to be counted is counted once."""
        read = self.read(split)
        if (said := said_length(read(0))) is not None:
            return said
        known: dict[str, int] = self.__dict__.setdefault("_lengths", {})
        if split not in known:
            known[split] = counted_length(read, self.where(split), seed)
        return known[split]

    def once(self, split: str, size: int) -> Iterator[Any]:
        """All batches of a split in its own order, on the device, one after the other.

        Raises:
            ValueError: If there is none.
        """
        batch, where = None, self.where(split)
        for batch in reading(self.read(split), where, 0, 0):
            samples_in(batch, where)
            yield placed(batch, self.compute)
        if batch is None:
            raise ValueError(f"{where}: gives no batch; check its data set, and that it can be iterated again")

    def draw(self, split: str, count: int, seed: int) -> Draw:
        """The first `count` samples of a split, kept in memory.

        Raises:
            ValueError: If it gives none, or NaN.
        """
        return LoaderDraw(self.read(split), self.where(split), count, self.compute, seed)

    def training(self, size: int, seed: int) -> Training:
        """The batches of a training: those of the loader, whatever `size` is."""
        read, where = self.read("train"), self.where("train")
        size, steps = samples_in(first_of(read, where, seed), where), self._length("train", seed)
        return LoaderTraining(read, where, self.compute, seed, size, steps)

    @property
    def fingerprint(self) -> str:
        """A short hash of the first batches of train and val: two runs with the same one saw the same data."""
        digest = hashlib.sha256(f"{self.spec} {type(self).__qualname__}".encode())
        for split in ("calibration", "val"):
            batch = first_of(self.read(split), self.where(split), 0)
            for leaf in leaves(placed(batch, CPU)):
                digest.update(f"{tuple(leaf.shape)} {leaf.dtype}".encode())
                digest.update(leaf.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def labels(self) -> Labels:
        """What reports call its samples and scores."""
        return Labels(self.sample, tuple(score_of(name, metric) for name, metric in self.scores().items()))

    def meter(self, more: Mapping[str, Any] | None = None) -> Meter:
        """Follows its scores, and more, over some batches."""
        return Meter(self, more)

    @staticmethod
    def of(
        train: Any,
        val: Any,
        test: Any = None,
        *,
        calibration: Any = None,
        loss: Callable[..., Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        call: Callable[..., Any] | None = None,
        distance: Callable[..., Any] | None = None,
        example: Any = None,
        name: str = "",
        sample: str = "sample",
    ) -> Task:
        """A task of loaders and functions.

        Args:
            train: A `DataLoader`, a list of batches, or anything that gives them each time it is iterated.
            val: Likewise: scores the candidates.
            test: Likewise: only for the end.
            calibration: Likewise: training samples as they are, without augmentation; default `train`.
            loss: Of (outputs, targets): a number for each sample [N], or the batch's mean; default what the network
                itself computes when it is given the targets, too (Hugging Face's "loss", torchvision's detectors).
            metrics: By name, the most telling first: torchmetrics, functions of (outputs, targets), `tasks.Metric`.
            call: Of (model, inputs), where a network is not called as usual.
            distance: Of (outputs, teacher's outputs), for distillation.
            example: What the network is traced with; default the inputs of one sample.
            name: What messages call it.
            sample: What one of a batch is called.

        Raises:
            ValueError: If something of it cannot be.
        """
        return LoadedTask(
            train, val, test, calibration=calibration, loss=loss, metrics=metrics, call=call, distance=distance,
            example=example, name=name, sample=sample,
        )  # fmt: skip


class LoadedTask(Task):
    """See `Task.of`."""

    def __init__(
        self,
        train: Any,
        val: Any,
        test: Any,
        *,
        calibration: Any,
        loss: Callable[..., Any] | None,
        metrics: Mapping[str, Any] | None,
        call: Callable[..., Any] | None,
        distance: Callable[..., Any] | None,
        example: Any,
        name: str,
        sample: str,
    ) -> None:
        self.spec, self.sample = name or "Task.of", sample
        given = {"train": train, "val": val, "test": test, "calibration": calibration}
        self.splits = {split: loader for split, loader in given.items() if loader is not None}
        for split in ("train", "val"):
            if split not in self.splits:
                raise ValueError(f"{self.where(split)}: is missing; give a DataLoader or a list of batches")
        for split, loader in self.splits.items():
            check_loader(self.where(split), loader)
        for what, function in (("loss", loss), ("call", call), ("distance", distance)):
            if function is not None and (not callable(function) or isinstance(function, type)):
                made = f"; make one of it: {function.__name__}(...)" if isinstance(function, type) else ""
                raise ValueError(f"task '{self.spec}': {what} must be a function, got {in_short(function)}{made}")
        self._metrics = metrics_of(f"task '{self.spec}'", metrics)
        self._call, self._distance, self._example = call, distance, example
        self._loss = None if loss is None else GivenLoss(loss, self.where("loss"))
        self.takes_probabilities = is_cross_entropy(loss)

    def batches(self, split: str, epoch: int = 0) -> Iterable[Any]:
        """The user's own loader."""
        loader: Iterable[Any] = self.splits[split]
        for part in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
            if callable(set_epoch := getattr(part, "set_epoch", None)):
                set_epoch(epoch)
        return loader

    def has(self, split: str) -> bool:
        """Whether it was given."""
        return split in self.splits

    def where(self, split: str) -> str:
        """See `Task`."""
        return super().where("train" if split == "calibration" and split not in self.splits else split)

    @property
    def has_own_example(self) -> bool:
        """Whether it was given."""
        return self._example is not None

    @property
    def calls_otherwise(self) -> bool:
        """Whether a function was given."""
        return self._call is not None

    def call(self, model: nn.Module, batch: Any) -> Any:
        """As usual, or as the user says."""
        if self._call is None:
            return super().call(model, batch)
        with running(self.where("call")):
            return self._call(model, inputs_of(batch))

    def evaluate(self, model: nn.Module, batch: Any) -> tuple[Any, Tensor]:
        """Answers and loss; without a loss of the user's, the network's own."""
        if self._loss is None:
            return own_loss(model, batch, self.where("loss"))
        return super().evaluate(model, batch)

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Of each sample where the function can say it, else what it says."""
        if self._loss is None:
            raise ValueError(f"{self.where('loss')}: is the network's own, and needs its batch")
        return self._loss(outputs, targets_of(batch), num_samples(batch), no_targets(batch))

    def scores(self) -> Mapping[str, Any]:
        """The user's metrics."""
        return self._metrics

    def distance(self, outputs: Any, teacher: Any, temperature: float = TEMPERATURE) -> Tensor:
        """The user's; else soft class scores where the targets are class numbers, else mean squares."""
        if self._distance is not None:
            with running(self.where("distance")):
                return checked_loss(self.where("distance"), self._distance(outputs, teacher), 1)
        one, other = main_output(outputs), main_output(teacher)
        same = isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and one.dim() >= 2
        if same and self._has_classes:
            return soft_distance(one, other, temperature)
        return mean_squares(outputs, teacher)

    @cached_property
    def _has_classes(self) -> bool:
        """Whether targets are class numbers: read once, not at each step, and nobody's generator moves."""
        targets = leaves(targets_of(first_of(self.read("val"), self.where("val"), 0)))
        return bool(targets) and not targets[0].is_floating_point()

    def example(self) -> Any:
        """The user's, else one sample."""
        return super().example() if self._example is None else self._example
