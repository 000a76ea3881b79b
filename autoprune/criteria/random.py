"""The control."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class Random(Criterion):
    """Uniform in [0, 1), by seed, group name and unit number: the control that any other criterion must beat."""

    name = "random"
    degree = 0

    def score(self, group: GroupTensors) -> Tensor:
        """[C] draws."""
        rng = np.random.default_rng([self.seed, zlib.crc32(group.name.encode())])
        return torch.from_numpy(rng.random(int(group.units.max()) + 1))[group.units]
