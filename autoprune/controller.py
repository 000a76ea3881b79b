"""The only writer of the ledger: hands out jobs, takes results, and lets the strategy learn.

On a database server there may be several of them. Each acts in its turn, which begins with what the others have
written, so that in effect there is one. A job's owner is then "controller/worker".

Everything it knows follows from the ledger, so a controller that was killed is simply made again. The strategy is told
the finished trials in the order in which they finished; with one worker a resumed search therefore equals one that was
never stopped, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from autoprune.errors import SearchStopped
from autoprune.fidelity import PROXY, Fidelity
from autoprune.ledger import Entry, Ledger, plain
from autoprune.limits import Limits, StoppingRule
from autoprune.problem import Proposal, Trial, TrialState
from autoprune.schedule import WAIT as WAIT
from autoprune.schedule import Halving, Order, Tally, Wait, best, is_cached, num_evaluations
from autoprune.tradeoff import TradeOff
from objectives.plugins import PluginError
from search_spaces import Widths

if TYPE_CHECKING:  # a worker needs no strategies
    from autoprune.strategies import Strategy

Key = tuple[str, Widths, bool]  # fidelity, widths, whether a probe: trials of the same key share one evaluation

MAX_DEATHS = 3  # workers that one candidate may kill
MAX_END_DEATHS = 5  # if a whole controller died, which may well have been killed from outside
CHECK_S = 2.0  # between two looks whether the other controllers live
POLL_S = 0.25  # to ask again while only the others can bring news


@dataclass(frozen=True)
class Job:
    """One candidate to evaluate.

    Attributes:
        number: Of its trial.
        widths: Kept units per group.
        fidelity: How well it is to be evaluated.
        incumbent: Losses per validation batch of the best complete trial of this fidelity when the job was first
            handed out, to abandon a hopeless candidate early; None for the first one.
    """

    number: int
    widths: Widths
    fidelity: Fidelity = PROXY
    incumbent: tuple[float, ...] | None = None


class SearchCallback(Protocol):
    """Who wants to see the search move (a progress bar)."""

    def on_asked(self, job: Job) -> None:
        """A worker starts on this job."""

    def on_told(self, trial: Trial) -> None:
        """This trial has finished."""


class SearchController:
    """Runs one search on one ledger; workers ask and tell, in any number and any order.

    Args:
        ledger: Open for writing.
        strategy: Fresh: it is told all that the ledger holds.
        schedule: What is evaluated when, how well; it may have more trials on a resume.
        project: Makes what the strategy proposes feasible: a plug-in may forget to.
        limits: What ends the search before its last trial.
        tradeoff: What counts in a search with several goals; None: the loss.
        measured: Whether finalists are measured for a latency budget: none is given up early then.
    """

    def __init__(
        self,
        ledger: Ledger,
        strategy: Strategy,
        schedule: Halving,
        *,
        project: Callable[[Widths], Widths] = tuple,
        limits: Limits = Limits(),  # noqa: B008, it does not change
        tradeoff: TradeOff | None = None,
        measured: bool = False,
    ) -> None:
        self.ledger = ledger
        self.listener: SearchCallback | None = None
        self._strategy, self._project = strategy, project
        self._announce = getattr(strategy, "asked", lambda trial: None)  # not all want to know what runs
        self._schedule = schedule if tradeoff is None else replace(schedule, choose=tradeoff.finalists)
        self._tradeoff, self._measured = tradeoff, measured
        self._watch = StoppingRule(limits, schedule.first)
        self._known: dict[Key, int] = {}  # the trial that answers for others of the same key
        self._copies: dict[int, list[int]] = {}  # trial -> running trials of the same widths that wait for its result
        self._best: dict[str, Trial] = {}  # fidelity -> the incumbent
        self._owners: dict[int, str] = {}  # what is in flight -> the worker
        self._free: set[int] = set()  # in flight, but the owner died or has not been seen since the start
        self._asked_at: dict[int, float] = {}
        self._turns = [0]  # number of a trial -> how many of the proxies came before it
        self._met = 0  # trials that it knows; the ledger may have more, of other controllers, until they are taken in
        self._next_check = -math.inf
        self._tally = Tally()
        self._replay()

    @property
    def trials(self) -> list[Trial]:
        """Every trial so far, in number order."""
        return self.ledger.trials

    @property
    def best(self) -> Trial | None:
        """The lowest loss at the highest fidelity reached; None before the first complete trial."""
        choose = self._tradeoff.best if self._tradeoff else best
        return choose(self._schedule.able(self.trials), self._schedule.fidelities)

    @property
    def num_evaluations(self) -> int:
        """Trials that were, or are being, really evaluated (the others were answered from the ledger)."""
        return num_evaluations(self.trials)

    @property
    def in_flight(self) -> dict[str, int]:
        """Worker -> number of the trial it has."""
        mine = self._owner("")
        return {owner.removeprefix(mine): number for number, owner in self._owners.items()}

    @property
    def poll_s(self) -> float:
        """Seconds after which WAIT may be over although none of one's own workers has finished; infinite if alone."""
        return POLL_S if self.ledger.me else math.inf

    def ask(self, worker: str) -> Job | Wait | None:
        """A job, WAIT (ask again when another one has finished), or None (the search is over).

        A worker that has a job and asks again gets the same one. Jobs of lost workers come first, then new ones.

        Raises:
            SearchStopped: If too many candidates failed, in a row or of all.
        """
        return self.ledger.turn(self._take_in, lambda: self._ask(self._owner(worker)))

    def _ask(self, worker: str) -> Job | Wait | None:
        self._check_others()
        if failing := self._watch.failing():
            last = max((e for e in self.ledger.entries if e.trial.error), key=lambda e: e.order).trial
            text = f"{failing}, trial {last.number} with: {last.error}"
            raise SearchStopped(f"{text}; remove the cause, then resume")
        own = next((number for number, owner in self._owners.items() if owner == worker), None)
        if own is not None or self._free:
            return self._hand_out(min(self._free) if own is None else own, worker)
        enough = self._watch.is_enough(self.ledger.worked_s)
        while isinstance(order := self._schedule.next(self.trials, self._tally, enough), Order):
            number = len(self.ledger.trials)
            proposal = self._propose(number) if order.widths is None else Proposal(order.widths)
            if proposal is None:
                return WAIT
            widths = tuple(proposal.widths)
            if order.widths is None and not proposal.probe:
                widths = tuple(self._project(widths))
            same_as = self._known.get((order.fidelity, widths, proposal.probe), number)
            first = same_as == number
            incumbent = self._rival(order.fidelity, widths) if first and not proposal.probe else None
            trial = self.ledger.start(
                widths,
                order.fidelity,
                worker if first else "",
                incumbent=incumbent.number if incumbent else None,
                same_as=None if first else same_as,
                genes=proposal.genes,
                probe=proposal.probe,
            )
            self._meet(trial, None if first else same_as)
            if first:
                return self._hand_out(number, worker)
            self._settle(same_as)
        return order

    def tell(self, worker: str, number: int, result: Mapping[str, Any] | str) -> Trial:
        """Take a result: metrics with a finite "loss" (and "abandoned" if it is an estimate), or why it failed.

        The first answer wins, whoever gives it: further ones change nothing.

        Raises:
            ValueError: If no such trial was asked.
        """
        return self.ledger.turn(self._take_in, lambda: self._tell(self._owner(worker), number, result))

    def _tell(self, worker: str, number: int, result: Mapping[str, Any] | str) -> Trial:
        if not 0 <= number < len(self.ledger.trials):
            raise ValueError(f"trial {number}: never asked; {len(self.ledger.trials)} trials were")
        trial = self.ledger.trials[number]
        if trial.state is not TrialState.RUNNING or is_cached(trial):
            return trial
        trial = _finished(replace(trial, worker=worker), result)
        measured = trial.metrics.get("seconds_total")
        if not isinstance(measured, int | float) or not 0 <= measured < math.inf:
            measured = time.monotonic() - self._asked_at.get(number, time.monotonic())
        return self._finish(replace(trial, seconds=float(measured)))

    def lost(self, worker: str, error: str, max_deaths: int = MAX_DEATHS) -> None:
        """A worker died: its job goes to the next one that asks, or fails if it has killed too many."""
        counted: dict[int, int] = {}  # the database may go away in the middle: no death counts twice
        self.ledger.turn(self._take_in, lambda: self._lost(self._owner(worker), error, max_deaths, counted))

    def _lost(self, worker: str, error: str, max_deaths: int, counted: dict[int, int]) -> None:
        for number in [n for n, owner in self._owners.items() if owner == worker]:
            counted.setdefault(number, self.ledger.entries[number].deaths + 1)
        for number, deaths in counted.items():
            if self.ledger.entries[number].deaths < deaths and number in self._owners:
                self.ledger.count_death(number)
                self.ledger.assign(number, "")  # whoever takes over from this controller must not wait for the dead
                self._hold(number, "")
            if deaths >= max_deaths:
                self._tell(worker, number, f"killed its worker {deaths} times, at last: {error}")

    def release(self, worker: str) -> None:
        """A worker stops in good order: its job waits for the next one, and is not blamed."""
        self.ledger.turn(self._take_in, lambda: self._release(self._owner(worker)))

    def _release(self, worker: str) -> None:
        for number in [n for n, owner in self._owners.items() if owner == worker]:
            self.ledger.assign(number, "")
            self._hold(number, "")

    def keep_owners(self) -> None:
        """The workers live on although the controller was made again: nobody else gets what they have in hand."""
        self._free = {number for number in self._free if not self._owners[number]}

    def _propose(self, number: int) -> Proposal | None:
        """What the strategy proposes; None: it waits for a running trial."""
        with self._resumable():
            proposal = self._strategy.propose(self._turn(number))
        if proposal is None and not any(t.state is TrialState.RUNNING for t in self.ledger.trials):
            text = "the strategy proposes nothing although all trials have finished; choose another one"
            raise SearchStopped(text)
        return proposal

    def _turn(self, number: int) -> int:
        """What a strategy calls trial `number`: it counts its own, not finalists of an earlier end of the search."""
        for trial in self.ledger.trials[len(self._turns) - 1 : number]:
            self._turns.append(self._turns[-1] + (trial.fidelity == self._schedule.first))
        return self._turns[number]

    def _rival(self, fidelity: str, widths: Widths) -> Trial | None:
        """Who makes a candidate hopeless by being surely better."""
        if self._measured and fidelity != self._schedule.first:
            return None  # the rival may break a latency budget when it is measured
        if self._tradeoff:
            return self._tradeoff.rival(self.trials, widths, fidelity)
        return self._best.get(fidelity)

    def _hand_out(self, number: int, worker: str) -> Job:
        entry = self.ledger.entries[number]
        again = number in self._asked_at and self._owners.get(number) == worker and number not in self._free
        if entry.trial.worker != worker:
            self.ledger.assign(number, worker)
        self._hold(number, worker)
        incumbent = None if entry.incumbent is None else self.ledger.trials[entry.incumbent]
        losses = tuple(incumbent.metrics["batch_losses"]) if incumbent else None
        job = Job(number, entry.trial.widths, entry.trial.fidelity, losses)
        if not again:
            self._asked_at[number] = time.monotonic()
            if self.listener:
                self.listener.on_asked(job)
        return job

    def _finish(self, trial: Trial) -> Trial:
        self.ledger.finish(trial)
        self._see_finished(trial)
        self._settle(trial.number)
        return trial

    def _settle(self, same_as: int) -> None:
        """Finish those that share the result of a trial, if it has one."""
        known, copies = self.ledger.trials[same_as], self._copies.get(same_as, [])
        while copies and known.state is not TrialState.RUNNING:
            copy = self.ledger.trials[copies[0]]
            if copy.state is TrialState.RUNNING:
                metrics = {**known.metrics, "cached": True}
                self._finish(replace(copy, state=known.state, metrics=metrics, worker=known.worker, error=known.error))
            del copies[0]  # now: a write that fails must find it here when it is repeated
        if not copies:
            self._copies.pop(same_as, None)

    def _meet(self, trial: Trial, same_as: int | None) -> None:
        """Know a trial that has been asked."""
        self._met = trial.number + 1
        if same_as is None and trial.state is not TrialState.FAIL:
            self._known.setdefault(_key(trial), trial.number)
        if same_as is not None and trial.state is TrialState.RUNNING:
            self._copies.setdefault(same_as, []).append(trial.number)
        if self._schedule.is_proposal(trial):
            self._tally.add(trial)
        if trial.fidelity == self._schedule.first and trial.state is TrialState.RUNNING:
            self._announce(replace(trial, number=self._turn(trial.number)))

    def _hold(self, number: int, owner: str) -> None:
        """This owner has the job now; nobody ("") leaves it to the next one that asks."""
        self._owners[number] = owner
        (self._free.discard if owner else self._free.add)(number)

    def _see_finished(self, trial: Trial) -> None:
        self._owners.pop(trial.number, None)
        self._free.discard(trial.number)
        if not is_cached(trial):
            self._watch.count(trial)
        self._learn(trial)
        if self.listener:
            self.listener.on_told(trial)

    def _learn(self, trial: Trial) -> None:
        self._watch.learn(trial)
        key = _key(trial)
        if trial.state is TrialState.FAIL and self._known.get(key) == trial.number:
            del self._known[key]  # it may have been bad luck: proposed again, it gets another chance
        measured = trial.state is TrialState.COMPLETE and "batch_losses" in trial.metrics and not is_cached(trial)
        if measured and not trial.probe and self._schedule.allowed(trial.widths):
            incumbent = self._best.get(trial.fidelity)
            if incumbent is None or trial.loss < incumbent.loss:
                self._best[trial.fidelity] = trial
        if trial.fidelity == self._schedule.first:
            with self._resumable():
                self._strategy.tell(replace(trial, number=self._turn(trial.number)))

    @contextmanager
    def _resumable(self) -> Iterator[None]:
        """A strategy from outside that fails in the middle stops the search; what was told is safe."""
        try:
            yield
        except PluginError as error:
            if not self.ledger.trials:
                raise
            raise SearchStopped(f"{error}; mend it, then resume") from error

    def _replay(self) -> None:
        """Become what the controller was that wrote the ledger."""
        for entry in self.ledger.entries:
            self._meet(entry.trial, entry.same_as)
        for entry in sorted((e for e in self.ledger.entries if e.order >= 0), key=lambda e: e.order):
            self._learn(entry.trial)
        for entry in [e for e in self.ledger.entries if e.order < 0 and e.same_as is None]:
            self._hold(entry.trial.number, entry.trial.worker)
            if entry.trial.worker.startswith(self._owner("")):  # of a controller alone: all
                self._free.add(entry.trial.number)
        self.ledger.turn(self._take_in, self._settle_all)

    def _settle_all(self) -> None:
        for same_as in list(self._copies):
            self._settle(same_as)

    def _take_in(self, changed: list[Entry]) -> None:
        """Become what the controllers are that have written these entries since."""
        for entry in sorted((e for e in changed if e.order >= 0), key=lambda e: e.order):
            self._see_finished(entry.trial)
        for entry in changed:
            if entry.trial.number >= self._met:
                self._meet(entry.trial, entry.same_as)
            if entry.order < 0 and entry.same_as is None:
                self._hold(entry.trial.number, entry.trial.worker)
        self._settle_all()

    def _check_others(self) -> None:
        """Take back the jobs of controllers that are dead."""
        if not self.ledger.me or time.monotonic() < self._next_check:
            return
        self._next_check = time.monotonic() + CHECK_S
        controllers = {owner: owner.rpartition("/")[0] for owner in self._owners.values() if owner}
        dead = {name for name in controllers.values() if name != self.ledger.me and not self.ledger.lives(name)}
        for owner in [owner for owner, name in controllers.items() if name in dead]:
            self._lost(owner, "its controller died", MAX_END_DEATHS, {})

    def _owner(self, worker: str) -> str:
        return f"{self.ledger.me}/{worker}" if self.ledger.me else worker


def _key(trial: Trial) -> Key:
    return trial.fidelity, trial.widths, trial.probe


def _finished(trial: Trial, result: Mapping[str, Any] | str) -> Trial:
    """The trial with its result; what is no proper result is a failure that says so."""
    if isinstance(result, str):
        return replace(trial, state=TrialState.FAIL, error=result)
    try:
        metrics = plain(dict(result))
        loss = float(metrics["loss"])
    except (ValueError, TypeError, KeyError) as error:
        text = f"the evaluator must return metrics with a number 'loss'; {type(error).__name__}: {error}"
        return replace(trial, state=TrialState.FAIL, error=text)
    if not math.isfinite(loss):
        return replace(trial, state=TrialState.FAIL, error=f"loss is {loss}")
    return replace(trial, state=TrialState.PRUNED if metrics.get("abandoned") else TrialState.COMPLETE, metrics=metrics)
