"""What a criterion is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from autoprune.criteria.tensors import GroupTensors

CRITERIA: dict[str, type[Criterion]] = {}  # those of this package, by name, each once its file is imported


class Criterion(ABC):
    """How much the network would miss each unit of a group.

    Attributes:
        name: What the command line calls it.
        needs: What costs a pass over data: "gradients" (mean weight gradients), "sample_gradients" (mask gradients
            of each sample), "means", "zeros", "ranks", "contributions" (`criteria.activations`), "importance"
            (`criteria.propagation`). Declared here, gathered once for all criteria, found in `GroupTensors`.
        degree: Multiplying every weight by s > 0, gradients and activations as they are, multiplies the scores by
            s**degree.
        activation_degree: Multiplying every activation of the network by s > 0, weights as they are, multiplies the
            scores of a criterion that looks at activations by s**activation_degree.
        seed: For a criterion that draws.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    degree: ClassVar[int]
    activation_degree: ClassVar[int] = 0

    def __init_subclass__(cls, registered: bool = True) -> None:
        super().__init_subclass__()
        if registered and cls.__module__.startswith(f"{__package__}.") and "name" in cls.__dict__:
            CRITERIA[cls.name] = cls

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    @abstractmethod
    def score(self, group: GroupTensors) -> Tensor:
        """The [C] scores of one group's units, higher = keep."""
