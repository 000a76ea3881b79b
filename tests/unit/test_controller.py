"""The controller: every asked trial ends exactly once, whatever dies and whenever."""

import errno
import itertools
import multiprocessing as mp
import os
import signal
import sys
import warnings
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from autoprune import strategies
from autoprune.controller import WAIT, Job, SearchController
from autoprune.errors import CandidateFailed, DeviceBroken, LedgerUnwritable, SearchStopped
from autoprune.ledger import Ledger
from autoprune.limits import Limits
from autoprune.problem import Problem, Proposal, TrialState
from autoprune.schedule import Halving
from autoprune.workers import run_here
from autoprune.workers.attempt import attempt
from objectives import parse
from search_spaces import Axis, ChannelGroup, Layer, SearchSpace

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import toys


class Fixed:
    """A strategy that proposes what it is given, and keeps what it is told."""

    def __init__(self, *proposals):
        self.proposals, self.told = proposals, []

    def propose(self, number):
        return Proposal(self.proposals[number % len(self.proposals)])

    def tell(self, trial):
        self.told.append(trial)


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def control(run, strategy=None, groups=None, **more):
    ledger = Ledger.open(run, groups or {"a": 1000}, {"seed": 3})
    schedule = Halving(more.pop("num_trials", 3), more.pop("rungs", ((0, "short"),)))
    return SearchController(ledger, strategy or Fixed((1,), (2,), (3,)), schedule, **more)


def toy(run, **more):
    more = {"num_trials": toys.NUM_TRIALS, "rungs": (toys.FINALISTS,), **more}
    return control(run, toys.Evolution(3), toys.GROUPS, **more)


def facts(trials):
    """All that must be the same in a resumed search and in one that was never stopped."""
    return [(t.number, t.widths, t.state, dict(t.metrics), t.fidelity, t.error) for t in trials]


def number_of_results(run):
    return (run / "ledger.log").read_text().count('"result"')


@pytest.mark.parametrize("breaks", [None, RuntimeError, TypeError])
def test_jobs_may_be_evaluated_together(run, breaks):
    """Four at a time, of one fidelity each; what goes wrong together is evaluated one by one."""
    alone, counts = control(run / "alone", num_trials=10, rungs=((2, "short"),)), []
    run_here(alone, lambda job: {"loss": 1 / job.widths[0]})

    def several(jobs):
        counts.append(len(jobs))
        assert len({job.fidelity for job in jobs}) == 1
        if breaks:
            raise breaks("of a metric, or of torch")
        return [{"loss": 1 / job.widths[0]} for job in jobs]

    c = control(run / "together", num_trials=10, rungs=((2, "short"),))
    run_here(c, lambda job: {"loss": 1 / job.widths[0]}, several=several, together=4)
    assert 1 < max(counts) <= 4
    assert [(t.widths, t.loss, t.fidelity) for t in c.trials] == [(t.widths, t.loss, t.fidelity) for t in alone.trials]


def test_a_job_is_asked_told_and_learnt(run):
    c = control(run)
    job = c.ask("w0")
    assert job == Job(0, (1,), "proxy", None)
    assert c.ask("w0") == job  # again: the same
    assert c.in_flight == {"w0": 0}
    trial = c.tell("w0", 0, {"loss": 0.5, "batch_losses": [0.4, 0.6], "seconds_total": 2.0})
    assert (trial.state, trial.loss, trial.worker, trial.seconds) == (TrialState.COMPLETE, 0.5, "w0", 2.0)
    assert c._strategy.told == [trial]
    assert c.ask("w0") == Job(1, (2,), "proxy", (0.4, 0.6))  # with the incumbent's losses
    assert c.best == trial


