"""What reports call the scores of a task and its samples; readable where the task itself is not at hand."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

KNOWN = {
    "top1": "top-1", "miou": "mIoU", "map": "mAP", "map_50": "mAP@50", "psnr": "PSNR", "mae": "MAE", "rmse": "RMSE",
    "f1": "F1", "pck": "PCK", "r2": "R²",
}  # fmt: skip


@dataclass(frozen=True)
class Score:
    """How a score is read.

    Attributes:
        name: Its key among the metrics of a trial.
        higher_is_better: Whether it is.
        best: The best it can be, 1 for a fraction; None where there is no such bound.
    """

    name: str
    higher_is_better: bool = False
    best: float | None = None

    @property
    def label(self) -> str:
        """What it is called."""
        return KNOWN.get(self.name, self.name.rpartition(":")[2])

    @property
    def minimised(self) -> str:
        """What the number is called that a search for it minimises: "loss", "1 - top-1", "-PSNR"."""
        if not self.higher_is_better:
            return self.label
        return f"-{self.label}" if self.best is None else f"{self.best:g} - {self.label}"

    def beside(self, metric: str) -> tuple[Score, ...]:
        """Itself, for a table that has the minimised number under this name; nothing where it is that number."""
        return () if self.minimised == metric and not self.higher_is_better else (self,)

    def loss(self, value: float) -> float:
        """That number, lower is better."""
        return value if not self.higher_is_better else (self.best or 0.0) - value

    @property
    def is_fraction(self) -> bool:
        """Whether it is shown in percent."""
        return self.higher_is_better and self.best == 1

    def number(self, metrics: Mapping[str, Any]) -> float:
        """Its value among the metrics of a network; NaN if it is not known."""
        value = metrics.get(self.name)
        return float(value) if isinstance(value, int | float) else math.nan

    def shown(self, metrics: Mapping[str, Any]) -> str:
        """The same in words; a dash if it is not known."""
        value = self.number(metrics)
        if math.isnan(value):
            return "-"
        return f"{100 * value:.2f} %" if self.is_fraction else f"{value:.4g}"

    def change(self, dense: float, pruned: float) -> str:
        """From the one network to the other."""
        difference = pruned - dense
        return f"{100 * difference:+.2f} points" if self.is_fraction else f"{difference:+.4g}"


LOSS, TOP1 = Score("loss"), Score("top1", True, 1.0)


@dataclass(frozen=True)
class Labels:
    """What the reports of a run call things.

    Attributes:
        sample: One of a batch: "image", "row".
        scores: Besides the loss, the most telling one first.
    """

    sample: str = "image"
    scores: tuple[Score, ...] = (TOP1,)

    @property
    def headline(self) -> Score:
        """The score that is shown beside the loss; where there is none, the loss."""
        return self.scores[0] if self.scores else LOSS

    @property
    def samples(self) -> str:
        """Several of them."""
        return f"{self.sample}s"

    def score(self, metric: str) -> Score:
        """How a metric of the settings is read: a score of the task, the loss, or a function of the user's."""
        return next((score for score in self.scores if score.name == metric), Score(metric))

    @classmethod
    def of(cls, run: Path) -> Labels:
        """As a run's directory says; as of image classification where it says nothing."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls.from_json(json.loads((run / "task.json").read_text(encoding="utf-8")))
        return cls()

    def to_json(self) -> dict[str, Any]:
        """For the run's directory."""
        return asdict(self)

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Labels:
        """The inverse of `to_json`."""
        return cls(said["sample"], tuple(Score(**score) for score in said["scores"]))
