"""Several controllers of one search on one PostgreSQL server: refused, or joined, and exact whatever dies."""

import json
import multiprocessing as mp
import os
import random
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from autoprune import controller as controllers
from autoprune.config import RunConfig
from autoprune.controller import WAIT, Job
from autoprune.errors import LedgerMismatch, LedgerUnwritable, RunIsLive
from autoprune.ledger import Ledger, membership, server
from autoprune.ledger.server import Disconnected, Session
from autoprune.problem import TrialState
from autoprune.runs.joining import joined_latency, joined_scores, shared
from autoprune.runs.prepare import prepare
from autoprune.workers import run_here
from autoprune.workers.attempt import attempt
from search_spaces.models import digits_cnn

DATA = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(DATA))
import joint  # noqa: E402
import postgresql  # noqa: E402
import slow_device  # noqa: E402
import toys  # noqa: E402

pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
if postgresql.binaries() is None:
    pytest.skip(
        "no initdb in /usr/lib/postgresql or PATH; `apt-get install postgresql` brings it", allow_module_level=True
    )


@pytest.fixture(scope="module")
def db():
    with postgresql.running() as running:
        yield running


@pytest.fixture
def study(request):
    """A name that no other test has used."""
    return request.node.name


def eventually(act):
    """`act`, when the server has noticed that a connection is gone."""
    give_up = time.monotonic() + 10
    while True:
        try:
            return act()
        except RunIsLive:
            assert time.monotonic() < give_up
            time.sleep(0.05)


def facts(trials):
    return [(t.number, t.widths, t.state, dict(t.metrics), t.fidelity, t.error) for t in trials]


def check(record, num_evaluations, in_flight_at_kills):
    """What must hold of a search that is over, whatever has died in it; returns what a strategy must have been told."""
    trials = record.trials
    assert all(t.state is not TrialState.RUNNING for t in trials)
    assert [t.number for t in trials] == list(range(len(trials)))
    order = sorted(record.entries, key=lambda e: e.order)
    assert [e.order for e in order] == list(range(len(trials)))  # each ended, and once
    real = [t for t in trials if not t.metrics.get("cached")]
    assert sum(t.fidelity == "proxy" for t in real) == toys.NUM_TRIALS
    assert sum(t.fidelity == "short" for t in real) == toys.FINALISTS[0]
    fine = [(t.widths, t.fidelity) for t in real if t.state is not TrialState.FAIL]
    assert len(fine) == len(set(fine))
    assert len(real) <= num_evaluations <= len(real) + in_flight_at_kills
    for trial in real:  # each has the result of its own widths
        if trial.state is TrialState.COMPLETE:
            assert trial.metrics["batch_losses"] == toys.measure(trial)["batch_losses"]
    told = joint.Remembers()
    for entry in order:
        if entry.trial.fidelity == "proxy":
            told.tell(entry.trial)
    return told


# -- several controllers in this process, each with a connection of its own ------------------------------------------