@pytest.mark.parametrize("measured", [False, True])
def test_a_finalist_is_not_given_up_for_one_that_may_not_hold_when_it_is_measured(run, measured):
    c = control(run, num_trials=2, rungs=((2, "short"),), measured=measured)
    jobs = []
    while isinstance(job := c.ask("w0"), Job):
        jobs.append((job.fidelity, job.incumbent))
        c.tell("w0", job.number, {"loss": 0.5, "batch_losses": [0.5]})
    assert jobs == [
        ("proxy", None), ("proxy", (0.5,)), ("short", None), ("short", None if measured else (0.5,)),
    ]  # fmt: skip


def test_what_the_strategy_proposes_is_made_feasible(run):
    c = control(run, Fixed((400,), (900,), (901,)), project=lambda widths: (min(*widths, 500),))
    jobs = []
    while job := c.ask("w0"):
        jobs.append(job.widths)
        c.tell("w0", job.number, {"loss": 0.5})
    assert jobs[:2] == [(400,), (500,)]
    assert {t.widths for t in c.trials} == {(400,), (500,)}


def test_the_first_answer_wins_whoever_gives_it(run):
    c = control(run)
    c.ask("w0")
    first = c.tell("w0", 0, {"loss": 0.5})
    assert c.tell("w0", 0, {"loss": 0.1}) == first
    assert c.tell("w9", 0, "out of memory") == first
    assert c._strategy.told == [first]
    assert number_of_results(run) == 1
    with pytest.raises(ValueError, match="trial 7: never asked; 1 trials were"):
        c.tell("w0", 7, {"loss": 0.1})


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ("out of memory", "out of memory"),
        ({"loss": float("nan")}, "loss is nan"),
        ({"loss": float("inf")}, "loss is inf"),
        ({"top1": 0.5}, "must return metrics with a number 'loss'; KeyError"),
        ({"loss": None}, "must return metrics with a number 'loss'; TypeError"),
        ({"loss": 0.1, "model": object()}, "must be plain numbers"),
        (None, "must return metrics"),
    ],
)
def test_a_bad_result_fails_the_trial_and_the_search_goes_on(run, result, reason):
    c = control(run)
    c.ask("w0")
    trial = c.tell("w0", 0, result)
    assert trial.state is TrialState.FAIL
    assert reason in trial.error
    assert c._strategy.told == [trial]
    assert c.ask("w0").number == 1


def test_known_widths_are_answered_from_the_ledger(run):
    c = control(run, Fixed((1,), (1,), (2,), (1,), (3,)))
    c.ask("w0")
    assert c.ask("w1").number == 2  # trial 1 has the widths of trial 0, which runs
    c.tell("w0", 0, {"loss": 0.5, "top1": 0.8})
    copy = c.trials[1]
    assert copy.state is TrialState.COMPLETE
    assert dict(copy.metrics) == {"loss": 0.5, "top1": 0.8, "cached": True}
    c.ledger.close()
    c = control(run, c._strategy)  # and after a restart, which tells the strategy all again
    c._strategy.told = c._strategy.told[2:]
    assert c.ask("w1").number == 2
    assert c.ask("w0").number == 4  # trial 3 too
    assert [t.number for t in c._strategy.told] == [0, 1, 3]
    assert c.num_evaluations == 3


def test_widths_that_failed_get_another_chance_and_their_copies_fail_too(run):
    c = control(run, Fixed((1,), (1,), (2,), (1,)))
    c.ask("w0")
    c.ask("w1")
    c.tell("w0", 0, "bad luck")
    assert c.trials[1].error == "bad luck"
    assert c.ask("w0") == Job(3, (1,), "proxy", None)


def test_a_strategy_that_repeats_itself_does_not_run_for_ever(run):
    c = control(run, Fixed((1,)), num_trials=1000)
    c.ask("w0")
    assert c.ask("w1") is WAIT
    c.tell("w0", 0, {"loss": 0.5})
    assert c.ask("w0") is None
    assert c.num_evaluations == 1


