"""The measured costs that budgets need: metric -> predictor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from objectives.budget import Budget
from objectives.latency.backend import Backend, rebatched
from objectives.latency.comparing import compare
from objectives.latency.measuring import study
from objectives.latency.predictor import Latency
from objectives.latency.registry import make
from search_spaces import SearchSpace


def backends(budgets: Iterable[Budget], command: str = "") -> dict[str, Backend]:
    """Metric -> backend of the budgets on a latency, ready to measure here.

    Raises:
        ValueError: If there is no such backend, it is not installed, or the machine is not like that.
    """
    return {b.metric: make(b.target, command) for b in budgets if b.target}


def predictors(
    budgets: Iterable[Budget],
    model: nn.Module,
    space: SearchSpace,
    example: Any,
    command: str = "",
    known: Mapping[str, Latency] | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Latency]:
    """Metric -> predictor of the budgets on a latency; measured here where it is not known.

    Args:
        budgets: Of the search.
        model: The dense network, in eval mode, on the CPU.
        space: Its search space.
        example: One batch as it is called with.
        command: What the remote backend calls.
        known: Predictors that a run has kept.
        say: Called with a line before networks are measured; not if the cache has what they took.

    Raises:
        ValueError: If a backend cannot measure here, or refuses the network.
    """
    known = known or {}
    wanted = tuple(b for b in budgets if b.target)
    here = backends((b for b in wanted if b.metric not in known), command)
    return {
        b.metric: known.get(b.metric) or study(here[b.metric], b.metric, model, space, example, say=say) for b in wanted
    }


def reached_with_depth(
    budgets: Iterable[Budget], model: nn.Module, space: SearchSpace, example: Any, command: str = ""
) -> dict[str, float]:
    """Metric -> the share of the dense network's latency that the smallest network takes without its branches.

    Measured, since the predictors of a space whose branches have to stay know nothing of networks without them.

    Args:
        budgets: That cannot hold; those on no latency are passed over.
        model: The dense network, in eval mode, on the CPU.
        space: Its search space.
        example: One batch as it is called with.
        command: What the remote backend calls.

    Returns:
        Empty if no branch may vanish that has to stay in `space`.
    """
    if space.vanishing is not None or space.deep.vanishing is None:
        return {}
    found = {}
    for metric, backend in backends(budgets, command).items():
        batch = rebatched(example, backend.setting.batch)
        with backend.ready():
            build = backend.candidates(model, space.deep, batch, delivered=True)
            found[metric] = compare(backend, build, space.full, space.deep.floor).share
    return found
