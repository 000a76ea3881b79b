"""Softer filter pruning."""

from __future__ import annotations

from typing import ClassVar

from autoprune.training.methods.soft import SoftUnits, at_once


class Srfp(SoftUnits):
    """SRFP: as SFP, but the filters are multiplied by a factor that falls over the epochs (Cai et al. 2021).

    https://arxiv.org/abs/2010.09498. How it falls is not public: 1 - t/T, which comes to SFP in the end, is ours.
    """

    name: ClassVar[str] = "srfp"

    def amount(self, share: float) -> float:
        """All."""
        return at_once(share)

    def factor(self, share: float) -> float:
        """Linearly down to zero."""
        return 1 - share
