"""One class number for each sample, whatever its inputs are: token ids, signals, rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from autoprune.tasks.arrays import Arrays, Pair, count_classes, integers, torchmetric
from autoprune.tasks.distances import TEMPERATURE, soft_distance
from autoprune.tasks.memory import Columns
from autoprune.tasks.trees import main_output, targets_of


class Labelled(Arrays):
    """Inputs of any kind and class numbers [N]; cross-entropy, accuracy and F1 (the mean over classes).

    Args:
        train: (inputs, class numbers).
        val: Likewise.
        test: Likewise.
        num_classes: How many classes there are; default one more than the highest training label.
        **settings: See `Arrays`.
    """

    kind = "labelled"
    takes_probabilities = True

    def __init__(
        self,
        train: Pair,
        val: Pair | None = None,
        test: Pair | None = None,
        *,
        num_classes: int | None = None,
        **settings: Any,
    ) -> None:
        self.num_classes = num_classes or count_classes(train)
        super().__init__(train, val, test, **settings)

    def check_targets(self, where: str, samples: Columns) -> None:
        """Class numbers."""
        integers(where, samples.targets, self.num_classes, "labels")
        if samples.targets.dim() != 1:
            raise ValueError(f"{where}: labels must be [N], got {list(samples.targets.shape)}")

    def check(self, outputs: Any, batch: Any) -> None:
        """One score for each class."""
        scores = main_output(outputs)
        if not isinstance(scores, Tensor) or scores.dim() != 2 or scores.shape[1] < self.num_classes:
            shape = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"expected one output per class, {self.num_classes} for '{self.spec}', found {shape}")

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Cross-entropy of each sample, in nats [N]; targets may be probabilities [N, K]."""
        targets = targets_of(batch)
        targets = targets if targets.is_floating_point() else targets.long()
        return functional.cross_entropy(main_output(outputs).float(), targets, reduction="none")

    def answers(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """The class, and the label."""
        return main_output(outputs)[:, : self.num_classes].argmax(1), targets_of(batch)

    def scores(self) -> Mapping[str, Any]:
        """Accuracy, and F1 as the mean over classes."""
        more: dict[str, Any] = {"task": "multiclass", "num_classes": self.num_classes}
        accuracy = torchmetric("Accuracy", average="micro", **more)
        return {"accuracy": accuracy, "f1": torchmetric("F1Score", average="macro", **more)}

    def distance(self, outputs: Any, teacher: Any, temperature: float = TEMPERATURE) -> Tensor:
        """Soft class scores."""
        return soft_distance(main_output(outputs), main_output(teacher), temperature)