class Walk:
    """A random walk of controllers and their workers, of which each may die, or the connection of one may break."""

    def __init__(self, url, folder, study, seed, monkeypatch):
        self.url, self.folder, self.study = url, folder, study
        self.rng = np.random.default_rng([11, seed])
        self.alive, self.jobs, self.late, self.made = [], {}, [], 0
        self.told, self.evaluations, self.blamed = {}, 0, 0
        monkeypatch.setattr(controllers, "CHECK_S", 0.0)
        monkeypatch.setattr(membership, "GRACE_S", 0.0)

    def join(self):
        self.made += 1
        c = joint.control(self.folder / str(self.made), self.url, join=self.made > 1, study=self.study)
        self.alive.append(c)
        return c

    def kill(self, c):
        """As `kill -9`: the connection ends, nothing is said."""
        c.ledger.close()
        self.alive.remove(c)
        for worker in [w for w in self.jobs if w[0] is c]:
            self.blamed += 1
            del self.jobs[worker]

    def step(self):
        """One thing happens; whether the search is over for somebody."""
        c = self.alive[int(self.rng.integers(len(self.alive)))]
        worker, what = (c, f"w{self.rng.integers(3)}"), self.rng.random()
        if what < 0.02 and len(self.alive) > 1:
            self.kill(c)
        elif what < 0.04 and len(self.alive) < 3:
            self.join()
        elif what < 0.10 and worker in self.jobs:
            self.late.append((worker, self.jobs.pop(worker)))
            self.blamed += 1
            c.lost(worker[1], "killed")
        elif what < 0.12:  # the connection breaks: before the next statement
            c.ledger._membership._session._gone("broken by the test")
        elif what < 0.15 and self.late and self.late[-1][0][0] in self.alive:
            (who, name), job = self.late.pop()  # a worker that was thought dead answers after all
            who.tell(name, job.number, attempt(toys.measure, job))
        elif worker in self.jobs:
            job = self.jobs.pop(worker)
            again = c.ask(worker[1])
            if again != job:  # somebody else has got it, while the connection was broken
                self.blamed += 1
                self.jobs |= {worker: again} if isinstance(again, Job) else {}
                self.evaluations += isinstance(again, Job)
            trial = c.tell(worker[1], job.number, attempt(toys.measure, job))
            assert trial == c.tell(worker[1], job.number, {"loss": 0.0})
        elif isinstance(job := c.ask(worker[1]), Job):
            self.evaluations += 1
            self.jobs[worker] = job
        else:
            return job is None
        return False

    def remember(self):
        """None that was told is lost, or told otherwise."""
        for c in self.alive:
            for trial in c.trials:
                if trial.state is not TrialState.RUNNING:
                    assert facts([self.told.setdefault(trial.number, trial)]) == facts([trial])


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(s, marks=pytest.mark.slow) for s in range(3, 33))])
def test_any_schedule_of_controllers_ends_every_trial_once(db, tmp_path, study, seed, monkeypatch):
    walk = Walk(db.url, tmp_path, study, seed, monkeypatch)
    walk.join()
    walk.join()
    while not walk.step():
        walk.remember()
    walk.remember()
    record = Ledger.read(tmp_path / "1", url=db.url, study=study)
    # What workers still hold, others have ended: its controller was taken for dead when its connection broke.
    expected = check(record, walk.evaluations, walk.blamed + len(walk.jobs))
    for c in walk.alive:
        assert c.ask("w0") is None
        assert facts(c.trials) == facts(record.trials)
        assert c._strategy.told == expected.told  # in the same order
        assert list(c._strategy.population) == list(expected.population)
        c.ledger.close()


class Unreliable:
    """Breaks a session's connection at random: before a statement, or after it was carried out unanswered."""

    def __init__(self, session, rate, seed):
        self._session, self._run, self._rate = session, session.run, rate
        self._rng, self.num_breaks = random.Random(seed), 0
        session.run = self

    def __call__(self, statement, values=None):
        chance = self._rng.random()
        if chance < self._rate / 2:
            self._break()
        result = self._run(statement, values)
        if chance > 1 - self._rate / 2 or (str(statement) == "COMMIT" and chance > 1 - 2 * self._rate):
            self._break()
        return result

    def _break(self):
        self.num_breaks += 1
        raise self._session._gone("broken by the test")


@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_repeated_after_a_broken_connection_is_written_once(db, tmp_path, study, seed):
    whole = joint.control(tmp_path / "file", "")
    run_here(whole, toys.measure)
    c = joint.control(tmp_path / "run", db.url, study=study)
    evaluated = []
    unreliable = Unreliable(c.ledger._membership._session, 0.02, seed)
    run_here(c, lambda job: evaluated.append(job.number) or toys.measure(job))
    assert unreliable.num_breaks > 10
    assert facts(c.trials) == facts(whole.trials) == facts(Ledger.read(tmp_path, url=db.url, study=study).trials)
    assert len(evaluated) == len(set(evaluated)) == whole.num_evaluations
    assert c._strategy.told == whole._strategy.told
    c.ledger.close()


def test_a_death_counts_once_whatever_breaks(db, tmp_path, study):
    c = joint.control(tmp_path / "run", db.url, study=study)
    job = c.ask("w0")
    Unreliable(c.ledger._membership._session, 0.2, 5)
    c.lost("w0", "killed")
    assert c.ask("w1") == job
    c.lost("w1", "killed")
    assert c.ledger.entries[0].deaths == 2
    c.ask("w1")
    c.lost("w1", "killed")
    assert c.trials[0].error == "killed its worker 3 times, at last: killed"
    c.ledger.close()


