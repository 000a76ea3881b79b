"""Rows of a table: a class or a number for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoprune.tasks.labelled import Labelled
from autoprune.tasks.regression import Regression


class TabularClasses(Labelled):
    """Rows [N, columns] and class numbers [N]."""

    kind = "tabular"
    sample = "row"


class TabularNumbers(Regression):
    """Rows [N, columns] and a number each [N]."""

    kind = "tabular"
    sample = "row"


def tabular(train: Any, val: Any = None, test: Any = None, **settings: Any) -> TabularClasses | TabularNumbers:
    """The task of a table: class numbers (integers) are classified, other numbers predicted.

    Columns are normalised by the mean and standard deviation of the training rows.

    Args:
        train: (rows [N, columns], targets [N]).
        val: Likewise; default the last tenth of train.
        test: Likewise.
        **settings: See `Arrays`.

    Raises:
        ValueError: If a part is no pair of tensors.
    """
    if not isinstance(train, (tuple, list)) or len(train) != 2 or not all(isinstance(t, Tensor) for t in train):
        raise ValueError("task 'tabular': train must be (rows [N, columns], targets [N]), two tensors")
    rows = train[0].float()
    mean, std = rows.mean(0), rows.std(0).clamp(min=1e-6)

    def normalised(pair: Any) -> Any:
        return None if pair is None else ((pair[0].float() - mean) / std, pair[1])

    kind = TabularNumbers if train[1].is_floating_point() else TabularClasses
    return kind(normalised(train), normalised(val), normalised(test), **settings)  # type: ignore[operator,no-any-return]


def tabular_file(place: str, *, target: str = "", **settings: Any) -> TabularClasses | TabularNumbers:
    """A CSV file with a header and numbers; a fifth of its rows, drawn by seed 0, are for the end.

    Args:
        place: The file.
        target: The column to predict; default the last one. Whole numbers are classes.
        **settings: See `Arrays`.

    Raises:
        ValueError: If it cannot be read, or holds something else than numbers.
    """
    import pandas

    spec = f"tabular:{place}"
    try:
        table = pandas.read_csv(Path(place))
        target = target or str(table.columns[-1])
        targets, rows = table.pop(target), table.astype("float32")
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ValueError(f"data '{spec}': not a CSV file of numbers with the column '{target}' ({error})") from error
    whole = bool((targets == targets.round()).all()) and targets.nunique() <= 100
    found = torch.from_numpy(targets.to_numpy("int64" if whole else "float32").copy())
    data = torch.from_numpy(rows.to_numpy("float32").copy())
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    last, first = order[: len(order) // 5], order[len(order) // 5 :]
    return tabular((data[first], found[first]), test=(data[last], found[last]), name=spec, **settings)
