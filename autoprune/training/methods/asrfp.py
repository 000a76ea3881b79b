"""Asymptotic softer filter pruning."""

from __future__ import annotations

from typing import ClassVar

from autoprune.training.methods.soft import SoftUnits, asymptotic


class Asrfp(SoftUnits):
    """ASRFP: the rising number of ASFP and the falling factor of SRFP together (Cai et al. 2021).

    https://arxiv.org/abs/2010.09498. The factor, 1 - t/T, is ours (see `Srfp`).
    """

    name: ClassVar[str] = "asrfp"

    def amount(self, share: float) -> float:
        """As the curve through three points says."""
        return asymptotic(share)

    def factor(self, share: float) -> float:
        """Linearly down to zero."""
        return 1 - share
