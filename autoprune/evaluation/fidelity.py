"""`Fidelity`: what is done to a candidate before it is scored. The words a user may write, and what they mean.

raw                 nothing: the weights and the batch-norm statistics as they were cut out of the dense network
proxy               batch-norm re-estimated; proxy:4000 on that many training samples
reconstructed       layers fitted to the dense network's outputs by least squares, then as "proxy"
short               a short fine-tune, then as "proxy"
short:200           so many steps at the full rate from the weights as cut, as a longer training begins; then as "proxy"
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from autoprune.settings import TrainingSettings

FIDELITIES = ("raw", "proxy", "reconstructed", "short")
KNOWN = "raw, proxy, reconstructed, short; proxy:SAMPLES, reconstructed:SAMPLES, short:STEPS"


@dataclass(frozen=True)
class Fidelity:
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
    def parse(cls, text: str, *, short_steps: int = 1, bn_samples: int = 1, fit_samples: int = 1) -> Fidelity:
        """What a fidelity means.

        Args:
            text: As in the head of this file.
            short_steps: SGD steps of "short".
            bn_samples: Samples of "proxy" and all above it.
            fit_samples: Samples of "reconstructed".

        Raises:
            ValueError: If there is no such fidelity.
        """
        kind, colon, number = text.partition(":")
        count = int(number) if number.isascii() and number.isdecimal() else 0
        if kind not in FIDELITIES or (colon and (kind == "raw" or not count)):
            raise ValueError(f"unknown fidelity '{text}'; known: {KNOWN}")
        return cls(
            fit_samples=(count or fit_samples) if kind == "reconstructed" else 0,
            steps=(count or short_steps) if kind == "short" else 0,
            bn_samples=0 if kind == "raw" else (count or bn_samples) if kind == "proxy" else bn_samples,
            starts=kind == "short" and not count,
        )
