"""Cut at once, then train: plain training."""

from __future__ import annotations

from typing import ClassVar

from autoprune.training.methods.method import Method


class Cut(Method):
    """Nothing but the loss: what is to go has gone before the training (Li et al. 2017, https://arxiv.org/abs/1608.08710)."""

    name: ClassVar[str] = "cut"
