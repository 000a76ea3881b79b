"""Regression: numbers for each sample, keypoints among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from autoprune.tasks.arrays import Arrays, torchmetric
from autoprune.tasks.distances import TEMPERATURE, mean_squares
from autoprune.tasks.memory import Columns
from autoprune.tasks.trees import main_output, targets_of


class Regression(Arrays):
    """Numbers [N, ...] for each sample, such as coordinates of keypoints; mean squares, mean absolute error, R²."""

    kind = "regression"

    def check_targets(self, where: str, samples: Columns) -> None:
        """Targets are numbers."""
        if not samples.targets.is_floating_point():
            kind = str(samples.targets.dtype).removeprefix("torch.")
            raise ValueError(f"{where}: targets must be numbers (float), got {kind}; of class numbers: classification")

    def check(self, outputs: Any, batch: Any) -> None:
        """As many numbers as targets."""
        found, targets = main_output(outputs), targets_of(batch)
        if not isinstance(found, Tensor) or found.numel() != targets.numel():
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"expected outputs of the shape of the targets of '{self.spec}', {list(targets.shape)}, "
                             f"found {shape}")  # fmt: skip

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Mean squared error of each sample [N]."""
        found, targets = self.answers(outputs, batch)
        each: Tensor = (found.float() - targets.float()).square().flatten(1).mean(1)
        return each

    def answers(self, outputs: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """Outputs and targets, [N, numbers]."""
        targets = targets_of(batch)
        return main_output(outputs).reshape(len(targets), -1), targets.reshape(len(targets), -1)

    def scores(self) -> Mapping[str, Any]:
        """Mean absolute error, and the share of the variance that is explained."""
        r2 = torchmetric("R2Score", multioutput="variance_weighted")
        return {"mae": torchmetric("MeanAbsoluteError"), "r2": r2}

    def distance(self, outputs: Any, teacher: Any, temperature: float = TEMPERATURE) -> Tensor:
        """Mean squares."""
        return mean_squares(main_output(outputs), main_output(teacher))


class Keypoints(Regression):
    """Coordinates [N, points, 2] of keypoints; the share that lies within a distance of the truth, besides.

    Args:
        within: That distance, in the unit of the coordinates.
        *parts: See `Arrays`.
        **settings: Likewise.
    """

    kind = "keypoints"
    sample = "image"

    def __init__(self, *parts: Any, within: float, **settings: Any) -> None:
        self.within = within
        super().__init__(*parts, **settings)

    def scores(self) -> Mapping[str, Any]:
        """PCK, percentage of correct keypoints; mean absolute error."""
        from autoprune.tasks.scores import Metric

        return {"pck": Metric(self._correct, True, 1.0), "mae": torchmetric("MeanAbsoluteError")}

    def _correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        away = (outputs - targets).reshape(len(targets), -1, 2).norm(dim=-1)
        near: Tensor = (away <= self.within).float().mean(1)
        return near