def test_jobs_of_a_lost_worker_go_to_the_next_and_three_deaths_are_enough(run):
    c = control(run)
    job = c.ask("w0")
    c.lost("w0", "killed by SIGKILL")
    assert c.ask("w1") == job
    assert c.trials[0].worker == "w1"
    c.lost("w0", "again")  # it has nothing any more
    c.lost("w1", "killed by SIGSEGV")
    c.ledger.close()
    c = control(run)  # deaths are kept over a restart
    assert c.ask("w1") == job
    c.lost("w1", "killed by SIGKILL")
    assert c.trials[0].state is TrialState.FAIL
    assert c.trials[0].error == "killed its worker 3 times, at last: killed by SIGKILL"
    assert c.ask("w1").number == 1


def test_a_search_in_which_all_fails_stops_with_the_last_error(run):
    c = control(run, num_trials=100, limits=Limits(max_failures=3), strategy=Fixed(*((i,) for i in range(100))))
    for number, result in enumerate(["a", "b", {"loss": 1.0}, "c", "d", "e"]):
        c.ask("w0")
        c.tell("w0", number, result)
    with pytest.raises(SearchStopped, match="the last 3 candidates all failed, trial 5 with: e; remove the cause"):
        c.ask("w0")
    c.ledger.close()
    again = control(run, num_trials=100, limits=Limits(max_failures=3), strategy=Fixed((5,)))
    assert again.ask("w0").number == 6  # the cause may have been removed


def test_the_incumbent_of_a_job_does_not_change_when_it_is_handed_out_again(run):
    c = control(run)
    c.ask("w0")
    c.tell("w0", 0, {"loss": 0.5, "batch_losses": [0.5]})
    c.ask("w0"), c.ask("w1")
    c.tell("w1", 2, {"loss": 0.1, "batch_losses": [0.1]})
    c.ledger.close()
    assert control(run).ask("w0") == Job(1, (2,), "proxy", (0.5,))


def test_a_listener_hears_of_every_job_and_every_finished_trial(run):
    heard = []

    class Listener:
        def on_asked(self, job):
            heard.append(("asked", job.number))

        def on_told(self, trial):
            heard.append(("told", trial.number))

    c = control(run, Fixed((1,), (1,), (2,), (3,)))
    run_here(c, lambda job: {"loss": 1.0}, listener=Listener())
    expected = [("asked", 0), ("told", 0), ("told", 1), ("asked", 2), ("told", 2), ("asked", 3), ("told", 3)]
    assert heard == expected


def test_a_finished_search_is_over_and_may_be_extended(run):
    whole = toy(run)
    run_here(whole, toys.measure)
    assert whole.num_evaluations == toys.NUM_TRIALS + 3
    assert whole.best.fidelity == "short"
    assert whole.ask("here") is None
    whole.ledger.close()
    more = toy(run, num_trials=toys.NUM_TRIALS + 10)
    run_here(more, toys.measure)
    assert facts(more.trials)[: len(whole.trials)] == facts(whole.trials)
    assert more.num_evaluations >= toys.NUM_TRIALS + 13


def test_ctrl_c_here_leaves_the_job_without_blame(run):
    def interrupted(job):
        raise KeyboardInterrupt

    for _ in range(6):  # more often than a candidate may kill
        c = control(run)
        with pytest.raises(KeyboardInterrupt):
            run_here(c, interrupted)
        assert c.ledger.entries[0].deaths == 0
        c.ledger.close()
    c = control(run)
    run_here(c, lambda job: {"loss": 1.0})
    assert [t.state for t in c.trials] == [TrialState.COMPLETE] * 3


def test_a_candidate_that_kills_the_whole_search_time_and_again_fails(run):
    def life():
        run_here(control(run), lambda job: os.kill(os.getpid(), signal.SIGKILL) if job.number == 0 else {"loss": 1.0})

    codes = []
    for _ in range(6):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork of a threaded process, Python >= 3.12
            process = mp.get_context("fork").Process(target=life)
            process.start()
        process.join()
        codes.append(process.exitcode)
    assert codes == [-signal.SIGKILL] * 5 + [0]
    trials = Ledger.read(run).trials
    assert trials[0].error == "killed its worker 5 times, at last: the process of the search died"
    assert [t.state.value for t in trials[1:]] == ["complete", "complete"]


