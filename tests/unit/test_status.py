"""What `status` says of a run that lives, of one that was stopped and of one that hangs; and how it counts."""

import importlib
import io
import os
import time
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from autoprune.config import RunConfig
from autoprune.labels import Labels
from autoprune.ledger import Entry, Ledger, Record, writers
from autoprune.ledger.locks import FileLock
from autoprune.problem import Trial, TrialState
from autoprune.report import print_status
from autoprune.report.activity import LONG_S, Activity, now_s
from autoprune.report.ending import ending, so_far
from autoprune.report.outlook import Outlook
from autoprune.report.pace import Stopwatch
from autoprune.report.tables import seconds
from autoprune.report.workers import failures_table, workers_table
from autoprune.runs.directory import RunDirectory

STATUS = importlib.import_module("autoprune.report.status")  # `autoprune.report` is the function
CONFIG = RunConfig(model="m:net", data="digits", trials=8, finalists=2, fidelity="proxy", epochs=0)
NOON = datetime(2026, 1, 1, 12)


def entry(number, told_s=None, asked_s=0.0, worker="worker-0", error="", fidelity="proxy", since_s=None, **more):
    """A trial that began and, if it has finished, ended at these times; it took as long as that."""
    state = TrialState.RUNNING if told_s is None else TrialState.FAIL if error else TrialState.COMPLETE
    metrics = {"loss": 1 - number / 100} if state is TrialState.COMPLETE else {}
    took = 0.0 if told_s is None else told_s - asked_s
    trial = Trial(number, (number,), state, metrics, fidelity, worker, took, error)
    since_s = asked_s if since_s is None else since_s
    order = -1 if told_s is None else number
    return Entry(trial, order=order, asked_s=asked_s, since_s=since_s, told_s=told_s or 0.0, **more)


def record(*entries, heard=None):
    return Record({"a": 9}, {}, entries, {}, heard)


def run_at(path, kept, config=CONFIG):
    """A run of which only the ledger is there."""
    leader = partial(RunDirectory.leader, RunDirectory(path, config))
    return SimpleNamespace(
        path=path, config=config, best=path / "best", checkpoint=path / "finetune", study="run", record=lambda: kept,
        leader=leader, labels=Labels(), metric=Labels().score(config.metric).minimised,
    )  # fmt: skip


def shown(run, monkeypatch, width=80):
    out = io.StringIO()
    monkeypatch.setattr(STATUS, "console", lambda: Console(file=out, width=width, highlight=False))
    print_status(run)
    assert max(len(line.rstrip()) for line in out.getvalue().splitlines()) <= width
    return " ".join(out.getvalue().split())


def test_who_does_what_and_how_fast():
    kept = record(
        entry(0, 10.0), entry(1, 20.0, 10.0), entry(2, 400.0, 20.0, error="no room"), entry(3, None, 400.0),
        entry(4, 395.0, worker="worker-10"), entry(5, None, worker="worker-9", since_s=390.0, deaths=1),
        entry(6, None, worker="", since_s=380.0),
    )  # fmt: skip
    activity = Activity.of(kept, 420.0)
    said = [(w.name, w.done, w.failed, w.entry and w.entry.trial.number, w.since_s) for w in activity.workers]
    assert said == [("worker-0", 3, 1, 3, 400.0), ("worker-9", 0, 0, 5, 390.0), ("worker-10", 1, 0, None, 395.0)]
    assert [e.trial.number for e in activity.waiting] == [6]
    assert activity.at_work == 3
    assert activity.per_minute == pytest.approx(4 / 7)  # four in seven minutes
    assert activity.recently == pytest.approx(2 / 5)  # two in the last five
    assert activity.pace == "0.571 evaluations a minute in 7m at work, 0.4 in the last 5m"


def test_what_was_answered_from_the_ledger_is_nobodys_work():
    copy = replace(entry(1, 11.0), same_as=0)
    copy = replace(copy, trial=replace(copy.trial, metrics={"loss": 1.0, "cached": True}))
    assert Activity.of(record(entry(0, 10.0), copy), 12.0).finished == 1
    assert Activity.of(record(), 0.0).pace == ""
    assert Activity.of(record(entry(0, 0.0, 0.0))).pace == ""  # a ledger of before there was a clock


def test_failures_are_counted_by_reason():
    errors = ["OutOfMemory: 20 MB", "the loss is NaN", "OutOfMemory: 31 MB", "", "killed"]
    kept = record(*(entry(n, 1.0 + n, error=error) for n, error in enumerate(errors)))
    activity = Activity.of(kept)
    assert [(reason, count, t.number) for reason, count, t in activity.failures] == [
        ("OutOfMemory: 31 MB", 2, 2), ("the loss is NaN", 1, 1), ("killed", 1, 4)
    ]  # fmt: skip
    table = failures_table(activity, shown=1)
    assert [*map(str, table.columns[0].cells)] == ["2", "2"]
    assert str(list(table.columns[2].cells)[1]) == "of 2 other reasons"


