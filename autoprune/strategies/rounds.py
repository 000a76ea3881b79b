"""Strategies that follow a plan, round by round."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Sequence

import numpy as np

from autoprune.problem import Problem, Proposal
from autoprune.strategies.strategy import Strategy
from search_spaces import Widths
from search_spaces.encodings import mutate

Plan = Generator[Sequence[Widths], list[float], Widths]
History = tuple[tuple[float, ...], ...]  # the losses of each round so far


class Rounds(Strategy):
    """Measures round after round, each planned from the losses of those before; then the neighbours of its result.

    The candidates of a round do not depend on each other, so they run in parallel; whoever asks for more waits for the
    results. The plan is walked through anew with what has been told, by widths and not by number, so a search goes on
    in the middle of a round, and what somebody else has measured already is not measured again. Widths that projection
    would change are probes.
    """

    opens = False

    def __init__(self, problem: Problem, *, seed: int = 0, num_trials: int = 100) -> None:
        super().__init__(problem, seed=seed, num_trials=num_trials)
        self._steps: dict[History, tuple[list[Widths], bool]] = {}
        self._live: tuple[History, Plan] = (), self.plan()  # how far it was walked last: no need to begin anew

    @abstractmethod
    def plan(self) -> Plan:
        """Yields one round of candidates or more, is sent their losses (infinite: failed), and returns the result."""

    def propose(self, number: int) -> Proposal | None:
        """The next candidate of the round, None while results of it are missing; a neighbour once the plan is done."""
        return self._walk(number, patient=True)

    def ask(self, number: int) -> Widths:
        """What `propose` would say if the results that are missing never came; the widths may be those of a probe."""
        proposal = self._walk(number, patient=False)
        assert proposal is not None  # only the patient wait
        return proposal.widths

    def _walk(self, number: int, patient: bool) -> Proposal | None:
        losses: dict[Widths, float] = {}
        for trial in self.trials:
            if np.isfinite(trial.loss) or trial.widths not in losses:
                losses[trial.widths] = trial.loss
        ahead = max(0, number - len(self.trials))  # so many are running: the first ones of the round
        history: History = ()
        while True:
            said, done = self._step(history)
            if done:
                return Proposal(self._neighbour(number, said[0]))
            missing = [w for w in dict.fromkeys(said) if w not in losses]
            if ahead < len(missing):
                widths = missing[ahead]
                return Proposal(widths, probe=widths != self.problem.project(widths))
            if missing and patient:
                return None
            ahead -= len(missing)
            history = (*history, tuple(losses.get(w, np.inf) for w in said))

    def _step(self, history: History) -> tuple[list[Widths], bool]:
        """What the plan says after the losses of its first rounds: the next one's candidates, or the result alone."""
        if history not in self._steps:
            past, plan = self._live
            if not history or past != history[:-1]:
                plan = self.plan()
                said = next(plan)
                for losses in history[:-1]:
                    said = plan.send(list(losses))
            try:
                said = plan.send(list(history[-1])) if history else said
                self._steps[history] = list(said), False
            except StopIteration as end:
                self._steps[history] = [end.value], True
            self._live = history, plan
        return self._steps[history]

    def _neighbour(self, number: int, centre: Widths) -> Widths:
        """Two groups of the plan's result moved by about a tenth of their range."""
        rng = self.rng(number)
        return self.fresh(mutate(self.problem.space, centre, rng, groups=2, step=0.1), rng)