def test_a_device_that_breaks_in_this_process_stops_the_search_and_a_resume_goes_on(run):
    """All that would follow in this process fails, too: not one more candidate is spent."""
    asked = []

    def evaluate(job):
        asked.append(job.number)
        if job.number:
            raise toys.illegal_access()
        return {"loss": 1.0}

    c = control(run)
    with pytest.raises(SearchStopped, match=r"its device is broken: .*illegal memory access.* safe: resume, in a new"):
        run_here(c, evaluate)
    assert asked == [0, 1]
    assert [(t.state.value, e.deaths) for t, e in zip(c.trials, c.ledger.entries, strict=True)] == [
        ("complete", 0), ("running", 1)
    ]  # fmt: skip
    c.ledger.close()
    c = control(run)
    run_here(c, lambda job: {"loss": 1.0})
    assert [t.state for t in c.trials] == [TrialState.COMPLETE] * 3


def test_what_an_evaluation_may_raise():
    def evaluate(job):
        raise job

    assert attempt(evaluate, CandidateFailed("the loss is NaN")) == "the loss is NaN"
    assert attempt(evaluate, MemoryError("8 GB")).startswith("MemoryError: 8 GB (")
    assert "test_controller.py" in attempt(evaluate, RuntimeError("a\nb"))
    assert attempt(lambda job: {"loss": np.float32(0.5)}, None) == {"loss": 0.5}
    assert attempt(lambda job: 3, None).startswith("TypeError")
    assert "out of memory" in attempt(evaluate, RuntimeError("CUDA error: out of memory"))
    with pytest.raises(DeviceBroken, match=r"its device is broken: .*illegal memory access was encountered"):
        attempt(lambda job: (_ for _ in ()).throw(toys.illegal_access()), None)
    with pytest.raises(KeyboardInterrupt):
        attempt(evaluate, KeyboardInterrupt())


@pytest.mark.parametrize("seed", range(25))
def test_any_schedule_of_workers_deaths_and_restarts_ends_every_trial_once(tmp_path, seed):
    """A random walk: workers ask, tell (also twice, also late), die, and the controller is killed and made again."""
    rng = np.random.default_rng([7, seed])
    workers = [f"w{i}" for i in range(int(rng.integers(1, 6)))]
    c, jobs, late = toy(tmp_path / "run"), {}, []
    told, evaluations, in_flight_at_kills, over = {}, 0, 0, False
    while not over:
        worker, what = workers[int(rng.integers(len(workers)))], rng.random()
        if what < 0.03:
            in_flight_at_kills += len(jobs)
            late += list(jobs.items())
            jobs = {}
            c.ledger.close()
            c = toy(tmp_path / "run")
            assert facts([c.trials[n] for n in told]) == facts(told.values())  # none told is lost
        elif what < 0.08 and worker in jobs:
            late.append((worker, jobs.pop(worker)))
            in_flight_at_kills += 1
            c.lost(worker, "killed")
        elif what < 0.12 and late:  # a worker that was thought dead answers after all
            who, job = late.pop()
            c.tell(who, job.number, attempt(toys.measure, job))
        elif worker in jobs:
            job = jobs.pop(worker)
            assert c.ask(worker) == job or c.trials[job.number].state is not TrialState.RUNNING
            trial = c.tell(worker, job.number, attempt(toys.measure, job))
            assert trial == c.tell(worker, job.number, {"loss": 0.0})
        elif isinstance(job := c.ask(worker), Job):
            evaluations += 1
            jobs[worker] = job
        else:
            over = job is None
        told.update({t.number: t for t in c.trials if t.state is not TrialState.RUNNING})
    assert not c.in_flight
    assert all(t.state is not TrialState.RUNNING for t in c.trials)
    assert number_of_results(tmp_path / "run") == len(c.trials)  # each ended exactly once
    assert evaluations <= c.num_evaluations + in_flight_at_kills
    assert sorted(e.order for e in c.ledger.entries) == list(range(len(c.trials)))
    real = [(t.widths, t.fidelity) for t in c.trials if not t.metrics.get("cached") and t.state is not TrialState.FAIL]
    assert len(real) == len(set(real))
    replayed = toys.Evolution(3)
    for entry in sorted(c.ledger.entries, key=lambda e: e.order):
        if entry.trial.fidelity == "proxy":
            replayed.tell(entry.trial)
    assert list(replayed.population) == list(c._strategy.population)


