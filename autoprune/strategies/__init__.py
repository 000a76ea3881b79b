"""What to try next: `ask(number)` for widths, `tell(trial)` what became of them.

The import lines are the registry; `make` is the one way from a name to a strategy.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from autoprune.problem import Problem
from autoprune.strategies.amc import AMC as AMC
from autoprune.strategies.amc_guaranteed import AMCGuaranteed as AMCGuaranteed
from autoprune.strategies.annealing import Annealing as Annealing
from autoprune.strategies.cmaes import CMAES as CMAES
from autoprune.strategies.combined import Combined as Combined
from autoprune.strategies.encoded import ENCODINGS as ENCODINGS
from autoprune.strategies.encoded import NEEDS as NEEDS
from autoprune.strategies.encoded import RANKINGS as RANKINGS
from autoprune.strategies.encoded import Encoded as Encoded
from autoprune.strategies.encoded import check_encoding
from autoprune.strategies.equal_loss import EqualLoss as EqualLoss
from autoprune.strategies.evolution import Evolution as Evolution
from autoprune.strategies.exemplars import Exemplars as Exemplars
from autoprune.strategies.foreign import Foreign as Foreign
from autoprune.strategies.global_ranking import GlobalRanking as GlobalRanking
from autoprune.strategies.gp import GP as GP
from autoprune.strategies.knapsack import Knapsack as Knapsack
from autoprune.strategies.layer_compensation import LayerCompensation as LayerCompensation
from autoprune.strategies.lcp import LcP as LcP
from autoprune.strategies.legr import LeGR as LeGR
from autoprune.strategies.netadapt import NetAdapt as NetAdapt
from autoprune.strategies.nsga2 import NSGA2 as NSGA2
from autoprune.strategies.opening import ClosedForms as ClosedForms
from autoprune.strategies.opening import FrontForms as FrontForms
from autoprune.strategies.opening import Opened as Opened
from autoprune.strategies.policy_gradient import Reinforce as Reinforce
from autoprune.strategies.random import Random as Random
from autoprune.strategies.rounds import Rounds as Rounds
from autoprune.strategies.sensitivity import Sensitivity as Sensitivity
from autoprune.strategies.sensitivity import SensitivityKnapsack as SensitivityKnapsack
from autoprune.strategies.sensitivity import SensitivityOpening as SensitivityOpening
from autoprune.strategies.strategy import Strategy as Strategy
from autoprune.strategies.tpe import TPE as TPE
from autoprune.strategies.uniform import Uniform as Uniform
from autoprune.strategies.warm_starts import warm_starts as warm_starts
from objectives.plugins import find, running

STRATEGIES: dict[str, type[Strategy]] = {
    c.name: c
    for c in list(globals().values())
    if isinstance(c, type) and issubclass(c, Strategy) and hasattr(c, "name")
}
# Warm starts: strategies with a `length`.
OPENINGS: dict[str, type[Any]] = {"closed": ClosedForms, "sensitivity": SensitivityOpening}


def make(name: str, problem: Problem, seed: int = 0, encoding: str = "", **settings: Any) -> Strategy:
    """The strategy called `name`, or the class "package.module:Name".

    Args:
        name: "evolution", "layer_compensation", ... or "package.module:Name".
        problem: What it searches.
        seed: Of all its draws.
        encoding: What its coordinates mean; "" leaves it to the strategy.
        **settings: Further arguments, e.g. `num_trials`.

    Raises:
        ValueError: If there is no such strategy or encoding, or the strategy has none.
    """
    needs(name, encoding)
    more: dict[str, Any] = {"encoding": encoding} if encoding else {}
    if name in STRATEGIES:
        return STRATEGIES[name](problem, seed=seed, **settings, **more)
    found = find("strategy", name, STRATEGIES)
    with running(f"strategy '{name}'", "while it was made"):
        if isinstance(found, Strategy):
            made = copy.deepcopy(found)  # each search, and each resume, begins with it as it was given
        else:
            made = found(problem, **_taken(found, {"seed": seed, **settings, **more}))
    if not isinstance(made, Strategy):
        raise ValueError(f"strategy '{name}': expected a function of (problem, seed, num_trials) that gives an "
                         f"autoprune.strategies.Strategy, got {made!r}")  # fmt: skip
    if isinstance(found, Strategy):
        _check_made_for(name, made, problem)
    return Foreign(name, made)


def _taken(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a function takes, by its own names for them; a class, and what cannot be asked, takes all.

    A function of (p, s, n) is one of (problem, seed, num_trials).
    """
    parameters = {} if isinstance(function, type) else inspect.signature(function).parameters
    if not parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(settings)
    taken = {name: value for name, value in settings.items() if name in parameters}
    others = (name for name in ("seed", "num_trials") if name in settings and name not in taken)
    unknown = (p.name for p in list(parameters.values())[1:] if p.default is p.empty and p.name not in taken)
    return taken | {theirs: settings[ours] for theirs, ours in zip(unknown, others, strict=False)}