@given(st.integers(1, 40), st.integers(1, 12))
def test_no_worker_at_work_is_left_out_of_a_short_table(workers, running):
    entries = [entry(n, None if n < running else 5.0, worker=f"worker-{n}") for n in range(workers)]
    table = workers_table(Activity.of(record(*entries), 9.0), True, shown=12)
    names = [str(cell) for cell in table.columns[0].cells]
    assert {f"worker-{n}" for n in range(min(running, workers))} <= set(names)
    done = sum(int(str(cell)) for cell in table.columns[1].cells if cell)
    assert done == max(0, workers - running)
    assert len(names) == min(workers, 12) + (workers > 12)


def test_the_clock_goes_on_while_a_controller_is_at_work():
    kept = record(entry(0, 10.0), entry(1, None, 10.0), heard=(10.0, NOON))
    later = NOON + timedelta(seconds=30)
    assert now_s(kept, None, later) == 40.0
    night = NOON + timedelta(hours=9)
    assert now_s(kept, night, night + timedelta(seconds=5)) == 15.0  # it was resumed after a night
    assert now_s(kept, None, NOON - timedelta(days=3)) == 10.0  # somebody set the clock back
    assert now_s(record(), NOON, later) == 30.0
    assert now_s(record()) == 0.0


def test_a_run_in_which_nothing_finishes_is_called_stalled():
    quick = [entry(n, 2.0 * n + 2, 2.0 * n) for n in range(5)]
    kept = record(*quick, entry(5, None, 10.0))
    assert Activity.of(kept, 60.0).silence_s(kept) == 0.0
    assert Activity.of(kept, 75.0).silence_s(kept) == 65.0
    slow = record(*quick, entry(5, None, 10.0, fidelity="short"))  # nobody knows yet how long that takes
    assert Activity.of(slow, 75.0).silence_s(slow) == 0.0
    assert Activity.of(slow, 20.0 + LONG_S).silence_s(slow) == LONG_S + 10.0
    assert Activity.of(record(*quick), 1e6).silence_s(record(*quick)) == 0.0  # the winner is fine-tuned
    again = record(*quick, entry(5, None, 10.0, since_s=2000.0))  # handed out again after a long evaluation elsewhere
    assert Activity.of(again, 2030.0).silence_s(again) == 0.0


def test_the_eta_knows_the_time_limit_and_the_workers_of_the_ledger():
    trials = [entry(n, 10.0 * n + 10, 10.0 * n).trial for n in range(4)]  # 10 s each, 4 of 8
    config = replace(CONFIG, time="60s", finalists=0)
    assert Outlook.of(trials, replace(config, time=""), 40.0).eta == "40 s"
    assert Outlook.of(trials, replace(config, time=""), 40.0, workers=4).eta == "10 s"
    assert Outlook.of(trials, config, 40.0).eta == "30 s"  # 20 s are left, and what is begun is finished
    over = Outlook.of(trials, config, 60.0)
    assert (str(over), over.eta) == ("4 of 8 candidates", "0 s")
    assert over.end == "time limit reached: worked 1m of 1m after 4 of 8 candidates"


def test_why_a_search_has_ended():
    trials = [replace(entry(n, 1.0).trial, metrics={"loss": 0.5, "top1": 0.9 + n / 100}) for n in range(4)]
    limited = replace(CONFIG, target="top1>=92%", time="1h")
    end = "target top1>=92% reached by trial 2 after 4 of 8 candidates"
    assert Outlook.of(trials, limited, 5.0).end == end
    assert Outlook.of(trials, replace(limited, target="top1>=95%"), 5.0).end == ""
    timed = Outlook.of(trials, replace(limited, target="top1>=95%"), 5.0, over=True)
    assert timed.end.startswith("time limit reached: worked 1h of 1h")
    assert Outlook.of(trials, replace(limited, trials=4), 5.0, over=True).end == ""  # all were evaluated
    assert Outlook.of(trials, CONFIG, 1e9, over=True).end == ""
    assert Outlook.of([], limited, 1e9).end == ""  # a search of any time has a winner
    running = [*trials, entry(4).trial]
    assert Outlook.of(running, limited).now[1:] == (4, 5, 8)