def test_a_second_controller_is_refused_unless_it_joins(db, tmp_path, study):
    first = joint.control(tmp_path / "a", db.url, study=study)
    with pytest.raises(RunIsLive, match=r"another controller is writing it in .*; stop it, or wait, or join it with"):
        joint.control(tmp_path / "b", db.url, study=study)
    second = joint.control(tmp_path / "b", db.url, study=study, join=True)
    first_job, second_job = first.ask("w0"), second.ask("w0")
    assert second_job.number != first_job.number
    first.ledger.close()
    with pytest.raises(RunIsLive, match=rf"{second.ledger.me} joined it in .* and still search"):
        joint.control(tmp_path / "a", db.url, study=study)
    second.ledger.close()
    again = joint.control(tmp_path / "a", db.url, study=study)
    assert {again.ask("w0").number, again.ask("w1").number} >= {first_job.number, second_job.number}
    again.ledger.close()


def test_what_cannot_be_joined_is_said(db, tmp_path, study):
    for url in ("", f"sqlite:///{tmp_path}/books.db"):
        with pytest.raises(ValueError, match=r"a file on one machine.* several controllers need --ledger postgresql:"):
            joint.control(tmp_path / "a", url, study=study, join=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"join: the database has no study .* that has begun; start it without --join"):
        joint.control(tmp_path / "a", db.url, study=study, join=True)
    with joint.control(tmp_path / "a", db.url, study=study).ledger:
        with pytest.raises(LedgerMismatch, match="seed is 3 there and 4 here"):
            Ledger.open(tmp_path / "b", toys.GROUPS, {"seed": 4}, url=db.url, study=study, join=True)


def test_arrays_are_the_same_to_the_last_bit(db, tmp_path, study):
    arrays = [np.random.default_rng(i).standard_normal(n) * 10.0**i for i, n in enumerate((3, 0, 1, 20_000))]
    with Ledger.open(tmp_path / "a", toys.GROUPS, {}, url=db.url, study=study, arrays={"scores": arrays}):
        kept = Ledger.kept_arrays(db.url, study, "scores")
    assert len(kept) == len(arrays)
    assert all(np.array_equal(a, b) for a, b in zip(kept, arrays, strict=True))
    assert Ledger.kept_arrays(db.url, study, "others") is None
    assert Ledger.kept_arrays(db.url, "no such study", "scores") is None


