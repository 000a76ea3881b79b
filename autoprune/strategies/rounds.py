"""Strategies that follow a plan, round by round."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from autoprune.problem import Problem, Proposal, Trial
from autoprune.strategies.strategy import Strategy
from search_spaces import Widths
from search_spaces.encodings import mutate


@dataclass(frozen=True)
class Round:
    """Candidates that do not depend on each other, and what follows from their losses.

    Attributes:
        candidates: Different ones or not.
        then: Their losses (infinite: failed), and the number of trials of the search when the last of them had been
            asked -> the next round, or the result. A pure function: it is also asked what would follow.
    """

    candidates: Sequence[Widths]
    then: Callable[[list[float], int], Round | Widths]


class Rounds(Strategy):
    """Measures round after round, each planned from the losses of those before; then the neighbours of its result.

    The candidates of a round run in parallel. Nobody waits for the last ones: once the first half of a round is known,
    the others are taken to be like their nearest known candidate, and what would follow is measured in advance; who
    asks for still more gets neighbours of the round's beginning, inside the budgets. So many workers spend evaluations
    beside the plan.

    The plan is walked through anew with what has been told, by widths and not by number, so a search goes on in the
    middle of a round, and what somebody else has measured already is not measured again. Widths that projection would
    change are probes.
    """

    opens = False

    def __init__(self, problem: Problem, *, seed: int = 0, num_trials: int = 100) -> None:
        super().__init__(problem, seed=seed, num_trials=num_trials)
        self._told: dict[Widths, tuple[bool, int, float]] = {}  # whether it failed, number, loss
        self._walked: list[Round | Widths] = []  # the rounds that are complete, and what follows them
        self._guesses: dict[tuple[int, int], Round | Widths] = {}  # (round, known of it) -> what may follow

    @abstractmethod
    def plan(self) -> Round | Widths:
        """The first round."""

    def propose(self, number: int) -> Proposal | None:
        """The next candidate of the plan, in advance if need be; a neighbour; None where nothing new is left."""
        here = self._here()
        if not isinstance(here, Round):
            return Proposal(self._neighbour(number, here))
        if candidate := self._free(here):
            return self._proposal(candidate)
        ahead = self._ahead(here)
        if candidate := self._free(ahead):
            return self._proposal(candidate)
        centre = ahead.candidates[0] if isinstance(ahead, Round) else ahead
        near = self._neighbour(number, self.problem.project(centre))
        return None if near in self._known or near in self.running.values() else Proposal(near)

    def planned(self) -> Proposal | None:
        """The next candidate of this round; None: they all run, or the plan is done."""
        here = self._here()
        candidate = self._free(here) if isinstance(here, Round) else None
        return self._proposal(candidate) if candidate else None

    def ask(self, number: int) -> Widths:
        """See `propose`; where that is None, a neighbour that was asked before."""
        proposal = self.propose(number)
        return proposal.widths if proposal else self._neighbour(number, self.problem.project(self.problem.space.full))

    def tell(self, trial: Trial) -> None:
        """Learn from a finished trial."""
        before, known = len(self.trials), self._told.get(trial.widths)
        super().tell(trial)
        new = len(self.trials) > before
        if not new:  # told again, with another word perhaps
            self._told.clear()
        for t in [trial] if new else self.trials:
            said = not np.isfinite(t.loss), t.number, t.loss
            self._told[t.widths] = min(said, self._told.get(t.widths, said))
        if not new or known not in (None, self._told[trial.widths]):  # a loss that the walk has gone by
            self._walked.clear()
            self._guesses.clear()

    def _here(self) -> Round | Widths:
        """The round that is not complete yet, or the result."""
        self._walked = self._walked or [self.plan()]
        while isinstance(here := self._walked[-1], Round) and all(w in self._told for w in here.candidates):
            losses = [self._told[w][2] for w in here.candidates]
            self._walked.append(here.then(losses, 1 + max((self._told[w][1] for w in here.candidates), default=-1)))
        return self._walked[-1]

    def _proposal(self, candidate: Widths) -> Proposal:
        return Proposal(candidate, probe=candidate != self.problem.project(candidate))

    def _free(self, here: Round | Widths) -> Widths | None:
        """A candidate that nobody has."""
        busy = set(self.running.values())
        candidates = here.candidates if isinstance(here, Round) else [here]
        return next((w for w in candidates if w not in self._told and w not in busy), None)

    def _ahead(self, here: Round) -> Round | Widths:
        """What follows if those that run come out like their nearest known ones; this round where too few are known.

        Of a round all of whose candidates have been asked. Known are those before the first one that is missing, and
        of these so many that a power of two is left: the guess changes seldom, since it may take a while to work out.
        """
        candidates = list(dict.fromkeys(here.candidates))
        missing = len(candidates) - next(i for i, w in enumerate(candidates) if w not in self._told)
        known = len(candidates) - 2 ** math.ceil(math.log2(missing))
        if 2 * known < len(candidates):
            return here
        key = len(self._walked), known
        if key not in self._guesses:
            table = np.array(candidates) / self.problem.space.full
            nearest = np.atleast_1d(cKDTree(table[:known]).query(table, p=1)[1]).tolist()
            losses = {w: self._told[candidates[i]][2] for w, i in zip(candidates, nearest, strict=True)}
            numbers = [self._told[w][1] for w in candidates if w in self._told]
            numbers += [n for n, w in self.running.items() if w in losses]
            self._guesses[key] = here.then([losses[w] for w in here.candidates], 1 + max(numbers))
        return self._guesses[key]

    def _neighbour(self, number: int, centre: Widths) -> Widths:
        """Two groups moved by about a tenth of their range."""
        rng = self.rng(number)
        return self.fresh(mutate(self.problem.space, centre, rng, groups=2, step=0.1), rng)
