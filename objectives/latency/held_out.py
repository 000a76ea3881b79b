"""`Quality`: how well a predictor does on candidates that were held out of its fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from objectives.products import Floats


@dataclass(frozen=True)
class Quality:
    """How well a predictor does on candidates that it has not seen.

    Attributes:
        mape: Mean absolute error, in percent of what was measured.
        worst: Largest one.
        spearman: Rank correlation.
        candidates: How many: each was predicted by a fit without its own fold.
        points: What was predicted and measured of each, in milliseconds; empty if that was not kept.
    """

    mape: float
    worst: float
    spearman: float
    candidates: int
    points: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, predicted: Floats, measured: Floats) -> Quality:
        """From the milliseconds [N] of candidates that a predictor has not seen."""
        from scipy.stats import spearmanr  # imports slowly

        errors = 100 * np.abs(predicted / measured - 1)
        rank = float(spearmanr(predicted, measured)[0]) if np.ptp(predicted) and np.ptp(measured) else 0.0
        points = tuple(zip(predicted.tolist(), measured.tolist(), strict=True))
        return cls(float(errors.mean()), float(errors.max()), rank, len(measured), points)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Quality:
        """From its fields; a file of before the points were kept has none."""
        points = tuple((predicted, measured) for predicted, measured in data.get("points", ()))
        return cls(**{**data, "points": points})

    def __str__(self) -> str:
        return (
            f"error {self.mape:.1f} % (worst {self.worst:.0f} %), rank correlation {self.spearman:.3f} on "
            f"{self.candidates} held-out candidates"
        )