def test_the_status_of_a_run_that_lives_and_of_one_that_was_stopped(tmp_path, monkeypatch):
    kept = record(
        entry(0, 2.0), entry(1, 5.0, 2.0, error="no room on this device"), entry(2, None, 5.0, worker="worker-1"),
        heard=(5.0, datetime.now() + timedelta(days=1)),  # the future: however slow this machine is, 5 s at work
    )  # fmt: skip
    run = run_at(tmp_path, kept, replace(CONFIG, time="2h", target="top1>=90%"))
    stopped = shown(run, monkeypatch)
    lock = FileLock(tmp_path / ".lock", "run")
    live = shown(run, monkeypatch)
    lock.release()
    for said in (stopped, live):
        assert "2 of 8 candidates, 0 of 2 finalists (1 complete, 1 failed, 1 " in said
        assert "limits time 2h, 5 s used; target top1>=90%" in said
        assert "pace 24 evaluations a minute in 5 s at work" in said
        assert "best trial 0, proxy: loss 1.0000, 2.0 s" in said
        assert "1 trial 1 no room on this device" in said
    assert _solid(f"ended stopped after 2 of 8 candidates; autoprune resume {tmp_path} goes on") in _solid(stopped)
    assert "ended" not in live
    assert "worker-1 0 0 trial 2, proxy, will be redone" in stopped
    assert "ETA" not in stopped
    assert "1 interrupted, will be redone)" in stopped
    assert f"running (process {os.getpid()} on " in live
    assert "ETA 8 s + 2 finalists" in live  # 6 left, 2 workers, 2.5 s each (median)
    assert "worker-1 0 0 0 s trial 2, proxy" in live
    assert "worker-0 2 1 0 s idle" in live


def test_the_status_of_a_run_that_hangs_begins_delivers_or_has_finished(tmp_path, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(STATUS, "writers", lambda *_: ("process 7 on host",))
        ago = datetime.now() - timedelta(hours=1)
        hangs = record(entry(0, 2.0), entry(1, None, 2.0), heard=(2.0, ago))
        assert "STALLED? Nothing has finished for 1h" in shown(run_at(tmp_path, hangs), monkeypatch)
        assert "running (process 7 on host): starting" in shown(run_at(tmp_path, record()), monkeypatch)
        over = record(*(entry(n, n + 1.0) for n in range(8)))
        delivers = run_at(tmp_path, over, replace(CONFIG, finalists=0))
        assert "running (process 7 on host): fine-tune of the winner" in shown(delivers, monkeypatch)
        live = shown(delivers, monkeypatch)
        assert ("ended" in live, "autoprune resume" in live) == (False, False)  # while it runs it has not
        begun = replace(CONFIG, finalists=0, epochs=5.0)
        assert "ETA the fine-tune" in shown(run_at(tmp_path, over, begun), monkeypatch)
        ticks = iter(range(0, 100, 10))
        watch = Stopwatch(tmp_path / "finetune" / "3.pt")
        (tmp_path / "finetune").mkdir()
        for step in (1, 2, 3):  # ten seconds each
            watch(step, 20, lambda: next(ticks))
        said = "ETA 2m50s (the fine-tune is at step 3 of 20)"
        assert said in shown(run_at(tmp_path, over, begun), monkeypatch)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "architecture.json").touch()
    few = run_at(tmp_path, record(*(entry(n, n + 1.0) for n in range(4))), replace(CONFIG, finalists=0, time="4s"))
    said = shown(few, monkeypatch)
    assert "state finished" in said
    words = "ended time limit reached: worked 4s of 4s after 4 of 8 candidates; autoprune resume"
    assert _solid(f"{words} {tmp_path} --time +4s goes on") in _solid(said)


def test_long_names_fit_into_eighty_columns(tmp_path, monkeypatch):
    owner = "a-very-long-host-name.cluster.example.org-123456-abcdef/ray-worker-1000"
    kept = record(entry(0, 1.0, worker=owner, error="word " * 60), entry(1, None, 1.0, worker=owner))
    run = run_at(tmp_path, kept, replace(CONFIG, budget=("macs<=50%",) * 9))
    assert "trial 1, proxy" in shown(run, monkeypatch)


def test_watching_ends_with_the_run(tmp_path, monkeypatch):
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=80, height=40)
    monkeypatch.setattr(STATUS, "console", lambda: terminal)
    monkeypatch.setattr(STATUS.time, "sleep", lambda s: None)
    alive = iter([("me",), ("me",), (), ()])
    monkeypatch.setattr(STATUS, "writers", lambda *_: next(alive))
    print_status(run_at(tmp_path, record(entry(0, 1.0))), watch=True)
    assert 0 < out.getvalue().rindex("running (me)") < out.getvalue().index("stopped after 1 of 8")
    assert next(alive, "none left") == "none left"


