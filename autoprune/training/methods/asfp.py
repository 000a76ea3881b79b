"""Asymptotic soft filter pruning."""

from __future__ import annotations

from typing import ClassVar

from autoprune.training.methods.soft import SoftUnits, asymptotic


class Asfp(SoftUnits):
    """ASFP: as SFP, but the number of filters that become zero rises over the epochs (He et al. 2019).

    https://arxiv.org/abs/1808.07471: three quarters after an eighth of the training, exponentially.
    """

    name: ClassVar[str] = "asfp"

    def amount(self, share: float) -> float:
        """As the curve through three points says."""
        return asymptotic(share)

    def factor(self, share: float) -> float:
        """To zero."""
        return 0.0
