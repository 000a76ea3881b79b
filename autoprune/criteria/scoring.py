"""From a criterion's name to the scores of every unit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.criteria.criterion import CRITERIA, Criterion
from autoprune.criteria.gathering import Gathered, gather
from autoprune.criteria.saved import SUFFIX, SavedScores
from autoprune.criteria.tensors import GroupTensors, collect
from autoprune.tasks import Task
from objectives.plugins import find, running
from search_spaces import SearchSpace

Scores = tuple[NDArray[np.float64], ...]  # per group [C], higher = keep
Batches = Iterable[Any]


def make(name: str, *, seed: int = 0) -> Criterion:
    """The criterion called `name`, "package.module:Name", or the scores in the file "name.safetensors".

    What a name stands for, and an object that was given, is a subclass of `Criterion`, an instance, or a function: of
    the tensors of a group, giving its [C] scores (`function.needs` says which passes over data it needs).

    Raises:
        ValueError: If there is no such criterion.
    """
    if name.endswith(SUFFIX):
        return SavedScores(name, seed=seed)
    found = find("criterion", name, CRITERIA)
    if isinstance(found, Criterion):
        return found
    made = found.func if isinstance(found, functools.partial) else found
    if isinstance(made, type) and issubclass(made, Criterion):
        with running(f"criterion '{name}'", "while it was made"):
            made = found(**({} if "seed" in getattr(found, "keywords", {}) else {"seed": seed}))
        assert isinstance(made, Criterion)
        return made
    if isinstance(found, type) or not callable(found):
        raise ValueError(f"criterion '{name}': expected a subclass of autoprune.criteria.Criterion, an instance of one "
                         f"or a function of a group's tensors, got {found!r}")  # fmt: skip
    return ScoreFunction(found, seed=seed)


class ScoreFunction(Criterion):
    """The scores that a function gives; what it needs stands in its attribute `needs`."""

    def __init__(self, function: Callable[[GroupTensors], Tensor], *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self._function = function
        self.needs = frozenset(getattr(function, "needs", ()))  # type: ignore[misc]  # of this very one

    def score(self, group: GroupTensors) -> Tensor:
        """What the function says."""
        return self._function(group)


def score_all(
    name: str,
    model: nn.Module,
    space: SearchSpace,
    batches: Batches | None = None,
    seed: int = 0,
    task: Task | None = None,
    device: torch.device | None = None,
) -> Scores:
    """The scores of every unit of every group by one criterion.

    Args:
        name: "l1", "group_fisher", ..., "package.module:Name" or "file.safetensors".
        model: The dense network; left as it is.
        space: Its groups.
        batches: Of the task, for criteria that need gradients or activations.
        seed: For criteria that draw.
        task: How the network is called, and its loss; default: batches are (inputs, class numbers).
        device: Where batches pass; default where the network is.

    Raises:
        ValueError: If the criterion is unknown, needs batches and has none, or gives scores that are not finite.
    """
    return score_many((name,), model, space, batches, seed, task, device)[name]


def score_many(
    names: Sequence[str],
    model: nn.Module,
    space: SearchSpace,
    batches: Batches | None = None,
    seed: int = 0,
    task: Task | None = None,
    device: torch.device | None = None,
) -> dict[str, Scores]:
    """`score_all` for several criteria, with one pass over the batches for all of them."""
    chosen = {n: make(n, seed=seed) for n in names}
    needs = frozenset[str]().union(*(c.needs for c in chosen.values()))
    if needs and batches is None:
        needy = ", ".join(f"'{n}'" for n, c in chosen.items() if c.needs)
        raise ValueError(f"criterion {needy}: needs batches of (inputs, targets), and none were given; "
                         "give some, or choose a criterion that looks at the weights only, e.g. 'l1'")  # fmt: skip
    gathered = gather(model, space, batches, needs, task, device) if needs and batches is not None else Gathered()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    scores: dict[str, list[NDArray[np.float64]]] = {n: [] for n in chosen}
    for number, group in enumerate(space.groups):
        masks = gathered.masks[number] if gathered.masks else None
        activations = gathered.activations[number] if gathered.activations else None
        tensors = collect(group, parameters, gathered.weights, masks, activations)
        for name, criterion in chosen.items():
            with running(f"criterion '{name}'", f"on group '{group.name}'"):
                given = criterion.score(tensors)
            if not isinstance(given, Tensor):
                raise ValueError(f"criterion '{name}', group '{group.name}': expected a tensor of {group.size} scores, "
                                 f"got {type(given).__name__}")  # fmt: skip
            values = given.detach().double().cpu().numpy()
            if values.shape != (group.size,) or not np.isfinite(values).all():
                found = f"shape {values.shape}, {np.isfinite(values).sum()} of them finite"
                raise ValueError(f"criterion '{name}', group '{group.name}': expected {group.size} finite scores, got "
                                 f"{found}; check the weights and the loss for NaN")  # fmt: skip
            scores[name].append(values)
    return {n: tuple(s) for n, s in scores.items()}


def distances(model: nn.Module, space: SearchSpace) -> tuple[NDArray[np.float64], ...]:
    """Squared Euclidean distances between the units of each group, [C, C], over all the weights that make them."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = []
    for group in space.groups:
        parts = collect(group, parameters, {}, None).filters
        nothing = torch.zeros(group.size, 0, dtype=torch.float64)  # for a group that owns no parameter
        table = torch.cat([nothing, *(p.value.double().cpu() for p in parts)], dim=1)
        table -= table.mean(0)  # centred: less is lost in the difference below
        gram = table @ table.T
        norms = gram.diagonal()
        found.append((norms[:, None] + norms - 2 * gram).clamp(min=0).fill_diagonal_(0).numpy())
    return tuple(found)