def test_a_reader_of_a_real_ledger_knows_the_time(tmp_path):
    with Ledger.open(tmp_path / "run", {"a": 9}, {}) as ledger:
        ledger.start((3,), "proxy", "w")
        time.sleep(0.05)
        kept = Ledger.read(tmp_path / "run")
        assert writers(tmp_path / "run", kept) == (f"process {os.getpid()} on {os.uname().nodename}",)
        assert kept.heard[0] == kept.entries[0].asked_s
        assert 0.05 <= now_s(kept) - kept.entries[0].asked_s < 3600
    assert writers(tmp_path / "run", kept) == ()


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0 s"), (0.25, "0.25 s"), (42.4, "42 s"), (99.4, "99 s"), (120, "2m"), (754, "12m34s"), (7500, "2h5m")],
)
def test_seconds_in_words(value, words):
    assert seconds(value) == words


@pytest.mark.parametrize(
    ("told", "change", "notes", "why", "more"),
    [
        (range(8), {}, {}, "all 8 candidates evaluated", "autoprune resume {} --trials 16 evaluates more"),
        (range(4), {}, {}, "stopped after 4 of 8 candidates", "autoprune resume {} goes on"),
        (range(4), {"time": "3s"}, {}, "time limit reached: worked 4s of 3s after 4 of 8 candidates",
         "autoprune resume {} --time +3s goes on"),
        (range(4), {"target": "loss<=0.98"}, {}, "target loss<=0.98 reached by trial 2 after 4 of 8 candidates",
         "autoprune resume {} --target '' (or a harder one) goes on"),
        ("known", {}, {}, "the strategy has nothing new to propose after 1 of 8 candidates",
         "another --strategy or --seed, in a run of another name, proposes others"),
        ("known", {"budget": ["latency<=70%@torch"]}, {},
         "the strategy has nothing new to propose after 1 of 8 candidates",
         "another --strategy or --seed, or --divisor 1, in a run of another name, proposes others"),
        ("known", {"divisor": 1, "budget": ["latency<=70%@torch"]}, {},
         "the strategy has nothing new to propose after 1 of 8 candidates",
         "another --strategy or --seed, in a run of another name, proposes others"),
        ("failed", {"max_failures": 3}, {}, "stopped: the last 3 candidates all failed, trial 3 with: no room",
         "remove the cause, then autoprune resume {} (--max-failures bears more)"),
        (range(8), {}, {"measured.0": {"kind": "gave up"}},
         "all 8 candidates evaluated; no network held the latency budget", "autoprune resume {} measures again"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_delivered", [True, False])
def test_every_end_has_a_reason_and_what_lets_it_go_on(tmp_path, told, change, notes, why, more, is_delivered):
    if told == "known":
        entries = [entry(0, 1.0), *(entry(n, n + 1.0) for n in range(1, 51))]
        known = [replace(e.trial, metrics={"loss": 1.0, "cached": e.trial.number > 0}) for e in entries]
        entries = [replace(e, trial=t) for e, t in zip(entries, known, strict=True)]
    else:
        bad = told == "failed"
        entries = [entry(n, n + 1.0, n, error="no room" * (bad and n > 0)) for n in (range(4) if bad else told)]
    run = run_at(tmp_path, replace(record(*entries), notes=notes), replace(CONFIG, **change))
    if is_delivered:
        run.best.mkdir()
        (run.best / "architecture.json").touch()
    said, over = ending(run, run.record()), ending(run, run.record(), is_over=True)  # as the search itself says it
    assert (over.why, over.more) == (why, more.format(tmp_path))
    if not is_delivered and not why.startswith("stopped") and "measures" not in more:
        why, more = f"{why}, but the winner is not delivered", "autoprune resume {} delivers it"
    assert str(said) == f"{why}; {more.format(tmp_path)}"
    live = ending(run, run.record(), is_live=True)  # nothing has ended, and there is nothing to type
    is_limit = why.startswith(("target", "time", "the strategy"))
    assert (bool(live), live.more, live.label) == (is_limit, "", "no new candidate")
    assert said.label == over.label == "ended"


def test_what_is_not_done_is_not_counted_as_done():
    trials = record(entry(0, 2.0), entry(1, 3.0, error="no"), entry(2)).trials
    assert so_far(trials) == "2 evaluations done, 1 interrupted (evaluated anew)"
    assert so_far(trials, is_live=True) == "2 evaluations done, 1 running"
    assert so_far(trials[:1]) == "1 evaluation done"


def _solid(text):
    """Without the places where a long path is wrapped."""
    return "".join(text.split())