def test_another_machine_trusts_the_predictor_of_the_first(db, tmp_path, study, monkeypatch):
    """Measured there it would be another one, and with it the problem."""
    config = RunConfig.make(
        data="digits", budget=slow_device.BUDGET, criterion="l1", ledger=db.url, name=study, device="cpu"
    )
    monkeypatch.setattr("objectives.latency.needed.study", slow_device.study)
    model, run = digits_cnn().eval(), Path("results") / study
    first = prepare(config, model)
    arrays = shared(first.problem)
    with Ledger.open(
        tmp_path / "a",
        {g.name: g.size for g in first.space.groups},
        first.fingerprint(),
        url=db.url,
        study=study,
        arrays=arrays,
    ):
        monkeypatch.setattr("objectives.latency.needed.study", lambda *_, **__: pytest.fail("measured anew"))
        scores, latency = joined_scores(config, run), joined_latency(config, run)
        second = prepare(config, model, scores=scores, latency=latency)
    assert second.fingerprint() == first.fingerprint()
    widths = tuple(n // 2 for n in first.space.full)
    assert second.problem.latency[slow_device.METRIC](widths) == first.problem.latency[slow_device.METRIC](widths)


def test_the_one_that_is_left_leads(db, tmp_path, study):
    first = joint.control(tmp_path / "a", db.url, study=study)
    second = joint.control(tmp_path / "b", db.url, study=study, join=True)
    assert (first.ledger.lead(), second.ledger.lead()) == (True, False)
    assert second.ledger.fresh_note("lead") == first.ledger.me
    first.ledger.close()
    assert second.ledger.lead()
    assert second.ledger.fresh_note("lead") == second.ledger.me
    second.ledger.close()


def test_jobs_of_a_dead_controller_are_handed_out_again_until_five_have_died(db, tmp_path, study, monkeypatch):
    monkeypatch.setattr(controllers, "CHECK_S", 0.0)
    first = joint.control(tmp_path / "a", db.url, study=study)
    for deaths in range(1, 6):
        second = joint.control(tmp_path / "b", db.url, study=study, join=True)
        assert second.ask("w0").number == 0
        other = first.ask("w0")
        assert other.number > 0  # it lives: its job is its own
        assert first.ledger.entries[0].deaths == deaths - 1
        second.ledger.close()
        first.tell("w0", other.number, {"loss": 1.0})
    assert first.ask("w0").number > 0
    assert first.trials[0].error == "killed its worker 5 times, at last: its controller died"
    first.ledger.close()


def test_a_job_that_was_given_away_is_still_told_once(db, tmp_path, study, monkeypatch):
    monkeypatch.setattr(controllers, "CHECK_S", 0.0)
    monkeypatch.setattr(membership, "GRACE_S", 0.0)
    first = joint.control(tmp_path / "a", db.url, study=study)
    second = joint.control(tmp_path / "b", db.url, study=study, join=True)
    job = first.ask("w0")
    first.ledger._membership._session._gone("broken by the test")  # for the others it is dead now
    given = {worker: second.ask(worker) for worker in ("w0", "w1", "w2")}  # the server may take a moment to notice
    while job not in given.values():
        second.release("w0")
        given["w0"] = second.ask("w0")
    trial = first.tell("w0", job.number, {"loss": 0.5})
    assert first.ask("w0") not in (job, *given.values())
    assert second.tell("w0", job.number, {"loss": 0.1}) == second.trials[job.number]
    assert second.trials[job.number].loss == trial.loss == 0.5
    assert second._strategy.told.count(job.number) == 1
    first.ledger.close()
    second.ledger.close()


# -- a server that goes away ------------------------------------------------------------------------------------------


def test_a_server_that_comes_back_is_waited_for(db, tmp_path, study):
    said, restarts = [], 0
    c = joint.control(tmp_path / "a", db.url, study=study)
    c.ledger.hear(said.append)
    other = joint.control(tmp_path / "b", db.url, study=study, join=True)
    rng, evaluations = random.Random(3), 0
    while (job := (who := rng.choice((c, other))).ask("w0")) is not None:
        if job is WAIT:
            continue
        evaluations += 1
        if rng.random() < 0.1:
            db.stop()
            db.start()
            restarts += 1
        who.tell("w0", job.number, attempt(toys.measure, job))
    assert restarts >= 2
    assert sum("no connection" in text or "connected again" in text for text in said) >= restarts - 1
    check(Ledger.read(tmp_path / "a", url=db.url, study=study), evaluations, 0)  # nothing was evaluated twice
    c.ledger.close()
    other.ledger.close()


def test_a_server_that_does_not_come_back_stops_the_search_resumably(db, tmp_path, study, monkeypatch):
    monkeypatch.setattr(server, "PATIENCE_S", 1.0)
    c, said = joint.control(tmp_path / "run", db.url, study=study), []
    c.ledger.hear(said.append)
    trial = c.tell("w0", c.ask("w0").number, {"loss": 0.5})
    job = c.ask("w0")
    db.stop()
    try:
        with pytest.raises(LedgerUnwritable, match=r"does not come back .*; everything recorded before is safe"):
            c.tell("w0", job.number, {"loss": 0.25})
        assert len(said) == 1
        assert "trying again for 1 s" in said[0]
        c.ledger.close()
        monkeypatch.setenv("PGPASSWORD", "secret")
        with pytest.raises(ValueError, match=r"no connection .*check that the server runs") as caught:
            joint.control(tmp_path / "run", db.url, study=study)
        assert "secret" not in str(caught.value)
    finally:
        db.start()
    again = joint.control(tmp_path / "run", db.url, study=study)
    assert facts(again.trials)[0] == facts([trial])[0]
    assert again.ask("w0").widths == job.widths
    again.ledger.close()


def test_who_lost_the_lead_meanwhile_stops(db, tmp_path, study):
    old = joint.control(tmp_path / "a", db.url, study=study)
    job = old.ask("w0")
    old.ledger._membership._session._gone("broken by the test")
    new = eventually(lambda: joint.control(tmp_path / "b", db.url, study=study))
    with pytest.raises(RunIsLive, match="another controller has taken over in"):
        old.tell("w0", job.number, {"loss": 0.5})
    assert new.ask("w0") == job
    old.ledger.close()
    new.ledger.close()


def test_nothing_is_written_without_the_locks(db, tmp_path, study):
    c = joint.control(tmp_path / "a", db.url, study=study)
    session = c.ledger._membership._session
    assert isinstance(session, Session)
    session._connection.invalidate()  # as SQLAlchemy does; by itself it would connect again
    with pytest.raises(Disconnected, match="the connection is gone"):
        c.ledger.start(tuple(toys.GROUPS.values()), "proxy", "w0")
    c.ledger.close()


# -- real processes, really killed --------------------------------------------------------------------------------


class Crowd:
    """Controllers in processes of their own, on one study."""

    def __init__(self, url, folder, study, num_workers):
        self.url, self.folder, self.study, self.num_workers = url, folder, study, num_workers
        self.processes, self.made, self.in_flight = [], 0, 0

    def start(self, how):
        self.made += 1
        arguments = (str(self.folder / str(self.made)), self.num_workers, self.url, how, self.study)
        if self.num_workers:
            script = [sys.executable, DATA / "joint.py", *map(str, arguments)]
            process = subprocess.Popen(script, env={**os.environ, "PYTHONPATH": str(DATA.parents[1])})
            process.join, process.is_alive = process.wait, lambda: process.poll() is None
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # fork of a threaded process, Python >= 3.12
                process = mp.get_context("fork").Process(target=joint.main, args=arguments)
                process.start()
        self.processes.append((self.made, process))

    def kill(self, index):
        _, process = self.processes.pop(index)
        if process.is_alive():
            process.kill()
            self.in_flight += max(1, self.num_workers)
        process.join()

    @property
    def num_evaluations(self):
        side = self.folder / "side.txt"
        return len(side.read_text().splitlines()) if side.exists() else 0

    def wait_for(self, num_evaluations):
        """Until so many evaluations have begun, or all processes have ended."""
        while self.num_evaluations < num_evaluations and any(p.is_alive() for _, p in self.processes):
            time.sleep(0.002)

    def said(self):
        """What the controllers that came to the end say of it."""
        for _, process in self.processes:
            process.join()
        files = [self.folder / str(number) / "said.json" for number, _ in self.processes]
        return [json.loads(file.read_text()) for file in files]


def kill_controllers(db, tmp_path, study, seed, num_workers=0, num_kills=3):
    """Two controllers, killed now and then, the first one always first; returns what must hold of each."""
    rng, crowd = random.Random(seed), Crowd(db.url, tmp_path, study, num_workers)
    crowd.start("first")
    crowd.wait_for(2)
    crowd.start("join")
    for kill in range(num_kills):
        crowd.wait_for(crowd.num_evaluations + rng.randint(3, 9))
        time.sleep(rng.random() * 0.02)
        crowd.kill(0 if kill == 0 else rng.randrange(2))
        crowd.start("join")
    said = crowd.said()
    record = Ledger.read(tmp_path / "1", url=db.url, study=study)
    told = check(record, crowd.num_evaluations, crowd.in_flight)
    for one in said:
        assert one["told"] == told.told
        assert one["population"] == [t.number for t in told.population]
    assert sum(one["leads"] for one in said) >= 1
    return crowd


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(s, marks=pytest.mark.slow) for s in range(3, 33))])
def test_controllers_killed_at_random_moments(db, tmp_path, study, seed):
    assert kill_controllers(db, tmp_path, study, seed).in_flight >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_controllers_with_workers_killed_at_random_moments(db, tmp_path, study, seed):
    assert kill_controllers(db, tmp_path, study, seed, num_workers=2, num_kills=2).in_flight >= 2


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 8))])
def test_a_server_restarted_at_random_moments(db, tmp_path, study, seed):
    rng, crowd = random.Random(seed), Crowd(db.url, tmp_path, study, 0)
    crowd.start("first")
    crowd.wait_for(1)
    crowd.start("join")
    while not (tmp_path / "2" / "open").exists():
        time.sleep(0.002)
    for _ in range(3):
        crowd.wait_for(crowd.num_evaluations + rng.randint(3, 12))
        db.stop()
        time.sleep(rng.random() * 0.5)
        db.start()
    said = crowd.said()
    told = check(Ledger.read(tmp_path / "1", url=db.url, study=study), crowd.num_evaluations, 0)
    assert [one["told"] for one in said] == [told.told] * 2