def _check_made_for(name: str, made: Strategy, problem: Problem) -> None:
    """Check that a strategy that was given as an instance is one of this problem.

    Raises:
        ValueError: If it was made for another one.
    """
    there, here = ((p.space.fingerprint, sorted(map(str, p.budgets))) for p in (made.problem, problem))
    if there != here:
        raise ValueError(f"strategy '{name}': was made for another problem (budgets {', '.join(there[1])}); "
                         "give its class, or a function of (problem, seed, num_trials)")  # fmt: skip


def kind(name: str) -> type[Strategy]:
    """The class of the strategy called `name`; of a function, what it is annotated to give, or `Strategy`.

    Raises:
        ValueError: If there is none.
    """
    found = find("strategy", name, STRATEGIES)
    if isinstance(found, Strategy):
        return type(found)
    made = found.func if isinstance(found, functools.partial) else found
    if isinstance(made, type) and issubclass(made, Strategy):
        return made
    if isinstance(made, type) or not callable(made):
        raise ValueError(f"strategy '{name}': expected a subclass of autoprune.strategies.Strategy, an instance of one "
                         f"or a function of (problem, seed, num_trials) that gives one, got {found!r}")  # fmt: skip
    given = getattr(made, "__annotations__", {}).get("return")
    return given if isinstance(given, type) and issubclass(given, Strategy) else Strategy


def needs(name: str, encoding: str = "") -> frozenset[str]:
    """What `Problem` must hold besides the scores for this strategy: "distances", or nothing.

    Raises:
        ValueError: If there is no such strategy or encoding, or the strategy has none.
    """
    found = kind(name)
    if issubclass(found, Encoded):
        chosen = encoding or found.default
        check_encoding(chosen)
        return found.needs | NEEDS.get(chosen, frozenset())
    if encoding:
        choice = ", ".join(n for n, c in STRATEGIES.items() if issubclass(c, Encoded))
        raise ValueError(f"strategy '{name}': searches no encoding, leave out '{encoding}'; those that do: {choice}")
    return found.needs if found is not Strategy else frozenset({"distances"})  # a function: whatever it may make


def check_front(name: str, encoding: str, bounded: bool) -> None:
    """Check that a strategy can search a front: many budgets in one run.

    One that uses its budgets up on purpose has candidates of one size. It is of use only if it learns a ranking of all
    units, which can be cut at other budgets afterwards.

    Args:
        name: As in `make`.
        encoding: Likewise.
        bounded: Whether the user gave a budget.

    Raises:
        ValueError: If it cannot.
    """
    found = kind(name)
    if not found.fills:
        return
    if not (issubclass(found, Encoded) and (encoding or found.default) in RANKINGS):
        ranking = ", ".join(n for n, c in STRATEGIES.items() if issubclass(c, Encoded) and c.default in RANKINGS)
        raise ValueError(
            f"front: strategy '{name}' searches at one budget and learns no ranking that could be cut at others; use "
            f"nsga2, or with a --budget {ranking}, or an encoding of rankings (--encoding {RANKINGS[0]})"
        )
    if not bounded:
        raise ValueError(f"front: strategy '{name}' learns its ranking at one budget; give that --budget, or use nsga2")


def open_with(name: str, strategy: Strategy) -> Strategy:
    """The strategy after the warm starts called `name`: "closed", "sensitivity", "none".

    Strategies that begin on their own (closed forms, scans, NetAdapt) stay as they are.

    Raises:
        ValueError: If there are no such warm starts, or a scan is asked for where it is of no use.
    """
    if name not in (*OPENINGS, "none"):
        raise ValueError(f"warm starts '{name}': unknown; known: {', '.join(OPENINGS)}, none")
    if name == "sensitivity" and not strategy.opens:
        raise ValueError(f"warm starts '{name}': strategy '{strategy.name}' begins on its own; leave them out")
    if name == "none" or not strategy.opens:
        return strategy
    whole = strategy.problem.front and not strategy.fills
    forms = FrontForms if name == "closed" and whole else OPENINGS[name]
    opening = forms(strategy.problem, seed=strategy.seed, num_trials=strategy.num_trials)
    return Opened(opening, opening.length, strategy)
