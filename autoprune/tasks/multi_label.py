"""Multi-label classification: any number of labels for each sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from autoprune.tasks.arrays import Arrays, torchmetric
from autoprune.tasks.distances import TEMPERATURE
from autoprune.tasks.memory import Columns
from autoprune.tasks.trees import main_output, targets_of


class MultiLabel(Arrays):
    """Targets [N, labels] of 0 and 1; binary cross-entropy, F1 and mean average precision over the labels."""

    kind = "multi_label"

    def check_targets(self, where: str, samples: Columns) -> None:
        """Targets are 0 or 1."""
        targets = samples.targets
        if targets.dim() != 2 or not bool(((targets == 0) | (targets == 1)).all()):
            raise ValueError(f"{where}: targets must be [N, labels] of 0 and 1, got {list(targets.shape)} from "
                             f"{float(targets.min()):g} to {float(targets.max()):g}")  # fmt: skip
        self.num_labels = targets.shape[1]

    def check(self, outputs: Any, batch: Any) -> None:
        """One score for each label."""
        found, targets = main_output(outputs), targets_of(batch)
        if not isinstance(found, Tensor) or found.shape != targets.shape:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"expected one output per label of '{self.spec}', {targets.shape[1]}, found {shape}")

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Mean binary cross-entropy of the labels of each sample [N]."""
        each = functional.binary_cross_entropy_with_logits(
            main_output(outputs).float(), targets_of(batch).float(), reduction="none"
        )
        return each.mean(1)

    def answers(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Probabilities and labels."""
        return main_output(outputs).float().sigmoid(), targets_of(batch).long()

    def scores(self) -> Mapping[str, Any]:
        """F1 over all labels and samples, and average precision, the mean over labels."""
        more = {"task": "multilabel", "num_labels": self.num_labels}
        f1 = torchmetric("F1Score", average="micro", **more)
        return {"f1": f1, "average_precision": torchmetric("AveragePrecision", **more)}

    def distance(self, outputs: Any, teacher: Any, temperature: float = TEMPERATURE) -> Tensor:
        """Binary cross-entropy against the teacher's probabilities, above what it has of itself."""
        one, other = (main_output(o).float() / temperature for o in (outputs, teacher))
        own = functional.binary_cross_entropy_with_logits(other, other.sigmoid())
        return temperature**2 * (functional.binary_cross_entropy_with_logits(one, other.sigmoid()) - own)
