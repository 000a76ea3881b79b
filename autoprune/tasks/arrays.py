"""What the built-in tasks of tensors in memory have in common: splits, checks, metrics of torchmetrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from autoprune.tasks.memory import Columns, MapStyle
from autoprune.tasks.streamed import Streamed
from autoprune.tasks.trees import leaves

Pair = tuple[Any, Any]  # (inputs, targets)


def count_classes(train: Any, ignored: int | None = None) -> int:
    """One more than the highest class number among the training targets; 1 where there is none to tell.

    Args:
        train: (inputs, targets); what is no such pair is refused by `Arrays`.
        ignored: A number that does not count, "void".
    """
    targets = train[1] if isinstance(train, (tuple, list)) and len(train) == 2 else None
    if isinstance(targets, Tensor) and ignored is not None:
        targets = targets[targets != ignored]
    return int(targets.max()) + 1 if isinstance(targets, Tensor) and targets.numel() else 1


class Arrays(MapStyle):
    """A task of (inputs, targets): tensors, or mappings of tensors, with the samples along axis 0.

    Args:
        train: Trains; what is not in memory is `Streamed`.
        val: Scores candidates; default the last tenth of `train` in an order drawn by the seed.
        test: Only for the end.
        augment: Of (inputs, targets, generator), gives both as training sees them; the generator draws on the CPU.
        seed: Of the split.
        name: What messages call it.

    Raises:
        ValueError: If the parts do not fit together.
    """

    def __init__(
        self,
        train: Pair | Streamed,
        val: Pair | Streamed | None = None,
        test: Pair | Streamed | None = None,
        *,
        augment: Callable[..., Pair] | None = None,
        seed: int = 0,
        name: str = "",
    ) -> None:
        self.spec, self._augment = name or self.kind, augment
        parts = {"train": self._checked("train", train)}
        if val is None:
            order = torch.randperm(len(parts["train"]), generator=torch.Generator().manual_seed(seed))
            count = max(1, len(order) // 10)
            self.split = f"a tenth of the training {self.sample}s, drawn by seed {seed}, validates"
            whole = parts["train"]
            parts = {"train": whole.subset(order[count:]), "val": whole.subset(order[:count])}
        else:
            parts["val"] = self._checked("val", val)
        if test is not None:
            parts["test"] = self._checked("test", test)
        self.parts = parts

    def _checked(self, split: str, pair: Any) -> Any:
        if isinstance(pair, Streamed):  # whose samples are checked when they are read
            return pair
        where = self.where(split)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"{where}: must be (inputs, targets), got {type(pair).__name__}")
        found = Columns(*pair)
        tensors = [*leaves(found.inputs), *leaves(found.targets)]
        sizes = {len(t) if t.dim() else 0 for t in tensors}
        if not leaves(found.inputs) or not leaves(found.targets) or len(sizes) != 1:
            shown = ", ".join(str(list(t.shape)) for t in tensors) or "no tensors"
            raise ValueError(f"{where}: inputs and targets must be tensors of as many {self.sample}s each, got {shown}")
        if not sizes - {0}:
            raise ValueError(f"{where}: is empty; give at least two {self.sample}s")
        if any(t.is_floating_point() and not bool(t.isfinite().all()) for t in tensors):
            raise ValueError(f"{where}: holds NaN or infinity; find out where it comes from, or leave such "
                             f"{self.sample}s out")  # fmt: skip
        self.check_targets(where, found)
        return found

    def check_targets(self, where: str, samples: Columns) -> None:
        """Refuse what this kind of task cannot be learnt from.

        Raises:
            ValueError: Naming it.
        """

    def prepared(self, samples: Columns) -> Any:
        """(inputs, targets) as they are."""
        return samples.inputs, samples.targets

    def augmented(self, samples: Columns, generator: torch.Generator) -> Columns:
        """As the user's own function makes them."""
        if self._augment is None:
            return samples
        return Columns(*self._augment(samples.inputs, samples.targets, generator))

    @property
    def augments(self) -> bool:
        """Whether there is such a function."""
        return self._augment is not None

    def where(self, split: str) -> str:
        """See `Task`."""
        return f"task '{self.spec}': {split}"


def torchmetric(name: str, **settings: Any) -> Any:
    """A metric of torchmetrics by its name.

    Raises:
        ValueError: If torchmetrics is not installed.
    """
    try:
        import torchmetrics
    except ImportError as error:
        raise ValueError(f"metric '{name}': needs torchmetrics; pip install 'autoprune[tasks]'") from error
    where: Any = torchmetrics
    for part in name.split("."):
        where = getattr(where, part)
    return where(**settings)


def integers(where: str, targets: Any, classes: int, what: str, ignored: int | None = None) -> None:
    """Check that targets are class numbers 0 to `classes` - 1.

    Raises:
        ValueError: If they are not.
    """
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.is_complex():
        kind = str(targets.dtype).removeprefix("torch.") if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(f"{where}: {what} must be class numbers (integers), got {kind}")
    values = targets if ignored is None else targets[targets != ignored]
    if values.numel() and not (0 <= int(values.min()) and int(values.max()) < classes):
        odd = int(values.min()) if int(values.min()) < 0 else int(values.max())
        raise ValueError(f"{where}: {what} run from 0 to {classes - 1} with {classes} classes, found {odd}; number "
                         "them anew, or give num_classes")  # fmt: skip
