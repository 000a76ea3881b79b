"""Strategies that search the points of an encoding, whatever its coordinates mean."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np

from autoprune.allocation import factors
from autoprune.problem import Problem, Proposal, Trial
from autoprune.strategies.strategy import Strategy
from search_spaces import Widths
from search_spaces.encodings import Affine, Depth, Encoding, Floats, LayerCompensation, Preferences, Ratios, Shift

ENCODINGS: dict[str, Callable[[Problem], Encoding]] = {
    "ratios": lambda problem: Ratios(problem.space),
    "compensation": lambda problem: LayerCompensation(problem.space, problem.scores),
    "shift": lambda problem: Shift(problem.space, problem.scores),
    "affine": lambda problem: Affine(problem.space, problem.scores),
    "exemplars": lambda problem: Preferences(problem.space, factors(problem)),
}
RANKINGS = ("compensation", "shift", "affine", "exemplars")  # any budget is a cut, nested in those of larger ones
NEEDS = {"exemplars": frozenset({"distances"})}  # what `Problem` must hold for an encoding besides the scores


class Encoded(Strategy):
    """Proposes points of an encoding.

    Args:
        problem: Space, budgets and scores.
        seed: Of all draws.
        num_trials: How many evaluations the search plans, for schedules.
        encoding: What the coordinates mean, by name or ready-made; the class's `default` unless told otherwise.

    Raises:
        ValueError: If there is no such encoding.
    """

    default: ClassVar[str] = "ratios"

    def __init__(
        self, problem: Problem, *, seed: int = 0, num_trials: int = 100, encoding: str | Encoding = ""
    ) -> None:
        super().__init__(problem, seed=seed, num_trials=num_trials)
        self.encoding = make_encoding(encoding or self.default, problem) if isinstance(encoding, str) else encoding

    @abstractmethod
    def point(self, number: int, rng: np.random.Generator) -> Floats:
        """The point [D] to try as trial `number`."""

    def propose(self, number: int) -> Proposal:
        """The widths at `point`, projected, with the point as their genes (unless the widths say it all)."""
        rng = self.rng(number)
        return self.proposal(self.point(number, rng), self.problem, rng)

    def proposal(self, x: Floats, problem: Problem, rng: np.random.Generator) -> Proposal:
        """The widths at the point `x` [D] inside the budgets of `problem`, and the point if they stand for it."""
        decoded = problem.project(self.encoding.decode(x, problem.feasibility.fits))
        widths = self.fresh(decoded, rng, problem)
        told = widths == decoded and not isinstance(getattr(self.encoding, "inner", self.encoding), Ratios)
        return Proposal(widths, tuple(map(float, x)) if told else ())

    def ask(self, number: int) -> Widths:
        """See `propose`."""
        return self.propose(number).widths

    def at(self, trial: Trial) -> Floats:
        """The point [D] of a trial: its genes, or for who has none the point that its widths encode."""
        if len(trial.genes) == self.encoding.dim:
            return np.array(trial.genes)
        return self.encoding.encode(trial.widths)


def make_encoding(name: str, problem: Problem) -> Encoding:
    """The encoding called `name`.

    Raises:
        ValueError: If there is none.
    """
    check_encoding(name)
    if problem.space.vanishing is None:
        return ENCODINGS[name](problem)
    return Depth(problem.space, ENCODINGS[name](replace(problem, space=problem.space.standing)))


def check_encoding(name: str) -> None:
    """Check that there is an encoding called `name`.

    Raises:
        ValueError: If there is none.
    """
    if name not in ENCODINGS:
        raise ValueError(f"encoding '{name}': unknown; known: {', '.join(ENCODINGS)}")
