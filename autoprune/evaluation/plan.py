"""`EvaluationPlan`: what a fidelity comes to under the settings of a run, in numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from autoprune.fidelity import Fidelity
from autoprune.settings import TrainingSettings


@dataclass(frozen=True)
class EvaluationPlan:
    """What is done to a candidate, in this order, before it is scored.

    Attributes:
        fit_samples: Training samples that fit its layers to the dense network's outputs; 0: they are not fitted.
        steps: SGD steps that it is trained for; 0: none.
        bn_samples: Training samples that re-estimate batch-norm; 0: none.
        starts: Whether its training may begin elsewhere than with the weights as cut (`evaluation.starts`): only that
            of a finalist, which the winner's goes on from. Shorter ones compare widths, all as they were cut.
    """

    fit_samples: int = 0
    steps: int = 0
    bn_samples: int = 0
    starts: bool = False

    def training(self, settings: TrainingSettings) -> TrainingSettings:
        """How it is trained: a finalist as the settings say; a shorter one as a long training begins, at the peak rate.

        On the way down to 0 within 25 steps the rate would be half as high, and kinds of networks half as far apart
        (results/benchmarks/quality.md).
        """
        return settings if self.starts else replace(settings, lr_schedule="constant", warmup=0)

    @property
    def trial_steps(self) -> int:
        """SGD steps from each of several starts after which the best one goes on: an eighth, a few at least."""
        return max(self.steps // 8, min(25, self.steps // 4), 1) if self.steps else 0

    @classmethod
    def of(
        cls, fidelity: str, *, short_steps: int, bn_samples: int, fit_samples: int, reconstruct: bool
    ) -> EvaluationPlan:
        """What a fidelity means under the settings of these names, see `EvaluationSettings`.

        Raises:
            ValueError: If there is no such fidelity.
        """
        asked = Fidelity.parse(fidelity)
        kind, amount = asked.kind, asked.amount
        is_final = asked.trains and not amount
        return cls(
            fit_samples=(amount or fit_samples) if kind == "reconstructed" or (is_final and reconstruct) else 0,
            steps=(amount or short_steps) if asked.trains else 0,
            bn_samples=0 if kind == "raw" else (amount or bn_samples) if kind == "proxy" else bn_samples,
            starts=is_final,
        )