@pytest.mark.parametrize("seed", range(5))
def test_one_worker_resumed_at_any_point_equals_never_stopped_bit_for_bit(tmp_path, seed):
    whole = toy(tmp_path / "whole")
    run_here(whole, toys.measure)
    rng = np.random.default_rng(seed)
    while True:
        c = toy(tmp_path / "pieces")
        for _ in range(int(rng.integers(1, 12))):
            job = c.ask("here")
            if job is None or rng.random() < 0.1:  # killed before it has told
                break
            c.tell("here", job.number, attempt(toys.measure, job))
        c.ledger.close()
        if job is None:
            break
    assert facts(c.trials) == facts(whole.trials)


def small_problem():
    """Four convolutions in a row and a linear layer, at half their MACs."""
    widths = [3, 8, 12, 12, 16, 10]
    groups = tuple(ChannelGroup(f"conv{i}", c, ()) for i, c in enumerate(widths[1:-1]))
    axes = [Axis(3, 3), *(Axis(g.size, 0, ((i, 1),)) for i, g in enumerate(groups)), Axis(10, 10)]
    layers = tuple(
        Layer(f"layer{i}", "conv", 9, 64, reads, makes) for i, (reads, makes) in enumerate(itertools.pairwise(axes))
    )
    scores = tuple(np.random.default_rng(i).random(g.size) for i, g in enumerate(groups))
    filters = [np.random.default_rng(i).random((g.size, 3)) for i, g in enumerate(groups)]
    distances = tuple(((f[:, None] - f[None]) ** 2).sum(2) for f in filters)
    return Problem(SearchSpace(groups, (), layers, ()), (parse("macs<=50%"),), scores, distances)


@pytest.mark.parametrize("name", sorted(strategies.STRATEGIES))
def test_every_strategy_resumed_after_every_candidate_equals_never_stopped(tmp_path, name):
    problem, groups = small_problem(), {f"conv{i}": c for i, c in enumerate((8, 12, 12, 16))}

    def search(run):
        strategy = strategies.make(name, problem, seed=1, num_trials=12)
        return control(run, strategy, groups, num_trials=12, rungs=((2, "short"),))

    whole = search(tmp_path / "whole")
    run_here(whole, toys.measure)
    over = False
    while not over:
        c = search(tmp_path / "pieces")
        job = c.ask("here")
        over = job is None
        if not over:
            c.tell("here", job.number, attempt(toys.measure, job))
        c.ledger.close()
    assert facts(c.trials) == facts(whole.trials)
    assert c.num_evaluations >= 2


