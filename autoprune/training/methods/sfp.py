"""Soft filter pruning."""

from __future__ import annotations

from typing import ClassVar

from autoprune.training.methods.soft import SoftUnits, at_once


class Sfp(SoftUnits):
    """SFP: after every epoch the filters of lowest norm become zero and go on training (He et al. 2018).

    https://arxiv.org/abs/1808.06866. See `SoftUnits` for coupled members.
    """

    name: ClassVar[str] = "sfp"

    def amount(self, share: float) -> float:
        """All."""
        return at_once(share)

    def factor(self, share: float) -> float:
        """To zero."""
        return 0.0