# -- the verbs --------------------------------------------------------------------------------------------------------


CLI = "import sys; from autoprune.cli import main; sys.exit(main())"
QUICK = "--finalists=2 --short-steps=4 --epochs=1 --batch-size=64 --bn-samples=128 --score-samples=64 --device=cpu"


@pytest.mark.slow
def test_two_machines_search_together(db, tmp_path, study, digits_weights, monkeypatch, capsys):
    """Each in a directory of its own; the second one has nothing but the address and the name."""
    from autoprune.cli import main

    flags = f"search --model=search_spaces.models:digits_cnn --weights={digits_weights} --data=digits {QUICK}".split()
    flags += ["--trials=24", f"--ledger={db.url}", f"--name={study}"]
    for machine in ("a", "b"):
        (tmp_path / machine).mkdir()
    monkeypatch.chdir(tmp_path / "b")
    assert main([*flags, "--join"]) == 2
    assert f"no study '{study}' that can be joined; start it without --join" in capsys.readouterr().err
    env = {**os.environ, "PYTHONPATH": str(DATA.parents[1])}
    first = subprocess.Popen([sys.executable, "-c", CLI, *flags], cwd=tmp_path / "a", env=env)
    while not begun(db.url, study):
        assert first.poll() is None
        time.sleep(0.3)
    assert main(flags) == 2
    assert re.search("is in 'postgresql.* already; resume its run, or join it with --join, or", capsys.readouterr().err)
    monkeypatch.chdir(tmp_path / "a")  # the very directory of the first one
    for again in (flags, ["resume", f"results/{study}"]):
        assert main(again) == 2
        assert ", or join it with --join" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "b")
    assert main([*flags, "--seed=1", "--join"]) == 2
    assert "seed is 0 there and 1 here" in capsys.readouterr().err
    assert main([*flags, "--trials=50", "--join"]) == 2
    assert "num_trials is 24 there and 50 here" in capsys.readouterr().err
    assert not (tmp_path / "b" / "results").exists()
    assert main([*flags, "--join"]) == 0
    assert "fine-tunes and exports it in its own directory" in " ".join(capsys.readouterr().out.split())
    assert first.wait() == 0
    record = Ledger.read(tmp_path / "b" / "results" / study, url=db.url)
    assert all(t.state is not TrialState.RUNNING for t in record.trials)
    assert len({t.worker.rpartition("/")[0] for t in record.trials}) == 2  # both have worked
    assert (tmp_path / "a" / "results" / study / "best" / "weights.safetensors").exists()
    assert not (tmp_path / "b" / "results" / study / "best").exists()
    tables = [(tmp_path / machine / "results" / study / "trials.csv").read_text() for machine in ("a", "b")]
    assert tables[0] == tables[1]
    assert main(["resume", f"results/{study}", "--join"]) == 0  # it is over, and said so
    assert "delivered it" in " ".join(capsys.readouterr().out.split())


def begun(url, study):
    try:
        return any(t.state is not TrialState.RUNNING for t in Ledger.read("x", url=url, study=study).trials)
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--name=x"], "join: needs the database of the search, --ledger"),
        (["--ledger=postgresql:///x"], "join: needs the --name of the search"),
        (["--ledger=sqlite:///x.db", "--name=x"], "join: needs a database server"),
    ],
)
def test_a_join_without_its_search_is_refused(here, flags, reason, capsys):
    from autoprune.cli import main

    assert main(["search", "--model=search_spaces.models:digits_cnn", "--data=digits", "--join", *flags]) == 2
    assert reason in capsys.readouterr().err
    assert list(here.iterdir()) == []
