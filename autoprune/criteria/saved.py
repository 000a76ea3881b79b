"""Scores that somebody has kept in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, from_numpy

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors
from autoprune.files import save_tensors
from search_spaces import SearchSpace

SUFFIX = ".safetensors"  # what `--criterion` takes for a file and not for a name


class SavedScores(Criterion, registered=False):
    """A file with a tensor [C] for each group, by name: what the method `sandwich` leaves, or any program of yours.

    Args:
        path: The file.
        seed: Not used.
    """

    name = "saved"
    degree = 0

    def __init__(self, path: str | Path, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.path = Path(path)
        self._known: dict[str, Tensor] | None = None

    def score(self, group: GroupTensors) -> Tensor:
        """The [C] scores of this group.

        Raises:
            ValueError: If the file cannot be read or does not know the group.
        """
        known = self.read()
        if group.name not in known:
            raise ValueError(f"criterion '{self.path}': has no scores of group '{group.name}'; is it of this network?")
        return known[group.name]

    def read(self) -> dict[str, Tensor]:
        """All of them, by the name of the group.

        Raises:
            ValueError: If the file cannot be read.
        """
        if self._known is None:
            try:
                self._known = load_file(self.path)
            except (OSError, SafetensorError) as error:
                raise ValueError(f"criterion '{self.path}': damaged or missing ({error})") from error
        return self._known


def save_scores(path: Path, space: SearchSpace, scores: Sequence[NDArray[np.float64]]) -> None:
    """Write a file that `SavedScores` reads.

    Args:
        path: The file; its name ends in .safetensors.
        space: Names the groups.
        scores: Per group [C], higher = keep.

    Raises:
        DiskError: If it cannot be written.
    """
    tensors = {group.name: from_numpy(np.array(s)) for group, s in zip(space.groups, scores, strict=True)}
    save_tensors(save_file, tensors, path)
