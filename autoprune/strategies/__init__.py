"""What to try next: `ask(number)` for widths, `tell(trial)` what became of them.

The import lines are the registry; `make` is the one way from a name to a strategy.
"""

from typing import Any

from autoprune.problem import Problem
from autoprune.strategies.cmaes import CMAES as CMAES
from autoprune.strategies.evolution import Evolution as Evolution
from autoprune.strategies.global_ranking import GlobalRanking as GlobalRanking
from autoprune.strategies.knapsack import Knapsack as Knapsack
from autoprune.strategies.layer_compensation import LayerCompensation as LayerCompensation
from autoprune.strategies.random import Random as Random
from autoprune.strategies.strategy import Strategy as Strategy
from autoprune.strategies.tpe import TPE as TPE
from autoprune.strategies.uniform import Uniform as Uniform
from autoprune.strategies.warm_starts import warm_starts as warm_starts
from objectives.plugins import find

STRATEGIES: dict[str, type[Strategy]] = {
    c.name: c
    for c in list(globals().values())
    if isinstance(c, type) and issubclass(c, Strategy) and hasattr(c, "name")
}


def make(name: str, problem: Problem, seed: int = 0, **settings: Any) -> Strategy:
    """The strategy called `name`, or the class "package.module:Name".

    Args:
        name: "evolution", "layer_compensation", ... or "package.module:Name".
        problem: What it searches.
        seed: Of all its draws.
        **settings: Further arguments, e.g. `num_trials`.

    Raises:
        ValueError: If there is no such strategy.
    """
    found = find("strategy", name, STRATEGIES)
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise ValueError(f"strategy '{name}': expected a subclass of autoprune.strategies.Strategy, got {found!r}")
    return found(problem, seed=seed, **settings)