@pytest.mark.parametrize("name", sorted(strategies.STRATEGIES))
def test_finalists_of_a_search_that_was_extended_took_no_turn_of_the_strategy(tmp_path, name):
    """Three candidates and two finalists, then twelve candidates: those of one search, its warm starts among them."""
    problem, groups = small_problem(), {f"conv{i}": c for i, c in enumerate((8, 12, 12, 16))}

    def search(run, trials):
        strategy = strategies.make(name, problem, seed=1, num_trials=12)
        strategy = strategies.open_with("closed", strategy) if strategy.opens else strategy
        c = control(run, strategy, groups, num_trials=trials, rungs=((2, "short"),))
        run_here(c, toys.measure)
        c.ledger.close()
        return c

    whole = search(tmp_path / "whole", 12)
    search(tmp_path / "run", 3)
    extended = search(tmp_path / "run", 12)
    probes = extended.trials[0].probe  # of one group each: no finalists
    assert ("ssp" in "".join(t.fidelity[0] for t in extended.trials)) is not probes
    proxies, expected = ([t.widths for t in c.trials if t.fidelity == "proxy"] for c in (extended, whole))
    assert proxies == expected
    replayed = search(tmp_path / "run", 12)._strategy
    assert [(t.number, t.widths) for t in getattr(replayed, "_then", replayed).trials] == [*enumerate(expected)]


class Jumping(datetime):
    """A wall clock that jumps, days ahead and years back."""

    rng = np.random.default_rng(5)

    @classmethod
    def now(cls, tz=None):
        seconds = float(cls.rng.choice([-1, 1]) * 10 ** cls.rng.uniform(0, 8.5))
        return datetime.fromtimestamp(1_700_000_000 + seconds, tz)


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    whole = toy(tmp_path / "whole")
    run_here(whole, toys.measure)
    monkeypatch.setattr("autoprune.ledger.book.datetime", Jumping)
    monkeypatch.setattr("optuna.storages.journal._storage.datetime", Jumping)
    monkeypatch.setattr("time.time", lambda: Jumping.now().timestamp())
    over = False
    while not over:  # and the controller is made again now and then
        c = toy(tmp_path / "jumps")
        for _ in range(15):
            if over := (job := c.ask("here")) is None:
                break
            result = attempt(toys.measure, job)
            c.tell("here", job.number, result if isinstance(result, str) else {**result, "seconds_total": -3.5})
        c.ledger.close()
    starts = [e.started for e in c.ledger.entries]
    assert starts != sorted(starts)  # it did jump
    timed = [replace(t, metrics={**t.metrics, "seconds_total": 0.25}) if t.metrics else t for t in c.trials]
    assert facts(timed) == facts(whole.trials)
    assert [e.order for e in c.ledger.entries] == [e.order for e in whole.ledger.entries]
    assert all(t.seconds >= 0 for t in c.trials)


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), "long", None, [2.0]])
def test_seconds_that_are_none_are_measured_here(run, seconds):
    c = control(run)
    trial = c.tell("w0", c.ask("w0").number, {"loss": 0.5, "seconds_total": seconds})
    assert trial.state is TrialState.COMPLETE
    assert 0 <= trial.seconds < 60


@pytest.mark.parametrize("seed", range(3))
def test_a_disk_that_is_full_now_and_then_stops_the_search_resumably(tmp_path, monkeypatch, seed):
    whole = toy(tmp_path / "whole")
    run_here(whole, toys.measure)
    rng, write, schedule = np.random.default_rng(seed), os.write, Halving(toys.NUM_TRIALS, (toys.FINALISTS,))
    monkeypatch.setattr("autoprune.ledger.journal.PAUSES_S", ())

    def full(file, data):
        if rng.random() < 0.05:
            write(file, bytes(data[: len(data) // 2]))  # as much as there is room for
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    monkeypatch.setattr("os.write", full)
    stops = []
    while True:
        try:
            with Ledger.open(tmp_path / "pieces", toys.GROUPS, {"seed": 3}) as ledger:
                run_here(SearchController(ledger, toys.Evolution(3), schedule), toys.measure)
                break
        except LedgerUnwritable as error:
            stops.append(str(error))
    assert len(stops) >= 2
    assert all("everything recorded before is safe" in text for text in stops)
    assert facts(ledger.trials) == facts(whole.trials)
